#include "tests/t.h"

#include <string.h>

#include "protocol/utf8.h"

static size_t
encode(uint32_t c, uint8_t *out)
{
	static const uint8_t mark[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
	size_t len = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	for (size_t i = len; i-- > 0; c >>= 6)
		out[i] = i > 0 ? 0x80 | (c & 0x3f) : mark[len] | (uint8_t)c;
	return len;
}

static void
knows_each_character_and_no_half_of_one(void **state)
{
	uint8_t p[4];

	(void)state;
	for (uint32_t c = 0; c < 0x120000; c++) {
		size_t len = encode(c, p);
		bool is_one = c < 0x110000 && (c < 0xd800 || c >= 0xe000);

		assert_int_equal(utf8_length(p, len), is_one ? len : 0);
		assert_int_equal(utf8_is_text(p, len), is_one);
		for (size_t n = 1; n < len; n++)
			assert_int_equal(utf8_length(p, n), 0);
	}
}

static void
takes_nothing_that_is_longer_than_need_be(void **state)
{
	static const char *const longer[] = {
		"\xc0\x80",
		"\xc1\xbf",
		"\xe0\x80\x80",
		"\xe0\x9f\xbf",
		"\xf0\x80\x80\x80",
		"\xf0\x8f\xbf\xbf",
		"\xf8\x88\x80",
		"\xfe",
		"\xff",
		"\x80",
		"\xbf\xbf",
		"\xc3\x28",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(longer) / sizeof(longer[0]); i++)
		assert_false(utf8_is_text(longer[i], strlen(longer[i])));
}

static void
takes_no_text_with_something_else_in_it(void **state)
{
	(void)state;
	assert_true(utf8_is_text("", 0));
	assert_true(utf8_is_text("na\xc3\xafve \xe2\x82\xac", 10));
	assert_false(utf8_is_text("na\xc3\xafve \xe2\x82", 9));
	assert_false(utf8_is_text("M\xfcller", 6));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(knows_each_character_and_no_half_of_one),
		cmocka_unit_test(takes_nothing_that_is_longer_than_need_be),
		cmocka_unit_test(takes_no_text_with_something_else_in_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
