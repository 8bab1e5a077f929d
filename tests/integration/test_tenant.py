"""
Goal:   two organizations share three server connections and never see each
        other: not a row, not a reply, not a setting, not a lock.
Method: 40 clients, half of each organization, ten of each of four drivers, run
        10 000 transactions that interleave on a table with FORCE row level
        security, through an upstream role that is neither superuser nor owner
        nor BYPASSRLS.  Each row that comes back is checked for its owner, each
        reply for its asker, and in the end the table itself for what was
        acknowledged.  Then, one by one, every kind of session state one
        organization could leave behind on a server.
"""
import asyncio
import collections
import random
import re
import socket
import threading

import pytest

import pgwire
from servers import (DATABASE, ORGANIZATIONS, UPSTREAM_USER, USERS,
                     scaled, wait_for)

CLIENTS = 40
TRANSACTIONS = 10_000       # over TLS, or with one worker, a quarter of it
SERVERS = 3

CONFIG = {"postgres main": {"pool_size": SERVERS}}


# Four drivers with one face: run("... $1 ...", [args]) -> rows as text.


class Wire:
    """Our own: simple and extended protocol in turn, unnamed statements."""
    error = pgwire.Failed

    def __init__(self, weir, user, tls):
        self.wire, self.n = weir.wire(user, tls=tls), 0

    def run(self, sql, args=()):
        self.n += 1
        if self.n % 2 or args:
            return self.wire.rows(pgwire.extended(sql, args))
        return self.wire.rows(pgwire.query(sql))


class Psycopg2:
    """The simple protocol, with the arguments in the text."""

    def __init__(self, weir, user, tls):
        import psycopg2
        self.error = psycopg2.Error
        self.db = weir.psycopg2(user, sslmode="verify-full" if tls else "disable")

    def run(self, sql, args=()):
        with self.db.cursor() as cur:
            cur.execute(re.sub(r"\$\d", "%s", sql), args)
            return as_text(cur.fetchall() if cur.description else [])


class Psycopg3:
    """The extended protocol; named statements after the second use."""

    def __init__(self, weir, user, tls):
        import psycopg
        self.error = psycopg.Error
        self.db = weir.psycopg3(user, sslmode="verify-full" if tls else "disable",
                                prepare_threshold=2)

    def run(self, sql, args=()):
        cur = self.db.execute(re.sub(r"\$\d", "%s", sql), args)
        return as_text(cur.fetchall() if cur.description else [])


class Asyncpg:
    """Named statements from the first use, Parse and Bind in two round trips."""

    def __init__(self, weir, user, tls):
        import asyncpg
        self.error = asyncpg.PostgresError
        self.loop = asyncio.new_event_loop()
        self.db = self.wait(asyncpg.connect(
            host="localhost", port=weir.pg_port, user=user,
            password=USERS[user][1], database=DATABASE,
            ssl=weir.tls_context() if tls else False, timeout=scaled(20)))

    def wait(self, what):
        return self.loop.run_until_complete(what)

    def run(self, sql, args=()):
        # It has no rows for the simple protocol, which execute() uses.
        if sql in ("BEGIN", "COMMIT", "ROLLBACK"):
            return self.wait(self.db.execute(sql)) and []
        return as_text(self.wait(self.db.fetch(sql, *args)))

    def close(self):
        self.wait(self.db.close())
        self.loop.close()


def as_text(table):
    return [[None if c is None else str(c) for c in r] for r in table]


DRIVERS = [Wire, Psycopg2, Psycopg3, Asyncpg]


class Client(threading.Thread):
    """One client of one organization; `wrong` says what it should not have seen."""

    def __init__(self, weir, n, pids, tls, turns):
        super().__init__(daemon=True)
        self.turns = turns
        self.user = ("acme_app", "beta_app")[n % 2]
        self.org = ORGANIZATIONS[USERS[self.user][0]]
        self.name = "%s-%d" % (self.user, n)
        self.random = random.Random(n)
        self.pids, self.committed, self.wrong = pids, [], []
        self.db = DRIVERS[n // 2 % len(DRIVERS)](weir, self.user, tls)

    def run(self):
        kinds = [self.autocommit, self.transaction, self.rollback, self.mistake,
                 self.mistake_in_a_transaction]
        try:
            for n in range(self.turns):
                self.random.choice(kinds)("%s/%d" % (self.name, n))
            if hasattr(self.db, "close"):
                self.db.close()
        except Exception as e:
            self.wrong.append("%s: %s" % (type(e).__name__, e))

    # The five kinds of transaction.

    def autocommit(self, token):
        self.write(token)
        self.committed.append(token)

    def transaction(self, token):
        self.db.run("BEGIN")
        self.write(token)
        self.read(token)
        self.db.run("COMMIT")
        self.committed.append(token)

    def rollback(self, token):
        self.db.run("BEGIN")
        self.write(token)
        self.db.run("ROLLBACK")

    def mistake(self, token):
        self.must_fail("SELECT 1 / 0")
        self.read(token)

    def mistake_in_a_transaction(self, token):
        self.db.run("BEGIN")
        self.write(token)
        self.must_fail("SELECT no_such_column FROM notes")
        self.must_fail("SELECT 1")      # the transaction is aborted
        self.db.run("ROLLBACK")
        self.read(token)

    # What each is made of.

    def write(self, token):
        got = self.db.run("INSERT INTO notes (author, body) VALUES ($1, $2)"
                          " RETURNING organization_id, body", [self.name, token])
        self.check(got == [[self.org, token]], "wrote", token, got)

    def read(self, token):
        """Anybody's latest rows: RLS alone decides which those are."""
        got = self.db.run(
            "SELECT organization_id, author, $1::text AS token, pg_backend_pid(),"
            " current_setting('app.current_organization_id')"
            " FROM notes ORDER BY id DESC LIMIT 5", [token])
        self.check(got, "read nothing", token, got)
        for org, author, mine, pid, setting in got:
            self.check(org == self.org and setting == self.org
                       and author.startswith(self.user) and mine == token,
                       "read", token, got)
            self.pids[pid].add(self.user)

    def must_fail(self, sql):
        try:
            got = self.db.run(sql)
        except self.db.error:
            return
        self.check(False, "no error", sql, got)

    def check(self, true, *what):
        if not true:
            self.wrong.append(what)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_ten_thousand_transactions_each_see_their_own_organization(
        proxy, pg, workers, tls):
    pg.run("TRUNCATE notes")
    pg.run("INSERT INTO notes (organization_id, author, body)"
           " SELECT i::uuid, u, 'first' FROM unnest(%s, %s) AS t(i, u)",
           [list(ORGANIZATIONS.values()), ["acme_app", "beta_app"]])
    pids = collections.defaultdict(set)
    turns = TRANSACTIONS // CLIENTS // (4 if tls or workers == 1 and not proxy.direct else 1)
    clients = [Client(proxy, n, pids, tls, turns) for n in range(CLIENTS)]
    most = 0
    for c in clients:
        c.start()
    while any(c.is_alive() for c in clients):
        most = max(most, len(pg.backends()))
        clients[most % CLIENTS].join(0.05)

    wrong = {c.name: c.wrong[:3] for c in clients if c.wrong}
    assert not wrong
    # What was acknowledged is there, what was rolled back is not.
    kept = pg.run("SELECT body FROM notes WHERE body <> 'first' ORDER BY body")
    assert [body for body, in kept] == sorted(t for c in clients for t in c.committed)
    assert pg.run("SELECT count(*) FROM notes WHERE organization_id <> CASE"
                  " WHEN author LIKE 'acme%%' THEN %s ELSE %s END::uuid",
                  list(ORGANIZATIONS.values())) == [(0,)]
    if not proxy.direct:
        # And it was a test of sharing: few servers, each with both on it.
        assert 1 <= most <= SERVERS
        assert len(pids) <= SERVERS
        assert all(users == {"acme_app", "beta_app"} for users in pids.values())
        assert proxy.metric("transactions_total") >= CLIENTS * turns


@pytest.mark.weir_only
def test_the_upstream_role_could_not_cheat(proxy, pg):
    assert pg.run("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = %s",
                  [UPSTREAM_USER]) == [(False, False)]
    assert pg.run("SELECT relforcerowsecurity, pg_get_userbyid(relowner) FROM pg_class"
                  " WHERE relname = 'notes'") == [(True, "postgres")]
    assert proxy.wire("acme_app").value("SELECT current_user") == UPSTREAM_USER


@pytest.mark.parametrize("user", ["plain_app", "open_app"])
def test_a_user_without_an_organization_sees_no_row(proxy, user):
    acme, nobody = proxy.wire("acme_app"), proxy.wire(user)
    for _ in range(5):      # on servers that have just been acme's
        acme.rows(pgwire.query("INSERT INTO notes (author, body) VALUES ('acme_app', '')"))
        assert int(acme.value("SELECT count(*) FROM notes")) > 0
        assert nobody.value("SELECT count(*) FROM notes") == "0"
        assert not nobody.value(
            "SELECT current_setting('app.current_organization_id', true)")
    with pytest.raises(pgwire.Failed) as e:
        nobody.rows(pgwire.query("INSERT INTO notes (author, body) VALUES ('x', 'x')"))
    assert e.value.code in ("42501", "23502")


def test_one_organization_cannot_write_rows_of_the_other(proxy):
    with pytest.raises(pgwire.Failed) as e:
        proxy.wire("acme_app").rows(pgwire.query(
            "INSERT INTO notes (organization_id, author, body) VALUES ('%s', 'x', 'x')"
            % ORGANIZATIONS["beta"]))
    assert e.value.code == "42501"


# Single statements, in every form, on one server that was acme's just before.

OWN = "SELECT own_organization()"
ALONE = {
    "query": lambda wire, sql: pgwire.query(sql),
    "unnamed": lambda wire, sql: pgwire.extended(sql),
    "of no description": lambda wire, sql: (
        pgwire.parse(sql) + pgwire.bind() + pgwire.execute() + pgwire.sync()),
    "parsed and named": lambda wire, sql: (
        pgwire.parse(sql, "n%d" % next(NAMES)) + pgwire.bind(name="n%d" % NAMES.last)
        + pgwire.execute() + pgwire.sync()),
    "prepared": lambda wire, sql: prepared(wire, sql)}


class Names:
    last = 0

    def __next__(self):
        self.last += 1
        return self.last


NAMES = Names()


def prepared(wire, sql):
    name = "n%d" % next(NAMES)
    wire.run(pgwire.parse(sql, name) + pgwire.sync())
    return pgwire.bind(name=name) + pgwire.execute() + pgwire.sync()


def settle(wire):
    """Its settings are the server's for good: it asks twice, and in a transaction."""
    for _ in range(2):
        wire.run(pgwire.query("BEGIN; SELECT 1; COMMIT"))


def several(wire, *requests):
    """All in one write: of each its first value, or its error."""
    wire.send(*requests)
    out = []
    for _ in requests:
        reply = wire.until("Z")
        got = [row[0] for row in pgwire.rows(reply)]
        out.append(([e["C"] for e in pgwire.errors(reply)] + got + [None])[0])
    return out


@pytest.mark.weir_only
@pytest.mark.parametrize("form", ALONE)
def test_what_is_asked_behind_a_statement_that_was_alone_is_in_its_own_organization(
        one_server, form):
    acme, beta = one_server.wire("acme_app"), one_server.wire("beta_app")
    id, query = ORGANIZATIONS["beta"], pgwire.query
    fails = "SELECT 1 / (count(*) - count(*)) FROM notes"
    writes = "INSERT INTO notes (author, body) VALUES ('b', '') RETURNING organization_id"
    for first, then, want in (
            (OWN, [], [id]),
            (OWN, [query(OWN)], [id, id]),
            (fails, [query(OWN)], ["22012", id]),
            (fails, [query("BEGIN"), query(OWN), query("ROLLBACK"), query(OWN)],
             ["22012", None, id, None, id]),
            (writes, [query(OWN)], [id, id]),
            (OWN, [query("SELECT 1; SELECT own_organization()")], [id, "1"])):
        request = ALONE[form](beta, first)
        settle(acme)
        before = one_server.metric("binds_total")
        assert several(beta, request, *then) == want
        assert one_server.metric("binds_total") > before
        assert acme.value(OWN) == ORGANIZATIONS["acme"]


@pytest.mark.weir_only
@pytest.mark.parametrize("body", [
    # "as who I am", as applications have it that knew no pooler
    "PERFORM set_config('app.current_organization_id', '%s', false)" % ORGANIZATIONS["beta"],
    # something done as nobody, and what was there put back
    "was := current_setting('app.current_organization_id');"
    " PERFORM set_config('app.current_organization_id', '', false);"
    " PERFORM set_config('app.current_organization_id', was, false)"])
@pytest.mark.parametrize("form", ["query", "unnamed"])
def test_what_a_function_sets_never_reaches_the_next_organization(one_server, pg, form, body):
    """The database's own, which sets for beta what is beta's: nothing is wrong with that."""
    pg.run("CREATE OR REPLACE FUNCTION as_before() RETURNS text LANGUAGE plpgsql AS $$"
           " DECLARE was text; BEGIN %s; RETURN 'x'; END $$" % body)
    try:
        acme, beta = one_server.wire("acme_app"), one_server.wire("beta_app")
        request = ALONE[form](beta, "SELECT as_before()")
        settle(acme)
        assert several(beta, request) == ["x"]
        assert acme.value(OWN) == ORGANIZATIONS["acme"]
        assert beta.value(OWN) == ORGANIZATIONS["beta"]
        assert acme.value(OWN) == ORGANIZATIONS["acme"]
    finally:
        pg.run("DROP FUNCTION as_before()")


@pytest.mark.weir_only
def test_a_name_that_is_taken_is_an_error_and_no_more(one_server):
    acme, beta = one_server.wire("acme_app"), one_server.wire("beta_app")
    beta.run(pgwire.parse("SET work_mem = '5MB'", "s") + pgwire.sync())
    settle(acme)
    reply = beta.run(pgwire.parse(OWN, "s") + pgwire.bind(name="s") + pgwire.execute()
                     + pgwire.sync())
    assert [e["C"] for e in pgwire.errors(reply)] == ["42P05"]
    assert beta.value(OWN) == ORGANIZATIONS["beta"]


@pytest.mark.weir_only
def test_a_statement_may_be_described_beside_the_one_that_runs(one_server):
    acme, beta = one_server.wire("acme_app"), one_server.wire("beta_app")
    beta.run(pgwire.parse(OWN, "o") + pgwire.sync())
    beta.run(pgwire.parse("LISTEN x", "l") + pgwire.sync())
    settle(acme)
    reply = beta.run(pgwire.bind(name="o") + pgwire.describe("S", "l") + pgwire.execute()
                     + pgwire.sync())
    assert pgwire.kinds(reply) == "2tnDCZ"
    assert beta.value(OWN) == ORGANIZATIONS["beta"]


@pytest.mark.weir_only
def test_who_closes_its_side_while_it_waits_for_its_first_answer_hears_the_second(
        one_server, pg):
    acme, beta, db = one_server.wire("acme_app"), one_server.wire("beta_app"), pg.connect()
    settle(acme)
    db.cursor().execute("SELECT pg_advisory_lock(7701)")
    beta.send(pgwire.query("SELECT 'a' FROM pg_advisory_xact_lock(7701)"), pgwire.query(OWN))
    wait_for(lambda: pg.run("SELECT 1 FROM pg_stat_activity WHERE usename = %s"
                            " AND wait_event = 'advisory'", [UPSTREAM_USER]), 10)
    beta.sock.shutdown(socket.SHUT_WR)
    db.close()
    assert [r[0] for r in pgwire.rows(beta.until_closed())] == ["a", ORGANIZATIONS["beta"]]


@pytest.mark.weir_only
def test_a_deallocate_behind_a_query_that_is_skipped_waits_for_nothing(one_server):
    wire = one_server.wire("acme_app")
    wire.run(pgwire.parse("SELECT 1", "n1") + pgwire.sync())
    assert pgwire.kinds(wire.run(
        pgwire.describe("S", "") + pgwire.query("SELECT 1") + pgwire.parse("DEALLOCATE n1")
        + pgwire.bind() + pgwire.execute() + pgwire.sync())) == "EZ"


# A text that the server reads otherwise, for its client's encoding.

HIDDEN = {      # two ways to write one character; what becomes a backslash
    "SJIS": (b"SELECT $\x81\xe0$ x $\x87\x90$; ", b" -- $\x81\xe0$"),
    "BIG5": (b"SELECT $\xa2\xcc$ x $\xa2\xce$; ", b" -- $\xa2\xcc$"),
    "EUC_JP": (b"SELECT $\xa2\xc0$ x $\xad\xfc$; ", b" -- $\xa2\xc0$"),
    "SHIFT_JIS_2004": (b"SELECT E'\x81\x5f\\'; ", b" -- '")}


def of_encoding(w, user, encoding):
    wire = w.wire(user, login=False)
    wire.login(user, DATABASE, USERS[user][1], client_encoding=encoding)
    return wire


@pytest.mark.weir_only
@pytest.mark.parametrize("encoding", HIDDEN)
def test_what_an_encoding_hides_is_not_run_as_another_organization(one_server, encoding):
    acme = of_encoding(one_server, "acme_app", encoding)
    beta = of_encoding(one_server, "beta_app", encoding)
    before, behind = HIDDEN[encoding]
    for hidden in (b"COMMIT;", b"ROLLBACK;",
                   b"SELECT set_config('app.current_organization_id', '%s', true);"
                   % ORGANIZATIONS["acme"].encode()):
        settle(acme)
        reply = beta.run(pgwire.query(before + hidden + b" SELECT own_organization()" + behind))
        assert [ORGANIZATIONS["acme"]] not in pgwire.rows(reply)


@pytest.mark.weir_only
@pytest.mark.parametrize("encoding", ["LATIN1", "SJIS", "WIN1251", "UTF8"])
def test_no_encoding_of_another_client_changes_a_variable(weir, encoding):
    """Nor one's own: what is set is what the configuration and the start say."""
    title = "Zo\u00eb \u2116 5 \u5730\u56f3"
    w = weir({"postgres main": {"pool_size": 1}, "variables": {"app.title": title}})
    own = {"x.k%d" % i: "\u00e9%d" % i for i in range(8)}
    other = w.wire("acme_app", client_encoding=encoding, **own, **{"x.\u00e9": "mine"})
    mine = "SELECT current_setting(convert_from('\\x782ec3a9', 'UTF8'), true)"
    as_bytes = "SELECT string_agg(encode(convert_to(current_setting(n), 'UTF8'), 'hex'), ' ')" \
        " FROM unnest('{%s}'::text[]) n" % ",".join(["app.title", *own])
    told = [" ".join(v.encode().hex() for v in (title, *own.values()))]
    for _ in range(2):
        assert [other.value(as_bytes)] == told
        assert other.value(mine) == "mine"
        beta = w.wire("beta_app")
        assert beta.value("SHOW app.title") == title
        assert not beta.value(mine)
        assert other.value("SHOW client_encoding") == encoding
    for text in "LISTEN somebody", "SET work_mem = '5MB'; RESET ALL":      # and on its own server
        other.run(pgwire.query(text))
        assert [other.value(as_bytes)] == told
        assert other.value(mine) == "mine"
        assert other.value("SHOW client_encoding") == encoding


@pytest.mark.weir_only
def test_a_name_of_an_application_may_be_none_that_the_database_can_write(one_server, pg):
    pg.run("CREATE DATABASE latin TEMPLATE template0 STRATEGY file_copy ENCODING LATIN1"
           " LC_COLLATE 'C' LC_CTYPE 'C'")
    try:
        for more in {}, {"client_encoding": "UTF8"}:
            wire = one_server.wire("acme_app", database="latin",
                                   application_name="\u5730\u56f3", **more)
            assert wire.value("SHOW application_name") == "??????"
    finally:
        pg.run("DROP DATABASE latin WITH (FORCE)")


@pytest.mark.weir_only
@pytest.mark.parametrize("encoding", ["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "GB18030"])
@pytest.mark.parametrize("tail", [b"\x40", b"\x5b", b"\x60", b"\x7b"])
def test_a_name_that_ends_in_a_sign_and_goes_on_with_a_dollar_hides_nothing(
        one_server, encoding, tail):
    beta = of_encoding(one_server, "beta_app", encoding)
    letter = (b"\xa4" if encoding == "BIG5" else b"\x81") + tail
    for before, behind in ((b"SELECT 1 AS %s$t$; ", b" AS %s$t$"),
                           (b"SELECT $%s$ ' $%s$; ", b", ' '")):
        reply = beta.run(pgwire.query(
            before.replace(b"%s", letter) + b"SET app.current_organization_id = '%s';"
            % ORGANIZATIONS["acme"].encode() + b" SELECT own_organization()"
            + behind.replace(b"%s", letter)))
        assert [ORGANIZATIONS["acme"]] not in [row[:1] for row in pgwire.rows(reply)]
        assert beta.value(OWN) == ORGANIZATIONS["beta"]


@pytest.mark.weir_only
def test_organizations_that_take_turns_by_single_statements_each_see_their_own(one_server):
    wires = {org: one_server.wire(org + "_app") for org in ORGANIZATIONS}
    turns = random.Random(5)
    for i in range(300):
        org = turns.choice(list(wires))
        wire = wires[org]
        form = turns.choice(list(ALONE))
        n = turns.choice((1, 1, 2, 3))
        asked = [turns.choice((OWN, "SELECT 1/0")) for _ in range(n)]
        want = [ORGANIZATIONS[org] if sql is OWN else "22012" for sql in asked]
        requests = [ALONE[form](wire, sql) for sql in asked]
        assert several(wire, *requests) == want, (i, org, form)


@pytest.mark.weir_only
def test_what_happens_at_the_commit_of_a_statement_alone_is_in_its_organization(one_server, pg):
    """A deferred trigger: the settings hold up to the very end of the transaction."""
    pg.run("CREATE TABLE IF NOT EXISTS seen (id text);"
           "CREATE OR REPLACE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
           " INSERT INTO seen VALUES (current_setting('app.current_organization_id'));"
           " RETURN NULL; END $$;"
           "CREATE TABLE IF NOT EXISTS late (x int);"
           "CREATE CONSTRAINT TRIGGER see AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED"
           " FOR EACH ROW EXECUTE FUNCTION see();"
           "GRANT ALL ON seen, late TO %s" % UPSTREAM_USER)
    try:
        acme, beta = one_server.wire("acme_app"), one_server.wire("beta_app")
        for i in range(2):
            settle(acme)
            beta.run(pgwire.extended("INSERT INTO late VALUES (1)"))
        assert pg.run("SELECT id FROM seen") == [(ORGANIZATIONS["beta"],)] * 2
    finally:
        pg.run("DROP TABLE late, seen; DROP FUNCTION see()")


# Session state.  One server, so that the next client gets the very same one.


# What acme does | what beta asks then | what a fresh session answers to that.
STATE = {
    "set": (
        "SET work_mem = '77MB'", "SHOW work_mem", "4MB"),
    "set a variable of one's own": (
        "SET my.secret = 'acme'", "SELECT current_setting('my.secret', true)",
        ("", None)),        # '' where it once existed, which says nothing
    "set_config": (
        "SELECT set_config('work_mem', '77MB', false)", "SHOW work_mem", "4MB"),
    "search_path": (
        "SET search_path = scratch", "SHOW search_path", '"$user", public'),
    "set in the other words": (
        "SET SESSION statement_timeout TO '1h'; SET TIME ZONE 'Asia/Tokyo'",
        "SELECT current_setting('statement_timeout') || (current_setting('TimeZone')"
        " = 'Asia/Tokyo')", "0false"),
    "prepare": (
        "PREPARE p AS SELECT 'acme'",
        "SELECT count(*) FROM pg_prepared_statements WHERE from_sql", "0"),
    "advisory lock": (
        "SELECT pg_advisory_lock(42)",
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", "0"),
    "temporary table": (
        "CREATE TEMPORARY TABLE notes (secret text)",
        "SELECT count(*) FROM pg_class WHERE relpersistence = 't'", "0"),
    "listen": (
        "LISTEN acme_events", "SELECT count(*) FROM pg_listening_channels()", "0"),
    "cursor with hold": (
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 'acme'; COMMIT",
        "SELECT count(*) FROM pg_cursors WHERE is_holdable", "0"),
    "set then reset": (
        "SET work_mem = '77MB'; RESET work_mem; SET enable_seqscan = off",
        "SHOW enable_seqscan", "on"),
    "setseed": (
        "SELECT setseed(0.5)", "SELECT random() = 0.9851677175347999", "f"),
}


def asker(w, question):
    """Whoever belongs to an organization may not look at what is prepared."""
    return w.wire("plain_app" if "pg_prepared" in question else "beta_app")


@pytest.mark.weir_only
@pytest.mark.parametrize("protocol", ["simple", "extended"])
@pytest.mark.parametrize("name", STATE)
def test_state_of_one_client_never_reaches_the_next(one_server, name, protocol):
    doing, question, fresh = STATE[name]
    fresh = fresh if isinstance(fresh, tuple) else (fresh,)
    acme = one_server.wire("acme_app")
    for sql in [doing] if protocol == "simple" else doing.split("; "):
        acme.rows(pgwire.query(sql) if protocol == "simple" else pgwire.extended(sql))
    acme.send(pgwire.terminate())
    acme.close()
    beta = one_server.wire("beta_app")
    assert asker(one_server, question).value(question) in fresh
    assert beta.value("SELECT own_organization()") == ORGANIZATIONS["beta"]


@pytest.mark.weir_only
@pytest.mark.parametrize("name", STATE)
def test_state_of_a_client_that_vanishes_never_reaches_the_next(one_server, name):
    doing, question, fresh = STATE[name]
    fresh = fresh if isinstance(fresh, tuple) else (fresh,)
    acme = one_server.wire("acme_app")
    acme.rows(pgwire.query(doing))
    acme.close()        # without a Terminate
    assert asker(one_server, question).value(question) in fresh


def test_a_client_keeps_its_own_state_from_one_transaction_to_the_next(proxy):
    """On a direct connection this works, so it does here."""
    acme, others = proxy.wire("acme_app"), [proxy.wire("beta_app") for _ in range(4)]
    acme.rows(pgwire.query("SET work_mem = '77MB'"))
    acme.rows(pgwire.query("PREPARE p AS SELECT 'prepared by acme'"))
    acme.rows(pgwire.query("CREATE TEMPORARY TABLE own (x int)"))
    for _ in range(5):
        for other in others:
            assert other.value("SHOW work_mem") == "4MB"
        assert acme.value("SHOW work_mem") == "77MB"
        assert acme.value("EXECUTE p") == "prepared by acme"
        assert acme.value("SELECT count(*) FROM own") == "0"


def test_an_advisory_lock_is_held_for_as_long_as_its_session(proxy):
    acme, beta = proxy.wire("acme_app"), proxy.wire("beta_app")
    acme.value("SELECT pg_advisory_lock(7)")
    for _ in range(5):
        assert beta.value("SELECT pg_try_advisory_lock(7)") == "f"
    assert acme.value("SELECT pg_advisory_unlock(7)") == "t"
    acme.close()
    wait_for(lambda: beta.value("SELECT pg_try_advisory_lock(7)") == "t", 5,
             "the lock was never released")


def test_a_notification_reaches_its_listener_alone(proxy):
    acme, beta = proxy.wire("acme_app"), proxy.wire("beta_app")
    acme.run(pgwire.query("LISTEN news"))
    reply = beta.run(pgwire.query("NOTIFY news, 'hello'"))
    assert pgwire.kinds(reply) == "CZ"
    assert acme.until("A")[-1][1][4:] == b"news\0hello\0"
    assert pgwire.kinds(beta.run(pgwire.query("SELECT 1"))) == "TDCZ"


# A user who belongs to one organization cannot leave it.


LEAVING = [
    "SET app.current_organization_id = '%s'",
    "SET LOCAL app.current_organization_id = '%s'",
    "SELECT set_config('app.current_organization_id', '%s', false)",
    "SELECT 1; SET SESSION app.current_organization_id TO '%s'",
    "RESET app.current_organization_id --%s",
    "SET ROLE NONE --%s",
    "SET SESSION AUTHORIZATION DEFAULT --%s",
]


@pytest.mark.weir_only
@pytest.mark.parametrize("sql", LEAVING)
def test_a_client_cannot_name_another_organization(proxy, sql):
    acme = proxy.wire("acme_app")
    reply = acme.run(pgwire.query(sql % ORGANIZATIONS["beta"]))
    assert [e["C"] for e in pgwire.errors(reply)] == ["42501"]
    assert acme.value("SELECT own_organization()") == ORGANIZATIONS["acme"]


@pytest.mark.weir_only
@pytest.mark.parametrize("sql", ["RESET ALL", "DISCARD ALL"])
def test_to_reset_everything_does_not_reset_the_organization(proxy, sql):
    acme = proxy.wire("acme_app")
    acme.run(pgwire.query(sql))
    assert acme.value("SELECT own_organization()") == ORGANIZATIONS["acme"]


@pytest.mark.weir_only
@pytest.mark.parametrize("sql", LEAVING)
def test_whatever_a_client_does_the_next_is_in_its_own_organization(one_server, sql):
    acme = one_server.wire("acme_app")
    acme.run(pgwire.query(sql % ORGANIZATIONS["beta"]))
    acme.close()
    for user in ("acme_app", "beta_app", "plain_app"):
        org = USERS[user][0]
        client = one_server.wire(user)
        assert client.value("SELECT own_organization()") == ORGANIZATIONS.get(org)
        client.close()


@pytest.mark.weir_only
def test_a_variable_hidden_in_a_function_does_not_outlive_its_transaction(one_server):
    """weir cannot see this one coming; the next client must not feel it."""
    acme = one_server.wire("acme_app")
    acme.run(pgwire.query(
        "DO $$ BEGIN PERFORM set_config('app.current_organization_id', '%s', false);"
        " END $$" % ORGANIZATIONS["beta"]))
    acme.close()
    for user in ("plain_app", "acme_app", "beta_app"):
        client = one_server.wire(user)
        assert client.value("SELECT own_organization()") == \
            ORGANIZATIONS.get(USERS[user][0])
        client.close()


@pytest.mark.weir_only
def test_startup_options_cannot_name_another_organization(proxy):
    """Refused, or without effect."""
    option = "-c app.current_organization_id=" + ORGANIZATIONS["beta"]
    wire = proxy.wire("acme_app", login=False)
    try:
        wire.login("acme_app", DATABASE, USERS["acme_app"][1], options=option)
    except pgwire.Failed as e:
        assert e.code in ("42501", "28000")
    else:
        assert wire.value("SELECT own_organization()") == ORGANIZATIONS["acme"]
