/*
 * target: where a pool may dial: the hosts of its upstream, the addresses of
 * each, and which one is next.
 *
 * In short: hosts that are well, of those the ones known to fit before the
 * ones unknown, of those the first (or, with load_balance_hosts = round-robin,
 * each in turn).  A host that failed is tried again beside one that is well,
 * by a probe that no client waits for; when none is well, by whoever waits,
 * first the host whose rest ends first.  Names are looked up on other threads.
 *
 * The one host of a Redis upstream with Sentinels is the master they name when
 * it is dialled, and another from then on if they name another.
 *
 * Owner:    its pool; one worker's.  What all workers know of a host is in
 *           pool/host.h.
 * Bounds:   CONF_HOSTS_MAX hosts, TARGET_ADDRESSES addresses each.
 */
#ifndef POOL_TARGET_H
#define POOL_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "pool/host.h"

enum { TARGET_ADDRESSES = 16 };

#define TARGET_DNS_TTL_NS  (15ull * 1000000000)	/* PgBouncer's dns_max_ttl */
#define TARGET_MASTER_TTL_NS (100ull * 1000000)	/* but what Sentinels said: for who dials now */
#define TARGET_OVERDUE_NS (500ull * 1000000)	/* the same, for who waits in vain */
#define TARGET_PATIENCE_NS (1000ull * 1000000)	/* a look-up holds up the next host so long */
#define TARGET_PROBE_NS	   (1000ull * 1000000)	/* a probe may take so long */

struct address {
	struct sockaddr_storage addr;
	socklen_t		len;
};

struct pool;
struct resolve;

struct target {
	struct pool    *pool;
	struct host    *host;
	struct address *address;
	unsigned	address_n;
	unsigned	first;		/* the address that worked last */
	uint64_t	looked_ns;	/* when looked up; 0: never */
	uint64_t	asked_ns;	/* when the look-up under way began */
	struct resolve *resolve;	/* under way */
	unsigned	sentinel;	/* which one answered last */
	bool		watches;	/* nobody waits for the look-up under way */
	bool		overdue;	/* it does not answer: ask soon whether there is another */
};

struct targets {
	struct target *at;
	unsigned       n;
	unsigned       turn;		/* round robin: dials so far */
};

/* From the pool's configuration; -1: too many hosts in the process. */
int	       targets_init(struct pool *) __attribute__((warn_unused_result));
void	       targets_fini(struct pool *);	/* look-ups under way end by themselves */
/* What to dial for a client that waits; NULL: names are being looked up. */
struct target *targets_next(struct pool *);
/* A host to be tried beside that, or NULL; it is ours to try once. */
struct target *targets_probe(struct pool *);
bool	       targets_resolving(const struct pool *);
/* A connection is lost: Sentinels are to be asked before the next is made. */
void	       targets_doubt(struct pool *);
/* A server of it keeps somebody waiting: they are asked soon, whatever health_check. */
void	       targets_overdue(struct pool *);
/* This one of them says that there is another master: it is asked before the others, and
 * now, or so soon after the last time as who waits in vain may ask. */
void	       targets_follow(struct pool *, unsigned sentinel);
/* Asks Sentinels now and then whether it is still the master; when next. */
uint64_t       targets_watch(struct pool *);
bool	       target_is_well(const struct target *);
void	       target_claim(struct target *);	/* we try it: nobody else need */
/* Is there a host to dial without waiting for a rest to end?  One that is well? */
bool	       targets_have_other(const struct pool *);
bool	       targets_are_well(const struct pool *);
bool	       targets_misfit(const struct pool *);	/* is one of the wrong role? */
unsigned       targets_epochs(const struct pool *);	/* changes when a host's role does */
/* Why each host failed, when there are several. */
void	       targets_tell(const struct pool *, char *out, size_t n);

#endif
