/*
 * fair: waiters of one pool, served by organization in turn.
 *
 * A queue per organization, and a ring of the queues that are not empty.  The
 * next waiter is the oldest of the organization whose turn it is; an
 * organization of weight w is served w times before its turn passes.  So one
 * with a thousand waiters delays one with a single waiter by one service.
 *
 * Owner:    the pool that embeds it; lessees are only linked.
 * Cost:     constant, however many organizations exist: a queue lives only
 *           while somebody waits in it.
 */
#ifndef POOL_FAIR_H
#define POOL_FAIR_H

#include <stdint.h>

#include "pool/lease.h"

enum { FAIR_BUCKETS = 64 };

struct fair_queue;

struct fair {
	struct fair_queue *bucket[FAIR_BUCKETS];	/* by tenant */
	struct fair_queue *turn;	/* whose turn it is, in the ring */
	unsigned	   n;		/* waiters in all */
};

void	       fair_put(struct fair *, struct lessee *);
void	       fair_remove(struct fair *, struct lessee *);
struct lessee *fair_first(const struct fair *);	/* who would be next; NULL: nobody waits */
struct lessee *fair_take(struct fair *);		/* removes and returns it */
/* How many of them, up to `most`, began to wait before that. */
unsigned       fair_older(const struct fair *, uint64_t before_ns, unsigned most);
/* When the oldest of all began to wait, UINT64_MAX if nobody does. */
uint64_t       fair_oldest_ns(const struct fair *);

#endif
