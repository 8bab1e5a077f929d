#include "tests/t.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/budget.h"

enum { WORKERS = 4 };

/* The mailboxes of some workers, and how often each was nudged. */
struct house {
	struct budgets all;
	struct mailbox mailbox[WORKERS], *mailboxes[WORKERS];
	int nudges[WORKERS];
};

static void
on_nudge(struct message *m, void *owner)
{
	struct budget *b = budget_nudged(m)->budget;

	++*(int *)owner;
	budget_unref(b->all, &b);
}

static void
house_open(struct house *h)
{
	memset(h, 0, sizeof(*h));
	for (int i = 0; i < WORKERS; i++) {
		assert_int_equal(mailbox_init(&h->mailbox[i], &h->nudges[i]),
				 0);
		h->mailboxes[i] = &h->mailbox[i];
	}
	assert_int_equal(budgets_init(&h->all, WORKERS, h->mailboxes, on_nudge),
			 0);
}

/* Delivers, and says how often each was nudged since the last time. */
static void
nudged(struct house *h, int a, int b, int c, int d)
{
	int want[WORKERS] = { a, b, c, d };

	for (int i = 0; i < WORKERS; i++) {
		mailbox_drain(&h->mailbox[i]);
		assert_int_equal(h->nudges[i], want[i]);
		h->nudges[i] = 0;
	}
}

static void
house_close(struct house *h)
{
	nudged(h, 0, 0, 0, 0);
	budgets_fini(&h->all);
	for (int i = 0; i < WORKERS; i++)
		mailbox_fini(&h->mailbox[i]);
}

static void
one_budget_for_one_name(void **state)
{
	struct budget *a, *b, *found[200];
	struct house h;
	char key[16];

	(void)state;
	house_open(&h);
	a = budget_find(&h.all, "a", 3);
	b = budget_find(&h.all, "b", 3);
	assert_ptr_not_equal(a, b);
	assert_ptr_equal(budget_find(&h.all, "a", 7), a);
	assert_int_equal(a->limit, 3); /* whoever made it said so */
	for (int i = 0; i < 200; i++) {
		snprintf(key, sizeof(key), "%d", i);
		found[i] = budget_find(&h.all, key, i);
	}
	for (int i = 0; i < 200; i++) {
		snprintf(key, sizeof(key), "%d", i);
		assert_ptr_equal(budget_find(&h.all, key, 0), found[i]);
		assert_int_equal(found[i]->limit, i);
	}
	house_close(&h);
}

static void
remembers_for_each_pool_what_it_has_parsed(void **state)
{
	uint8_t one[8] = { 1 }, other[8] = { 2 };
	struct budget *a, *b;
	struct house h;

	(void)state;
	house_open(&h);
	a = budget_find(&h.all, "a", 3);
	b = budget_find(&h.all, "b", 3);
	assert_false(budget_has_parsed(&h.all, a, one));
	budget_note_parsed(&h.all, a, one);
	assert_true(budget_has_parsed(&h.all, a, one));
	assert_false(budget_has_parsed(&h.all, b, one));
	assert_false(budget_has_parsed(&h.all, a, other));
	for (uint32_t i = 0; i < 100 * BUDGET_PARSED; i++) {
		uint8_t many[8] = { 0, 0, 0, 0, 0, 0, 0, 9 };

		memcpy(many, &i, sizeof(i));
		budget_note_parsed(&h.all, a, many);
		assert_true(budget_has_parsed(&h.all, a, many));
	}
	assert_false(budget_has_parsed(&h.all, a, one)); /* overwritten */
	house_close(&h);
}

static void
gives_no_more_than_its_limit(void **state)
{
	struct budget *b;
	struct house h;

	(void)state;
	house_open(&h);
	b = budget_find(&h.all, "a", 2);
	assert_true(budget_take(b));
	assert_true(budget_take(b));
	assert_false(budget_take(b));
	budget_give(&h.all, b);
	assert_true(budget_take(b));
	assert_false(budget_is_over(b, 0));
	/* A lower limit holds from now on, and is reached by giving back. */
	budget_limit(b, 1);
	assert_true(budget_is_over(b, 0));
	budget_give(&h.all, b);
	assert_false(budget_is_over(b, 0));
	assert_false(budget_take(b));
	budget_give(&h.all, b);
	assert_true(budget_take(b));
	house_close(&h);
}

static void
who_waits_nudges_who_may_have_an_idle_one(void **state)
{
	struct budget *b;
	struct house h;

	(void)state;
	house_open(&h);
	b = budget_find(&h.all, "a", 0);
	budget_idle(b, 0);
	budget_idle(b, 1);
	budget_idle(b, 2);
	budget_idle_over(b, 2);
	budget_wait(&h.all, b, 0, 5);
	nudged(&h, 0, 1, 0, 0);
	budget_wait(&h.all, b, 0, 5); /* they know already */
	nudged(&h, 0, 0, 0, 0);
	budget_wait_over(b, 0);
	budget_wait(&h.all, b, 0, 6);
	nudged(&h, 0, 1, 0, 0);
	house_close(&h);
}

static void
nudges_on_their_way_are_not_doubled(void **state)
{
	struct budget *b;
	struct house h;

	(void)state;
	house_open(&h);
	b = budget_find(&h.all, "a", 0);
	budget_nudge_others(&h.all, b, 2);
	budget_nudge_others(&h.all, b, 3);
	nudged(&h, 1, 1, 1, 1);
	budget_nudge_others(&h.all, b, 3);
	nudged(&h, 1, 1, 1, 0);
	house_close(&h);
}

static void
who_gives_back_nudges_who_waits(void **state)
{
	struct budget *b;
	struct house h;

	(void)state;
	house_open(&h);
	b = budget_find(&h.all, "a", 1);
	assert_true(budget_take(b));
	budget_wait(&h.all, b, 1, 5);
	budget_wait(&h.all, b, 3, 5);
	nudged(&h, 0, 0, 0, 0);
	budget_give(&h.all, b);
	nudged(&h, 0, 1, 0, 1);
	house_close(&h);
}

/* It was refused, and before it raised its hand somebody gave back. */
static void
who_begins_to_wait_looks_once_more_for_room(void **state)
{
	struct budget *b;
	struct house h;

	(void)state;
	house_open(&h);
	b = budget_find(&h.all, "a", 1);
	assert_true(budget_take(b));
	assert_false(budget_take(b));
	budget_give(&h.all, b);
	budget_wait(&h.all, b, 1, 5);
	nudged(&h, 0, 1, 0, 0);
	budget_wait(&h.all, b, 1, 5); /* told once is enough */
	nudged(&h, 0, 0, 0, 0);
	house_close(&h);
}

static void
knows_who_has_waited_longest(void **state)
{
	struct budget *b;
	struct house h;
	uint64_t ns;

	(void)state;
	house_open(&h);
	b = budget_find(&h.all, "a", 0);
	assert_int_equal(budget_longest(b, 0, &ns), -1);
	assert_true(ns == UINT64_MAX);
	budget_wait(&h.all, b, 0, 30);
	assert_int_equal(budget_longest(b, 0, &ns), -1); /* but for me */
	assert_int_equal(budget_longest(b, 1, &ns), 0);
	budget_wait(&h.all, b, 1, 20);
	budget_wait(&h.all, b, 2, 10);
	assert_int_equal(budget_longest(b, 3, &ns), 2);
	assert_true(ns == 10);
	assert_int_equal(budget_longest(b, 2, &ns), 1);
	budget_wait(&h.all, b, 2, 40); /* its next waiter came later */
	assert_int_equal(budget_longest(b, 3, &ns), 1);
	budget_wait_over(b, 1);
	assert_int_equal(budget_longest(b, 3, &ns), 0);
	house_close(&h);
}

static void
waits_longer_after_each_failure(void **state)
{
	char sqlstate[6], text[BUDGET_ERROR_MAX];
	struct budget *b;
	struct house h;

	(void)state;
	house_open(&h);
	b = budget_find(&h.all, "a", 5);
	assert_false(budgets_down(&h.all, text, sizeof(text)));
	assert_true(budget_may_try(b, 0, 10));
	assert_int_equal(budget_failed(&h.all, b, 1000, 10, 35, "28P01", "no"),
			 0);
	assert_false(budget_may_try(b, 1009, 10));
	assert_true(budget_may_try(b, 1010, 10));
	assert_int_equal(budget_failed(&h.all, b, 1010, 10, 35, NULL, "x"), 1);
	assert_false(budget_may_try(b, 1029, 10));
	assert_true(budget_may_try(b, 1030, 10));
	for (int i = 0; i < 70; i++)
		budget_failed(&h.all, b, 1030, 10, 35, NULL, "down");
	assert_false(budget_may_try(b, 1064, 10));
	assert_true(budget_may_try(b, 1065, 10));
	budget_error(&h.all, b, sqlstate, text);
	assert_string_equal(sqlstate, "");
	assert_string_equal(text, "down");
	assert_true(budgets_down(&h.all, text, sizeof(text)));
	assert_string_equal(text, "a");
	assert_true(budget_recovered(b));
	assert_false(budget_recovered(b));
	assert_false(budgets_down(&h.all, text, sizeof(text)));
	assert_true(budget_may_try(b, 0, 10));
	house_close(&h);
}

static void
one_worker_at_a_time_tries_what_fails(void **state)
{
	struct budget *b;
	struct house h;

	(void)state;
	house_open(&h);
	b = budget_find(&h.all, "a", 5);
	budget_failed(&h.all, b, 1000, 10, 100, NULL, "no");
	assert_true(budget_may_try(b, 1010, 10));
	assert_false(budget_may_try(b, 1010, 10));
	assert_false(budget_may_try(b, 1019, 10));
	assert_true(budget_may_try(b, 1020, 10)); /* it was never heard of */
	house_close(&h);
}

static void
takes_above_or_below_its_limit_when_told_so(void **state)
{
	struct budget *b;
	struct house h;

	(void)state;
	house_open(&h);
	b = budget_find(&h.all, "a", 2);
	assert_int_equal(budget_room(b), 2);
	assert_true(budget_take_to(b, 1));
	assert_false(budget_take_to(b, 1));
	assert_int_equal(budget_room(b), 1);
	assert_true(budget_take(b));
	assert_false(budget_take(b));
	assert_true(budget_take_to(b, 3));
	assert_false(budget_take_to(b, 3));
	assert_int_equal(budget_room(b), 0);
	assert_true(budget_is_over(b, 0));
	assert_false(budget_is_over(b, 1));
	house_close(&h);
}

static void
one_of_those_who_would_serve_a_waiter_may(void **state)
{
	struct budget *b;
	struct house h;

	(void)state;
	house_open(&h);
	b = budget_find(&h.all, "a", 0);
	assert_false(budget_is_wanted(b));
	assert_false(budget_claim(b, 3));
	budget_wait(&h.all, b, 3, 5);
	assert_true(budget_is_wanted(b));
	assert_true(budget_claim(b, 3));
	assert_false(budget_claim(b, 3));
	assert_false(budget_is_wanted(b));
	budget_nudge_one(&h.all, b, 3);
	nudged(&h, 0, 0, 0, 1);
	house_close(&h);
}

/* The last reference frees it; a nudge on its way is one. */
static void
lives_as_long_as_somebody_holds_it(void **state)
{
	struct budget *a, *b, *again;
	struct house h;

	(void)state;
	house_open(&h);
	a = budget_find(&h.all, "a", 3);
	b = budget_find(&h.all, "a", 3);
	assert_int_equal(h.all.n, 1);
	budget_unref(&h.all, &a);
	assert_null(a);
	again = budget_find(&h.all, "a", 9);
	assert_ptr_equal(again, b);
	assert_int_equal(again->limit, 3);
	budget_unref(&h.all, &again);
	budget_nudge_one(&h.all, b, 2);
	a = b;
	budget_unref(&h.all, &a);
	assert_int_equal(h.all.n, 1);
	nudged(&h, 0, 0, 1, 0);
	assert_int_equal(h.all.n, 0);
	a = budget_find(&h.all, "a", 9);
	assert_int_equal(a->limit, 9);
	budget_unref(&h.all, &a);
	house_close(&h);
}

/* ---- with real threads ------------------------------------------------ */

enum { LIMIT = 3 };

struct crowd {
	struct house h;
	_Atomic int open, most;
	_Atomic int took;
	struct budget *found[WORKERS];
	_Atomic int next;
};

static void *
takes_and_gives(void *arg)
{
	struct crowd *c = arg;
	int me = atomic_fetch_add(&c->next, 1);
	struct budget *b = budget_find(&c->h.all, "shared", LIMIT);

	c->found[me] = b;
	for (int i = 0; i < 20000; i++) {
		int open, most;

		if (!budget_take(b))
			continue;
		open = atomic_fetch_add(&c->open, 1) + 1;
		most = atomic_load(&c->most);
		while (open > most &&
		       !atomic_compare_exchange_weak(&c->most, &most, open))
			;
		atomic_fetch_add(&c->took, 1);
		atomic_fetch_sub(&c->open, 1);
		budget_give(&c->h.all, b);
	}
	return NULL;
}

static void
never_passes_its_limit_under_threads(void **state)
{
	static struct crowd c;
	pthread_t thread[WORKERS];

	(void)state;
	house_open(&c.h);
	for (int i = 0; i < WORKERS; i++)
		assert_int_equal(
		    pthread_create(&thread[i], NULL, takes_and_gives, &c), 0);
	for (int i = 0; i < WORKERS; i++)
		pthread_join(thread[i], NULL);
	for (int i = 1; i < WORKERS; i++)
		assert_ptr_equal(c.found[i], c.found[0]);
	assert_true(c.took > 1000);
	assert_in_range(c.most, 1, LIMIT);
	assert_int_equal(c.found[0]->count, 0);
	house_close(&c.h);
}

/*
 * Workers that do what a pool does in a turn, without its timer: who wants a
 * server and is never woken, waits until the test fails.
 */
enum { ROUNDS = 4000, PATIENCE_MS = 30000 };

struct town {
	struct budgets all;
	struct mailbox mailbox[WORKERS], *mailboxes[WORKERS];
	struct budget *b;
	_Atomic int done, stuck;
};

struct side {
	struct town *town;
	unsigned me, seed;
	int idle, rounds;
	bool wants, busy;
};

struct moving {
	struct message message; /* first */
};

static void
side_nudged(struct message *m, void *owner)
{
	struct budget *b = budget_nudged(m)->budget;

	(void)owner;
	budget_unref(b->all, &b);
}

static void
server_arrived(struct message *m, void *owner)
{
	((struct side *)owner)->idle++;
	free(m);
}

/* Time passes in the most unwelcome places. */
static void
side_dawdle(struct side *s)
{
	if (rand_r(&s->seed) % 2)
		sched_yield();
}

static bool
side_share(struct side *s)
{
	struct moving *m;
	uint64_t ns;
	int who;

	if (s->idle == 0 || (who = budget_longest(s->town->b, s->me, &ns)) < 0)
		return false;
	side_dawdle(s);
	budget_wait_over(s->town->b, (unsigned)who);
	side_dawdle(s);
	if ((m = calloc(1, sizeof(*m))) == NULL)
		abort();
	m->message.run = server_arrived;
	s->idle--;
	mailbox_post(&s->town->mailbox[who], &m->message);
	return true;
}

static void
side_grant(struct side *s)
{
	if (s->wants && s->idle > 0) {
		s->idle--;
		s->wants = false;
		s->busy = true;
	}
}

static void
side_poke(struct side *s)
{
	struct budget *b = s->town->b;

	do {
		side_grant(s);
		while (side_share(s))
			;
		if (s->wants && budget_take(b)) {
			s->wants = false;
			s->busy = true;
		}
		side_dawdle(s);
		if (s->idle > 0)
			budget_idle(b, s->me);
		else
			budget_idle_over(b, s->me);
		if (s->wants)
			budget_wait(&s->town->all, b, s->me, s->me + 1);
		else
			budget_wait_over(b, s->me);
	} while (side_share(s));
}

/* Done with it: back to the pool, or closed. */
static void
side_release(struct side *s)
{
	s->busy = false;
	s->wants = --s->rounds > 0;
	if (rand_r(&s->seed) % 2)
		s->idle++;
	else
		budget_give(&s->town->all, s->town->b);
	if (s->rounds == 0)
		atomic_fetch_add(&s->town->done, 1);
}

static void *
side_run(void *arg)
{
	struct side *s = arg;
	struct town *t = s->town;

	side_poke(s);
	while (atomic_load(&t->done) < WORKERS && atomic_load(&t->stuck) == 0) {
		struct pollfd p = { .fd = t->mailbox[s->me].fd,
				    .events = POLLIN };
		int ms = s->busy ? 0 : s->wants ? PATIENCE_MS : 5;

		if (poll(&p, 1, ms) == 0 && s->wants &&
		    atomic_load(&t->done) < WORKERS) {
			atomic_fetch_add(&t->stuck, 1);
			break;
		}
		mailbox_drain(&t->mailbox[s->me]);
		if (s->busy)
			side_release(s);
		side_poke(s);
	}
	return NULL;
}

static void
nobody_waits_for_a_server_that_idles_elsewhere(void **state)
{
	static struct town t;
	struct side s[WORKERS];
	pthread_t thread[WORKERS];
	int idle = 0;

	(void)state;
	for (unsigned i = 0; i < WORKERS; i++) {
		s[i] = (struct side){ &t, i, i + 1, 0, ROUNDS, true, false };
		assert_int_equal(mailbox_init(&t.mailbox[i], &s[i]), 0);
		t.mailboxes[i] = &t.mailbox[i];
	}
	assert_int_equal(
	    budgets_init(&t.all, WORKERS, t.mailboxes, side_nudged), 0);
	t.b = budget_find(&t.all, "shared", 2);
	for (int i = 0; i < WORKERS; i++)
		assert_int_equal(
		    pthread_create(&thread[i], NULL, side_run, &s[i]), 0);
	for (int i = 0; i < WORKERS; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(t.stuck, 0);
	for (int i = 0; i < WORKERS; i++) {
		mailbox_drain(&t.mailbox[i]); /* what was under way */
		idle += s[i].idle + s[i].busy;
		mailbox_fini(&t.mailbox[i]);
	}
	assert_int_equal(t.b->count, idle);
	assert_in_range(idle, 0, 2);
	budgets_fini(&t.all);
}

/*
 * Two levels as pools have them: the cap first, then the pool's own; given
 * back in reverse.  Budgets come and go meanwhile.
 */
struct city {
	struct house h;
	_Atomic int open, most, took, next;
};

static void *
takes_both(void *arg)
{
	struct city *c = arg;
	unsigned seed = (unsigned)atomic_fetch_add(&c->next, 1) + 1;
	char key[16];

	for (int i = 0; i < 10000; i++) {
		struct budget *cap = budget_find(&c->h.all, "cap", LIMIT), *b;
		int open, most;

		snprintf(key, sizeof(key), "pool %d", rand_r(&seed) % 3);
		b = budget_find(&c->h.all, key, 2);
		if (budget_take(cap)) {
			if (budget_take(b)) {
				open = atomic_fetch_add(&c->open, 1) + 1;
				most = atomic_load(&c->most);
				while (open > most &&
				       !atomic_compare_exchange_weak(
					   &c->most, &most, open))
					;
				atomic_fetch_add(&c->took, 1);
				budget_nudge_others(&c->h.all, b, 0);
				atomic_fetch_sub(&c->open, 1);
				budget_give(&c->h.all, b);
			}
			budget_give(&c->h.all, cap);
		}
		budget_unref(&c->h.all, &b);
		budget_unref(&c->h.all, &cap);
	}
	return NULL;
}

static void
two_levels_hold_while_budgets_come_and_go(void **state)
{
	static struct city c;
	pthread_t thread[WORKERS];

	(void)state;
	house_open(&c.h);
	for (int i = 0; i < WORKERS; i++)
		assert_int_equal(
		    pthread_create(&thread[i], NULL, takes_both, &c), 0);
	while (atomic_load(&c.took) < 1000)
		for (int i = 0; i < WORKERS; i++)
			mailbox_drain(&c.h.mailbox[i]);
	for (int i = 0; i < WORKERS; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < WORKERS; i++) {
		mailbox_drain(&c.h.mailbox[i]);
		c.h.nudges[i] = 0;
	}
	assert_in_range(c.most, 1, LIMIT);
	assert_int_equal(c.h.all.n, 0); /* nothing was left behind */
	house_close(&c.h);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_budget_for_one_name),
		cmocka_unit_test(remembers_for_each_pool_what_it_has_parsed),
		cmocka_unit_test(gives_no_more_than_its_limit),
		cmocka_unit_test(who_waits_nudges_who_may_have_an_idle_one),
		cmocka_unit_test(nudges_on_their_way_are_not_doubled),
		cmocka_unit_test(who_gives_back_nudges_who_waits),
		cmocka_unit_test(who_begins_to_wait_looks_once_more_for_room),
		cmocka_unit_test(knows_who_has_waited_longest),
		cmocka_unit_test(waits_longer_after_each_failure),
		cmocka_unit_test(one_worker_at_a_time_tries_what_fails),
		cmocka_unit_test(takes_above_or_below_its_limit_when_told_so),
		cmocka_unit_test(one_of_those_who_would_serve_a_waiter_may),
		cmocka_unit_test(lives_as_long_as_somebody_holds_it),
		cmocka_unit_test(two_levels_hold_while_budgets_come_and_go),
		cmocka_unit_test(never_passes_its_limit_under_threads),
		cmocka_unit_test(
		    nobody_waits_for_a_server_that_idles_elsewhere),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
