/*
 * lease: the one question the upper half asks the lower half.
 *
 * A lessee (a client session, or an open batch) wants a server and is granted
 * one at once (pool_want() says so) or hears later, exactly once per want:
 * granted() or lost().  While it holds the lease it hears what its server has
 * for it.  pool/ knows nothing else about who borrows.
 *
 * Owner:    the lessee is embedded in a session or a batch, never allocated.
 * Safety:   a granted server is stamped with the lessee's tenant; both ends
 *           assert it, at the grant and where bytes are forwarded.
 */
#ifndef POOL_LEASE_H
#define POOL_LEASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/why.h"

struct budget;
struct label;
struct lessee;
struct pool;
struct server;
struct tenant;

enum lease {
	LEASE_EXCLUSIVE,	/* Postgres transaction; Redis MULTI, SUBSCRIBE, BLPOP */
	LEASE_SHARED		/* Redis one-shot commands, pipelined with others */
};

/* Of the shared connections of a pool, which? */
enum lease_lane {
	LANE_QUICK,
	LANE_HEAVY,		/* one apart from the quick, if there can be one */
	LANE_HEAVY_NOW		/* the same, if there is one already */
};

struct lessee_ops {
	void (*granted)(struct lessee *, struct server *);
	/* Bytes for the lessee, whole answers or parts of them. */
	void (*reply)(struct lessee *, const uint8_t *, size_t);
	/* A request is answered for good: its kind, its arg, and whether it
	 * was carried out (0: the server refused or skipped it). */
	void (*settled)(struct lessee *, unsigned kind, uint32_t arg, bool done);
	/* Exclusive: the server owes nothing and waits for the lessee. */
	void (*rest)(struct lessee *);
	/* The server, or the hope for one, is gone.  `sqlstate` and `text` say
	 * why if the upstream said so, else they are NULL. */
	void (*lost)(struct lessee *, enum why, const char *sqlstate, const char *text);
	/* The server's `out` has room again (it was above STREAM_OUT_HIGH). */
	void (*room)(struct lessee *);
};

struct lessee {
	const struct lessee_ops *ops;
	const struct tenant	*tenant;	/* NULL: no organization */
	struct budget		*share;		/* its organization's servers; counted, NULL: no organization */
	struct label		*label;		/* settings wanted on the server; counted */
	enum lease		 mode;
	uint8_t			 lane;		/* enum lease_lane; of LEASE_SHARED */
	bool			 keeps;		/* its server is its own until it leaves: session pooling */
	struct server		*server;	/* NULL unless granted */
	struct pool		*waiting;	/* NULL unless queued there */
	struct lessee		*next, **prev;	/* in a queue of waiters */
	uint64_t		 since_ns;	/* when it began to wait */
	bool			 midway;	/* was given a part of a message, or what it has not asked for: no word of ours may follow */
	bool			 has_share;	/* its server is counted there */
	bool			 excess;	/* queued only to be told that it cannot */
};

#endif
