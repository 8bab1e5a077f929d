#include "pool/target.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "pool/pool.h"
#include "pool/redis_sentinel.h"
#include "pool/redis_watch.h"

/* ---- making ----------------------------------------------------------- */

static bool
has_sentinels(const struct pool *p)
{
	return p->redis != NULL && p->redis->sentinel != NULL;
}

static struct host *
find_host(struct pool *p, size_t i)
{
	struct hosts *all = &p->home->budgets->hosts;
	uint64_t now = p->home->streams->now_ns;

	/* Until Sentinels have said which it is, their name stands for it. */
	if (has_sentinels(p))
		return host_find(all, p->redis->name, p->redis->sentinel, 0,
				 now);
	if (p->node != NULL)
		return host_find(all, p->redis->name, p->node, p->node_port,
				 now);
	if (p->redis != NULL)
		return host_find(all, p->redis->name, p->redis->hosts[i].name,
				 p->redis->hosts[i].port, now);
	return host_find(all, p->postgres->name, p->postgres->hosts[i].name,
			 p->postgres->hosts[i].port, now);
}

int
targets_init(struct pool *p)
{
	struct targets *all = &p->targets;
	/* Where any node of a cluster will do, those of the url are tried. */
	size_t n = p->postgres                            ? p->postgres->hosts_n
		   : p->redis->cluster && p->node == NULL ? p->redis->hosts_n
							  : 1;

	assert(n > 0 && n <= CONF_HOSTS_MAX);
	*all = (struct targets){ .n = (unsigned)n };
	if ((all->at = calloc(n, sizeof(*all->at))) == NULL)
		abort();
	for (size_t i = 0; i < n; i++) {
		all->at[i].pool = p;
		if ((all->at[i].host = find_host(p, i)) != NULL)
			continue;
		targets_fini(p);
		return -1;
	}
	return 0;
}

/* ---- addresses -------------------------------------------------------- */

/* A look-up on another thread; it touches only this. */
struct resolve {
	struct job job;
	struct pools *home;
	struct target *target; /* NULL: it is no longer wanted */
	char *host;
	char port[8];
	struct redis_sentinel
	    sentinel; /* .redis: they are asked for the host */
	struct address address[TARGET_ADDRESSES];
	unsigned n;
	char error[POOL_ERROR_MAX];
};

void
targets_fini(struct pool *p)
{
	for (unsigned i = 0; i < p->targets.n; i++) {
		struct target *t = &p->targets.at[i];

		if (t->resolve != NULL)
			t->resolve->target = NULL;
		free(t->address);
		host_leave(&p->home->budgets->hosts, &t->host,
			   p->home->streams->now_ns);
	}
	free(p->targets.at);
	p->targets = (struct targets){ 0 };
}

static void
resolve_name(struct resolve *r)
{
	int error;
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_ADDRCONFIG },
			*list = NULL;

	error = getaddrinfo(r->host, r->port, &hints, &list);
	/* ADDRCONFIG hides addresses on a host that has only loopback. */
	if (error != 0) {
		hints.ai_flags = 0;
		error = getaddrinfo(r->host, r->port, &hints, &list);
	}
	snprintf(r->error, sizeof(r->error), "cannot resolve %.200s: %s",
		 r->host, error ? gai_strerror(error) : "no address");
	if (error != 0)
		return;
	for (struct addrinfo *ai = list; ai; ai = ai->ai_next) {
		if (r->n == TARGET_ADDRESSES)
			break;
		memcpy(&r->address[r->n].addr, ai->ai_addr, ai->ai_addrlen);
		r->address[r->n++].len = ai->ai_addrlen;
	}
	freeaddrinfo(list);
}

static void
resolve_work(struct job *job)
{
	struct resolve *r = (struct resolve *)(void *)job;
	struct redis_sentinel *q = &r->sentinel;

	if (q->redis != NULL) {
		if (redis_sentinel_ask(q, r->error, sizeof(r->error)) != 0)
			return;
		if ((r->host = strdup(q->name)) == NULL)
			abort();
		snprintf(r->port, sizeof(r->port), "%u", q->port);
	}
	resolve_name(r);
}

/* The one that worked is tried first, wherever it is in the new list. */
static void
set_addresses(struct target *t, const struct address *list, unsigned n)
{
	struct address *new = malloc(n * sizeof(*new));
	unsigned first = 0;

	if (new == NULL)
		abort();
	memcpy(new, list, n * sizeof(*new));
	for (unsigned i = 0; i < n && t->address_n > 0; i++)
		if (new[i].len == t->address[t->first].len &&
		    memcmp(&new[i].addr, &t->address[t->first].addr,
			   new[i].len) == 0)
			first = i;
	free(t->address);
	t->address = new;
	t->address_n = n;
	t->first = first;
	t->looked_ns = t->pool->home->streams->now_ns;
}

/* The host changes; who is connected to another leaves. */
static bool
set_master(struct target *t, const struct redis_sentinel *q, char *error)
{
	struct pool *p = t->pool;
	struct hosts *all = &p->home->budgets->hosts;
	uint64_t now = p->home->streams->now_ns;
	struct host *h = host_find(all, p->redis->name, q->name, q->port, now);

	t->sentinel = q->first;
	if (h == NULL) {
		snprintf(error, POOL_ERROR_MAX, "too many hosts");
		return false;
	}
	if (h == t->host) {
		host_leave(all, &h, now);
		return true;
	}
	LOG(p->home->log, LOG_INFO, LOG_EV_MASTER, log_str("pool", p->key),
	    log_str("master", q->redis->sentinel), log_str("host", q->name),
	    log_num("port", q->port));
	host_leave(all, &t->host, now);
	t->host = h;
	t->address_n = 0; /* the other's */
	pool_forsake(p);
	return true;
}

static void
resolve_done(struct job *job, void *owner)
{
	struct resolve *r = (struct resolve *)(void *)job;
	struct target *t = r->target;
	bool found = r->n > 0;

	(void)owner;
	r->home->jobs--;
	if (t != NULL)
		t->resolve = NULL;
	if (t != NULL && found && r->sentinel.redis != NULL)
		found = set_master(t, &r->sentinel, r->error);
	if (t != NULL && found) {
		set_addresses(t, r->address, r->n);
		/* By the time of the next try they would be asked again. */
		if (r->sentinel.redis != NULL && !t->watches)
			t->pool->next_host = true;
		pool_touch(t->pool);
	} else if (t != NULL && t->watches) {
		/* What is there works; they are asked again. */
		t->looked_ns = r->home->streams->now_ns;
		pool_touch(t->pool);
	} else if (t != NULL) {
		pool_host_failed(t->pool, t->host, t->asked_ns,
				 WHY_UPSTREAM_DOWN, NULL, r->error);
	}
	if (r->sentinel.redis != NULL)
		redis_watch_at(r->home, &r->sentinel);
	snapshot_unref(&r->sentinel.snapshot);
	free(r->host);
	free(r);
}

static bool
address_numeric(struct target *t)
{
	struct address a = { 0 };
	struct sockaddr_in *in = (struct sockaddr_in *)&a.addr;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&a.addr;
	struct sockaddr_un *un = (struct sockaddr_un *)&a.addr;
	const struct host *h = t->host;

	if (h->name[0] == '/') {
		un->sun_family = AF_UNIX;
		a.len = sizeof(*un);
		if (snprintf(un->sun_path, sizeof(un->sun_path),
			     "%s/.s.PGSQL.%u", h->name,
			     h->port) >= (int)sizeof(un->sun_path))
			return false;
	} else if (inet_pton(AF_INET, h->name, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons((uint16_t)h->port);
		a.len = sizeof(*in);
	} else if (inet_pton(AF_INET6, h->name, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)h->port);
		a.len = sizeof(*in6);
	} else {
		return false;
	}
	set_addresses(t, &a, 1);
	return true;
}

static void
target_look_up(struct target *t)
{
	struct pool *p = t->pool;
	struct pools *home = p->home;
	struct resolve *r;

	if ((r = calloc(1, sizeof(*r))) == NULL)
		abort();
	r->home = home;
	r->target = t;
	t->resolve = r;
	t->overdue = false;
	t->asked_ns = home->streams->now_ns;
	if (has_sentinels(p)) {
		p->next_host = false; /* unless they say something */
		r->sentinel = (struct redis_sentinel){ .snapshot = snapshot_ref(
							   p->snapshot),
						       .redis = p->redis,
						       .first = t->sentinel };
	} else {
		if ((r->host = strdup(t->host->name)) == NULL)
			abort();
		snprintf(r->port, sizeof(r->port), "%u", t->host->port);
	}
	home->jobs++;
	offload_run(home->dns, &r->job, home->mailbox, resolve_work,
		    resolve_done);
}

/* True: there are addresses to dial.  False: they are being looked up. */
static bool
target_ready(struct target *t)
{
	uint64_t now = t->pool->home->streams->now_ns;
	uint64_t ttl =
	    has_sentinels(t->pool) ? TARGET_MASTER_TTL_NS : TARGET_DNS_TTL_NS;

	if (t->resolve != NULL) {
		t->watches = false;
		return false;
	}
	if (t->looked_ns != 0 && now < t->looked_ns + ttl && t->address_n > 0)
		return true;
	if (!has_sentinels(t->pool) && address_numeric(t))
		return true;
	t->watches = false;
	target_look_up(t);
	return false;
}

void
targets_doubt(struct pool *p)
{
	if (p->targets.n > 0 && has_sentinels(p))
		p->targets.at[0].looked_ns = 0;
}

void
targets_overdue(struct pool *p)
{
	if (p->targets.n == 0 || !has_sentinels(p))
		return;
	p->targets.at[0].overdue = true;
	pool_touch(p);
}

void
targets_follow(struct pool *p, unsigned sentinel)
{
	if (p->targets.n == 0 || !has_sentinels(p))
		return;
	p->targets.at[0].sentinel = sentinel;
	targets_overdue(p);
}

uint64_t
targets_watch(struct pool *p)
{
	struct target *t = p->targets.at;
	uint64_t now = p->home->streams->now_ns, due;

	if (p->targets.n == 0 || !has_sentinels(p) ||
	    (p->redis->health_check != HEALTH_ACTIVE && !t->overdue) ||
	    p->home->closing || t->resolve != NULL || t->address_n == 0 ||
	    pool_servers(p) == 0)
		return UINT64_MAX;
	due = t->looked_ns + (t->overdue
				  ? TARGET_OVERDUE_NS
				  : p->redis->health_interval_ms * 1000000u);
	if (now < due)
		return due;
	t->watches = true;
	target_look_up(t);
	return UINT64_MAX;
}

bool
targets_resolving(const struct pool *p)
{
	for (unsigned i = 0; i < p->targets.n; i++)
		if (p->targets.at[i].resolve != NULL)
			return true;
	return false;
}

/* ---- which one -------------------------------------------------------- */

static enum conf_role
wanted(const struct pool *p)
{
	return p->postgres ? p->postgres->target_role : ROLE_ANY;
}

static bool
in_turn(const struct pool *p)
{
	return p->postgres != NULL &&
	       p->postgres->load_balance_hosts == BALANCE_ROUND_ROBIN;
}

bool
target_is_well(const struct target *t)
{
	return atomic_load(&t->host->failures) == 0;
}

/* Lower is better: first what is known of its role, then its place. */
static unsigned
rank(const struct pool *p, unsigned i)
{
	const struct targets *all = &p->targets;
	unsigned fit = host_fit(all->at[i].host, wanted(p));
	unsigned place = i;

	if (in_turn(p)) {
		fit = fit == 2 ? 2 : 0; /* or the unknown stay unknown */
		place = (i + all->n - all->turn % all->n) % all->n;
	}
	return fit * CONF_HOSTS_MAX + place;
}

/* A look-up that takes long is not waited for where there is another host. */
static bool
is_late(const struct target *t)
{
	return t->resolve != NULL && t->pool->home->streams->now_ns >
					 t->asked_ns + TARGET_PATIENCE_NS;
}

enum choice { WELL, RESTED, ANY };

static bool
is_choice(const struct target *t, enum choice which)
{
	uint64_t now = t->pool->home->streams->now_ns;

	if (is_late(t))
		return false;
	return which == WELL     ? target_is_well(t)
	       : which == RESTED ? !host_rests(t->host, now)
				 : true;
}

static struct target *
best(const struct pool *p, enum choice which)
{
	struct target *found = NULL;
	unsigned least = UINT32_MAX;

	for (unsigned i = 0; i < p->targets.n; i++) {
		struct target *t = &p->targets.at[i];

		if (!is_choice(t, which) || rank(p, i) >= least)
			continue;
		found = t;
		least = rank(p, i);
	}
	return found;
}

/* All of them rest: the first to be woken. */
static struct target *
soonest(const struct pool *p)
{
	struct target *found = NULL;

	for (unsigned i = 0; i < p->targets.n; i++) {
		struct target *t = &p->targets.at[i];

		if (!is_late(t) &&
		    (found == NULL || atomic_load(&t->host->retry_ns) <
					  atomic_load(&found->host->retry_ns)))
			found = t;
	}
	return found;
}

/* While one tries a host that failed, the others need not. */
static uint64_t
claim_ns(const struct pool *p)
{
	uint64_t ms = p->snapshot->conf->server_connect_timeout_ms;

	return (ms ? ms : 15000) * 1000000u;
}

struct target *
targets_next(struct pool *p)
{
	struct target *t = best(p, WELL);

	if (t == NULL)
		t = best(p, RESTED);
	if (t == NULL)
		t = soonest(p);
	if (t == NULL || !target_ready(t))
		return NULL;
	p->targets.turn = (unsigned)(t - p->targets.at) + 1;
	return t;
}

void
target_claim(struct target *t)
{
	host_claim(t->host, t->pool->home->streams->now_ns + claim_ns(t->pool));
}

struct target *
targets_probe(struct pool *p)
{
	uint64_t now = p->home->streams->now_ns;
	struct target *well = best(p, WELL), *t = best(p, RESTED);

	if (well == NULL || t == NULL || target_is_well(t) || !target_ready(t))
		return NULL;
	return host_may_try(t->host, now, claim_ns(p)) ? t : NULL;
}

bool
targets_have_other(const struct pool *p)
{
	return best(p, RESTED) != NULL;
}

bool
targets_are_well(const struct pool *p)
{
	return best(p, WELL) != NULL;
}

bool
targets_misfit(const struct pool *p)
{
	for (unsigned i = 0; i < p->targets.n; i++)
		if (host_fit(p->targets.at[i].host, wanted(p)) == 2)
			return true;
	return false;
}

unsigned
targets_epochs(const struct pool *p)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < p->targets.n; i++)
		sum += atomic_load(&p->targets.at[i].host->epoch);
	return sum;
}

void
targets_tell(const struct pool *p, char *out, size_t n)
{
	out[0] = '\0';
	for (unsigned i = 0; i < p->targets.n; i++)
		if (!target_is_well(&p->targets.at[i]))
			host_tell(&p->home->budgets->hosts,
				  p->targets.at[i].host, out, n);
}
