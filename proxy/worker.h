/*
 * worker: one thread: its event loop, its share of everything, the turn.
 *
 * Workers share nothing but what struct weir holds: the budgets, the number
 * of clients, the thread pools, and the snapshot they were handed.  Nothing
 * else crosses; what one wants of another goes through its mailbox.
 */
#ifndef PROXY_WORKER_H
#define PROXY_WORKER_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf/log.h"
#include "conf/stats.h"
#include "pool/pool.h"
#include "pool/rate.h"
#include "pool/redis_facts.h"
#include "tls/mailbox.h"
#include "tls/offload.h"
#include "tls/snapshot.h"
#include "tls/stream.h"

#ifndef WEIR_VERSION
#define WEIR_VERSION "0.1.0"
#endif

struct session;
struct session_cursor;
struct listener;
struct pg_batches;
struct pg_text;
struct publishers;
struct weir;

struct worker {
	unsigned	 id;
	struct weir	*weir;
	pthread_t	 thread;
	struct event_base *base;
	struct streams	 streams;
	struct pools	 pools;
	struct mailbox	 mailbox;
	struct stats	 stats;
	struct snapshot	*snapshot;	/* for new sessions; counted */
	struct listener	*listeners;
	struct session	*sessions;	/* all of them */
	struct session	*awake;		/* to be run this turn */
	struct session	*dead;		/* to be freed at its end */
	struct session_cursor *cursors;	/* places in the list of them */
	unsigned	 sessions_n;
	unsigned	 jobs;		/* log-ins being judged on other threads */
	uint64_t	 last_id;
	struct hubs	*hubs;		/* Redis subscriptions (redis_hub.h) */
	struct cancels	*cancels;	/* keys we gave out (cancel.h) */
	struct pg_batches *batches;
	struct publishers *publishers;	/* what they tell Redis (redis_publish.h) */
	struct pg_text	*texts;		/* PG_TEXTS of them (pg_text.h) */
	struct event	 tick, mail;
	uint64_t	 drain_ns;	/* when patience ends; 0: not draining */
	bool		 stop;
};

/* What the process has once. */
struct weir {
	struct log	*log;
	const char	*file;		/* the configuration */
	struct snapshot	*snapshot;	/* the current one; main's */
	struct budgets	 budgets;
	struct rates	 rates;
	struct offload	*cpu, *dns;
	struct control	*control;
	struct lookup	*secrets;
	struct directory *directory;
	struct rls	*rls;
	struct verifiers *verifiers;
	struct redis_census *census;
	struct redis_facts facts;
	struct mailbox **mailboxes;
	struct worker  **worker;
	struct stats   **stats;
	unsigned	 workers;
	_Atomic unsigned clients;	/* for max_client_conn, exactly */
	_Atomic unsigned deaf;		/* workers that accept no clients any more */
	_Atomic unsigned operations;	/* of all batches (pg_batch.h) */
	_Atomic unsigned running;	/* workers that have not finished */
	_Atomic bool	 draining;
};

struct worker *worker_open(struct weir *, unsigned id);	/* NULL: no resources */
int	       worker_start(struct worker *) __attribute__((warn_unused_result));
/*
 * From main.  The last of the workers that snapshot->awaited counts to take it
 * over logs event=reload: behind that line nobody goes by the old one any more.
 */
void	       worker_reload(struct worker *, struct snapshot *);
void	       worker_drain(struct worker *);				/* from main */
void	       worker_close(struct worker **);	/* after its thread was joined */

#endif
