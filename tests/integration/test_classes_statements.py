"""
Goal:   what weir believes a server has parsed is what it has, however a
        pipeline ends; and a client that is lost in a transaction is told so.
Method: clients that die, fail and close at every place of a Parse, Bind and
        Close, with room for one or two statements on a single server; backends
        that are terminated while they work, wait in a transaction or idle.
"""
import socket
import statistics
import threading
import time

import pytest

import pgwire
from pgwire import (bind, close, describe, errors, execute, extended, flush, kinds, parse,
                    query, rows, status, sync)
from servers import DATABASE, scaled, wait_for

pytestmark = pytest.mark.weir_only


@pytest.fixture(params=[1, 2])
def few(weir, request):
    """A weir that keeps one or two statements on its only server."""
    return weir({"postgres main": {"pool_size": 1},
                 "weir": {"max_prepared_statements": request.param}})


def ask(wire, name, arg):
    return wire.rows(bind([arg], name), execute(), sync())


def test_many_statements_on_little_room_are_each_their_own(few):
    wires = [few.wire(u) for u in ("acme_app", "beta_app", "plain_app")]
    for n, wire in enumerate(wires):
        for i in range(7):
            wire.run(parse("SELECT '%d-%d', $1::text" % (n, i), "S_%d" % i), sync())
    for turn in range(4):
        for n, wire in enumerate(wires):
            # Seven in one pipeline: room is made before a Bind that waits its turn.
            wire.send(*[bind(["x"], "S_%d" % i) + describe() + execute() for i in range(7)],
                      sync())
            reply = wire.until("Z")
            assert kinds(reply) == "2TDC" * 7 + "Z"
            assert rows(reply) == [["%d-%d" % (n, i), "x"] for i in range(7)]


def test_one_name_in_a_hundred_statements(few):
    one, two = few.wire("acme_app"), few.wire("beta_app")
    for i in range(100):
        for n, wire in enumerate((one, two)):
            wire.send(close("S", "S_1"), parse("SELECT '%d-%d', $1::text" % (n, i), "S_1"),
                      bind(["y"], "S_1"), execute(), sync())
        for n, wire in enumerate((one, two)):
            reply = wire.until("Z")
            assert kinds(reply) == "312DCZ" and rows(reply) == [["%d-%d" % (n, i), "y"]]


@pytest.mark.parametrize("tail", [b"", flush(), bind(["x"], "S_1")[:9],
                                  bind(["x"], "S_1") + execute() + flush()],
                         ids=["parse", "flush", "half a bind", "executed"])
def test_who_dies_before_its_sync_leaves_no_trace(few, tail):
    """The next with the same text must not find it where it never was."""
    text = "SELECT 'shared', $1::text"
    for n in range(6):
        gone = few.wire("open_app")
        gone.send(parse(text, "S_1"), tail)
        if n % 2:
            gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                 b"\1\0\0\0\0\0\0\0")
        few.clients.remove(gone)
        gone.close()
        wire = few.wire("acme_app")
        wire.send(parse(text, "S_1"), bind(["mine"], "S_1"), execute(), sync())
        reply = wire.until("Z")
        assert kinds(reply) == "12DCZ" and rows(reply) == [["shared", "mine"]]
        wire.close()


def test_close_and_sync_under_flush_leave_nothing_unread(few):
    wire, other = few.wire("acme_app"), few.wire("beta_app")
    for n in range(20):
        wire.send(parse("SELECT %d" % n, "c"), bind(name="c"), execute(), flush())
        assert kinds(wire.until("C")) == "12DC"
        wire.send(close("S", "c"), flush(), close("P"), sync())
        assert kinds(wire.until("Z")) == "33Z"
        assert other.rows(extended("SELECT 'other %d'" % n)) == [["other %d" % n]]


def test_an_answer_of_ours_comes_before_an_error_and_a_great_row(few):
    """The statement is known: its ParseComplete is made up, in the right place."""
    wire = few.wire("acme_app")
    for text, arg in (("SELECT 1/$1::int", "0"), ("SELECT repeat('x', $1::int)", "500000")):
        for name in ("a", "b"):
            reply = wire.run(parse(text, name), bind([arg], name), execute(), sync())
            assert kinds(reply) in ("1EZ", "12EZ", "12DCZ")
            assert kinds(reply) != "12DCZ" or len(rows(reply)[0][0]) == 500_000
            assert kinds(wire.run(close("S", name), sync())) == "3Z"


def test_a_pinned_client_that_leaves_in_a_pipeline_is_cleaned_up_behind_it(few):
    """Not in the middle of it: DISCARD ALL waits until all is answered."""
    for n in range(12):
        gone = few.wire("acme_app")
        gone.run(query("CREATE TEMP TABLE mine (x int); SELECT 1"))
        gone.send(extended("SELECT pg_sleep(0.01)"), extended("BEGIN"), extended("SELECT 1"))
        if n % 2:
            gone.until("Z")
        few.clients.remove(gone)
        gone.close()
        wire = few.wire("beta_app")
        assert wire.value("SELECT to_regclass('mine') IS NULL") == "t"
        assert status(wire.run(extended("SELECT 1"))) == "I"
        wire.close()


# Servers that die.


@pytest.mark.parametrize("how", [query, extended], ids=["simple", "extended"])
def test_what_was_begun_is_never_begun_again(weir, pg, workers, how):
    """A retry on another server would commit the second half by itself."""
    pg.run("DROP TABLE IF EXISTS scratch.halves")
    pg.run("CREATE TABLE scratch.halves (x int)")
    pg.run("GRANT ALL ON scratch.halves TO PUBLIC")
    w = weir({}, workers)
    for pipelined in (False, True):
        wire = w.wire()
        wire.run(how("BEGIN"))
        wire.rows(how("INSERT INTO scratch.halves VALUES (1)"))
        pid = wire.rows(how("SELECT pg_backend_pid()"))[0][0]
        pg.run("SELECT pg_terminate_backend(%s, 5000)", [pid])
        parts = [how("INSERT INTO scratch.halves VALUES (2)"), how("COMMIT")]
        reply = []
        try:
            if pipelined:
                wire.send(*parts)
                reply = wire.until("Z", 2)
            else:
                for part in parts:
                    reply += wire.run(part)
        except pgwire.Closed as e:
            reply += e.reply
        except OSError:
            pass
        assert "COMMIT" not in pgwire.tags(reply)
        assert all(e["C"] in ("08006", "57P01", "25P02") for e in errors(reply))
    assert pg.run("SELECT count(*) FROM scratch.halves") == [(0,)]


def test_a_deferred_begin_does_not_notice_a_server_that_died_idle(weir, pg, workers):
    """Nothing had begun there yet."""
    w = weir({"postgres main": {"pool_size": 1}}, workers)
    wire = w.wire()
    for _ in range(5):
        pid = wire.value("SELECT pg_backend_pid()")
        wire.run(query("BEGIN"))
        pg.run("SELECT pg_terminate_backend(%s, 5000)", [pid])
        closed = w.metric("server_closed_total")
        wait_for(lambda: w.metric("servers_idle", "postgres") == 0 or
                 w.metric("server_closed_total") > closed, 5, "the end was not read")
        assert wire.value("SELECT pg_backend_pid()") != pid
        assert status(wire.run(query("COMMIT"))) == "I"


# Names, and many log-ins at once.


@pytest.mark.parametrize("user", [
    "acme_app.beta", "beta_app.acme", "acme.acme_app", "a.b.acme", ".",
    "acme_app.", ".acme", "acme_app@acme", "ACME_APP", "Acme_App", " acme_app", "acme_app ",
    "acme_app" * 8, "u" * 63, "u" * 64, "u" * 1000, "acme_app\u0430", "acme_ap\u0440"],
    ids=lambda u: u[:20].encode("unicode_escape").decode())
def test_a_name_that_is_nearly_a_users_is_nobodys(weir_of_names, user):
    """Names are compared byte by byte, whole, and never cut."""
    for password in ("acme-secret", "beta-secret", ""):
        wire = weir_of_names.wire(login=False)
        with pytest.raises(pgwire.Failed) as e:
            wire.login(user, DATABASE, password)
        assert e.value.code in ("28P01", "28000")


@pytest.fixture(scope="module")
def weir_of_names(shared):
    return shared("one_server").running[0]


def test_a_user_of_63_bytes_is_not_one_of_more(weir):
    """PostgreSQL cuts names at 63 bytes; here that would be another's name."""
    name = "u" * 63
    w = weir({"user " + name: {"auth": "trust", "organization": "acme"}})
    wire = w.wire(login=False)
    wire.login(name, DATABASE)
    assert wire.value("SELECT 1") == "1"
    for other in (name + "u", name[:62], name.upper()):
        with pytest.raises(pgwire.Failed) as e:
            w.wire(login=False).login(other, DATABASE, "x")
        assert e.value.code == "28P01"


def test_a_storm_of_log_ins_does_not_slow_another_organization_down(weir, workers):
    """Right and wrong passwords of acme, and of users nobody knows."""
    w = weir({}, workers)
    calm = w.wire("beta_app")
    over, logins = threading.Event(), []

    def storm(n):
        who = [("acme_app", "acme-secret"), ("acme_app", "wrong"), ("nobody%d" % n, "x")]
        while not over.is_set():
            user, password = who[len(logins) % 3]
            wire = pgwire.Wire(w.pg_port)
            try:
                wire.login(user, DATABASE, password)
            except (pgwire.Failed, pgwire.Closed, OSError):
                pass
            wire.close()
            logins.append(1)

    def took(n):
        out = []
        for _ in range(n):
            begun = time.monotonic()
            assert calm.value("SELECT 1") == "1"
            out.append(time.monotonic() - begun)
        return statistics.median(out)
    before = took(100)
    threads = [threading.Thread(target=storm, args=[n], daemon=True) for n in range(6)]
    for t in threads:
        t.start()
    wait_for(lambda: len(logins) > 20, 10, "no storm")
    during = took(100)
    over.set()
    for t in threads:
        t.join(scaled(20))
    assert during < max(50 * before, 0.1), (before, during)
    w.settled(postgres=1)


# Memory.


def test_what_a_great_insert_needed_is_given_back(weir, pg, san):
    """Of each of ten clients, while they stay; and on their servers."""
    pg.run("DROP TABLE IF EXISTS scratch.great")
    pg.run("CREATE TABLE scratch.great (x text)")
    pg.run("GRANT ALL ON scratch.great TO PUBLIC")
    w = weir({"postgres main": {"pool_size": 12}})      # great queries pin
    wires = [w.wire(timeout=60) for _ in range(10)]
    for wire in wires:
        wire.value("SELECT 1")
    before = w.memory()
    for wire in wires:
        wire.rows(query("INSERT INTO scratch.great VALUES ('%s')" % ("x" * (6 << 20))))
        wire.rows(extended("INSERT INTO scratch.great VALUES ($1)", ["y" * (6 << 20)]))
        wire.rows(parse("INSERT INTO scratch.great VALUES ('%s')" % ("z" * (3 << 20))),
                  bind(), execute(), sync())
        wire.rows(parse("SELECT 1"), bind(), execute(), sync())     # that one was kept
    wait_for(lambda: san or w.memory() - before < 16 << 20, 5, "memory is kept")
    pg.run("DROP TABLE scratch.great")
