"""
Goal:   every row carries the id of the client that asked for it, whatever its
        neighbours do to the servers they share.
Method: many clients on a pool of two.  Each statement carries a token of its
        client, each answer must carry the same; meanwhile they leave in the
        middle of messages, run into timeouts, cancel, pipeline errors and
        are slow.  A seed decides, and is told when something is wrong.
"""
import contextlib
import os
import random
import socket
import threading
import time

import pytest

import pgwire
from pgwire import bind, close, describe, error, execute, flush, kinds, parse, query, sync
from servers import scaled

pytestmark = pytest.mark.weir_only

SOAK = bool(os.environ.get("WEIR_SOAK"))
CONFIG = {"postgres main": {"pool_size": 2},
          "weir": {"max_prepared_statements": 3, "query_wait_timeout": 60}}
CLIENTS, SECONDS = (24, 60) if SOAK else (12, 2.5)
FAILED = {"57014", "22012", "42601", "26000", "25P02", "08006", "57P01"}


class Wrong(Exception):
    pass


class Client(threading.Thread):
    """Says what it saw that was not its own in `wrong`."""

    def __init__(self, weir, n, seed, tls, end):
        super().__init__(daemon=True)
        self.weir, self.n, self.tls, self.end = weir, n, tls, end
        self.random = random.Random("%s %d" % (seed, n))
        self.user = ("acme_app", "beta_app", "plain_app")[n % 3]
        self.turns = self.rows = 0
        self.wrong, self.wire = [], None

    def run(self):
        acts = [self.simple, self.extended, self.named, self.pipeline, self.errors,
                self.slow, self.timeout, self.transaction, self.portal, self.cancel,
                self.leave, self.many]
        try:
            while (time.monotonic() < self.end or self.rows <= 3) and not self.wrong:
                if self.wire is None:
                    self.wire = self.weir.wire(self.user, tls=self.tls, timeout=60)
                    self.weir.clients.remove(self.wire)
                self.turns += 1
                self.random.choice(acts)()
            if self.wire:
                self.wire.close()
        except Exception as e:
            self.wrong.append("%s: %s" % (type(e).__name__, e))

    def token(self):
        return "c%d t%d r%d" % (self.n, self.turns, self.random.randrange(1 << 30))

    def expect(self, tokens, answers=1, may_fail=False):
        """Rows of just these tokens, in order, up to so many ReadyForQuery."""
        reply = self.wire.until("Z", answers)
        got = [r[0] for r in pgwire.rows(reply)]
        codes = [e["C"] for e in pgwire.errors(reply)]
        if got != tokens[:len(got)] or (not may_fail and (len(got) < len(tokens) or codes)):
            raise Wrong("%r instead of %r, errors %r" % (got, tokens, codes))
        if set(codes) - FAILED:
            raise Wrong("errors %r" % codes)
        self.rows += len(got)
        return reply

    # What a client does.

    def simple(self):
        t = self.token()
        self.wire.send(query("SELECT '%s', pg_backend_pid()" % t))
        self.expect([t])

    def extended(self):
        t = self.token()
        self.wire.send(pgwire.extended("SELECT $1::text", [t]))
        self.expect([t])

    def named(self):
        """The one name all of them use, for as many statements."""
        t = self.token()
        self.wire.send(close("S", "S_1"), parse("SELECT '%s', $1::text" % t, "S_1"), sync())
        self.expect([])
        self.wire.send(bind([t], "S_1"), execute(), sync())
        self.expect([t])

    def pipeline(self):
        ts = [self.token() for _ in range(self.random.randrange(2, 7))]
        self.wire.send(*[pgwire.extended("SELECT $1::text, pg_sleep(%g)"
                                         % self.random.choice([0, 0, 0.004]), [t]) for t in ts])
        self.expect(ts, len(ts))

    def errors(self):
        """Good, bad, skipped, good: the row of the last comes behind the error."""
        a, b = self.token(), self.token()
        self.wire.send(parse("SELECT $1::text"), bind([a]), execute(),
                       parse("SELECT 1/$1::int"), bind([0]), execute(),
                       query("SELECT 'skipped'"), sync(), query("SELECT '%s'" % b))
        self.expect([a, b], 2, may_fail=True)

    def slow(self):
        t = self.token()
        self.wire.send(query("SELECT '%s' FROM (SELECT pg_sleep(0.02)) s" % t))
        self.expect([t])

    def timeout(self):
        t = self.token()
        self.wire.send(query("BEGIN; SET LOCAL statement_timeout = 5; SELECT '%s' FROM "
                             "(SELECT pg_sleep(10)) s; COMMIT" % t), query("ROLLBACK"))
        self.expect([], 2, may_fail=True)

    def transaction(self):
        a, b = self.token(), self.token()
        self.wire.send(query("BEGIN"), query("SELECT '%s'" % a))
        self.expect([a], 2)
        self.wire.send(pgwire.extended("SELECT $1::text", [b]), query("COMMIT"))
        self.expect([b], 2)

    def portal(self):
        t = self.token()
        self.wire.send(parse("SELECT '%s' || '' FROM generate_series(1, 5)" % t), flush())
        self.wire.until("1")
        self.wire.send(bind(), execute("", 2), flush())
        self.wire.until("s")
        self.wire.send(execute("", 0), sync())
        self.expect([t] * 3)

    def cancel(self):
        t = self.token()
        self.wire.send(query("SELECT '%s' FROM (SELECT pg_sleep(%g)) s" % (
            t, self.random.choice([0, 0.001, 0.01, 0.1]))))
        with socket.create_connection(("127.0.0.1", self.weir.pg_port)) as s:
            s.sendall(pgwire.cancel_request(self.wire.pid, self.wire.secret))
            s.settimeout(scaled(20))
            s.recv(1)
        self.expect([t], may_fail=True)

    def leave(self):
        """In the middle of something, often of a message, often with an RST."""
        t = self.token()
        data = (query("BEGIN") + pgwire.extended("SELECT $1::text", [t])
                + parse("SELECT '%s'" % t, "S_1") + describe("S", "S_1") + flush()
                + query("SELECT '%s' FROM generate_series(1, 3000)" % t)
                + pgwire.extended("SELECT $1::text, pg_sleep(0.01)", [t * 500]))
        self.wire.send(data[:self.random.randrange(1, len(data))])
        if self.random.random() < 0.5:
            self.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                      b"\1\0\0\0\0\0\0\0")
        if self.random.random() < 0.5:
            self.wire.sock.settimeout(0.1)      # there may be nothing to read
            with contextlib.suppress(OSError):
                self.wire.sock.recv(self.random.randrange(1, 200))
        self.wire.close()
        self.wire = None

    def many(self):
        """Rows enough to fill buffers."""
        t = self.token()
        self.wire.send(query("SELECT '%s', repeat('%s', 50) FROM generate_series(1, 300)"
                             % (t, t)))
        self.expect([t] * 300)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_every_row_carries_the_id_of_the_client_that_asked(proxy, tls, pg):
    seed = os.environ.get("WEIR_SEED") or random.SystemRandom().randrange(1 << 30)
    end = time.monotonic() + SECONDS
    clients = [Client(proxy, n, seed, tls, end) for n in range(CLIENTS)]
    for c in clients:
        c.start()
    for c in clients:
        c.join(SECONDS + scaled(60))
    wrong = {"%s-%d" % (c.user, c.n): c.wrong for c in clients if c.wrong}
    assert not wrong, "WEIR_SEED=%s: %s" % (seed, wrong)
    assert not any(c.is_alive() for c in clients), "WEIR_SEED=%s" % seed
    assert all(c.rows > 3 for c in clients), [c.rows for c in clients]
    # And it was a test of sharing.
    assert proxy.metric("servers", "postgres") <= 2


def test_half_the_servers_are_killed_all_the_time(proxy, pg):
    """Whoever loses one hears an error or sees its connection end; nobody a row."""
    seed = os.environ.get("WEIR_SEED") or random.SystemRandom().randrange(1 << 30)
    end = time.monotonic() + SECONDS
    wrong, rows = [], []

    def work(n):
        wire, turn = None, 0
        while time.monotonic() < end or sum(rows) <= 50:
            turn += 1
            token = "k%d t%d" % (n, turn)
            try:
                if wire is None:
                    wire = proxy.wire(("acme_app", "beta_app")[n % 2])
                wire.send(pgwire.extended("SELECT $1::text, pg_sleep(0.002)", [token]),
                          query("SELECT '%s'" % token))
                reply = wire.until("Z", 2)
                got = [r[0] for r in pgwire.rows(reply)]
                rows.append(len(got))
                if got != [token] * len(got) or (len(got) < 2 and not pgwire.errors(reply)):
                    wrong.append((token, got, kinds(reply)))
            except pgwire.Closed as e:
                if any(r[0] != token for r in pgwire.rows(e.reply)):
                    wrong.append((token, pgwire.rows(e.reply)))
                wire = None
            except (OSError, pgwire.Failed):
                wire = None
    threads = [threading.Thread(target=work, args=[n]) for n in range(8)]
    for t in threads:
        t.start()
    rng = random.Random(str(seed))
    while time.monotonic() < end:
        pids = pg.backends()
        if pids:
            pg.run("SELECT pg_terminate_backend(%s)", [rng.choice(pids)])
        time.sleep(0.03)        # the rhythm of the killing, nothing waits for it
    for t in threads:
        t.join()
    assert not wrong, "WEIR_SEED=%s: %s" % (seed, wrong[:3])


def test_what_a_server_says_of_an_error_is_its_clients(proxy):
    """The text of an error is data too."""
    wires = [proxy.wire() for _ in range(6)]
    for turn in range(10):
        for n, wire in enumerate(wires):
            wire.send(query("SELECT 'mine %d %d'::int" % (n, turn)))
        for n, wire in enumerate(wires):
            reply = wire.until("Z")
            assert "mine %d %d" % (n, turn) in error(reply[0][1])["M"]
