"""
Goal:   whatever many clients do at once, each hears what PostgreSQL owes it and
        nothing else, nobody waits for ever, a row is there once if it was said to
        be and never if it was rolled back, and afterwards nothing is left over.
Method: random clients, each with a model of its session that tells every message to
        come; pipelines of both protocols cut anywhere, errors, COPY, portals, settings,
        what pins, other organizations, cancels, leaving in any way; meanwhile servers
        are killed and stopped and weir is reloaded.

A few seconds of one way; WEIR_SOAK=1: each way for WEIR_CHAOS seconds (600).  WEIR_SEED
chooses as it did when it failed; what meets what is up to the clock.  WEIR=direct asks
PostgreSQL itself, which tells whether the model is right.
"""
import asyncio
import collections
import concurrent.futures
import contextlib
import os
import random
import re
import signal
import socket
import ssl
import struct
import threading
import time

import pytest

import pgwire
from pgwire import (bind, close, copy_data, copy_done, copy_fail, describe, execute,
                    flush, parse, query, sync)
from servers import DATABASE, UPSTREAM_PASSWORD, UPSTREAM_USER, scaled, wait_for

SOAK = bool(os.environ.get("WEIR_SOAK"))
SECONDS = float(os.environ.get("WEIR_CHAOS") or 600) if SOAK else 2
CLIENTS = 40 if SOAK else 12
SEED = os.environ.get("WEIR_SEED") or ("%08x" % random.SystemRandom().randrange(1 << 32)
                                       if SOAK else "1")
WAYS = {"plain": {}, "held": {"transactions": "on", "merge": "on"},
        "tracked": {"track": "on"}, "signed": {"track": "on", "context": True}}
MODES = ["transaction"] * 6 + ["session", "statement"]
ORGANIZATIONS = 4
MARK = re.compile(rb"<(\d+)\.(\d+):\d+>")

SCHEMA = """
CREATE TABLE chaos_rows (organization_id text NOT NULL
    DEFAULT current_setting('app.current_organization_id'), owner text NOT NULL);
ALTER TABLE chaos_rows ENABLE ROW LEVEL SECURITY;
ALTER TABLE chaos_rows FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON chaos_rows
    USING (organization_id = current_setting('app.current_organization_id'));
CREATE TABLE chaos_ops (doc text, owner text NOT NULL CHECK (owner <> ''));
CREATE TABLE chaos_copy (owner text NOT NULL);
GRANT ALL ON chaos_rows, chaos_ops, chaos_copy TO PUBLIC;
"""
ORG = "current_setting('app.current_organization_id', true)"
# The same texts in all organizations, which is what they are interned by: parameters.
TELL = ["SELECT /* %d */ $1::text, %s, coalesce(current_setting('chaos.v', true), '')"
        % (n, ORG) for n in range(10)]
MANY = "SELECT $1::text || i, " + ORG + " FROM generate_series(1, $2::int) i"
BAD = "SELECT ($1::text || left(random()::text, 0))::int"
ROW = "INSERT INTO chaos_rows (owner) VALUES ($1)"
OP = "INSERT INTO chaos_ops (owner, doc) VALUES ($1, $2)"
NO_OP = "INSERT INTO chaos_ops (doc, owner) VALUES ($1, left($1, 0))"
COPY_IN = "COPY chaos_copy (owner) FROM STDIN"
# What may come in place of anything: a server may be lost, or none be free.
OUTAGES = {"08006", "08007", "53300", "57P01", "57P02", "57P03"}


def identity(org):
    return "id-%d" % org if org is not None else ""


class Wrong(Exception):
    """Not what was owed."""


class Gone(Exception):
    """The connection, or what is known of it."""


class Model:
    """What is sent, and what must come: (kind of message, what it says)."""

    def start(self):
        self.tx, self.skip, self.fresh = "I", False, True
        self.names, self.unsure, self.portals = {}, set(), {}
        self.rows, self.var, self.undo, self.spot = [], "", None, None
        self.listens = self.temp = False
        self.prepared, self.locks, self.serial = None, 0, 0

    def mark(self):
        self.serial += 1
        return "<%d.%d:%d>" % (self.number, self.life, self.serial)

    def make(self, n, synced=False):
        self.out, self.want, self.unsure = bytearray(), [], set()
        for _ in range(n):
            self.rng.choice([self.simple] * 6 + [self.extended] * 8 + [self.named] * 8
                            + [self.portal, self.copy, self.call, self.mistake, self.synced])()
        if synced or not self.fresh:
            if synced or self.mode == "statement" or self.rng.random() < 0.85:
                self.synced()
            else:
                self.out += flush()
        return bytes(self.out), self.want

    def say(self, kind, what=None):
        self.want.append((kind, what))

    def end(self, how):
        """What becomes of the rows, told before the message that says so."""
        self.want += [(how, row) for row in self.rows]
        if how == "undone" and self.undo:
            self.var, self.org = self.undo
        self.rows, self.undo, self.spot, self.portals = [], None, None, {}

    def ready(self):
        if self.tx == "I":
            self.end("kept")
        self.fresh = True
        self.say("Z", self.tx)

    def fails(self, code, simple=False):
        self.say("E", code)
        if self.tx == "T":
            self.tx = "E"
        elif self.tx == "I":
            self.end("undone")
        if simple:
            self.ready()
        else:
            self.skip = True

    def synced(self):
        self.out += sync()
        self.skip = False
        self.ready()

    def changes(self):
        self.undo = self.undo or (self.var, self.org)

    def padding(self):
        return " /* %s */" % ("x" * self.rng.choice([900, 33000, 65300, 70000, 1200000])) \
            if self.rng.random() < 0.02 else ""

    # A statement is a text, with all that makes it happen and be told.

    def pick(self, simple):
        kinds = ["tell"] * 6 + ["row", "op", "op_returning", "many", "big", "bad", "typo", "no_op"]
        if self.mode != "statement":
            kinds += ["begin", "begin", "commit", "rollback", "savepoint", "back"]
        if self.tx != "I":
            kinds += ["commit", "rollback"] * 2
        if self.sets:
            kinds += ["set", "set_config", "reset"]
        if not self.locked:
            kinds += ["choose"] * 2
        if simple:
            kinds += ["locked", "is_temp", "is_prepared", "deallocate"]
            if self.sets:
                kinds += ["discard"]
            if self.pins:
                kinds += ["listen", "notify", "make_temp", "prepare", "lock"]
        return self.rng.choice(kinds)

    def statement(self, kind, simple):
        """None where it does not fit; else its text, whether a transaction that has failed
        runs it, and what it does: the code of its error or None, where all is said."""
        rng, m = self.rng, self.mark()
        first = self.tx == "I" and self.fresh

        def rows(rows, tag=None, change=None):
            def run():
                self.changes()
                if simple:
                    self.say("T")
                for row in rows() if callable(rows) else rows:
                    self.say("D", row)
                if change:
                    change()
                self.say("C", tag or "SELECT %d" % len(rows() if callable(rows) else rows))
            return run

        def plain(tag, *values):
            """Attributes, and what they become."""
            def run():
                self.changes()
                for name, value in zip(values[::2], values[1::2]):
                    setattr(self, name, value)
                self.say("C", tag)
            return run

        def inserted(returning=None):
            def run():
                self.changes()
                self.rows.append(m)
                if returning:
                    if simple:
                        self.say("T")
                    self.say("D", returning)
                self.say("C", "INSERT 0 1")
            return run

        def ended(commits):
            def run():
                does = commits and self.tx != "E"
                if self.tx != "I":
                    self.end("kept" if does else "undone")
                self.tx = "I"
                self.say("C", "COMMIT" if does else "ROLLBACK")
            return run

        def back():
            n, self.var, self.org = self.spot
            self.want += [("undone", row) for row in self.rows[n:]]
            del self.rows[n:]
            self.tx, self.portals = "T", {}
            self.say("C", "ROLLBACK")

        def discarded():
            self.start_again()
            self.say("C", "DISCARD ALL")

        quoted = "'%s'" % m
        if kind == "tell":
            return (rng.choice(TELL).replace("$1", quoted), False,
                    rows(lambda: [[m, identity(self.org), self.var]]))
        if kind == "many":
            n = rng.choice([0, 1, 5, 300, 3000])
            return (MANY.replace("$1", quoted).replace("$2", str(n)), False, rows(
                lambda: [[m + str(i + 1), identity(self.org)] for i in range(n)]))
        if kind == "big":
            n, k = rng.choice([100, 3000, 30000, 150000]), rng.choice([1, 3])
            return ("SELECT repeat(%s, %d) FROM generate_series(1, %d)" % (quoted, n, k), False,
                    rows([[m * n]] * k))
        if kind == "row":
            return ROW.replace("$1", quoted), False, inserted()
        if kind in ("op", "op_returning"):
            text = OP.replace("$1", quoted).replace("$2", "'d%d'" % rng.randrange(3))
            if kind == "op":
                return text, False, inserted()
            return text + " RETURNING owner", False, inserted([m])
        if kind == "bad":
            return BAD.replace("$1", quoted), False, lambda: "22P02"
        if kind == "no_op" and not (self.tx == "T" and self.holds):
            return NO_OP.replace("$1", quoted), False, lambda: "23514"
        if kind == "typo":
            return 'SELECT "%s"' % m, False, lambda: "42703"
        if kind == "begin" and (first or self.tx != "I"):
            text = rng.choice(["BEGIN", "START TRANSACTION"])
            return text, False, plain(text, "tx", "T")
        if kind in ("commit", "rollback") and (first or self.tx != "I"):
            return kind.upper(), True, ended(kind == "commit")
        if kind == "savepoint" and self.tx != "I":
            return "SAVEPOINT s", False, lambda: plain(
                "SAVEPOINT", "spot", (len(self.rows), self.var, self.org))()
        if kind == "back" and self.tx != "I" and self.spot:
            return "ROLLBACK TO s", True, back
        if kind == "set":
            return "SET chaos.v = " + quoted, False, plain("SET", "var", m)
        if kind == "set_config":
            return ("SELECT set_config('chaos.v', %s, false)" % quoted, False,
                    rows([[m]], change=lambda: setattr(self, "var", m)))
        if kind == "reset":
            return "RESET chaos.v", False, plain("RESET", "var", "")
        if not first:
            return None
        if kind == "choose":
            n = rng.randrange(ORGANIZATIONS)
            return rng.choice(["SET weir.organization = 'o%d'", "SET app.current_organization_id"
                               " = 'id-%d'"]) % n, False, plain("SET", "org", n)
        if kind == "deallocate" and self.known():
            # Behind what no Sync follows it is the server's to answer.
            self.synced()
            name = rng.choice(self.known())
            return "DEALLOCATE " + name, False, lambda: self.say(
                "C", self.names.pop(name) and "DEALLOCATE")
        if kind == "discard":
            return "DISCARD ALL", False, discarded
        if kind == "listen":
            return "LISTEN " + self.channel, False, plain("LISTEN", "listens", True)
        if kind == "notify":
            return ("NOTIFY %s, %s" % (self.channel, quoted), False, lambda: (
                self.listens and self.say("heard", m), self.say("C", "NOTIFY"))[1])
        if kind == "make_temp" and not self.temp:
            return "CREATE TEMP TABLE chaos_t (x int)", False, plain("CREATE TABLE", "temp", True)
        if kind == "is_temp":
            return "SELECT count(*) FROM chaos_t", False, \
                rows([["0"]]) if self.temp else lambda: "42P01"
        if kind == "prepare" and not self.prepared:
            return "PREPARE p AS SELECT " + quoted, False, plain("PREPARE", "prepared", m)
        if kind == "is_prepared":
            return "EXECUTE p", False, \
                rows([[self.prepared]]) if self.prepared else lambda: "26000"
        if kind == "lock":
            return ("SELECT pg_advisory_lock(%d, %d)" % (
                self.number, self.life * 100 + self.locks), False, rows(
                    [[""]], change=lambda: setattr(self, "locks", self.locks + 1)))
        if kind == "locked":
            return ("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                    " AND pid = pg_backend_pid()", False, rows([[str(self.locks)]]))
        return None

    def start_again(self):
        serial, self.org = self.serial, self.home
        self.start()
        self.serial = serial

    def known(self):
        return [name for name in self.names if name and name not in self.unsure]

    def simple(self):
        kind = self.pick(True)
        what = None if self.skip else self.statement(kind, True)
        if not what:
            if self.skip:       # it leaves PostgreSQL the unnamed statement, but not weir
                self.out += query("SELECT '%s'" % self.mark())
                self.names.pop("", None)
            return
        text, always, run = what
        self.out += query(text + self.padding())
        self.names.pop("", None)
        code = run() if always or self.tx != "E" else "25P02"
        if code:
            self.fails(code, True)
        else:
            self.ready()

    def extended(self):
        kind = self.pick(False)
        what = None if self.skip else self.statement(kind, False)
        if not what:
            return
        text, always, run = what
        self.names.pop("", None)
        self.out += parse(text + self.padding()) + bind()
        described = self.tx != "E" and self.rng.random() < 0.4
        self.out += (describe() if described else b"") + execute()
        if self.tx == "E" and not always or kind == "typo":
            self.unsure.add("")
            return self.fails("42703" if self.tx != "E" else "25P02")
        self.fresh = False
        self.say("1")
        self.say("2")
        if described:
            self.say("Tn")
        code = run()
        if code:
            self.fails(code)
        elif kind == "choose":
            self.synced()       # one of its own, and not undone by what follows

    def named(self):
        """Prepared, perhaps before, and run once or more."""
        rng = self.rng
        name = rng.choice(["", "s0", "s1", "s2", "s3"])
        if self.skip:
            self.out += parse(TELL[0], name)
            self.out += bind([self.mark() * rng.choice([1, 1, 9000])], name) + execute()
            self.unsure.add(name)
            if not name:
                self.names.pop(name, None)
            return
        # In a transaction that has failed weir knows what PostgreSQL does not look at.
        if name in self.unsure or self.tx == "E" and name not in self.names:
            return
        if self.tx != "E" and name in self.names and rng.random() < 0.2:
            self.out += close("S", name)
            self.say("3")
            del self.names[name]
        self.fresh = False
        if name not in self.names:
            self.names[name] = rng.choice(TELL + [MANY, BAD, ROW, OP, OP + " RETURNING owner"]
                                          + [NO_OP] * (not self.holds))
            self.out += parse(self.names[name], name)
            self.say("1")
        text = self.names[name]
        if text == NO_OP and self.tx == "T" and self.holds:
            return
        if self.tx != "E" and rng.random() < 0.2:
            self.out += describe("S", name)
            self.say("t")
            self.say("Tn")
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            m = self.mark()
            value = m * rng.choice([2000, 6000, 9000, 40000]) if rng.random() < 0.05 else m
            n, limit = rng.choice([0, 1, 5, 40]), rng.choice([0, 0, 3])
            if text == MANY:
                self.out += bind([m, n], name) + execute("", limit)
            else:
                self.out += bind([value, "d%d" % rng.randrange(3)] if "$2" in text else [value],
                                 name) + execute()
            if self.tx == "E":
                return self.fails("25P02")
            self.say("2")
            if text in (BAD, NO_OP):
                return self.fails("22P02" if text == BAD else "23514")
            if text == MANY:
                self.gives(m, n, 0, limit)
            elif text in TELL:
                self.say("D", [value, identity(self.org), self.var])
                self.say("C", "SELECT 1")
            else:
                self.changes()
                if "RETURNING" in text:
                    self.say("D", [value])
                self.say("C", "INSERT 0 1")
                self.rows.append(m)

    def gives(self, m, n, at, limit):
        """Rows of MANY, from the at-th on: how many."""
        give = min(n - at, limit or n)
        for i in range(at, at + give):
            self.say("D", [m + str(i + 1), identity(self.org)])
        if limit and give == limit:
            self.say("s")
        else:
            self.say("C", "SELECT %d" % give)
        return give

    def portal(self):
        if self.skip or self.tx != "T" or "" in self.unsure:
            return
        name = self.rng.choice([*self.portals, "p%d" % self.serial])
        if name not in self.portals:
            m, n = self.mark(), self.rng.choice([0, 3, 20])
            self.out += parse(MANY) + bind([m, n], "", name)
            self.names[""] = MANY
            self.say("1")
            self.say("2")
            self.portals[name] = [m, n, 0, self.org]
        m, n, at, org = self.portals[name]
        self.fresh = False
        if org == self.org:
            limit = self.rng.choice([2, 7])
            self.out += execute(name, limit)
            self.portals[name][2] += self.gives(m, n, at, limit)

    def copy(self):
        rng, m, simple = self.rng, self.mark(), self.rng.random() < 0.6
        if self.skip:
            return

        def asks(text):
            self.names.pop("", None)
            self.out += query(text) if simple else parse(text) + bind() + execute()

        def begins():
            if self.tx == "E":
                self.unsure.add("")
                self.fails("25P02", simple)
                return False
            self.fresh = False
            if not simple:
                self.say("1")
                self.say("2")
            self.changes()
            return True
        if rng.random() < 0.3:
            n = rng.choice([0, 1, 2000])
            asks("COPY (SELECT '%s' || i FROM generate_series(1, %d) i) TO STDOUT" % (m, n))
            if not begins():
                return
            self.say("H")
            for i in range(n):
                self.say("d", ("%s%d\n" % (m, i + 1)).encode())
            self.say("c")
            self.say("C", "COPY %d" % n)
        else:
            rows = [self.mark() for _ in range(rng.choice([0, 1, 300]))]
            how = rng.choice(["", "", "57014", "22P04"])
            data = "".join(row + "\n" for row in rows) + ("a\tb\n" if how == "22P04" else "")
            asks(COPY_IN)
            self.out += copy_data(data[:9].encode()) + copy_data(data[9:].encode())
            self.out += copy_fail("no") if how == "57014" else copy_done()
            if not begins():
                return
            self.say("G")
            self.rows += rows
            if how:
                return self.fails(how, simple)
            self.say("C", "COPY %d" % len(rows))
        if simple:
            self.ready()

    def call(self):
        """textcat(text, text), by its number."""
        m = pgwire.I32.pack(40) + self.mark().ljust(40).encode()
        if self.skip:
            return
        self.out += pgwire.message("F", pgwire.I32.pack(1258), struct.pack("!hh", 0, 2), m,
                                   struct.pack("!ih", 0, 0))
        if self.tx == "E":
            return self.fails("25P02", True)
        self.say("V", m)
        self.ready()

    def mistake(self):
        out, code = self.rng.choice([
            (bind(["x"], "never") + execute(), "26000"), (execute("never"), "34000"),
            (describe("S", "never"), "26000"), (describe("P", "never"), "34000"),
            *[(parse(TELL[0], name), "42P05") for name in self.known() if self.tx != "E"]])
        self.out += out
        if not self.skip:
            self.fails(code)


class Client(Model):
    def __init__(self, run, number):
        self.run, self.number, self.life = run, number, 0
        self.history = collections.deque(maxlen=60)

    async def lives(self):
        while not self.run.is_over():
            self.life += 1
            self.rng = random.Random("%s/%d/%d" % (SEED, self.number, self.life))
            self.writer = self.key = None
            self.cancelled = False
            try:
                await self.live()
                self.run.done["lived"] += 1
            except (Gone, OSError):
                self.run.done["gone"] += 1
                await asyncio.sleep(0.02)
            except Wrong as e:
                self.run.wrong = self.run.wrong or "seed %s, client %d.%d, %s: %s\n%s" % (
                    SEED, self.number, self.life, self.user, e, "\n".join(self.history))
            finally:
                if self.writer:
                    self.writer.transport.abort()
                if self.key:
                    self.run.keys.append(self.key)

    def did(self, what):
        text = re.sub(r"(.{4,20}?)\1{4,}", r"\1(..)", re.sub("x{50,}", "x(..)", what[:20000]))
        self.history.append(text[:4000])

    # The wire.

    async def read(self, n):
        try:
            return await asyncio.wait_for(self.reader.readexactly(n), scaled(90))
        except asyncio.TimeoutError:
            raise Wrong("nothing comes") from None
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError) as e:
            raise Gone from e

    async def message(self):
        while True:
            head = await self.read(5)
            kind, size = chr(head[0]), pgwire.I32.unpack_from(head, 1)[0] - 4
            if not 0 <= size < 1 << 27:
                raise Wrong("no message: %r" % head)
            body = await self.read(size)
            for number, life in set(MARK.findall(body)):
                if (int(number), int(life)) != (self.number, self.life):
                    raise Wrong("somebody else's: %s %r" % (kind, body[:300]))
            if kind == "A":
                channel, said = body[4:-1].decode().split("\0")
                if channel != self.channel:
                    raise Wrong("a notification %r" % body)
                self.heard.add(said)
            elif kind not in "SN":
                self.did("  %s %r" % (kind, body[:100]))
                return kind, body

    async def write(self, data):
        """In pieces.  What came before an error is still to be read."""
        cuts = [self.rng.randrange(len(data) + 1)
                for _ in range(self.rng.choice([0, 0, 0, 1, 2, 6]))]
        at = 0
        with contextlib.suppress(OSError, ssl.SSLError, RuntimeError):
            for cut in sorted(cuts) + [len(data)]:
                self.writer.write(data[at:cut])
                await self.writer.drain()
                at = cut
                await asyncio.sleep(self.rng.choice([0, 0, 0.001, 0.01]) if cut < len(data) else 0)

    def error(self, body, wanted=""):
        e = pgwire.error(body)
        self.run.done[e["C"]] += 1
        if e["C"] not in OUTAGES and not (self.cancelled and e["C"] == "57014"):
            raise Wrong("%s in place of %s" % (e, wanted))
        raise Gone

    async def expect(self, want):
        rows = []
        for at, (kind, what) in enumerate(want):
            if kind in ("kept", "undone", "heard"):
                rows.append((kind, what))
                continue
            got, body = await self.message()
            self.run.done["messages"] += 1
            if kind == "E" and got == "T":      # a Query's, before its error
                got, body = await self.message()
            if got == "E" and (kind != "E" or pgwire.error(body)["C"] != what):
                self.error(body, "%s %s, then %.200s" % (kind, what, want[at + 1:]))
            said = (pgwire.row(body) if got == "D" else body if got in "dV" else
                    body.rstrip(b"\0").decode() if got in "CZ" else what)
            if got not in kind or said != what:
                raise Wrong("%s %.300s in place of %s %.300s, then %.200s"
                            % (got, said, kind, what, want[at + 1:]))
            if kind in "CZ":
                for how, row in rows:
                    getattr(self.run, how).add(row)
                    if how == "heard" and row not in self.heard:
                        raise Wrong("not heard: " + row)
                rows = []

    # A life.

    async def login(self):
        rng, run = self.rng, self.run
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", run.weir.pg_port, limit=1 << 18)
        self.socket = self.writer.get_extra_info("socket")
        self.org, self.mode = rng.randrange(ORGANIZATIONS), rng.choice(MODES)
        self.locked, self.tls = rng.random() < 0.7, False
        self.user, options = "%s-%d" % (self.mode, self.org), {}
        if run.weir.direct:
            self.user, self.locked = UPSTREAM_USER, True
            options["options"] = "-c app.current_organization_id=" + identity(self.org)
        elif not self.locked:
            self.user = self.mode + "-svc"
            if rng.random() < 0.8:
                options["options"] = "-c weir.organization=o%d" % self.org
            else:
                self.org = None
        if not run.weir.direct and rng.random() < 0.2:
            self.tls = True
            self.writer.write(pgwire.ssl_request())
            await self.read(1)
            try:
                await self.writer.start_tls(run.tls, server_hostname="localhost")
            except (ConnectionError, ssl.SSLError) as e:
                raise Gone from e
        self.did("login as %s, %s, TLS %s" % (self.user, options, self.tls))
        await self.write(pgwire.startup(
            self.user, "tiny" if not run.weir.direct and rng.random() < 0.2 else DATABASE,
            **options))
        await self.proves()

    async def proves(self):
        kind = ""
        while kind != "Z":
            kind, body = await self.message()
            code = pgwire.I32.unpack_from(body)[0] if kind == "R" else 0
            if kind == "E":
                self.error(body, "a login")
            if kind == "K":
                self.key = body
            if code == 10:
                first = b"n,,n=,r=chaos"
                self.writer.write(pgwire.message(
                    "p", b"SCRAM-SHA-256\0", pgwire.I32.pack(len(first)), first))
            if code == 11:
                self.writer.write(pgwire.message("p", pgwire.scram_final(
                    body[4:].decode(), "chaos", UPSTREAM_PASSWORD).encode()))

    async def live(self):
        self.channel, self.heard = "chaos_%d_%d" % (self.number, self.life), set()
        self.serial, self.user = 0, ""
        await self.login()
        rng, self.home = self.rng, self.org
        self.start()
        self.holds = self.run.way.get("transactions") == "on"
        self.pins = self.mode == "session" or (
            self.mode == "transaction" and rng.random() < 0.2)
        self.sets = self.mode != "statement" and (self.pins or "track" in self.run.way)
        for _ in range(rng.choice([1, 5, 20, 40])):
            if self.run.is_over():
                break
            out, want = self.make(rng.choice([1, 1, 2, 4, 8, 25]))
            await self.talk(out, want)
        await rng.choice([self.cancel, self.cut_short, self.half_close, self.leave, self.leave])()

    async def talk(self, out, want):
        self.did("-> %r" % out)
        writing = asyncio.ensure_future(self.write(out))
        if self.rng.random() < 0.03:
            await asyncio.sleep(self.rng.random())      # a slow reader
        try:
            await self.expect(want)
        finally:
            await writing

    async def cancel(self):
        self.cancelled = True
        out, want = self.make(8)
        await self.write(out + query("SELECT '%s', pg_sleep(0.1)" % self.mark()))
        await asyncio.sleep(self.rng.random() / 20)
        await self.run.cancel(self.key, self.rng)
        await self.expect(want)

    async def cut_short(self):
        """In a pipeline, a COPY or a transaction, or in half a message of it."""
        out, _ = self.make(5)
        out += self.rng.choice([b"", query(COPY_IN) + copy_data(b"<0.0:0>\n" * 5000), query(
            "BEGIN") + query("SELECT repeat('%s', 1000000)" % self.mark())])
        self.writer.write(out[:self.rng.randrange(len(out) + 1)])
        await asyncio.sleep(self.rng.choice([0, 0.001, 0.02]))
        await self.leave()

    async def half_close(self):
        if self.tls:
            return
        out, want = self.make(6, synced=True)
        await self.write(out)
        with contextlib.suppress(OSError, RuntimeError):
            self.writer.write_eof()
        await self.expect(want)

    async def leave(self):
        if self.rng.random() < 0.5:
            self.writer.write(pgwire.terminate())
        if self.rng.random() < 0.4:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Run:
    def __init__(self, weir, way):
        self.weir, self.way, self.wrong = weir, way, None
        self.end = time.monotonic() + SECONDS
        self.done = collections.Counter()
        self.kept, self.undone, self.heard = set(), set(), set()
        self.keys = collections.deque(maxlen=200)
        self.tls = None if weir.direct else weir.tls_context()

    def is_over(self):
        return self.wrong is not None or (
            time.monotonic() > self.end and self.done["messages"] > 300)

    async def cancel(self, key, rng):
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.weir.pg_port)
            writer.write(pgwire.packet(80877102, key))
            if rng.random() < 0.5:
                await asyncio.wait_for(reader.read(), scaled(30))
            writer.transport.abort()

    async def late_cancels(self):
        """With the keys of who has left: they are nobody's."""
        rng = random.Random(SEED)
        while not self.is_over() and not self.weir.direct:
            await asyncio.sleep(rng.random() / 10)
            if self.keys:
                await self.cancel(rng.choice(self.keys), rng)

    async def main(self):
        await asyncio.gather(self.late_cancels(),
                             *[Client(self, n).lives() for n in range(1, CLIENTS + 1)])


def config(way):
    users = {"user %s-%s" % (mode, n): {
        "pool_mode": mode, **({"auth": "trust", "organizations": "*"} if n == "svc" else {
            "organization": "o%s" % n, "auth": "scram-sha-256" if n == 1 else "trust",
            "password": UPSTREAM_PASSWORD})}
        for mode in set(MODES) for n in [*range(ORGANIZATIONS), "svc"]}
    small = {"pool_size": 5, "reserve_pool_size": 1, "reserve_pool_timeout": 1}
    return {
        "weir": {"track_settings": way.get("track", "off"), "max_prepared_statements": 6,
                 "client_login_timeout": 0, "query_wait_timeout": int(scaled(30)),
                 "server_idle_timeout": 5},
        "postgres main": small, "database tiny": {"postgres": "main", "dbname": DATABASE},
        "batch chaos_ops": {"order_by": "doc", "transactions": way.get("transactions", "off"),
                            "merge": way.get("merge", "off")},
        **{"organization o%d" % n: {"id": identity(n), "pool_size": [0, 3, 2, 0][n]}
           for n in range(ORGANIZATIONS)}, **users,
        **({"context": {"key": "k" * 40, "ttl": 2}} if "context" in way else {}),
    }


def trouble(weir, pg, over):
    """What happens meanwhile, until it is over."""
    rng = random.Random(SEED)
    while not over.wait(rng.random()):
        what = rng.random()
        if what < 0.6:
            pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
                   " ORDER BY random() LIMIT %s", [UPSTREAM_USER, rng.choice([1, 1, 1, 100])])
        elif what < 0.8:
            weir.config["organization o1"]["pool_size"] = rng.randrange(2, 6)
            weir.config["weir"].update(max_prepared_statements=rng.choice([0, 2, 6, 100]),
                                       server_lifetime=rng.choice([1, 3600]))
            weir.config["postgres main"].update(
                pool_size=rng.randrange(3, 9), host=rng.choice(["127.0.0.1", "127.0.0.2"]))
            weir.write(weir.config)
            weir.signal(signal.SIGHUP)
        else:
            pids = pg.backends()
            pids = rng.sample(pids, len(pids) // 2)
            for sig in (signal.SIGSTOP, signal.SIGCONT):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, sig)
                time.sleep(rng.random() if sig == signal.SIGSTOP else 0)


def is_at_rest(weir):
    m = weir.metrics()
    return m['weir_clients_waiting{proto="postgres"}'] == 0 and \
        m['weir_servers{proto="postgres"}'] == m['weir_servers_idle{proto="postgres"}']


@pytest.mark.parametrize("way, workers", [
    (way, workers) for way in WAYS for workers in (1, 2, 4)] if SOAK else [("tracked", 2)])
def test_everybody_hears_what_is_owed_whatever_all_do_at_once(weir, pg, way, workers):
    signal.alarm(int(SECONDS + scaled(300)))
    pg.run("DROP TABLE IF EXISTS chaos_rows, chaos_ops, chaos_copy; " + SCHEMA)
    w = weir(config(WAYS[way]), workers)
    run, over = Run(w, WAYS[way]), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        troubled = None if w.direct else thread.submit(trouble, w, pg, over)
        try:
            asyncio.run(run.main())
        finally:
            over.set()
    if troubled:
        troubled.result()   # it went on to the end
    assert w.alive(), w.tail()
    assert not run.wrong, run.wrong
    if not w.direct:
        w.settled()
        wait_for(lambda: is_at_rest(w), 30, "a server is not given back")
        assert not [line for line in w.log() if "why=UPSTREAM_SENSE" in line]
    there = collections.Counter(mark for table in ("rows", "ops", "copy") for mark, in pg.run(
        "SELECT substring(owner from '^<[^>]*>') FROM chaos_" + table))
    del there["<0.0:0>"]
    assert set(there.values()) <= {1}, "seed %s: a row is there more than once" % SEED
    assert run.kept <= set(there), (SEED, list(run.kept - set(there))[:5])
    assert not run.undone & set(there), (SEED, list(run.undone & set(there))[:5])
