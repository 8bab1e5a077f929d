#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/pg.h"

static void
reads_numbers_in_network_order(void **state)
{
	static const uint8_t p[] = { 1, 2, 3, 0x80, 4, 5, 0xff };
	struct pg_reader r = pg_reader(p, sizeof(p));

	(void)state;
	assert_int_equal(pg_read_u8(&r), 1);
	assert_int_equal(pg_read_u16(&r), 0x0203);
	assert_int_equal(pg_read_u32(&r), 0x800405ffu);
	assert_false(r.bad);
	assert_ptr_equal(r.p, r.end);
}

static void
reads_strings_up_to_their_nul(void **state)
{
	static const char text[] = "one\0\0three";
	struct pg_reader r = pg_reader((const uint8_t *)text, sizeof(text));

	(void)state;
	assert_true(slice_is(pg_read_str(&r), "one"));
	assert_true(slice_is(pg_read_str(&r), ""));
	assert_true(slice_is(pg_read_str(&r), "three"));
	assert_false(r.bad);
	assert_int_equal(pg_read_str(&r).n, 0);
	assert_true(r.bad);
}

static void
reads_bytes_by_their_number(void **state)
{
	struct pg_reader r = pg_reader((const uint8_t *)"a\0b", 3);

	(void)state;
	assert_int_equal(pg_read_bytes(&r, 0).n, 0);
	assert_memory_equal(pg_read_bytes(&r, 3).p, "a\0b", 3);
	assert_int_equal(pg_read_bytes(&r, 0).n, 0);
	assert_false(r.bad);
	assert_int_equal(pg_read_bytes(&r, SIZE_MAX).n, 0);
	assert_true(r.bad);
}

/* One of each, in exactly n bytes: 0 where the reader went bad. */
static int
parse_all(const uint8_t *p, size_t n)
{
	uint8_t *exact = malloc(n ? n : 1);
	struct pg_reader r = pg_reader(exact, n);
	int used;

	assert_non_null(exact);
	if (n > 0)
		memcpy(exact, p, n);
	pg_read_u32(&r);
	pg_read_u16(&r);
	pg_read_str(&r);
	pg_read_bytes(&r, 3);
	pg_read_u8(&r);
	used = r.bad ? 0 : (int)(r.p - exact);
	free(exact);
	return used;
}

static void
goes_bad_at_the_end_and_stays_so(void **state)
{
	struct pg_reader r = pg_reader((const uint8_t *)"ab\0", 3);

	(void)state;
	t_every_split(parse_all, "\0\0\0\1\0\2abc\0xyz!", 14, 14);
	assert_int_equal(pg_read_u32(&r), 0);
	assert_true(r.bad);
	assert_int_equal(pg_read_u8(&r), 0); /* though there is one */
	assert_int_equal(pg_read_u16(&r), 0);
	assert_int_equal(pg_read_str(&r).n, 0);
	assert_int_equal(pg_read_bytes(&r, 1).n, 0);
	assert_int_equal(pg_read_bytes(&r, 0).n, 0);
}

/* ---- error fields ----------------------------------------------------- */

#define BODY "SERROR\0VERROR\0C42P01\0Mno such thing\0\0"

static struct slice
field(const char *body, size_t n, char which)
{
	return pg_error_field((const uint8_t *)body, n, which);
}

static void
finds_the_fields_of_an_error(void **state)
{
	(void)state;
	assert_true(slice_is(field(BODY, sizeof(BODY) - 1, 'C'), "42P01"));
	assert_true(slice_is(field(BODY, sizeof(BODY) - 1, 'S'), "ERROR"));
	assert_true(
	    slice_is(field(BODY, sizeof(BODY) - 1, 'M'), "no such thing"));
	assert_int_equal(field(BODY, sizeof(BODY) - 1, 'D').n, 0);
	/* The letter of a value is no field. */
	assert_int_equal(field(BODY, sizeof(BODY) - 1, 'E').n, 0);
}

static void
finds_in_part_of_an_error_what_is_there(void **state)
{
	const size_t there = sizeof("SERROR\0VERROR\0C42P01") - 1;

	(void)state;
	for (size_t n = 0; n < sizeof(BODY); n++) {
		char *exact = malloc(n ? n : 1);

		assert_non_null(exact);
		memcpy(exact, BODY, n);
		assert_int_equal(field(exact, n, 'C').n, n > there ? 5 : 0);
		assert_int_equal(field(exact, n, 'D').n, 0);
		free(exact);
	}
	/* What follows the end is not looked at. */
	assert_int_equal(field("S1\0\0C42P01\0\0", 12, 'C').n, 0);
	assert_int_equal(field("", 0, 'C').n, 0);
	assert_int_equal(field("\0C42P01\0\0", 9, 'C').n, 0);
	assert_int_equal(field("C42P01", 6, 'C').n, 0);
}

/* ---- options ---------------------------------------------------------- */

/* All settings of a text as "name=value;...", with what ended it. */
static const char *
options(const char *text, char *joined, int *end)
{
	char *exact = strdup(text), *out = malloc(strlen(text) + 2);
	const char *at = exact, *name, *value;

	assert_non_null(exact);
	assert_non_null(out);
	joined[0] = '\0';
	while ((*end = pg_options_next(&at, out, &name, &value)) == 1) {
		strcat(joined, name);
		strcat(joined, "=");
		strcat(joined, value);
		strcat(joined, ";");
	}
	free(exact);
	free(out);
	return joined;
}

static void
reads_options_as_postgres_does(void **state)
{
	static const struct {
		const char *text, *joined;
	} t[] = {
		{ "", "" },
		{ "  \t ", "" },
		{ "-c a=1", "a=1;" },
		{ "-ca=1", "a=1;" },
		{ "--a=1", "a=1;" },
		{ "  -c   a=1  --b=2 -cc.d=3 ", "a=1;b=2;c.d=3;" },
		{ "-c a=", "a=;" },
		{ "-c a=b=c", "a=b=c;" },
		{ "-c a=b\\ c", "a=b c;" },
		{ "-c a=b\\\\c", "a=b\\c;" },
		{ "-c a=\\-", "a=-;" },
		{ "--enable-seqscan=off", "enable_seqscan=off;" },
		{ "-c enable-seqscan=a-b", "enable_seqscan=a-b;" },
		{ "-c\ta=1\n-c\vb=2\f", "a=1;b=2;" },
		{ "-c a=\xc3\xa9", "a=\xc3\xa9;" },
		{ "-c -a=1", "_a=1;" },
	};
	char joined[256];
	int end;

	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		assert_string_equal(options(t[i].text, joined, &end),
				    t[i].joined);
		assert_int_equal(end, 0);
	}
}

static void
refuses_options_that_set_nothing(void **state)
{
	static const struct {
		const char *text, *before;
	} t[] = {
		{ "-c", "" },
		{ "-c ", "" },
		{ "-c a", "" },
		{ "-c =1", "" },
		{ "--", "" },
		{ "--=1", "" },
		{ "--a", "" },
		{ "-B 10", "" },
		{ "a=1", "" },
		{ "-", "" },
		{ "-c a=1 b=2", "a=1;" },
		{ "-c a=1 -c", "a=1;" },
		{ "\\", "" },
	};
	char joined[256];
	int end;

	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		assert_string_equal(options(t[i].text, joined, &end),
				    t[i].before);
		assert_int_equal(end, -1);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_numbers_in_network_order),
		cmocka_unit_test(reads_strings_up_to_their_nul),
		cmocka_unit_test(reads_bytes_by_their_number),
		cmocka_unit_test(goes_bad_at_the_end_and_stays_so),
		cmocka_unit_test(finds_the_fields_of_an_error),
		cmocka_unit_test(finds_in_part_of_an_error_what_is_there),
		cmocka_unit_test(reads_options_as_postgres_does),
		cmocka_unit_test(refuses_options_that_set_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
