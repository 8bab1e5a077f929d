#include "tests/t.h"

#include "protocol/buf.h"
#include "protocol/resp.h"

enum { LIMIT = 4096 };

static void
holds(struct buf *b, const char *want)
{
	size_t n;
	const uint8_t *p = buf_peek(b, &n);

	assert_int_equal(n, strlen(want));
	assert_memory_equal(p, want, n);
	buf_consume(b, n);
}

static void
encodes_a_request_canonically(void **state)
{
	const struct slice arg[] = { slice_str("SET"), slice_str(""),
				     slice_str("0123456789") };
	struct buf b;

	(void)state;
	buf_init(&b, LIMIT);
	assert_int_equal(resp_put_request(&b, arg, 3), 0);
	holds(&b, "*3\r\n$3\r\nSET\r\n$0\r\n\r\n$10\r\n0123456789\r\n");
	buf_free(&b);
}

static void
encodes_what_the_parser_reads_back(void **state)
{
	static const uint8_t bytes[1000];
	struct slice arg[120];
	struct resp_request r = { 0 };
	struct buf b;
	size_t n;
	const uint8_t *p;

	(void)state;
	buf_init(&b, 1 << 20);
	for (size_t i = 0; i < 120; i++)
		arg[i] = slice_of(bytes, i * i % 1001);
	assert_int_equal(resp_put_request(&b, arg, 120), 0);
	p = buf_peek(&b, &n);
	assert_int_equal(resp_request_next(&r, p, n, true, n), n);
	assert_int_equal(r.argc, 120);
	for (size_t i = 0; i < 120; i++)
		assert_int_equal(r.arg[i].n, arg[i].n);
	resp_request_free(&r);
	buf_free(&b);
}

static void
never_encodes_half_a_request(void **state)
{
	const struct slice arg[] = { slice_str("GET"), slice_str("k") };
	const size_t size = 20;
	struct buf b;

	(void)state;
	for (size_t limit = 0; limit <= size; limit++) {
		buf_init(&b, limit);
		assert_int_equal(resp_put_request(&b, arg, 2),
				 limit == size ? 0 : -1);
		assert_int_equal(buf_len(&b), limit == size ? size : 0);
		buf_free(&b);
	}
}

static void
keeps_a_line_of_text_one_line(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, LIMIT);
	assert_int_equal(resp_put_simple(&b, "OK"), 0);
	holds(&b, "+OK\r\n");
	assert_int_equal(resp_put_error(&b, "ERR a\r\n+b\n"), 0);
	holds(&b, "-ERR a  +b \r\n");
	assert_int_equal(resp_put_simple(&b, "\r\n"), 0);
	holds(&b, "+  \r\n");
	buf_free(&b);
}

static void
writes_integers_to_their_ends(void **state)
{
	static const struct {
		int64_t v;
		const char *want;
	} row[] = {
		{ 0, ":0\r\n" },
		{ 9, ":9\r\n" },
		{ 10, ":10\r\n" },
		{ -1, ":-1\r\n" },
		{ INT64_MAX, ":9223372036854775807\r\n" },
		{ INT64_MIN, ":-9223372036854775808\r\n" },
	};
	struct buf b;

	(void)state;
	buf_init(&b, LIMIT);
	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		assert_int_equal(resp_put_int(&b, row[i].v), 0);
		holds(&b, row[i].want);
	}
	buf_free(&b);
}

static void
writes_bulks_with_any_byte(void **state)
{
	struct buf b;
	size_t n;

	(void)state;
	buf_init(&b, LIMIT);
	assert_int_equal(resp_put_bulk(&b, "a\0\r\n", 4), 0);
	assert_memory_equal(buf_peek(&b, &n), "$4\r\na\0\r\n\r\n", 10);
	assert_int_equal(n, 10);
	buf_consume(&b, n);
	assert_int_equal(resp_put_bulk(&b, NULL, 0), 0);
	holds(&b, "$0\r\n\r\n");
	buf_free(&b);
}

static void
writes_null_and_maps_by_version(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, LIMIT);
	assert_int_equal(resp_put_null(&b, 2), 0);
	holds(&b, "$-1\r\n");
	assert_int_equal(resp_put_null(&b, 3), 0);
	holds(&b, "_\r\n");
	assert_int_equal(resp_put_map(&b, 7, 2), 0);
	holds(&b, "*14\r\n");
	assert_int_equal(resp_put_map(&b, 7, 3), 0);
	holds(&b, "%7\r\n");
	assert_int_equal(resp_put_array(&b, 0), 0);
	holds(&b, "*0\r\n");
	buf_free(&b);
}

static void
says_so_when_the_buf_is_full(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 4);
	assert_int_equal(resp_put_simple(&b, "OK"), -1);
	assert_int_equal(resp_put_error(&b, "ER"), -1);
	assert_int_equal(resp_put_int(&b, 10), -1);
	assert_int_equal(resp_put_bulk(&b, "", 0), -1);
	assert_int_equal(resp_put_null(&b, 2), -1);
	assert_int_equal(resp_put_array(&b, 10), -1);
	assert_int_equal(resp_put_map(&b, 5, 2), -1);
	assert_int_equal(buf_len(&b), 0);
	assert_int_equal(resp_put_int(&b, 1), 0);
	buf_free(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(encodes_a_request_canonically),
		cmocka_unit_test(encodes_what_the_parser_reads_back),
		cmocka_unit_test(never_encodes_half_a_request),
		cmocka_unit_test(keeps_a_line_of_text_one_line),
		cmocka_unit_test(writes_integers_to_their_ends),
		cmocka_unit_test(writes_bulks_with_any_byte),
		cmocka_unit_test(writes_null_and_maps_by_version),
		cmocka_unit_test(says_so_when_the_buf_is_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
