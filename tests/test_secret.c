#include "tests/t.h"

#include <string.h>

#include "protocol/secret.h"

static void
knows_the_password_and_nothing_near_it(void **state)
{
	(void)state;
	assert_true(secret_same(slice_str("correct horse"), "correct horse"));
	assert_false(secret_same(slice_str("correct hors"), "correct horse"));
	assert_false(secret_same(slice_str("correct horse "), "correct horse"));
	assert_false(secret_same(slice_str(""), "correct horse"));
	assert_false(
	    secret_same(slice_of("correct horse\0", 14), "correct horse"));
	assert_true(secret_same(slice_str(""), ""));
}

static void
refuses_to_hash_what_is_longer_than_any_password(void **state)
{
	static char big[SECRET_MAX_BYTES + 2];

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	assert_false(secret_same(slice_of(big, sizeof(big) - 1), big));
	big[SECRET_MAX_BYTES] = '\0';
	assert_true(secret_same(slice_of(big, SECRET_MAX_BYTES), big));
}

/* rolpassword of CREATE ROLE candle PASSWORD 'wax' under md5 encryption. */
#define CANDLE_WAX "md587ad8e138df6ddea587d7fe1a421c19b"

static void
stores_what_postgresql_stores(void **state)
{
	char out[PG_MD5 + 1];

	(void)state;
	assert_int_equal(pg_md5_store(out, "wax", "candle"), 0);
	assert_true(pg_md5_is_stored(out));
	assert_string_equal(out, CANDLE_WAX);
}

static void
answers_differently_to_every_salt(void **state)
{
	char one[PG_MD5 + 1], two[PG_MD5 + 1];

	(void)state;
	assert_int_equal(
	    pg_md5_answer(one, CANDLE_WAX, (const uint8_t *)"\1\2\3\4"), 0);
	assert_int_equal(
	    pg_md5_answer(two, CANDLE_WAX, (const uint8_t *)"\1\2\3\5"), 0);
	assert_string_not_equal(one, two);
	assert_true(pg_md5_is_stored(one));
}

static void
tells_a_stored_form_from_a_password(void **state)
{
	(void)state;
	assert_false(pg_md5_is_stored(""));
	assert_false(pg_md5_is_stored("md5"));
	assert_false(pg_md5_is_stored("md5 is what I call a password, it is"));
	assert_false(pg_md5_is_stored(CANDLE_WAX "0"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(knows_the_password_and_nothing_near_it),
		cmocka_unit_test(
		    refuses_to_hash_what_is_longer_than_any_password),
		cmocka_unit_test(stores_what_postgresql_stores),
		cmocka_unit_test(answers_differently_to_every_salt),
		cmocka_unit_test(tells_a_stored_form_from_a_password),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
