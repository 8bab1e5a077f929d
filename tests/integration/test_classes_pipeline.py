"""
Goal:   a server is its client's from the first byte of a pipeline to the last
        ReadyForQuery of it, and not for longer.
Method: pipelines of several Syncs, cut, aborted, held up and filled to the
        brim, on a pool of one, whose next user must find it as new.
"""
import os
import select
import socket
import ssl
import struct
import threading
import time

import pytest

import pgwire
from pgwire import (bind, describe, errors, execute, extended, flush, kinds, message,
                    parse, query, rows, status, sync)
from servers import scaled, wait_for

pytestmark = pytest.mark.weir_only

SOAK = bool(os.environ.get("WEIR_SOAK"))
CONFIG = {"postgres main": {"pool_size": 1}}


def waits(w):
    return w.metric("clients_waiting", "postgres") == 1


def slow(token, seconds=0.0):
    return (parse("SELECT $1::text, pg_sleep(%g)" % seconds) + bind([token]) + execute()
            + sync())


# Several Syncs.


def test_three_syncs_are_answered_before_anybody_else(proxy):
    wire, other = proxy.wire("acme_app"), proxy.wire("beta_app")
    wire.send(slow("a"), slow("b", 0.2), slow("c"))
    wire.until("Z")             # the first ReadyForQuery is no end
    other.send(query("SELECT 'other'"))
    assert [r[0] for r in rows(wire.until("Z", 2))] == ["b", "c"]
    assert rows(other.until("Z")) == [["other"]]


def test_a_begin_behind_a_sync_begins_its_own_transaction(proxy, pg):
    """Were the server given away at the first Sync, it would begin another's."""
    wire, other = proxy.wire("acme_app"), proxy.wire("beta_app")
    for turn in range(10):
        wire.send(slow("a"), query("BEGIN"), slow("b"), slow("c", 0.005))
        other.send(query("SELECT txid_current_if_assigned() IS NULL"), slow("other"))
        assert [r[0] for r in rows(wire.until("Z", 4))] == ["a", "b", "c"]
        assert status(wire.run(query("ROLLBACK"))) == "I"
        reply = other.until("Z", 2)
        assert [r[0] for r in rows(reply)] == ["t", "other"]
        assert status(reply) == "I"


def test_a_pipeline_of_three_syncs_may_be_cut_at_any_byte(proxy):
    """Also so that a write begins with a Sync; a neighbour asks in between."""
    wire, other = proxy.wire("acme_app"), proxy.wire("beta_app")
    data = slow("a") + slow("b") + slow("c")
    for at in range(1, len(data)):
        wire.send(data[:at])
        other.send(query("SELECT 'other %d'" % at))
        wire.send(data[at:])
        assert [r[0] for r in rows(wire.until("Z", 3))] == ["a", "b", "c"], at
        assert rows(other.until("Z")) == [["other %d" % at]]


def test_a_write_may_begin_with_a_sync(proxy):
    wire, other = proxy.wire("acme_app"), proxy.wire("beta_app")
    body = parse("SELECT $1::text") + bind(["mine"]) + execute()
    wire.send(body)
    for _ in range(50):
        wire.send(sync() + body)
        other.send(query("SELECT 'other'"))
        assert kinds(wire.until("Z")) == "12DCZ"
    wire.send(sync())
    assert kinds(wire.until("Z")) == "12DCZ"
    for _ in range(50):
        assert rows(other.until("Z")) == [["other"]]


def test_four_hundred_pipelines_are_abandoned(proxy):
    """At every place of it; nobody ever gets an answer that was not asked for."""
    data = slow("gone") + query("BEGIN") + slow("gone") + slow("gone", 0.001)
    other = proxy.wire("beta_app")
    for n in range(400):
        wire = proxy.wire("open_app")
        wire.send(data[:1 + n * len(data) // 400])
        if n % 3 == 0:
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                 b"\1\0\0\0\0\0\0\0")
        proxy.clients.remove(wire)
        wire.close()
        if n % (1 if SOAK else 4) == 0:
            reply = other.run(extended("SELECT $1::text", ["mine %d" % n]))
            assert rows(reply) == [["mine %d" % n]] and status(reply) == "I"


@pytest.mark.parametrize("kind", list("mZTR1KAN~\x01\xff"), ids=lambda k: "%02x" % ord(k))
def test_a_type_no_client_sends_reaches_no_server(proxy, pg, kind):
    """In the middle of a pipeline, which the server is working at."""
    wire, other = proxy.wire("acme_app"), proxy.wire("beta_app")
    bad = bytes([ord(kind)]) + pgwire.I32.pack(8) + b"I\0\0\0"
    wire.send(slow("a"), parse("SELECT 1"), bad, sync(), slow("b"))
    reply = wire.until_closed()
    assert [r[0] for r in rows(reply)] in ([], ["a"])
    assert [e["C"] for e in errors(reply)] == ["08P01"]
    assert rows(other.run(query("SELECT 'other'"))) == [["other"]]


# No server to be had.


@pytest.fixture
def busy(weir, workers):
    """(weir, a client that holds the only server), and waiting is short."""
    w = weir({"postgres main": {"pool_size": 1}}, workers)
    holder = w.wire("beta_app")
    holder.run(query("BEGIN"))
    holder.run(query("SELECT 1"))
    # For those who come now: to open a server may take longer.
    w.reload({"weir": {"query_wait_timeout": "300ms"}})
    return w, holder


REST = bind(["x"]) + describe() + execute() + flush()


@pytest.mark.parametrize("first, then, zs", [
    (parse("SELECT $1::text") + describe("S") + flush(), REST + sync(), 1),
    (parse("SELECT $1::text") + REST, sync(), 1),
    (parse("SELECT $1::text") + REST + sync(), b"", 1),
    (parse("SELECT $1::text") + REST + query("SELECT 'skipped'") + sync(), b"", 1),
    (parse("SELECT $1::text") + REST, query("SELECT 'skipped'") + sync(), 1),
    (parse("SELECT $1::text", "named") + bind(["x"], "named") + execute() + flush(),
     sync(), 1),
    (query("SELECT 'x'"), b"", 1),
], ids=["before the rest", "before the sync", "whole", "with a query before the sync",
        "before a query and the sync", "named", "simple"])
def test_no_server_in_time_is_one_error_and_one_ready(busy, first, then, zs):
    w, holder = busy
    wire = w.wire("acme_app")
    wire.send(first)
    reply = wire.until("E")
    assert errors(reply)[0]["C"] == "53300" and set(kinds(reply)) <= set("1E")
    wire.send(then)
    assert kinds(wire.until("Z")) == "Z"
    # Nothing more of it comes, and the connection is as it was.
    holder.run(query("COMMIT"))
    for _ in range(2):
        reply = wire.run(extended("SELECT $1::text", ["again"]))
        assert kinds(reply) == "12TDCZ" and rows(reply) == [["again"]]


def test_no_server_in_time_for_the_first_of_several_pipelines(busy):
    """Each has its own ReadyForQuery; the second waits anew."""
    w, holder = busy
    wire = w.wire("acme_app")
    wire.send(slow("a"), slow("b"))
    assert [e["C"] for e in errors(wire.until("Z", 2))] == ["53300", "53300"]
    holder.run(query("COMMIT"))
    assert kinds(wire.run(slow("c"))) == "12DCZ"


# Flush is no end.


@pytest.mark.parametrize("first, seen, then", [
    (parse("SELECT $1::text") + bind(["x"]) + describe() + flush(), "T",
     execute() + sync()),
    (parse("SELECT generate_series(1, 4), 'x'") + bind() + execute("", 2) + flush(), "s",
     execute() + sync()),
    (parse("SELECT generate_series(1, 4), 'x'") + bind(portal="p") + flush(), "2",
     execute("p") + sync()),
    (parse("SELECT 1/$1::int") + bind([0]) + execute() + flush(), "E", sync()),
], ids=["described", "suspended", "bound", "failed"])
def test_a_server_is_kept_until_the_sync(proxy, first, seen, then):
    wire, other = proxy.wire("acme_app"), proxy.wire("beta_app")
    wire.send(first)
    wire.until(seen)
    other.send(query("SELECT 'other'"))
    wait_for(lambda: waits(proxy), 5, "the server was given away at a Flush")
    wire.send(then)
    reply = wire.until("Z")
    assert seen == "E" or rows(reply)[-1][-1] == "x"
    assert rows(other.until("Z")) == [["other"]]


# Size, and both directions at once.


def wide(n):
    return b"".join(I_TEXT for _ in range(n))


I_TEXT = struct.pack("!I", 25)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_bind_of_65535_parameters(proxy, tls):
    wire, other = proxy.wire("acme_app", tls=tls), proxy.wire("beta_app")
    n = 65535
    text = message("P", b"s\0", b"SELECT $1 || $32768 || $65535\0", struct.pack("!H", n),
                   wide(n))
    values = b"".join(struct.pack("!i", len(v)) + v for v in (b"%d " % i for i in range(n)))
    bound = message("B", b"\0s\0", struct.pack("!HH", 0, n), values, struct.pack("!H", 0))
    assert kinds(wire.run(text, sync())) == "1Z"
    for _ in range(3):          # on a server that others use in between
        assert rows(wire.run(bound, execute(), sync())) == [["0 32767 65534 "]]
        assert rows(other.run(extended("SELECT 'other'"))) == [["other"]]
    many = ",".join("($%d::int)" % (i + 1) for i in range(n))
    reply = wire.run(parse("SELECT count(*) FROM (VALUES %s) v" % many), message(
        "B", b"\0\0", struct.pack("!HH", 0, n), b"".join(
            struct.pack("!i", 1) + b"7" for _ in range(n)), struct.pack("!H", 0)),
        execute(), sync())
    assert rows(reply) == [[str(n)]]


@pytest.fixture
def loud(pg):
    """A table that has much to say about some rows."""
    pg.run("DROP TABLE IF EXISTS scratch.loud")
    pg.run("CREATE TABLE scratch.loud (x text)")
    pg.run("CREATE OR REPLACE FUNCTION scratch.shout() RETURNS trigger LANGUAGE plpgsql AS"
           " $$ BEGIN RAISE NOTICE '%', repeat(NEW.x, 40); RETURN NULL; END $$")
    pg.run("CREATE TRIGGER t BEFORE INSERT ON scratch.loud FOR EACH ROW"
           " WHEN (NEW.x LIKE 'loud%') EXECUTE FUNCTION scratch.shout()")
    pg.run("GRANT ALL ON scratch.loud TO PUBLIC")
    return "scratch.loud"


AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def pump(wire, data, hold):
    """Send all of it, but read nothing before nothing goes out any more for
    `hold` seconds; returns the bytes that came, to the ReadyForQuery."""
    sock, at, got, end = wire.sock, 0, bytearray(), time.monotonic() + scaled(60)
    sock.setblocking(False)
    moved, full = time.monotonic(), False
    while not got.endswith(b"Z\0\0\0\5I"):
        assert time.monotonic() < end, "%d of %d sent, %d read" % (at, len(data), len(got))
        if at < len(data):
            try:
                at += sock.send(data[at:at + 16384])
                moved = time.monotonic()
                continue
            except AGAIN:
                pass
        if time.monotonic() - moved < hold and at < len(data):
            select.select([], [sock], [], 0.01)
            continue
        hold, full = 0, full or at < len(data)
        try:
            got += sock.recv(16384)
        except AGAIN:
            select.select([sock], [sock] if at < len(data) else [], [], 0.05)
    sock.setblocking(True)
    return bytes(got), full


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_both_directions_may_be_full_at_once(proxy, loud, tls):
    """COPY goes in, notices come out, and nobody reads before nothing moves."""
    wire, other = proxy.wire("acme_app", tls=tls), proxy.wire("beta_app", tls=tls)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        wire.sock.setsockopt(socket.SOL_SOCKET, option, 65536)
    n, quiet = 900, 80_000 if SOAK else 40_000
    line = b"loud" + b"0123456789" * 120 + b"\n"
    wire.send(query("COPY scratch.loud FROM STDIN"))
    wire.until("G")
    data = pgwire.copy_data(line * n) + pgwire.copy_data(line[1:] * 20) * (quiet // 20) \
        + pgwire.copy_done()
    got, full = pump(wire, data, 0.3)
    assert full, "it was never full"
    wire.buf += got
    reply = wire.until("Z")
    assert kinds(reply) == "N" * n + "CZ"
    assert rows(other.run(query("SELECT 'other'"))) == [["other"]]


def test_a_pipeline_nobody_reads_holds_up_its_client_alone(weir, workers):
    """Requests and answers of megabytes, both full; another server is free."""
    w = weir({"postgres main": {"pool_size": 2}}, workers)
    wire, other = w.wire("acme_app", timeout=60), w.wire("beta_app")
    text, n = "y" * 50_000, 100
    one = extended("SELECT $1::text", [text])
    done = []

    def pour():
        wire.sock.sendall(one * n)
        done.append(1)
    pouring = threading.Thread(target=pour, daemon=True)
    pouring.start()
    for turn in range(50):
        assert rows(other.run(query("SELECT %d" % turn))) == [[str(turn)]]
    for _ in range(n):
        assert rows(wire.until("Z")) == [[text]]
    pouring.join(scaled(20))
    assert done
