#include "tests/t.h"

#include <stdlib.h>
#include <time.h>

#include "tls/wheel.h"

#define MS  (1000ull * 1000)
#define SEC (1000 * MS)
#define T   WHEEL_TICK_NS

/* Somewhere in a machine's uptime, not on a tick. */
#define START (123456789 * MS + 777)

struct watch {
	struct wheel_entry entry; /* first */
	struct wheel *wheel;
	struct watch *victim; /* removed by fire */
	uint64_t again_ns;    /* set by fire; 0: not */
	int fired;
};

static void
watch_fire(struct wheel_entry *e)
{
	struct watch *x = (struct watch *)e;

	assert_int_equal(e->deadline_ns, 0);
	x->fired++;
	if (x->victim != NULL)
		wheel_set(x->wheel, &x->victim->entry, 0);
	if (x->again_ns != 0)
		wheel_set(x->wheel, e, x->again_ns);
}

static void
watch_init(struct watch *x, struct wheel *w)
{
	*x = (struct watch){ .wheel = w };
	wheel_entry_init(&x->entry, watch_fire);
}

/* Looks once a tick, the way an idle worker's timer does. */
static void
run_to(struct wheel *w, uint64_t from, uint64_t to)
{
	for (uint64_t now = from; now < to; now += T)
		wheel_run(w, now);
	wheel_run(w, to);
}

static void
fires_within_a_tick_and_never_early(void **state)
{
	static const uint64_t after[] = { 0,        1,        T - 1,
					  T,        T + 1,    3 * SEC,
					  51 * SEC, 52 * SEC, 600 * SEC };
	struct wheel w;
	struct watch x;

	(void)state;
	for (size_t i = 0; i < sizeof(after) / sizeof(after[0]); i++) {
		uint64_t deadline = START + after[i];

		wheel_init(&w, START);
		watch_init(&x, &w);
		wheel_set(&w, &x.entry, deadline);
		if (after[i] > 0)
			run_to(&w, START, deadline - 1);
		assert_int_equal(x.fired, 0);
		wheel_run(&w, deadline + T - 1);
		assert_int_equal(x.fired, 1);
		assert_int_equal(w.n, 0);
		run_to(&w, deadline + T, deadline + 120 * SEC);
		assert_int_equal(x.fired, 1);
	}
}

static void
a_deadline_in_the_past_fires_at_the_next_run(void **state)
{
	struct wheel w;
	struct watch x;

	(void)state;
	wheel_init(&w, START);
	watch_init(&x, &w);
	wheel_set(&w, &x.entry, 1);
	wheel_run(&w, START); /* within the same tick */
	assert_int_equal(x.fired, 1);
	wheel_run(&w, START);
	assert_int_equal(x.fired, 1);
}

static void
a_deadline_moved_later_keeps_its_slot(void **state)
{
	struct wheel_entry *next, **prev;
	struct wheel w;
	struct watch x;

	(void)state;
	wheel_init(&w, START);
	watch_init(&x, &w);
	wheel_set(&w, &x.entry, START + SEC);
	next = x.entry.next;
	prev = x.entry.prev;
	for (int i = 1; i <= 100; i++)
		wheel_set(&w, &x.entry, START + SEC + i * MS);
	assert_ptr_equal(x.entry.next, next);
	assert_ptr_equal(x.entry.prev, prev);
	run_to(&w, START, START + SEC + 100 * MS - 1);
	assert_int_equal(x.fired, 0);
	wheel_run(&w, START + SEC + 150 * MS);
	assert_int_equal(x.fired, 1);
}

/* An entry that is looked at would leave the slot its deadline has left. */
static void
a_run_looks_only_at_what_has_come_up(void **state)
{
	const uint64_t now = START + 100 * SEC, due = now + 10 * SEC;
	struct wheel w;
	struct watch x;

	(void)state;
	wheel_init(&w, START);
	wheel_run(&w, now);
	watch_init(&x, &w);
	wheel_set(&w, &x.entry, due);
	assert_in_range(x.entry.slot_ns, due, due + T - 1);
	wheel_set(&w, &x.entry, due + 5 * SEC);
	run_to(&w, now, due - T);
	assert_in_range(x.entry.slot_ns, due, due + T - 1);
	wheel_run(&w, due + T);
	assert_in_range(x.entry.slot_ns, due + 5 * SEC, due + 5 * SEC + T - 1);
	run_to(&w, due + T, due + 5 * SEC + T);
	assert_int_equal(x.fired, 1);
}

static void
a_deadline_at_the_end_of_time_may_come_nearer(void **state)
{
	struct wheel w;
	struct watch x;

	(void)state;
	wheel_init(&w, START);
	watch_init(&x, &w);
	wheel_set(&w, &x.entry, UINT64_MAX);
	wheel_set(&w, &x.entry, START + SEC);
	run_to(&w, START, START + SEC + T);
	assert_int_equal(x.fired, 1);
}

static void
a_deadline_moved_earlier_or_removed_is_obeyed(void **state)
{
	struct watch x, y;
	struct wheel w;

	(void)state;
	wheel_init(&w, START);
	watch_init(&x, &w);
	watch_init(&y, &w);
	wheel_set(&w, &x.entry, START + 40 * SEC);
	wheel_set(&w, &y.entry, START + 3 * SEC);
	wheel_set(&w, &x.entry, START + 2 * SEC);
	wheel_set(&w, &y.entry, 0);
	wheel_set(&w, &y.entry, 0); /* nothing left to remove */
	assert_int_equal(w.n, 1);
	run_to(&w, START, START + 2 * SEC + T);
	assert_int_equal(x.fired, 1);
	run_to(&w, START + 2 * SEC + T, START + 60 * SEC);
	assert_int_equal(y.fired, 0);
}

/* Both orders of the two in their list, so one of them is the next one. */
static void
a_fire_may_remove_another_that_is_due(void **state)
{
	(void)state;
	for (int first = 0; first < 2; first++) {
		struct watch x[3];
		struct wheel w;

		wheel_init(&w, START);
		for (int i = 0; i < 3; i++) {
			watch_init(&x[i], &w);
			wheel_set(&w, &x[i].entry, START + SEC);
		}
		x[first].victim = &x[!first];
		x[!first].victim = &x[first];
		wheel_run(&w, START + SEC + T);
		assert_int_equal(x[0].fired + x[1].fired, 1);
		assert_int_equal(x[2].fired, 1);
		assert_int_equal(w.n, 0);
	}
}

static void
a_fire_may_arm_itself_again_but_fires_once_a_run(void **state)
{
	struct wheel w;
	struct watch x;

	(void)state;
	wheel_init(&w, START);
	watch_init(&x, &w);
	x.again_ns = 1; /* the past */
	wheel_set(&w, &x.entry, START + SEC);
	for (int i = 1; i <= 5; i++) {
		wheel_run(&w, START + SEC + T);
		assert_int_equal(x.fired, i);
	}
	for (int i = 6; i <= 10; i++) {
		wheel_run(&w, START + i * SEC); /* many slots at once */
		assert_int_equal(x.fired, i);
	}
}

/* Tick by tick a century would take a minute of CPU, not a millisecond. */
static void
a_gap_of_any_length_is_run_at_once(void **state)
{
	enum { N = 100 };
	uint64_t now = START + 100ull * 365 * 86400 * SEC;
	clock_t before = clock();
	struct watch x[N], never;
	struct wheel w;

	(void)state;
	wheel_init(&w, START);
	watch_init(&never, &w);
	wheel_set(&w, &never.entry, UINT64_MAX);
	for (int i = 0; i < N; i++) {
		watch_init(&x[i], &w);
		wheel_set(&w, &x[i].entry, START + (uint64_t)i * 400 * MS);
	}
	wheel_run(&w, now);
	for (int i = 0; i < N; i++)
		assert_int_equal(x[i].fired, 1);
	for (int i = 0; i < 1000; i++)
		wheel_run(&w, now += 86400 * SEC);
	assert_int_equal(never.fired, 0);
	assert_int_equal(w.n, 1);
	assert_true(clock() - before < 5 * CLOCKS_PER_SEC);
}

/* A clock read earlier in the turn than the one wheel_init() got. */
static void
a_clock_that_lags_runs_nothing(void **state)
{
	struct wheel w;
	struct watch x;

	(void)state;
	wheel_init(&w, START);
	watch_init(&x, &w);
	wheel_set(&w, &x.entry, START + 1);
	wheel_run(&w, START - 2 * T);
	assert_int_equal(x.fired, 0);
	wheel_run(&w, START + T);
	assert_int_equal(x.fired, 1);
}

/* The model: what a naive list of deadlines would do. */
enum { ENTRIES = 64, STEPS = 20000 };

struct model {
	struct wheel wheel;
	uint64_t now;
	struct modelled {
		struct wheel_entry entry; /* first */
		struct model *model;
		uint64_t deadline_ns; /* 0: none */
		uint64_t set_ns;      /* when it was set */
		bool fired;
	} x[ENTRIES];
	int fires;
};

static uint64_t
pick(unsigned *seed, uint64_t n)
{
	uint64_t r = (uint64_t)rand_r(seed) << 31 | (uint64_t)rand_r(seed);

	return r % n;
}

static void
model_set(struct model *m, struct modelled *x, uint64_t deadline_ns)
{
	wheel_set(&m->wheel, &x->entry, deadline_ns);
	x->deadline_ns = deadline_ns;
	x->set_ns = m->now;
}

static uint64_t
some_deadline(struct model *m, unsigned *seed)
{
	switch (pick(seed, 6)) {
	case 0:
		return 0;
	case 1:
		return m->now - pick(seed, SEC);
	case 2:
		return m->now + pick(seed, 2 * T);
	case 3:
		return (m->now / T + pick(seed, 4)) * T; /* on a tick */
	case 4:
		return m->now + pick(seed, 500 * SEC);
	}
	return m->now + pick(seed, 20 * SEC);
}

static void
modelled_fire(struct wheel_entry *e)
{
	struct modelled *x = (struct modelled *)e;
	struct model *m = x->model;
	unsigned seed = (unsigned)++m->fires;

	assert_int_not_equal(x->deadline_ns, 0); /* removed ones never */
	assert_true(x->deadline_ns <= m->now);   /* never early */
	assert_false(x->fired);                  /* once a run */
	x->fired = true;
	x->deadline_ns = 0;
	if (pick(&seed, 3) == 0)
		model_set(m, x, some_deadline(m, &seed));
	if (pick(&seed, 3) == 0)
		model_set(m, &m->x[pick(&seed, ENTRIES)],
			  some_deadline(m, &seed));
}

static void
model_run(struct model *m, uint64_t step)
{
	unsigned armed = 0;

	m->now += step;
	for (int i = 0; i < ENTRIES; i++)
		m->x[i].fired = false;
	wheel_run(&m->wheel, m->now);
	for (int i = 0; i < ENTRIES; i++) {
		struct modelled *x = &m->x[i];

		armed += x->deadline_ns != 0;
		if (x->deadline_ns == 0 || x->set_ns == m->now)
			continue;
		assert_true(m->now < x->deadline_ns + T); /* never late */
	}
	assert_int_equal(m->wheel.n, armed);
}

static void
agrees_with_a_naive_list_over_many_operations(void **state)
{
	static struct model m;
	unsigned seed = 4711;

	(void)state;
	m.now = START;
	wheel_init(&m.wheel, m.now);
	for (int i = 0; i < ENTRIES; i++) {
		wheel_entry_init(&m.x[i].entry, modelled_fire);
		m.x[i].model = &m;
	}
	for (int i = 0; i < STEPS; i++) {
		if (pick(&seed, 2) == 0)
			model_set(&m, &m.x[pick(&seed, ENTRIES)],
				  some_deadline(&m, &seed));
		else if (pick(&seed, 100) == 0)
			model_run(&m, pick(&seed, 3600 * SEC));
		else
			model_run(&m,
				  1 + pick(&seed, pick(&seed, 2) ? MS : SEC));
	}
	assert_true(m.fires > STEPS / 10);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fires_within_a_tick_and_never_early),
		cmocka_unit_test(a_deadline_in_the_past_fires_at_the_next_run),
		cmocka_unit_test(a_deadline_moved_later_keeps_its_slot),
		cmocka_unit_test(a_run_looks_only_at_what_has_come_up),
		cmocka_unit_test(a_deadline_at_the_end_of_time_may_come_nearer),
		cmocka_unit_test(a_deadline_moved_earlier_or_removed_is_obeyed),
		cmocka_unit_test(a_fire_may_remove_another_that_is_due),
		cmocka_unit_test(
		    a_fire_may_arm_itself_again_but_fires_once_a_run),
		cmocka_unit_test(a_gap_of_any_length_is_run_at_once),
		cmocka_unit_test(a_clock_that_lags_runs_nothing),
		cmocka_unit_test(agrees_with_a_naive_list_over_many_operations),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
