/*
 * pool: matches lessees with the servers of one upstream, fairly between
 * organizations.
 *
 * Each worker has its own pools, keyed by upstream, database and user; the
 * halves of one pool on different workers share a budget, which makes the
 * limit exact, and hand idle servers to the worker that has waited longest.
 * Nothing is matched inside pool_want() but the obvious case; the rest is
 * done once a turn by pools_poke(), which looks only at pools where something
 * has changed.
 *
 * Servers are opened for those who wait, up to pool_size; by reserve_pool_size
 * more once somebody has waited for reserve_pool_timeout; and up to
 * min_pool_size while the pool is in use, or known from the configuration
 * alone.  All three are counted over all workers, and so are those who wait, of
 * whom max_waiting_clients may be more than there are servers to come.  Redis
 * connections to be lent have min_dedicated_connections, as long as clients use
 * the shared ones of the same log-in.
 *
 * Owner:    the worker's struct pools.  A pool goes when it has been without
 *           servers, waiters and sessions for pool_idle_timeout.
 * Bounds:   servers by the budget, waiters by the number of sessions, pools
 *           by the number of budgets.
 */
#ifndef POOL_POOL_H
#define POOL_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/log.h"
#include "conf/stats.h"
#include "pool/budget.h"
#include "pool/fair.h"
#include "pool/label.h"
#include "pool/lease.h"
#include "pool/server.h"
#include "pool/stmt.h"
#include "pool/target.h"
#include "tls/mailbox.h"
#include "tls/offload.h"
#include "tls/snapshot.h"
#include "tls/stream.h"

enum {
	POOL_BUCKETS = 256,
	POOL_OPENING_MAX = 8,		/* log-ins under way at once, a pool and worker */
	POOL_ERROR_MAX = BUDGET_ERROR_MAX
};

#define POOL_RETRY_FIRST_NS (250ull * 1000000)	/* doubles up to server_login_retry, and no less */
#define POOL_ROLE_NS	    (1000ull * 1000000)	/* but where a host of another role answers */
#define POOL_AGAIN_NS	    (50ull * 1000000)	/* ask again for room */
#define POOL_SLICE_NS	    (50ull * 1000000)	/* a shared server at work keeps its place so long */
#define POOL_RESERVE_IDLE_NS (1000ull * 1000000) /* above pool_size: idle so long, it goes */
#define POOL_MIN_NS	    (1000ull * 1000000)	/* look again for min_pool_size */
#define POOL_FAILED_NS	    (30ull * 1000000000)	/* a pool that never had a server is kept ... */
#define POOL_CROWDED_NS	    (1000ull * 1000000)	/* ... and any, when there are too many */
#define POOL_UNFAIR_NS	    (5ull * 1000000)	/* another worker may wait this much longer */

/*
 * The keys for one salt: of the last PBKDF2 we did for this upstream, or, where
 * no password is configured, of the last client that proved who it is.  In
 * memory only, and wiped.
 */
struct pool_scram {
	bool	 known;
	uint8_t	 salt[SCRAM_SALT_MAX];
	size_t	 salt_len;
	uint32_t iterations;
	struct scram_keys keys;
};

struct pool {
	char			    *key;
	struct pool		    *chain;		/* in its bucket */
	struct pool		    *cap_next, **cap_prev; /* on its cap's list (room.h) */
	struct pool		    *dirty_next, *gone_next;
	bool			     dirty;
	bool			     gone;	/* to be freed, if it is still unused then */
	bool			     capped;	/* its waiters were refused by the cap */
	bool			     known;	/* no client is needed to name it */
	bool			     served;	/* it has had a server */
	struct pools		    *home;
	const struct server_ops	    *ops;
	struct snapshot		    *snapshot;		/* counted */
	const struct conf_postgres  *postgres;		/* one of these two */
	const struct conf_redis	    *redis;
	char			    *dbname, *user, *password;	/* of the log-in; may be NULL */
	const char		    *replication;	/* walsenders: what a log-in says of it; else NULL */
	unsigned		     db;		/* Redis */
	int			     resp;		/* Redis: 2 or 3 */
	bool			     lends;		/* Redis: its servers are one lessee's at a time, not shared */
	char			    *node;	/* Redis: of a cluster, at this port; else NULL */
	unsigned		     node_port;
	bool			     subscribes;	/* Redis: its one connection does nothing else */
	struct budget		    *budget;	/* of the pool, on all workers */
	struct budget		    *cap;	/* of the upstream */
	unsigned		     users;	/* sessions that point here */
	bool			     joined;	/* somebody has, since it got its hosts */
	struct pool		    *warm;	/* Redis, shared: it lends by the same log-in, and is joined by us; or NULL */
	unsigned		     held;	/* servers that do, until they are freed */
	uint64_t		     ceded_ns;	/* when it last gave a place to another pool */
	uint64_t		     unused_ns;	/* since when nobody does; 0: somebody */

	struct fair		     waiters;
	struct fair		     excess;	/* too many to wait: told so this turn */
	struct server		    *list[SERVER_MAX];	/* by state, latest first */
	unsigned		     n[SERVER_MAX];

	struct targets		     targets;		/* where to dial */
	uint64_t		     origin;		/* stands for what servers are opened with */
	unsigned		     probes;		/* of those in DIAL and LOGIN: see server.h */
	bool			     sweep;		/* an idle server may be unwanted */
	unsigned		     epochs;		/* of its hosts, when it was last swept */
	bool			     next_host;		/* one failed: on with the next at once */

	struct wheel_entry	     timer;		/* when to look again */
	bool			     want_tls;		/* sslmode allow: plain was refused */

	struct buf		     welcome;		/* ParameterStatus messages of a log-in */
	struct pool_scram	     scram;
};

/* A worker's share. */
struct pools {
	unsigned	  worker;
	struct streams	 *streams;
	struct stats	 *stats;
	struct log	 *log;
	struct mailbox	 *mailbox;
	struct mailbox	**mailboxes;	/* of all workers */
	struct budgets	 *budgets;
	struct offload	 *cpu, *dns;
	struct labels	  labels;
	struct stmts	  stmts;
	struct redis_nodes *nodes;	/* of the clusters (redis_nodes.h) */
	struct redis_watch *watches;	/* at Sentinels (redis_watch.h) */
	struct redis_facts *facts;	/* the process's; NULL: nothing is learnt */
	struct pool	 *bucket[POOL_BUCKETS];
	struct pool	 *dirty;
	struct pool	 *gone;
	struct server	 *dead;
	uint64_t	  last_id;
	unsigned	  n;		/* servers in all */
	unsigned	  jobs;		/* look-ups and hashes under way */
	bool		  closing;	/* no new servers */
};

void pools_init(struct pools *);	/* after its pointers are set */
void pools_fini(struct pools *);
void pools_poke(struct pools *);	/* once a turn */
void pools_reap(struct pools *);	/* once a turn, last */
void pools_close(struct pools *);	/* end: says goodbye to every server */
/* A new configuration: limits change, servers of gone upstreams leave. */
void pools_reload(struct pools *, struct snapshot *);
/* Opens pools that the configuration names whole, for their min_pool_size. */
void pools_open_known(struct pools *, struct snapshot *);
void pools_nudged(struct message *, void *pools);	/* for budgets_init() */

/*
 * The pool, made if need be; NULL: too many.  Strings are copied.  Whoever
 * keeps it past the turn joins it, and leaves it in the end.
 */
struct pool *pool_find_postgres(struct pools *, struct snapshot *, const struct conf_postgres *,
    const char *dbname, const char *user, const char *password);
/* The same for who knew it before: one that is there has newer passwords. */
struct pool *pool_again_postgres(struct pools *, struct snapshot *, const struct conf_postgres *,
    const char *dbname, const char *user, const char *password);
/*
 * Walsenders: `replication` is "true" (physical) or "database" (logical).  Such
 * a server is opened for one lessee, with its settings in the startup packet,
 * is passed on to nobody, and closes when the lessee lets go of it.  Places are
 * max_replication_connections of the upstream, shared by all these pools.
 */
struct pool *pool_find_replication(struct pools *, struct snapshot *, const struct conf_postgres *,
    const char *dbname, const char *user, const char *password, const char *replication);
struct pool *pool_find_redis(struct pools *, struct snapshot *, const struct conf_redis *,
    const char *user, const char *password, unsigned db, int resp);
/* The same log-in, for connections that are lent: LEASE_EXCLUSIVE, and places
 * are dedicated_connections of the upstream, shared by all these pools. */
struct pool *pool_find_redis_lent(struct pools *, struct snapshot *, const struct conf_redis *,
    const char *user, const char *password, unsigned db, int resp);
/* The same, `lends` or not, of one node of a cluster. */
struct pool *pool_find_redis_node(struct pools *, struct snapshot *, const struct conf_redis *,
    const char *user, const char *password, int resp, bool lends, const char *node, unsigned port);
/*
 * Of one connection, lent exclusively, that subscribes (redis_sub.h); asked
 * for on one worker only.  Its place is one of dedicated_connections, too.
 * `node` at `port`: that of a cluster, to its own channels (`shards`) or to what
 * any node tells; NULL: the upstream, or a node of its url.
 */
struct pool *pool_find_redis_sub(struct pools *, struct snapshot *, const struct conf_redis *,
    const char *user, const char *password, const char *node, unsigned port, bool shards);

/*
 * A client has proved that it knows the password of this verifier, and here is
 * its key: servers that hold the same verifier will take our log-in by it.
 * Only for pools whose log-in is the client's own.
 */
void pool_pass_keys(struct pool *, const struct scram_verifier *, const uint8_t client_key[SCRAM_KEY]);

/* The keys of another worker's half, where this one has no password. */
void pool_lend_keys(struct pool *, const struct pool_scram *);

void pool_join(struct pool *);
void pool_leave(struct pool **);	/* nulls the pointer, which may be NULL */

/*
 * Shared connections of Redis: one a pool and worker, and a second one when who
 * does heavy work wants it and a place is free; then the older is for what is
 * quick.  It takes no place from others and gives its own up first; nobody
 * waits for it but while it is being opened.  Whoever has all its commands
 * answered may change from one to the other.
 *
 * Would a lessee of LANE_HEAVY be given, perhaps later, another one than v?
 */
bool pool_sets_apart(const struct pool *, const struct server *v);

/* True: granted at once (l->server is set).  False: queued, an op will follow. */
bool pool_want(struct pool *, struct lessee *) __attribute__((warn_unused_result));
void pool_unwant(struct lessee *);	/* if it waits anywhere */
void pool_touch(struct pool *);		/* look at it at the end of the turn */
/*
 * An attempt to open a server failed, because of its host (the next is tried,
 * if there is one) or for a reason that all hosts would give.  NULL where the
 * upstream said nothing.
 */
void pool_host_failed(struct pool *, struct host *, uint64_t began_ns, enum why,
    const char *sqlstate, const char *text);
void pool_failed(struct pool *, enum why, const char *sqlstate, const char *text);

/* Its one host is another now: who is connected elsewhere leaves. */
void pool_forsake(struct pool *);

/* So many servers of this pool stay open though they are idle. */
int  pool_floor(const struct pool *);

/* That somebody may wait for: without probes. */
static inline unsigned
pool_opening(const struct pool *p)
{
	return p->n[SERVER_DIAL] + p->n[SERVER_LOGIN] - p->probes;
}

static inline unsigned
pool_servers(const struct pool *p)
{
	return p->n[SERVER_DIAL] + p->n[SERVER_LOGIN] + p->n[SERVER_IDLE] +
	    p->n[SERVER_LEASED] + p->n[SERVER_SHARED] + p->n[SERVER_RESET];
}

#endif
