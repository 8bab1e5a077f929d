/*
 * lookup_cache: what was looked up by name elsewhere, for a while, and who
 * waits for what is being looked up.
 *
 * A value is good until its time is over.  Where its kind allows it, it may
 * stand in for longer when no new one can be had, and never once somebody has
 * said that it changed.
 *
 * Owner:    the control thread.  Values are immutable and counted; who got one
 *           may keep it.
 * Bounds:   `known` names that are somebody's and `unknown` that are nobody's,
 *           each with its own limit, so that inventing names drives nobody
 *           out; the one used longest ago goes.  LOOKUPS_WAITING wait.
 * Cost:     constant, but for lookup_cache_doubt_all() and _forget().
 */
#ifndef PROXY_LOOKUP_CACHE_H
#define PROXY_LOOKUP_CACHE_H

#include <stdbool.h>
#include <stdint.h>

enum { LOOKUPS_WAITING = 20000 };

#define LOOKUPS_RETRY_NS 1000000000ull	/* an old value stands in so long before it is asked for again */

/* What there is to know of the values. */
struct lookup_ops {
	unsigned known, unknown;	/* how many are kept */
	void	*(*ref)(void *);
	void	 (*unref)(void *);	/* and wipes what is secret */
	bool	 (*is_nobody)(const void *);	/* it says that there is no such name */
	bool	 (*is_held)(const void *);	/* by another than the cache; NULL: never asked */
	/* A newer answer has come; NULL: nobody needs to know. */
	void	 (*replaced)(void *before, void *now);
};

struct lookup_waiter {		/* embedded in what waits */
	struct lookup_waiter *next;
};

struct lookup_cache;

struct lookup_cache *lookup_cache_open(const struct lookup_ops *);
void		     lookup_cache_close(struct lookup_cache **);	/* nobody may wait */
/* Not counted, good until the next call; NULL: has to be asked for. */
void *lookup_cache_find(struct lookup_cache *, const char *name, uint64_t now_ns);
/*
 * Waits for it.  1: as the first, who asks; 0: after others; -1: too many wait.
 * Without a waiter it is asked for in advance.
 */
int  lookup_cache_wait(struct lookup_cache *, const char *name, struct lookup_waiter *)
    __attribute__((warn_unused_result));
/*
 * The answer has come: all who waited, in their order.  It is good until
 * `until_ns`, and may stand in until `stale_ns`.  `*value` NULL: there is no
 * answer, and an old one that stands in is put there; still NULL: nothing is
 * known of the name.  It is the caller's to let go of in either case.
 */
struct lookup_waiter *lookup_cache_put(struct lookup_cache *, const char *name, void **value,
    uint64_t now_ns, uint64_t until_ns, uint64_t stale_ns);
/*
 * It has changed: what is known of it is used no more.  True: it is to be
 * asked for in advance, because somebody holds what is now in doubt.
 */
bool lookup_cache_doubt(struct lookup_cache *, const char *name) __attribute__((warn_unused_result));
/* All of it may have changed unnoticed; it may stand in, if need be. */
void lookup_cache_doubt_all(struct lookup_cache *);
/* Whether it came into doubt while it was asked for: ask again. */
bool lookup_cache_again(struct lookup_cache *, const char *name);
/* Forgets all but who waits. */
void lookup_cache_forget(struct lookup_cache *);
/* The names being asked for, each once; NULL after the last.  Begins at NULL. */
const char *lookup_cache_next(struct lookup_cache *, const char *name);

#endif
