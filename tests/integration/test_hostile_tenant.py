"""
Goal:   who belongs to one organization never acts as another, whatever SQL or
        protocol message it tries it with.
Method: a locked client of acme tries to become beta by every route there is,
        one test each, by the simple and by the extended protocol where both
        can.  It hears 42501, counts no row but its own afterwards, and neither
        does the next client of that very server.

What is refused here is refused by its text: names of settings, and words that
set them, however they are written, quoted, escaped or put together there.  A text
cannot be told from what it makes later: a DO block or a function that puts the
name together when it runs, a function that somebody else has installed, or another
language inside the server set what they like.  Against those the signed context
holds (test_context.py), and nothing else does.
"""
import struct

import pytest

import pgwire
from pgwire import bind, describe, execute, extended, message, parse, query, sync
from servers import DATABASE, ORGANIZATIONS

pytestmark = pytest.mark.weir_only

TENANT = "app.current_organization_id"
ACME, BETA = ORGANIZATIONS["acme"], ORGANIZATIONS["beta"]
OWN = "SELECT coalesce(own_organization()::text, '')"


@pytest.fixture
def acme(one_server):
    """Afterwards it is itself, and so is whoever has its server next."""
    wire = one_server.wire("acme_app")
    yield wire
    wire.close()
    for user, org in (("plain_app", ""), ("acme_app", ACME), ("beta_app", BETA)):
        other = one_server.wire(user)
        assert other.value(OWN) == org
        other.close()


def must_refuse(wire, sql):
    for send in (query, extended):
        reply = wire.run(send(sql))
        assert [e["C"] for e in pgwire.errors(reply)] == ["42501"], (send, reply)
        assert wire.value(OWN) == ACME
    # And a name for it, to be used later, is not to be had.
    reply = wire.run(parse(sql, "later"), sync())
    assert [e["C"] for e in pgwire.errors(reply)] == ["42501"]


ROUTES = {
    "by_SET": "SET app.current_organization_id = '%s'",
    "by_SET_TO": "SET app.current_organization_id TO '%s'",
    "by_SET_SESSION": "SET SESSION app.current_organization_id = '%s'",
    "by_SET_LOCAL": "SET LOCAL app.current_organization_id = '%s'",
    "by_SET_in_quotes": 'SET "app"."current_organization_id" = \'%s\'',
    "by_SET_in_capitals": "set APP.Current_Organization_ID = '%s'",
    "by_SET_behind_comments": "/* SELECT */ SET/**/app . current_organization_id = '%s'",
    "by_SET_in_escaped_quotes":
        r'SET app.U&"current_organizatio\006e_id" ' + "= '%s'",
    "by_SET_behind_another_statement": "SELECT 1; SET app.current_organization_id = '%s'",
    "by_set_config": "SELECT set_config('app.current_organization_id', '%s', false)",
    "by_set_config_of_this_transaction":
        "SELECT set_config('app.current_organization_id', '%s', true)",
    "by_set_config_with_its_schema":
        "SELECT pg_catalog . \"set_config\"('app.current_organization_id', '%s', true)",
    "by_set_config_in_a_CTE":
        "WITH s AS MATERIALIZED (SELECT set_config('app.current_organization_id', '%s',"
        " false)) SELECT * FROM s, notes",
    "by_set_config_in_a_sub_select":
        "SELECT count(*) FROM notes WHERE body < (SELECT"
        " set_config('app.current_organization_id', '%s', false))",
    "by_set_config_in_a_WHERE":
        "SELECT 1 WHERE set_config('app.current_organization_id', '%s', false) > ''",
    "by_set_config_in_a_FROM":
        "SELECT * FROM set_config('app.current_organization_id', '%s', false)",
    "by_set_config_of_a_name_put_together":
        "SELECT set_config('app.current' || '_organization_id', '%s', false)",
    "by_set_config_of_a_name_in_two_lines":
        "SELECT set_config('app.current'\n'_organization_id', '%s', false)",
    "by_set_config_of_an_escaped_name":
        r"SELECT set_config(E'app.current_organizatio\x6e_id', '%s', false)",
    "by_set_config_of_a_name_in_dollars":
        "SELECT set_config($$app.current_organization_id$$, '%s', false)",
    "by_set_config_of_a_column":
        "SELECT set_config(n, '%s', false) FROM (VALUES"
        " ('app.current' || '_organization_id')) AS v (n)",
    "by_set_config_in_a_view":
        "CREATE TEMPORARY VIEW v AS SELECT"
        " set_config('app.current_organization_id', '%s', false)",
    "by_set_config_in_a_cursor":
        "DECLARE c CURSOR WITH HOLD FOR SELECT"
        " set_config('app.current_organization_id', '%s', false)",
    "by_set_config_in_a_COPY":
        "COPY (SELECT set_config('app.current_organization_id', '%s', false)) TO STDOUT",
    "by_set_config_in_an_EXPLAIN":
        "EXPLAIN ANALYZE SELECT set_config('app.current_organization_id', '%s', false)",
    "by_set_config_in_escaped_quotes":
        r"""SELECT U&"\0073et_config"('app.current_organization_id', '%s', false)""",
    "by_set_config_in_quotes_and_capitals":
        "SELECT \"SET_CONFIG\"('app.current_organization_id', '%s', false)",
    "by_set_config_of_a_name_in_unicode_escapes":
        r"SELECT set_config(U&'app.current_organizatio\006e_id', '%s', false)",
    "by_set_config_between_comments":
        "SELECT set_config/* ' */(/* /* */ */ 'app.current'--'\n'_organization_id'"
        ", '%s', false)",
    "by_set_config_as_a_default":
        "CREATE TABLE scratch.t (x text DEFAULT"
        " set_config('app.current_organization_id', '%s', false))",
    "by_set_config_in_a_rule":
        "CREATE RULE r AS ON INSERT TO notes DO ALSO"
        " SELECT set_config('app.current_organization_id', '%s', false)",
    "by_set_config_in_a_CALL":
        "CALL scratch.p(set_config('app.current_organization_id', '%s', false))",
    "by_PREPARE":
        "PREPARE p AS SELECT set_config('app.current_organization_id', '%s', false)",
    "by_PREPARE_of_any_setting": "PREPARE p AS SELECT set_config($1, '%s', false)",
    "by_the_proxy_s_own_statement":
        "EXECUTE weir_set_1('app.current' || '_organization_id', '%s')",
    "by_an_update_of_pg_settings":
        "UPDATE pg_settings SET setting = '%s' WHERE name ~ 'current_organization'",
    "by_an_update_of_pg_settings_in_a_CTE":
        "WITH u AS (UPDATE pg_catalog.pg_settings SET setting = '%s'"
        " WHERE name ~ '^app.current_org' RETURNING 1) SELECT 1",
    "by_an_update_of_only_pg_settings":
        "UPDATE ONLY (pg_settings) SET setting = '%s' WHERE name ~ 'current_organ'",
    "by_an_update_of_pg_settings_in_quotes":
        "UPDATE pg_catalog . \"pg_settings\" AS s SET setting = '%s'"
        " WHERE name LIKE 'app.current%'",
    "by_an_update_of_pg_settings_in_a_rule":
        "CREATE RULE r AS ON INSERT TO notes DO ALSO UPDATE pg_settings"
        " SET setting = '%s' WHERE name ~ 'current_organ'",
    "by_a_view_of_pg_settings":
        "CREATE OR REPLACE TEMPORARY VIEW v AS SELECT name, setting FROM pg_settings --%s",
    "by_a_query_to_xml":
        "SELECT query_to_xml($$SELECT set_config('app.current_organization_id', '%s',"
        " false)$$, true, true, '')",
    "by_a_query_to_xml_in_plain_quotes":
        "SELECT query_to_xml('SELECT set_config(''app.curr''||''ent_organization_id'',"
        " ''%s'', false)', true, true, '')",
    "by_ts_stat":
        "SELECT * FROM ts_stat($$SELECT to_tsvector(set_config("
        "'app.current_organization_id', '%s', false))$$)",
    "by_DO":
        "DO $$ BEGIN PERFORM set_config('app.current_organization_id', '%s', false); END $$",
    "by_what_a_DO_formats":
        "DO $$ BEGIN EXECUTE format('SET app.%I = %L', 'current_organization_id', '%s');"
        " END $$",
    "by_a_SET_in_a_DO": "DO $$ BEGIN SET app.current_organization_id = '%s'; END $$",
    "by_a_function":
        "CREATE FUNCTION scratch.hop() RETURNS text LANGUAGE sql AS"
        " $$ SELECT set_config('app.current_organization_id', '%s', false) $$",
    "by_a_function_s_own_setting":
        "CREATE OR REPLACE FUNCTION scratch.hop() RETURNS bigint LANGUAGE sql"
        " SET app.current_organization_id = '%s' AS 'SELECT count(*) FROM notes'",
    "by_a_procedure":
        "CREATE PROCEDURE scratch.hop() LANGUAGE sql AS"
        " $$ SELECT set_config('app.current_organization_id', '%s', false) $$",
    "by_altering_a_function":
        "ALTER FUNCTION own_organization() SET app.current_organization_id = '%s'",
    "by_ALTER_ROLE": "ALTER ROLE weir_upstream SET app.current_organization_id = '%s'",
    "by_ALTER_ROLE_IN_DATABASE":
        "ALTER ROLE CURRENT_USER IN DATABASE collab SET app.current_organization_id = '%s'",
    "by_ALTER_SYSTEM": "ALTER SYSTEM SET app.current_organization_id = '%s'",
    "by_ALTER_USER": "ALTER USER CURRENT_USER SET app.current_organization_id = '%s'",
    "by_ALTER_DATABASE": "ALTER DATABASE collab SET app.current_organization_id = '%s'",
    "by_another_default_of_its_role": "ALTER ROLE CURRENT_USER SET search_path = scratch --%s",
    "by_a_role_as_its_default": "ALTER ROLE CURRENT_USER SET role = clear_role --%s",
    "by_no_default_of_its_role": "ALTER ROLE CURRENT_USER RESET ALL --%s",
    "by_RESET": "RESET app.current_organization_id --%s",
    "by_SET_TO_DEFAULT": "SET app.current_organization_id TO DEFAULT --%s",
    "by_SET_ROLE": "SET ROLE clear_role --%s",
    "by_SET_LOCAL_ROLE": "SET LOCAL ROLE NONE --%s",
    "by_SET_of_role": "SET role = clear_role --%s",
    "by_set_config_of_role": "SELECT set_config('ro' || 'le', 'none', false) --%s",
    "by_SET_SESSION_AUTHORIZATION": "SET SESSION AUTHORIZATION clear_role --%s",
    "by_SET_LOCAL_SESSION_AUTHORIZATION": "SET LOCAL SESSION AUTHORIZATION DEFAULT --%s",
    "by_SET_ROLE_in_a_DO": "DO $$ BEGIN EXECUTE 'SET ROLE clear_role'; END $$ --%s",
    "by_set_config_of_role_in_a_DO":
        "DO $$ BEGIN PERFORM set_config('role', 'clear_role', false); END $$ --%s",
    "by_SET_ROLE_in_a_function":
        "CREATE FUNCTION scratch.hop() RETURNS void LANGUAGE plpgsql AS"
        " $$ BEGIN SET SESSION AUTHORIZATION clear_role; END $$ --%s",
    "by_a_function_s_own_role":
        "CREATE FUNCTION scratch.hop() RETURNS int LANGUAGE sql SET role = 'clear_role'"
        " AS 'SELECT 1' --%s",
}


def make(name, sql):
    def test(acme):
        must_refuse(acme, sql.replace("%s", BETA))
    test.__name__ = "test_a_locked_client_cannot_leave_" + name
    return test


for _name, _sql in ROUTES.items():
    globals()["test_a_locked_client_cannot_leave_" + _name] = make(_name, _sql)


PEEKS = [
    "SELECT statement FROM pg_prepared_statements",
    "TABLE pg_catalog . \"pg_prepared_statements\"",
    "SELECT * FROM pg_prepared_statement()",
    r"""SELECT * FROM U&"pg_prepared_statement\0073" """,
    "COPY (SELECT * FROM pg_prepared_statements) TO STDOUT",
    "WITH x AS (SELECT * FROM pg_prepared_statements) SELECT count(*) FROM x, notes",
    "CREATE TEMPORARY VIEW v AS SELECT * FROM pg_prepared_statements",
    "PREPARE p AS SELECT * FROM pg_prepared_statements",
    "SELECT query_to_xml('TABLE pg_prepared_statements', true, true, '')",
    "SELECT query_to_xml('TABLE pg_prepared' || '_statements', true, true, '')",
    "SELECT table_to_xml('pg_prepared_statements', true, true, '')",
    "SELECT schema_to_xml('pg_catalog', true, true, '')",
    "SELECT database_to_xml(true, true, '')",
    "DO $$ BEGIN PERFORM * FROM pg_prepared_statements; END $$",
    "CREATE FUNCTION scratch.peek() RETURNS SETOF text LANGUAGE sql AS"
    " 'SELECT statement FROM pg_prepared_statements'",
]


@pytest.mark.parametrize("sql", PEEKS)
def test_a_locked_client_cannot_read_what_others_have_prepared(acme, one_server, sql):
    beta = one_server.wire("beta_app")
    beta.run(parse("SELECT 'a secret of beta'", "s"), sync())
    must_refuse(acme, sql)
    beta.rows(bind(name="s"), execute(), sync())


# set_config('role', ...) with a plain name is one more.
def test_a_locked_client_cannot_leave_by_set_config_of_a_plain_role(acme):
    must_refuse(acme, "SELECT set_config('role', 'clear_role', false)")
    must_refuse(acme, "SELECT set_config('session_authorization', 'clear_role', true)")


def refused_with(wire, code, *messages):
    assert [e["C"] for e in pgwire.errors(wire.run(*messages))] == [code]
    assert wire.value(OWN) == ACME


def test_a_locked_client_cannot_leave_by_bind_parameters(acme):
    for sql, args in [("SELECT set_config($1, $2, false)", [TENANT, BETA]),
                      ("SELECT set_config($1, $2, true)", [TENANT, BETA]),
                      ("SELECT set_config('%s', $1, false)" % TENANT, [BETA])]:
        refused_with(acme, "42501", extended(sql, args))


def test_a_locked_client_cannot_leave_by_binding_the_proxy_s_own_statement(acme):
    for name in ("weir_set_1", "weir_reset"):
        args = [TENANT, BETA] if name == "weir_set_1" else []
        refused_with(acme, "26000", bind(args, name), execute(), sync())
        refused_with(acme, "26000", describe("S", name), sync())
    # Nor take it away from whoever is next.
    assert pgwire.kinds(acme.run(pgwire.close("S", "weir_set_1"), sync())) == "3Z"


def test_a_locked_client_cannot_leave_by_calling_a_function_by_its_number(acme):
    def call(oid, *args):
        return message("F", struct.pack("!ihh", oid, 0, len(args)), *[
            struct.pack("!i", len(a)) + a for a in args], struct.pack("!h", 0))
    for oid in (2078, 2925):
        reply = acme.run(call(oid, TENANT.encode(), BETA.encode(), b"f"))
        assert [e["C"] for e in pgwire.errors(reply)] == ["42501"]
        assert acme.value(OWN) == ACME
    assert "V" in pgwire.kinds(acme.run(call(1598)))       # random()


def test_a_locked_client_cannot_leave_by_a_text_too_long_to_be_looked_at(weir):
    w = weir({"weir": {"max_message_size": "2MB"}})
    acme = w.wire("acme_app", timeout=60)
    for size in (1 << 20, 3 << 20):
        for send in (query, lambda sql: parse(sql) + bind() + execute() + sync()):
            sql = "/*" + "x" * size + "*/ SET %s = '%s'" % (TENANT, BETA)
            reply = acme.run(send(sql))
            assert [e["C"] for e in pgwire.errors(reply)] == ["42501"]
            assert acme.value(OWN) == ACME


@pytest.mark.parametrize("name", ["role", "session_authorization"])
def test_a_locked_client_cannot_leave_by_a_startup_option(one_server, name):
    for options in ({"options": "-c %s=clear_role" % name}, {name: "clear_role"}):
        with pytest.raises(pgwire.Failed) as e:
            one_server.wire("acme_app", login=False).login(
                "acme_app", DATABASE, "acme-secret", **options)
        assert e.value.code == "42501"


def test_a_locked_client_cannot_leave_by_the_variable_in_its_startup(one_server):
    for options in ({"options": "-c %s=%s" % (TENANT, BETA)}, {TENANT: BETA}):
        with pytest.raises(pgwire.Failed) as e:
            one_server.wire("acme_app", login=False).login(
                "acme_app", DATABASE, "acme-secret", **options)
        assert e.value.code == "28000"


@pytest.mark.parametrize("sql", ["RESET ALL", "DISCARD ALL", "RESET ROLE"])
def test_what_resets_everything_restores_our_own(acme, sql):
    acme.rows(query("SET work_mem = '77MB'"))
    for send in (query, extended):
        acme.rows(send(sql))
        assert acme.value(OWN) == ACME


def test_behind_a_RESET_ALL_in_its_transaction_a_client_sees_no_rows(acme):
    acme.rows(query("INSERT INTO notes (author, body) VALUES ('acme_app', 'x')"))
    for send in (query, extended):
        acme.rows(query("BEGIN"))
        acme.rows(send("RESET ALL"))
        assert acme.value("SELECT count(*) FROM notes") == "0"
        assert acme.value(OWN) == ""
        acme.rows(query("COMMIT"))
        assert acme.value(OWN) == ACME
        assert int(acme.value("SELECT count(*) FROM notes")) > 0


def test_behind_a_RESET_ALL_that_is_rolled_back_all_is_as_before(acme):
    acme.rows(query("BEGIN"))
    acme.rows(query("SAVEPOINT s"))
    acme.rows(query("RESET ALL"))
    acme.rows(query("ROLLBACK TO s"))
    assert acme.value(OWN) == ACME
    acme.rows(query("ROLLBACK"))
    assert acme.value(OWN) == ACME


def test_behind_a_RESET_ALL_in_the_same_breath_a_client_sees_no_rows(acme):
    rows = acme.rows(query("RESET ALL; SELECT count(*) FROM notes"))
    assert rows == [["0"]]
    reply = acme.run(parse("RESET ALL"), bind(), execute(),
                     parse("SELECT count(*) FROM notes"), bind(), execute(), sync())
    assert pgwire.rows(reply) == [["0"]]


def test_what_only_reads_the_organization_is_not_refused(acme):
    for sql in ("SELECT current_setting('%s')" % TENANT, "SHOW %s" % TENANT):
        assert acme.value(sql) == ACME
    acme.rows(query("CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql AS"
                    " $$ SELECT 'a role of mine' $$"))
    acme.rows(query("SELECT query_to_xml('SELECT 1', true, true, '')"))
