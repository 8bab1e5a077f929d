#include "tests/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/row_text.h"

#define UUID "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"

/* ---- what a client sends ----------------------------------------------- */

/* A Bind behind its names: $1, $2, ..., and their types. */
struct bind {
	uint8_t args[8192], types[64];
	size_t n, formats, values;
};

static void
put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void
put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

struct arg {
	unsigned type;
	int format;
	const void *p;
	int n; /* -1: NULL */
};

static struct row_values
row_of(const struct insert *in, struct bind *b, const struct arg *arg,
       unsigned n)
{
	uint8_t *p = b->args;

	put16(p, n);
	put16(b->types, n);
	for (unsigned i = 0; i < n; i++) {
		put16(p + 2 + 2 * i, (unsigned)arg[i].format);
		put32(b->types + 2 + 4 * i, arg[i].type);
	}
	p += 2 + 2 * n;
	put16(p, n);
	p += 2;
	for (unsigned i = 0; i < n; i++) {
		put32(p, (uint32_t)arg[i].n);
		p += 4;
		if (arg[i].n > 0)
			memcpy(p, arg[i].p, (size_t)arg[i].n);
		p += arg[i].n > 0 ? arg[i].n : 0;
	}
	put16(p, 0);
	b->n = (size_t)(p + 2 - b->args);
	return (struct row_values){
		.insert = in,
		.args = slice_of(b->args, b->n),
		.types = { slice_of("", 0), slice_of(b->types, 2 + 4 * n) },
	};
}

/* ---- what comes out ----------------------------------------------------- */

static void
says(const struct row_text *t, const struct row_values *r, const char *want)
{
	struct buf b;
	const uint8_t *p;
	size_t n;

	buf_init(&b, 1 << 20);
	assert_int_equal(row_text_put(&b, t, r), want ? 0 : -1);
	p = buf_peek(&b, &n);
	if (want != NULL &&
	    (n != strlen(want) || (n > 0 && memcmp(p, want, n) != 0)))
		fail_msg("%.*s, expected %s", (int)n, (const char *)p, want);
	buf_free(&b);
}

static struct insert *
load(const char *text)
{
	struct insert *in = insert_load(slice_str(text));

	assert_non_null(in);
	return in;
}

/* NULL: it cannot be said. */
static void
message(const char *template, const struct row_values *r, const char *want)
{
	const char *expected;
	struct row_text *t = row_text_message(template, &expected);

	if (t == NULL)
		fail_msg("refused: %s", template);
	says(t, r, want);
	row_text_free(&t);
}

static void
channel(const char *template, const struct row_values *r, const char *want)
{
	const char *expected;
	struct row_text *t = row_text_channel(template, &expected);

	if (t == NULL)
		fail_msg("refused: %s", template);
	says(t, r, want);
	row_text_free(&t);
}

static struct arg
text(const char *s)
{
	return (struct arg){ 0, 0, s, s ? (int)strlen(s) : -1 };
}

/* One value by itself, whatever the way it came. */
static void
value(struct arg a, const char *want)
{
	struct insert *in = load("INSERT INTO t (a) VALUES ($1)");
	struct bind b;
	struct row_values r = row_of(in, &b, &a, 1);

	message("{a}", &r, want);
	insert_free(&in);
}

/* ---- tests -------------------------------------------------------------- */

static void
a_value_in_binary_reads_as_its_text(void **state)
{
	static const uint8_t id[16] = { 0xa0, 0xee, 0xbc, 0x99, 0x9c, 0x0b,
					0x4e, 0xf8, 0xbb, 0x6d, 0x6b, 0xb9,
					0xbd, 0x38, 0x0a, 0x11 };

	value((struct arg){ 2950, 1, id, 16 }, UUID);
	value((struct arg){ 21, 1, "\xff\xfe", 2 }, "-2");
	value((struct arg){ 23, 1, "\0\0\1\0", 4 }, "256");
	value((struct arg){ 20, 1, "\x80\0\0\0\0\0\0\0", 8 },
	      "-9223372036854775808");
	value((struct arg){ 16, 1, "\1", 1 }, "true");
	value((struct arg){ 25, 1, "it's", 4 }, "it's");
	value((struct arg){ 3802, 1, "\1{}", 3 }, "{}");
	value((struct arg){ 17, 1, "\0\xff\"", 3 }, "\\x00ff22");
	value((struct arg){ 25, 1, "", 0 }, "");
	value((struct arg){ 25, 0, NULL, -1 }, "");
	(void)state;
}

static void
what_is_not_known_is_not_said(void **state)
{
	value((struct arg){ 0, 1, "1234", 4 }, NULL);       /* which type? */
	value((struct arg){ 701, 1, "12345678", 8 }, NULL); /* float8 */
	value((struct arg){ 23, 1, "123", 3 }, NULL);       /* too short */
	value((struct arg){ 2950, 1, "", 0 }, NULL);
	value((struct arg){ 3802, 1, "\2{}", 3 }, NULL);
	value((struct arg){ 3802, 1, "", 0 }, NULL);
	value((struct arg){ 23, 2, "1234", 4 }, NULL);
	(void)state;
}

static void
a_uuid_is_the_same_channel_for_all_who_send_one(void **state)
{
	static const char *const spelled[] = {
		UUID,
		"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
		"{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
	};
	struct insert *in = load("INSERT INTO t (doc) VALUES ($1)");
	struct bind b;

	for (size_t i = 0; i < 3; i++) {
		struct arg a = text(spelled[i]);
		struct row_values r = row_of(in, &b, &a, 1);

		channel("doc:{doc}:x", &r, "doc:" UUID ":x");
		message("{doc}", &r, spelled[i]); /* it may be a text */
		a.type = 2950;
		r = row_of(in, &b, &a, 1);
		message("{doc}", &r, UUID);
	}
	insert_free(&in);
	(void)state;
}

static void
a_channel_of_null_is_none(void **state)
{
	struct insert *in = load("INSERT INTO t (doc) VALUES ($1)");
	struct arg a = text(NULL);
	struct bind b;
	struct row_values r = row_of(in, &b, &a, 1);

	channel("doc:{doc}", &r, NULL);
	channel("doc", &r, "doc");
	channel("doc:{other}", &r, NULL);
	insert_free(&in);
	(void)state;
}

static void
no_value_says_more_than_itself_in_json(void **state)
{
	struct insert *in = load("INSERT INTO t (a, b) VALUES ($1, $2)");
	struct arg a[] = { text("\",\"x\":\"\\\n\x01\x7f\xc3\xa9"),
			   text(NULL) };
	struct bind b;
	struct row_values r = row_of(in, &b, a, 2);

	message("{\"a\": {a}, \"b\": {b}}", &r,
		"{\"a\": \"\\\",\\\"x\\\":\\\"\\\\\\u000a\\u0001\x7f\xc3\xa9\","
		" \"b\": null}");
	message("[\"<{a}>\", \"{b}\"]", &r,
		"[\"<\\\",\\\"x\\\":\\\"\\\\\\u000a\\u0001\x7f\xc3\xa9>\","
		" \"\"]");
	message("[{a:json}]", &r, NULL);
	message("[{b:json}]", &r, "[null]");
	message("{a}", &r, "\",\"x\":\"\\\n\x01\x7f\xc3\xa9");
	insert_free(&in);
	(void)state;
}

static void
json_stands_as_it_is(void **state)
{
	static const char *const good[] = { "{\"a\": [1, 2.50]}", "7",
					    "\"\\u0000\"",
					    "123456789012345678901234567890",
					    "null" },
				 *const bad[] = { "1,2", "",  "{",
						  "1]",  "x", "1 //" };
	struct insert *in = load("INSERT INTO t (a) VALUES ($1)");
	char want[64];
	struct bind b;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct arg a = text(good[i]);
		struct row_values r = row_of(in, &b, &a, 1);

		snprintf(want, sizeof(want), "[%s]", good[i]);
		message("[{a:json}]", &r, want);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct arg a = text(bad[i]);
		struct row_values r = row_of(in, &b, &a, 1);

		message("[{a:json}]", &r, NULL);
	}
	insert_free(&in);
	(void)state;
}

static void
what_is_no_utf8_is_not_said_in_json(void **state)
{
	static const char *const bad[] = {
		"\xff",
		"\xc3",
		"\xc0\xaf",
		"\xed\xa0\x80",
		"\xf5\x80\x80\x80",
		"\x80",
		"\xe2\x82",
		"\xf0\x80\x80\x80",
		"\xc3\xc3",
	};
	static const char good[] = "\xe2\x82\xac\xf0\x9f\x98\x80\xc2\x80";
	struct insert *in = load("INSERT INTO t (a) VALUES ($1)");
	struct arg a;
	struct row_values r;
	struct bind b;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		a = text(bad[i]);
		r = row_of(in, &b, &a, 1);
		message("[{a}]", &r, NULL);
		message("{a}", &r, bad[i]);
		message(NULL, &r, "{}");
	}
	a = text(good);
	r = row_of(in, &b, &a, 1);
	message("[\"{a}\"]", &r, "[\"\xe2\x82\xac\xf0\x9f\x98\x80\xc2\x80\"]");
	insert_free(&in);
	(void)state;
}

static void
the_row_has_all_that_is_known(void **state)
{
	struct insert *in =
	    load("INSERT INTO t (a, \"B\"\"\", c, d, e, f, g, h, i, j) VALUES "
		 "($1, 'x''', now(), NULL, -1, 0, 1.5e-3, true, - 7, $2)");
	struct arg a[] = { text("1"), { 701, 1, "12345678", 8 } };
	struct bind b;
	struct row_values r = row_of(in, &b, a, 2);

	message(NULL, &r,
		"{\"a\":\"1\",\"B\\\"\":\"x'\",\"d\":null,\"e\":\"-1\","
		"\"f\":\"0\",\"g\":\"1.5e-3\",\"h\":\"true\",\"i\":\"-7\"}");
	message("[{e:json},{f:json},{g:json},{h:json},{i:json}]", &r,
		"[-1,0,1.5e-3,true,-7]");
	message("[{c}]", &r, NULL);
	insert_free(&in);
	in = load("INSERT INTO t VALUES ($1, $2)");
	r = row_of(in, &b, a, 2);
	message(NULL, &r, NULL); /* which column is which? */
	insert_free(&in);
	(void)state;
}

static void
a_template_that_could_come_out_wrong_is_refused(void **state)
{
	static const char *const messages[] = {
		"x {a}",
		"{a}{b}",
		"{\"a\": {a}",
		"{\"a\": \"{a:json}\"}",
		"{\"a\": {a:text}}",
		"{a b}",
		"[{a}, {}]x",
		"",
	};
	static const char *const channels[] = { "doc:{",    "doc:{}", "}",
						"{a:json}", "{a b}",  "{a}}" };
	char long_one[8 * (ROW_TEXT_PLACES + 1)] = "[";
	const char *expected;
	struct row_text *t;

	for (size_t i = 0; i < sizeof(messages) / sizeof(messages[0]); i++)
		if ((t = row_text_message(messages[i], &expected)) != NULL)
			fail_msg("taken: %s", messages[i]);
	for (size_t i = 0; i < sizeof(channels) / sizeof(channels[0]); i++)
		if ((t = row_text_channel(channels[i], &expected)) != NULL)
			fail_msg("taken: %s", channels[i]);
	for (unsigned i = 0; i < ROW_TEXT_PLACES; i++)
		strcat(long_one, i ? ",{a}" : "{a}");
	strcat(long_one, "]");
	t = row_text_message(long_one, &expected);
	assert_non_null(t);
	row_text_free(&t);
	strcpy(long_one + strlen(long_one) - 1, ",{a}]");
	assert_null(row_text_message(long_one, &expected));
	(void)state;
}

/* Cut anywhere, a Bind and its types say nothing that is not there. */
static void
what_is_cut_off_is_not_read(void **state)
{
	struct insert *in = load("INSERT INTO t (a, b) VALUES ($1, $2)");
	struct arg a[] = { text("hello"), { 2950, 1, "0123456789abcdef", 16 } };
	const char *expected;
	struct row_text *t = row_text_message("[{a},{b}]", &expected);
	struct bind b;
	struct row_values whole = row_of(in, &b, a, 2);

	for (size_t n = 0; n < whole.args.n - 2; n++) {
		uint8_t *exact = malloc(n ? n : 1);
		struct row_values r = whole;

		assert_non_null(exact);
		memcpy(exact, whole.args.p, n);
		r.args = slice_of(exact, n);
		says(t, &r, NULL);
		free(exact);
	}
	for (size_t n = 0; n < whole.types[1].n; n++) {
		uint8_t *exact = malloc(n ? n : 1);
		struct row_values r = whole;

		assert_non_null(exact);
		memcpy(exact, whole.types[1].p, n);
		r.types[1] = slice_of(exact, n);
		says(t, &r, NULL);
		free(exact);
	}
	row_text_free(&t);
	insert_free(&in);
	(void)state;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_value_in_binary_reads_as_its_text),
		cmocka_unit_test(what_is_not_known_is_not_said),
		cmocka_unit_test(
		    a_uuid_is_the_same_channel_for_all_who_send_one),
		cmocka_unit_test(a_channel_of_null_is_none),
		cmocka_unit_test(no_value_says_more_than_itself_in_json),
		cmocka_unit_test(json_stands_as_it_is),
		cmocka_unit_test(what_is_no_utf8_is_not_said_in_json),
		cmocka_unit_test(the_row_has_all_that_is_known),
		cmocka_unit_test(
		    a_template_that_could_come_out_wrong_is_refused),
		cmocka_unit_test(what_is_cut_off_is_not_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
