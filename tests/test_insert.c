#include "tests/t.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/insert.h"

#define UUID "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"

/* In an allocation of exactly its size: a sanitizer sees every byte too far. */
static struct insert *
load_n(const char *text, size_t n)
{
	char *exact = malloc(n ? n : 1);
	struct insert *in;

	assert_non_null(exact);
	memcpy(exact, text, n);
	in = insert_load(slice_of(exact, n));
	free(exact);
	return in;
}

static struct insert *
load(const char *text)
{
	struct insert *in = load_n(text, strlen(text));

	if (in == NULL)
		fail_msg("refused: %s", text);
	return in;
}

static void
reads(const char *text)
{
	struct insert *in = load(text);

	assert_string_equal(in->table, "t");
	if (!insert_calls_only(in, NULL, 0))
		fail_msg("calls something: %s", text);
	insert_free(&in);
	assert_null(in);
}

static void
refuses(const char *text)
{
	struct insert *in = load_n(text, strlen(text));

	if (in != NULL && insert_calls_only(in, NULL, 0))
		fail_msg("not refused: %s", text);
	insert_free(&in);
}

static void
reads_what_node_postgres_asyncpg_and_psycopg_send(void **state)
{
	struct insert *in = load(
	    "INSERT INTO crdt_operations (document_id, operation_type,\n"
	    "  operation_data, author_id) VALUES ($1, $2::VARCHAR, $3::jsonb, "
	    "$4::uuid) RETURNING sequence_number");

	assert_null(in->schema);
	assert_string_equal(in->table, "crdt_operations");
	assert_int_equal(in->column_n, 4);
	assert_string_equal(in->column[0].name, "document_id");
	assert_int_equal(in->column[0].kind, INSERT_PARAM);
	assert_int_equal(in->column[0].param, 1);
	assert_null(in->column[0].cast);
	assert_string_equal(in->column[1].cast, "varchar");
	assert_string_equal(in->column[2].cast, "jsonb");
	assert_int_equal(in->column[3].param, 4);
	assert_int_equal(in->params, 4);
	assert_true(in->returning);
	assert_false(in->conflict);
	assert_true(in->plain);
	assert_false(in->block);
	assert_int_equal(in->at, 0);
	insert_free(&in);
	(void)state;
}

static void
reads_names_as_the_server_looks_them_up(void **state)
{
	struct insert *in = load("insert into \"My Schema\".CRDT_Operations AS "
				 "o (Document_Id, \"Document_Id\") "
				 "values ($2, $1)");

	assert_string_equal(in->schema, "My Schema");
	assert_string_equal(in->table, "crdt_operations");
	assert_ptr_equal(insert_column(in, "document_id"), &in->column[0]);
	assert_ptr_equal(insert_column(in, "Document_Id"), &in->column[1]);
	assert_null(insert_column(in, "document"));
	assert_false(in->plain);
	insert_free(&in);
	(void)state;
}

static void
reads_constants_and_their_casts(void **state)
{
	static const char *const text[] = { "it's", "",           "7",
					    NULL,   "7000000000", "x" };
	struct insert *in = load("INSERT INTO t (a, b, c, d, e, f) VALUES "
				 "('it''s', '', 7, NULL, 7000000000, "
				 "'x'::text)");

	for (size_t i = 0; i < 6; i++) {
		assert_int_equal(in->column[i].kind, INSERT_CONST);
		if (text[i] == NULL)
			assert_null(in->column[i].text);
		else
			assert_string_equal(in->column[i].text, text[i]);
	}
	assert_string_equal(in->column[5].cast, "text");
	assert_int_equal(in->params, 0);
	assert_false(in->plain);
	insert_free(&in);
	(void)state;
}

/* libpg_query 15 writes the same for -7 as for 0. */
static void
reads_no_constant_it_cannot_be_certain_of(void **state)
{
	static const char *const values[] = {
		"-7", "0", "false", "true", "1.5", "1e3", "b'1'", "- 7",
	};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		char text[64];
		struct insert *in;

		sprintf(text, "INSERT INTO t VALUES (%s)", values[i]);
		in = load(text);
		assert_int_equal(in->column[0].kind, INSERT_OTHER);
		insert_free(&in);
	}
	(void)state;
}

static void
tells_parameters_from_expressions(void **state)
{
	struct insert *in =
	    load("INSERT INTO t (a, b, c, d, e, f) VALUES ($1, lower($2), "
		 "$3::varchar(3), $4::uuid[], DEFAULT, $5::text::uuid)");

	assert_int_equal(in->column[0].kind, INSERT_PARAM);
	assert_int_equal(in->column[1].kind, INSERT_OTHER);
	assert_int_equal(in->column[2].kind, INSERT_OTHER);
	assert_int_equal(in->column[3].kind, INSERT_OTHER);
	assert_int_equal(in->column[4].kind, INSERT_DEFAULT);
	assert_int_equal(in->column[5].kind, INSERT_OTHER);
	assert_int_equal(in->params, 5);
	assert_int_equal(in->function_n, 1);
	assert_string_equal(in->function[0], "lower");
	assert_false(in->plain);
	insert_free(&in);
	(void)state;
}

static void
says_what_happens_on_a_conflict(void **state)
{
	struct insert *in = load("INSERT INTO t (a) VALUES ($1)");

	assert_false(in->conflict);
	insert_free(&in);
	in = load("INSERT INTO t (a) VALUES ($1) ON CONFLICT DO NOTHING");
	assert_true(in->conflict);
	assert_false(in->updates);
	insert_free(&in);
	in = load("INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) "
		  "DO UPDATE SET b = EXCLUDED.b || $3 RETURNING *");
	assert_true(in->conflict);
	assert_true(in->updates);
	assert_true(in->returning);
	assert_int_equal(in->params, 3);
	insert_free(&in);
	(void)state;
}

static void
reads_every_shape_that_leaves_only_its_row(void **state)
{
	static const char *const texts[] = {
		"INSERT INTO t VALUES ($1, $2)",
		"INSERT INTO t VALUES (1)",
		"INSERT INTO s.t (a) VALUES ($1);",
		" /* c */ -- d\n ; INSERT INTO t (a) VALUES ($1) ; ; ",
		"INSERT INTO t (a) VALUES ($1) -- said the client",
		"INSERT INTO t (a) VALUES (now())",
		"INSERT INTO t (a) VALUES (pg_catalog.now())",
		"INSERT INTO t (a) VALUES (CURRENT_TIMESTAMP)",
		"INSERT INTO t (a) VALUES (LOCALTIMESTAMP(3))",
		"INSERT INTO t (a) VALUES (clock_timestamp())",
		"INSERT INTO t (a) VALUES (transaction_timestamp())",
		"INSERT INTO t (a) VALUES (statement_timestamp())",
		"INSERT INTO t (a) VALUES (gen_random_uuid())",
		"INSERT INTO t (a) VALUES (uuid_generate_v4())",
		"INSERT INTO t (a) VALUES (nextval('s'::regclass))",
		"INSERT INTO t (a) VALUES (current_setting('app.org')::uuid)",
		"INSERT INTO t (a) VALUES (now() AT TIME ZONE 'utc')",
		"INSERT INTO t (a) VALUES (extract(epoch from now()))",
		"INSERT INTO t (a) VALUES (COALESCE($1, 'x'))",
		"INSERT INTO t (a) VALUES (GREATEST($1, $2, 1))",
		"INSERT INTO t (a) VALUES (CASE WHEN $1 THEN 1 ELSE 2 END)",
		"INSERT INTO t (a) VALUES (CASE $1 WHEN 1 THEN 2 END)",
		"INSERT INTO t (a) VALUES ($1 || 'x')",
		"INSERT INTO t (a) VALUES ($1 + 1 - 2 * 3)",
		"INSERT INTO t (a) VALUES ($1 IS NULL AND NOT $2 IS TRUE)",
		"INSERT INTO t (a) VALUES (ARRAY[$1, $2]::text[])",
		"INSERT INTO t (a) VALUES (ROW($1, $2))",
		"INSERT INTO t (a) VALUES (($1::int[])[1])",
		"INSERT INTO t (a) VALUES (CAST($1 AS app.operation_type))",
		"INSERT INTO t (a) VALUES ($1 COLLATE \"C\")",
		"INSERT INTO t (a) VALUES (jsonb_build_object('a', $1))",
		"INSERT INTO t (a) VALUES ($1::jsonb -> 'a')",
		"INSERT INTO t (a) VALUES ('a ; insert /* $1 -- ')",
		"INSERT INTO t (a) VALUES ($q$ it's; $q$)",
		"INSERT INTO t (a) VALUES (E'a\\nb')",
		"INSERT INTO t (a) VALUES ('{\"a\": \"\\\"\\n\"}')",
		"INSERT INTO t (a) VALUES ('\xc3\xa9')",
		"INSERT INTO t (a) VALUES (DEFAULT)",
		"INSERT INTO t (a) VALUES ($1) RETURNING id, a AS b, now()",
		"INSERT INTO t (a) VALUES ($1) RETURNING t.*",
		"INSERT INTO t (a) VALUES ($1) RETURNING upper(a)",
		"INSERT INTO t (a) VALUES ($1) ON CONFLICT ON CONSTRAINT c "
		"DO NOTHING",
		"INSERT INTO t (a) VALUES ($1) ON CONFLICT (a, lower(b)) "
		"WHERE c > 1 DO NOTHING",
		"INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO "
		"UPDATE SET b = EXCLUDED.b, c = t.c + 1 WHERE t.b < "
		"EXCLUDED.b",
		"INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO "
		"UPDATE SET (b, c) = (EXCLUDED.b, DEFAULT)",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		reads(texts[i]);
	(void)state;
}

static void
refuses_everything_else(void **state)
{
	static const char *const texts[] = {
		"",
		";",
		"SELECT 1",
		"INSERTED INTO t VALUES (1)",
		"\"INSERT\" INTO t VALUES (1)",
		"UPDATE t SET a = 1",
		"INSERT INTO t (a) VALUES",
		"INSERT INTO t (a) VALUES ($1) garbage ((",
		"INSERT INTO t (a) VALUES ($1), ($2)",
		"INSERT INTO t (a) SELECT $1",
		"INSERT INTO t (a) SELECT unnest($1)",
		"INSERT INTO t DEFAULT VALUES",
		"INSERT INTO t TABLE u",
		"INSERT INTO t (a) (VALUES ($1) ORDER BY 1)",
		"INSERT INTO t (a) (VALUES ($1) LIMIT 0)",
		"INSERT INTO t (a) (VALUES ($1) UNION VALUES ($2))",
		"INSERT INTO t (a, b) VALUES ($1)",
		"INSERT INTO t (a) VALUES ($1, $2)",
		"INSERT INTO t (a[1]) VALUES ($1)",
		"INSERT INTO t (a.b) VALUES ($1)",
		"INSERT INTO d.s.t (a) VALUES ($1)",
		"INSERT INTO t (a) OVERRIDING SYSTEM VALUE VALUES ($1)",
		"INSERT INTO t (a) OVERRIDING USER VALUE VALUES ($1)",
		"WITH x AS (SELECT 1) INSERT INTO t (a) VALUES ($1)",
		"INSERT INTO t (a) VALUES ((SELECT 1))",
		"INSERT INTO t (a) VALUES (EXISTS (SELECT 1))",
		"INSERT INTO t (a) VALUES (ARRAY(SELECT 1))",
		"INSERT INTO t (a) VALUES ($1 IN (SELECT 1))",
		"INSERT INTO t (a) VALUES ($0)",
		"INSERT INTO t (a) VALUES ($70000)",
		"INSERT INTO t (a) VALUES ($99999999999)",
		"INSERT INTO t (a) VALUES (currval('s'))",
		"INSERT INTO t (a) VALUES (lastval())",
		"INSERT INTO t (a) VALUES (setval('s', 1))",
		"INSERT INTO t (a) VALUES (set_config('a.b', '1', false))",
		"INSERT INTO t (a) VALUES (pg_notify('a', 'b')::text)",
		"INSERT INTO t (a) VALUES (pg_advisory_lock(1)::text)",
		"INSERT INTO t (a) VALUES (pg_sleep(1)::text)",
		"INSERT INTO t (a) VALUES (txid_current())",
		"INSERT INTO t (a) VALUES (pg_current_xact_id())",
		"INSERT INTO t (a) VALUES (random())",
		"INSERT INTO t (a) VALUES (mine($1))",
		"INSERT INTO t (a) VALUES (app.now())",
		"INSERT INTO t (a) VALUES (db.app.now())",
		"INSERT INTO t (a) VALUES (now(VARIADIC $1))",
		"INSERT INTO t (a) VALUES (now(a => 1))",
		"INSERT INTO t (a) VALUES (now() OVER ())",
		"INSERT INTO t (a) VALUES (now(DISTINCT 1))",
		"INSERT INTO t (a) VALUES (now() FILTER (WHERE true))",
		"INSERT INTO t (a) VALUES (count(*))",
		"INSERT INTO t (a) VALUES ($1 OPERATOR(app.+) 1)",
		"INSERT INTO t (a) VALUES ($1 @@@ 1)",
		"INSERT INTO t (a) VALUES (xmlforest($1 AS a))",
		"INSERT INTO t (a) VALUES (COALESCE($1, mine()))",
		"INSERT INTO t (a) VALUES ($1) RETURNING mine()",
		"INSERT INTO t (a) VALUES ($1) RETURNING (SELECT 1)",
		"INSERT INTO t (a) VALUES ($1) RETURNING currval('s')",
		"INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE "
		"SET a = mine()",
		"INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE "
		"SET a = (SELECT 1)",
		"INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE "
		"SET (a, b) = (SELECT 1, 2)",
		"INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE "
		"SET a = 1 WHERE mine()",
		"INSERT INTO t (a) VALUES ($1) ON CONFLICT (mine(a)) "
		"DO NOTHING",
		"INSERT INTO t (a) VALUES ($1); SELECT 1",
		"SELECT 1; INSERT INTO t (a) VALUES ($1)",
		"INSERT INTO t (a) VALUES ($1); INSERT INTO t (a) VALUES (1)",
		"INSERT INTO t (a) VALUES ('\xff\xfe')",
		"CREATE RULE r AS ON INSERT TO t DO INSERT INTO u VALUES (1)",
		"EXPLAIN INSERT INTO t (a) VALUES ($1)",
		"PREPARE p AS INSERT INTO t (a) VALUES ($1)",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		refuses(texts[i]);
	(void)state;
}

static void
refuses_a_quote_whose_meaning_is_not_certain(void **state)
{
	/* With standard_conforming_strings off the text ends elsewhere. */
	refuses("INSERT INTO t (a) VALUES ('\\', currval(''))");
	refuses("INSERT INTO t (a) VALUES (E'it\\'s')");
	(void)state;
}

static void
refuses_a_zero_byte(void **state)
{
	static const char text[] = "INSERT INTO t (a) VALUES (1)\0; SELECT 1";

	assert_null(load_n(text, sizeof(text) - 1));
	(void)state;
}

static void
allows_the_functions_it_is_told_to(void **state)
{
	char *also[] = { "mine", "app.stamp" };
	struct insert *in =
	    load("INSERT INTO t (a, b) VALUES (Mine($1), app.stamp(now()))");

	assert_false(insert_calls_only(in, NULL, 0));
	assert_false(insert_calls_only(in, also, 1));
	assert_true(insert_calls_only(in, also, 2));
	insert_free(&in);
	(void)state;
}

static void
reads_a_block_of_one_insert(void **state)
{
	static const char *const texts[] = {
		"BEGIN; INSERT INTO t (a) VALUES (1); COMMIT",
		"begin;INSERT INTO t (a) VALUES (1);commit;",
		"START TRANSACTION; INSERT INTO t (a) VALUES (1) ; END",
		"BEGIN WORK;\n/* ; */ INSERT INTO t (a) VALUES (1); COMMIT;",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct insert *in = load(texts[i]), *part;

		assert_true(in->block);
		assert_string_equal(in->table, "t");
		part = load_n(texts[i] + in->at, in->n);
		assert_non_null(part);
		assert_false(part->block);
		assert_string_equal(part->table, "t");
		assert_null(memchr(texts[i] + in->at + in->n - 1, ';', 1));
		insert_free(&part);
		insert_free(&in);
	}
	(void)state;
}

static void
refuses_blocks_of_anything_more(void **state)
{
	static const char *const texts[] = {
		"BEGIN",
		"BEGIN; INSERT INTO t (a) VALUES (1)",
		"BEGIN; INSERT INTO t (a) VALUES (1); ROLLBACK",
		"BEGIN; INSERT INTO t (a) VALUES (1); COMMIT AND CHAIN",
		"BEGIN; INSERT INTO t (a) VALUES (1); PREPARE TRANSACTION 'a'",
		"BEGIN; SELECT 'insert'; COMMIT",
		"BEGIN READ ONLY; INSERT INTO t (a) VALUES (1); COMMIT",
		"BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t (a) "
		"VALUES (1); COMMIT",
		"BEGIN; INSERT INTO t (a) VALUES (1); COMMIT; SELECT 1",
		"BEGIN; INSERT INTO t (a) VALUES (1); INSERT INTO t (a) "
		"VALUES (1); COMMIT",
		"SAVEPOINT s; INSERT INTO t (a) VALUES (1); COMMIT",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		refuses(texts[i]);
	(void)state;
}

/* "INSERT INTO t (a) VALUES (" head x n, `middle`, tail x n ")" */
static struct insert *
load_deep(const char *head, const char *middle, const char *tail, size_t n)
{
	static const char before[] = "INSERT INTO t (a) VALUES (";
	size_t h = strlen(head), t = strlen(tail);
	char *text = malloc(sizeof(before) + (h + t) * n + strlen(middle) + 2);
	char *p = text;
	struct insert *in;

	assert_non_null(text);
	p = stpcpy(p, before);
	for (size_t i = 0; i < n; i++)
		p = stpcpy(p, head);
	p = stpcpy(p, middle);
	for (size_t i = 0; i < n; i++)
		p = stpcpy(p, tail);
	p = stpcpy(p, ")");
	in = load_n(text, (size_t)(p - text));
	free(text);
	return in;
}

static void
refuses_what_is_nested_too_deep(void **state)
{
	static const struct {
		const char *head, *middle, *tail;
	} deep[] = {
		{ "", "1", "+1" },
		{ "", "$1", "::text" },
		{ "not ", "true", "" },
		{ "array[", "1", "]" },
		{ "now(", "", ")" },
		{ "row(", "1", ")" },
		{ "", "1", " is null" },
		{ "", "'a'", " collate a" },
		{ "(select ", "1", ")" },
		{ "case when true then ", "1", " end" },
		{ "", "1", " in (1)" },
	};
	static const size_t n[] = { 40, 600, 1900, 100000 };

	for (size_t i = 0; i < sizeof(deep) / sizeof(deep[0]); i++)
		for (size_t k = 0; k < sizeof(n) / sizeof(n[0]); k++)
			assert_null(load_deep(deep[i].head, deep[i].middle,
					      deep[i].tail, n[k]));
	/* Parentheses leave nothing in the tree. */
	assert_null(load_deep("(", "1", ")", 100000));
	(void)state;
}

static void
refuses_a_text_of_too_many_bytes_or_words(void **state)
{
	struct insert *in = load_deep("", "'", "x", 60000);

	assert_null(in); /* the quote is not closed */
	in = load_deep("", "1", " /* nothing */", 4000);
	assert_non_null(in);
	insert_free(&in);
	assert_null(load_deep("", "1", " /* nothing */", 8000));
	assert_null(load_deep("", "1", ",1", 1100));
	(void)state;
}

static void
refuses_too_many_functions(void **state)
{
	char text[2048] = "INSERT INTO t (a) VALUES (concat(1";
	struct insert *in;

	for (int i = 0; i < INSERT_FUNCTIONS_MAX - 1; i++)
		sprintf(text + strlen(text), ", f%d()", i);
	strcat(text, "))");
	in = load(text);
	assert_int_equal(in->function_n, INSERT_FUNCTIONS_MAX);
	insert_free(&in);
	strcpy(text + strlen(text) - 2, ", g()))");
	assert_null(load_n(text, strlen(text)));
	(void)state;
}

static void *
read_many(void *arg)
{
	for (int i = 0; i < 200; i++) {
		reads("INSERT INTO t (a, b) VALUES ($1, now()) RETURNING a");
		refuses("INSERT INTO t (a) VALUES (((((");
	}
	return arg;
}

static void
reads_in_several_threads_at_once(void **state)
{
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		assert_int_equal(
		    pthread_create(&threads[i], NULL, read_many, NULL), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	(void)state;
}

/* ---- keys ------------------------------------------------------------- */

enum {
	INT8 = 20,
	INT2 = 21,
	INT4 = 23,
	TEXT = 25,
	UNKNOWN = 705,
	BPCHAR = 1042,
	VARCHAR = 1043,
	NUMERIC = 1700,
	UUID_OID = 2950
};

static bool
key_of(const char *expr, unsigned type, int format, const void *value,
       ssize_t n, uint64_t *key)
{
	char text[256];
	struct insert *in;
	bool good;

	snprintf(text, sizeof(text), "INSERT INTO t (a) VALUES (%s)", expr);
	in = load(text);
	good = insert_key(insert_column(in, "a"), type, format, value, n, key);
	insert_free(&in);
	return good;
}

static uint64_t
key(const char *expr, unsigned type, int format, const void *value, ssize_t n)
{
	uint64_t k;

	if (!key_of(expr, type, format, value, n, &k))
		fail_msg("no key: %s, type %u, format %d", expr, type, format);
	return k;
}

static uint64_t
text_key(unsigned type, const char *value)
{
	return key("$1", type, 0, value, (ssize_t)strlen(value));
}

static void
gives_one_uuid_one_key_however_it_is_sent(void **state)
{
	static const uint8_t bytes[] = "\xa0\xee\xbc\x99\x9c\x0b\x4e\xf8"
				       "\xbb\x6d\x6b\xb9\xbd\x38\x0a\x11";
	static const char *const spelled[] = {
		"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
		"a0eebc999c0b4ef8bb6d6bb9bd380a11",
		"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
		"{a0eebc999C0B4EF8BB6D6BB9BD380A11}",
		"a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
	};
	uint64_t k = text_key(UUID_OID, UUID);

	for (size_t i = 0; i < sizeof(spelled) / sizeof(spelled[0]); i++) {
		assert_true(text_key(UUID_OID, spelled[i]) == k);
		assert_true(text_key(0, spelled[i]) == k);
	}
	assert_true(key("$1", UUID_OID, 1, bytes, 16) == k);
	assert_true(key("$1::uuid", 0, 1, bytes, 16) == k);
	assert_true(key("$1::uuid", TEXT, 1, UUID, 36) == k);
	assert_true(key("$1::uuid", VARCHAR, 0, UUID, 36) == k);
	assert_true(key("$1::text", 0, 0, UUID, 36) == k);
	assert_true(key("'" UUID "'", 0, 0, NULL, -1) == k);
	assert_true(key("'" UUID "'::uuid", 0, 0, NULL, -1) == k);
	assert_true(key("CAST('" UUID "' AS uuid)", TEXT, 1, "x", 1) == k);
	assert_true(text_key(0, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12") != k);
	(void)state;
}

static void
gives_one_integer_one_key_however_it_is_sent(void **state)
{
	static const char *const spelled[] = {
		"-7", " -7 ", "-007", "\t-7\n", "-0x7", "-0b111", "-0o7",
	};
	uint64_t k = text_key(INT8, "-7");

	for (size_t i = 0; i < sizeof(spelled) / sizeof(spelled[0]); i++)
		assert_true(text_key(0, spelled[i]) == k);
	assert_true(key("$1", INT2, 1, "\xff\xf9", 2) == k);
	assert_true(key("$1", INT4, 1, "\xff\xff\xff\xf9", 4) == k);
	assert_true(key("$1::bigint", 0, 1, "\xff\xff\xff\xff\xff\xff\xff\xf9",
			8) == k);
	assert_true(key("12", 0, 0, NULL, -1) == text_key(INT4, "12"));
	assert_true(key("'-7'", 0, 0, NULL, -1) == k);
	assert_true(key("'-7'::int", 0, 0, NULL, -1) == k);
	assert_true(text_key(0, "7") != k);
	assert_true(text_key(0, "1_000") == text_key(0, "1000"));
	assert_true(text_key(0, "+9223372036854775807") ==
		    key("9223372036854775807", 0, 0, NULL, -1));
	assert_true(text_key(0, "-9223372036854775808") !=
		    text_key(0, "9223372036854775808"));
	assert_true(text_key(0, "-") != text_key(0, "0"));
	assert_true(text_key(0, "0x") != text_key(0, "0"));
	(void)state;
}

static void
gives_one_text_one_key_however_it_is_sent(void **state)
{
	uint64_t k = text_key(0, "Room");

	assert_true(text_key(TEXT, "Room") == k);
	assert_true(text_key(VARCHAR, "Room") == k);
	assert_true(text_key(UNKNOWN, "Room") == k);
	assert_true(key("$1", TEXT, 1, "Room", 4) == k);
	assert_true(key("$1::varchar", 0, 1, "Room", 4) == k);
	assert_true(key("'Room'", 0, 0, NULL, -1) == k);
	assert_true(text_key(0, "room") != k);
	assert_true(text_key(0, "") != key("$1", TEXT, 0, NULL, -1));
	assert_true(key("NULL", 0, 0, NULL, -1) ==
		    key("$1", TEXT, 1, NULL, -1));
	(void)state;
}

static void
says_when_a_key_cannot_be_known(void **state)
{
	static const char uuid_like[] = "abcdefghijklmnop";
	uint64_t k;

	assert_false(key_of("$1", 0, 1, uuid_like, 16, &k));
	assert_false(key_of("$1", UNKNOWN, 1, uuid_like, 16, &k));
	assert_false(key_of("$1", UUID_OID, 1, uuid_like, 15, &k));
	assert_false(key_of("$1", INT4, 1, uuid_like, 8, &k));
	assert_false(key_of("$1", INT2, 1, uuid_like, 0, &k));
	assert_false(key_of("$1", TEXT, 2, uuid_like, 4, &k));
	assert_false(key_of("$1", BPCHAR, 0, "a ", 2, &k));
	assert_false(key_of("$1", NUMERIC, 0, "1.0", 3, &k));
	assert_false(key_of("$1::numeric", 0, 0, "1.0", 3, &k));
	assert_false(key_of("$1::citext", TEXT, 0, "Room", 4, &k));
	assert_false(key_of("$1::varchar(2)", TEXT, 0, "Room", 4, &k));
	assert_false(key_of("$1::text::uuid", TEXT, 0, UUID, 36, &k));
	assert_false(key_of("lower($1)", TEXT, 0, "Room", 4, &k));
	assert_false(key_of("DEFAULT", 0, 0, NULL, -1, &k));
	assert_false(key_of("1.5", 0, 0, NULL, -1, &k));
	assert_false(key_of("1e3", 0, 0, NULL, -1, &k));
	(void)state;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
		    reads_what_node_postgres_asyncpg_and_psycopg_send),
		cmocka_unit_test(reads_names_as_the_server_looks_them_up),
		cmocka_unit_test(reads_constants_and_their_casts),
		cmocka_unit_test(reads_no_constant_it_cannot_be_certain_of),
		cmocka_unit_test(tells_parameters_from_expressions),
		cmocka_unit_test(says_what_happens_on_a_conflict),
		cmocka_unit_test(reads_every_shape_that_leaves_only_its_row),
		cmocka_unit_test(refuses_everything_else),
		cmocka_unit_test(refuses_a_quote_whose_meaning_is_not_certain),
		cmocka_unit_test(refuses_a_zero_byte),
		cmocka_unit_test(allows_the_functions_it_is_told_to),
		cmocka_unit_test(reads_a_block_of_one_insert),
		cmocka_unit_test(refuses_blocks_of_anything_more),
		cmocka_unit_test(refuses_what_is_nested_too_deep),
		cmocka_unit_test(refuses_a_text_of_too_many_bytes_or_words),
		cmocka_unit_test(refuses_too_many_functions),
		cmocka_unit_test(reads_in_several_threads_at_once),
		cmocka_unit_test(gives_one_uuid_one_key_however_it_is_sent),
		cmocka_unit_test(gives_one_integer_one_key_however_it_is_sent),
		cmocka_unit_test(gives_one_text_one_key_however_it_is_sent),
		cmocka_unit_test(says_when_a_key_cannot_be_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
