/*
 * server: one upstream connection, from dial to reap, in either protocol.
 *
 * server_enter() is the only code that assigns `state`, server_close() the
 * only way out, server_reap() -- at the end of the turn -- the only code that
 * frees.  What the two protocols do differently stands in struct server_ops.
 *
 * Owner:    its worker's struct pools; a move to another worker carries it in
 *           a message, idle, owing nothing, in no list.
 * Safety:   only a server that owes nothing (empty ledger, nothing half sent
 *           or half read, no transaction) is IDLE; on any doubt it is closed.
 */
#ifndef POOL_SERVER_H
#define POOL_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "pool/label.h"
#include "pool/lease.h"
#include "pool/ledger.h"
#include "tls/mailbox.h"
#include "tls/stream.h"

/*  state   may go to */
#define SERVER_STATES(X)                                                      \
	X(DIAL,   TO(LOGIN))		/* connect()                    */    \
	X(LOGIN,  TO(IDLE) | TO(SHARED))	/* TLS, then our own log-in     */    \
	X(IDLE,   TO(LEASED) | TO(MOVING))	/* in the pool, owes nothing    */    \
	X(MOVING, TO(IDLE))		/* in a message between workers */    \
	X(LEASED, TO(IDLE) | TO(RESET))	/* one lessee's                 */    \
	X(SHARED, 0)			/* many lessees', pipelined     */    \
	X(RESET,  TO(IDLE))		/* being cleaned                */    \
	X(DEAD,   0)

enum server_state {
#define X(name, to) SERVER_##name,
	SERVER_STATES(X)
#undef X
	SERVER_MAX
};

struct host;
struct target;

struct server_ops {
	const char *proto;
	size_t	    size;		/* of the protocol's own struct */
	enum stat_id   stat_in, stat_out, stat_open;
	void	  (*init)(struct server *);
	void	  (*opened)(struct server *);	/* connected, or TLS is up */
	void	  (*input)(struct server *);	/* bytes to look at */
	void	  (*bind)(struct server *, struct lessee *);	/* just granted */
	bool	  (*dirty)(const struct server *);	/* must be cleaned before it is pooled */
	void	  (*clean)(struct server *);	/* do so; then server_rest() or server_close() */
	void	  (*goodbye)(struct server *);	/* a polite last message, if there is one */
	/* Entries of a ledger it shares hear of its end; NULL: it has none. */
	void	  (*lost)(struct server *, enum why, const char *sqlstate, const char *text);
	void	  (*fini)(struct server *);
};

struct server {
	unsigned		 magic;
#define SERVER_MAGIC		 0x5e17e401u
	enum server_state	 state;
	uint64_t		 id;		/* in every log line; never reused */
	unsigned		 worker;	/* that opened it: part of the id */
	struct pool		*pool;
	const struct server_ops	*ops;
	struct stream		 stream;
	struct ledger		 ledger;
	struct lessee		*lessee;	/* LEASED: whose */
	const struct tenant	*tenant;	/* the stamp, kept alive by the lessee; written by bind, once confirmed; NULL at rest */
	struct label		*label;		/* settings at the pipeline's tail; counted */
	struct server		*next, **prev;	/* in the pool's list for its state */
	struct message		 move;		/* MOVING: it travels in this */
	unsigned		 destination;	/* MOVING: to this worker */
	uint64_t		 opened_ns;	/* monotonic; when it became usable */
	uint64_t		 idle_ns;
	bool			 ready;		/* counted in its budget as logged in */
	bool			 proven;	/* it has answered something since */
	bool			 lent;		/* granted, once or more */
	struct host		*host;		/* whose connection it is */
	struct target		*target;	/* DIAL: where its addresses are */
	unsigned		 first, tried;	/* DIAL: with which it began, how many were tried */
	uint64_t		 origin;	/* the pool's when it was opened */
	uint64_t		 began_ns;	/* when it was dialled */
	unsigned		 epoch;		/* of its host, when it became usable */
	bool			 probe;		/* to a host that failed: nobody waits for it */
	bool			 answered;	/* LOGIN: it spoke; what it refuses is not its host's fault */
	bool			 leaving;	/* takes no more, and closes when it owes nothing */
	bool			 hung;	/* it kept somebody waiting for too long, and has said nothing since */
	unsigned		 cancels;	/* cancel requests under way: not to be pooled */
};

struct server *server_open(struct pool *, struct target *);	/* a budget place must be taken */
/* Opened with what is no longer configured, or its host's role has changed. */
bool	       server_is_unwanted(const struct server *);
void	       server_dismiss(struct server *);		/* closes it for that */
void	       server_enter(struct server *, enum server_state);
/* `sqlstate` and `text` are what the upstream said, or NULL. */
void	       server_close(struct server *, enum why, const char *sqlstate, const char *text);
void	       server_grant(struct server *, struct lessee *);
/* The lease ends; the server is cleaned if it must be, and pooled. */
void	       server_release(struct server *);
/* Our end of a handshake with that host, a session resumed if there is one. */
int  server_start_tls(struct server *, SSL_CTX *, const char *host, bool verify_name)
    __attribute__((warn_unused_result));
void	       server_ready(struct server *);	/* logged in */
void	       server_rest(struct server *);	/* cleaned */
void	       server_proves(struct server *);	/* it answered what it was asked behind its log-in */
const char    *server_state_name(enum server_state);
bool	       server_may_go(enum server_state from, enum server_state to);

extern const struct server_ops pg_server_ops, redis_server_ops, redis_sub_ops;

#endif
