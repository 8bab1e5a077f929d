/*
 * Limits of pools, over a scripted server: who gets a place, who loses one,
 * and that all of them come back.
 */
#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "tests/world.h"

enum { SERVERS = 16 };

/* The world, and every connection that was logged in. */
struct town {
	struct world w;
	int fd[SERVERS];
	int n;
};

static void
town_open(struct town *t)
{
	t->n = 0;
	world_open(&t->w);
	t->w.conf.server_idle_timeout_ms = 600000;
	t->w.conf.pool_idle_timeout_ms = 60000;
	t->w.upstream.pool_size = 2;
}

/* The configuration has changed: what a reload tells the pools. */
static void
town_reload(struct town *t)
{
	pools_reload(&t->w.pools, &t->w.snapshot);
	world_turns(&t->w, 2);
}

static void
town_close(struct town *t)
{
	struct pools *home = &t->w.pools;

	for (unsigned i = 0; i < POOL_BUCKETS; i++)
		for (struct pool *p = home->bucket[i]; p; p = p->chain) {
			assert_int_equal(p->waiters.n + p->excess.n, 0);
			assert_int_equal(p->users, 0);
		}
	pools_close(home);
	world_turns(&t->w, 2);
	for (unsigned i = 0; i < POOL_BUCKETS; i++)
		for (struct pool *p = home->bucket[i]; p; p = p->chain) {
			assert_int_equal(p->budget->count, 0);
			assert_int_equal(p->budget->ready, 0);
			assert_int_equal(p->budget->waiters, 0);
			assert_int_equal(p->budget->users, 0);
			assert_int_equal(p->cap->count, 0);
		}
	for (int i = 0; i < t->n; i++)
		close(t->fd[i]);
	world_close(&t->w);
}

/* Lets in whoever dials, and says how many did. */
static int
logs_in(struct town *t)
{
	int before = t->n;

	for (;;) {
		world_turns(&t->w, 3);
		t->w.fd = -1;
		if (!world_accept(&t->w))
			return t->n - before;
		assert_true(t->n < SERVERS);
		t->fd[t->n++] = t->w.fd;
		world_turns(&t->w, 2);
		world_read(&t->w);
		WORLD_PUT(&t->w, 'R', "i", 0u);
		WORLD_PUT(&t->w, 'K', "ii", 4711u, 4712u);
		WORLD_PUT(&t->w, 'Z', "c", 'I');
		t->w.fd = -1;
	}
}

static struct pool *
pool_of(struct town *t, const char *user)
{
	struct pool *p =
	    pool_find_postgres(&t->w.pools, &t->w.snapshot, &t->w.upstream,
			       "database", user, "password");

	assert_non_null(p);
	return p;
}

/* Time passes: what is measured from the past lies further in it. */
static void
age_servers(struct pool *p, uint64_t ns)
{
	for (int state = 0; state < SERVER_DEAD; state++)
		for (struct server *v = p->list[state]; v; v = v->next)
			v->opened_ns -= ns;
}

static void
wants(struct client *c, struct pool *p)
{
	if (pool_want(p, &c->l))
		client_note(c, 'g');
}

static void
gives(struct client *c)
{
	assert_non_null(c->l.server);
	server_release(c->l.server);
}

static void
opens_in_the_background_what_is_missing(void **state)
{
	struct town t;
	struct pool *p;

	(void)state;
	town_open(&t);
	assert_int_equal(logs_in(&t), 0);
	t.w.upstream.min_pool_size = 2;
	assert_int_equal(logs_in(&t), 0); /* nobody is there */
	p = t.w.pool;
	pool_join(p);
	assert_int_equal(logs_in(&t), 2);
	assert_int_equal(p->n[SERVER_IDLE], 2);
	/* Lost ones are replaced. */
	age_servers(p, POOL_RETRY_FIRST_NS);
	server_close(p->list[SERVER_IDLE], WHY_UPSTREAM_LOST, NULL, NULL);
	assert_int_equal(logs_in(&t), 1);
	assert_int_equal(p->budget->count, 2);
	pool_leave(&p);
	server_close(t.w.pool->list[SERVER_IDLE], WHY_UPSTREAM_LOST, NULL,
		     NULL);
	assert_int_equal(logs_in(&t), 0);
	town_close(&t);
}

/* Whoever waits for the next attempt waits no longer. */
static void
retries_at_once(struct town *t)
{
	atomic_store(&t->w.pool->budget->retry_ns, 0);
	pool_touch(t->w.pool);
}

static void
one_that_is_no_good_behind_its_log_in_is_an_attempt_that_failed(void **state)
{
	struct budget *b;
	struct client c;
	struct pool *p;
	struct town t;

	(void)state;
	town_open(&t);
	b = t.w.pool->budget;
	t.w.upstream.min_pool_size = 2;
	p = t.w.pool;
	pool_join(p);
	assert_int_equal(logs_in(&t), 2);
	p->list[SERVER_IDLE]->opened_ns += POOL_RETRY_FIRST_NS;
	server_close(p->list[SERVER_IDLE], WHY_UPSTREAM_LOST, NULL, NULL);
	assert_int_equal(b->failures, 1);
	assert_int_equal(logs_in(&t), 0);
	/* A log-in alone proves nothing any more: one at a time. */
	server_close(p->list[SERVER_IDLE], WHY_UPSTREAM_SENSE, NULL, "what?");
	assert_int_equal(b->failures, 2);
	assert_int_equal(logs_in(&t), 0);
	retries_at_once(&t);
	assert_int_equal(logs_in(&t), 1);
	assert_int_equal(b->failures, 2);
	server_close(p->list[SERVER_IDLE], WHY_UPSTREAM_SENSE, NULL, "what?");
	assert_int_equal(b->failures, 3);
	assert_true(atomic_load(&b->retry_ns) > t.w.streams.now_ns);
	/* An answer does; and who has answered may be lost. */
	retries_at_once(&t);
	assert_int_equal(logs_in(&t), 1);
	client_open(&c, &t.w, NULL, NULL);
	wants(&c, p);
	server_proves(c.l.server);
	assert_int_equal(b->failures, 0);
	assert_int_equal(logs_in(&t), 1);
	gives(&c);
	client_close(&c);
	server_close(p->list[SERVER_IDLE], WHY_UPSTREAM_SENSE, NULL, "what?");
	assert_int_equal(b->failures, 0);
	assert_int_equal(logs_in(&t), 1);
	/* And so may who was lent. */
	p->list[SERVER_IDLE]->lent = true;
	p->list[SERVER_IDLE]->opened_ns += POOL_RETRY_FIRST_NS;
	server_close(p->list[SERVER_IDLE], WHY_UPSTREAM_LOST, NULL, NULL);
	assert_int_equal(b->failures, 0);
	assert_int_equal(logs_in(&t), 1);
	pool_leave(&p);
	town_close(&t);
}

static void
keeps_idle_servers_down_to_the_least(void **state)
{
	struct client c[2];
	struct pool *p;
	struct town t;

	(void)state;
	town_open(&t);
	p = t.w.pool;
	pool_join(p);
	for (int i = 0; i < 2; i++) {
		client_open(&c[i], &t.w, NULL, NULL);
		wants(&c[i], p);
	}
	assert_int_equal(logs_in(&t), 2);
	t.w.upstream.min_pool_size = 1;
	for (int i = 0; i < 2; i++)
		gives(&c[i]);
	assert_int_equal(p->n[SERVER_IDLE], 2);
	for (struct server *v = p->list[SERVER_IDLE]; v; v = v->next) {
		v->idle_ns -= 601ull * 1000000000;
		stream_deadline(&v->stream, 1);
	}
	world_turns(&t.w, 1);
	wheel_run(&t.w.streams.wheel, t.w.streams.now_ns + WHEEL_TICK_NS);
	world_turns(&t.w, 3);
	assert_int_equal(p->n[SERVER_IDLE], 1);
	assert_int_equal(p->budget->count, 1);
	for (int i = 0; i < 2; i++)
		client_close(&c[i]);
	pool_leave(&p);
	town_close(&t);
}

static void
a_pool_known_beforehand_needs_no_client(void **state)
{
	struct town t;

	(void)state;
	town_open(&t);
	t.w.upstream.min_pool_size = 1;
	pools_open_known(&t.w.pools, &t.w.snapshot);
	assert_int_equal(logs_in(&t), 0); /* whose? */
	t.w.upstream.user = (char *)(uintptr_t) "user";
	pools_open_known(&t.w.pools, &t.w.snapshot);
	assert_int_equal(logs_in(&t), 0); /* of which database? */
	t.w.upstream.dbname = (char *)(uintptr_t) "database";
	pools_open_known(&t.w.pools, &t.w.snapshot);
	assert_int_equal(logs_in(&t), 1);
	assert_true(t.w.pool->known);
	town_close(&t);
}

static void
the_reserve_is_for_those_who_have_waited(void **state)
{
	struct client c[5];
	struct pool *p;
	struct town t;

	(void)state;
	town_open(&t);
	p = t.w.pool;
	t.w.upstream.reserve_pool_size = 2;
	t.w.upstream.reserve_pool_timeout_ms = 5000;
	for (int i = 0; i < 5; i++) {
		client_open(&c[i], &t.w, NULL, NULL);
		wants(&c[i], p);
	}
	assert_int_equal(logs_in(&t), 2); /* pool_size */
	c[2].l.since_ns -= 6000000000ull;
	pool_touch(p);
	assert_int_equal(logs_in(&t), 1); /* one has waited long enough */
	assert_string_equal(c[2].heard, "g");
	c[3].l.since_ns -= 6000000000ull;
	c[4].l.since_ns -= 6000000000ull;
	pool_touch(p);
	assert_int_equal(logs_in(&t), 1); /* the reserve has two */
	assert_string_equal(c[3].heard, "g");
	assert_int_equal(p->budget->count, 4);
	assert_int_equal(
	    stats_sum((struct stats *[]){ &t.w.stats }, 1, STAT_SERVER_RESERVE),
	    2);
	/* They serve whoever is next, */
	gives(&c[3]);
	world_turns(&t.w, 2);
	assert_string_equal(c[4].heard, "g");
	/* and go when they have been idle for a while, down to pool_size. */
	for (int i = 0; i < 5; i++)
		client_close(&c[i]);
	world_turns(&t.w, 2);
	assert_int_equal(p->n[SERVER_IDLE], 4);
	for (struct server *v = p->list[SERVER_IDLE]; v; v = v->next)
		v->idle_ns -= POOL_RESERVE_IDLE_NS;
	wheel_run(&t.w.streams.wheel, t.w.streams.now_ns +
					  POOL_RESERVE_IDLE_NS +
					  2 * WHEEL_TICK_NS);
	world_turns(&t.w, 2);
	assert_int_equal(p->budget->count, 2);
	town_close(&t);
}

static void
an_idle_server_makes_room_for_another_pool(void **state)
{
	struct client a, b;
	struct pool *other;
	struct town t;

	(void)state;
	town_open(&t);
	t.w.upstream.max_connections = 1;
	town_reload(&t);
	other = pool_of(&t, "other");
	assert_ptr_equal(other->cap, t.w.pool->cap);
	client_open(&a, &t.w, NULL, NULL);
	client_open(&b, &t.w, NULL, NULL);
	wants(&a, t.w.pool);
	assert_int_equal(logs_in(&t), 1);
	wants(&b, other);
	assert_int_equal(logs_in(&t), 0); /* it is used */
	assert_true(other->capped);
	age_servers(t.w.pool, POOL_SLICE_NS);
	gives(&a);
	assert_int_equal(logs_in(&t), 1);
	assert_string_equal(b.heard, "g");
	assert_int_equal(t.w.pool->budget->count, 0);
	assert_int_equal(other->budget->count, 1);
	assert_int_equal(other->cap->count, 1);
	client_close(&a);
	client_close(&b);
	town_close(&t);
}

static void
a_new_server_keeps_its_place_for_a_slice(void **state)
{
	struct client a, b;
	struct pool *other;
	struct town t;

	(void)state;
	town_open(&t);
	t.w.upstream.max_connections = 1;
	town_reload(&t);
	other = pool_of(&t, "other");
	client_open(&a, &t.w, NULL, NULL);
	client_open(&b, &t.w, NULL, NULL);
	wants(&a, t.w.pool);
	assert_int_equal(logs_in(&t), 1);
	wants(&b, other);
	age_servers(t.w.pool, -(uint64_t)10000000000); /* as new as can be */
	gives(&a);
	assert_int_equal(logs_in(&t), 0);
	assert_int_equal(t.w.pool->n[SERVER_IDLE], 1);
	age_servers(t.w.pool, 20000000000ull);
	pool_touch(t.w.pool);
	assert_int_equal(logs_in(&t), 1);
	assert_string_equal(b.heard, "g");
	client_close(&a);
	client_close(&b);
	town_close(&t);
}

/* Of two pools with waiters, whose has waited longer gets the server. */
static void
the_longer_wait_wins_between_pools(void **state)
{
	struct client a[3], b;
	struct pool *other;
	struct town t;

	(void)state;
	town_open(&t);
	t.w.upstream.max_connections = 1;
	town_reload(&t);
	other = pool_of(&t, "other");
	for (int i = 0; i < 3; i++)
		client_open(&a[i], &t.w, NULL, NULL);
	client_open(&b, &t.w, NULL, NULL);
	wants(&a[0], t.w.pool);
	assert_int_equal(logs_in(&t), 1);
	wants(&a[1], t.w.pool);
	wants(&a[2], t.w.pool);
	wants(&b, other);
	assert_int_equal(logs_in(&t), 0);
	age_servers(t.w.pool, POOL_SLICE_NS);
	gives(&a[0]);
	assert_int_equal(logs_in(&t), 0); /* about as long: no need to move */
	assert_string_equal(a[1].heard, "g");
	b.l.since_ns -= 1000000000;
	gives(&a[1]);
	assert_int_equal(logs_in(&t), 1);
	assert_string_equal(b.heard, "g");
	assert_string_equal(a[2].heard, "");
	/* And the other way round. */
	age_servers(other, POOL_SLICE_NS);
	gives(&b);
	assert_int_equal(logs_in(&t), 1);
	assert_string_equal(a[2].heard, "g");
	for (int i = 0; i < 3; i++)
		client_close(&a[i]);
	client_close(&b);
	town_close(&t);
}

/* A client that comes back at once may not keep the others out for ever. */
static void
a_busy_client_does_not_keep_the_place_for_ever(void **state)
{
	struct client a, b;
	struct pool *other;
	struct town t;
	int rounds = 0;

	(void)state;
	town_open(&t);
	t.w.upstream.max_connections = 1;
	town_reload(&t);
	other = pool_of(&t, "other");
	client_open(&a, &t.w, NULL, NULL);
	client_open(&b, &t.w, NULL, NULL);
	wants(&a, t.w.pool);
	assert_int_equal(logs_in(&t), 1);
	age_servers(t.w.pool, POOL_SLICE_NS);
	wants(&b, other);
	world_turns(&t.w, 2);
	b.l.since_ns -= 1000000000;
	while (b.heard[0] == '\0' && rounds++ < 10) {
		if (a.l.server != NULL) {
			gives(&a);
			wants(&a, t.w.pool);
		}
		logs_in(&t);
	}
	assert_string_equal(b.heard, "g");
	client_close(&a);
	client_close(&b);
	town_close(&t);
}

static void
one_more_waiter_than_may_is_told_so_at_once(void **state)
{
	struct client c[6];
	struct pool *p;
	struct town t;

	(void)state;
	town_open(&t);
	p = t.w.pool;
	t.w.upstream.max_waiting_clients = 2;
	for (int i = 0; i < 6; i++)
		client_open(&c[i], &t.w, NULL, NULL);
	/* Two servers are to come, so four may wait. */
	for (int i = 0; i < 5; i++)
		wants(&c[i], p);
	world_turns(&t.w, 1);
	assert_string_equal(c[4].heard, "x");
	assert_int_equal(c[4].why, WHY_QUEUE_FULL);
	assert_null(c[4].l.waiting);
	assert_int_equal(logs_in(&t), 2);
	assert_string_equal(c[0].heard, "g");
	assert_string_equal(c[1].heard, "g");
	wants(&c[5], p);
	world_turns(&t.w, 1);
	assert_string_equal(c[5].heard, "x");
	/* A place in the queue is given back: by leaving, and by a grant. */
	client_close(&c[3]);
	wants(&c[5], p);
	world_turns(&t.w, 1);
	assert_string_equal(c[5].heard, "x");
	assert_non_null(c[5].l.waiting);
	gives(&c[0]);
	world_turns(&t.w, 2);
	assert_string_equal(c[2].heard, "g");
	wants(&c[0], p);
	world_turns(&t.w, 1);
	assert_non_null(c[0].l.waiting);
	wants(&c[4], p);
	client_close(&c[4]); /* gone before it was told */
	client_open(&c[3], &t.w, NULL, NULL);
	client_open(&c[4], &t.w, NULL, NULL);
	for (int i = 0; i < 6; i++)
		client_close(&c[i]);
	town_close(&t);
}

/* Time goes by for a pool that nobody uses. */
static void
forget(struct town *t, struct pool *p, uint64_t ns)
{
	world_turns(&t->w, 3);
	assert_true(p->unused_ns != 0);
	p->unused_ns -= ns;
	pool_touch(p);
	world_turns(&t->w, 1);
}

static unsigned
pools_now(const struct town *t)
{
	unsigned n = 0;

	for (unsigned i = 0; i < POOL_BUCKETS; i++)
		for (struct pool *p = t->w.pools.bucket[i]; p; p = p->chain)
			n++;
	return n;
}

static void
a_pool_that_nobody_uses_is_forgotten(void **state)
{
	struct client c;
	struct pool *p, *held;
	struct town t;

	(void)state;
	town_open(&t);
	p = held = pool_of(&t, "other");
	assert_int_equal(pools_now(&t), 2);
	assert_int_equal(t.w.budgets.n, 3); /* and the cap of both */
	pool_join(held);
	client_open(&c, &t.w, NULL, NULL);
	wants(&c, p);
	assert_int_equal(logs_in(&t), 1);
	client_close(&c);
	world_turns(&t.w, 3);
	assert_true(p->unused_ns == 0); /* a session and a server */
	pool_leave(&held);
	world_turns(&t.w, 3);
	assert_true(p->unused_ns == 0); /* a server */
	server_close(p->list[SERVER_IDLE], WHY_SERVER_IDLE, NULL, NULL);
	forget(&t, p, 50000000000ull);
	assert_int_equal(pools_now(&t), 2); /* not yet */
	forget(&t, p, 50000000000ull);
	assert_int_equal(pools_now(&t), 1);
	assert_int_equal(t.w.budgets.n, 2);
	/* It comes back as if it had never gone. */
	p = pool_of(&t, "other");
	client_open(&c, &t.w, NULL, NULL);
	wants(&c, p);
	assert_int_equal(logs_in(&t), 1);
	assert_string_equal(c.heard, "g");
	client_close(&c);
	town_close(&t);
}

static void
a_pool_that_never_had_a_server_is_forgotten_sooner(void **state)
{
	struct town t;

	(void)state;
	town_open(&t);
	forget(&t, pool_of(&t, "nobody"), POOL_FAILED_NS / 2);
	assert_int_equal(pools_now(&t), 2);
	forget(&t, pool_of(&t, "nobody"), POOL_FAILED_NS / 2);
	assert_int_equal(pools_now(&t), 1);
	town_close(&t);
}

/* A client that asks for ever other databases finds an end, and nobody else
 * does for long. */
static void
when_there_are_too_many_unused_ones_go_at_once(void **state)
{
	struct town t;
	char user[32];
	struct pool *used;
	unsigned n;

	(void)state;
	town_open(&t);
	used = t.w.pool;
	pool_join(used);
	for (n = 0; n < BUDGETS_MAX - 2; n++) {
		snprintf(user, sizeof(user), "user %u", n);
		pool_of(&t, user);
	}
	assert_null(pool_find_postgres(&t.w.pools, &t.w.snapshot, &t.w.upstream,
				       "database", "one more", NULL));
	world_turns(&t.w, 2);
	for (unsigned i = 0; i < POOL_BUCKETS; i++)
		for (struct pool *p = t.w.pools.bucket[i]; p; p = p->chain) {
			p->unused_ns -= POOL_CROWDED_NS;
			pool_touch(p);
		}
	world_turns(&t.w, 2);
	assert_int_equal(pools_now(&t), 1);
	assert_int_equal(t.w.budgets.n, 2);
	assert_non_null(pool_of(&t, "one more"));
	pool_leave(&used);
	town_close(&t);
}

static void
a_lowered_cap_is_reached_by_closing_what_is_idle(void **state)
{
	struct client c[2];
	struct pool *other;
	struct town t;

	(void)state;
	town_open(&t);
	other = pool_of(&t, "other");
	client_open(&c[0], &t.w, NULL, NULL);
	client_open(&c[1], &t.w, NULL, NULL);
	wants(&c[0], t.w.pool);
	wants(&c[1], other);
	assert_int_equal(logs_in(&t), 2);
	gives(&c[0]);
	t.w.upstream.max_connections = 1;
	town_reload(&t);
	assert_int_equal(other->cap->count, 1);
	gives(&c[1]);
	world_turns(&t.w, 2);
	assert_int_equal(other->n[SERVER_IDLE], 1);
	for (int i = 0; i < 2; i++)
		client_close(&c[i]);
	town_close(&t);
}

static struct server *neighbour;

static void
takes_its_neighbour_along(struct server *v, enum why w, const char *sqlstate,
			  const char *text)
{
	struct server *other = neighbour;

	(void)v;
	neighbour = NULL;
	if (other != NULL)
		server_close(other, w, sqlstate, text);
}

static void
who_ends_with_another_hides_nobody_behind_it(void **state)
{
	struct server_ops ops = pg_server_ops;
	struct host gone = { .name = (char *)(uintptr_t) "gone", .users = 3 };
	struct town t;
	struct pool *p;

	(void)state;
	town_open(&t);
	t.w.upstream.pool_size = t.w.upstream.min_pool_size = 3;
	town_reload(&t);
	p = t.w.pool;
	pool_join(p);
	world_turns(&t.w, 3);
	assert_int_equal(p->n[SERVER_LOGIN], 3);
	ops.lost = takes_its_neighbour_along;
	for (struct server *v = p->list[SERVER_LOGIN]; v; v = v->next) {
		v->ops = &ops;
		v->host = &gone;
	}
	neighbour = p->list[SERVER_LOGIN]->next;
	pool_forsake(p);
	assert_null(p->list[SERVER_LOGIN]);
	pool_leave(&p);
	town_close(&t);
}

/* ---- organizations in turn -------------------------------------------- */

enum { MANY = 1000 };

/* An organization, and clients of it that wait. */
struct crowd {
	struct tenant tenant;
	struct client *c;
	int n;
};

static void
crowd_comes(struct crowd *crowd, struct town *t, int n, unsigned weight)
{
	crowd->tenant = (struct tenant){ .weight = weight };
	crowd->n = n;
	crowd->c = calloc((size_t)n, sizeof(*crowd->c));
	assert_non_null(crowd->c);
	for (int i = 0; i < n; i++) {
		client_open(&crowd->c[i], &t->w, &crowd->tenant, NULL);
		wants(&crowd->c[i], t->w.pool);
	}
}

static void
crowd_leaves(struct crowd *crowd)
{
	for (int i = 0; i < crowd->n; i++)
		client_close(&crowd->c[i]);
	free(crowd->c);
}

/* One service ends; the turn in which the next one begins. */
static void
one_is_served(struct town *t)
{
	struct server *v = t->w.pool->list[SERVER_LEASED];
	unsigned before = t->w.pool->waiters.n;

	assert_non_null(v);
	server_release(v);
	world_turn(&t->w);
	assert_int_equal(t->w.pool->waiters.n, before - 1);
}

/* It comes now; how many others are served before it is. */
static unsigned
delay_of(struct client *c, struct town *t)
{
	unsigned n = 0;

	c->heard[0] = '\0';
	wants(c, t->w.pool);
	assert_string_equal(c->heard, "");
	if (t->w.pool->list[SERVER_LEASED] == NULL) {
		world_turn(&t->w);
		n = 1;
	}
	for (;; n++) {
		one_is_served(t);
		if (c->heard[0] == 'g')
			return n;
	}
}

/*
 * Whenever the single one comes, it waits for what is left of the other's
 * turn: `weight` services at most, however many wait and however many servers
 * there are.
 */
static void
delays_by_a_turn(unsigned servers, unsigned weight, unsigned own)
{
	struct crowd flood, one;
	struct town t;
	unsigned most = 0, least = UINT32_MAX, n;

	town_open(&t);
	t.w.upstream.pool_size = servers;
	town_reload(&t);
	crowd_comes(&flood, &t, MANY, weight);
	assert_int_equal(logs_in(&t), (int)servers);
	assert_int_equal(t.w.pool->waiters.n, MANY - servers);
	one = (struct crowd){ { .weight = own }, NULL, 0 };
	one.c = calloc(1, sizeof(*one.c));
	assert_non_null(one.c);
	one.n = 1;
	client_open(one.c, &t.w, &one.tenant, NULL);
	/* At every place of its turn. */
	for (unsigned i = 0; i < 4 * weight; i++) {
		n = delay_of(one.c, &t);
		most = n > most ? n : most;
		least = n < least ? n : least;
		server_release(one.c->l.server);
		world_turn(&t.w);
		for (unsigned k = 0; k < i; k++)
			one_is_served(&t);
	}
	assert_int_equal(most, weight);
	assert_int_equal(least, 1);
	assert_true(t.w.pool->waiters.n > MANY / 2);
	crowd_leaves(&one);
	crowd_leaves(&flood);
	town_close(&t);
}

static void
a_thousand_waiters_delay_a_single_one_by_a_turn(void **state)
{
	static const unsigned servers[] = { 1, 2, 4 };

	(void)state;
	for (int i = 0; i < 3; i++) {
		delays_by_a_turn(servers[i], 1, 1);
		delays_by_a_turn(servers[i], 3, 1);
		delays_by_a_turn(servers[i], 5, 2);
	}
}

/* Of several floods the single one waits for a turn of each. */
static void
several_floods_delay_a_single_one_by_a_turn_of_each(void **state)
{
	struct crowd flood[3], one;
	struct town t;

	(void)state;
	town_open(&t);
	t.w.upstream.pool_size = 1;
	town_reload(&t);
	for (unsigned i = 0; i < 3; i++)
		crowd_comes(&flood[i], &t, MANY, i + 1);
	assert_int_equal(logs_in(&t), 1);
	for (int i = 0; i < 30; i++)
		one_is_served(&t);
	crowd_comes(&one, &t, 1, 1);
	while (one.c->l.server == NULL)
		one_is_served(&t);
	/* From now on it comes again as soon as it was served. */
	for (int i = 0; i < 50; i++) {
		server_release(one.c->l.server);
		assert_int_equal(delay_of(one.c, &t), 1 + 2 + 3);
	}
	crowd_leaves(&one);
	for (int i = 0; i < 3; i++)
		crowd_leaves(&flood[i]);
	town_close(&t);
}

/* Each gets its weight of all services, one turn as well as in the long run. */
static void
organizations_are_served_by_their_weight(void **state)
{
	struct crowd crowd[3];
	struct town t;
	unsigned left[3] = { 0 };

	(void)state;
	town_open(&t);
	t.w.upstream.pool_size = 1;
	town_reload(&t);
	for (unsigned i = 0; i < 3; i++)
		crowd_comes(&crowd[i], &t, MANY, i + 1);
	assert_int_equal(logs_in(&t), 1);
	for (int round = 0; round < 100; round++)
		for (int i = 0; i < 1 + 2 + 3; i++) {
			const struct lessee *l =
			    t.w.pool->list[SERVER_LEASED]->lessee;

			for (int k = 0; k < 3; k++)
				left[k] += l->tenant == &crowd[k].tenant;
			one_is_served(&t);
		}
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(left[i], 100 * (i + 1));
		crowd_leaves(&crowd[i]);
	}
	town_close(&t);
}

/* A try that found no place was none: the next place is not let pass. */
static void
who_failed_once_gets_the_place_that_comes_free(void **state)
{
	struct client a, b, c;
	struct pool *failed;
	struct town t;

	(void)state;
	town_open(&t);
	t.w.upstream.max_connections = 2;
	town_reload(&t);
	failed = pool_of(&t, "other");
	client_open(&a, &t.w, NULL, NULL);
	client_open(&b, &t.w, NULL, NULL);
	client_open(&c, &t.w, NULL, NULL);
	wants(&a, t.w.pool);
	wants(&c, failed);
	assert_int_equal(logs_in(&t), 2);
	budget_failed(&t.w.budgets, failed->budget, 0, 1, 1, NULL, "no");
	wants(&b, failed);
	assert_int_equal(logs_in(&t), 0);
	assert_true(failed->capped);
	age_servers(t.w.pool, POOL_SLICE_NS);
	gives(&a);
	assert_int_equal(logs_in(&t), 1);
	gives(&b);
	gives(&c);
	client_close(&a);
	client_close(&b);
	client_close(&c);
	town_close(&t);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(opens_in_the_background_what_is_missing),
		cmocka_unit_test(keeps_idle_servers_down_to_the_least),
		cmocka_unit_test(
		    one_that_is_no_good_behind_its_log_in_is_an_attempt_that_failed),
		cmocka_unit_test(a_pool_known_beforehand_needs_no_client),
		cmocka_unit_test(the_reserve_is_for_those_who_have_waited),
		cmocka_unit_test(an_idle_server_makes_room_for_another_pool),
		cmocka_unit_test(a_new_server_keeps_its_place_for_a_slice),
		cmocka_unit_test(the_longer_wait_wins_between_pools),
		cmocka_unit_test(
		    a_busy_client_does_not_keep_the_place_for_ever),
		cmocka_unit_test(who_ends_with_another_hides_nobody_behind_it),
		cmocka_unit_test(one_more_waiter_than_may_is_told_so_at_once),
		cmocka_unit_test(a_pool_that_nobody_uses_is_forgotten),
		cmocka_unit_test(
		    a_pool_that_never_had_a_server_is_forgotten_sooner),
		cmocka_unit_test(
		    when_there_are_too_many_unused_ones_go_at_once),
		cmocka_unit_test(
		    a_lowered_cap_is_reached_by_closing_what_is_idle),
		cmocka_unit_test(
		    a_thousand_waiters_delay_a_single_one_by_a_turn),
		cmocka_unit_test(
		    several_floods_delay_a_single_one_by_a_turn_of_each),
		cmocka_unit_test(organizations_are_served_by_their_weight),
		cmocka_unit_test(
		    who_failed_once_gets_the_place_that_comes_free),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
