#include "tests/t.h"

#include <stdlib.h>
#include <string.h>

#include "protocol/insert_many.h"

/* A Parse's body: text, NUL, and no types, or two. */
#define BODY(text)  slice_of(text "\0\0\0", sizeof(text) + 2)
#define TYPED(text) slice_of(text "\0\0\2\0\0\0\x17\0\0\0\0", sizeof(text) + 10)

static struct insert *
load(struct slice body)
{
	struct insert *in =
	    insert_load(slice_of(body.p, strlen((const char *)body.p)));

	assert_non_null(in);
	return in;
}

static void
is(struct buf *b, const void *want, size_t want_n)
{
	size_t n;
	const uint8_t *p = buf_peek(b, &n);

	assert_int_equal(n, want_n);
	assert_memory_equal(p, want, n);
	buf_free(b);
}

static void
says(struct slice body, unsigned n, const char *want, size_t want_n)
{
	struct insert *in = load(body);
	struct buf b;

	buf_init(&b, INSERT_MANY_MAX);
	assert_true(insert_may_merge(in, body));
	assert_int_equal(insert_put_many(&b, in, body, n), 0);
	is(&b, want, want_n);
	insert_free(&in);
}

#define SAYS(body, n, want) says((body), (n), (want), sizeof(want) - 1)

static void
rows_of_one_statement_are_one_statement(void **state)
{
	SAYS(BODY("insert into t (a, b) values ($1, $2)"), 3,
	     "INSERT INTO \"t\"(\"a\",\"b\")VALUES($1,$2),($3,$4),($5,$6)"
	     "\0\0\0");
	SAYS(BODY("INSERT INTO s.\"T\"\"\" (\"a b\") VALUES ($1::int) ;"), 2,
	     "INSERT INTO \"s\".\"T\"\"\"(\"a b\")VALUES($1::\"int4\"),"
	     "($2::\"int4\")\0\0\0");
	(void)state;
}

static void
types_are_those_of_each_row(void **state)
{
	SAYS(TYPED("INSERT INTO t (a, b) VALUES ($1, $2)"), 2,
	     "INSERT INTO \"t\"(\"a\",\"b\")VALUES($1,$2),($3,$4)\0\0\4"
	     "\0\0\0\x17\0\0\0\0\0\0\0\x17\0\0\0\0");
	(void)state;
}

static void
nothing_else_is_merged(void **state)
{
	static const char *const texts[] = {
		"INSERT INTO t VALUES ($1)",
		"INSERT INTO t (a) VALUES ($1) RETURNING a",
		"INSERT INTO t (a) VALUES ($1) ON CONFLICT DO NOTHING",
		"INSERT INTO t (a, b) VALUES ($2, $1)",
		"INSERT INTO t (a, b) VALUES ($1, $1)",
		"INSERT INTO t (a) VALUES ($2)",
		"INSERT INTO t (a, b) VALUES ($1, 1)",
		"INSERT INTO t (a, b) VALUES ($1, DEFAULT)",
		"INSERT INTO t (a) VALUES (lower($1))",
		"INSERT INTO t (a) VALUES ($1::varchar(3))",
		"BEGIN; INSERT INTO t (a) VALUES ($1); COMMIT",
	};
	struct slice more = TYPED("INSERT INTO t (a) VALUES ($1)");
	struct insert *in;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		char body[128] = "";

		strcpy(body, texts[i]);
		in = load(slice_str(body));
		if (insert_may_merge(in, slice_of(body, strlen(body) + 3)))
			fail_msg("merged: %s", body);
		insert_free(&in);
	}
	in = load(more); /* a type of a parameter it does not use */
	assert_false(insert_may_merge(in, more));
	more.n = strlen((const char *)more.p);
	assert_false(insert_may_merge(in, more));
	insert_free(&in);
	(void)state;
}

static void
values_keep_their_formats(void **state)
{
	static const char text[] = "\0\0\0\2\0\0\0\1x\xff\xff\xff\xff\0\0",
			  all[] = "\0\1\0\1\0\2\0\0\0\1y\0\0\0\0\0\1\0\1",
			  each[] =
			      "\0\2\0\0\0\1\0\2\xff\xff\xff\xff\0\0\0\2zz\0\0";
	const struct slice args[] = {
		slice_of(text, sizeof(text) - 1),
		slice_of(all, sizeof(all) - 1),
		slice_of(each, sizeof(each) - 1),
		slice_of(text, sizeof(text) - 1),
	};
	static const char mixed[] =
	    "\0\6\0\0\0\0\0\1\0\1\0\0\0\1"
	    "\0\6\0\0\0\1x\xff\xff\xff\xff\0\0\0\1y\0\0\0\0"
	    "\xff\xff\xff\xff\0\0\0\2zz\0\0";
	static const char plain[] =
	    "\0\0\0\4\0\0\0\1x\xff\xff\xff\xff\0\0\0\1x\xff\xff\xff\xff\0\0";
	struct slice two[] = { args[0], args[3] };
	struct buf b;

	buf_init(&b, 1024);
	assert_int_equal(insert_put_args(&b, args, 3, 2), 0);
	is(&b, mixed, sizeof(mixed) - 1);
	buf_init(&b, 1024);
	assert_int_equal(insert_put_args(&b, two, 2, 2), 0);
	is(&b, plain, sizeof(plain) - 1);
	buf_init(&b, 16);
	assert_int_not_equal(insert_put_args(&b, args, 3, 2), 0);
	buf_free(&b);
	(void)state;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_of_one_statement_are_one_statement),
		cmocka_unit_test(types_are_those_of_each_row),
		cmocka_unit_test(nothing_else_is_merged),
		cmocka_unit_test(values_keep_their_formats),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
