/*
 * rate: how much an organization may ask for in a time, exact for the whole
 * process.
 *
 * `N/period` is a bucket of N tokens that fills up again at N per period: N at
 * once, and in any stretch of time never more than N and what flowed in
 * meanwhile.  It is kept as one number, the time at which the bucket would be
 * full again, moved by one compare-and-swap for each token: the virtual
 * scheduling form of GCRA (ITU-T I.371, annex A; ATM Forum TM 4.1, 4.4.2).
 *
 * The registry has the buckets of an organization under its slug.  They outlast
 * sessions and reloads: one goes when nobody holds it and it is full, because
 * a new one would be the same.
 *
 * Units:    nanoseconds of the monotonic clock.  A token's share of the period
 *           is rounded down to a whole one.
 * Threads:  all calls from any.
 * Bounds:   one for each organization that has sessions or a bucket not full.
 */
#ifndef POOL_RATE_H
#define POOL_RATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf/tenant.h"

enum rate_kind { RATE_CONNECTIONS, RATE_QUERIES, RATE_OPERATIONS, RATE_KINDS };

struct rate {
	_Atomic uint64_t full_ns;	/* when it is full, if nobody takes more */
	_Atomic uint64_t token_ns;	/* in which one token flows in; 0: no limit */
	_Atomic uint64_t size_ns;	/* in which an empty one fills up */
};

/* Changes the rate; what was missing from the bucket still is, up to all of it. */
void rate_set(struct rate *, const struct tenant_rate *, uint64_t now_ns);
#define RATE_NEVER UINT64_MAX
/* So many tokens; or none, and in *wait_ns there may be as many again: RATE_NEVER
 * where the bucket is too small for them. */
bool rate_take(struct rate *, unsigned n, uint64_t now_ns, uint64_t *wait_ns)
    __attribute__((warn_unused_result));
/* They were not needed after all. */
void rate_give(struct rate *, unsigned n);
bool rate_is_full(struct rate *, uint64_t now_ns);

/* Of one organization. */
struct rates_entry {
	struct rates_entry *next;	/* in its bucket of the registry */
	unsigned	    refs;	/* under its lock */
	struct rate	    rate[RATE_KINDS];
	char		    slug[];
};

enum { RATES_BUCKETS = 4096 };

struct rates {
	pthread_mutex_t	    lock;
	unsigned	    n;
	struct rates_entry *bucket[RATES_BUCKETS];
};

void rates_init(struct rates *);
void rates_fini(struct rates *);
/* An organization's, with its rates as they are now, and one reference more. */
struct rates_entry *rates_find(struct rates *, const struct tenant *, uint64_t now_ns);
void rates_unref(struct rates *, struct rates_entry **);	/* nulls the pointer, which may be NULL */
/* The rates of an organization have changed: for those who hold it. */
void rates_change(struct rates *, const struct tenant *, uint64_t now_ns);

#endif
