"""rls_check: whether row level security holds for whom weir logs in as.

Goal: whoever runs weir with a role that policies do nothing for, or leaves a
table without one, is told so; and where rls_check = require, nobody of an
organization gets near such a database.
Method: a database of its own with one table as it should be and a role that
should see its policies; each test breaks one thing, past weir.
"""
import contextlib

import psycopg2
import pytest

import pgwire
from servers import wait_for

pytestmark = pytest.mark.weir_only

DATABASE, ROLE, PASSWORD = "checked", "checked_role", "checked-secret"

SCHEMA = """
CREATE SCHEMA work;
GRANT USAGE ON SCHEMA work TO checked_role;
CREATE TABLE work.notes (organization_id text NOT NULL DEFAULT
    current_setting('app.current_organization_id', true), body text);
ALTER TABLE work.notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE work.notes FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON work.notes
    USING (organization_id = current_setting('app.current_organization_id', true));
CREATE TABLE work.countries (name text);
GRANT ALL ON ALL TABLES IN SCHEMA work TO checked_role;
"""
OWNED = "ALTER TABLE work.notes OWNER TO checked_role;"


@pytest.fixture(scope="module")
def database(pg):
    pg.run("CREATE ROLE %s LOGIN PASSWORD '%s'" % (ROLE, PASSWORD))
    pg.run("CREATE DATABASE " + DATABASE)
    connection = pg.connect(DATABASE)
    yield connection
    connection.close()
    pg.run("DROP DATABASE %s WITH (FORCE)" % DATABASE)
    pg.run("DROP ROLE " + ROLE)


@pytest.fixture
def db(database):
    """run(sql) as the superuser, in a database where nothing is to be found."""
    def run(sql, args=None):
        with database.cursor() as cur:
            cur.execute(sql, args)
            return cur.fetchall() if cur.description else []
    run(SCHEMA)
    yield run
    run("DROP SCHEMA work CASCADE; DROP ROLE IF EXISTS boss;"
        "ALTER ROLE checked_role NOSUPERUSER NOBYPASSRLS")


@pytest.fixture
def checked(weir):
    """A weir that looks at that database, as that role."""
    def make(changes=None, workers=1, upstream=None, **options):
        return weir(dict({"postgres main": dict(
            {"user": ROLE, "password": PASSWORD, "dbname": DATABASE,
             "rls_check": "warn"}, **(upstream or {}))}, **(changes or {})),
            workers, **options)
    return make


def findings(w, since=0):
    """[(finding, of what), ...], once they are all told."""
    lines = wait_for(lambda: w.events("rls", since), 10, "nothing is told of rls")
    return [(e["finding"], e.get("role") or e.get("table")) for e in lines
            if "finding" in e]


def numbers(w):
    m = w.metrics()
    return (m['weir_rls_findings{postgres="main"}'],
            m['weir_rls_unchecked{postgres="main"}'])


def checked_again(w, **upstream):
    """A reload, and what that check found."""
    since = len(w.log())
    w.reload({"postgres main": upstream})
    return findings(w, since)


def refused(w, user="acme_app"):
    with pytest.raises(pgwire.Failed) as e:
        w.wire(user)
    return e.value.code


def enters(w, user="acme_app"):
    return w.wire(user).value("SELECT current_user") == ROLE


# What is found.


def test_nothing_is_found_where_policies_hold(checked, db):
    w = checked()
    assert findings(w) == [("none", None)]
    assert numbers(w) == (0, 0)
    assert w.events("rls")[0]["level"] == "info"


BROKEN = {
    "a superuser": (
        "ALTER ROLE checked_role SUPERUSER", [("superuser", ROLE)]),
    "a superuser with BYPASSRLS and tables": (
        "ALTER ROLE checked_role SUPERUSER BYPASSRLS;" + OWNED +
        "ALTER TABLE work.notes NO FORCE ROW LEVEL SECURITY", [("superuser", ROLE)]),
    "a role with BYPASSRLS": (
        "ALTER ROLE checked_role BYPASSRLS", [("bypassrls", ROLE)]),
    "a member of a superuser": (
        "CREATE ROLE boss SUPERUSER; GRANT boss TO checked_role",
        [("superuser", "boss")]),
    "a member of a role with BYPASSRLS": (
        "CREATE ROLE boss BYPASSRLS; GRANT boss TO checked_role",
        [("bypassrls", "boss")]),
    "an owner without FORCE": (
        OWNED + "ALTER TABLE work.notes NO FORCE ROW LEVEL SECURITY",
        [("owner", "work.notes")]),
    "a member of the owner without FORCE": (
        "CREATE ROLE boss; GRANT boss TO checked_role; GRANT ALL ON SCHEMA work TO boss;"
        "ALTER TABLE work.notes OWNER TO boss;"
        "ALTER TABLE work.notes NO FORCE ROW LEVEL SECURITY",
        [("owner", "work.notes")]),
    "a table without row level security": (
        "ALTER TABLE work.notes DISABLE ROW LEVEL SECURITY", [("rls-off", "work.notes")]),
    "a table without a policy": (
        "DROP POLICY own ON work.notes", [("no-policy", "work.notes")]),
    "a table with rights on one column alone": (
        "CREATE TABLE work.\"Odd \"\"one\" (organization_id int, x int);"
        "GRANT SELECT (x) ON work.\"Odd \"\"one\" TO checked_role",
        [("rls-off", 'work.\\"Odd \\"\\"one\\"')]),
    "a partition beside its table": (
        "CREATE TABLE work.parts (organization_id int) PARTITION BY LIST (organization_id);"
        "CREATE TABLE work.part PARTITION OF work.parts FOR VALUES IN (1);"
        "ALTER TABLE work.parts ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY own ON work.parts USING (organization_id = 1);"
        "GRANT SELECT ON work.parts, work.part TO checked_role",
        [("rls-off", "work.part")]),
    "everything at once": (
        "ALTER ROLE checked_role BYPASSRLS;" + OWNED +
        "ALTER TABLE work.notes NO FORCE ROW LEVEL SECURITY;"
        "CREATE TABLE work.bare (organization_id int);"
        "GRANT SELECT ON work.bare TO checked_role",
        [("bypassrls", ROLE), ("owner", "work.notes"), ("rls-off", "work.bare")]),
}


@pytest.mark.parametrize("what", BROKEN)
def test_it_tells_of(checked, db, what):
    sql, expected = BROKEN[what]
    db(sql)
    w = checked()
    assert findings(w) == expected
    assert numbers(w) == (len(expected), 0)
    for e in w.events("rls"):
        assert (e["level"], e["postgres"], e["database"]) == ("warn", "main", DATABASE)
    assert enters(w)        # it is told, and that is all


def test_it_does_not_tell_of_what_does_no_harm(checked, db):
    db(OWNED +                                              # with FORCE
       "CREATE TABLE work.others (organization_id int);"    # no rights on it
       "CREATE SCHEMA closed; CREATE TABLE closed.others (organization_id int);"
       "GRANT ALL ON closed.others TO checked_role;"        # nor on its schema
       "ALTER TABLE work.countries ADD organization_id int;"
       "ALTER TABLE work.countries DROP organization_id")
    try:
        assert findings(checked()) == [("none", None)]
    finally:
        db("DROP SCHEMA closed CASCADE")


def test_the_column_is_the_one_that_is_named(checked, db):
    db("CREATE TABLE work.rented (\"Tenant\" int); GRANT SELECT ON work.rented TO PUBLIC;"
       "CREATE TABLE work.free (organization_id int); GRANT SELECT ON work.free TO PUBLIC")
    w = checked(upstream={"rls_column": "Tenant"})
    assert findings(w) == [("rls-off", "work.rented")]
    assert checked_again(w, rls_column=None) == [("rls-off", "work.free")]


def test_a_flood_of_findings_is_cut(checked, db):
    db("DO $$ BEGIN FOR i IN 1..30 LOOP"
       "  EXECUTE format('CREATE TABLE work.t%s (organization_id int)', i);"
       "END LOOP; END $$; GRANT SELECT ON ALL TABLES IN SCHEMA work TO checked_role")
    w = checked()
    wait_for(lambda: [e for e in w.events("rls") if e.get("more") == "10"], 10)
    assert len(findings(w)) == 20
    assert numbers(w) == (30, 0)


# When, where and how it looks.


def test_a_reload_looks_again(checked, db):
    w = checked(workers=4)
    assert findings(w) == [("none", None)]
    db("ALTER TABLE work.notes DISABLE ROW LEVEL SECURITY")
    assert checked_again(w) == [("rls-off", "work.notes")]
    assert numbers(w) == (1, 0)
    db("ALTER TABLE work.notes ENABLE ROW LEVEL SECURITY")
    assert checked_again(w) == [("none", None)]
    assert numbers(w) == (0, 0)
    w.reload({"postgres main": {"rls_check": "off"}})
    wait_for(lambda: 'weir_rls_findings{postgres="main"}' not in w.metrics(), 5)


def test_it_looks_once_and_keeps_nothing_open(checked, db, pg, relay):
    line = relay(pg.port)
    w = checked(upstream={"port": line.port})
    assert findings(w) == [("none", None)]
    wait_for(lambda: pg.backends(ROLE) == [], 5, "the connection stays open")
    assert line.accepted == 1


def test_each_database_that_a_section_names_is_looked_at(checked, db):
    db("DROP POLICY own ON work.notes")
    w = checked({"database collab": {"postgres": "main", "dbname": DATABASE},
                 "database postgres": {"postgres": "main"},
                 "database *": {"postgres": "main", "dbname": "template1"},
                 "organization beta": {"dbname": "not_there"}},
                upstream={"dbname": None})

    def all_told():
        return {(e["database"], e.get("finding", e.get("sqlstate")))
                for e in w.events("rls")} == {
            (DATABASE, "no-policy"), ("postgres", "none"), ("template1", "none"),
            ("not_there", "")}
    wait_for(all_told, 10, "it did not look everywhere:\n" + w.tail())
    assert numbers(w) == (1, 1)


def test_it_does_not_look_where_only_weir_asks(checked, db, pg):
    """The upstream of auth_query may be anybody's: no client is led there."""
    w = checked({"postgres source": {
                    "host": "127.0.0.1", "port": pg.port, "user": ROLE,
                    "password": PASSWORD, "dbname": "postgres", "sslmode": "disable"},
                 "auth": {"auth_postgres": "source"}})
    assert findings(w) == [("none", None)]
    assert [e["postgres"] for e in w.events("rls")] == ["main"]


@pytest.mark.parametrize("changes, looks", [
    ({}, True),
    ({"organization acme": None, "organization beta": None, "user acme_app": None,
      "user beta_app": None}, True),
    ({"organization acme": None, "organization beta": None, "user acme_app": None,
      "user beta_app": None, "variables": None}, False)],
    ids=["organizations", "variables", "neither"])
def test_without_being_told_it_looks_where_there_are(checked, db, changes, looks):
    w = checked(changes, upstream={"rls_check": None})
    if looks:
        assert findings(w) == [("none", None)]
    w.reload()      # whatever is to be told has been told by then
    assert bool(w.events("rls")) == looks


def test_a_role_that_cannot_log_in_is_told(checked, db):
    w = checked(upstream={"password": "not the password of this role"})
    event, = wait_for(lambda: w.events("rls"), 10)
    assert "password authentication failed" in event["error"]
    assert numbers(w) == (0, 1)
    assert checked_again(w, password=PASSWORD) == [("none", None)]
    assert numbers(w) == (0, 0)


# rls_check = require.

REQUIRE = {"rls_check": "require"}


def test_require_lets_in_where_nothing_is_found(checked, db):
    w = checked(upstream=REQUIRE, workers=4)
    assert findings(w) == [("none", None)]
    for user in ("acme_app", "beta_app", "plain_app"):
        assert enters(w, user)


def test_require_does_not_start_with_findings(checked, weir, db):
    db("DROP POLICY own ON work.notes")
    w = checked(upstream=REQUIRE, wait=False)
    assert w.wait() == 1
    w.over = True
    assert findings(w)[0] == ("no-policy", "work.notes")
    assert [e["findings"] for e in w.events("rls") if e["level"] == "error"] == ["1"]
    assert w.events("listen") == w.events("start") == []


def test_require_refuses_after_a_reload_that_finds_something(checked, db):
    w = checked(upstream=REQUIRE, workers=4)
    stays = w.wire("acme_app")
    assert findings(w) == [("none", None)]
    db("ALTER ROLE checked_role BYPASSRLS")
    assert checked_again(w) == [("bypassrls", ROLE)]
    assert refused(w) == refused(w, "beta_app") == "08004"
    assert enters(w, "plain_app")       # of no organization
    assert stays.value("SELECT 1") == "1"
    assert {e["why"] for e in w.event("refuse") if e["proto"] == "postgres"} == \
        {"RLS_LEAKS"}
    db("ALTER ROLE checked_role NOBYPASSRLS")
    assert checked_again(w) == [("none", None)]
    assert enters(w)


def test_require_does_not_believe_what_was_true_of_another_role(checked, db, pg):
    """Under the new configuration there is no verdict yet: clients wait for it."""
    pg.run("CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'boss-secret'")
    w = checked(upstream=REQUIRE, workers=4)
    assert enters(w)
    w.reload({"postgres main": {"user": "boss", "password": "boss-secret"}})
    for _ in range(8):
        assert refused(w) == "08004"
    w.reload({"postgres main": {"user": ROLE, "password": PASSWORD}})
    wait_for(lambda: not _is_refused(w), 10)
    w.hang_up()
    pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'boss'")


def test_who_came_before_a_reload_and_logs_in_behind_it_is_told_to_come_again(checked, db, pg):
    """By the time it says who it is, nobody asks for what held of that role."""
    pg.run("CREATE ROLE boss LOGIN PASSWORD 'boss-secret'")
    w = checked(upstream=REQUIRE)
    assert enters(w)
    w.hang_up()
    early = w.wire(login=False)
    w.settled(postgres=1)
    checked_again(w, user="boss", password="boss-secret")
    with pytest.raises(pgwire.Failed) as e:
        early.login("acme_app", DATABASE, "acme-secret")
    assert e.value.code == "57P03" and "connect again" in e.value.text
    assert w.wire("acme_app").value("SELECT current_user") == "boss"
    w.hang_up()
    pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'boss'")


def _is_refused(w):
    with contextlib.suppress(pgwire.Failed):
        return not enters(w)
    return True


def test_require_refuses_what_it_cannot_look_at_until_it_can(checked, db, pg, relay):
    line = relay(pg.port, started=False)
    w = checked(upstream=dict(REQUIRE, port=line.port, health_check="passive"), workers=4)
    with pytest.raises(psycopg2.OperationalError) as e:
        w.psycopg2("acme_app")
    assert "cannot be checked now" in str(e.value)
    assert refused(w) == "08006"
    assert numbers(w) == (0, 1)
    assert line.accepted == 0
    line.start()
    # Passive: the next clients have it looked at, and wait for that.
    wait_for(lambda: not _is_refused(w), 20)
    assert findings(w)[-1] == ("none", None)
    assert numbers(w) == (0, 0)


def test_active_looks_again_by_itself(checked, db, pg, relay):
    line = relay(pg.port, started=False)
    w = checked(upstream=dict(REQUIRE, port=line.port, health_check="active",
                              health_interval=1))
    assert numbers(w) == (0, 1)
    line.start()
    wait_for(lambda: numbers(w) == (0, 0), 20)
    assert len([e for e in w.events("rls") if "error" in e]) == 1     # told once
    assert enters(w)


def test_a_lost_database_does_not_undo_what_was_found_out(checked, db, pg, relay):
    line = relay(pg.port)
    w = checked(upstream=dict(REQUIRE, port=line.port))
    assert enters(w)
    line.stop()
    since = len(w.log())
    w.reload()
    wait_for(lambda: [e for e in w.events("rls", since) if "error" in e], 20)
    line.start()
    wait_for(lambda: not _is_refused(w), 20)
    assert not [e for e in w.events("refuse", since) if e["why"].startswith("RLS")]


def test_require_refuses_a_database_that_no_section_names(checked, db):
    w = checked({"database named": {"postgres": "main", "dbname": DATABASE}},
                upstream=dict(REQUIRE, dbname=None))
    wire = w.wire(login=False)
    wire.login("acme_app", "named", "acme-secret")
    assert refused(w) == "08006"
    assert w.wire("plain_app").value("SELECT current_database()") == "collab"
    assert [e for e in w.events("config") if "that no section names" in e["warning"]]


def test_a_service_user_cannot_switch_to_where_it_would_be_refused(checked, db, pg):
    """Its own organization is on one upstream, the other's on one that leaks."""
    pg.run("CREATE ROLE boss LOGIN PASSWORD 'boss-secret'")
    second = {"host": "127.0.0.1", "port": pg.port, "user": "boss",
              "password": "boss-secret", "dbname": DATABASE, "sslmode": "disable",
              "rls_check": "require"}
    w = checked({"postgres second": second,
                 "organization beta": {"postgres": "second"},
                 "user service": {"auth": "trust", "organizations": "*"}},
                upstream=REQUIRE)
    wire = w.wire("service")
    wire.rows(pgwire.query("SET weir.organization = 'beta'"))
    assert wire.value("SELECT current_user") == "boss"
    wire.rows(pgwire.query("SET weir.organization = 'acme'"))
    pg.run("ALTER ROLE boss SUPERUSER")
    checked_again(w)
    wait_for(lambda: w.metrics()['weir_rls_findings{postgres="second"}'] == 1, 10)
    with pytest.raises(pgwire.Failed) as e:
        wire.rows(pgwire.query("SET weir.organization = 'beta'"))
    assert e.value.code == "42501"
    assert wire.value("SELECT current_user") == ROLE
    w.hang_up()
    w.settled()
    pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'boss'")
