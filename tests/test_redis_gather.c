#include "tests/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/redis_gather.h"

static struct redis_gather gather;

static void
hear(enum redis_gather_how how, const char *reply, uint32_t chance)
{
	size_t n = strlen(reply);
	uint8_t *copy = malloc(n ? n : 1);

	assert_non_null(copy);
	memcpy(copy, reply, n);
	redis_gather_hear(&gather, how, copy, n, chance);
	free(copy);
}

static void
tells(enum redis_gather_how how, const char *expected)
{
	struct buf out;
	const uint8_t *p;
	size_t n;

	buf_init(&out, 1 << 20);
	assert_int_equal(redis_gather_tell(&gather, how, &out), 0);
	p = buf_peek(&out, &n);
	assert_int_equal(n, strlen(expected));
	assert_memory_equal(p, expected, n);
	buf_free(&out);
	assert_int_equal(gather.n, 0);
}

#define ODD "-ERR weir: not what was asked for\r\n"

static void
adds_what_each_has(void **state)
{
	(void)state;
	hear(REDIS_GATHER_SUM, ":0\r\n", 0);
	hear(REDIS_GATHER_SUM, ":40\r\n", 0);
	hear(REDIS_GATHER_SUM, ":2\r\n", 0);
	tells(REDIS_GATHER_SUM, ":42\r\n");
	hear(REDIS_GATHER_SUM, ":9223372036854775807\r\n", 0);
	hear(REDIS_GATHER_SUM, ":1\r\n", 0);
	tells(REDIS_GATHER_SUM, ODD);
	hear(REDIS_GATHER_SUM, "+OK\r\n", 0);
	tells(REDIS_GATHER_SUM, ODD);
}

static void
lists_what_each_lists(void **state)
{
	(void)state;
	hear(REDIS_GATHER_LIST, "*2\r\n$1\r\nb\r\n$1\r\na\r\n", 0);
	hear(REDIS_GATHER_LIST, "*0\r\n", 0);
	hear(REDIS_GATHER_LIST, "*1\r\n$1\r\nb\r\n", 0);
	tells(REDIS_GATHER_LIST, "*3\r\n$1\r\nb\r\n$1\r\na\r\n$1\r\nb\r\n");
	hear(REDIS_GATHER_SET, "*2\r\n$1\r\nb\r\n$2\r\naa\r\n", 0);
	hear(REDIS_GATHER_SET, "*3\r\n$1\r\na\r\n$1\r\nb\r\n$0\r\n\r\n", 0);
	tells(REDIS_GATHER_SET,
	      "*4\r\n$0\r\n\r\n$1\r\na\r\n$1\r\nb\r\n$2\r\naa\r\n");
	tells(REDIS_GATHER_LIST, "*0\r\n");
	hear(REDIS_GATHER_LIST, "*9000\r\n$1\r\nb\r\n", 0);
	tells(REDIS_GATHER_LIST, ODD);
	hear(REDIS_GATHER_SET, "*1\r\n:17777\r\n", 0);
	tells(REDIS_GATHER_SET, ODD);
	hear(REDIS_GATHER_SET, "*1\r\n$3\r\nb\r\n", 0);
	tells(REDIS_GATHER_SET, ODD);
}

static void
tells_the_least_at_each_place(void **state)
{
	(void)state;
	hear(REDIS_GATHER_LEAST, ":3\r\n", 0);
	hear(REDIS_GATHER_LEAST, ":10\r\n", 0);
	hear(REDIS_GATHER_LEAST, ":2\r\n", 0);
	tells(REDIS_GATHER_LEAST, ":2\r\n");
	hear(REDIS_GATHER_LEAST, "*3\r\n:1\r\n:0\r\n:1\r\n", 0);
	hear(REDIS_GATHER_LEAST, "*3\r\n:1\r\n:1\r\n:0\r\n", 0);
	tells(REDIS_GATHER_LEAST, "*3\r\n:1\r\n:0\r\n:0\r\n");
	hear(REDIS_GATHER_LEAST, "*0\r\n", 0);
	hear(REDIS_GATHER_LEAST, "*0\r\n", 0);
	tells(REDIS_GATHER_LEAST, "*0\r\n");
	hear(REDIS_GATHER_LEAST, "*1\r\n:1\r\n", 0);
	hear(REDIS_GATHER_LEAST, "*2\r\n:1\r\n:1\r\n", 0);
	tells(REDIS_GATHER_LEAST, ODD);
	hear(REDIS_GATHER_LEAST, "+OK\r\n", 0);
	hear(REDIS_GATHER_LEAST, ":1\r\n", 0);
	tells(REDIS_GATHER_LEAST, ODD);
}

static void
adds_the_counts_of_the_same_names(void **state)
{
	(void)state;
	hear(REDIS_GATHER_COUNTS, "*4\r\n$1\r\na\r\n:9\r\n$2\r\n:7\r\n:0\r\n",
	     0);
	hear(REDIS_GATHER_COUNTS, "*4\r\n$1\r\na\r\n:3\r\n$2\r\n:7\r\n:1\r\n",
	     0);
	tells(REDIS_GATHER_COUNTS,
	      "*4\r\n$1\r\na\r\n:12\r\n$2\r\n:7\r\n:1\r\n");
	hear(REDIS_GATHER_COUNTS, "*2\r\n$1\r\na\r\n:9\r\n", 0);
	hear(REDIS_GATHER_COUNTS, "*2\r\n$1\r\nb\r\n:9\r\n", 0);
	tells(REDIS_GATHER_COUNTS, ODD);
	hear(REDIS_GATHER_COUNTS, "*2\r\n$1\r\na\r\n:9\r\n", 0);
	hear(REDIS_GATHER_COUNTS, "*2\r\n$1\r\na\r\n", 0);
	tells(REDIS_GATHER_COUNTS, ODD);
	hear(REDIS_GATHER_COUNTS, "*2\r\n$1\r\na\r\n:9223372036854775807\r\n",
	     0);
	hear(REDIS_GATHER_COUNTS, "*2\r\n$1\r\na\r\n:1\r\n", 0);
	tells(REDIS_GATHER_COUNTS, ODD);
}

static void
is_done_if_one_has_done_it(void **state)
{
	(void)state;
	hear(REDIS_GATHER_ANY, "-NOTBUSY No scripts\r\n", 0);
	hear(REDIS_GATHER_ANY, "+OK\r\n", 0);
	hear(REDIS_GATHER_ANY, "-UNKILLABLE Sorry\r\n", 0);
	tells(REDIS_GATHER_ANY, "+OK\r\n");
	hear(REDIS_GATHER_ANY, "-NOTBUSY No scripts\r\n", 0);
	hear(REDIS_GATHER_ANY, "-UNKILLABLE Sorry\r\n", 0);
	hear(REDIS_GATHER_ANY, "-NOTBUSY No scripts\r\n", 0);
	tells(REDIS_GATHER_ANY, "-UNKILLABLE Sorry\r\n");
	hear(REDIS_GATHER_ANY, "-NOTBUSY No scripts\r\n", 0);
	hear(REDIS_GATHER_ANY, "-NOTBUSY No functions\r\n", 0);
	tells(REDIS_GATHER_ANY, "-NOTBUSY No functions\r\n");
}

static void
tells_the_first_error_whatever_else_was_said(void **state)
{
	(void)state;
	for (int how = REDIS_GATHER_LAST; how <= REDIS_GATHER_ONE; how++) {
		hear((enum redis_gather_how)how, "+odd\r\n", 0);
		hear((enum redis_gather_how)how, "-ERR one\r\n", 0);
		hear((enum redis_gather_how)how, "-ERR two\r\n", 0);
		hear((enum redis_gather_how)how, ":1\r\n", 0);
		tells((enum redis_gather_how)how, "-ERR one\r\n");
	}
	hear(REDIS_GATHER_LAST, "+first\r\n", 0);
	hear(REDIS_GATHER_LAST, "+last\r\n", 0);
	tells(REDIS_GATHER_LAST, "+last\r\n");
}

static void
takes_any_of_those_that_have_one(void **state)
{
	bool seen[3] = { false };
	struct buf out;
	size_t n;

	(void)state;
	hear(REDIS_GATHER_ONE, "$-1\r\n", 7);
	hear(REDIS_GATHER_ONE, "$-1\r\n", 8);
	tells(REDIS_GATHER_ONE, "$-1\r\n");
	hear(REDIS_GATHER_ONE, "_\r\n", 7);
	hear(REDIS_GATHER_ONE, "$1\r\na\r\n", 7);
	hear(REDIS_GATHER_ONE, "_\r\n", 7);
	tells(REDIS_GATHER_ONE, "$1\r\na\r\n");
	for (uint32_t chance = 0; chance < 60; chance++) {
		hear(REDIS_GATHER_ONE, "$1\r\n0\r\n", chance);
		hear(REDIS_GATHER_ONE, "$1\r\n1\r\n", chance);
		hear(REDIS_GATHER_ONE, "$1\r\n2\r\n", chance / 7);
		buf_init(&out, 64);
		assert_int_equal(
		    redis_gather_tell(&gather, REDIS_GATHER_ONE, &out), 0);
		seen[buf_peek(&out, &n)[4] - '0'] = true;
		buf_free(&out);
	}
	assert_true(seen[0] && seen[1] && seen[2]);
}

static void
a_cursor_says_the_node_and_its_own(void **state)
{
	const struct redis_cursor most = { .of_node = UINT64_MAX >> 22,
					   .slot = 16383,
					   .name = 255 };
	struct redis_cursor c = { .of_node = UINT64_MAX >> 21 }, back;
	char text[REDIS_CURSOR_MAX];

	(void)state;
	assert_false(redis_cursor_text(&c, text));
	assert_true(redis_cursor_text(&most, text));
	assert_string_equal(text, "18446744073709551615");
	assert_true(redis_cursor_read(slice_str(text), &back));
	assert_int_equal(back.of_node, most.of_node);
	assert_int_equal(back.slot, 16383);
	assert_int_equal(back.name, 255);
	assert_true(redis_cursor_read(slice_str("0"), &back));
	assert_true(back.of_node == 0 && back.slot == 0 && back.name == 0);
	assert_false(redis_cursor_read(slice_str(""), &back));
	assert_false(redis_cursor_read(slice_str("-1"), &back));
	assert_false(redis_cursor_read(slice_str("1x"), &back));
	assert_false(
	    redis_cursor_read(slice_str("18446744073709551616"), &back));
	assert_int_not_equal(redis_cursor_name("10.0.0.1", 6379),
			     redis_cursor_name("10.0.0.2", 6379));
	assert_int_not_equal(redis_cursor_name("10.0.0.1", 6379),
			     redis_cursor_name("10.0.0.1", 6380));
}

static void
reads_the_reply_to_a_scan_and_nothing_else(void **state)
{
	static const char whole[] = "*2\r\n$2\r\n17\r\n*1\r\n$1\r\nk\r\n";
	size_t n = sizeof(whole) - 1;
	struct slice rest;
	uint64_t cursor;

	(void)state;
	assert_true(redis_cursor_of((const uint8_t *)whole, n, &cursor, &rest));
	assert_int_equal(cursor, 17);
	assert_int_equal(rest.n, 11);
	assert_memory_equal(rest.p, "*1\r\n$1\r\nk\r\n", 11);
	for (size_t i = 0; i < n; i++) {
		uint8_t *copy = malloc(i + 1);

		memcpy(copy, whole, i);
		(void)redis_cursor_of(copy, i, &cursor, &rest);
		free(copy);
		for (int c = 0; c < 256; c++) {
			copy = malloc(n);
			memcpy(copy, whole, n);
			copy[i] = (uint8_t)c;
			(void)redis_cursor_of(copy, n, &cursor, &rest);
			for (int how = REDIS_GATHER_LAST;
			     how <= REDIS_GATHER_ONE; how++) {
				redis_gather_hear(&gather,
						  (enum redis_gather_how)how,
						  copy + 12, n - 12, 1);
				redis_gather_free(&gather);
			}
			free(copy);
		}
	}
	assert_false(redis_cursor_of((const uint8_t *)"-ERR invalid cursor\r\n",
				     21, &cursor, &rest));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(adds_what_each_has),
		cmocka_unit_test(lists_what_each_lists),
		cmocka_unit_test(tells_the_least_at_each_place),
		cmocka_unit_test(adds_the_counts_of_the_same_names),
		cmocka_unit_test(is_done_if_one_has_done_it),
		cmocka_unit_test(tells_the_first_error_whatever_else_was_said),
		cmocka_unit_test(takes_any_of_those_that_have_one),
		cmocka_unit_test(a_cursor_says_the_node_and_its_own),
		cmocka_unit_test(reads_the_reply_to_a_scan_and_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
