/*
 * redis_watch: hears from a Sentinel that there is another master.
 *
 * One connection of each worker for each upstream with Sentinels, to the one
 * that answered last (redis_sentinel.h), subscribed to +switch-master.  What it
 * says is never believed, only a reason to ask it now (targets_follow()); so is
 * that the connection is there, for what was said before.  Without one,
 * everything goes on as if there were none: they are asked for each connection
 * that is made, and as health_check has it.
 *
 * It is dialled behind an answer of a Sentinel, so its address is known; lost,
 * refused or silent, it is again behind a later one, which is asked for then.
 *
 * Owner:    the worker's struct pools, to its end.
 * Bounds:   one an upstream's name; STREAM_IN_MAX bytes of a message; no more
 *           often than REDIS_WATCH_FIRST_NS, doubling up to REDIS_WATCH_MOST_NS.
 */
#ifndef POOL_REDIS_WATCH_H
#define POOL_REDIS_WATCH_H

#include "pool/pool.h"
#include "pool/redis_sentinel.h"

#define REDIS_WATCH_FIRST_NS (500ull * 1000000)
#define REDIS_WATCH_MOST_NS  (30000ull * 1000000)
#define REDIS_WATCH_OPEN_NS  (5000ull * 1000000)	/* to be subscribed */
#define REDIS_WATCH_PING_NS  (10000ull * 1000000)	/* silent so long, it is asked */

/* This one has answered. */
void redis_watch_at(struct pools *, const struct redis_sentinel *);
void redis_watch_stop(struct pools *);	/* all of them, for good */
void redis_watch_fini(struct pools *);

#endif
