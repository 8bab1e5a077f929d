#include "tests/t.h"

#include <string.h>

#include "pool/server.h"

static void
every_state_has_its_name(void **state)
{
	(void)state;
	assert_string_equal(server_state_name(SERVER_DIAL), "DIAL");
	assert_string_equal(server_state_name(SERVER_DEAD), "DEAD");
	for (int i = 0; i < SERVER_MAX; i++)
		for (int k = 0; k < i; k++)
			assert_string_not_equal(
			    server_state_name((enum server_state)i),
			    server_state_name((enum server_state)k));
}

static void
every_state_may_end_and_the_end_is_final(void **state)
{
	(void)state;
	for (int i = 0; i < SERVER_MAX; i++) {
		enum server_state s = (enum server_state)i;

		assert_int_equal(server_may_go(s, SERVER_DEAD),
				 s != SERVER_DEAD);
		assert_false(server_may_go(SERVER_DEAD, s));
		assert_false(server_may_go(s, s));
	}
}

static void
is_lent_and_moved_only_when_it_is_idle(void **state)
{
	(void)state;
	for (int i = 0; i < SERVER_MAX; i++) {
		enum server_state s = (enum server_state)i;

		assert_int_equal(server_may_go(s, SERVER_LEASED),
				 s == SERVER_IDLE);
		assert_int_equal(server_may_go(s, SERVER_MOVING),
				 s == SERVER_IDLE);
	}
}

/* Whatever was lent is idle again by itself or over a cleaning. */
static void
comes_back_from_a_lease_or_its_cleaning(void **state)
{
	static const unsigned to_idle =
	    1u << SERVER_LOGIN | 1u << SERVER_MOVING | 1u << SERVER_LEASED |
	    1u << SERVER_RESET;

	(void)state;
	for (int i = 0; i < SERVER_MAX; i++) {
		enum server_state s = (enum server_state)i;

		assert_int_equal(server_may_go(s, SERVER_IDLE),
				 (to_idle >> i & 1) != 0);
		assert_int_equal(server_may_go(s, SERVER_RESET),
				 s == SERVER_LEASED);
		assert_int_equal(server_may_go(s, SERVER_SHARED),
				 s == SERVER_LOGIN);
		assert_int_equal(server_may_go(s, SERVER_LOGIN),
				 s == SERVER_DIAL);
		assert_false(server_may_go(s, SERVER_DIAL));
	}
}

/* A shared one owes many; it is never anybody's alone. */
static void
a_shared_server_stays_shared(void **state)
{
	(void)state;
	for (int i = 0; i < SERVER_MAX; i++)
		assert_int_equal(
		    server_may_go(SERVER_SHARED, (enum server_state)i),
		    i == SERVER_DEAD);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_state_has_its_name),
		cmocka_unit_test(every_state_may_end_and_the_end_is_final),
		cmocka_unit_test(is_lent_and_moved_only_when_it_is_idle),
		cmocka_unit_test(comes_back_from_a_lease_or_its_cleaning),
		cmocka_unit_test(a_shared_server_stays_shared),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
