/*
 * Places of an upstream between workers, in one thread and in a time of our
 * own: whoever waits, on whatever worker, gets its turn.
 */
#include "tests/t.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "pool/redis_server.h"

enum {
	WORKERS = 4,
	CLIENTS = 16, /* a worker */
	SERVERS = 64, /* connections Redis has at once */
	ROUND_MS = 5,
	LIFE_MS = 20000
};

#define MS 1000000ull

/* Whoever looks at the clock, here or in a library, is told ours. */
static uint64_t now_ns = 1000000 * MS;

int
clock_gettime(clockid_t id, struct timespec *ts)
{
	(void)id;
	ts->tv_sec = (time_t)(now_ns / (1000 * MS));
	ts->tv_nsec = (long)(now_ns % (1000 * MS));
	return 0;
}

/* ---- a Redis that says PONG to all ------------------------------------- */

struct redis {
	int listener;
	int fd[SERVERS];
	bool
	    deadly; /* it kills: connections, and some before they are logged in */
};

static void
redis_open(struct redis *r, unsigned *port)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	socklen_t len = sizeof(in);

	memset(r->fd, -1, sizeof(r->fd));
	r->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_return_code(bind(r->listener, (void *)&in, sizeof(in)), 0);
	assert_return_code(listen(r->listener, SERVERS), 0);
	assert_return_code(getsockname(r->listener, (void *)&in, &len), 0);
	*port = ntohs(in.sin_port);
}

/* A PONG to each command there is, or the end. */
static void
redis_answer(int *fd)
{
	char buf[4096], pongs[sizeof(buf)];
	size_t said = 0;
	ssize_t n;

	while ((n = recv(*fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			if (buf[i] == '*') {
				memcpy(pongs + said, "+PONG\r\n", 7);
				said += 7;
			}
		/* In one piece: the time of the network is not ours. */
		if (said > 0)
			send(*fd, pongs, said, MSG_NOSIGNAL);
		said = 0;
	}
	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		close(*fd);
		*fd = -1;
	}
}

static void
redis_turn(struct redis *r)
{
	const int one = 1;
	int fd = accept(r->listener, NULL, NULL);

	for (int i = 0; i < SERVERS; i++) {
		if (r->fd[i] < 0 && fd >= 0) {
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
				   sizeof(one));
			r->fd[i] = fd;
			fd = accept(r->listener, NULL, NULL);
		}
		if (r->fd[i] >= 0)
			redis_answer(&r->fd[i]);
	}
	assert_int_equal(fd, -1);
}

static void
redis_kills(struct redis *r, unsigned which)
{
	if (r->fd[which % SERVERS] >= 0)
		shutdown(r->fd[which % SERVERS], SHUT_RDWR);
}

static void
redis_close(struct redis *r)
{
	for (int i = 0; i < SERVERS; i++)
		if (r->fd[i] >= 0)
			close(r->fd[i]);
	close(r->listener);
}

/* ---- workers ------------------------------------------------------------ */

struct town;

struct person {
	struct lessee l; /* first */
	struct town *t;
	unsigned worker;
	struct pool *pool;
	struct server
	    *via; /* shared: its command is to go there, or is there */
	bool sent;
	unsigned rest; /* rounds until it does something */
	unsigned got;  /* times it got what it wanted */
	uint64_t longest_ns;
};

struct worker {
	struct event_base *base;
	struct streams streams;
	struct stats stats;
	struct mailbox mailbox;
	struct pools pools;
};

struct town {
	struct redis redis;
	struct conf conf;
	struct conf_redis up;
	struct conf_host host;
	SSL_CTX *contexts[1];
	struct snapshot snapshot;
	struct budgets budgets;
	struct mailbox *mailboxes[WORKERS];
	struct worker w[WORKERS];
	struct person *person;
	unsigned persons;
	unsigned keys;   /* pools of each kind, on each worker */
	unsigned shared; /* of 100 wants, so many for a shared connection */
	unsigned apart;  /* times that a second shared one was seen */
	unsigned seed;
};

static unsigned
some(struct town *t, unsigned n)
{
	return (unsigned)rand_r(&t->seed) % n;
}

static void
town_open(struct town *t, unsigned connections, unsigned dedicated)
{
	memset(t, 0, sizeof(*t));
	signal(SIGPIPE, SIG_IGN);
	t->seed = 7;
	t->up = (struct conf_redis){ .name = (char *)(uintptr_t) "main",
				     .url = (char *)(uintptr_t) "",
				     .host = (char *)(uintptr_t) "127.0.0.1",
				     .connections = connections,
				     .dedicated_connections = dedicated };
	redis_open(&t->redis, &t->up.port);
	t->host = (struct conf_host){ t->up.host, t->up.port };
	t->up.hosts = &t->host;
	t->up.hosts_n = 1;
	t->conf.redis = &t->up;
	t->conf.redis_n = 1;
	t->conf.server_login_retry_ms = 1000;
	t->snapshot.conf = &t->conf;
	t->snapshot.redis = t->contexts;
	atomic_store(&t->snapshot.refs, 1);
	assert_return_code(
	    budgets_init(&t->budgets, WORKERS, t->mailboxes, pools_nudged), 0);
	for (unsigned i = 0; i < WORKERS; i++) {
		struct worker *w = &t->w[i];

		assert_non_null(w->base = event_base_new());
		assert_return_code(
		    streams_init(&w->streams, w->base, &w->stats), 0);
		assert_return_code(mailbox_init(&w->mailbox, &w->pools), 0);
		t->mailboxes[i] = &w->mailbox;
		w->pools.worker = i;
		w->pools.streams = &w->streams;
		w->pools.stats = &w->stats;
		w->pools.mailbox = &w->mailbox;
		w->pools.mailboxes = t->mailboxes;
		w->pools.budgets = &t->budgets;
		pools_init(&w->pools);
	}
}

static void
worker_turn(struct worker *w)
{
	streams_tick(&w->streams);
	event_base_loop(w->base, EVLOOP_NONBLOCK);
	mailbox_drain(&w->mailbox);
	wheel_run(&w->streams.wheel, w->streams.now_ns);
	pools_poke(&w->pools);
	streams_flush(&w->streams);
	pools_reap(&w->pools);
}

static void
town_close(struct town *t)
{
	for (unsigned i = 0; i < WORKERS; i++)
		pools_close(&t->w[i].pools);
	for (unsigned k = 0; k < 3; k++)
		for (unsigned i = 0; i < WORKERS; i++)
			worker_turn(&t->w[i]);
	for (unsigned i = 0; i < WORKERS; i++) {
		pools_fini(&t->w[i].pools);
		streams_fini(&t->w[i].streams);
		event_base_free(t->w[i].base);
	}
	budgets_fini(&t->budgets);
	for (unsigned i = 0; i < WORKERS; i++)
		mailbox_fini(&t->w[i].mailbox);
	redis_close(&t->redis);
	free(t->person);
}

/* ---- persons ------------------------------------------------------------ */

static struct pool *
some_pool(struct town *t, struct person *p, bool lent)
{
	unsigned k = some(t, t->keys);

	return (lent ? pool_find_redis_lent : pool_find_redis)(
	    &t->w[p->worker].pools, &t->snapshot, &t->up, NULL, NULL, k / 2,
	    2 + (int)k % 2);
}

static void
person_got(struct person *p)
{
	uint64_t waited = now_ns - p->l.since_ns;

	p->got++;
	if (waited > p->longest_ns)
		p->longest_ns = waited;
}

static void
person_asks(struct person *p)
{
	const struct slice ping = slice_str("PING");

	if (redis_server_full(p->via, &p->l)) {
		redis_server_queue(p->via, &p->l);
		return;
	}
	redis_server_unqueue(p->via, &p->l);
	redis_server_send(p->via, &p->l, &ping, 1);
	p->sent = true;
}

static void
person_granted(struct lessee *l, struct server *v)
{
	struct person *p = (struct person *)(void *)l;

	p->rest = 0;
	if (l->mode == LEASE_EXCLUSIVE) {
		person_got(p);
		return;
	}
	p->via = v;
	person_asks(p);
}

static void
person_reply(struct lessee *l, const uint8_t *p, size_t n)
{
	(void)l;
	(void)p;
	(void)n;
}

static void
person_settled(struct lessee *l, unsigned kind, uint32_t n, bool done)
{
	struct person *p = (struct person *)(void *)l;

	(void)done;
	if (p->via == NULL || kind == REDIS_SLOW)
		return;
	assert_int_equal(n, 1);
	p->via = NULL;
	p->sent = false;
	person_got(p);
}

static void
person_lost(struct lessee *l, enum why why, const char *sqlstate,
	    const char *text)
{
	(void)l;
	(void)why;
	(void)sqlstate;
	(void)text;
	assert_true(((struct person *)(void *)l)->t->redis.deadly);
}

/* Its turn has come; or the server it queued for is lost. */
static void
person_room(struct lessee *l)
{
	struct person *p = (struct person *)(void *)l;

	if (p->via == NULL || p->sent)
		return;
	if (p->via->state == SERVER_SHARED) {
		person_asks(p);
		return;
	}
	/* It still waits since it began to. */
	p->via = NULL;
	p->rest = 1;
}

static void
person_turn(struct person *p)
{
	struct town *t = p->t;
	bool lent;

	if (p->l.waiting != NULL || p->via != NULL)
		return;
	if (p->rest > 0) {
		p->rest--;
		return;
	}
	p->rest = some(t, 8);
	if (p->l.server != NULL) {
		server_release(p->l.server);
		return;
	}
	lent = some(t, 100) >= t->shared;
	p->pool = some_pool(t, p, lent);
	p->l.mode = lent ? LEASE_EXCLUSIVE : LEASE_SHARED;
	p->l.lane = some(t, 3) == 0 ? LANE_HEAVY : LANE_QUICK;
	if (!pool_want(p->pool, &p->l))
		return;
	if (lent) {
		person_got(p);
		return;
	}
	p->via = p->l.server;
	p->l.server = NULL;
	person_asks(p);
}

static void
persons_come(struct town *t, unsigned n)
{
	static const struct lessee_ops ops = {
		.granted = person_granted,
		.reply = person_reply,
		.settled = person_settled,
		.lost = person_lost,
		.room = person_room,
	};

	t->persons = n;
	assert_non_null(t->person = calloc(n, sizeof(*t->person)));
	for (unsigned i = 0; i < n; i++) {
		t->person[i].t = t;
		t->person[i].l.ops = &ops;
		t->person[i].worker = i % WORKERS;
	}
}

static void
persons_leave(struct town *t)
{
	for (unsigned i = 0; i < t->persons; i++) {
		struct person *p = &t->person[i];

		pool_unwant(&p->l);
		if (p->via != NULL) {
			redis_server_unqueue(p->via, &p->l);
			redis_server_part(p->via, &p->l);
		}
		if (p->l.server != NULL)
			server_release(p->l.server);
	}
}

/* No more than its limits allow, and than two that are shared. */
static void
worker_checks(struct town *t, const struct worker *w)
{
	for (unsigned i = 0; i < POOL_BUCKETS; i++)
		for (struct pool *p = w->pools.bucket[i]; p; p = p->chain) {
			assert_in_range(p->cap->count, 0, p->cap->limit);
			assert_in_range(p->budget->count, 0, p->cap->count);
			if (p->lends)
				continue;
			t->apart += p->n[SERVER_SHARED] == 2;
			assert_in_range(p->n[SERVER_SHARED] + pool_opening(p),
					0, 2);
		}
}

static void
town_live(struct town *t, uint64_t ms)
{
	const uint64_t end_ns = now_ns + ms * MS;

	while (now_ns < end_ns) {
		unsigned first = some(t, WORKERS);

		now_ns += ROUND_MS * MS;
		for (unsigned i = 0; i < WORKERS; i++)
			streams_tick(&t->w[i].streams);
		for (unsigned i = 0; i < t->persons; i++)
			person_turn(&t->person[i]);
		if (t->redis.deadly && some(t, 4) == 0)
			redis_kills(&t->redis, some(t, 8));
		redis_turn(&t->redis);
		for (unsigned i = 0; i < WORKERS; i++) {
			worker_turn(&t->w[(first + i) % WORKERS]);
			worker_checks(t, &t->w[i]);
		}
	}
}

/* The longest anybody has waited or still waits. */
static uint64_t
longest_ms(const struct town *t)
{
	uint64_t longest = 0;

	for (unsigned i = 0; i < t->persons; i++) {
		const struct person *p = &t->person[i];
		uint64_t now = 0;

		if (p->l.waiting != NULL || p->via != NULL)
			now = now_ns - p->l.since_ns;
		if (p->longest_ns > now)
			now = p->longest_ns;
		if (now > longest)
			longest = now;
	}
	return longest / MS;
}

static void
nobody_starves(unsigned connections, unsigned dedicated, unsigned keys,
	       unsigned shared, bool deadly)
{
	struct town t;
	unsigned least = UINT32_MAX;

	town_open(&t, connections, dedicated);
	t.keys = keys;
	t.shared = shared;
	t.redis.deadly = deadly;
	persons_come(&t, WORKERS * CLIENTS);
	town_live(&t, LIFE_MS);
	for (unsigned i = 0; i < t.persons; i++)
		if (t.person[i].got < least)
			least = t.person[i].got;
	/* A few turns of all that could have been before it. */
	assert_in_range(longest_ms(&t), 0, LIFE_MS / 4);
	assert_in_range(least, 1, UINT32_MAX);
	if (connections > WORKERS * keys)
		assert_in_range(t.apart, 1, UINT32_MAX);
	persons_leave(&t);
	town_close(&t);
}

static void
one_connection_serves_all_workers(void **state)
{
	(void)state;
	nobody_starves(1, 1, 1, 100, false);
}

static void
shared_connections_go_round_pools_and_workers(void **state)
{
	(void)state;
	nobody_starves(1, 1, 6, 100, false);
	nobody_starves(3, 1, 6, 100, false);
	nobody_starves(6, 1, 1, 100, false);
	nobody_starves(9, 1, 2, 100, false);
}

static void
lent_connections_go_round_pools_and_workers(void **state)
{
	(void)state;
	nobody_starves(1, 4, 1, 0, false);
	nobody_starves(1, 4, 6, 0, false);
	nobody_starves(1, 1, 6, 0, false);
}

static void
both_kinds_go_round(void **state)
{
	(void)state;
	nobody_starves(1, 4, 6, 60, false);
}

static void
and_while_connections_die(void **state)
{
	(void)state;
	nobody_starves(1, 4, 6, 60, true);
	nobody_starves(12, 2, 3, 60, true);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lent_connections_go_round_pools_and_workers),
		cmocka_unit_test(both_kinds_go_round),
		cmocka_unit_test(shared_connections_go_round_pools_and_workers),
		cmocka_unit_test(one_connection_serves_all_workers),
		cmocka_unit_test(and_while_connections_die),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
