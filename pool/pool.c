#include "pool/pool.h"

#include <assert.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/mem.h"
#include "pool/redis_nodes.h"
#include "pool/redis_watch.h"
#include "pool/room.h"

/* ---- a worker's share ------------------------------------------------- */

void
pools_init(struct pools *home)
{
	assert(home->streams && home->stats && home->budgets);
}

static struct pool **
pool_bucket(struct pools *home, const char *key)
{
	uint32_t h = 2166136261u;

	for (const char *p = key; *p != '\0'; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	return &home->bucket[h % POOL_BUCKETS];
}

static void
free_secret(char *s)
{
	if (s != NULL)
		OPENSSL_cleanse(s, strlen(s));
	free(s);
}

static void
pool_free(struct pool *p)
{
	struct pools *home = p->home;

	assert(p->waiters.n + p->waiters.held == 0 && p->excess.n == 0 &&
	       !targets_resolving(p));
	assert(p->held == 0 && p->users == 0 && p->warm == NULL);
	wheel_set(&home->streams->wheel, &p->timer, 0);
	room_leave(p);
	p->budget->side[home->worker].pool = NULL;
	budget_wait_over(p->budget, home->worker);
	budget_unref(home->budgets, &p->budget);
	budget_unref(home->budgets, &p->cap);
	stats_add(home->stats, STAT_POOLS, -1);
	targets_fini(p);
	snapshot_unref(&p->snapshot);
	buf_free(&p->welcome);
	free(p->key);
	free(p->dbname);
	free(p->node);
	free(p->user);
	free_secret(p->password);
	OPENSSL_cleanse(&p->scram, sizeof(p->scram));
	free(p);
}

void
pools_fini(struct pools *home)
{
	assert(home->n == 0 && home->dead == NULL && home->jobs == 0);
	for (unsigned i = 0; i < POOL_BUCKETS; i++) {
		struct pool *p;

		while ((p = home->bucket[i]) != NULL) {
			home->bucket[i] = p->chain;
			pool_free(p);
		}
	}
	redis_nodes_fini(home);
	redis_watch_fini(home);
	labels_fini(&home->labels);
	stmts_fini(&home->stmts);
}

/*
 * Nobody points to it, and nobody will: a server of the pool, on whatever
 * worker, is counted in its budget from before it could be sent here until it
 * is closed, and we have taken our hand down before we look at the count.
 */
static bool
pool_is_unused(const struct pool *p)
{
	return p->users == 0 && p->held == 0 && p->waiters.n == 0 &&
	       p->waiters.held == 0 && p->excess.n == 0 &&
	       !targets_resolving(p) && !p->known;
}

static void
pool_reap(struct pool *p)
{
	struct pools *home = p->home;
	struct pool **at = pool_bucket(home, p->key);

	p->gone = false;
	if (p->dirty || !pool_is_unused(p))
		return;
	budget_wait_over(p->budget, home->worker);
	if (atomic_load(&p->budget->count) > 0)
		return;
	while (*at != p)
		at = &(*at)->chain;
	*at = p->chain;
	pool_free(p);
}

void
pools_reap(struct pools *home)
{
	struct server **at = &home->dead, *v;
	struct pool *p;

	while ((v = *at) != NULL) {
		assert(v->state == SERVER_DEAD && v->stream.fd < 0);
		if (v->cancels > 0) { /* its cancels point to it still */
			at = &v->next;
			continue;
		}
		*at = v->next;
		v->pool->held--;
		pool_touch(v->pool);
		stream_close(&v->stream); /* what was put to a dead one */
		v->ops->fini(v);
		ledger_free(&v->ledger);
		host_leave(&home->budgets->hosts, &v->host,
			   home->streams->now_ns);
		v->magic = 0;
		free(v);
	}
	while ((p = home->gone) != NULL) {
		home->gone = p->gone_next;
		pool_reap(p);
	}
}

static void
pool_close_all(struct pool *p, enum server_state state, enum why w)
{
	while (p->list[state] != NULL)
		server_close(p->list[state], w, NULL, NULL);
}

void
pools_close(struct pools *home)
{
	home->closing = true;
	redis_watch_stop(home);
	for (unsigned i = 0; i < POOL_BUCKETS; i++)
		for (struct pool *p = home->bucket[i]; p; p = p->chain) {
			pool_leave(&p->warm);
			for (int state = 0; state < SERVER_DEAD; state++)
				pool_close_all(p, state, WHY_SHUTDOWN);
		}
}

/* ---- making and finding ----------------------------------------------- */

static int
pool_limit(const struct pool *p)
{
	if (p->replication != NULL)
		return (int)p->postgres->max_replication_connections;
	if (p->subscribes)
		return 1;
	if (p->lends)
		return (int)p->redis->dedicated_connections;
	return p->postgres ? (int)p->postgres->pool_size
			   : (int)p->redis->connections;
}

static struct pool *
pool_lookup(struct pools *home, const char *key)
{
	struct pool *p = *pool_bucket(home, key);

	while (p != NULL && strcmp(p->key, key) != 0)
		p = p->chain;
	return p;
}

static void
pool_timer(struct wheel_entry *e)
{
	pool_touch(
	    (struct pool *)(void *)((char *)e - offsetof(struct pool, timer)));
}

/* What all pools of the upstream may have together. */
static int
pool_cap(const struct pool *p)
{
	if (p->subscribes)
		return (int)p->redis->dedicated_connections;
	if (p->redis != NULL || p->replication != NULL)
		return pool_limit(p);
	return p->postgres->max_connections ? (int)p->postgres->max_connections
					    : INT_MAX;
}

static bool
pool_budgets(struct pools *home, const struct pool *like, const char *key,
	     struct budget **b, struct budget **cap)
{
	char name[128]; /* an upstream's has 63 bytes at most */

	snprintf(name, sizeof(name), "%s %.100s",
		 like->replication                 ? "replication"
		 : like->postgres                  ? "postgres"
		 : like->lends || like->subscribes ? "redis-dedicated"
						   : "redis",
		 like->postgres ? like->postgres->name : like->redis->name);
	*cap = budget_find(home->budgets, name, pool_cap(like));
	if (*cap == NULL)
		return false;
	*b = budget_find(home->budgets, key, pool_limit(like));
	if (*b == NULL)
		budget_unref(home->budgets, cap);
	return *b != NULL;
}

static uint64_t
hash_more(uint64_t h, const char *s)
{
	const char *p = s ? s : "";

	do
		h = (h ^ (uint8_t)*p) * 1099511628211ull;
	while (*p++ != '\0');
	return h;
}

/* Servers opened with something else are not of this pool any more. */
static uint64_t
pool_origin(const struct pool *p)
{
	const struct conf_postgres *pg = p->postgres;
	const struct conf_redis *redis = p->redis;
	char numbers[64];
	uint64_t h = 14695981039346656037ull;

	if (pg != NULL) {
		/* A server is asked at its log-in who it is, if that is signed. */
		snprintf(numbers, sizeof(numbers), "%u %d %d %d %d", pg->port,
			 (int)pg->sslmode, (int)pg->sslnegotiation,
			 (int)pg->target_role,
			 p->snapshot->conf->context.key != NULL);
		h = hash_more(hash_more(h, pg->host), pg->sslrootcert);
		h = hash_more(hash_more(h, pg->sslcert), pg->sslkey);
	} else {
		snprintf(numbers, sizeof(numbers), "%d", (int)redis->sslmode);
		h = hash_more(hash_more(h, redis->url), redis->sslrootcert);
		h = hash_more(hash_more(h, redis->sslcert), redis->sslkey);
		h = hash_more(h, redis->sentinel);
		h = hash_more(h, redis->cluster ? "cluster" : NULL);
	}
	return hash_more(h, numbers);
}

/* The rest of a new pool, once its identity is set. */
static struct pool *
pool_make(struct pools *home, const struct pool *like, const char *key)
{
	struct budget *b, *cap;
	struct pool *p, **at = pool_bucket(home, key);

	if (!pool_budgets(home, like, key, &b, &cap))
		return NULL;
	if ((p = malloc(sizeof(*p))) == NULL)
		abort();
	*p = *like;
	p->home = home;
	if (targets_init(p) != 0) {
		budget_unref(home->budgets, &b);
		budget_unref(home->budgets, &cap);
		free(p);
		return NULL;
	}
	p->origin = pool_origin(p);
	p->key = mem_copy(key);
	p->budget = b;
	p->cap = cap;
	snapshot_ref(p->snapshot);
	p->dbname = mem_copy(like->dbname);
	p->node = mem_copy(like->node);
	p->user = mem_copy(like->user);
	p->password = mem_copy(like->password);
	buf_init(&p->welcome, BUDGET_WELCOME_MAX);
	wheel_entry_init(&p->timer, pool_timer);
	p->chain = *at;
	*at = p;
	assert(b->side[home->worker].pool == NULL);
	b->side[home->worker].pool = p;
	stats_add(home->stats, STAT_POOLS, 1);
	pool_touch(p);
	return p;
}

static bool
pool_key(char *key, size_t n, const char *a, const char *b, const char *c,
	 unsigned d)
{
	/* Lengths in front, so that no two sets of names give one key; and
	 * none that is cut off, where a client's long name hides the user. */
	return (size_t)snprintf(key, n, "%zu:%s/%zu:%s/%zu:%s/%u", strlen(a), a,
				strlen(b), b, strlen(c), c, d) < n;
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* A reload may have brought another password for the same log-in; who still
 * lives under an older configuration has nothing to say about it. */
static struct pool *
pool_renew(struct pool *p, const struct snapshot *snap, const char *password)
{
	if (p->snapshot == snap && !same_text(p->password, password)) {
		free_secret(p->password);
		p->password = mem_copy(password);
		OPENSSL_cleanse(&p->scram,
				sizeof(p->scram)); /* the old one's */
	}
	if (p->warm != NULL)
		pool_renew(p->warm, snap, password);
	return p;
}

void
pool_pass_keys(struct pool *p, const struct scram_verifier *v,
	       const uint8_t client_key[SCRAM_KEY])
{
	struct pool_scram s = { .known = true,
				.salt_len = v->salt_len,
				.iterations = v->iterations };

	assert(p->postgres != NULL && p->postgres->user == NULL);
	if (p->password != NULL)
		return;
	memcpy(s.salt, v->salt, v->salt_len);
	memcpy(s.keys.client, client_key, SCRAM_KEY);
	memcpy(s.keys.server, v->server_key, SCRAM_KEY);
	if (!p->scram.known ||
	    CRYPTO_memcmp(&s.keys, &p->scram.keys, sizeof(s.keys)) != 0) {
		p->scram = s;
		/* What failed with the old ones is worth another try. */
		budget_recovered(p->budget);
	}
	OPENSSL_cleanse(&s, sizeof(s));
}

void
pool_lend_keys(struct pool *p, const struct pool_scram *keys)
{
	if (keys->known && p->password == NULL && !p->scram.known)
		p->scram = *keys;
}

static struct pool *
find_postgres(struct pools *home, struct snapshot *snap,
	      const struct conf_postgres *up, const char *dbname,
	      const char *user, const char *password, bool renew)
{
	char key[1024];
	struct pool *p, like = { .ops = &pg_server_ops,
				 .snapshot = snap,
				 .postgres = up,
				 .dbname = (char *)(uintptr_t)dbname,
				 .user = (char *)(uintptr_t)user,
				 .password = (char *)(uintptr_t)password };

	if (!pool_key(key, sizeof(key), up->name, dbname, user, 0))
		return NULL;
	if ((p = pool_lookup(home, key)) == NULL)
		return pool_make(home, &like, key);
	return renew ? pool_renew(p, snap, password) : p;
}

struct pool *
pool_find_postgres(struct pools *home, struct snapshot *snap,
		   const struct conf_postgres *up, const char *dbname,
		   const char *user, const char *password)
{
	return find_postgres(home, snap, up, dbname, user, password, true);
}

struct pool *
pool_again_postgres(struct pools *home, struct snapshot *snap,
		    const struct conf_postgres *up, const char *dbname,
		    const char *user, const char *password)
{
	return find_postgres(home, snap, up, dbname, user, password, false);
}

struct pool *
pool_find_replication(struct pools *home, struct snapshot *snap,
		      const struct conf_postgres *up, const char *dbname,
		      const char *user, const char *password,
		      const char *replication)
{
	char key[1024], name[160];
	struct pool *p, like = { .ops = &pg_server_ops,
				 .snapshot = snap,
				 .postgres = up,
				 .dbname = (char *)(uintptr_t)dbname,
				 .user = (char *)(uintptr_t)user,
				 .password = (char *)(uintptr_t)password,
				 .replication = replication };

	/* Each worker has one of its own: what its log-ins fail of may be one
	 * client's settings, and nothing in it could be handed on. */
	snprintf(name, sizeof(name), "%.100s replication=%s worker %u",
		 up->name, replication, home->worker);
	if (!pool_key(key, sizeof(key), name, dbname, user, 0))
		return NULL;
	if ((p = pool_lookup(home, key)) != NULL)
		return pool_renew(p, snap, password);
	return pool_make(home, &like, key);
}

static struct pool *
find_redis(struct pools *home, struct snapshot *snap,
	   const struct conf_redis *up, const char *user, const char *password,
	   unsigned db, int resp, bool lends, const char *node, unsigned port)
{
	char key[1024], kind[300];
	struct pool *p, like = { .ops = &redis_server_ops,
				 .snapshot = snap,
				 .redis = up,
				 .user = (char *)(uintptr_t)user,
				 .password = (char *)(uintptr_t)password,
				 .db = db,
				 .resp = resp,
				 .lends = lends,
				 .node = (char *)(uintptr_t)node,
				 .node_port = port };

	if (node != NULL)
		snprintf(kind, sizeof(kind), "%s %u %.255s",
			 lends ? "redis-dedicated" : "redis", port, node);
	else
		snprintf(kind, sizeof(kind), "%s",
			 lends ? "redis-dedicated" : "redis");
	if (!pool_key(key, sizeof(key), up->name, user ? user : "", kind,
		      db * 4 + (unsigned)resp))
		return NULL;
	if ((p = pool_lookup(home, key)) != NULL)
		return pool_renew(p, snap, password);
	return pool_make(home, &like, key);
}

struct pool *
pool_find_redis(struct pools *home, struct snapshot *snap,
		const struct conf_redis *up, const char *user,
		const char *password, unsigned db, int resp)
{
	return find_redis(home, snap, up, user, password, db, resp, false, NULL,
			  0);
}

struct pool *
pool_find_redis_lent(struct pools *home, struct snapshot *snap,
		     const struct conf_redis *up, const char *user,
		     const char *password, unsigned db, int resp)
{
	return find_redis(home, snap, up, user, password, db, resp, true, NULL,
			  0);
}

struct pool *
pool_find_redis_node(struct pools *home, struct snapshot *snap,
		     const struct conf_redis *up, const char *user,
		     const char *password, int resp, bool lends,
		     const char *node, unsigned port)
{
	return find_redis(home, snap, up, user, password, 0, resp, lends, node,
			  port);
}

struct pool *
pool_find_redis_sub(struct pools *home, struct snapshot *snap,
		    const struct conf_redis *up, const char *user,
		    const char *password, const char *node, unsigned port,
		    bool shards)
{
	char key[1024], kind[300] = "redis subscribe";
	struct pool *p, like = { .ops = &redis_sub_ops,
				 .snapshot = snap,
				 .redis = up,
				 .user = (char *)(uintptr_t)user,
				 .password = (char *)(uintptr_t)password,
				 .resp = 2,
				 .subscribes = true,
				 .node = (char *)(uintptr_t)node,
				 .node_port = port };

	if (node != NULL)
		snprintf(kind, sizeof(kind), "redis subscribe %s %u %.255s",
			 shards ? "shards" : "any", port, node);
	if (!pool_key(key, sizeof(key), up->name, user ? user : "", kind, 0))
		return NULL;
	if ((p = pool_lookup(home, key)) != NULL)
		return pool_renew(p, snap, password);
	return pool_make(home, &like, key);
}

void
pool_join(struct pool *p)
{
	atomic_fetch_add(&p->budget->users, 1);
	/* The first of all brings min_pool_size; and who comes now knows the
	 * password of now. */
	if (p->users++ == 0 || !p->joined)
		pool_touch(p);
	p->joined = true;
}

void
pool_leave(struct pool **at)
{
	struct pool *p = *at;

	*at = NULL;
	if (p == NULL)
		return;
	assert(p->users > 0);
	atomic_fetch_sub(&p->budget->users, 1);
	if (--p->users == 0)
		pool_touch(p);
}

/* ---- failure ---------------------------------------------------------- */

/* Is there hope without a dial of our own?  Servers that are lent come over
 * from other workers, shared Redis connections and walsenders do not. */
static bool
pool_has_servers(const struct pool *p)
{
	if (p->replication != NULL)
		return false;
	if (p->postgres != NULL || p->lends)
		return atomic_load(&p->budget->count) > 0;
	return p->n[SERVER_SHARED] > 0;
}

/* A host of the wrong role may be promoted any time. */
static uint64_t
retry_most(const struct pool *p, bool role)
{
	uint64_t most = p->snapshot->conf->server_login_retry_ms * 1000000u;

	role = role || (p->redis != NULL && p->redis->sentinel != NULL);
	if (role && most > POOL_ROLE_NS)
		most = POOL_ROLE_NS;
	/* With none, who waits would never be told, and we never be through. */
	return most < POOL_RETRY_FIRST_NS ? POOL_RETRY_FIRST_NS : most;
}

/* Attempts on their way to a host that has failed meanwhile. */
static void
pool_abandon(struct pool *p, const struct host *h, enum server_state state)
{
	uint64_t failed = atomic_load(&h->failed_ns);

	for (struct server *v = p->list[state]; v != NULL;)
		if (v->host == h && v->began_ns < failed) {
			server_close(v, WHY_ROOM, NULL, "host failed");
			v = p->list[state]; /* others may have gone with it */
		} else {
			v = v->next;
		}
}

void
pool_host_failed(struct pool *p, struct host *h, uint64_t began_ns, enum why w,
		 const char *sqlstate, const char *text)
{
	struct pools *home = p->home;
	uint64_t most = retry_most(p, w == WHY_WRONG_ROLE);
	char all[POOL_ERROR_MAX];

	if (text == NULL)
		text = why_table[w].text;
	if (w != WHY_WRONG_ROLE)
		host_doubt(h);
	if (host_failed(&home->budgets->hosts, h, began_ns,
			home->streams->now_ns, POOL_RETRY_FIRST_NS, most,
			text) &&
	    p->targets.n > 1)
		LOG(home->log, LOG_WARN, LOG_EV_HOST_DOWN,
		    log_str("pool", p->key), log_str("host", h->name),
		    log_num("port", h->port), log_str("error", text));
	if (p->targets.n == 1) {
		pool_failed(p, w, sqlstate, text);
	} else if (targets_have_other(p)) {
		p->next_host = true;
		pool_abandon(p, h, SERVER_DIAL);
		pool_abandon(p, h, SERVER_LOGIN);
		pool_touch(p);
	} else {
		targets_tell(p, all, sizeof(all));
		pool_failed(p, w, NULL, all);
	}
}

void
pool_failed(struct pool *p, enum why w, const char *sqlstate, const char *text)
{
	uint64_t most = retry_most(p, targets_misfit(p));
	struct pools *home = p->home;

	if (w == WHY_SHUTDOWN || w == WHY_RECONFIGURED || w == WHY_ROOM)
		return;
	if (text == NULL)
		text = why_table[w].text;
	if (budget_failed(home->budgets, p->budget, home->streams->now_ns,
			  POOL_RETRY_FIRST_NS, most, sqlstate, text) == 0 &&
	    p->replication == NULL)
		LOG(home->log, LOG_ERROR, LOG_EV_UPSTREAM_DOWN,
		    log_str("pool", p->key), log_str("error", text));
	pool_touch(p);
}

/* ---- matching --------------------------------------------------------- */

void
pool_touch(struct pool *p)
{
	if (p->dirty)
		return;
	p->dirty = true;
	p->dirty_next = p->home->dirty;
	p->home->dirty = p;
}

static void
count_waiting(struct pool *p, int64_t n)
{
	stats_add(p->home->stats,
		  p->postgres ? STAT_PG_WAITING : STAT_REDIS_WAITING, n);
}

/* The latest to come is the warmest; among the first few, one that carries
 * the lessee's settings already is better still. */
static struct server *
pool_pick(struct pool *p, const struct lessee *l)
{
	struct server *v = p->list[SERVER_IDLE], *first = NULL;

	for (int i = 0; v != NULL && i < 8; i++, v = v->next) {
		if (v->cancels > 0)
			continue;
		if (first == NULL)
			first = v;
		if (label_same(v->label, l->label))
			return v;
	}
	return p->replication == NULL ? first : NULL;
}

/*
 * An idle server may have died this very turn, its end not read yet: behind us
 * in the loop's list of events, or not in it.  One look at the socket saves a
 * client from being the one to find out, or from being told what was another's:
 * something may lie behind what was read last.  What comes after the look cannot
 * be told from an answer.
 */
static struct server *
pool_pick_alive(struct pool *p, const struct lessee *l)
{
	struct server *v;

	while ((v = pool_pick(p, l)) != NULL) {
		if (server_is_unwanted(v))
			server_dismiss(v);
		else if (stream_is_quiet(&v->stream))
			return v;
		else
			server_close(v, WHY_UPSTREAM_LOST, NULL, NULL);
	}
	return NULL;
}

/* Servers that may still come: being opened, or not yet. */
static int
pool_coming(const struct pool *p)
{
	int own = budget_room(p->budget), cap = budget_room(p->cap);
	int opening =
	    atomic_load(&p->budget->count) - atomic_load(&p->budget->ready);

	return (opening > 0 ? opening : 0) + (own < cap ? own : cap);
}

/* Counts one more that waits, unless there are too many on all workers. */
static bool
pool_may_wait(struct pool *p)
{
	int most = p->postgres ? (int)p->postgres->max_waiting_clients : 0;
	int before = atomic_fetch_add(&p->budget->waiters, 1);

	if (most == 0 || before < most + pool_coming(p))
		return true;
	atomic_fetch_sub(&p->budget->waiters, 1);
	return false;
}

/* ---- what an organization may have ------------------------------------ */

/* Its waiters here sit out, until one of its servers anywhere is free. */
static void
share_wait(struct pool *p, struct lessee *l)
{
	struct pools *home = p->home;
	struct budget *b = l->share;
	struct fair_queue **list = &b->side[home->worker].held;

	fair_hold(&p->waiters, l, list);
	stats_add(home->stats, STAT_TENANT_HELD, 1);
	budget_wait(home->budgets, b, home->worker, fair_held_ns(*list));
}

/* The last one is for the worker that has waited longest for it. */
static bool
share_take(struct pool *p, struct lessee *l)
{
	struct budget *b = l->share;
	uint64_t theirs;

	if (b == NULL)
		return true;
	if (budget_room(b) <= 1 &&
	    budget_longest(b, p->home->worker, &theirs) >= 0 &&
	    theirs + POOL_UNFAIR_NS < l->since_ns)
		return false;
	l->has_share = budget_take(b);
	return l->has_share;
}

/* Who has come later than others of its organization does not overtake them. */
static bool
share_is_open(const struct lessee *l)
{
	return l->share == NULL || !budget_is_wanted(l->share);
}

/* The last of those held back has left. */
static void
share_unwait(struct pool *p, struct budget *b)
{
	unsigned me = p->home->worker;

	if (b != NULL && b->side[me].held == NULL)
		budget_pass_on(p->home->budgets, b, me);
}

static void
share_nudged(struct budget_side *side)
{
	struct budget *b = side->budget;
	bool any = side->held != NULL;
	struct fair_queue *q;

	while ((q = side->held) != NULL) {
		struct pool *p = fair_head(q)->waiting;

		fair_resume(&p->waiters, q);
		pool_touch(p);
	}
	if (any)
		budget_pass_on(b->all, b, (unsigned)(side - b->side));
}

/* ---- two lanes ---------------------------------------------------------- */

/* May a second shared connection be opened, from what nobody else wants? */
static bool
pool_may_part(const struct pool *p)
{
	return !p->home->closing && budget_room(p->cap) > 0 &&
	       budget_room(p->budget) > 0 && !budget_is_wanted(p->cap) &&
	       atomic_load(&p->budget->failures) == 0;
}

/* The latest is first in the list.  One that leaves is for who has no other. */
static struct server *
pool_lane(const struct pool *p, const struct lessee *l)
{
	struct server *late = p->list[SERVER_SHARED], *early;

	if (late == NULL || late->next == NULL)
		return late;
	early = late->next;
	if (l->lane == LANE_QUICK)
		return early->leaving ? late : early;
	return late->leaving ? early : late;
}

/* Does it wait for the second? */
static bool
pool_parts(const struct pool *p, const struct lessee *l)
{
	return l->lane == LANE_HEAVY && p->n[SERVER_SHARED] == 1 &&
	       (pool_opening(p) > 0 || pool_may_part(p));
}

bool
pool_sets_apart(const struct pool *p, const struct server *v)
{
	const struct lessee heavy = { .lane = LANE_HEAVY };

	return pool_lane(p, &heavy) != v || pool_parts(p, &heavy);
}

static struct server *
pool_shared(struct pool *p, struct lessee *l)
{
	struct server *v = pool_lane(p, l);

	/* Without any, the first to come is as good as the second. */
	if (v == NULL && l->lane == LANE_HEAVY)
		l->lane = LANE_HEAVY_NOW;
	return v == NULL || pool_parts(p, l) ? NULL : v;
}

bool
pool_want(struct pool *p, struct lessee *l)
{
	struct server *v;

	l->since_ns = p->home->streams->now_ns;
	assert(l->server == NULL && l->waiting == NULL);
	if (l->mode == LEASE_SHARED) {
		if ((v = pool_shared(p, l)) != NULL) {
			l->server = v;
			return true;
		}
	} else if (p->waiters.n == 0 && !budget_is_wanted(p->cap) &&
		   share_is_open(l) && (v = pool_pick_alive(p, l)) != NULL &&
		   share_take(p, l)) {
		server_grant(v, l);
		return true;
	}
	l->waiting = p;
	l->excess = !pool_may_wait(p);
	fair_put(l->excess ? &p->excess : &p->waiters, l);
	count_waiting(p, 1);
	if (l->mode == LEASE_EXCLUSIVE && !l->excess && l->share != NULL &&
	    budget_room(l->share) == 0)
		share_wait(p, l);
	pool_touch(p);
	return false;
}

static void
pool_unqueue(struct pool *p, struct lessee *l)
{
	uint64_t now = p->home->streams->now_ns;

	l->waiting = NULL;
	if (!l->excess)
		atomic_fetch_sub(&p->budget->waiters, 1);
	count_waiting(p, -1);
	stats_add(p->home->stats, STAT_WAIT_US,
		  (int64_t)((now - l->since_ns) / 1000));
}

void
pool_unwant(struct lessee *l)
{
	struct pool *p = l->waiting;

	if (p == NULL)
		return;
	fair_remove(l->excess ? &p->excess : &p->waiters, l);
	pool_unqueue(p, l);
	share_unwait(p, l->share);
	pool_touch(p);
}

/* ---- between workers -------------------------------------------------- */

static void
server_arrives(struct message *m, void *owner)
{
	struct server *v =
	    (struct server *)(void *)((char *)m -
				      offsetof(struct server, move));
	/* The worker it was sent to waited, so it has the pool; and both
	 * halves stay while the server is counted in their budget. */
	struct pool *p = v->pool->budget->side[v->destination].pool;
	struct pools *home = p->home;

	(void)owner;
	assert(v->state == SERVER_MOVING && home->worker == v->destination);
	assert(strcmp(p->key, v->pool->key) == 0);
	v->pool = p;
	p->held++;
	p->served = true;
	home->n++;
	stats_add(home->stats, v->ops->stat_open, 1);
	stream_attach(&v->stream, home->streams);
	server_rest(v);
	if (home->closing)
		server_close(v, WHY_SHUTDOWN, NULL, NULL);
}

static void
server_move(struct server *v, unsigned worker)
{
	struct pools *home = v->pool->home;

	server_enter(v, SERVER_MOVING);
	stream_detach(&v->stream);
	v->pool->held--;
	home->n--;
	stats_add(home->stats, v->ops->stat_open, -1);
	stats_add(home->stats, STAT_SERVER_MOVED, 1);
	v->destination = worker;
	v->move.run = server_arrives;
	mailbox_post(home->mailboxes[worker], &v->move);
}

/* One to give away: nothing on its way to the socket, nothing received. */
static struct server *
pool_spare(struct pool *p)
{
	for (struct server *v = p->list[SERVER_IDLE]; v; v = v->next)
		if (v->cancels == 0 && !v->stream.dirty && !v->stream.blocked &&
		    buf_len(&v->stream.in) == 0 && buf_len(&v->stream.out) == 0)
			return v;
	return NULL;
}

/* Does another worker deserve the next idle server more than we do? */
static int
pool_deserves(struct pool *p)
{
	struct fair_claim ours;

	if (p->home->budgets->workers == 1)
		return -1;
	fair_choose(&p->waiters);
	ours = fair_claim(&p->waiters);
	return budget_deserving(p->budget, p->home->worker, &ours,
				POOL_UNFAIR_NS);
}

/* Hands one server to the worker that has waited longest, if it deserves it. */
static bool
pool_share(struct pool *p)
{
	struct server *v;
	int who;

	if (p->list[SERVER_IDLE] == NULL || (who = pool_deserves(p)) < 0)
		return false;
	if ((v = pool_spare(p)) == NULL)
		return false;
	/* Its wait is over as far as we can see; it raises its hand again
	 * when this one did not suffice. */
	budget_wait_over(p->budget, (unsigned)who);
	server_move(v, (unsigned)who);
	return true;
}

void
pools_nudged(struct message *m, void *owner)
{
	struct budget_side *side = budget_nudged(m);
	struct budget *b = side->budget;

	(void)owner;
	if (side->pool != NULL)
		pool_touch(side->pool);
	share_nudged(side);
	room_nudged(side);
	budget_unref(b->all, &b);
}

/* ---- the turn --------------------------------------------------------- */

static unsigned
pool_wants(const struct pool *p)
{
	unsigned most = POOL_OPENING_MAX + p->n[SERVER_RESET];
	unsigned want = p->redis != NULL && !p->lends
			    ? p->waiters.n > 0
			    : fair_wants(&p->waiters, most);
	unsigned opening = pool_opening(p) + p->n[SERVER_RESET];

	/* Or one at a time for each host, while none of several is well. */
	if (p->targets.n > 1 && !targets_are_well(p))
		return want > opening && p->probes < p->targets.n;
	/* While attempts fail, one at a time is enough to find out; and a
	 * walsender is opened for whoever is next. */
	if (want > 1 &&
	    (p->replication != NULL || atomic_load(&p->budget->failures) > 0))
		want = 1;
	return want > opening ? want - opening : 0;
}

/* How many more have waited so long that the reserve is for them. */
static unsigned
pool_wants_reserve(const struct pool *p)
{
	uint64_t now = p->home->streams->now_ns, wait;
	unsigned n, opening = pool_opening(p) + p->n[SERVER_RESET];

	if (p->postgres == NULL || p->replication != NULL ||
	    p->postgres->reserve_pool_size == 0)
		return 0;
	wait = p->postgres->reserve_pool_timeout_ms * 1000000u;
	if (now <= wait)
		return 0;
	n = fair_older(&p->waiters, now - wait + 1, POOL_OPENING_MAX);
	return n > opening ? n - opening : 0;
}

int
pool_floor(const struct pool *p)
{
	int least, limit = atomic_load(&p->budget->limit);

	if (p->subscribes || p->replication != NULL ||
	    (p->redis != NULL && !p->lends) ||
	    (!p->known && atomic_load(&p->budget->users) == 0))
		return 0;
	least = p->postgres ? (int)p->postgres->min_pool_size
			    : (int)p->redis->min_dedicated_connections;
	return least < limit ? least : limit;
}

/* Opened where a client of the pool is: only there its keys may be known. */
static bool
pool_lacks(const struct pool *p)
{
	bool fails = atomic_load(&p->budget->failures) > 0;

	return (p->known || p->users > 0) &&
	       atomic_load(&p->budget->count) < pool_floor(p) &&
	       pool_opening(p) + p->probes < (fails ? 1 : POOL_OPENING_MAX);
}

/* Where commands of all are sent, one of them may need a server alone. */
static void
pool_warm(struct pool *p)
{
	bool warm = p->redis != NULL && !p->lends && !p->subscribes &&
		    p->node == NULL && p->users > 0 && p->joined &&
		    !p->home->closing &&
		    p->redis->min_dedicated_connections > 0;

	if (warm == (p->warm != NULL))
		return;
	if (!warm) {
		pool_leave(&p->warm);
		return;
	}
	p->warm = pool_find_redis_lent(p->home, p->snapshot, p->redis, p->user,
				       p->password, p->db, p->resp);
	if (p->warm != NULL)
		pool_join(p->warm);
}

/* A probe holds a place only as long as nobody else wants it. */
static bool
pool_end_probe(struct pool *p)
{
	for (int state = SERVER_DIAL; state <= SERVER_LOGIN; state++)
		for (struct server *v = p->list[state]; v; v = v->next)
			if (v->probe) {
				server_close(v, WHY_ROOM, NULL, NULL);
				return true;
			}
	return false;
}

/* One server more, to the host that is next; NULL: that is all for now. */
static struct server *
pool_open(struct pool *p, int most, bool (*take)(struct pool *, int))
{
	struct target *t = targets_next(p);

	if (t == NULL)
		return NULL;
	if (!take(p, most)) {
		if (!pool_end_probe(p) || !take(p, most))
			return NULL;
		p->capped = false;
	}
	p->next_host = false;
	return server_open(p, t);
}

/* Is a host that failed back?  With a place to spare, and no client waits. */
static void
pool_probe(struct pool *p)
{
	int limit = atomic_load(&p->budget->limit);
	struct target *t;

	if (p->targets.n == 1 || p->replication != NULL ||
	    budget_room(p->budget) == 0 || budget_room(p->cap) == 0 ||
	    (t = targets_probe(p)) == NULL)
		return;
	if (room_take_spare(p, limit))
		server_open(p, t);
}

/* For those who wait, from the reserve if they have waited long, and for
 * nobody in particular. */
static void
pool_dial(struct pool *p)
{
	int limit = atomic_load(&p->budget->limit);
	int extra = p->postgres ? (int)p->postgres->reserve_pool_size : 0;
	bool (*take)(struct pool *, int) = room_take;
	unsigned want = pool_wants(p);
	struct server *v;

	if (p->n[SERVER_SHARED] > 0)
		take = room_take_spare;
	for (; want > 0 && (v = pool_open(p, limit, take)); want--)
		if (p->replication != NULL)
			v->label = label_ref(fair_first(&p->waiters)->label);
	if (want == 0 || p->capped || budget_room(p->budget) > 0)
		return;
	want = pool_wants_reserve(p);
	for (; want > 0 && pool_open(p, limit + extra, room_take); want--)
		stats_add(p->home->stats, STAT_SERVER_RESERVE, 1);
}

static void
pool_fill(struct pool *p)
{
	while (pool_lacks(p) && pool_open(p, pool_floor(p), room_take_spare))
		;
}

/* Nothing there, nothing coming: whoever waits hears why; of a walsender only
 * the one it was opened for. */
static void
pool_fail_waiters(struct pool *p)
{
	char sqlstate[6], text[POOL_ERROR_MAX];
	struct lessee *l;

	budget_error(p->home->budgets, p->budget, sqlstate, text);
	while ((l = fair_take(&p->waiters)) != NULL) {
		pool_unqueue(p, l);
		l->ops->lost(l, WHY_UPSTREAM_DOWN,
			     sqlstate[0] ? sqlstate : NULL, text);
		if (p->replication != NULL)
			break;
	}
	if (p->replication != NULL)
		budget_recovered(p->budget);
}

static void
pool_grant_waiters(struct pool *p)
{
	struct lessee *l;

	while (p->waiters.n > 0) {
		struct server *v;

		if (p->list[SERVER_IDLE] == NULL || pool_deserves(p) >= 0)
			break;
		l = fair_first(&p->waiters);
		if ((p->replication == NULL && room_owes(p)) ||
		    (v = pool_pick_alive(p, l)) == NULL)
			break;
		if (!share_take(p, l)) {
			share_wait(p, l);
			continue;
		}
		fair_serve(&p->waiters, p->home->streams->now_ns);
		pool_unqueue(p, l);
		server_grant(v, l);
		l->ops->granted(l, v);
	}
}

/* Those who share; `settled`: no second connection is to come. */
static void
pool_grant_sharers(struct pool *p, bool settled)
{
	struct server *v;
	struct lessee *l;

	while (p->n[SERVER_SHARED] > 0 && p->waiters.n > 0) {
		l = fair_first(&p->waiters);
		if (settled && l->lane == LANE_HEAVY)
			l->lane = LANE_HEAVY_NOW;
		if ((v = pool_shared(p, l)) == NULL)
			break;
		fair_serve(&p->waiters, p->home->streams->now_ns);
		pool_unqueue(p, l);
		l->ops->granted(l, v);
	}
}

/* When an unused pool is looked at again; 0: it may go now. */
static uint64_t
pool_keep(struct pool *p)
{
	uint64_t now = p->home->streams->now_ns, keep = POOL_FAILED_NS, end;

	if (p->served)
		keep = p->snapshot->conf->pool_idle_timeout_ms * 1000000u;
	if (atomic_load(&p->home->budgets->n) > BUDGETS_MAX / 2)
		keep = POOL_CROWDED_NS;
	else if (keep == 0)
		return UINT64_MAX;
	end = p->unused_ns + keep;
	if (now >= end && atomic_load(&p->budget->count) == 0)
		return 0;
	/* Soon enough for when there are too many. */
	return now + (keep < POOL_FAILED_NS ? keep : POOL_FAILED_NS);
}

static uint64_t
pool_show_unused(struct pool *p)
{
	uint64_t again;

	if (!pool_is_unused(p)) {
		p->unused_ns = 0;
		return UINT64_MAX;
	}
	if (p->unused_ns == 0)
		p->unused_ns = p->home->streams->now_ns;
	if ((again = pool_keep(p)) > 0)
		return again;
	if (!p->gone) {
		p->gone = true;
		p->gone_next = p->home->gone;
		p->home->gone = p;
	}
	/* Unless somebody needs it this very turn. */
	return p->home->streams->now_ns + POOL_CROWDED_NS;
}

/* What the other workers see of us, and when we look again by ourselves. */
static void
pool_show(struct pool *p)
{
	struct budgets *all = p->home->budgets;
	unsigned me = p->home->worker;
	uint64_t now = p->home->streams->now_ns, watch = targets_watch(p);
	uint64_t again = pool_show_unused(p);
	struct fair_claim claim;

	if (p->list[SERVER_IDLE] != NULL)
		budget_idle(p->budget, me);
	else
		budget_idle_over(p->budget, me);
	if (p->waiters.n > pool_opening(p) + p->n[SERVER_RESET]) {
		fair_choose(&p->waiters);
		claim = fair_claim(&p->waiters);
		budget_claims(all, p->budget, me, &claim);
		again = now + POOL_AGAIN_NS;
	} else {
		budget_wait_over(p->budget, me);
	}
	if (again > now + POOL_MIN_NS && pool_lacks(p))
		again = now + POOL_MIN_NS;
	if (watch < again)
		again = watch;
	room_show(p);
	wheel_set(&p->home->streams->wheel, &p->timer,
		  again == UINT64_MAX ? 0 : again);
	/* Look once more: a waiter elsewhere may have come between. */
	if (pool_share(p) || room_cede(p))
		pool_touch(p);
}

/* Does anybody here wait in vain while every attempt fails? */
static bool
pool_is_hopeless(const struct pool *p)
{
	return p->waiters.n > 0 && !targets_resolving(p) &&
	       pool_opening(p) == 0 && !p->next_host && !pool_has_servers(p) &&
	       atomic_load(&p->budget->failures) > 0;
}

/* Who waits where too many do hears so in the turn in which it asked. */
static void
pool_refuse_excess(struct pool *p)
{
	struct lessee *l;

	while ((l = fair_take(&p->excess)) != NULL) {
		pool_unqueue(p, l);
		stats_add(p->home->stats, STAT_QUEUE_REFUSED, 1);
		l->ops->lost(l, WHY_QUEUE_FULL, NULL, NULL);
	}
}

/* A host has changed its role: its idle servers go. */
static void
pool_sweep(struct pool *p)
{
	unsigned epochs = targets_epochs(p);

	if (!p->sweep && epochs == p->epochs)
		return;
	p->sweep = false;
	p->epochs = epochs;
	for (struct server *v = p->list[SERVER_IDLE]; v != NULL;)
		if (server_is_unwanted(v)) {
			server_dismiss(v);
			v = p->list[SERVER_IDLE];
		} else {
			v = v->next;
		}
}

static void
pool_poke(struct pool *p)
{
	uint64_t now = p->home->streams->now_ns;
	bool wants;

	pool_sweep(p);
	pool_warm(p);
	pool_refuse_excess(p);
	pool_grant_sharers(p, false);
	do
		pool_grant_waiters(p);
	while (pool_share(p) || room_cede(p));
	/* A walsender whose client did not wait for it is nobody's. */
	if (p->replication != NULL)
		pool_close_all(p, SERVER_IDLE, WHY_ROOM);
	p->capped = false;
	wants = p->waiters.n > 0 && pool_wants(p) > 0;
	if ((wants || pool_lacks(p)) && !p->home->closing &&
	    (p->next_host ||
	     budget_may_try(p->budget, now, POOL_RETRY_FIRST_NS))) {
		pool_dial(p);
		pool_fill(p);
		pool_probe(p);
		if (p->capped && pool_opening(p) == 0)
			budget_untried(p->budget, now, POOL_RETRY_FIRST_NS);
	}
	if (pool_opening(p) == 0)
		pool_grant_sharers(p, true);
	if (pool_is_hopeless(p))
		pool_fail_waiters(p);
	pool_show(p);
}

void
pools_poke(struct pools *home)
{
	struct pool *p;

	while ((p = home->dirty) != NULL) {
		home->dirty = p->dirty_next;
		p->dirty_next = NULL;
		p->dirty = false;
		pool_poke(p);
	}
}

/* ---- reload ----------------------------------------------------------- */

/* Those that are shared.  NULL: none stays, but what is asked of it is answered. */
static void
pool_end_shared(struct pool *p, const struct host *stays, enum why w)
{
	for (struct server *v = p->list[SERVER_SHARED]; v != NULL;)
		if (v->host != stays &&
		    (v->ledger.n == 0 || (stays != NULL && v->hung))) {
			server_close(v, w, NULL, NULL);
			v = p->list[SERVER_SHARED]; /* others may have gone */
		} else {
			v->leaving |= v->host != stays;
			v = v->next;
		}
}

/* Those at work end when they are released: server_is_unwanted(). */
static void
pool_retire(struct pool *p)
{
	pool_close_all(p, SERVER_IDLE, WHY_RECONFIGURED);
	pool_close_all(p, SERVER_DIAL, WHY_RECONFIGURED);
	pool_close_all(p, SERVER_LOGIN, WHY_RECONFIGURED);
	pool_end_shared(p, NULL, WHY_RECONFIGURED);
	budget_recovered(p->budget);
}

/* As in pool_retire(), but the pool is the same, and those of the host it has
 * now stay. */
void
pool_forsake(struct pool *p)
{
	const struct host *stays = p->targets.at[0].host;

	p->sweep = true; /* the idle ones, at its next turn */
	for (int state = SERVER_DIAL; state <= SERVER_LOGIN; state++)
		for (struct server *v = p->list[state]; v != NULL;)
			if (v->host != stays) {
				server_close(v, WHY_ROOM, NULL, NULL);
				v = p->list[state];
			} else {
				v = v->next;
			}
	pool_end_shared(p, stays, WHY_WRONG_ROLE);
	pool_touch(p);
}

/* More than a lowered limit allows: idle ones go, the others when released. */
static void
pool_shrink(struct pool *p)
{
	while (p->list[SERVER_IDLE] != NULL &&
	       (budget_is_over(p->budget, 0) || budget_is_over(p->cap, 0)))
		server_close(p->list[SERVER_IDLE], WHY_RECONFIGURED, NULL,
			     NULL);
}

/* To the hosts of a new configuration, with nothing held against them. */
static void
pool_move(struct pool *p)
{
	targets_fini(p);
	p->next_host = false;
	if (targets_init(p) != 0)
		LOG(p->home->log, LOG_ERROR, LOG_EV_FAULT,
		    log_str("pool", p->key),
		    log_str("error", "too many hosts"));
	for (unsigned i = 0; i < p->targets.n; i++)
		host_works(p->targets.at[i].host);
}

static void
pool_reload(struct pool *p, struct snapshot *snap)
{
	const struct conf_postgres *pg = NULL;
	const struct conf_redis *redis = NULL;
	uint64_t before = p->origin;

	if (p->postgres != NULL)
		pg = conf_postgres_find(snap->conf, p->postgres->name);
	else
		redis = conf_redis_find(snap->conf, p->redis->name);
	if (pg == NULL && redis == NULL) {
		pool_retire(p); /* gone; those at work end with their work */
		p->known = false;
		budget_limit(p->budget, 0);
		budget_limit(p->cap, 0);
		return;
	}
	snapshot_ref(snap);
	snapshot_unref(&p->snapshot);
	p->snapshot = snap;
	p->postgres = pg;
	p->redis = redis;
	p->known = false; /* pools_open_known() says it again */
	budget_limit(p->budget, pool_limit(p));
	budget_limit(p->cap, pool_cap(p));
	p->origin = pool_origin(p);
	if (p->origin != before) {
		pool_leave(&p->warm);
		p->joined = false;
		pool_retire(p);
		pool_move(p);
	}
	if (pg != NULL && pg->password != NULL &&
	    (pg->user == NULL || same_text(pg->user, p->user)))
		pool_renew(p, snap, pg->password);
	pool_shrink(p);
	pool_touch(p);
}

static void
pool_open_known(struct pools *home, struct snapshot *snap,
		const struct conf_postgres *up, const char *dbname)
{
	struct pool *p;

	if (dbname == NULL || up->user == NULL || up->min_pool_size == 0)
		return;
	p = pool_find_postgres(home, snap, up, dbname, up->user, up->password);
	if (p == NULL)
		return;
	p->known = true;
	pool_touch(p);
}

void
pools_open_known(struct pools *home, struct snapshot *snap)
{
	const struct conf *c = snap->conf;

	for (size_t i = 0; i < c->postgres_n; i++)
		pool_open_known(home, snap, &c->postgres[i],
				c->postgres[i].dbname);
	for (size_t i = 0; i < c->database_n; i++) {
		const struct conf_database *d = &c->database[i];
		const char *name = strcmp(d->name, "*") == 0 ? NULL : d->name;

		if (d->postgres == NULL)
			continue;
		if (d->postgres->dbname != NULL)
			name = d->postgres->dbname;
		pool_open_known(home, snap, d->postgres,
				d->dbname ? d->dbname : name);
	}
}

void
pools_reload(struct pools *home, struct snapshot *snap)
{
	for (unsigned i = 0; i < POOL_BUCKETS; i++)
		for (struct pool *p = home->bucket[i]; p; p = p->chain)
			pool_reload(p, snap);
	pools_open_known(home, snap);
}
