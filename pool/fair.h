/*
 * fair: waiters of one pool, served by organization in turn.
 *
 * A queue per organization, and a ring of the queues that are not empty.  The
 * next waiter is the oldest of the organization whose turn it is; an
 * organization of weight w is served w times before its turn passes.  So one
 * with a thousand waiters delays one with a single waiter by one service.
 *
 * An organization that has as many servers as it may have is held back: its
 * queue leaves the ring, and the list it is on meanwhile is its budget's.
 *
 * Between workers, each with its own ring, the claims are compared: within one
 * organization who waits longer is first, between two the one that was served
 * longer ago.  So who comes waits for one service of each worker at most.
 *
 * Owner:    the pool that embeds it; lessees are only linked.
 * Cost:     constant, however many organizations exist or wait: a queue lives
 *           only while somebody waits in it, and the table of them grows with
 *           their number and goes with the last of them.
 */
#ifndef POOL_FAIR_H
#define POOL_FAIR_H

#include <stdint.h>

#include "pool/lease.h"

enum { FAIR_BUCKETS = 64 };

struct fair_queue;

struct fair {
	struct fair_queue *few[FAIR_BUCKETS];	/* by tenant */
	struct fair_queue **many;	/* instead, since more waited than that; NULL: not now */
	unsigned	   buckets;	/* of `many`, a power of two */
	unsigned	   queues;
	struct fair_queue *spare;	/* some that were closed, while there are others */
	unsigned	   spares;
	struct fair_queue *turn;	/* whose turn it is, in the ring */
	unsigned	   n;		/* waiters in the ring */
	unsigned	   held;	/* and of those held back */
};

void	       fair_put(struct fair *, struct lessee *);
void	       fair_remove(struct fair *, struct lessee *);
struct lessee *fair_first(const struct fair *);	/* who would be next; NULL: nobody waits */
struct lessee *fair_take(struct fair *);		/* removes and returns it */
struct lessee *fair_serve(struct fair *, uint64_t now_ns);	/* the same, for a server */
/* The lessee's organization is held back, on that list; or is no longer. */
void	       fair_hold(struct fair *, struct lessee *, struct fair_queue **list);
void	       fair_resume(struct fair *, struct fair_queue *);
const struct lessee *fair_head(const struct fair_queue *);	/* its oldest waiter */
/* When the oldest of a list of those held back began to wait. */
uint64_t       fair_held_ns(const struct fair_queue *list);
/* For how many servers, up to `most`, there are waiters that may have one. */
unsigned       fair_wants(const struct fair *, unsigned most);

/* Gives the turn to the one of the next few that was served longest ago: it may
 * have been served on another worker meanwhile.  In nobody's turn only. */
void	       fair_choose(struct fair *);

/* What whose turn it is can say for itself. */
struct fair_claim {
	uint64_t  since_ns;	/* UINT64_MAX: nobody waits */
	uint64_t  served_ns;	/* its organization, or since_ns if that is later */
	uintptr_t who;		/* the same for one organization on all workers */
};
struct fair_claim fair_claim(const struct fair *);
/* The time that stands for a claim when it is weighed against another: the
 * earlier one is first. */
uint64_t	  fair_age(const struct fair_claim *, const struct fair_claim *to);
/* How many of them, up to `most`, began to wait before that. */
unsigned       fair_older(const struct fair *, uint64_t before_ns, unsigned most);
/* When the oldest of all began to wait, UINT64_MAX if nobody does. */
uint64_t       fair_oldest_ns(const struct fair *);

#endif
