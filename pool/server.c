#include "pool/server.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "pool/pool.h"
#include "pool/room.h"

static const struct {
	const char *name;
	unsigned to;
} states[SERVER_MAX] = {
#define TO(name)    (1u << SERVER_##name)
#define X(name, to) [SERVER_##name] = { #name, (to) },
	SERVER_STATES(X)
#undef X
#undef TO
};

const char *
server_state_name(enum server_state state)
{
	assert(state < SERVER_MAX);
	return states[state].name;
}

/* Every state may end; nothing leaves DEAD. */
bool
server_may_go(enum server_state from, enum server_state to)
{
	assert(from < SERVER_MAX && to < SERVER_MAX);
	if (from == SERVER_DEAD)
		return false;
	return to == SERVER_DEAD || states[from].to & 1u << to;
}

static void
count_idle(const struct server *v, int n)
{
	if (v->state == SERVER_IDLE && v->ops == &pg_server_ops)
		stats_add(v->pool->home->stats, STAT_PG_SERVERS_IDLE, n);
}

static bool
is_opening(const struct server *v)
{
	return v->state == SERVER_DIAL || v->state == SERVER_LOGIN;
}

static void
server_link(struct server *v)
{
	struct server **list = &v->pool->list[v->state];

	v->next = *list;
	v->prev = list;
	if (v->next != NULL)
		v->next->prev = &v->next;
	*list = v;
	v->pool->n[v->state]++;
	v->pool->probes += v->probe && is_opening(v);
	count_idle(v, 1);
}

static void
server_unlink(struct server *v)
{
	*v->prev = v->next;
	if (v->next != NULL)
		v->next->prev = v->prev;
	v->next = NULL;
	v->prev = NULL;
	v->pool->n[v->state]--;
	v->pool->probes -= v->probe && is_opening(v);
	count_idle(v, -1);
}

static uint64_t
after(uint64_t from_ns, uint64_t ms)
{
	return ms ? from_ns + ms * 1000000u : UINT64_MAX;
}

/* Deadlines follow from the state; the wheel makes moving them free. */
static void
server_arm(struct server *v)
{
	const struct conf *c = v->pool->snapshot->conf;
	uint64_t now = v->pool->home->streams->now_ns, when = 0, life;

	switch (v->state) {
	case SERVER_DIAL:
	case SERVER_LOGIN:
	case SERVER_RESET:
		when = after(now, c->server_connect_timeout_ms);
		if (v->probe && is_opening(v) && targets_are_well(v->pool) &&
		    when > now + TARGET_PROBE_NS)
			when = now + TARGET_PROBE_NS;
		break;
	case SERVER_IDLE:
	case SERVER_SHARED:
		when = after(v->idle_ns, c->server_idle_timeout_ms);
		life = after(v->opened_ns, c->server_lifetime_ms);
		when = life < when ? life : when;
		if (budget_is_over(v->pool->budget, 0) &&
		    v->idle_ns + POOL_RESERVE_IDLE_NS < when)
			when = v->idle_ns + POOL_RESERVE_IDLE_NS;
		break;
	case SERVER_MOVING:
	case SERVER_LEASED:
	case SERVER_DEAD:
	case SERVER_MAX:
		break;
	}
	stream_deadline(&v->stream, when == UINT64_MAX ? 0 : when);
}

/* The invariants of a state, stated once. */
static void
server_check(const struct server *v)
{
	assert((v->state == SERVER_LEASED) == (v->lessee != NULL));
	if (v->state == SERVER_IDLE || v->state == SERVER_MOVING)
		assert(v->ledger.n == 0 && v->tenant == NULL);
}

void
server_enter(struct server *v, enum server_state to)
{
	assert(v->magic == SERVER_MAGIC);
	assert(server_may_go(v->state, to));
	if (v->prev != NULL)
		server_unlink(v);
	v->state = to;
	server_check(v);
	if (to == SERVER_IDLE || to == SERVER_SHARED)
		v->idle_ns = v->pool->home->streams->now_ns;
	if (to != SERVER_MOVING && to != SERVER_DEAD) {
		server_link(v);
		server_arm(v);
	}
}

/* ---- opening ---------------------------------------------------------- */

static void server_event(struct stream *, enum stream_event);

static struct server *
server_of(struct stream *st)
{
	return (struct server *)(void *)((char *)st -
					 offsetof(struct server, stream));
}

enum { SERVER_OUT_MAX = 1 << 30 };

/* The next of its host's addresses, from the one that worked last time; -1
 * when none is left. */
static int
server_dial(struct server *v)
{
	struct pool *p = v->pool;
	struct target *t = v->target;

	while (v->tried < t->address_n) {
		struct address *a =
		    &t->address[(v->first + v->tried++) % t->address_n];

		if (stream_dial(&v->stream, p->home->streams,
				(struct sockaddr *)&a->addr, a->len,
				server_event, SERVER_OUT_MAX, p->ops->stat_in,
				p->ops->stat_out) == 0)
			return 0;
	}
	return -1;
}

struct server *
server_open(struct pool *p, struct target *t)
{
	struct pools *home = p->home;
	struct server *v = calloc(1, p->ops->size);

	if (v == NULL)
		abort();
	v->magic = SERVER_MAGIC;
	v->state = SERVER_DIAL;
	v->id = ++home->last_id;
	v->worker = home->worker;
	v->pool = p;
	v->ops = p->ops;
	v->stream.fd = -1;
	v->target = t;
	v->first = t->first;
	v->host = host_keep(&home->budgets->hosts, t->host);
	v->origin = p->origin;
	v->began_ns = home->streams->now_ns;
	if ((v->probe = p->targets.n > 1 && !target_is_well(t)))
		target_claim(t);
	p->ops->init(v);
	server_link(v);
	p->held++;
	home->n++;
	stats_add(home->stats, p->ops->stat_open, 1);
	if (server_dial(v) != 0) {
		server_close(v, WHY_UPSTREAM_DOWN, NULL, v->stream.error);
		return NULL;
	}
	server_arm(v);
	return v;
}

int
server_start_tls(struct server *v, SSL_CTX *ctx, const char *host,
		 bool verify_name)
{
	if (stream_start_tls(&v->stream, ctx, false, host, verify_name) != 0)
		return -1;
	resume_offer(&v->pool->snapshot->resume, v->stream.ssl);
	return 0;
}

void
server_ready(struct server *v)
{
	struct pool *p = v->pool;
	bool was_down =
	    !atomic_load(&p->budget->doubted) && budget_recovered(p->budget);

	v->ready = true;
	p->served = true;
	atomic_fetch_add(&p->budget->ready, 1);
	v->opened_ns = p->home->streams->now_ns;
	v->epoch = atomic_load(&v->host->epoch);
	stats_add(p->home->stats, STAT_SERVER_OPENED, 1);
	if (v->stream.ssl != NULL)
		resume_keep(&p->snapshot->resume, v->stream.ssl);
	if (host_works(v->host) && p->targets.n > 1)
		LOG(p->home->log, LOG_INFO, LOG_EV_HOST_UP,
		    log_str("pool", p->key), log_str("host", v->host->name),
		    log_num("port", v->host->port));
	if (was_down)
		LOG(p->home->log, LOG_INFO, LOG_EV_UPSTREAM_UP,
		    log_str("pool", p->key));
	LOG(p->home->log, LOG_INFO, LOG_EV_SERVER_OPEN,
	    log_id("server", v->worker, v->id), log_str("pool", p->key),
	    log_str("host", v->host->name), log_num("port", v->host->port),
	    log_str("tls",
		    v->stream.ssl ? SSL_get_version(v->stream.ssl) : "off"));
	pool_touch(p);
}

void
server_proves(struct server *v)
{
	struct pool *p = v->pool;

	if (v->proven)
		return;
	v->proven = true;
	if (!atomic_load(&p->budget->doubted) || !budget_recovered(p->budget))
		return;
	LOG(p->home->log, LOG_INFO, LOG_EV_UPSTREAM_UP,
	    log_str("pool", p->key));
	pool_touch(p);
}

/* ---- lending ---------------------------------------------------------- */

void
server_grant(struct server *v, struct lessee *l)
{
	assert(v->state == SERVER_IDLE && l->server == NULL);
	assert(l->waiting == NULL && v->lessee == NULL);
	v->lent = true;
	v->lessee = l;
	l->server = v;
	server_enter(v, SERVER_LEASED);
	v->ops->bind(v, l);
}

static void
server_part(struct server *v)
{
	assert(v->lessee != NULL && v->lessee->server == v);
	v->lessee->server = NULL;
	if (v->lessee->has_share)
		budget_give(v->pool->home->budgets, v->lessee->share);
	v->lessee->has_share = false;
	v->lessee = NULL;
}

static bool
server_is_old(const struct server *v)
{
	uint64_t life = v->pool->snapshot->conf->server_lifetime_ms;

	return life != 0 &&
	       v->pool->home->streams->now_ns >= v->opened_ns + life * 1000000u;
}

bool
server_is_unwanted(const struct server *v)
{
	const struct conf_postgres *up = v->pool->postgres;
	const struct conf_redis *redis = v->pool->redis;

	if (v->leaving || v->origin != v->pool->origin)
		return true;
	if (redis != NULL && redis->sentinel != NULL)
		return v->host != v->pool->targets.at[0].host;
	return up != NULL && up->target_role != ROLE_ANY &&
	       v->epoch != atomic_load(&v->host->epoch);
}

void
server_dismiss(struct server *v)
{
	server_close(
	    v, v->origin != v->pool->origin ? WHY_RECONFIGURED : WHY_WRONG_ROLE,
	    NULL, NULL);
}

void
server_rest(struct server *v)
{
	if (server_is_unwanted(v)) {
		server_dismiss(v);
		return;
	}
	/* The lessee's, which may be freed before the next one comes. */
	v->tenant = NULL;
	server_enter(v, SERVER_IDLE);
	pool_touch(v->pool);
}

void
server_release(struct server *v)
{
	struct pool *p = v->pool;

	assert(v->state == SERVER_LEASED);
	if (v->ledger.n > 0) {
		server_part(v);
		stats_add(p->home->stats, STAT_SERVER_DOUBTED, 1);
		server_close(v, WHY_ABANDONED, NULL, NULL);
		return;
	}
	server_part(v);
	if (p->replication != NULL) {
		server_close(v, WHY_QUIT, NULL, NULL);
	} else if (server_is_old(v)) {
		server_close(v, WHY_SERVER_LIFETIME, NULL, NULL);
	} else if (room_is_over(p)) {
		server_close(v, WHY_RECONFIGURED, NULL, NULL);
	} else if (server_is_unwanted(v)) {
		server_dismiss(v);
	} else if (v->ops->dirty(v)) {
		server_enter(v, SERVER_RESET);
		v->ops->clean(v);
	} else {
		server_rest(v);
	}
}

/* ---- closing ---------------------------------------------------------- */

static void
server_log_close(struct server *v, enum why w, const char *sqlstate,
		 const char *text)
{
	struct pools *home = v->pool->home;
	enum log_level level =
	    why_table[w].ours && w != WHY_SHUTDOWN ? LOG_WARN : LOG_INFO;

	LOG(home->log, level, LOG_EV_SERVER_CLOSE,
	    log_id("server", v->worker, v->id), log_str("pool", v->pool->key),
	    log_str("state", server_state_name(v->state)),
	    log_str("why", why_table[w].name),
	    log_str("sqlstate", sqlstate ? sqlstate : ""),
	    log_str("error", text ? text : ""));
}

/* Would another host do better?  Not where this one knows us and refuses. */
static bool
server_blames_host(const struct server *v, enum why w, const char *sqlstate)
{
	if (w == WHY_CONNECT_TIMEOUT || w == WHY_WRONG_ROLE)
		return true;
	if (w != WHY_UPSTREAM_DOWN)
		return false;
	/* Shut down, crashed, starting up; or a pooler that cannot connect. */
	if (sqlstate != NULL)
		return strncmp(sqlstate, "57P0", 4) == 0 ||
		       strncmp(sqlstate, "08", 2) == 0;
	return !v->answered;
}

static void
server_unopened(struct server *v, enum why w, const char *sqlstate,
		const char *text)
{
	if (server_blames_host(v, w, sqlstate)) {
		pool_host_failed(v->pool, v->host, v->began_ns, w, sqlstate,
				 text);
		return;
	}
	if (v->answered)
		host_works(v->host);
	pool_failed(v->pool, w, sqlstate, text);
}

/*
 * Logged in, and then of no use to anybody: what it says is nonsense, or it is
 * gone at once, before anybody had it.  That is an attempt that
 * failed, or nothing would keep the next from being made this very turn.
 */
static bool
server_is_dud(const struct server *v, enum why w)
{
	const struct pool *p = v->pool;

	if (!v->ready || v->proven || p->replication != NULL)
		return false;
	return w == WHY_UPSTREAM_SENSE ||
	       (w == WHY_UPSTREAM_LOST && v->state == SERVER_IDLE && !v->lent &&
		p->home->streams->now_ns < v->opened_ns + POOL_RETRY_FIRST_NS);
}

void
server_close(struct server *v, enum why w, const char *sqlstate,
	     const char *text)
{
	struct pool *p = v->pool;
	struct pools *home = p->home;
	bool opening = is_opening(v), dud = server_is_dud(v, w);
	struct lessee *l = v->lessee;

	assert(v->magic == SERVER_MAGIC);
	if (v->state == SERVER_DEAD)
		return;
	server_log_close(v, w, sqlstate, text);
	if (l != NULL)
		server_part(v);
	v->ops->goodbye(v);
	server_enter(v, SERVER_DEAD);
	stats_add(home->stats, v->ops->stat_open, -1);
	stats_add(home->stats,
		  opening ? STAT_SERVER_FAILED : STAT_SERVER_CLOSED, 1);
	v->next = home->dead;
	home->dead = v;
	home->n--;
	targets_doubt(p);
	if (opening)
		server_unopened(v, w, sqlstate, text);
	else if (sqlstate != NULL && strncmp(sqlstate, "57P0", 4) == 0)
		host_doubt(v->host); /* it may come back as something else */
	if (dud) {
		atomic_store(&p->budget->doubted, true);
		pool_host_failed(p, v->host, v->began_ns, w, sqlstate, text);
	}
	if (l != NULL)
		l->ops->lost(l, w, sqlstate, text);
	if (v->ops->lost != NULL)
		v->ops->lost(v, w, sqlstate, text);
	stream_close(&v->stream);
	label_unref(&v->label);
	if (v->ready)
		atomic_fetch_sub(&p->budget->ready, 1);
	room_give(p);
	pool_touch(p);
}

/* ---- events ----------------------------------------------------------- */

/* A connection that could not be made: there may be another address. */
static void
server_undialled(struct server *v, enum why w, const char *error)
{
	stream_close(&v->stream);
	if (server_dial(v) == 0)
		server_arm(v);
	else
		server_close(v, w, NULL,
			     v->stream.error ? v->stream.error : error);
}

/* The deadline may be an old one: a shared server is used without a change of
 * state, and one that owes answers is not idle. */
static void
server_expire(struct server *v)
{
	struct pool *p = v->pool;
	uint64_t now = p->home->streams->now_ns;
	uint64_t idle = p->snapshot->conf->server_idle_timeout_ms;
	bool old = server_is_old(v), over = budget_is_over(p->budget, 0);

	if (v->ledger.n > 0) {
		v->leaving |= old;
		stream_deadline(&v->stream, now + 1000000000u);
	} else if (old) {
		server_close(v, WHY_SERVER_LIFETIME, NULL, NULL);
	} else if (over && now >= v->idle_ns + POOL_RESERVE_IDLE_NS) {
		server_close(v, WHY_SERVER_IDLE, NULL, NULL);
	} else if (idle == 0 || now < v->idle_ns + idle * 1000000u) {
		server_arm(v);
	} else if (atomic_load(&p->budget->count) > pool_floor(p)) {
		server_close(v, WHY_SERVER_IDLE, NULL, NULL);
	} else { /* one of min_pool_size: asked again, its age too */
		stream_deadline(&v->stream, now + POOL_MIN_NS);
	}
}

static void
server_timeout(struct server *v)
{
	switch (v->state) {
	case SERVER_DIAL:
		server_undialled(v, WHY_CONNECT_TIMEOUT,
				 "server_connect_timeout");
		break;
	case SERVER_LOGIN:
		server_close(v, WHY_CONNECT_TIMEOUT, NULL,
			     "server_connect_timeout");
		break;
	case SERVER_RESET:
		server_close(v, WHY_DOUBT, NULL, NULL);
		break;
	case SERVER_IDLE:
	case SERVER_SHARED:
		server_expire(v);
		break;
	case SERVER_MOVING:
	case SERVER_LEASED:
	case SERVER_DEAD:
	case SERVER_MAX:
		break;
	}
}

/* Gone in the middle of it: that is its host's doing after all. */
static void
server_unlogged(struct server *v, const char *error)
{
	v->answered = false;
	server_close(v, WHY_UPSTREAM_DOWN, NULL, error);
}

static void
server_broke(struct server *v, const char *error)
{
	if (v->state == SERVER_DIAL)
		server_undialled(v, WHY_UPSTREAM_DOWN, error);
	else if (v->state == SERVER_LOGIN)
		server_unlogged(v, error);
	else
		server_close(v, WHY_UPSTREAM_LOST, NULL, error);
}

static void
server_connected(struct server *v)
{
	struct target *t = v->target;

	t->first = (v->first + v->tried - 1) % t->address_n;
	v->target = NULL;
	server_enter(v, SERVER_LOGIN);
}

static void
server_event(struct stream *st, enum stream_event e)
{
	struct server *v = server_of(st);

	assert(v->magic == SERVER_MAGIC && v->state != SERVER_MOVING);
	if (v->state == SERVER_DEAD)
		return;
	switch (e) {
	case STREAM_OPEN:
		if (v->state == SERVER_DIAL)
			server_connected(v);
		v->ops->opened(v);
		break;
	case STREAM_DATA:
		v->ops->input(v);
		break;
	case STREAM_ROOM:
		if (v->lessee != NULL)
			v->lessee->ops->room(v->lessee);
		break;
	case STREAM_EOF:
		server_broke(v, "server closed the connection");
		break;
	case STREAM_ERROR:
		server_broke(v, st->error);
		break;
	case STREAM_TIMEOUT:
		server_timeout(v);
		break;
	}
}
