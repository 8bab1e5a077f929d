/*
 * cancel: a CancelRequest finds the server that works for its sender.
 *
 * Keys are ours and random; the worker's number is in the key, so a request
 * that arrives anywhere is passed to the worker that gave the key out.  There
 * it is forwarded only while that session holds a server that owes it an
 * answer, and the server is not pooled until the cancel connection has closed:
 * so a cancel never hits the next client.
 *
 * Bounds:   CANCELS_MAX requests under way a worker; more are dropped (a cancel is
 *           best effort by protocol).
 */
#ifndef PROXY_CANCEL_H
#define PROXY_CANCEL_H

#include <stdint.h>

struct session;
struct weir;
struct worker;
struct cancels;

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
/* A request came in on any worker. */
void		  cancel_request(struct worker *, struct cancel_key);

#endif
