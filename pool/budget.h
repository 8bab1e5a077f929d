/*
 * budget: an exact count for the whole process, and who waits for its room.
 *
 * Every worker has its own half of a pool (pool.h); the budget is what the
 * halves share.  Above the budgets of an upstream's pools stands that of the
 * upstream, its cap.  A cap is taken first and given back last, so that who
 * is refused has taken nothing that another could have used.  A worker takes before it dials and gives back after it
 * closed, so the limit holds however many workers there are.  A worker that
 * waits in vain raises its bit and nudges those who may have an idle server;
 * one that has a server to spare sees the bit.  Bit first, look second, on
 * both sides, so that no pair of them can miss each other.
 *
 * Owner:    whoever holds a reference; a nudge on its way holds one too.
 * Threads:  all calls from any worker.
 * Bounds:   BUDGETS_MAX of them.
 */
#ifndef POOL_BUDGET_H
#define POOL_BUDGET_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "pool/host.h"
#include "protocol/buf.h"
#include "tls/mailbox.h"

enum { BUDGETS_MAX = 65536, BUDGET_ERROR_MAX = 448, BUDGET_WELCOME_MAX = 1 << 20 };

struct budget;
struct fair_claim;
struct fair_queue;
struct pool;

/* What one worker shows the others; `pools` is its own affair. */
struct budget_side {
	struct message	 nudge;		/* "look at this budget again" */
	_Atomic bool	 nudged;	/* it is on its way */
	_Atomic uint64_t oldest_ns;	/* since when its first waiter waits */
	struct budget	*budget;
	struct pool	*pool;		/* this worker's half, NULL: none */
	struct fair_queue *held;	/* of an organization: its queues here that wait for room */
	_Atomic uint64_t served_ns;	/* of a pool: its claim (fair.h) beside oldest_ns */
	_Atomic uintptr_t who;
	struct pool	*pools;		/* of a cap: its pools here that have servers or wait */
};

struct budget {
	char		  *key;
	struct budgets	  *all;		/* the registry it is in */
	struct budget	  *next;	/* in the registry */
	_Atomic unsigned   refs;
	_Atomic int	   count;	/* connections open or being opened */
	_Atomic int	   limit;
	_Atomic int	   ready;	/* of `count`, those that are logged in */
	_Atomic uint64_t   served_ns;	/* of an organization: when its turn last passed, anywhere */
	_Atomic int	   waiters;	/* lessees that wait, on all workers */
	_Atomic int	   users;	/* sessions that would borrow here */
	_Atomic uint64_t   waiting;	/* a bit a worker: has waiters it cannot serve */
	_Atomic uint64_t   idle;	/* a bit a worker: may have idle servers */
	_Atomic unsigned   failures;	/* attempts to open a server, failed in a row */
	_Atomic uint64_t   retry_ns;	/* no new attempt before this */
	_Atomic bool	   doubted;	/* a server was no good behind its log-in: that alone proves nothing */
	char		   error[BUDGET_ERROR_MAX];	/* of the last; under the registry's lock */
	char		   sqlstate[6];
	struct buf	   welcome;	/* what a server said at its log-in; under the lock */
	struct budget_side side[];	/* one a worker */
};

/* Statements of which the process remembers that a pool has parsed them. */
enum { BUDGET_PARSED = 4096 };

struct budgets {
	pthread_mutex_t	  lock;
	struct budget	**bucket;
	_Atomic unsigned  n;
	unsigned	  workers;
	struct mailbox	**mailbox;	/* of each worker */
	void		(*nudge)(struct message *, void *owner);
	_Atomic uint64_t *parsed;	/* BUDGET_PARSED statements; a newer one overwrites */
	struct hosts	  hosts;	/* of all upstreams, likewise one for the process */
};

int  budgets_init(struct budgets *, unsigned workers, struct mailbox **,
    void (*nudge)(struct message *, void *owner)) __attribute__((warn_unused_result));
void budgets_fini(struct budgets *);

/* The budget of that name with one reference more, made with the limit if need
 * be; NULL: too many. */
struct budget *budget_find(struct budgets *, const char *key, int limit);
struct budget *budget_ref(struct budget *);	/* one more; it has some */
void	       budget_unref(struct budgets *, struct budget **);	/* nulls the pointer */
void	       budget_limit(struct budget *, int limit);	/* nudges who waits if it is more */
void	       budgets_limit(struct budgets *, const char *key, int limit);	/* if there is one */
bool	       budget_take(struct budget *);
bool	       budget_take_to(struct budget *, int most);	/* below `most`, whatever the limit */
int	       budget_room(struct budget *);	/* places left, at this moment */
bool	       budget_is_over(struct budget *, int extra);	/* above the limit and `extra` */
void	       budget_give(struct budgets *, struct budget *);	/* and nudges who waits */

/* What servers of this pool tell at their log-in, for workers that have had none. */
void budget_set_welcome(struct budgets *, struct budget *, const uint8_t *, size_t);
void budget_get_welcome(struct budgets *, struct budget *, struct buf *);	/* replaces its content */

void budget_wait(struct budgets *, struct budget *, unsigned me, uint64_t oldest_ns);
/* The same with what it claims; and the worker, other than me, whose claim is
 * older than mine by `slack_ns` at least, or -1. */
void budget_claims(struct budgets *, struct budget *, unsigned me, const struct fair_claim *);
int  budget_deserving(struct budget *, unsigned me, const struct fair_claim *, uint64_t slack_ns);
/* No more waiters here; if there is room, others may have it. */
void budget_pass_on(struct budgets *, struct budget *, unsigned me);
void budget_wait_over(struct budget *, unsigned me);
void budget_idle(struct budget *, unsigned me);		/* "I have one to spare, maybe" */
void budget_idle_over(struct budget *, unsigned me);
/*
 * An attempt to open a server failed: when the next may be made, and how many
 * have failed before it.  The wait doubles from first_ns to most_ns.
 */
unsigned budget_failed(struct budgets *, struct budget *, uint64_t now_ns, uint64_t first_ns,
    uint64_t most_ns, const char *sqlstate, const char *text);
/* One succeeded; true: after failures. */
bool budget_recovered(struct budget *);
/* May one be made now?  While attempts fail, one worker at a time may try. */
bool budget_may_try(struct budget *, uint64_t now_ns, uint64_t first_ns);
/* It could not be made after all, for want of a place: whoever gets one may. */
void budget_untried(struct budget *, uint64_t now_ns, uint64_t first_ns);
/* The last failure, for people: both NUL-terminated. */
void budget_error(struct budgets *, struct budget *, char sqlstate[6], char text[BUDGET_ERROR_MAX]);
/* The key of one that has no server and cannot get one; false: there is none. */
bool budgets_down(struct budgets *, char *key, size_t n);
/*
 * Did a server of this pool, of whatever worker, parse the statement of that
 * digest?  A hint: one that is overwritten is forgotten.
 */
void budget_note_parsed(struct budgets *, const struct budget *, const uint8_t digest[8]);
bool budget_has_parsed(struct budgets *, const struct budget *, const uint8_t digest[8]);
/* The worker, other than me, that has waited longest, or -1. */
int  budget_longest(struct budget *, unsigned me, uint64_t *oldest_ns);
bool budget_is_wanted(struct budget *);	/* does any worker wait for it? */
/* Whoever serves a waiting worker claims it first, so that only one does. */
bool budget_claim(struct budget *, unsigned who);
void budget_nudge_one(struct budgets *, struct budget *, unsigned who);
/* A nudge has arrived: for the function given to budgets_init(), first thing;
 * the reference it came with is then the caller's. */
struct budget_side *budget_nudged(struct message *);
/* Asks every worker but me to close an idle server of this budget, or hand it on. */
void budget_nudge_others(struct budgets *, struct budget *, unsigned me);

#endif
