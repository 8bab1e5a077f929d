#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/context.h"

#define KEY "0123456789abcdef0123456789abcdef"

static void
is_signed(const char *organization, const char *user, uint32_t pid,
	  uint64_t expiry, const char *want)
{
	char *subject = context_subject(organization, user);
	char *text = context_sign(subject, KEY, pid, expiry);

	assert_memory_equal(text, want, strlen(want));
	assert_int_equal(strlen(text), strlen(want) + 64);
	free(subject);
	free(text);
}

/* By openssl dgst -sha256 -mac HMAC of what stands before the last dot. */
static void
the_signature_is_the_hmac_of_what_stands_before_it(void **state)
{
	static const char mac[] = "f95770a2b606623a77122c6a29929337"
				  "bf6096238ed4f2ea072f45c334e1147d";
	char *text = context_sign("weir1.6f.75", KEY, 7, 99);

	(void)state;
	assert_string_equal(text + strlen("weir1.6f.75.7.99."), mac);
	free(text);
}

static void
no_field_can_be_taken_for_another(void **state)
{
	(void)state;
	is_signed("a", "b", 1, 2, "weir1.61.62.1.2.");
	is_signed("a.b", "", 1, 2, "weir1.612e62..1.2.");
	is_signed("a", ".b", 1, 2, "weir1.61.2e62.1.2.");
	is_signed("\xc3\xa9\xff", "'", 1, 2, "weir1.c3a9ff.27.1.2.");
	is_signed("", "", UINT32_MAX, UINT64_MAX,
		  "weir1...4294967295.18446744073709551615.");
}

static void
a_key_is_known_by_its_id_and_by_nothing_else(void **state)
{
	(void)state;
	assert_true(context_key_id(KEY) == context_key_id(KEY));
	assert_true(context_key_id(KEY) != context_key_id(KEY "x"));
	assert_true(context_key_id(KEY) != 0);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    the_signature_is_the_hmac_of_what_stands_before_it),
		cmocka_unit_test(no_field_can_be_taken_for_another),
		cmocka_unit_test(a_key_is_known_by_its_id_and_by_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
