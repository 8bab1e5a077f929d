"""
Goal:   a cancel request ends the statement its sender runs or waits for, or
        nothing at all; whoever sends many disturbs himself.
Method: pairs of clients on pools of one, thousands of cancels in the very
        moment a statement ends; PostgreSQL and a server of our own (fakepg.py)
        say what reached them.
"""
import contextlib
import os
import select
import socket
import statistics
import threading
import time

import pytest

import fakepg
import pgwire
from pgwire import errors, extended, kinds, query, rows
from servers import scaled, wait_for

pytestmark = pytest.mark.weir_only

SOAK = bool(os.environ.get("WEIR_SOAK"))
CONFIG = {"postgres main": {"pool_size": 1}}
RACES, PAIRS = (40_000, 8) if SOAK else (5000, 4)


def send_cancel(w, wire, wait=True, secret=None):
    """Returns when weir has taken it, or with `wait` when it has closed."""
    s = socket.create_connection(("127.0.0.1", w.pg_port), scaled(10))
    s.sendall(pgwire.cancel_request(wire.pid, secret or wire.secret))
    if wait:
        assert s.recv(1) == b""
    s.close()


@pytest.fixture
def databases(pg):
    names = ["race_%d" % i for i in range(PAIRS)]
    for name in names:
        if not pg.run("SELECT 1 FROM pg_database WHERE datname = %s", [name]):
            pg.run("CREATE DATABASE %s TEMPLATE template0 STRATEGY file_copy" % name)
    yield names


def race(w, database, rounds, out):
    """A asks and cancels at once; B asks the moment A has its answer."""
    try:
        a = w.wire("acme_app", database=database)
        b = w.wire("beta_app", database=database)
        hit = 0
        for n in range(rounds):
            # Most end by themselves about when the cancel comes; some must wait for it.
            pause = .2 if n % 50 == 49 else n % 8 // 7 / 4000
            a.send(query("SELECT 'a %d', pg_sleep(%g)" % (n, pause)))
            b.send(extended("SELECT 'b %d'" % n))       # waits for the server
            send_cancel(w, a, wait=n % 2 == 0)
            try:
                reply = a.until("Z")
                codes = [e["C"] for e in errors(reply)]
                assert codes in ([], ["57014"]), codes
                assert codes or rows(reply)[0][0] == "a %d" % n
            except pgwire.Closed as e:      # a backend so slow that it had not begun
                codes = [x["C"] for x in errors(e.reply)]
                assert codes == ["57014"], codes
                a = w.wire("acme_app", database=database)
            hit += len(codes)
            reply = b.until("Z")
            assert kinds(reply) == "12TDCZ" and rows(reply) == [["b %d" % n]], errors(reply)
        out.append(hit)
    except pgwire.Closed as e:
        out.append(errors(e.reply))
    except BaseException as e:      # noqa: B902
        out.append(e)


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_thousands_of_late_cancels_never_hit_the_next_client(
        weir, databases, workers, sslmode):
    """Over TLS upstream a cancel takes a handshake, and comes later still."""
    if (workers == 1) != (sslmode == "disable") and not SOAK:
        pytest.skip("half of the combinations are enough")
    w = weir({"postgres main": {"pool_size": 1, "sslmode": sslmode}}, workers)
    out, share = [], RACES // (PAIRS if sslmode == "disable" else 5 * PAIRS)
    threads = [threading.Thread(target=race, args=[w, d, share, out]) for d in databases]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(isinstance(hit, int) for hit in out), out
    # Some must have gone out and some have hit, or it was no race.
    assert w.metric("cancels_total") > share // 50 and sum(out) > 5


def test_a_cancel_over_tls_upstream_ends_the_statement(weir, pg, workers):
    w = weir({"postgres main": {"sslmode": "require", "pool_size": 1}}, workers)
    wire = w.wire(tls=True)
    for _ in range(3):
        wire.send(query("SELECT pg_sleep(30)"))
        wait_for(lambda: pg.run("SELECT 1 FROM pg_stat_activity WHERE state = 'active'"
                                " AND query = 'SELECT pg_sleep(30)'"), 5, "not running")
        send_cancel(w, wire)
        assert [e["C"] for e in errors(wire.until("Z"))] == ["57014"]
        assert wire.value("SELECT 1") == "1"


@pytest.mark.parametrize("key", ["query_timeout", "transaction_timeout"])
@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_what_takes_too_long_is_ended_on_its_server_too(weir, pg, workers, key, sslmode):
    """PostgreSQL alone would notice in 500 s that nobody waits any more."""
    w = weir({"postgres main": {"sslmode": sslmode, "pool_size": 1},
              "weir": {key: "500ms"}}, workers)
    mark = "%s %s %d" % (key, sslmode, os.getpid())
    slow = w.wire("plain_app")
    if key == "transaction_timeout":
        slow.run(query("BEGIN"))
    slow.send(query("SELECT pg_sleep(500) /* %s */" % mark))
    slow.until_closed()
    wait_for(lambda: pg.run(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND state = 'active'"
        " AND pid <> pg_backend_pid()", ["%/* " + mark + "%"]) == [(0,)], 20)
    assert w.wire("plain_app").value("SELECT 1") == "1"


@pytest.mark.parametrize("before", ["", "BEGIN"])
def test_a_statement_right_behind_a_change_of_settings_can_be_cancelled(
        one_server, pg, before):
    """The backend tells that they are set with the statement's own answer."""
    acme, beta = one_server.wire("acme_app"), one_server.wire("beta_app")
    for wire, other in ((acme, beta), (beta, acme)):
        other.run(query("SELECT 1"))
        if before:
            wire.run(query(before))
        wire.send(query("SELECT pg_sleep(30) -- %s" % before))
        wait_for(lambda: pg.run("SELECT 1 FROM pg_stat_activity WHERE state = 'active'"
                                " AND query LIKE 'SELECT pg_sleep(30) --%%'"), 5, "not running")
        send_cancel(one_server, wire)
        assert [e["C"] for e in errors(wire.until("Z"))] == ["57014"]
        wire.run(query("ROLLBACK"))


def test_a_waiting_client_is_cancelled_where_it_waits(proxy):
    """It has its error, keeps its connection, and the one at work goes on."""
    holder, waiting = proxy.wire("acme_app"), proxy.wire("beta_app")
    holder.run(query("BEGIN"))
    holder.run(query("SELECT 1"))
    for ask in (query("SELECT 2"), extended("SELECT 2")):
        before = proxy.metric("cancels_total")
        waiting.send(ask)
        wait_for(lambda: proxy.metric("clients_waiting", "postgres") == 1, 5, "no wait")
        send_cancel(proxy, waiting)
        reply = waiting.until("Z")
        assert [e["C"] for e in errors(reply)] == ["57014"] and kinds(reply)[-2:] == "EZ"
        assert proxy.metric("cancels_total") == before      # no server heard of it
    assert holder.value("SELECT 3") == "3"
    holder.run(query("COMMIT"))
    assert waiting.value("SELECT 4") == "4"


def test_a_cancel_needs_no_place_of_a_full_pool(weir, pg, workers):
    """And none of max_connections, nor of max_client_conn."""
    w = weir({"weir": {"max_client_conn": 4},
              "postgres main": {"pool_size": 1, "max_connections": 1}}, workers)
    wires = [w.wire(u) for u in ("acme_app", "beta_app", "plain_app", "open_app")]
    wires[0].send(query("SELECT pg_sleep(30)"))
    wait_for(lambda: pg.run("SELECT 1 FROM pg_stat_activity WHERE state = 'active'"
                            " AND query = 'SELECT pg_sleep(30)'"), 5, "not running")
    for wire in wires[1:]:
        wire.send(query("SELECT 1"))
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 3, 5, "they do not wait")
    wires[3].close()        # a cancel is a client until it has been read
    w.settled(postgres=3)
    send_cancel(w, wires[0])
    assert [e["C"] for e in errors(wires[0].until("Z"))] == ["57014"]
    for wire in wires[1:3]:
        assert kinds(wire.until("Z")) == "TDCZ"


def test_a_flood_of_cancels_costs_others_little_and_no_server(weir, workers):
    """Of wrong keys, of an idle client's, and of one that is at work."""
    fake = fakepg.FakePg()
    hold = threading.Event()
    fake.hold["held"] = hold
    try:
        w = weir({"postgres main": {"port": fake.port, "pool_size": 2, "password": None}},
                 workers)
        idle, busy, other = w.wire("acme_app"), w.wire("plain_app"), w.wire("beta_app")
        idle.run(query("x"))
        busy.send(query("held"))
        wait_for(lambda: any(b == b"held\0" for _, _, b in fake.seen), 5, "not asked")
        before = statistics.median(timed(other, 100))
        servers, n = fake.accepted, 10_000
        during, over = [], threading.Event()

        def watch():
            while not over.is_set():
                during.extend(timed(other, 5))
        watching = threading.Thread(target=watch)
        watching.start()
        for i in range(n):
            if i % 50 == 7:
                send_cancel(w, busy, wait=False)
            elif i % 2:
                send_cancel(w, idle, wait=False)
            else:
                send_cancel(w, busy, wait=False, secret=os.urandom(4))
        over.set()
        watching.join()
        hold.set()
        assert rows(busy.until("Z"))[0][0] == "held"
        assert fake.accepted == servers         # cancels are not among these
        assert len(fake.cancels) <= n // 50 + 1
        # To open and end so many connections has its price for a busy machine, too.
        assert statistics.median(during) < 1, (before, max(during))
        assert max(during) < scaled(10)
    finally:
        hold.set()
        fake.stop()


def timed(wire, n):
    out = []
    for _ in range(n):
        begun = time.monotonic()
        assert rows(wire.run(query("timed")))[0][0] == "timed"
        out.append(time.monotonic() - begun)
    return out


def test_cancels_that_never_end_are_limited_and_given_up(weir, workers):
    """A server that takes cancel connections and says nothing to them."""
    fake = fakepg.FakePg()
    hold = threading.Event()
    fake.hold["held"] = hold
    fake.keep_cancels = True
    try:
        w = weir({"postgres main": {"port": fake.port, "pool_size": 1, "password": None}},
                 workers)
        busy, other = w.wire("plain_app"), w.wire("beta_app")
        busy.send(query("held"))
        wait_for(lambda: any(b == b"held\0" for _, _, b in fake.seen), 5, "not asked")
        taken = w.metric("clients_accepted_total", "postgres")
        for _ in range(300):
            send_cancel(w, busy, wait=False)
        wait_for(lambda: fake.cancels, 5, "no cancel")
        wait_for(lambda: w.metric("clients_accepted_total", "postgres") == taken + 300, 5, "not read")
        w.settled(postgres=2)
        hold.set()
        assert rows(busy.until("Z"))[0][0] == "held"
        # 64 at a time for a worker, and its server goes to nobody before.
        assert 1 <= len(fake.cancels) <= 64
        other.send(query("next"))
        with contextlib.suppress(socket.timeout):
            other.sock.settimeout(0.3)
            other._fill(1)
            raise AssertionError("a server that may still be cancelled was given away")
        fake.let_cancels_go()
        other.sock.settimeout(scaled(10))
        assert rows(other.until("Z"))[0][0] == "next"
    finally:
        hold.set()
        fake.stop()


def test_who_waits_for_the_end_of_his_cancel_knows_that_it_is_done(weir, workers):
    """He would cancel his own next statement, were he told before."""
    fake = fakepg.FakePg()
    hold = threading.Event()
    fake.hold["held"] = hold
    fake.keep_cancels = True
    try:
        w = weir({"postgres main": {"port": fake.port, "pool_size": 1, "password": None}},
                 workers)
        busy = w.wire("plain_app")
        busy.send(query("held"))
        wait_for(lambda: any(b == b"held\0" for _, _, b in fake.seen), 5, "not asked")
        s = socket.create_connection(("127.0.0.1", w.pg_port), scaled(10))
        s.sendall(pgwire.cancel_request(busy.pid, busy.secret))
        wait_for(lambda: fake.cancels, 5, "no cancel")
        assert select.select([s], [], [], 0.1)[0] == []
        fake.let_cancels_go()
        assert s.recv(1) == b""
        send_cancel(w, busy, secret=os.urandom(4))      # of nobody: closed at once
        hold.set()
        assert rows(busy.until("Z"))[0][0] == "held"
    finally:
        hold.set()
        fake.stop()


def test_a_cancel_never_hits_what_weir_prepares_for_its_client(weir, workers):
    """Its settings are on their way to the server, and it is at once impatient:
    the cancel waits for them, or the client would lose its connection; but not for
    long, since a backend tells that they are set with the statement's answer."""
    fake = fakepg.FakePg()
    begin, held = threading.Event(), threading.Event()
    fake.hold.update(BEGIN=begin, held=held)
    try:
        w = weir({"postgres main": {"port": fake.port, "pool_size": 1, "password": None}},
                 workers)
        begin.set()
        wire, other = w.wire("acme_app"), w.wire("plain_app")
        other.run(query("first"))       # not its organization
        begin.clear()
        seen, sent = len(fake.seen), time.monotonic()
        wire.send(query("held"))
        # The server may have to come from the other's worker first: until then the
        # client waits, and a cancel ends its wait.
        wait_for(lambda: fake.seen[seen:], 5, "no server was prepared", every=0.001)
        send_cancel(w, wire, wait=False)
        wait_for(lambda: fake.cancels, 5, "the cancel was forgotten", every=0.001)
        assert time.monotonic() - sent >= 0.015
        begin.set()
        held.set()
        assert rows(wire.until("Z"))[0][0] == "held"
    finally:
        begin.set()
        held.set()
        fake.stop()
