#include "tests/t.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "pool/rate.h"

#define MS 1000000ull

static struct rate
rate_of(uint64_t count, uint64_t period_ms)
{
	struct rate r = { 0 };

	rate_set(&r, &(struct tenant_rate){ count, period_ms }, 0);
	return r;
}

static unsigned
takes(struct rate *r, uint64_t now_ns)
{
	uint64_t wait;
	unsigned n = 0;

	while (n < 100000 && rate_take(r, 1, now_ns, &wait))
		n++;
	return n;
}

static void
no_rate_is_no_limit(void **state)
{
	struct rate r = rate_of(0, 0);

	(void)state;
	assert_int_equal(takes(&r, 1), 100000);
	assert_true(rate_is_full(&r, 1));
	r = rate_of(UINT64_MAX, 1); /* more than one in a nanosecond */
	assert_int_equal(takes(&r, 1), 100000);
}

static void
a_full_bucket_gives_exactly_its_size(void **state)
{
	const uint64_t counts[] = { 1, 2, 3, 7, 1000, 999, 99999 };

	(void)state;
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct rate r = rate_of(counts[i], 1000);

		assert_int_equal(takes(&r, 5), counts[i]);
		assert_int_equal(takes(&r, 5), 0);
	}
}

static void
a_token_comes_to_the_nanosecond_it_was_promised(void **state)
{
	struct rate r = rate_of(4, 1000);
	uint64_t wait;

	(void)state;
	assert_int_equal(takes(&r, 10), 4);
	assert_false(rate_take(&r, 1, 10, &wait));
	assert_int_equal(wait, 250 * MS);
	assert_false(rate_take(&r, 1, 10 + 250 * MS - 1, &wait));
	assert_int_equal(wait, 1);
	assert_int_equal(takes(&r, 10 + 250 * MS), 1);
	assert_int_equal(takes(&r, 10 + 1250 * MS), 4);
	assert_int_equal(takes(&r, 10 + 100000 * MS),
			 4); /* no more than full */
}

static void
several_are_had_at_once_or_none(void **state)
{
	struct rate r = rate_of(4, 1000);
	uint64_t wait;

	(void)state;
	assert_true(rate_take(&r, 3, 10, &wait));
	assert_false(rate_take(&r, 3, 10, &wait));
	assert_int_equal(wait, 500 * MS);
	assert_false(rate_take(&r, 3, 10 + 500 * MS - 1, &wait));
	assert_true(rate_take(&r, 3, 10 + 500 * MS, &wait));
	/* More than there ever are: not even once it is full. */
	assert_false(rate_take(&r, 5, 10 + 500 * MS, &wait));
	assert_true(wait == RATE_NEVER);
	assert_false(rate_take(&r, UINT_MAX, 10 + 1500 * MS, &wait));
	assert_true(wait == RATE_NEVER);
	assert_int_equal(takes(&r, 10 + 1500 * MS), 4);
}

static void
what_is_given_back_is_there_again_and_no_more(void **state)
{
	struct rate r = rate_of(4, 1000), none = rate_of(0, 0);

	(void)state;
	assert_int_equal(takes(&r, 10), 4);
	rate_give(&r, 2);
	assert_int_equal(takes(&r, 10), 2);
	rate_give(&r, 4);
	rate_give(&r, UINT_MAX);
	assert_int_equal(takes(&r, 10), 4);
	rate_give(&none, 3);
	assert_true(rate_is_full(&none, 0));
}

static void
an_organization_that_always_asks_gets_its_rate(void **state)
{
	struct rate r = rate_of(10, 1000);
	unsigned got = 0;
	uint64_t wait;

	(void)state;
	for (uint64_t ms = 0; ms < 60000; ms++)
		got += rate_take(&r, 1, ms * MS, &wait);
	assert_in_range(got, 10 + 598, 10 + 600);
}

static void
a_clock_that_is_behind_gives_nothing_twice(void **state)
{
	struct rate r = rate_of(4, 1000);

	(void)state;
	assert_int_equal(takes(&r, 5000 * MS), 4);
	assert_int_equal(takes(&r, 4000 * MS), 0);
	assert_int_equal(takes(&r, 5249 * MS), 0);
}

static void
another_rate_keeps_the_level(void **state)
{
	struct rate r = rate_of(10, 10000);

	(void)state;
	assert_int_equal(takes(&r, 1), 10);
	rate_set(&r, &(struct tenant_rate){ 5, 1000 }, 1);
	assert_int_equal(takes(&r, 1), 0);
	/* Empty, but not emptier than empty. */
	assert_int_equal(takes(&r, 1 + 200 * MS), 1);
	rate_set(&r, &(struct tenant_rate){ 5, 1000 }, 2);
	assert_int_equal(takes(&r, 2 + 200 * MS), 0);
	rate_set(&r, &(struct tenant_rate){ 20, 2000 }, 1 + 200 * MS);
	assert_int_equal(takes(&r, 1 + 200 * MS), 10);
}

static void
the_longest_period_overflows_nothing(void **state)
{
	struct rate r = rate_of(1, UINT64_MAX);
	uint64_t wait, late = 1000000000ull * 86400 * 365 * 100;

	(void)state;
	assert_true(rate_take(&r, 1, late, &wait));
	assert_false(rate_take(&r, 1, late, &wait));
	assert_int_equal(wait, 1000000000000ull * MS);
}

static struct tenant
tenant(const char *slug, uint64_t count)
{
	return (struct tenant){ .slug = (char *)(uintptr_t)slug,
				.rate_queries = { count, 1000 } };
}

static void
one_organization_has_one_bucket_that_outlasts_its_sessions(void **state)
{
	struct tenant a = tenant("a", 2), b = tenant("b", 2);
	struct rates_entry *one, *two, *other;
	struct rates all;

	(void)state;
	rates_init(&all);
	one = rates_find(&all, &a, 1);
	two = rates_find(&all, &a, 1);
	other = rates_find(&all, &b, 1);
	assert_ptr_equal(one, two);
	assert_ptr_not_equal(one, other);
	assert_int_equal(takes(&one->rate[RATE_QUERIES], 1), 2);
	assert_int_equal(takes(&other->rate[RATE_QUERIES], 1), 2);
	rates_unref(&all, &one);
	rates_unref(&all, &two);
	assert_null(two);
	one = rates_find(&all, &a, 2);
	assert_int_equal(takes(&one->rate[RATE_QUERIES], 2), 0);
	a.rate_queries.count = 10; /* a reload */
	rates_change(&all, &a, 2);
	assert_int_equal(takes(&one->rate[RATE_QUERIES], 2 + 100 * MS), 1);
	rates_unref(&all, &one);
	rates_unref(&all, &other);
	rates_fini(&all);
}

static void
full_buckets_of_nobody_are_forgotten(void **state)
{
	struct rates all;
	char slug[16];

	(void)state;
	rates_init(&all);
	for (int i = 0; i < 200000; i++) {
		struct tenant t = tenant(slug, 2);
		struct rates_entry *e;
		uint64_t wait, now = (uint64_t)i * 1000 * MS;

		snprintf(slug, sizeof(slug), "%d", i);
		e = rates_find(&all, &t, now);
		assert_true(rate_take(&e->rate[RATE_QUERIES], 1, now, &wait));
		rates_unref(&all, &e);
	}
	assert_true(all.n <= 2 * RATES_BUCKETS);
	rates_fini(&all);
}

enum { THREADS = 4, TRIES = 20000, SIZE = 31337 };

struct crowd {
	struct rate rate;
	_Atomic unsigned got;
};

static void *
crowd_main(void *arg)
{
	struct crowd *c = arg;
	uint64_t wait;

	for (int i = 0; i < TRIES; i++)
		if (rate_take(&c->rate, 1, 7, &wait))
			atomic_fetch_add(&c->got, 1);
	return NULL;
}

static void
threads_together_take_exactly_what_there_is(void **state)
{
	struct crowd c = { .rate = rate_of(SIZE, 60000) };
	pthread_t t[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, crowd_main, &c),
				 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(c.got, SIZE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_rate_is_no_limit),
		cmocka_unit_test(a_full_bucket_gives_exactly_its_size),
		cmocka_unit_test(
		    a_token_comes_to_the_nanosecond_it_was_promised),
		cmocka_unit_test(several_are_had_at_once_or_none),
		cmocka_unit_test(what_is_given_back_is_there_again_and_no_more),
		cmocka_unit_test(
		    an_organization_that_always_asks_gets_its_rate),
		cmocka_unit_test(a_clock_that_is_behind_gives_nothing_twice),
		cmocka_unit_test(another_rate_keeps_the_level),
		cmocka_unit_test(the_longest_period_overflows_nothing),
		cmocka_unit_test(
		    one_organization_has_one_bucket_that_outlasts_its_sessions),
		cmocka_unit_test(full_buckets_of_nobody_are_forgotten),
		cmocka_unit_test(threads_together_take_exactly_what_there_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
