#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/buf.h"
#include "protocol/pg.h"

static void
holds(struct buf *b, const char *bytes, size_t n)
{
	const uint8_t *p;
	size_t have;

	p = buf_peek(b, &have);
	assert_int_equal(have, n);
	assert_memory_equal(p, bytes, n);
	buf_consume(b, have);
}

#define HOLDS(b, bytes) holds(b, bytes, sizeof(bytes) - 1)

static void
writes_every_kind_of_field(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	assert_int_equal(pg_put(&b, 'X', ""), 0);
	HOLDS(&b, "X\0\0\0\4");
	assert_int_equal(pg_put(&b, 'T', "chisb", 0xff, 0x8001, 0x80020304u,
				"text", slice_of("a\0b", 3)),
			 0);
	HOLDS(&b, "T\0\0\0\x13\xff\x80\x01\x80\x02\x03\x04text\0a\0b");
	assert_int_equal(pg_put(&b, 'D', "sb", "", slice_of(NULL, 0)), 0);
	HOLDS(&b, "D\0\0\0\5\0");
}

static void
writes_packets_without_a_type(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	assert_int_equal(pg_put(&b, 0, "i", PG_SSL_REQUEST), 0);
	HOLDS(&b, "\0\0\0\x08\x04\xd2\x16\x2f");
	assert_int_equal(
	    pg_put(&b, 0, "issc", PG_PROTOCOL(3, 0), "user", "me", 0), 0);
	HOLDS(&b, "\0\0\0\x11\0\3\0\0user\0me\0\0");
}

static void
appends_behind_what_is_there(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	assert_int_equal(buf_put(&b, "....", 4), 0);
	buf_consume(&b, 1);
	assert_int_equal(pg_put(&b, 'C', "s", "OK"), 0);
	assert_int_equal(pg_put_ready(&b, 'T'), 0);
	HOLDS(&b, "...C\0\0\0\7OK\0Z\0\0\0\5T");
}

static void
writes_an_error_in_the_order_of_postgres(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	assert_int_equal(pg_put_error(&b, "FATAL", "28P01", "no", NULL), 0);
	HOLDS(&b, "E\0\0\0\x1eSFATAL\0VFATAL\0C28P01\0Mno\0\0");
	assert_int_equal(pg_put_error(&b, "ERROR", "0A000", "no", "why"), 0);
	HOLDS(&b, "E\0\0\0\x23SERROR\0VERROR\0C0A000\0Mno\0Dwhy\0\0");
}

static void
what_it_writes_can_be_read(void **state)
{
	struct pg_frame f;
	struct buf b;
	const uint8_t *p;
	size_t n;

	(void)state;
	buf_init(&b, 1000);
	assert_int_equal(pg_put_error(&b, "ERROR", "42501", "text", "more"), 0);
	p = buf_peek(&b, &n);
	assert_int_equal(pg_frame_next(&f, p, n), PG_HEADER);
	assert_int_equal(f.size, n);
	assert_true(slice_is(pg_error_field(p + PG_HEADER, n - PG_HEADER, 'C'),
			     "42501"));
	assert_true(slice_is(pg_error_field(p + PG_HEADER, n - PG_HEADER, 'D'),
			     "more"));
	buf_free(&b);
}

/* At every limit: the whole message, or nothing and the buffer as it was. */
static void
appends_nothing_where_a_message_does_not_fit(void **state)
{
	static const char whole[] =
	    "E\0\0\0\x1eSFATAL\0VFATAL\0C28P01\0Mno\0\0";
	const size_t n = sizeof(whole) - 1;
	struct buf b;

	(void)state;
	for (size_t limit = 2; limit < n + 4; limit++) {
		buf_init(&b, limit);
		assert_int_equal(buf_put(&b, "..", 2), 0);
		if (limit >= n + 2) {
			assert_int_equal(
			    pg_put_error(&b, "FATAL", "28P01", "no", NULL), 0);
			buf_consume(&b, 2);
			holds(&b, whole, n);
		} else {
			assert_int_equal(
			    pg_put_error(&b, "FATAL", "28P01", "no", NULL), -1);
			HOLDS(&b, "..");
		}
		buf_free(&b);
	}
	buf_init(&b, 5);
	assert_int_equal(pg_put_ready(&b, 'I'), -1);
	assert_int_equal(buf_len(&b), 0);
	assert_int_equal(pg_put(&b, 'X', "c", 1), -1);
	assert_null(b.base);
}

static void
writes_what_runs_a_statement_with_its_values(void **state)
{
	struct slice value[3] = { slice_of("a\0", 2), { 0 }, slice_of("", 0) };
	struct buf b;

	(void)state;
	buf_init(&b, 60);
	assert_int_equal(pg_put_run(&b, "x", NULL, 0), 0);
	HOLDS(&b, "B\0\0\0\x0d\0x\0\0\0\0\0\0\0"
		  "E\0\0\0\x09\0\0\0\0\0");
	assert_int_equal(pg_put_run(&b, "", value, 3), 0);
	HOLDS(&b, "B\0\0\0\x1a\0\0\0\0\0\3\0\0\0\2a\0\xff\xff\xff\xff"
		  "\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0");
	value[0].n = 30;
	assert_int_equal(pg_put_run(&b, "too much", value, 1), -1);
	assert_int_equal(buf_len(&b), 0);
	buf_free(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_every_kind_of_field),
		cmocka_unit_test(writes_packets_without_a_type),
		cmocka_unit_test(appends_behind_what_is_there),
		cmocka_unit_test(writes_an_error_in_the_order_of_postgres),
		cmocka_unit_test(what_it_writes_can_be_read),
		cmocka_unit_test(writes_what_runs_a_statement_with_its_values),
		cmocka_unit_test(appends_nothing_where_a_message_does_not_fit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
