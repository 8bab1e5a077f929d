/*
 * session: one client connection, from accept to reap, in either protocol.
 *
 * Both protocols walk the same states; only the steps differ (pg_session.c,
 * redis_session.c).  session_enter() is the only code that assigns `state`,
 * session_run() the only code that calls a step, session_close() the only way
 * out, and session_reap() -- at the end of the turn -- the only code that
 * frees.  So a step may close its own session and still return safely.
 *
 * Owner:    its worker's list of sessions.
 * Holds:    at most one exclusive lease; of a shared server only entries in
 *           its ledger.
 */
#ifndef PROXY_SESSION_H
#define PROXY_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/conf.h"
#include "pool/lease.h"
#include "pool/pool.h"
#include "pool/rate.h"
#include "protocol/why.h"
#include "proxy/directory.h"
#include "tls/snapshot.h"
#include "tls/stream.h"

/*  state   deadline   may go to */
#define SESSION_STATES(X)                                                           \
	X(TLS,    login,     TO(HELLO))			/* handshake            */     \
	X(HELLO,  login,     TO(TLS) | TO(AUTH) | TO(IDLE) | TO(WAIT) | TO(LEASED)) /* who are you? */ \
	X(AUTH,   login,     TO(IDLE) | TO(WAIT) | TO(LEASED) | TO(REFUSED))	/* prove it             */     \
	X(REFUSED, refuse,   0)				/* it was wrong; to be told later */ \
	X(IDLE,   idle,      TO(WAIT) | TO(LEASED) | TO(BATCH))	/* holds nothing */     \
	X(BATCH,  query,     TO(IDLE))			/* its operation shares a commit */ \
	X(WAIT,   queue,     TO(LEASED) | TO(IDLE))	/* for a server         */     \
	X(LEASED, query,     TO(IDLE))			/* has one of its own   */     \
	X(DRAIN,  linger,    0)				/* last bytes go out    */     \
	X(DEAD,   none,      0)

enum session_state {
#define X(name, deadline, to) SESSION_##name,
	SESSION_STATES(X)
#undef X
	SESSION_MAX
};

enum step {
	STEP_AGAIN,		/* progress was made: run the new state now */
	STEP_WAIT		/* nothing to do until bytes, a grant or a timer */
};

struct session;
struct worker;

/* What Postgres and Redis do differently.  Two instances, ever. */
struct proto {
	const char *name;
	size_t	    size;		/* of the protocol's own struct */
	size_t	    out_max;		/* bytes a client may leave unread */
	enum stat_id   stat_open, stat_accepted, stat_logins, stat_refused;
	void	  (*init)(struct session *);
	enum step (*step[SESSION_MAX])(struct session *);
	/* The last words to the client; `text` instead of the why's own if not NULL. */
	void	  (*refuse)(struct session *, enum why, const char *sqlstate, const char *text);
	/* IDLE and LEASED: which why a passed deadline means; NULL where only
	 * client_idle_timeout is asked for. */
	enum why  (*overdue)(struct session *);
	uint64_t  (*deadline)(struct session *);	/* when, 0: never; NULL likewise */
	bool	  (*quiet)(const struct session *);	/* may a drain end it now? */
	/* WAIT: it has waited for query_wait_notify.  May be NULL. */
	void	  (*queued)(struct session *);
	/* The client has closed its side.  True: what it asked for before is
	 * still to be done and answered; the session ends itself after.  May
	 * be NULL. */
	bool	  (*leave)(struct session *);
	void	  (*part)(struct session *);	/* lets go of servers; before DRAIN and DEAD */
	void	  (*fini)(struct session *);
};

extern const struct proto pg_proto, redis_proto;

#define SESSION_NEVER UINT64_MAX	/* of retry_ms */

struct session {
	unsigned		magic;
#define SESSION_MAGIC		0x5e551040u
	enum session_state	state;
	uint64_t		id;		/* in every log line; never reused */
	const struct proto     *proto;
	struct worker	       *worker;
	struct stream		stream;
	struct lessee		lessee;		/* our claim on a server */
	struct pool	       *pool;		/* where we borrow; NULL before log-in */
	struct snapshot	       *snapshot;	/* counted: what we logged in under */
	const struct conf_user *user;		/* NULL before log-in */
	const struct tenant    *tenant;		/* of its log-in; counted.  lessee.tenant is a view of it, or in the snapshot */
	struct directory_wait	directory;	/* its organization is being looked up */
	struct budget	       *seat_user, *seat_tenant;	/* where it is counted (seat.h) */
	struct rates_entry     *rates;		/* of its organization; counted, NULL: none */
	uint64_t		retry_ms;	/* refused by a rate: when to try again, or NEVER */
	unsigned		paid;		/* tokens of rate_queries taken ahead */
	struct session	       *next, **prev;	/* of its worker */
	struct session	       *wake_next;	/* on the worker's list of runnable ones */
	uint64_t		opened_ns;
	uint64_t		refuse_ns;	/* REFUSED: when it hears of it */
	bool			awake;		/* on that list */
	bool			logged_in;	/* counted as such; survives states */
	bool			told;		/* WAIT: that it waits */
	bool			is_unix;	/* came over a unix socket */
};

struct session *session_open(struct worker *, int fd, const struct proto *, SSL_CTX *tls, bool is_unix);
void	    session_enter(struct session *, enum session_state);
void	    session_run(struct session *);
/* Run it later this turn: for callbacks that must not run it themselves. */
void	    session_wake(struct session *);
void	    session_rearm(struct session *);	/* IDLE, BATCH, LEASED: ask proto->deadline() again */
/* `sqlstate` and `text` override the why's own, if not NULL. */
void	    session_close(struct session *, enum why, const char *sqlstate, const char *text);
void	    session_logged_in(struct session *);
const char *session_state_name(enum session_state);
bool	    session_may_go(enum session_state from, enum session_state to);

static inline bool
session_is_over(const struct session *s)
{
	return s->state == SESSION_DRAIN || s->state == SESSION_DEAD;
}

static inline struct session *
session_of_lessee(struct lessee *l)
{
	return (struct session *)(void *)((char *)l - offsetof(struct session, lessee));
}

/* The worker's part: a turn's wake-ups, and the only frees. */
void	    sessions_run_awake(struct worker *);
void	    sessions_reap(struct worker *);
void	    sessions_drain(struct worker *);	/* closes those that are quiet */

/*
 * A walk over a worker's sessions that takes several turns: from the latest to
 * the oldest of those that were there when it began and are not closed since.
 */
struct session_cursor {
	struct worker	      *worker;	/* NULL: it is nowhere */
	struct session	      *at;
	struct session_cursor *next, **prev;
};
void		session_cursor_open(struct session_cursor *, struct worker *);
struct session *session_cursor_next(struct session_cursor *);	/* NULL: that was all */
void		session_cursor_close(struct session_cursor *);	/* idempotent */

#endif
