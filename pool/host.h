/*
 * host: one host of an upstream, as all workers and all its pools see it: is
 * it well, when may it be tried again, is it primary or standby.
 *
 * A host that failed rests; each failure makes the rest longer.  Attempts that
 * began before a failure was known say nothing new when they fail too.  A
 * server remembers the epoch it was opened in: when the role changes, servers
 * of older epochs are not what was asked for.
 *
 * Owner:    the struct hosts of the process.  Who finds or keeps one leaves it; one
 *           that has been nobody's for HOST_KEPT_NS goes when a new one comes.
 * Threads:  all calls from any worker.
 * Bounds:   HOSTS_MAX of them.
 */
#ifndef POOL_HOST_H
#define POOL_HOST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf/conf.h"

enum { HOSTS_MAX = 20000, HOST_ERROR_MAX = 128 };

#define HOST_KEPT_NS (3600ull * 1000000000)

struct host {
	char		  *key;
	char		  *name;	/* as configured: what a certificate must carry */
	unsigned	   port;
	struct host	  *next;
	unsigned	   users;	/* under the lock, and this: */
	uint64_t	   left_ns;	/* when the last one did */
	_Atomic unsigned   failures;	/* attempts that failed in a row */
	_Atomic uint64_t   failed_ns;	/* when the last did */
	_Atomic uint64_t   retry_ns;	/* rests until then */
	_Atomic unsigned   role;	/* enum conf_role, as last seen; ROLE_ANY: not known */
	_Atomic bool	   doubted;	/* the role may have changed since */
	_Atomic unsigned   epoch;	/* changes of role seen */
	char		   error[HOST_ERROR_MAX];	/* of the last failure; under the lock */
};

struct hosts {
	pthread_mutex_t lock;
	struct host    *first;
	unsigned	n;
};

int  hosts_init(struct hosts *) __attribute__((warn_unused_result));
void hosts_fini(struct hosts *);
/* That of the upstream's name, made if need be; NULL: too many. */
struct host *host_find(struct hosts *, const char *upstream, const char *name, unsigned port,
    uint64_t now_ns);
struct host *host_keep(struct hosts *, struct host *);	/* one more user of it */
void host_leave(struct hosts *, struct host **, uint64_t now_ns);	/* nulls the pointer, which may be NULL */

/*
 * An attempt that began at began_ns failed: the host rests for first_ns,
 * doubling up to most_ns.  True: it was well before.
 */
bool host_failed(struct hosts *, struct host *, uint64_t began_ns, uint64_t now_ns,
    uint64_t first_ns, uint64_t most_ns, const char *text);
/* It answered; true: after failures. */
bool host_works(struct host *);
/* What it is; true: it was known to be something else. */
bool host_saw_role(struct host *, enum conf_role);
/* A server of it was told to end, or it did not answer: its role may be
 * another when it is back. */
void host_doubt(struct host *);
/* How well it fits: 0 it does, 1 nobody knows, 2 it does not. */
unsigned host_fit(const struct host *, enum conf_role want);
bool host_rests(const struct host *, uint64_t now_ns);
/* We try it all the same: nobody else need, until then. */
void host_claim(struct host *, uint64_t until_ns);
/* Is its rest over, and are we the one to try it?  Nobody else for rest_ns then. */
bool host_may_try(struct host *, uint64_t now_ns, uint64_t rest_ns);
/* Appends "name:port: error" to out, of n bytes. */
void host_tell(struct hosts *, const struct host *, char *out, size_t n);

#endif
