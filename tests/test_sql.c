#include "tests/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/sql.h"

/* In an allocation of exactly its size: a sanitizer sees every byte too far. */
static unsigned
scan_n(const char *text, size_t n)
{
	char *exact = malloc(n ? n : 1);
	unsigned flags;

	assert_non_null(exact);
	memcpy(exact, text, n);
	flags = sql_scan(slice_of(exact, n));
	free(exact);
	return flags;
}

static unsigned
scan(const char *text)
{
	return scan_n(text, strlen(text));
}

#define SETS (SQL_TRACKS | SQL_SETTING)
#define PINS (SQL_PIN | SQL_SETTING)

struct example {
	const char *text;
	unsigned flags;
};

#define CHECK_ALL(examples) \
	check_all(examples, sizeof(examples) / sizeof((examples)[0]))

static void
check_all(const struct example *e, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if ((scan(e[i].text) & ~(unsigned)(SQL_HIDES | SQL_XACT)) !=
		    e[i].flags)
			fail_msg("%s: %#x, expected %#x", e[i].text,
				 scan(e[i].text), e[i].flags);
}

static void
sees_nothing_in_what_leaves_nothing(void **state)
{
	static const struct example e[] = {
		{ "", 0 },
		{ " \t\r\n", 0 },
		{ ";;;", 0 },
		{ "SELECT 1", 0 },
		{ "select * from t where a = $1 and b = '$2'", 0 },
		{ "INSERT INTO crdt_operations VALUES ($1, $2) RETURNING id",
		  0 },
		{ "UPDATE t SET x = 1", 0 },
		{ "UPDATE ONLY public.settings SET x = 1", 0 },
		{ "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 1",
		  0 },
		{ "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", 0 },
		{ "BEGIN; SELECT 1; COMMIT", 0 },
		{ "ROLLBACK TO SAVEPOINT s", 0 },
		{ "SHOW search_path", 0 },
		{ "NOTIFY channel, 'x'", 0 },
		{ "UNLISTEN *", 0 },
		{ "DISCARD PLANS", 0 },
		{ "COPY t FROM STDIN", 0 },
		{ "DECLARE c CURSOR FOR SELECT 1", 0 },
		{ "CREATE TABLE t (a int)", 0 },
		{ "CREATE INDEX CONCURRENTLY i ON t (a)", 0 },
		{ "ALTER TABLE t ADD COLUMN a int", 0 },
		{ "SELECT pg_advisory_xact_lock(1)", 0 },
		{ "SELECT pg_try_advisory_xact_lock(1)", 0 },
		{ "SELECT pg_advisory_unlock(1)", 0 },
		{ "SELECT current_setting('app.x')", 0 },
		{ "SELECT name FROM pg_settings", 0 },
		{ "EXECUTE mine(1)", 0 },
		{ "SELECT a.set, b.reset FROM a, b", 0 },
		{ "SELECT \"listen\", \"discard\" FROM t", 0 },
		{ "DECLARE \"c\" CURSOR WITHOUT HOLD FOR SELECT 1", 0 },
		{ "SELECT temp, t.hold, max(temporary) FROM readings t", 0 },
		{ "UPDATE readings SET temp = 1, hold = true", 0 },
		{ "INSERT INTO \"temp\" (temp) VALUES (1)", 0 },
		{ "CREATE TABLE t (temp int, hold bool)", 0 },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
tells_settings_that_stay_from_those_that_end(void **state)
{
	static const struct example e[] = {
		{ "SET x = 1", SETS },
		{ "sEt\nx\tTO 1", SETS },
		{ "SET SESSION x = 1", SETS },
		{ "SET TIME ZONE 'UTC'", SETS },
		{ "SET ROLE other", PINS },
		{ "SET SESSION AUTHORIZATION other", PINS },
		{ "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
		  SETS },
		{ "SET", PINS },
		{ "SET LOCAL x = 1", SQL_SETTING },
		{ "SET LOCAL \"app.x\" = 1", SQL_SETTING },
		{ "SET LOCAL ROLE other", SQL_SETTING },
		{ "SET TRANSACTION READ ONLY", 0 },
		{ "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", 0 },
		{ "SET CONSTRAINTS ALL DEFERRED", 0 },
		{ "RESET x", SQL_SETTING | SQL_UNSETS },
		{ "RESET ALL", SQL_SETTING | SQL_UNSETS | SQL_RESETS },
		{ "reset role", SQL_SETTING | SQL_UNSETS },
		{ "DISCARD ALL",
		  SQL_SETTING | SQL_UNSETS | SQL_FORGETS | SQL_RESETS },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
is_not_fooled_by_settings_called_like_keywords(void **state)
{
	static const struct example e[] = {
		{ "SET local.x = 1", SETS },
		{ "SET local . x TO 1", SETS },
		{ "SET transaction.x = 1", SETS },
		{ "SET constraints.x = 1", SETS },
		{ "SET local = 1", SETS },
		{ "SET local TO 1", SETS },
		{ "SET \"local\" x", PINS },
		{ "PREPARE transaction AS SELECT 1", SQL_PIN },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
reads_the_third_argument_of_set_config(void **state)
{
	static const struct example e[] = {
		{ "SELECT set_config('a', 'b', true)", SQL_SETTING },
		{ "SELECT pg_catalog.set_config($1,$2,TRUE)", SQL_SETTING },
		{ "SELECT \"set_config\"('a', f(1, (2)), true)", SQL_SETTING },
		{ "SELECT set_config /* , */ ('a', 'b,', true) x",
		  SQL_SETTING },
		{ "SELECT set_config('a', 'b', false)", SETS },
		{ "SELECT set_config('a', 'b', $3)", SETS },
		{ "SELECT set_config('a', 'b', 'true')", SETS },
		{ "SELECT set_config('a', 'b', true AND false)", SETS },
		{ "SELECT set_config('a', 'b', true::int = 2)", SETS },
		{ "SELECT set_config('a', 'b', \"true\")", SETS },
		{ "SELECT set_config('a', 'b', not true)", SETS },
		{ "SELECT set_config('a', ARRAY['x', true)]", SETS },
		{ "SELECT set_config('a', (ARRAY['x', 'y'])[1], true)",
		  SQL_SETTING },
		{ "SELECT set_config(is_local => true)", PINS },
		{ "SELECT set_config('a', 'b', true", SETS },
		{ "SELECT set_config('a'", PINS },
		{ "SELECT set_config", PINS },
		{ "SELECT set_config) , , true)", PINS },
		{ "SELECT set_config('a','b',true), set_config('a','b',false)",
		  SETS },
		{ "SELECT set_config('a',set_config('b','c',false),true)",
		  SETS },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
pins_what_must_stay_with_its_server(void **state)
{
	static const struct example e[] = {
		{ "LISTEN channel", SQL_PIN },
		{ "CREATE TEMP TABLE t (a int)", SQL_PIN },
		{ "CREATE TEMPORARY VIEW v AS SELECT 1", SQL_PIN },
		{ "CREATE GLOBAL TEMPORARY TABLE t (a int)", SQL_PIN },
		{ "SELECT 1 INTO TEMP t", SQL_PIN },
		{ "CREATE TABLE pg_temp.t (a int)", SQL_PIN },
		{ "DISCARD TEMP", SQL_PIN },
		{ "CREATE LOCAL /**/ TEMP SEQUENCE s", SQL_PIN },
		{ "CREATE OR REPLACE TEMP VIEW v AS SELECT 1", SQL_PIN },
		{ "SELECT 1 INTO GLOBAL TEMPORARY t", SQL_PIN },
		{ "SELECT 1; CREATE\tTemp TABLE t (a int)", SQL_PIN },
		{ "DECLARE c CURSOR WITH HOLD FOR SELECT 1", SQL_PIN },
		{ "DECLARE c CURSOR WITH -- x\n hold FOR SELECT 1", SQL_PIN },
		{ "PREPARE x AS SELECT 1", SQL_PIN },
		{ "PREPARE x (int) AS SELECT $1", SQL_PIN },
		{ "PREPARE TRANSACTION 'id'", 0 },
		{ "SELECT pg_advisory_lock(1)", SQL_PIN },
		{ "SELECT PG_ADVISORY_LOCK(1)", SQL_PIN },
		{ "SELECT pg_catalog.pg_advisory_lock(1)", SQL_PIN },
		{ "SELECT \"pg_advisory_lock\"(1)", SQL_PIN },
		{ "SELECT pg_advisory_lock_shared(1)", SQL_PIN },
		{ "SELECT pg_try_advisory_lock(1)", SQL_PIN },
		{ "SELECT pg_try_advisory_lock_shared(1)", SQL_PIN },
		{ "DO $$ BEGIN PERFORM 1; END $$", PINS },
		{ "DO LANGUAGE plpgsql 'BEGIN END'", PINS },
		{ "LOAD 'auto_explain'", SQL_PIN | SQL_TAINTS },
		{ "SELECT setseed(0.5)", SQL_PIN | SQL_TAINTS },
		{ "SELECT dblink_connect('x')", SQL_PIN | SQL_TAINTS },
		{ "SELECT dblink_connect_u('x')", SQL_PIN | SQL_TAINTS },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
guards_the_names_of_the_proxy_s_own_statements(void **state)
{
	static const struct example e[] = {
		{ "EXECUTE weir_set_1('app.x', 'y')", PINS },
		{ "EXPLAIN ANALYZE EXECUTE weir_reset", PINS },
		{ "CREATE TABLE t AS EXECUTE \"weir_set_1\"('a', 'b')", PINS },
		{ "DEALLOCATE weir_begin", PINS | SQL_DROPS },
		{ "DEALLOCATE PREPARE weir_begin", PINS | SQL_DROPS },
		{ "DEALLOCATE PREPARE mine", SQL_DROPS },
		{ "DEALLOCATE ALL", SQL_FORGETS },
		{ "DEALLOCATE prepare", 0 },
		{ "DEALLOCATE", 0 },
		{ "SELECT weir_verify()", 0 },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
sees_settings_in_unusual_places(void **state)
{
	static const struct example e[] = {
		{ "UPDATE pg_settings SET setting = 1", PINS },
		{ "UPDATE ONLY pg_catalog.pg_settings AS p SET setting = 1",
		  PINS },
		{ "UPDATE \"pg_settings\" SET setting = 1", PINS },
		{ "UPDATE t SET a = (SELECT 1 FROM pg_settings)", 0 },
		{ "ALTER ROLE me SET app.x = 1", SQL_SETTING },
		{ "ALTER USER me IN DATABASE d RESET ALL", SQL_SETTING },
		{ "ALTER DATABASE d SET app.x = 1", SQL_SETTING },
		{ "ALTER SYSTEM SET app.x = 1", SQL_SETTING },
		{ "CREATE FUNCTION f() RETURNS int SET app.x = 1 AS 'x'",
		  SQL_SETTING },
		{ "CREATE OR REPLACE PROCEDURE f() SET app.x = 1 AS 'x'",
		  SQL_SETTING },
		{ "CREATE OR REPLACE VIEW v AS SELECT 1", 0 },
		{ "CREATE OR", 0 },
		{ "ALTER", 0 },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
looks_at_every_statement_of_a_text(void **state)
{
	static const struct example e[] = {
		{ "SELECT 1; SET x = 1", SETS },
		{ "SELECT ';'; SET LOCAL x = 1; SELECT 2", SQL_SETTING },
		{ "SET LOCAL x = 1;LISTEN c", SQL_SETTING | SQL_PIN },
		{ ";SET x = 1", SETS },
		{ "SELECT 1 SET x = 1", 0 },
		{ "RESET a; DEALLOCATE ALL; LOAD 'x'",
		  SQL_SETTING | SQL_UNSETS | SQL_PIN | SQL_TAINTS |
		      SQL_FORGETS },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
skips_comments(void **state)
{
	static const struct example e[] = {
		{ "-- SET x = 1", 0 },
		{ "--\nSET x = 1", SETS },
		{ "--\rSET x = 1", SETS },
		{ "/* SET x = 1; */ SELECT 1", 0 },
		{ "/* a /* b */ ; SET x = 1; */ SELECT 1", 0 },
		{ "/* a /* b */ c */ SET x = 1", SETS },
		{ "/**/SET x = 1", SETS },
		{ "/*/ SET x = 1; */ SELECT 1", 0 },
		{ "/***/ SET x = 1", SETS },
		{ "S/**/ET x = 1", 0 },
		{ "SELECT 1 - -1; SET x = 1", SETS },
		{ "SELECT 1 / 2; SET x = 1", SETS },
		{ "SELECT 1 -- ;\n; SET x = 1", SETS },
		{ "SELECT '/*'; SET x = '*/'", SETS },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
skips_strings_of_every_kind(void **state)
{
	static const struct example e[] = {
		{ "SELECT '; SET x = 1'", 0 },
		{ "SELECT 'it''s; SET x = 1'", 0 },
		{ "SELECT 'it'; SET x = 1 --'", SETS },
		{ "SELECT '\\'; SET x = 1 --'", SETS },
		{ "SELECT E'\\'; SET x = 1 --'", 0 },
		{ "SELECT e'\\'; SET x = 1 --'", 0 },
		{ "SELECT E'\\\\'; SET x = 1 --'", SETS },
		{ "SELECT B'1', X'f', N'a'; SET x = 1", SETS },
		{ "SELECT N'\\'; SET x = 1 --'", SETS },
		{ "SELECT ae'\\'; SET x = 1 --'", SETS },
		{ "SELECT E '\\'; SET x = 1 --'", SETS },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
knows_that_a_string_may_go_on_in_the_next_line(void **state)
{
	static const struct example e[] = {
		{ "SELECT E'a'\n'\\'' ; SELECT pg_advisory_lock(1) --'",
		  SQL_PIN },
		{ "SELECT E'a'\n'b'\n'\\' ; SET x = 1 --'", 0 },
		{ "SELECT E'a' -- c\n'\\' ; SET x = 1 --'", 0 },
		{ "SELECT 'a'\n'\\' ; SET x = 1 --'", SETS },
		{ "SELECT E'a', '\\' ; SET x = 1 --'", SETS },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
skips_dollar_quotes(void **state)
{
	static const struct example e[] = {
		{ "SELECT $$; SET x = 1; $$", 0 },
		{ "SELECT $$a$$; SET x = 1", SETS },
		{ "SELECT $tag$ $$; SET x = 1; $t$ $tag$", 0 },
		{ "SELECT $tag$ $TAG$ ; SET x = 1", 0 },
		{ "SELECT $tag$ $tag$; SET x = 1", SETS },
		{ "SELECT $1; SET x = 1", SETS },
		{ "SELECT $1$2; SET x = 1", SETS },
		{ "SELECT $1, $$; SET x = 1; $$", 0 },
		{ "SELECT a$b$ ; SET x = 1", SETS },
		{ "SELECT $t; SET x = 1", SETS },
		{ "SELECT $a1$ ; SET x = 1; $a1$", 0 },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
skips_quoted_names(void **state)
{
	static const struct example e[] = {
		{ "SELECT \"; SET x = 1\"", 0 },
		{ "SELECT \"a\"\"; SET x = 1\"", 0 },
		{ "SELECT \"a\"; SET x = 1", SETS },
		{ "SELECT \"a\\\"; SET x = 1", SETS },
		{ "SELECT \"\"; SET x = 1", SETS },
		{ "SELECT '\"'; SET x = '\"'", SETS },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
is_careful_where_it_cannot_read(void **state)
{
	static const struct example e[] = {
		/* any name at all */
		{ "SELECT U&\"pg\\005fadvisory_lock\"(1)", PINS },
		{ "SELECT u&\"x\"", PINS },
		/* SJIS: the backslash is half a character, the quote ends it */
		{ "SELECT E'\x95\\', pg_advisory_lock(1) --'", PINS },
		{ "SELECT E'\x95\\\\', pg_advisory_lock(1) --'", PINS },
		/* the same character, spelled otherwise, may end it */
		{ "SELECT $\x81\xe0$ a $\x87\x90$", PINS },
		{ "SELECT E'\x81_\\', pg_advisory_lock(1) --'", PINS },
		/* UTF-8, and nothing that could be meant otherwise */
		{ "SELECT E'\xc3\xa9\\n'", 0 },
		{ "SELECT '\xc3\xa9\\'", 0 },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
survives_the_end_anywhere(void **state)
{
	static const char *const texts[] = {
		"SELECT set_config('a', E'\\'b', true), $tag$ x $tag$, $1",
		"/* a /* b */ */ SET LOCAL \"a\"\"b\" = 'it''s' -- end",
		"UPDATE pg_catalog.pg_settings SET a = U&\"d\\0061t\"",
		"CREATE OR REPLACE FUNCTION f() AS $$a$$; DEALLOCATE PREPARE x",
		"PREPARE TRANSACTION 'x'; DISCARD ALL; EXECUTE weir_set_1",
		"'",
		"\"",
		"$",
		"$$",
		"$a",
		"$a$",
		"E'",
		"E'\\",
		"/",
		"/*",
		"/* /",
		"-",
		"--",
		"U&",
		"U&\"",
		"1",
		"1.",
		"\\",
		"\x80",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		for (size_t n = 0; n <= strlen(texts[i]); n++)
			assert_int_equal(scan_n(texts[i], n) & ~0x1fffu, 0);
}

static void
reads_nothing_past_the_length(void **state)
{
	(void)state;
	assert_int_equal(sql_scan(slice_of("SELECT 1; SET x = 1", 9)), 0);
	assert_int_equal(sql_scan(slice_of(NULL, 0)), 0);
}

/* SQL_HIDES has examples of its own: the others leave it out. */
static void
says_when_the_name_of_a_setting_cannot_be_read(void **state)
{
	static const char *const hides[] = {
		"SET ROLE other",
		"set local role other",
		"SET SESSION ROLE other",
		"SET \"role\" = other",
		"SET SESSION AUTHORIZATION other",
		"SET LOCAL SESSION AUTHORIZATION other",
		"SET session_authorization = other",
		"SELECT 1; SET session_authorization TO other",
		"SELECT set_config($1, 'x', false)",
		"SELECT set_config('app.' || 'x', 'y', false)",
		"SELECT set_config('app.'\n'x', 'y', false)",
		"SELECT set_config(E'app\\056x', 'y', true)",
		"SELECT set_config(name, 'y', true) FROM names",
		"SELECT set_config(name, 'view', false) FROM pg_settings"
		" WHERE name = 'restrict_nonsystem_relation_kind'",
		"SELECT set_config(name, 'view, foreign-table', false) FROM "
		"pg_settings",
		"SELECT set_config",
		"SELECT set_config('role', 'x', false)",
		"SELECT set_config('Session_Authorization', 'x', true)",
		"EXECUTE weir_set_1('a' || 'b', 'c')",
		"UPDATE pg_settings SET setting = 1 WHERE name ~ 'x'",
		"ALTER ROLE me SET search_path = x",
		"ALTER DATABASE d RESET ALL",
		"DO $$ BEGIN EXECUTE 'SET ROLE x'; END $$",
		"DO $$ SELECT set_config('role', 'x', true) $$",
		"CREATE FUNCTION f() AS $$ set /**/ session authorization x $$",
		"CREATE OR REPLACE PROCEDURE f() SET role = x AS 'SELECT 1'",
		"SELECT query_to_xml($1, true, true, '')",
		"SELECT query_to_xml('SELECT set_config()', true, true, '')",
		"SELECT * FROM ts_stat('SELECT a' || 'b')",
		"SELECT U&\"x\"",
	};
	static const char *const plain[] = {
		"SELECT 1",
		"SET x = 1",
		"SET search_path = role",
		"SET row_security = off", /* errors instead of filters: shows nobody more */
		"SET LOCAL x = 'role'",
		"RESET ROLE",
		"SELECT set_config('app.x', $1, false)",
		"SELECT set_config ( 'app.x' , $1, true)",
		"SELECT set_config(name, 'view, foreign-table', false) FROM "
		"pg_settings"
		" WHERE name = 'restrict_nonsystem_relation_kind'",
		"UPDATE t SET role = 1",
		"CREATE VIEW v AS SELECT * FROM my_settings",
		"CREATE TABLE t AS SELECT * FROM pg_settings",
		"ALTER ROLE me LOGIN",
		"ALTER DATABASE d OWNER TO me; SET x = 1",
		"DO $$ BEGIN UPDATE t SET a = 1 WHERE role = 2; END $$",
		"CREATE FUNCTION f(role text) AS $$ SELECT my_role $$",
		"SELECT query_to_xml('SELECT 1', true, true, '')",
		"SELECT * FROM ts_stat('SELECT a FROM t')",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(hides) / sizeof(hides[0]); i++)
		if (!(scan(hides[i]) & SQL_HIDES))
			fail_msg("%s is thought plain", hides[i]);
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
		if (scan(plain[i]) & SQL_HIDES)
			fail_msg("%s is thought to hide", plain[i]);
}

static void
says_who_asks_for_a_sequence_s_last_value_out_of_the_blue(void **state)
{
	static const struct example e[] = {
		{ "SELECT lastval()", SQL_RECALLS },
		{ "select pg_catalog.CURRVAL('s')", SQL_RECALLS },
		{ "INSERT INTO t VALUES (1); SELECT lastval()", 0 },
		{ "SELECT nextval('s')", 0 },
		{ "SELECT 'lastval()'", 0 },
		{ "SELECT lastval(); LISTEN x", SQL_RECALLS | SQL_PIN },
		{ "; ;SELECT lastval()", SQL_RECALLS },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
says_who_reads_what_others_have_prepared(void **state)
{
	static const struct example e[] = {
		{ "SELECT * FROM pg_prepared_statements", SQL_PEEKS },
		{ "TABLE pg_catalog.\"pg_prepared_statements\"", SQL_PEEKS },
		{ "select PG_Prepared_Statement()", SQL_PEEKS },
		{ "SELECT 'pg_prepared_statements'", 0 },
		{ "SELECT * FROM pg_prepared_xacts", 0 },
		{ "SELECT schema_to_xml('x', true, true, '')", SQL_PEEKS },
		{ "SELECT query_to_xml('TABLE t', true, true, '')", 0 },
		{ "SELECT query_to_xml('TABLE pg_prepared_statements', true, "
		  "true, '')",
		  SQL_PIN | SQL_SETTING | SQL_PEEKS },
		{ "CREATE FUNCTION f() AS 'TABLE pg_prepared_statements'",
		  SQL_SETTING | SQL_PEEKS },
	};

	(void)state;
	CHECK_ALL(e);
}

static void
finds_a_setting_however_it_is_quoted(void **state)
{
	static const char name[] = "app.current_organization_id";

	(void)state;
	assert_true(sql_mentions(
	    slice_str("SET app.current_organization_id = 1"), name));
	assert_true(sql_mentions(
	    slice_str("SET \"app\" . \"CURRENT_Organization_id\" = 1"), name));
	assert_true(sql_mentions(slice_str("current_organization_id"), name));
	assert_false(sql_mentions(slice_str("current_organization_i"), name));
	assert_false(sql_mentions(slice_str("SET app.other = 1"), name));
	assert_false(sql_mentions(slice_of("", 0), name));
	assert_true(sql_mentions(slice_str("RESET plain"), "plain"));
}

static void
reads_every_form_of_a_transaction_command(void **state)
{
	static const struct {
		const char *text;
		enum sql_xact xact;
		unsigned modes;
	} e[] = {
		{ "BEGIN", SQL_BEGIN, 0 },
		{ "begin;", SQL_BEGIN, 0 },
		{ " /* a */ Begin Work ; ; -- end", SQL_BEGIN, 0 },
		{ "BEGIN TRANSACTION", SQL_BEGIN, 0 },
		{ "START TRANSACTION", SQL_START, 0 },
		{ "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", SQL_BEGIN,
		  SQL_SERIALIZABLE | SQL_READ_ONLY },
		{ "BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE, NOT "
		  "DEFERRABLE",
		  SQL_BEGIN,
		  SQL_REPEATABLE_READ | SQL_READ_WRITE | SQL_NOT_DEFERRABLE },
		{ "start transaction read only, isolation level read committed "
		  "deferrable;",
		  SQL_START,
		  SQL_READ_COMMITTED | SQL_READ_ONLY | SQL_DEFERRABLE },
		{ "BEGIN ISOLATION LEVEL READ UNCOMMITTED", SQL_BEGIN,
		  SQL_READ_UNCOMMITTED },
		{ "COMMIT", SQL_COMMIT, 0 },
		{ "COMMIT WORK;", SQL_COMMIT, 0 },
		{ "END TRANSACTION", SQL_COMMIT, 0 },
		{ "ROLLBACK", SQL_ROLLBACK, 0 },
		{ "ABORT", SQL_ROLLBACK, 0 },
		{ "", SQL_NO_XACT, 0 },
		{ ";BEGIN", SQL_NO_XACT, 0 },
		{ "SELECT 1", SQL_NO_XACT, 0 },
		{ "BEGIN; SELECT 1", SQL_NO_XACT, 0 },
		{ "BEGIN READ", SQL_NO_XACT, 0 },
		{ "BEGIN READ ONLY,", SQL_NO_XACT, 0 },
		{ "BEGIN , READ ONLY", SQL_NO_XACT, 0 },
		{ "BEGIN READ ONLY READ WRITE", SQL_NO_XACT, 0 },
		{ "BEGIN READ ONLY READ ONLY", SQL_NO_XACT, 0 },
		{ "BEGIN ISOLATION LEVEL", SQL_NO_XACT, 0 },
		{ "BEGIN ISOLATION LEVEL REPEATABLE", SQL_NO_XACT, 0 },
		{ "BEGIN ISOLATION LEVEL SERIALIZABLE, ISOLATION LEVEL "
		  "SERIALIZABLE",
		  SQL_NO_XACT, 0 },
		{ "BEGIN NOT", SQL_NO_XACT, 0 },
		{ "BEGIN \"read\" only", SQL_NO_XACT, 0 },
		{ "BEGIN x", SQL_NO_XACT, 0 },
		{ "BEGIN 1", SQL_NO_XACT, 0 },
		{ "\"begin\"", SQL_NO_XACT, 0 },
		{ "START", SQL_NO_XACT, 0 },
		{ "COMMIT PREPARED 'x'", SQL_NO_XACT, 0 },
		{ "COMMIT AND CHAIN", SQL_NO_XACT, 0 },
		{ "ROLLBACK TO a", SQL_NO_XACT, 0 },
		{ "ROLLBACK TRANSACTION AND NO CHAIN", SQL_NO_XACT, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(e) / sizeof(e[0]); i++) {
		struct slice text = slice_str(e[i].text);
		unsigned modes = 99;

		if (sql_transaction(text, &modes) != e[i].xact)
			fail_msg("%s: another command", e[i].text);
		if (e[i].xact == SQL_NO_XACT)
			continue;
		assert_int_equal(modes, e[i].modes);
		assert_true(sql_scan(text) & SQL_XACT);
		for (size_t n = 0; n < text.n; n++)
			sql_transaction(slice_of(text.p, n), &modes);
	}
}

static void
reads_every_form_of_a_savepoint_command(void **state)
{
	static const struct {
		const char *text;
		enum sql_mark mark;
		const char *name;
	} e[] = {
		{ "SAVEPOINT a", SQL_SAVEPOINT, "a" },
		{ "savepoint Abc ; ;", SQL_SAVEPOINT, "abc" },
		{ "SAVEPOINT \"Abc\"", SQL_SAVEPOINT, "Abc" },
		{ "SAVEPOINT /* b */ savepoint -- c", SQL_SAVEPOINT,
		  "savepoint" },
		{ "SAVEPOINT \"a\"\"b\"", SQL_SAVEPOINT, "" },
		{ "SAVEPOINT a23456789b123456789c123456789d123456789e1234567"
		  "89f123456789g12",
		  SQL_SAVEPOINT,
		  "a23456789b123456789c123456789d123456789e123456789f12345678"
		  "9g12" },
		{ "SAVEPOINT a23456789b123456789c123456789d123456789e1234567"
		  "89f123456789g123",
		  SQL_SAVEPOINT,
		  "a23456789b123456789c123456789d123456789e123456789f12345678"
		  "9g123" },
		{ "SAVEPOINT a23456789b123456789c123456789d123456789e1234567"
		  "89f123456789g1234",
		  SQL_SAVEPOINT, "" },
		{ "RELEASE a", SQL_RELEASE, "a" },
		{ "RELEASE SAVEPOINT a", SQL_RELEASE, "a" },
		{ "RELEASE savepoint", SQL_RELEASE, "savepoint" },
		{ "RELEASE savepoint savepoint;", SQL_RELEASE, "savepoint" },
		{ "ROLLBACK TO a", SQL_ROLLBACK_TO, "a" },
		{ "ROLLBACK WORK TO SAVEPOINT a", SQL_ROLLBACK_TO, "a" },
		{ "rollback transaction to A;", SQL_ROLLBACK_TO, "a" },
		{ "ROLLBACK TO \"savepoint\"", SQL_ROLLBACK_TO, "savepoint" },
		{ "", SQL_NO_MARK, "" },
		{ "SAVEPOINT", SQL_NO_MARK, "" },
		{ "SAVEPOINT a b", SQL_NO_MARK, "" },
		{ "SAVEPOINT a; SELECT 1", SQL_NO_MARK, "" },
		{ ";SAVEPOINT a", SQL_NO_MARK, "" },
		{ "\"SAVEPOINT\" a", SQL_NO_MARK, "" },
		{ "RELEASE", SQL_NO_MARK, "" },
		{ "RELEASE SAVEPOINT a b", SQL_NO_MARK, "" },
		{ "ROLLBACK", SQL_NO_MARK, "" },
		{ "ROLLBACK TO", SQL_NO_MARK, "" },
		{ "ROLLBACK a", SQL_NO_MARK, "" },
		{ "ROLLBACK TO 1", SQL_NO_MARK, "" },
		{ "ABORT TO a", SQL_NO_MARK, "" },
		{ "SELECT 1", SQL_NO_MARK, "" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(e) / sizeof(e[0]); i++) {
		struct slice text = slice_str(e[i].text);
		char name[SQL_NAME_MAX];

		if (sql_mark(text, name) != e[i].mark)
			fail_msg("%s: another command", e[i].text);
		if (e[i].mark == SQL_NO_MARK)
			continue;
		assert_string_equal(name, e[i].name);
		assert_true(sql_scan(text) & (SQL_XACT | SQL_MARKS));
		for (size_t n = 0; n < text.n; n++)
			sql_mark(slice_of(text.p, n), name);
	}
	assert_true(sql_scan(slice_str("SELECT 1; release a")) & SQL_MARKS);
	assert_false(sql_scan(slice_str("SELECT 'a; savepoint b'")) &
		     SQL_MARKS);
}

static void
writes_a_begin_that_it_reads_as_the_same(void **state)
{
	char text[SQL_BEGIN_MAX];
	unsigned found;

	(void)state;
	for (unsigned level = 0; level <= SQL_SERIALIZABLE; level++)
		for (unsigned rest = 0; rest < 16; rest++) {
			unsigned modes = level | rest << 3;
			size_t n;

			if ((rest & 3) == 3 || (rest & 12) == 12)
				continue; /* nobody asks for both */
			n = sql_begin(text, modes);
			assert_int_equal(strlen(text), n);
			assert_int_equal(
			    sql_transaction(slice_of(text, n), &found),
			    SQL_BEGIN);
			assert_int_equal(found, modes);
		}
}

static void
finds_the_one_name_that_is_deallocated(void **state)
{
	static const struct {
		const char *text, *name;
	} e[] = {
		{ "DEALLOCATE a", "a" },
		{ "deallocate PREPARE Abc;", "abc" },
		{ "DEALLOCATE \"_pg3_0\" -- x", "_pg3_0" },
		{ "DEALLOCATE \"All\"", "All" },
		{ "DEALLOCATE \"a b\"", "a b" },
		{ "DEALLOCATE ALL", "" },
		{ "DEALLOCATE PREPARE ALL", "" },
		{ "DEALLOCATE", "" },
		{ "DEALLOCATE PREPARE", "" },
		{ "DEALLOCATE \"\"", "" },
		{ "DEALLOCATE \"a\"\"b\"", "" },
		{ "DEALLOCATE a b", "" },
		{ "DEALLOCATE a; SELECT 1", "" },
		{ "DEALLOCATE U&\"a\"", "" },
		{ "DEALLOCATE 1", "" },
		{ "DEALLOCATE nine_byte", "" },
		{ "SELECT deallocate", "" },
		{ "", "" },
	};
	char name[8];

	(void)state;
	for (size_t i = 0; i < sizeof(e) / sizeof(e[0]); i++) {
		size_t n =
		    sql_deallocated(slice_str(e[i].text), name, sizeof(name));

		if (n != strlen(e[i].name) || memcmp(name, e[i].name, n) != 0)
			fail_msg("%s: %.*s", e[i].text, (int)n, name);
	}
}

static void
reads_a_switch_of_one_setting_and_nothing_else(void **state)
{
	static const struct {
		const char *text, *name, *value;
		unsigned param;
		bool reset, local, select;
	} e[] = {
		{ .text = "SET weir.organization = 'acme'",
		  .name = "weir.organization",
		  .value = "acme" },
		{ .text = "set session App.X TO beta;",
		  .name = "app.x",
		  .value = "beta" },
		{ .text = "SET LOCAL app.x = 'it''s'",
		  .name = "app.x",
		  .value = "it's",
		  .local = true },
		{ .text = "RESET app.x", .name = "app.x", .reset = true },
		{ .text = "SET app.x TO DEFAULT",
		  .name = "app.x",
		  .reset = true },
		{ .text = "SELECT set_config('app.x', 'v', true)",
		  .name = "app.x",
		  .value = "v",
		  .local = true,
		  .select = true },
		{ .text = "select pg_catalog.set_config('app.x', $1, false)",
		  .name = "app.x",
		  .param = 1,
		  .select = true },
		{ .text = "" },
		{ .text = "SET" },
		{ .text = "SET app.x" },
		{ .text = "SET app.x = 'a', 'b'" },
		{ .text = "SET app.x = 'a'; SELECT 1" },
		{ .text = "SELECT set_config('app.x', 'v', true), 1" },
		{ .text = "SELECT set_config('app.x', 'v', true) FROM t" },
		{ .text = "SELECT set_config('app.x', 'v')" },
		{ .text = "SELECT set_config(a, 'v', true)" },
		{ .text = "SELECT set_config('app.x', f(), true)" },
		{ .text = "SELECT other('app.x', 'v', true)" },
		{ .text = "RESET" },
		{ .text = "RESET app.x; SELECT 1" },
		{ .text = "UPDATE t SET app.x = 'v'" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(e) / sizeof(e[0]); i++) {
		struct slice text = slice_str(e[i].text);
		struct sql_switch sw;

		for (size_t n = 0; n < text.n; n++)
			sql_switch(slice_of(text.p, n), &sw);
		if (sql_switch(text, &sw) != (e[i].name != NULL))
			fail_msg("%s: judged wrongly", e[i].text);
		if (e[i].name == NULL)
			continue;
		assert_string_equal(sw.name, e[i].name);
		assert_int_equal(sw.param, e[i].param);
		assert_int_equal(sw.reset, e[i].reset);
		assert_int_equal(sw.local, e[i].local);
		assert_int_equal(sw.select, e[i].select);
		if (e[i].value != NULL)
			assert_string_equal(sw.value, e[i].value);
	}
}

static void
names_what_a_text_sets(void **state)
{
	static const struct {
		const char *text, *names;
	} e[] = {
		{ "SET x = 1", "x " },
		{ "set session App.\"X\" to 1, 2; SELECT 1", "app.x " },
		{ "SET TIME ZONE 'UTC'; SET NAMES 'utf8'",
		  "timezone client_encoding " },
		{ "SET SCHEMA 'a'; SET XML OPTION document",
		  "search_path xmloption " },
		{ "SET time.zone = 1; SET names TO 1; SET schema = 1",
		  "time.zone names schema " },
		{ "SET x FROM CURRENT; SET X TO DEFAULT", "x " },
		{ "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
		  "default_transaction_isolation "
		  "default_transaction_read_only " },
		{ "SELECT f(pg_catalog.set_config('A.b', $1, false)), 'SET y'",
		  "a.b " },
		{ "SELECT set_config('a', 'b', true); SET LOCAL c = 1", "" },
		{ "SET standard_conforming_strings = 'ON'", "" },
		{ "SET standard_conforming_strings TO true; SET y = 1", "y " },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(e) / sizeof(e[0]); i++) {
		struct slice text = slice_str(e[i].text);
		struct sql_sets sets;
		char all[1024] = "";

		assert_int_equal(sql_scan(text) & SQL_PIN, 0);
		assert_true(sql_sets(text, &sets));
		for (unsigned k = 0; k < sets.n; k++)
			strcat(strcat(all, sets.name[k]), " ");
		assert_string_equal(all, e[i].names);
	}
}

static void
keeps_what_cannot_be_repeated(void **state)
{
	static const char *const e[] = {
		"SET role = x",
		"SET SESSION role TO x",
		"SET \"ROLE\" = x",
		"SET SESSION AUTHORIZATION x",
		"SET seed = 0.5",
		"SET transaction_isolation = serializable",
		"SET session_authorization = x",
		"SET default_transaction_deferrable = on",
		"SET SESSION CHARACTERISTICS AS TRANSACTION NOT DEFERRABLE",
		"SET idle_session_timeout = 0",
		"SET standard_conforming_strings = off",
		"SET standard_conforming_strings = 'onward'",
		"SET standard_conforming_strings",
		"SET standard_conforming_strings FROM CURRENT",
		"SET \"odd name\" = 1",
		"SET \"a\"\"b\" = 1",
		"SET \xc3\xa4 = 1",
		"SET a$b = 1",
		"SET U&\"x\" = 1",
		"SET x",
		"SET x.",
		"SET x 1",
		"SET = 1",
		"SET a, b = 1",
		"SELECT set_config('odd name', 'x', false)",
		"SELECT set_config('a' 'b', 'x', false)",
		"SELECT set_config('a' || 'b', 'x', false)",
		"SELECT set_config($1, 'x', false)",
		"SELECT set_config('role', 'x', false)",
		"SELECT set_config('', 'x', false)",
	};
	char many[SQL_SETS_MAX * 16 + 64] = "";
	struct sql_sets sets;

	(void)state;
	for (size_t i = 0; i < sizeof(e) / sizeof(e[0]); i++)
		if (!(scan(e[i]) & SQL_PIN))
			fail_msg("%s: %#x", e[i], scan(e[i]));
	for (unsigned i = 0; i <= SQL_SETS_MAX; i++) {
		assert_true(i == 0 || sql_sets(slice_str(many), &sets));
		assert_true(i == 0 || sets.n == i);
		snprintf(many + strlen(many), 16, "SET a%u = 1;", i);
	}
	assert_false(sql_sets(slice_str(many), &sets));
}

static void
knows_a_DISCARD_ALL(void **state)
{
	static const char *const no[] = { "",
					  "DISCARD",
					  "DISCARD PLANS",
					  "DISCARD ALL, x",
					  "SELECT 1",
					  "DISCARD \"ALL\"",
					  "DISCARD ALL; SELECT 1" };

	(void)state;
	assert_true(sql_is_discard_all(slice_str("discard /* */ All ;; -- x")));
	assert_true(sql_is_discard_all(slice_str("DISCARD ALL")));
	for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		assert_false(sql_is_discard_all(slice_str(no[i])));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sees_nothing_in_what_leaves_nothing),
		cmocka_unit_test(tells_settings_that_stay_from_those_that_end),
		cmocka_unit_test(
		    is_not_fooled_by_settings_called_like_keywords),
		cmocka_unit_test(reads_the_third_argument_of_set_config),
		cmocka_unit_test(pins_what_must_stay_with_its_server),
		cmocka_unit_test(
		    guards_the_names_of_the_proxy_s_own_statements),
		cmocka_unit_test(sees_settings_in_unusual_places),
		cmocka_unit_test(looks_at_every_statement_of_a_text),
		cmocka_unit_test(skips_comments),
		cmocka_unit_test(skips_strings_of_every_kind),
		cmocka_unit_test(
		    knows_that_a_string_may_go_on_in_the_next_line),
		cmocka_unit_test(skips_dollar_quotes),
		cmocka_unit_test(skips_quoted_names),
		cmocka_unit_test(is_careful_where_it_cannot_read),
		cmocka_unit_test(survives_the_end_anywhere),
		cmocka_unit_test(reads_nothing_past_the_length),
		cmocka_unit_test(
		    says_when_the_name_of_a_setting_cannot_be_read),
		cmocka_unit_test(
		    says_who_asks_for_a_sequence_s_last_value_out_of_the_blue),
		cmocka_unit_test(says_who_reads_what_others_have_prepared),
		cmocka_unit_test(finds_a_setting_however_it_is_quoted),
		cmocka_unit_test(reads_every_form_of_a_transaction_command),
		cmocka_unit_test(reads_every_form_of_a_savepoint_command),
		cmocka_unit_test(writes_a_begin_that_it_reads_as_the_same),
		cmocka_unit_test(finds_the_one_name_that_is_deallocated),
		cmocka_unit_test(
		    reads_a_switch_of_one_setting_and_nothing_else),
		cmocka_unit_test(names_what_a_text_sets),
		cmocka_unit_test(keeps_what_cannot_be_repeated),
		cmocka_unit_test(knows_a_DISCARD_ALL),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
