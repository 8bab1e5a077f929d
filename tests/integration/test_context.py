"""A signed context: [context], and policies that verify it.

Goal: with it on, no SQL reads a row of another organization, whatever it sets;
and no honest request ever fails because what was signed has expired.
Method: a database of its own with the schema files that are shipped, tables of
documents and operations with their policies, functions that an owner has
installed and that set whatever they are told.  The values an attacker could try
are made here in Python, with the same key or another.
"""
import hashlib
import hmac
import os
import threading
import time

import psycopg2
import pytest

import pgwire
from conftest import ROOT
from servers import ORGANIZATIONS, scaled, wait_for

pytestmark = pytest.mark.weir_only

SCHEMA = os.path.join(ROOT, "deployment/fly/postgresql/schema")
KEY = "0123456789abcdef0123456789abcdef"
NEXT_KEY = "another key, of as many characters"
DATABASE = "signed"
ACME, BETA = ORGANIZATIONS["acme"], ORGANIZATIONS["beta"]

TABLES = """
CREATE TABLE documents (
    id uuid PRIMARY KEY, organization_id uuid NOT NULL, title text);
CREATE TABLE crdt_operations (
    organization_id uuid NOT NULL,
    document_id     uuid NOT NULL,
    operation_data  jsonb NOT NULL DEFAULT '{}',
    sequence_number bigserial);
GRANT ALL ON ALL TABLES IN SCHEMA public TO weir_upstream;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO weir_upstream;

-- The same rows behind the variable alone, as without a signed context.
CREATE TABLE unsigned (organization_id uuid NOT NULL);
ALTER TABLE unsigned ENABLE ROW LEVEL SECURITY;
ALTER TABLE unsigned FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON unsigned USING (organization_id = nullif(
    current_setting('app.current_organization_id', true), '')::uuid);
GRANT ALL ON unsigned TO weir_upstream;

-- A way around the search for names in texts.
CREATE FUNCTION put_setting(what text, value text) RETURNS text LANGUAGE sql
    AS $$ SELECT set_config(what, value, false) $$;
"""

ROWS = """
INSERT INTO documents VALUES
    ('aaaaaaaa-0000-4000-8000-00000000000d', '{acme}', 'plans of acme'),
    ('bbbbbbbb-0000-4000-8000-00000000000d', '{beta}', 'plans of beta');
INSERT INTO crdt_operations (organization_id, document_id)
    SELECT organization_id, id FROM documents;
INSERT INTO unsigned SELECT organization_id FROM documents;
""".format(acme=ACME, beta=BETA)


@pytest.fixture(scope="module")
def db(pg):
    """run(sql, args) as the superuser, in a database with the shipped schema."""
    pg.run("CREATE DATABASE " + DATABASE)
    connection = pg.connect(DATABASE)

    def run(sql, args=None):
        with connection.cursor() as cur:
            cur.execute(sql, args)
            return cur.fetchall() if cur.description else []

    def install(name):
        with open(os.path.join(SCHEMA, name)) as f:
            run(f.read())
    run.install = install
    run.reset = lambda: run("TRUNCATE app_private.context_key;"
                            " SELECT app_private.set_context_key(%s)", [KEY])
    install("context.sql")
    run(TABLES)
    run(ROWS)
    install("policies.sql")
    install("context.sql")      # both may be run again
    install("policies.sql")
    run("REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT ALL ON SCHEMA public TO"
        " weir_upstream")
    run.reset()
    yield run
    connection.close()
    pg.run("DROP DATABASE %s WITH (FORCE)" % DATABASE)


@pytest.fixture
def signed(weir, db):
    """A weir that signs, on one server unless told otherwise."""
    db.reset()

    def make(changes=None, workers=1, **context):
        config = {"context": dict({"key": KEY}, **context),
                  "postgres main": {"pool_size": 1}, "database *": {"dbname": DATABASE}}
        for section, keys in (changes or {}).items():
            config.setdefault(section, {}).update(keys)
        return weir(config, workers)
    return make


def sees(ask, want, begun=None):
    """
    What is asked for; but where the time of a context is 2 s and the machine so
    slow that an answer takes most of the second that is left, it may have expired.
    """
    begun = begun or time.monotonic()
    got = ask()
    assert got == want or time.monotonic() - begun > 0.7, got


def titles(wire):
    return [r[0] for r in wire.rows(pgwire.query("SELECT title FROM documents"))]


def put(wire, name, value):
    """Set what the proxy would refuse to see set, by a function it cannot read."""
    left, right = name[:6], name[6:]
    return wire.rows(pgwire.query("SELECT put_setting('%s' || '%s', '%s')"
                                  % (left, right, value)))


def forged(organization, pid, expiry=None, user="acme_app", key=KEY, version="weir1"):
    text = ".".join([version, organization.encode().hex(), user.encode().hex(),
                     str(pid), str(int(time.time() + 600 if expiry is None else expiry))])
    return text + "." + hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


# What it gives.


@pytest.mark.parametrize("workers", [1, 4])
def test_each_sees_the_rows_of_its_own_organization(signed, workers):
    w = signed({"postgres main": {"pool_size": 2}}, workers)
    clients = [(w.wire(user), user) for _ in range(4)
               for user in ("acme_app", "beta_app", "plain_app")]
    for n in range(200):
        wire, user = clients[n * 7 % len(clients)]
        org = {"acme_app": "acme", "beta_app": "beta"}.get(user)
        assert titles(wire) == (["plans of " + org] if org else [])
        assert wire.value("SELECT app.current_organization()") == \
            ORGANIZATIONS.get(org)


def test_rows_are_written_for_the_own_organization_alone(signed):
    acme = signed().wire("acme_app")
    put_in = ("INSERT INTO crdt_operations (document_id) VALUES ('%s')"
              " RETURNING organization_id")
    assert acme.value(put_in % "aaaaaaaa-0000-4000-8000-00000000000d") == ACME
    # A foreign key does not look at policies: it must name the organization.
    with pytest.raises(pgwire.Failed) as e:
        acme.rows(pgwire.query(put_in % "bbbbbbbb-0000-4000-8000-00000000000d"))
    assert e.value.code == "23503"
    with pytest.raises(pgwire.Failed) as e:
        acme.rows(pgwire.query("UPDATE documents SET organization_id = '%s'" % BETA))
    assert e.value.code == "42501"


def test_the_context_says_who_and_where_and_until_when(signed):
    wire = signed().wire("acme_app")
    version, org, user, pid, expiry, mac = wire.value(
        "SELECT current_setting('app.weir_context')").split(".")
    assert (version, bytes.fromhex(org).decode(), bytes.fromhex(user).decode()) == \
        ("weir1", ACME, "acme_app")
    assert pid == wire.value("SELECT pg_backend_pid()")
    assert 590 <= int(expiry) - time.time() <= 601
    assert ".".join([version, org, user, pid, expiry, mac]) == \
        forged(ACME, pid, expiry)


def test_without_an_organization_the_context_is_empty(signed):
    w = signed()
    for _ in range(3):
        assert titles(w.wire("acme_app"))
        assert w.wire("plain_app").value(
            "SELECT current_setting('app.weir_context')") == ""


def test_two_users_of_one_organization_have_a_context_each(signed):
    w = signed({"user acme_two": {"auth": "trust", "organization": "acme"}})
    for user in ("acme_app", "acme_two", "acme_app"):
        context = w.wire(user).value("SELECT current_setting('app.weir_context')")
        assert bytes.fromhex(context.split(".")[2]).decode() == user


# Who tries to get around it.


def test_sql_that_names_another_organization_sees_nothing_more(signed):
    w = signed()
    acme, pid = w.wire("acme_app"), None
    pid = acme.value("SELECT pg_backend_pid()")
    acme.rows(pgwire.query("BEGIN"))
    put(acme, "app.current_organization_id", BETA)
    # Without a signed context this is what a function can do ...
    assert acme.rows(pgwire.query("SELECT organization_id FROM unsigned")) == [[BETA]]
    # ... and with it, nothing.
    assert titles(acme) == ["plans of acme"]
    put(acme, "app.weir_context", forged(BETA, pid, key="x" * 32))
    assert titles(acme) == []
    acme.rows(pgwire.query("ROLLBACK"))
    assert titles(acme) == ["plans of acme"]


def test_a_function_of_the_users_own_sees_nothing_of_others(signed):
    """Its body names nothing: the names are put together when it runs."""
    acme = signed({"user acme_app": {"pool_mode": "session"}}).wire("acme_app")
    acme.rows(pgwire.query(
        "CREATE FUNCTION sly(value text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN"
        " RETURN put_setting('app.' || 'current_organ' || 'ization_id', value)"
        " || put_setting('app.' || 'weir_con' || 'text', value); END $$"))
    try:
        rows = acme.rows(pgwire.query(
            "WITH x AS MATERIALIZED (SELECT sly('%s') s) SELECT s FROM x" % BETA))
        assert rows == [[BETA + BETA]]
        assert titles(acme) == []
        assert acme.rows(pgwire.query("SELECT * FROM crdt_operations")) == []
    finally:
        acme.rows(pgwire.query("DROP FUNCTION sly"))


@pytest.mark.parametrize("sql", [
    "SET app.weir_context = 'x'",
    "SET LOCAL app.weir_context TO 'x'",
    "SELECT set_config('app.weir_context', 'x', false)",
    "RESET app.weir_context",
    "ALTER ROLE CURRENT_USER SET APP.WEIR_CONTEXT = 'x'",
])
def test_a_locked_user_may_not_set_it(signed, sql):
    wire = signed().wire("acme_app")
    with pytest.raises(pgwire.Failed) as e:
        wire.rows(pgwire.query(sql))
    assert e.value.code == "42501"
    assert titles(wire) == ["plans of acme"]


@pytest.mark.parametrize("user", ["acme_app", "plain_app"])
@pytest.mark.parametrize("options", [
    {"options": "-c app.weir_context=x"}, {"App.Weir_Context": "x"}])
def test_nobody_may_set_it_at_log_in(signed, user, options):
    with pytest.raises(pgwire.Failed) as e:
        signed().wire(user, **options)
    assert e.value.code == "42501"


def test_a_context_is_good_on_its_own_backend_only(signed, pg):
    w = signed({"postgres main": {"pool_size": 2}})
    acme, beta = w.wire("acme_app"), w.wire("beta_app")
    acme.rows(pgwire.query("BEGIN"))
    stolen = acme.value("SELECT current_setting('app.weir_context')")
    beta.rows(pgwire.query("BEGIN"))
    assert beta.value("SELECT pg_backend_pid()") != acme.value("SELECT pg_backend_pid()")
    put(beta, "app.weir_context", stolen)
    assert titles(beta) == []
    beta.rows(pgwire.query("ROLLBACK"))
    assert titles(beta) == ["plans of beta"]


FORGERIES = {
    "that is right": (lambda pid: forged(BETA, pid), ["plans of beta"]),
    "of another key": (lambda pid: forged(BETA, pid, key=NEXT_KEY), []),
    "of another version": (lambda pid: forged(BETA, pid, version="weir2"), []),
    "that has expired": (lambda pid: forged(BETA, pid, time.time() - 2), []),
    "of another backend": (lambda pid: forged(BETA, int(pid) + 1), []),
    "of nobody": (lambda pid: forged("", pid), []),
    "without a signature": (lambda pid: forged(BETA, pid)[:-65], []),
    "with half a signature": (lambda pid: forged(BETA, pid)[:-32], []),
    "with an empty signature": (lambda pid: forged(BETA, pid)[:-64], []),
    "with a letter more": (lambda pid: forged(BETA, pid) + "0", []),
    "with a signature in capitals": (
        lambda pid: forged(BETA, pid)[:-64] + forged(BETA, pid)[-64:].upper(), []),
    "with a field more": (lambda pid: forged(BETA, pid) + ".", []),
    "with one less": (lambda pid: forged(BETA, pid).replace(".", "", 1), []),
    "with another organization in it": (
        lambda pid: forged(ACME, pid).replace(ACME.encode().hex(), BETA.encode().hex()),
        []),
    "with its fields shifted": (
        lambda pid: forged(ACME, pid).replace(
            "." + b"acme_app".hex(), b"acme_app".hex() + "."), []),
    "with another user": (
        lambda pid: forged(BETA, pid).replace(b"acme_app".hex(), b"beta_app".hex()), []),
    "with a later expiry": (
        lambda pid: forged(BETA, pid, 1000000000).replace(".1000000000.",
                                                          ".9999999999."), []),
    "of another alphabet": (lambda pid: "\u00e9.\u00e9.\u00e9.\u00e9.\u00e9."
                            + "\u00e9" * 64, []),
    "of five dots": (lambda pid: ".....", []),
    "of nothing": (lambda pid: "", []),
    "of a million bytes": (lambda pid: forged(BETA, pid) + "0" * 1000000, []),
    "of a million fields": (lambda pid: "weir1" + "." * 1000000, []),
}


@pytest.fixture(scope="module")
def bare(pg, db):
    """A backend of its own, without weir, where any value can be tried."""
    db.reset()
    connection = psycopg2.connect(
        host="127.0.0.1", port=pg.port, dbname=DATABASE, user="weir_upstream",
        password="upstream-secret")
    connection.autocommit = True
    yield connection.cursor()
    connection.close()


def try_value(cur, value):
    cur.execute("SELECT set_config('app.weir_context', %s, false)", [value])
    cur.execute("SELECT title FROM documents")
    return [r[0] for r in cur.fetchall()]


@pytest.mark.parametrize("name", FORGERIES)
def test_a_context(bare, name):
    make, sees = FORGERIES[name]
    assert try_value(bare, make(bare.connection.get_backend_pid())) == sees


def test_every_letter_of_a_context_counts(bare):
    good = forged(BETA, bare.connection.get_backend_pid())
    assert try_value(bare, good) == ["plans of beta"]
    for n in range(len(good)):
        other = "1" if good[n] == "0" else "0"
        assert try_value(bare, good[:n] + other + good[n + 1:]) == [], n


def test_a_transaction_goes_on_when_its_context_expires(bare):
    pid = bare.connection.get_backend_pid()
    bare.execute("BEGIN")
    assert try_value(bare, forged(BETA, pid, time.time() + 1)) == ["plans of beta"]
    bare.execute("SELECT pg_sleep(2.1)")
    bare.execute("SELECT title FROM documents")
    assert bare.fetchall() == [("plans of beta",)]
    bare.execute("COMMIT")
    bare.execute("SELECT title FROM documents")
    assert bare.fetchall() == []


def test_the_key_is_for_nobody_to_read(signed):
    wire = signed().wire("acme_app")
    for sql in ("SELECT key FROM app_private.context_key",
                "SELECT app_private.set_context_key(repeat('x', 32))",
                "SELECT app_private.forget_previous_context_key()",
                "CREATE TABLE app.mine (x int)",
                "CREATE OR REPLACE FUNCTION app.current_organization() RETURNS text"
                " LANGUAGE sql AS 'SELECT null::text'"):
        with pytest.raises(pgwire.Failed) as e:
            wire.rows(pgwire.query(sql))
        assert e.value.code == "42501", sql


def test_the_shipped_schema_gives_rls_check_nothing_to_find(signed):
    """weir would not start else: in the schema, its key table, the policies."""
    w = signed({"postgres main": {"dbname": DATABASE, "rls_check": "require"}})
    assert titles(w.wire("acme_app")) == ["plans of acme"]
    assert [e["finding"] for e in w.event("rls") if "finding" in e] == ["none"]


def test_a_function_of_the_same_name_does_not_replace_the_one_that_verifies(signed):
    """Not hmac() on the search path, not an operator, not a temporary one."""
    wire = signed({"user acme_app": {"pool_mode": "session"}}).wire("acme_app")
    for sql in ("CREATE FUNCTION pg_temp.hmac(bytea, bytea, text) RETURNS bytea"
                " LANGUAGE sql AS 'SELECT null::bytea'",
                "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea"
                " LANGUAGE sql AS $$ SELECT 'x'::bytea $$",
                "SET search_path = pg_temp, pg_catalog"):
        wire.rows(pgwire.query(sql))
    assert wire.rows(pgwire.query("SELECT title FROM public.documents")) == \
        [["plans of acme"]]
    put_sql = "SELECT public.put_setting('app.weir_' || 'context', '%s')"
    pid = wire.value("SELECT pg_backend_pid()")
    wire.rows(pgwire.query(put_sql % forged(BETA, pid, key="x" * 32)))
    assert wire.rows(pgwire.query("SELECT title FROM public.documents")) == []


def test_policies_compute_the_organization_once_a_statement(bare):
    bare.execute("SET enable_seqscan = off")
    bare.execute("EXPLAIN SELECT * FROM crdt_operations")
    plan = "\n".join(r[0] for r in bare.fetchall())
    bare.execute("RESET enable_seqscan")
    assert "InitPlan" in plan
    assert "Index Cond: (organization_id = $0)" in plan


def test_parallel_workers_take_the_leaders_answer(bare):
    pid = bare.connection.get_backend_pid()
    for sql in ("SET parallel_setup_cost = 0", "SET parallel_tuple_cost = 0",
                "SET min_parallel_table_scan_size = 0",
                "SET force_parallel_mode = on"):
        bare.execute(sql)
    assert try_value(bare, forged(BETA, pid)) == ["plans of beta"]
    bare.execute("RESET ALL")


# Time passes, keys change.


def test_a_database_without_the_key_shows_nothing(signed, db):
    w = signed()
    db("TRUNCATE app_private.context_key")
    assert titles(w.wire("acme_app")) == []
    db.reset()
    assert titles(w.wire("acme_app")) == ["plans of acme"]


def test_keys_are_replaced_without_a_moment_of_refusal(signed, db):
    w = signed({"postgres main": {"pool_size": 2}}, workers=4)
    kept = w.wire("acme_app")
    kept.rows(pgwire.query("SET work_mem = '5MB'"))
    assert titles(kept) == titles(w.wire("acme_app")) == ["plans of acme"]

    db("SELECT app_private.set_context_key(%s)", [NEXT_KEY])
    db("SELECT app_private.set_context_key(%s)", [NEXT_KEY])    # changes nothing
    assert titles(kept) == titles(w.wire("acme_app")) == ["plans of acme"]
    w.reload({"context": {"key": NEXT_KEY, "previous_key": KEY}})
    late = w.wire("acme_app")

    def is_new():
        value = late.value("SELECT current_setting('app.weir_context')")
        pid, expiry = value.split(".")[3:5]
        assert titles(late) == ["plans of acme"]
        return value == forged(ACME, pid, expiry, key=NEXT_KEY)
    wait_for(is_new, 5, "weir does not sign with the new key")

    db("SELECT app_private.forget_previous_context_key()")
    w.reload({"context": {"previous_key": None}})
    for wire in (kept, late, w.wire("acme_app")):
        assert titles(wire) == ["plans of acme"]
    assert db("SELECT slot, convert_from(key, 'UTF8') FROM app_private.context_key") == \
        [("current", NEXT_KEY)]


def test_a_short_key_is_refused_by_the_database(db):
    for key in ("x" * 31, "", None):
        with pytest.raises(psycopg2.Error) as e:
            db("SELECT app_private.set_context_key(%s)", [key])
        assert e.value.pgcode == "22023"


def test_a_context_is_renewed_at_half_its_time_and_costs_nothing_before(signed):
    w = signed(ttl="4s")
    wire = w.wire("acme_app")
    first = wire.value("SELECT current_setting('app.weir_context')")
    binds = w.metric("binds_total")
    begun = time.monotonic()
    for _ in range(20):
        same = wire.value("SELECT current_setting('app.weir_context')") == first
        if time.monotonic() - begun > 1:        # of the 2 s, on a slow machine
            break
        assert same and w.metric("binds_total") == binds
    wait_for(lambda: wire.value("SELECT current_setting('app.weir_context')") != first, 5)
    assert w.metric("binds_total") == binds + 1


KEEPERS = {
    "by session pooling": ({"user acme_app": {"pool_mode": "session"}}, "SELECT 1"),
    "by a temporary table": ({}, "CREATE TEMPORARY TABLE own (x int)"),
}


@pytest.mark.parametrize("name, protocol", [
    ("by session pooling", "simple"), ("by session pooling", "extended"),
    ("by session pooling", "pipelined"), ("by a temporary table", "extended")])
def test_who_keeps_a_server_has_its_context_renewed(signed, name, protocol):
    changes, sql = KEEPERS[name]
    w = signed(changes, ttl="2s")
    wire = w.wire("acme_app")
    wire.rows(pgwire.query(sql))
    wire.run(pgwire.parse("SELECT title FROM documents", "kept"), pgwire.sync())
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        if protocol == "simple":
            sees(lambda: titles(wire), ["plans of acme"])
            time.sleep(0.1)
        elif protocol == "extended":
            sees(lambda: wire.rows(pgwire.bind(name="kept"), pgwire.execute(),
                                   pgwire.sync()), [["plans of acme"]])
            time.sleep(0.4)
        else:
            # Never at rest by itself: the next is sent before the last is answered.
            begun = time.monotonic()
            wire.send(*[pgwire.bind(name="kept") + pgwire.execute() + pgwire.sync()
                        for _ in range(20)])
            for _ in range(20):
                sees(lambda: pgwire.rows(wire.until()), [["plans of acme"]], begun)
    if protocol != "simple":
        return
    wire.rows(pgwire.query("BEGIN"))
    sees(lambda: titles(wire), ["plans of acme"])
    wire.rows(pgwire.query("SELECT pg_sleep(2.1)"))
    assert titles(wire) == ["plans of acme"]
    wire.rows(pgwire.query("COMMIT"))
    sees(lambda: titles(wire), ["plans of acme"])


def test_a_client_that_never_pauses_has_its_context_renewed(signed):
    """There is always a request behind the one that is answered."""
    wire = signed(ttl="2s").wire("acme_app")
    one = pgwire.extended("SELECT title, current_setting('app.weir_context') FROM documents")
    wire.send(one, one)
    begun, seen = time.monotonic(), set()
    sent = [begun, begun]
    while len(seen) < 3:
        assert time.monotonic() < begun + scaled(60), "not renewed"
        wire.send(one)
        sent.append(time.monotonic())
        rows = pgwire.rows(wire.until())
        sees(lambda: [row[0] for row in rows], ["plans of acme"], sent.pop(0))
        seen.update(row[1] for row in rows)
    wire.until(count=2)


@pytest.mark.parametrize("workers", [1, 4])
def test_no_request_fails_by_expiry_under_load(signed, workers):
    """More clients than servers, so that servers move between the workers."""
    w = signed({"postgres main": {"pool_size": 3}}, workers, ttl="2s")
    end, wrong, done = time.monotonic() + 3, [], []

    def client(n):
        user = ("acme_app", "beta_app")[n % 2]
        want = [["plans of " + user[:4]]]
        wire = w.wire(user)
        m = 0
        try:
            while time.monotonic() < end:
                m += 1
                sql, begun = "SELECT title FROM documents", time.monotonic()
                if m % 7 == 0:
                    wire.rows(pgwire.query("BEGIN"))
                got = wire.rows(pgwire.extended(sql) if m % 2 else pgwire.query(sql))
                if m % 7 == 0:
                    wire.rows(pgwire.query("COMMIT"))
                if got != want and time.monotonic() - begun < 0.7:
                    wrong.append((user, m, got))
                if n % 4 == 0:
                    time.sleep(0.05 * (n % 3))
        except Exception as e:
            wrong.append((user, m, e))
        done.append(m)
    clients = [threading.Thread(target=client, args=[n], daemon=True) for n in range(12)]
    for c in clients:
        c.start()
    for c in clients:
        c.join(scaled(30))
    assert not wrong
    assert len(done) == 12 and sum(done) > 50


def test_a_context_that_is_switched_on_is_there_for_the_next_client(signed, weir):
    w = weir({"postgres main": {"pool_size": 1}, "database *": {"dbname": DATABASE}})
    assert titles(w.wire("acme_app")) == []
    w.reload({"context": {"key": KEY}})
    wait_for(lambda: titles(w.wire("acme_app")) == ["plans of acme"], 5)
    w.reload({"context": None})
    wait_for(lambda: titles(w.wire("acme_app")) == [], 5)


def test_it_comes_back_when_a_client_resets_everything(signed):
    wire = signed().wire("acme_app")
    for sql in ("RESET ALL", "DISCARD ALL"):
        wire.rows(pgwire.query(sql))
        assert titles(wire) == ["plans of acme"]


# A service user chooses another organization.

SVC = {"user svc": {"auth": "trust", "organizations": "*"}}
HOW = {"by its name": lambda slug, local: "SET %s weir.organization = %s"
       % (("SESSION", "LOCAL")[local], slug),
       "by the variable": lambda slug, local: "SELECT set_config('app.current_organization_id',"
       " '%s', %s)" % (ORGANIZATIONS[slug], ("false", "true")[local])}


def chosen(signed, workers=1, **context):
    wire = signed(SVC, workers, **context).wire(login=False)
    wire.login("svc", DATABASE)
    return wire


def subject(wire):
    """Whom the context on the server is of, for as long as it is good."""
    (value, backend), = wire.rows(pgwire.query(
        "SELECT current_setting('app.weir_context'), pg_backend_pid()"))
    if value == "":
        return None
    _, organization, user, pid, expiry, _ = value.split(".")
    assert bytes.fromhex(user) == b"svc" and pid == backend
    assert value == forged(bytes.fromhex(organization).decode(), pid, expiry, user="svc")
    return {i: slug for slug, i in ORGANIZATIONS.items()}[bytes.fromhex(organization).decode()]


def owner(wire):
    """The organization whose rows are seen; its context must be the one there is."""
    found = titles(wire)
    slug = found[0].replace("plans of ", "") if found else None
    assert len(found) <= 1 and subject(wire) == slug
    return slug


@pytest.mark.parametrize("how", HOW)
def test_who_chooses_an_organization_has_its_context(signed, how):
    svc = chosen(signed)
    assert owner(svc) is None
    for slug in ("acme", "beta", "acme"):
        svc.rows(pgwire.query(HOW[how](slug, False)))
        assert owner(svc) == slug
    svc.rows(pgwire.query("RESET ALL"))
    assert owner(svc) is None


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_so_has_who_chooses_one_in_the_middle_of_a_transaction(signed, how, local, end):
    svc = chosen(signed)
    svc.rows(pgwire.query(HOW[how]("beta", False)))
    for first in ("BEGIN", "BEGIN; SELECT 1"):      # which is answered here, or there
        svc.run(pgwire.query(first))
        assert owner(svc) == "beta"
        svc.rows(pgwire.query(HOW[how]("acme", local)))
        assert owner(svc) == "acme"
        svc.rows(pgwire.query("INSERT INTO crdt_operations (document_id)"
                              " VALUES ('aaaaaaaa-0000-4000-8000-00000000000d')"))
        svc.rows(pgwire.query(end))
        stays = end == "COMMIT" and not local
        assert owner(svc) == ("acme" if stays else "beta")
        svc.rows(pgwire.query(HOW[how]("beta", False)))


def test_so_has_who_takes_its_choice_back(signed):
    svc = chosen(signed)
    svc.rows(pgwire.query("SET weir.organization = beta"))
    svc.rows(pgwire.query("BEGIN"))
    assert owner(svc) == "beta"
    svc.rows(pgwire.query("SAVEPOINT here"))
    svc.rows(pgwire.query("SET LOCAL weir.organization = acme"))
    assert owner(svc) == "acme"
    svc.rows(pgwire.query("ROLLBACK TO here"))
    assert owner(svc) == "beta"
    svc.rows(pgwire.query("COMMIT"))
    assert owner(svc) == "beta"


def test_who_chooses_none_in_a_transaction_has_no_context(signed):
    svc = chosen(signed)
    svc.rows(pgwire.query("SET weir.organization = beta"))
    svc.rows(pgwire.query("BEGIN"))
    assert owner(svc) == "beta"
    svc.rows(pgwire.query("SET LOCAL weir.organization = ''"))
    assert owner(svc) is None
    svc.rows(pgwire.query("COMMIT"))
    assert owner(svc) == "beta"


def test_what_was_chosen_in_a_transaction_does_not_make_the_rest_expire(signed):
    """Its own signature is younger than the one that comes back."""
    w = signed(dict(SVC, **{"postgres main": {"pool_size": 2}}), ttl="4s")
    clients = [w.wire(login=False) for _ in range(2)]
    for svc in clients:
        svc.login("svc", DATABASE)
        svc.rows(pgwire.query("SET weir.organization = beta"))
    clients[0].rows(pgwire.query("CREATE TEMPORARY TABLE own (x int)"))   # it keeps its server
    end, seen = time.monotonic() + 4.5, set()
    while time.monotonic() < end:
        for svc in clients:
            svc.rows(pgwire.query("BEGIN"))
            assert owner(svc) == "beta"
            seen.add((svc, svc.value("SELECT current_setting('app.weir_context')")))
            svc.rows(pgwire.query("SET LOCAL weir.organization = acme"))
            assert owner(svc) == "acme"
            svc.rows(pgwire.query("COMMIT"))
            assert owner(svc) == "beta"
        time.sleep(0.05)
    assert len(seen) >= 4       # each of both has been renewed


@pytest.mark.parametrize("workers", [1, 4])
def test_clients_that_choose_at_once_have_each_the_context_of_its_choice(signed, workers):
    w = signed(dict(SVC, **{"postgres main": {"pool_size": 2}}), workers, ttl="6s")
    wrong = []

    def client(n):
        wire = w.wire(login=False)
        wire.login("svc", DATABASE)
        try:
            for m in range(25):
                slug, other = ("acme", "beta") if (m + n) % 2 else ("beta", "acme")
                wire.rows(pgwire.query("SET weir.organization = " + slug))
                wire.rows(pgwire.query("BEGIN"))
                if m % 3:
                    assert owner(wire) == slug
                wire.rows(pgwire.query("SET LOCAL weir.organization = " + other))
                assert owner(wire) == other
                wire.rows(pgwire.query("ROLLBACK" if m % 2 else "COMMIT"))
                assert owner(wire) == slug
        except BaseException as e:
            wrong.append(e)
    clients = [threading.Thread(target=client, args=[n], daemon=True) for n in range(6)]
    for c in clients:
        c.start()
    for c in clients:
        c.join(scaled(60))
        assert not c.is_alive()
    assert not wrong, wrong[0]


@pytest.mark.parametrize("sql", ["SET app.weir_context = '%s'",
                                 "SELECT set_config('app.weir_context', '%s', false)"])
def test_who_has_no_organization_is_signed_none_that_it_names(signed, sql):
    """It may set the setting, but what it says there weir does not sign."""
    w = signed({"postgres main": {"pool_size": 2},      # it may keep one
                "weir": {"track_settings": "on"}})
    wire, other = w.wire("plain_app"), w.wire("beta_app")
    said = "weir1." + ACME.encode().hex() + "." + b"acme_app".hex()
    wire.run(pgwire.query(sql % said))
    for _ in range(5):
        assert titles(other) == ["plans of beta"]   # the next bind puts it all
        assert titles(wire) == []
        assert wire.value("SELECT current_setting('app.weir_context')") in ("", said)
