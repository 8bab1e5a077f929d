#include "tests/t.h"

#include <string.h>

#include "tls/tickets.h"

enum { START = 1000 };

struct fixture {
	struct tickets t;
	struct tickets_key first, k;
};

static void
start(struct fixture *f)
{
	tickets_init(&f->t);
	assert_int_equal(tickets_seal(&f->t, START, &f->first), 0);
}

static bool
same(const struct tickets_key *a, const struct tickets_key *b)
{
	return memcmp(a->name, b->name, sizeof(a->name)) == 0 &&
	       memcmp(a->cipher, b->cipher, sizeof(a->cipher)) == 0 &&
	       memcmp(a->mac, b->mac, sizeof(a->mac)) == 0;
}

static void
one_key_seals_for_its_age_and_then_another(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	assert_int_equal(tickets_seal(&f.t, START + TICKETS_AGE_S - 1, &f.k),
			 0);
	assert_true(same(&f.first, &f.k));
	assert_int_equal(tickets_seal(&f.t, START + TICKETS_AGE_S, &f.k), 0);
	assert_memory_not_equal(f.first.name, f.k.name, sizeof(f.k.name));
	assert_memory_not_equal(f.first.cipher, f.k.cipher, sizeof(f.k.cipher));
	assert_memory_not_equal(f.first.mac, f.k.mac, sizeof(f.k.mac));
	tickets_fini(&f.t);
}

static void
the_key_before_opens_and_asks_for_a_new_ticket(void **state)
{
	struct fixture f;
	const uint64_t then = START + TICKETS_AGE_S;

	(void)state;
	start(&f);
	assert_int_equal(tickets_open(&f.t, START, f.first.name, &f.k), 1);
	assert_true(same(&f.first, &f.k));
	assert_int_equal(tickets_seal(&f.t, then, &f.k), 0);
	assert_int_equal(tickets_open(&f.t, then, f.k.name, &f.k), 1);
	assert_int_equal(tickets_open(&f.t, then, f.first.name, &f.k), 2);
	assert_true(same(&f.first, &f.k));
	tickets_fini(&f.t);
}

static void
a_key_two_ages_old_opens_nothing_though_nobody_came_since(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	assert_int_equal(tickets_open(&f.t, START + 2 * TICKETS_AGE_S - 1,
				      f.first.name, &f.k),
			 2);
	assert_int_equal(
	    tickets_open(&f.t, START + 2 * TICKETS_AGE_S, f.first.name, &f.k),
	    0);
	assert_int_equal(tickets_seal(&f.t, START + 3 * TICKETS_AGE_S, &f.k),
			 0);
	assert_int_equal(
	    tickets_open(&f.t, START + 3 * TICKETS_AGE_S, f.first.name, &f.k),
	    0);
	tickets_fini(&f.t);
}

static void
a_name_nobody_gave_opens_nothing(void **state)
{
	static const uint8_t zeros[TICKETS_NAME];
	struct fixture f;

	(void)state;
	tickets_init(&f.t);
	assert_int_equal(tickets_open(&f.t, START, zeros, &f.k), 0);
	tickets_fini(&f.t);
	start(&f);
	assert_int_equal(tickets_open(&f.t, START, zeros, &f.k), 0);
	f.first.name[TICKETS_NAME - 1] ^= 1;
	assert_int_equal(tickets_open(&f.t, START, f.first.name, &f.k), 0);
	tickets_fini(&f.t);
}

static void
a_copy_opens_what_the_original_sealed(void **state)
{
	struct fixture f;
	struct tickets copy;

	(void)state;
	start(&f);
	tickets_init(&copy);
	tickets_copy(&copy, &f.t);
	tickets_fini(&f.t);
	assert_int_equal(tickets_open(&copy, START, f.first.name, &f.k), 1);
	assert_true(same(&f.first, &f.k));
	tickets_fini(&copy);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_key_seals_for_its_age_and_then_another),
		cmocka_unit_test(
		    the_key_before_opens_and_asks_for_a_new_ticket),
		cmocka_unit_test(
		    a_key_two_ages_old_opens_nothing_though_nobody_came_since),
		cmocka_unit_test(a_name_nobody_gave_opens_nothing),
		cmocka_unit_test(a_copy_opens_what_the_original_sealed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
