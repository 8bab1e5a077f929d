/*
 * cancel: a CancelRequest finds the server that works for its sender.
 *
 * Keys are ours and random; the worker's number is in the key, so a request
 * that arrives anywhere is passed to the worker that gave the key out.  There
 * it is forwarded only while that session holds a server that owes it an
 * answer, and the server is not pooled until the cancel connection has closed:
 * so a cancel never hits the next client.  Nor its sender's next statement, if
 * he waits for his cancel connection to be closed, as libpq does: that is when
 * the server has closed the one that carried it on, or nothing came of it.
 *
 * Bounds:   CANCELS_MAX requests under way a worker; more are dropped (a cancel is
 *           best effort by protocol).
 */
#ifndef PROXY_CANCEL_H
#define PROXY_CANCEL_H

#include <stdint.h>

struct server;
struct session;
struct worker;
struct cancels;
struct cancel_request;

enum { CANCELS_MAX = 64 };

struct cancel_key {
	uint32_t pid;		/* the worker in the top 7 bits, below the sign */
	uint32_t secret;
};

struct cancels *cancels_open(void);
void		cancels_close(struct cancels **);	/* none may be under way */
void		cancels_abort(struct worker *);	/* end those under way */
void		cancels_reap(struct worker *);	/* end of the turn: the only frees */

/* A fresh key for the session, and its end. */
struct cancel_key cancel_give_key(struct worker *, struct session *);
void		  cancel_drop_key(struct worker *, struct cancel_key);
/* The session is one that came to cancel: it is closed when that is done.  The
 * result is to be forgotten if it ends before, on its own worker. */
struct cancel_request *cancel_ask(struct session *, struct cancel_key);
void		  cancel_forget(struct cancel_request *);

/* The server is about to be closed, because what it was asked took too long: its
 * backend, which would go on, is told to stop.  Best effort. */
void cancel_stop(struct worker *, struct server *);

#endif
