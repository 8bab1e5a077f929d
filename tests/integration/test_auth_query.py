"""Users whose secrets are in a database.

Goal: who has the password there gets in, who has not does not, whatever stands
there; nothing a stranger says reaches the connection that asks; and when that
database cannot be asked, the answer is an error, soon, and never a log-in.
Method: pg_authid itself, and a table with a function that counts how often it
was asked and waits when told to; a relay that breaks the line to it.
"""
import contextlib
import hashlib
import signal
import threading
import time

import psycopg2
import pytest

import pgwire
from servers import DATABASE, scaled, wait_for
from test_passthrough import verifier

pytestmark = pytest.mark.weir_only

PASSWORD = "what stands in the database, in one form or another"
ASKER, ASKER_PASSWORD = "weir_asker", "asker-secret"

SCHEMA = """
CREATE ROLE weir_asker SUPERUSER LOGIN PASSWORD 'asker-secret';
CREATE SCHEMA lookup;
CREATE TABLE lookup.users (name text, secret text);
CREATE TABLE lookup.asked (name text, said text);
-- Whoever holds lock 77 makes it wait.
CREATE FUNCTION lookup.secret_of(text) RETURNS TABLE (name text, secret text)
LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO lookup.asked VALUES ($1, current_setting('application_name'));
    PERFORM pg_advisory_xact_lock(77);
    RETURN QUERY SELECT u.name, u.secret FROM lookup.users u
                 WHERE u.name = $1 OR u.name = 'as ' || $1;
END $$;
"""


def md5(password, user):
    return "md5" + hashlib.md5((password + user).encode()).hexdigest()


@pytest.fixture(scope="module")
def source(pg):
    pg.run(SCHEMA)
    yield pg
    pg.run("DROP SCHEMA lookup CASCADE")


@pytest.fixture
def users(source):
    """users(name=secret, ...): they stand in the table, alone."""
    def put(**secrets):
        source.run("DELETE FROM lookup.users; DELETE FROM lookup.asked")
        for name, secret in secrets.items():
            source.run("INSERT INTO lookup.users VALUES (%s, %s)", [name, secret])
    put()
    return put


@pytest.fixture
def roles(pg):
    """roles(NAME="LOGIN PASSWORD ..."): made, and gone after the test."""
    made = []

    def make(**options):
        for name, text in options.items():
            pg.run("CREATE ROLE %s %s" % (name, text))
            made.append(name)
    yield make
    for name in made:
        pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
               "WHERE usename = %s", [name])
        pg.run("DROP ROLE IF EXISTS " + name)


def config(pg, auth=None, weir=None, upstream=None, source=None, **users):
    return {"weir": weir or {},
            "postgres main": upstream or {},
            "postgres source": {"host": "127.0.0.1", "port": pg.port, "user": ASKER,
                                "password": ASKER_PASSWORD, "dbname": DATABASE,
                                "sslmode": "disable", **(source or {})},
            "auth": {"auth_postgres": "source", **(auth or {})},
            **{"user " + name: keys for name, keys in users.items()}}


TABLE = {"auth_query": "SELECT name, secret FROM lookup.secret_of($1)"}
OWN = {"user": None, "password": None}      # upstream: as the client itself


def enter(w, user, password=PASSWORD, **more):
    wire = w.wire(user, login=False, **more)
    wire.login(user, DATABASE, password)
    return wire


def refused(w, user, password=PASSWORD, **options):
    """The SQLSTATE that a log-in ends with."""
    wire = w.wire(user, login=False)
    with pytest.raises(pgwire.Failed) as e:
        wire.login(user, DATABASE, password, **options)
    return e.value.code


def logs_in(w, user, password=PASSWORD):
    try:
        return enter(w, user, password).value("SELECT 'in'") == "in"
    except pgwire.Failed:
        return False


def libpq(w, user, password=PASSWORD, **more):
    c = psycopg2.connect(**w.dsn(user, **dict(more, password=password)))
    with contextlib.closing(c), c.cursor() as cur:
        cur.execute("SELECT current_user")
        return cur.fetchone()[0]


def asked(pg, name=None):
    """How often the table was asked, for that name."""
    return pg.run("SELECT count(*) FROM lookup.asked WHERE name = coalesce(%s, name)",
                  [name])[0][0]


@contextlib.contextmanager
def held(pg):
    """No look-up ends while this is open."""
    with contextlib.closing(pg.connect()) as db:
        db.cursor().execute("SELECT pg_advisory_lock(77)")
        yield


def in_background(work, n=1):
    """Threads that do it, and the list their results go to."""
    results, threads = [], []
    for _ in range(n):
        threads.append(threading.Thread(
            target=lambda: results.append(outcome(work)), daemon=True))
        threads[-1].start()
    return threads, results


def outcome(work):
    try:
        return work()
    except Exception as e:      # noqa: BLE001
        return e


def joined(threads):
    for t in threads:
        t.join(scaled(30))
        assert not t.is_alive()


# Who gets in.


def test_every_form_of_secret_logs_in(weir, source, users):
    users(scram=verifier(PASSWORD), plain=PASSWORD, digest=md5(PASSWORD, "digest"),
          long=verifier(PASSWORD, bytes(range(100)), 10000))
    w = weir(config(source, TABLE), 2)
    for user in ("scram", "plain", "digest", "long"):
        for _ in range(2):
            libpq(w, user)
        for wrong in ("wrong", PASSWORD + " ", md5(PASSWORD, user), verifier(PASSWORD)):
            with pytest.raises(psycopg2.OperationalError) as e:
                libpq(w, user, wrong)
            assert "password authentication failed" in str(e.value)
    assert asked(source) == 4
    assert source.run("SELECT DISTINCT said FROM lookup.asked") == [("weir",)]


def test_pg_authid_is_asked_by_default(weir, source, roles):
    """Who could not log in there cannot log in here either (CVE-2025-2291)."""
    good = "PASSWORD '%s' " % verifier(PASSWORD)
    roles(aq_user="LOGIN " + good, aq_future="LOGIN VALID UNTIL 'tomorrow' " + good,
          aq_always="LOGIN VALID UNTIL 'infinity' " + good,
          aq_past="LOGIN VALID UNTIL 'yesterday' " + good, aq_group="NOLOGIN " + good,
          aq_none="LOGIN", aq_md5="LOGIN PASSWORD '%s'" % md5(PASSWORD, "aq_md5"))
    w = weir(config(source), 2)
    for user in ("aq_user", "aq_future", "aq_always", "aq_md5"):
        assert logs_in(w, user) if user != "aq_md5" else libpq(w, user)
        if user != "aq_md5":
            assert refused(w, user, "wrong") == "28P01"
    for user in ("aq_past", "aq_group", "aq_none", "aq_nobody"):
        assert refused(w, user) == "28P01"
        assert refused(w, user, "") == "28P01"


def test_nobody_is_taken_for_the_one_who_asks(weir, source):
    """CVE-2015-6817: whoever is unknown was logged in as the asking user."""
    w = weir(config(source, upstream=OWN), 2)
    for user in ("nobody", "x" * 63, "x" * 64, "x" * 500, "no'body", 'no"body', "a\\b",
                 "r\u00f6le", "%s", "$1", "postgres"):
        assert refused(w, user, ASKER_PASSWORD) == "28P01", user
    wire = w.wire(login=False)
    wire.send(pgwire.startup("x", DATABASE).replace(b"user\0x\0", b"user\0\xff\0"))
    assert wire.message()[1][:4] == b"\0\0\0\x0a"       # SCRAM, as for anybody


def test_strangers_and_users_are_asked_alike(weir, source, users):
    users(known=verifier(PASSWORD))
    w = weir(config(source, TABLE), 2)

    def exchange(user):
        wire = w.wire(login=False)
        wire.send(pgwire.startup(user, DATABASE))
        first = wire.message()
        wire.nonce = "n" * 24
        text = b"n,,n=,r=" + wire.nonce.encode()
        wire.send(pgwire.message("p", b"SCRAM-SHA-256\0", len(text).to_bytes(4, "big"), text))
        kind, body = wire.message()
        fields = dict(p.split(b"=", 1) for p in body[4:].split(b","))
        wire.send(pgwire.message("p", pgwire.scram_final(
            body[4:].decode(), wire.nonce, "wrong").encode()))
        error = pgwire.error(wire.message()[1])
        return first, kind, len(fields[b"s"]), fields[b"i"], fields[b"s"], error

    known, one, again = exchange("known"), exchange("stranger"), exchange("stranger")
    assert known[:4] == one[:4] and known[5]["C"] == one[5]["C"] == "28P01"
    assert known[5]["M"].replace("known", "") == one[5]["M"].replace("stranger", "")
    assert one[4] == again[4]       # the salt of a name is always the same


def test_a_wrong_row_lets_nobody_in(weir, source, users):
    """Two rows, or another's, are a mistake in the query: it is logged."""
    secret = verifier(PASSWORD)
    users(twice=secret, other=secret)
    source.run("INSERT INTO lookup.users VALUES ('twice', %s), ('as alias', %s), (NULL, %s)",
               [secret] * 3)
    w = weir(config(source, TABLE), 2)
    assert refused(w, "twice") == "28P01"
    assert refused(w, "alias") == "28P01"
    for text in ("more than one row", "another name"):
        wait_for(lambda: any(text in e["error"] for e in w.events("auth-query")), what=text)
    assert logs_in(w, "other")


@pytest.mark.parametrize("query, why", [
    ("SELECT secret FROM lookup.users WHERE name = $1", "one column"),
    ("SELECT 1/0 FROM lookup.users WHERE name = $1", "division by zero"),
    ("SELECT name, secret FROM lookup.absent WHERE name = $1", "does not exist"),
    ("COPY (SELECT 1) TO STDOUT -- $1", ""),
    ("SELECT name, repeat('x', 2000000) FROM lookup.users WHERE name = $1", ""),
])
def test_a_query_that_fails_lets_nobody_in(weir, source, users, query, why):
    users(known=verifier(PASSWORD))
    w = weir(config(source, {"auth_query": query}))
    for _ in range(2):
        assert refused(w, "known") in ("08006", "28P01")
    assert why in w.event("auth-query")[0]["error"]
    assert PASSWORD not in "\n".join(w.log()) and "SCRAM-SHA" not in "\n".join(w.log())


def test_nothing_of_the_startup_packet_reaches_the_query(weir, source, users):
    """CVE-2025-12819: a search_path of a stranger's own let it in."""
    source.run("""
        CREATE TABLE IF NOT EXISTS public.aq_users (name text, secret text);
        CREATE SCHEMA IF NOT EXISTS evil;
        CREATE TABLE IF NOT EXISTS evil.aq_users AS SELECT 'victim'::text AS name,
            'the password of the attacker'::text AS secret;
        TRUNCATE public.aq_users; INSERT INTO public.aq_users VALUES ('victim', '%s');
        """ % PASSWORD)
    w = weir(config(source, {"auth_query": "SELECT name, secret FROM aq_users WHERE name = $1",
                             "auth_query_ttl": "0"}), 2)
    for options in ({"search_path": "evil"}, {"options": "-c search_path=evil"},
                    {"role": "postgres"}, {"application_name": "evil"}):
        assert refused(w, "victim", "the password of the attacker", **options) == "28P01"
    assert logs_in(w, "victim")
    source.run("DROP SCHEMA evil CASCADE; DROP TABLE public.aq_users")


def test_a_section_says_how_and_the_database_says_what(weir, source, users):
    users(by_md5=PASSWORD, by_plain=PASSWORD, digest=md5(PASSWORD, "digest"),
          scram=verifier(PASSWORD))
    w = weir(config(source, TABLE, by_md5={"auth": "md5", "organization": "acme"},
                    by_plain={"auth": "plain"}, digest={"auth": "scram-sha-256"},
                    scram={"auth": "md5"}), 2)
    libpq(w, "by_md5")
    libpq(w, "by_plain", sslmode="require")
    with pytest.raises(psycopg2.OperationalError):
        libpq(w, "by_plain")            # not in clear
    assert logs_in(w, "scram")          # a verifier is good for SCRAM alone
    assert refused(w, "digest") == "28P01"
    wire = w.wire(login=False)
    wire.send(pgwire.startup("by_md5", DATABASE))
    assert wire.message()[1][:4] == b"\0\0\0\5"
    assert w.wire("acme_app").value("SELECT 1") == "1"      # the configured ones
    assert asked(source, "acme_app") == 0


def test_a_client_found_in_the_database_logs_in_upstream_as_itself(
        weir, workers, source, roles):
    """With its own keys, or by the password or hash that stands there."""
    roles(aq_own="LOGIN PASSWORD '%s'" % verifier(PASSWORD, b"any salt at all"))
    w = weir(config(source, upstream=OWN), workers)
    assert libpq(w, "aq_own") == "aq_own"
    source.run("ALTER ROLE aq_own PASSWORD '%s'" % verifier("changed", b"another salt"))
    w.hang_up()
    w.reload()
    wait_for(lambda: logs_in(w, "aq_own", "changed"), 5, "the changed password")
    assert refused(w, "aq_own") == "28P01"


def test_a_plain_secret_of_the_database_logs_in_upstream(weir, source, users, roles):
    roles(aq_plain="LOGIN PASSWORD '%s'" % verifier(PASSWORD))
    users(aq_plain=PASSWORD)
    w = weir(config(source, TABLE, upstream=OWN), 2)
    assert libpq(w, "aq_plain") == "aq_plain"


# How long it is good, and who asks.


def test_answers_are_good_for_their_time_and_no_longer(weir, source, users):
    users(known=verifier(PASSWORD))
    w = weir(config(source, {**TABLE, "auth_query_ttl": "2s",
                             "auth_query_negative_ttl": "2s"}), 2)
    began = time.monotonic()
    assert logs_in(w, "known") and logs_in(w, "known")
    assert refused(w, "later") == refused(w, "later") == "28P01"
    if time.monotonic() - began < 1.5:
        assert asked(source, "known") == asked(source, "later") == 1
    source.run("DELETE FROM lookup.users; INSERT INTO lookup.users VALUES ('later', %s)",
               [PASSWORD])
    wait_for(lambda: not logs_in(w, "known"), 5, "a user that is gone still gets in")
    wait_for(lambda: logs_in(w, "later"), 5, "a new user never gets in")


def test_many_at_once_cost_one_look_up_a_name(weir, workers, source, users):
    users(one=verifier(PASSWORD, rounds=1), two=verifier(PASSWORD, rounds=1))
    w = weir(config(source, TABLE), workers)
    with held(source):
        threads, results = in_background(lambda: logs_in(w, "one"), 120)
        more, other = in_background(lambda: logs_in(w, "two"), 80)
        wait_for(lambda: w.metric("clients", "postgres") == 200 and asked_now(source) == 2,
                 20, "200 clients and two questions")
    joined(threads + more)
    assert results == [True] * 120 and other == [True] * 80
    assert asked(source, "one") == asked(source, "two") == 1
    assert len(source.run("SELECT pid FROM pg_stat_activity WHERE usename = %s", [ASKER])) <= 2


def asked_now(pg):
    """Questions under way: what they write is not committed yet."""
    return pg.run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
                  "AND objid = 77 AND NOT granted")[0][0]


def test_invented_names_drive_nobody_out(weir, source, users):
    users(known=verifier(PASSWORD, rounds=1))
    w = weir(config(source, TABLE))
    assert logs_in(w, "known")
    for i in range(30):
        wire = w.wire(login=False)
        wire.send(pgwire.startup("invented_%d" % i, DATABASE))
        wire.message()
        wire.close()
    assert logs_in(w, "known")
    assert asked(source, "known") == 1 and asked(source) == 31


# When the database cannot be asked.


def test_a_source_that_is_down_is_an_error_and_then_it_is_back(
        weir, source, users, relay):
    users(known=verifier(PASSWORD))
    line = relay(source.port)
    line.stop()
    w = weir(config(source, {**TABLE, "auth_query_ttl": "1s"}, source={"port": line.port}),
             2)
    for _ in range(3):
        began = time.monotonic()
        assert refused(w, "known") == "08006"
        assert time.monotonic() - began < scaled(15)
    assert len(w.event("upstream-down")) == 1
    assert w.wire("acme_app").value("SELECT 1") == "1"      # the others see nothing of it
    line.start()
    wait_for(lambda: logs_in(w, "known"), 10, "it is back, and nobody gets in")
    line.stop()
    # What is known counts for its time, and then no longer.
    wait_for(lambda: refused_or_in(w, "known") == "08006", 10, "known for ever")
    line.start()
    wait_for(lambda: logs_in(w, "known"), 10, "it is back again")


def refused_or_in(w, user):
    try:
        return enter(w, user) and "in"
    except pgwire.Failed as e:
        return e.code


def test_a_connection_cut_while_idle_is_replaced(weir, source, users, relay):
    users(one=PASSWORD, two=PASSWORD)
    line = relay(source.port)
    w = weir(config(source, TABLE, source={"port": line.port}), 2)
    assert logs_in(w, "one")
    line.cut()
    assert logs_in(w, "two")


def test_a_connection_lost_while_it_is_asked_is_an_error(weir, source, users, relay):
    users(known=PASSWORD)
    line = relay(source.port)
    w = weir(config(source, TABLE, source={"port": line.port}), 2)
    with held(source):
        threads, results = in_background(lambda: refused_or_in(w, "known"), 3)
        wait_for(lambda: asked_now(source) == 1, 10, "no question")
        source.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                   "WHERE usename = %s", [ASKER])
        joined(threads)
    assert results == ["08006"] * 3
    assert logs_in(w, "known")


def test_a_source_that_says_nothing_is_an_error_in_time(weir, source, users, relay):
    """Before the client's own time is over: it hears what is wrong."""
    users(known=PASSWORD)
    line = relay(source.port)
    line.stalled = True
    w = weir(config(source, TABLE, {"client_login_timeout": "4s"},
                    source={"port": line.port}), 2)
    began = time.monotonic()
    assert refused(w, "known") == "08006"       # and not that its time is over
    assert 2 < time.monotonic() - began
    line.stalled = False
    line.cut()
    wait_for(lambda: logs_in(w, "known"), scaled(10), "never again")


def test_a_query_that_takes_too_long_is_an_error_in_time(weir, source, users):
    users(known=PASSWORD)
    w = weir(config(source, TABLE, {"client_login_timeout": "2s"}))
    with held(source):
        assert refused(w, "known") == "08006"
    assert logs_in(w, "known")


# What happens meanwhile.


def test_a_client_may_leave_while_it_is_looked_up(weir, workers, source, users):
    users(known=verifier(PASSWORD))
    w = weir(config(source, TABLE), workers)
    with held(source):
        for _ in range(20):
            wire = w.wire(login=False)
            wire.send(pgwire.startup("known", DATABASE))
        wait_for(lambda: asked_now(source) == 1, 10, "no question")
        w.hang_up()
        w.settled()
    assert logs_in(w, "known")
    assert asked(source, "known") == 1


def test_a_reload_while_somebody_is_looked_up_asks_again(weir, workers, source, users):
    """By the query that is configured now; the old answer does not count."""
    users(known="the old query says so")
    w = weir(config(source, TABLE), workers)
    with held(source):
        threads, results = in_background(lambda: refused_or_in(w, "known"), 5)
        wait_for(lambda: asked_now(source) == 1 and w.metric("clients", "postgres") == 5,
                 10, "no question")
        w.reload({"auth": {"auth_query": "SELECT $1::text, '%s'" % PASSWORD}})
        joined(threads)
    assert results == ["in"] * 5
    assert refused(w, "known", "the old query says so") == "28P01"
    assert logs_in(w, "anybody")
    # Without the section nobody is asked any more, once all workers know it.
    w.reload(config={k: v for k, v in w.config.items() if k != "auth"})
    wait_for(lambda: refused(w, "anybody") == "28P01", 5, "still looked up")
    assert w.wire("acme_app").value("SELECT 1") == "1"


def test_reloads_under_a_storm_of_log_ins(weir, workers, source, users):
    users(one=verifier(PASSWORD, rounds=1), two=PASSWORD, three=md5(PASSWORD, "three"))
    w = weir(config(source, {**TABLE, "auth_query_ttl": "100ms"}), workers)
    stop = threading.Event()

    def storm():
        while not stop.is_set():
            assert logs_in(w, "one") and logs_in(w, "two")
            assert refused(w, "nobody") == "28P01"
            libpq(w, "three")
        return "done"
    threads, results = in_background(storm, 4)
    for i in range(6):
        w.reload({"auth": {"auth_query_negative_ttl": "%dms" % (i + 1)}})
    stop.set()
    joined(threads)
    assert results == ["done"] * 4


def test_an_end_while_somebody_is_looked_up_is_an_end(weir, workers, source, users):
    users(known=PASSWORD)
    w = weir(config(source, TABLE), workers)
    with held(source):
        threads, results = in_background(lambda: outcome(lambda: enter(w, "known")), 3)
        wait_for(lambda: asked_now(source) == 1, 10, "no question")
        began = time.monotonic()
        w.over = True
        w.signal(signal.SIGTERM)
        assert w.wait(10) == 0
        assert time.monotonic() - began < scaled(9)
        joined(threads)
    assert all(isinstance(r, Exception) for r in results)
