/*
 * stats: every number weir counts, in one table.
 *
 * One block per worker, written only by its worker; the reader sums the
 * blocks.  Adding a number means adding a row.  A gauge goes up and down by
 * stats_add() with a negative count; its sum over the workers is the value.
 *
 * Threads:  stats_add() from the owner only, stats_sum() from any.
 */
#ifndef CONF_STATS_H
#define CONF_STATS_H

#include <stdatomic.h>
#include <stdint.h>

struct buf;

/*
 * Distributions, in buckets of which each reaches twice as far as the one
 * before: up to 1, 2, 4 ... 2^(STATS_BUCKETS - 1), and above.
 *  name   metric   a unit of its samples in units of the metric   help
 */
#define STATS_HISTOGRAMS(X)                                                                       \
	X(BATCH_SIZE,	   "batch_size", 1, "operations that shared a commit")                      \
	X(BATCH_WAIT,	   "batch_wait_seconds", 1e-6, "from an operation's arrival until it was sent") \
	X(BATCH_COMMIT,	   "batch_commit_seconds", 1e-6, "from sending operations until they were committed")

/*  name   metric, without the weir_ prefix   labels or ""   kind   help */
#define STATS_TABLE(X)                                                                            \
	X(PG_CLIENTS,	   "clients", "proto=\"postgres\"", GAUGE, "client connections open")       \
	X(REDIS_CLIENTS,   "clients", "proto=\"redis\"", GAUGE, "client connections open")          \
	X(PG_ACCEPTED,	   "clients_accepted_total", "proto=\"postgres\"", COUNTER, "client connections accepted") \
	X(REDIS_ACCEPTED,  "clients_accepted_total", "proto=\"redis\"", COUNTER, "client connections accepted") \
	X(PG_LOGINS,	   "client_logins_total", "proto=\"postgres\"", COUNTER, "clients that logged in") \
	X(REDIS_LOGINS,	   "client_logins_total", "proto=\"redis\"", COUNTER, "clients that logged in") \
	X(PG_REFUSED,	   "clients_refused_total", "proto=\"postgres\"", COUNTER, "clients turned away") \
	X(REDIS_REFUSED,   "clients_refused_total", "proto=\"redis\"", COUNTER, "clients turned away") \
	X(USER_FULL,	   "client_limit_refused_total", "limit=\"user\"", COUNTER, "logins refused by a max_client_conn") \
	X(TENANT_FULL,	   "client_limit_refused_total", "limit=\"organization\"", COUNTER, "logins refused by a max_client_conn") \
	X(LOGINS_FULL,	   "client_limit_refused_total", "limit=\"logins\"", COUNTER, "logins refused by a max_client_conn") \
	X(NO_TENANT_LOGIN, "organization_refused_total", "at=\"login\"", COUNTER, "clients and statements that named no organization they may use") \
	X(NO_TENANT_STMT,  "organization_refused_total", "at=\"statement\"", COUNTER, "clients and statements that named no organization they may use") \
	X(TENANT_HELD,	   "organization_held_total", "", COUNTER, "times requests waited because their organization had pool_size servers") \
	X(RATE_CONNECTIONS, "rate_limit_refused_total", "limit=\"connections\"", COUNTER, "log-ins and requests refused by a rate of an organization") \
	X(RATE_QUERIES,	   "rate_limit_refused_total", "limit=\"queries\"", COUNTER, "log-ins and requests refused by a rate of an organization") \
	X(RATE_OPERATIONS, "rate_limit_refused_total", "limit=\"operations\"", COUNTER, "log-ins and requests refused by a rate of an organization") \
	X(LOGIN_HASHES,	   "login_hashes_total", "", COUNTER, "passwords hashed for log-ins, because no one had been with it before") \
	X(PG_WAITING,	   "clients_waiting", "proto=\"postgres\"", GAUGE, "lessees waiting for a server") \
	X(REDIS_WAITING,   "clients_waiting", "proto=\"redis\"", GAUGE, "lessees waiting for a server") \
	X(PG_SERVERS,	   "servers", "proto=\"postgres\"", GAUGE, "server connections open")       \
	X(REDIS_SERVERS,   "servers", "proto=\"redis\"", GAUGE, "server connections open")          \
	X(PG_SERVERS_IDLE, "servers_idle", "proto=\"postgres\"", GAUGE, "server connections idle in a pool") \
	X(SERVER_OPENED,   "server_opened_total", "", COUNTER, "server connections opened")         \
	X(SERVER_FAILED,   "server_failed_total", "", COUNTER, "server connections that failed to open") \
	X(SERVER_CLOSED,   "server_closed_total", "", COUNTER, "server connections closed")         \
	X(SERVER_MOVED,	   "server_moved_total", "", COUNTER, "idle servers handed to another worker") \
	X(SERVER_DOUBTED,  "server_doubted_total", "", COUNTER, "servers closed because their state was in doubt") \
	X(SERVER_EVICTED,  "server_evicted_total", "", COUNTER, "idle servers closed to make room for another pool") \
	X(SERVER_RESERVE,  "server_reserve_total", "", COUNTER, "servers opened above pool_size, from the reserve") \
	X(QUEUE_REFUSED,   "queue_refused_total", "", COUNTER, "requests refused by max_waiting_clients") \
	X(POOLS,	   "pools", "", GAUGE, "pools, counted on each worker that has one")        \
	X(TRANSACTIONS,	   "transactions_total", "", COUNTER, "Postgres leases that ended at ReadyForQuery") \
	X(QUERIES,	   "queries_total", "", COUNTER, "Postgres simple queries and executes forwarded") \
	X(BINDS,	   "binds_total", "", COUNTER, "times a server was given other variables") \
	X(BEGINS_DEFERRED, "begins_deferred_total", "", COUNTER, "BEGINs answered at once and sent with the first statement") \
	X(PARSES_REPLAYED, "parses_replayed_total", "", COUNTER, "prepared statements parsed again on a server that lacked them") \
	X(SETTINGS_ASKED,  "settings_asked_total", "", COUNTER, "times a server was asked what its session has set") \
	X(PINS,		   "pins_total", "", COUNTER, "sessions that had to keep their server")      \
	X(BATCH_OPS,	   "batch_operations_total", "", COUNTER, "requests that went by a batch") \
	X(BATCH_RUNS,	   "batch_commits_total", "", COUNTER, "times operations of a batch were sent for one commit") \
	X(BATCH_REPLAYED,  "batch_replayed_total", "", COUNTER, "operations run again because another one failed, or a server was lost in time") \
	X(BATCH_MERGED,	   "batch_merged_total", "", COUNTER, "operations sent as a statement with others") \
	X(BATCH_FAILED,	   "batch_failed_total", "", COUNTER, "operations answered with an error") \
	X(BATCH_HELD,	   "batch_transactions_total", "", COUNTER, "transactions of held INSERTs that were committed as one operation") \
	X(BATCH_MIXED,	   "batch_transactions_mixed_total", "", COUNTER, "transactions whose held INSERTs were run on a server of their own, because something else followed") \
	X(BATCH_UNKNOWN,   "batch_unknown_total", "", COUNTER, "operations whose server was lost while it committed") \
	X(PUBLISHED,	   "publish_total", "outcome=\"told\"", COUNTER, "messages of committed operations for Redis") \
	X(PUBLISH_FAILED,  "publish_total", "outcome=\"failed\"", COUNTER, "messages of committed operations for Redis") \
	X(PUBLISH_UNSAID,  "publish_total", "outcome=\"unsaid\"", COUNTER, "messages of committed operations for Redis") \
	X(CANCELS,	   "cancels_total", "", COUNTER, "cancel requests forwarded")                \
	X(REDIS_HELD,	   "redis_held_total", "", COUNTER, "times Redis clients began to keep a connection of their own") \
	X(COMMANDS,	   "redis_commands_total", "", COUNTER, "Redis commands forwarded")          \
	X(COMMANDS_LOCAL,  "redis_commands_local_total", "", COUNTER, "Redis commands answered by weir") \
	X(REDIS_OVERDUE,   "redis_commands_overdue_total", "", COUNTER, "commands answered by command_timeout") \
	X(REDIS_SUBSCRIPTIONS, "redis_subscriptions", "", GAUGE, "subscriptions of Redis clients")       \
	X(REDIS_CHANNELS,  "redis_channels", "", GAUGE, "channels and patterns subscribed to upstream for them") \
	X(REDIS_MESSAGES,  "redis_messages_total", "", COUNTER, "messages delivered to subscribers") \
	X(REDIS_SUB_LOST,  "redis_subscribers_lost_total", "", COUNTER, "subscribers closed because their upstream connection was lost") \
	X(REDIS_SUB_SLOW,  "redis_subscribers_slow_total", "", COUNTER, "subscribers closed because they did not read") \
	X(BYTES_FROM_CLIENTS, "client_received_bytes_total", "", COUNTER, "bytes received from clients") \
	X(BYTES_TO_CLIENTS, "client_sent_bytes_total", "", COUNTER, "bytes sent to clients")         \
	X(BYTES_FROM_SERVERS, "server_received_bytes_total", "", COUNTER, "bytes received from servers") \
	X(BYTES_TO_SERVERS, "server_sent_bytes_total", "", COUNTER, "bytes sent to servers")         \
	X(WAIT_US,	   "wait_microseconds_total", "", COUNTER, "time lessees waited for a server, summed") \
	X(TURNS,	   "turns_total", "", COUNTER, "rounds of the workers' event loops")

enum stats_kind { STATS_COUNTER, STATS_GAUGE };

enum stat_id {
#define X(name, metric, labels, kind, help) STAT_##name,
	STATS_TABLE(X)
#undef X
	STAT_MAX
};

enum { STATS_BUCKETS = 24 };

enum stats_histogram {
#define X(name, metric, unit, help) STATS_##name,
	STATS_HISTOGRAMS(X)
#undef X
	STATS_HISTOGRAM_MAX
};

struct stats {
	_Alignas(64) _Atomic uint64_t n[STAT_MAX];
	struct {
		_Atomic uint64_t bucket[STATS_BUCKETS + 1];
		_Atomic uint64_t sum;
	} histogram[STATS_HISTOGRAM_MAX];
};

static inline void
stats_add(struct stats *s, enum stat_id which, int64_t n)
{
	uint64_t v = atomic_load_explicit(&s->n[which], memory_order_relaxed);

	atomic_store_explicit(&s->n[which], v + (uint64_t)n, memory_order_relaxed);
}

static inline void
stats_count(_Atomic uint64_t *at, uint64_t n)
{
	uint64_t v = atomic_load_explicit(at, memory_order_relaxed);

	atomic_store_explicit(at, v + n, memory_order_relaxed);
}

static inline void
stats_observe(struct stats *s, enum stats_histogram which, uint64_t sample)
{
	unsigned i = 0;

	while (i < STATS_BUCKETS && sample > UINT64_C(1) << i)
		i++;
	stats_count(&s->histogram[which].bucket[i], 1);
	stats_count(&s->histogram[which].sum, sample);
}

/* The sum over `blocks` blocks; a gauge never reads below 0. */
uint64_t stats_sum(struct stats *const *, unsigned blocks, enum stat_id);

/*
 * All of them in Prometheus' text format 0.0.4, metrics of one name together
 * under one HELP and TYPE.  0, or -1 when the buf is full.
 */
int	 stats_print(struct buf *, struct stats *const *, unsigned blocks);

#endif
