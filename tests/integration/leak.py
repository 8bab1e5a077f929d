"""
leak: random clients that know every byte they may be sent.

    leak.py '{"proto": "postgres", "port": 6432, "seed": 7, ...}'

One process with one loop and many small clients, each of one organization or,
a service user's, of one at a time.  Whatever a client sends carries a mark,
~organization.client.serial~, and every message that comes back is searched for
marks: one of somebody else is a leak.  Beside, each reply must be the very one
that was asked for: its kinds, rows, codes.  What only its organization may see
(rows of a shared table, notifications, shared keys) must carry the mark of the
organization that the client is of at the time.

Exit status 0 and a line of JSON with what was done; or 1 and a report: the
seed, the client's last actions and what was wrong.
"""
import asyncio
import collections
import json
import os
import random
import re
import socket
import struct
import sys
import time

sys.dont_write_bytecode = not sys.pycache_prefix
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pgwire                                               # noqa: E402
from pgwire import (bind, copy_data, copy_done, copy_fail, describe, execute,  # noqa: E402
                    parse, query, sync)
from respwire import encode                                 # noqa: E402

ORGANIZATIONS = 20
NOBODY = 99             # a service user that has not chosen
FEW = 5                 # organizations of one that may not choose them all
MARK = re.compile(rb"~(\d\d)\.(\d{8})\.(\d{5})~")


def identity(org):
    return "" if org == NOBODY else "00000000-0000-4000-8000-%012d" % org


def slug(org):
    return "" if org == NOBODY else "org%02d" % org


class Leak(Exception):
    """Something that is not this client's, or not what it asked for."""


class Lost(Exception):
    """The connection is gone, as it is when its server was killed."""


class Left(Exception):
    """The client has left by itself."""


class Client:
    """What both protocols share: a socket, marks, and a memory of 20 actions."""

    def __init__(self, run, number):
        self.run, self.number = run, number
        self.rng = random.Random("%s/%d" % (run.seed, number))
        self.org = self.rng.randrange(ORGANIZATIONS)
        self.serial, self.waiting = 0, None
        self.log = collections.deque(maxlen=20)
        self.buf, self.at = bytearray(), 0
        self.reader = self.writer = None

    def mark(self):
        self.serial += 1
        return "~%02d.%08d.%05d~" % (self.org, self.number, self.serial)

    def acts(self, most, kinds):
        """What to do next; the first of all clients do everything once."""
        first = self.number % 10 ** 7 <= 5
        n = len(kinds) if first else self.rng.randrange(1, most)
        todo = self.rng.sample(kinds, n) if first else self.rng.choices(kinds, k=n)
        for act in todo:
            if self.run.is_over():
                return
            yield act

    def judge(self, data, shared=False):
        """Every mark in it is ours, or, where that is shared, our organization's."""
        for org, client, _ in set(MARK.findall(data)):
            if int(org) != self.org if shared else int(client) != self.number:
                raise Leak("a mark of client %s of organization %s in %r"
                           % (client.decode(), org.decode(), bytes(data[:400])))

    def did(self, what):
        self.log.append(what[:300])
        self.run.done[self.doing] += 1

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.run.port, limit=1 << 18)
        self.socket = self.writer.get_extra_info("socket")
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send(self, data):
        """In one piece or, now and then, in two."""
        if len(data) > 1 and self.rng.random() < 0.1:
            cut = self.rng.randrange(1, len(data))
            self.writer.write(data[:cut])
            await asyncio.sleep(self.rng.choice([0, 0.002]))
            data = data[cut:]
        self.writer.write(data)
        await self.writer.drain()

    async def more(self):
        self.waiting = time.monotonic()
        data = await self.reader.read(1 << 18)
        self.waiting = None
        if not data:
            raise Lost("closed")
        if self.at:
            del self.buf[:self.at]
            self.at = 0
        self.buf += data

    def leave(self, how, part=b""):
        """FIN or RST, in the middle of a message if there is a part of one."""
        self.log.append("leaves by %s, %d bytes of a message sent" % (how, len(part)))
        self.run.done["leave by " + how] += 1
        if part:
            self.writer.write(part[:self.rng.randrange(1, len(part))])
        self.hang_up(how == "RST")
        raise Left

    def hang_up(self, reset=False):
        if self.writer is None:
            return
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                   struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        self.writer.close()
        self.writer = None

    def same(self, got, expected, what):
        if got != expected:
            raise Leak("%s: got %s, not %s" % (what, short(got), short(expected)))


def short(value):
    text = repr(value)
    return text if len(text) < 600 else "%s ... (%d)" % (text[:600], len(text))


# PostgreSQL.

# What ends a connection without anybody's fault: its server was killed.
LOST = {"57P01", "08006"}
# ... or weir's own query_timeout or idle_transaction_timeout was over.
OVERDUE = {"57014", "25P03"}
CONTEXT = ("current_setting('app.current_organization_id'), current_setting('app.slug'),"
           " current_setting('app.who'), coalesce(current_setting('leak.mine', true), '')")
# Equal texts in all organizations: what they are interned by.
TEXTS = ["SELECT /* %d */ $1::text, %s" % (n, CONTEXT) for n in range(12)]
WRITE = "INSERT INTO leak (owner, body) VALUES ($1, $2) RETURNING organization_id, body"


class PgClient(Client):
    def __init__(self, run, number):
        super().__init__(run, number)
        self.user = self.rng.choices([slug(self.org), "svc", "few"], [4, 5, 1])[0]
        if number % 10 ** 7 <= 5:
            self.user = [slug(self.org), "svc"][number % 2]
        self.serves = self.user in ("svc", "few")
        if self.user == "few":
            self.org %= FEW
        if self.serves and self.rng.random() < 0.2:
            self.org = NOBODY
        self.home = self.org
        self.names, self.rows, self.mine = {}, {}, ""
        self.listens, self.temp, self.sql = None, None, None
        self.shared, self.awaits = False, None
        self.pins = self.rng.random() < 0.15 or number % 10 ** 7 <= 2

    def context(self):
        who = "%s/%s" % (self.user, slug(self.org)) if self.org != NOBODY else ""
        return [identity(self.org), slug(self.org), who, self.mine]

    @property
    def written(self):
        """Of its own rows those it may see."""
        return self.rows.setdefault(self.org, [])

    @written.setter
    def written(self, rows):
        self.rows[self.org] = rows

    # Talking.

    async def login(self):
        self.doing = "login"
        user, options = self.user, {}
        if self.serves and self.org != NOBODY:
            how = self.rng.randrange(3)
            if how == 0:
                user = "%s.%s" % (user, slug(self.org))
            else:
                options["options"] = "-c " + (
                    "weir.organization=" + slug(self.org) if how == 1
                    else "app.current_organization_id=" + identity(self.org))
        self.did("login %s %s" % (user, options))
        await self.send(pgwire.startup(user, self.run.database, **options))
        reply = await self.until("Z")
        kinds = pgwire.kinds(reply)
        self.same(kinds, "RKZ", "login")
        self.key = reply[1][1]

    async def message(self):
        buf = self.buf
        while len(buf) - self.at < 5:
            await self.more()
        size = 1 + pgwire.I32.unpack_from(buf, self.at + 1)[0]
        if not 5 <= size < 1 << 28:
            raise Leak("not a message: %r" % bytes(buf[self.at:self.at + 50]))
        while len(buf) - self.at < size:
            await self.more()
        kind, body = chr(buf[self.at]), bytes(buf[self.at + 5:self.at + size])
        self.at += size
        return kind, body

    async def until(self, last, count=1):
        """Messages up to the count-th of a kind in `last`, each of them judged."""
        reply = []
        while count:
            kind, body = await self.message()
            if kind == "A":
                self.notification(body)
                continue
            self.judge(body, self.shared and kind in "DdT")
            if kind == "E":
                self.error(pgwire.error(body))
            if kind in "SN":
                continue
            reply.append((kind, body))
            count -= kind in last
        return reply

    def error(self, fields):
        self.log.append("  E %(C)s %(M)s" % fields)
        if fields["S"] == "FATAL" and fields["C"] == self.awaits:
            raise Left
        if fields["C"] in LOST or fields["S"] == "FATAL" and fields["C"] in OVERDUE:
            raise Lost(fields["M"])
        if fields["S"] != "ERROR":
            raise Leak("an error nobody should see: %s" % fields)

    def notification(self, body):
        """Of the organization whose channel it is, whoever we are by now."""
        channel, payload = body[4:-1].split(b"\0")
        marks = MARK.findall(payload)
        if channel.decode() != self.listens or len(marks) != 1 \
                or channel.decode() != "leak_" + slug(int(marks[0][0])):
            raise Leak("a notification for somebody else: %r" % body)
        self.heard.add(payload.decode())

    async def talk(self, data, note, count=1):
        self.did(note)
        await self.send(data)
        return await self.until("Z", count)

    async def ask(self, sql, args=(), state=None):
        """One statement by either protocol: its rows, or the code of its error."""
        state = state or self.state
        if args or self.rng.random() < 0.5:
            reply = await self.talk(pgwire.extended(sql, args), "%s %s" % (sql, list(args)))
        else:
            reply = await self.talk(query(sql), sql)
        self.same(reply[-1][1].decode(), state, "transaction status behind " + sql[:80])
        codes = [e["C"] for e in pgwire.errors(reply)]
        return codes[0] if codes else pgwire.rows(reply)

    async def gives(self, sql, expected, args=(), state=None):
        self.same(await self.ask(sql, args, state), expected, sql[:200])

    # Its life.

    async def live(self):
        await self.open()
        await self.login()
        self.state, self.heard = "I", set()
        kinds = self.PLAIN + (self.PINNED if self.pins else []) \
            + (self.SERVICE if self.serves else [])
        for act in self.acts(40, kinds):
            await self.run.rest()
            if self.org == NOBODY and act not in self.ANYBODY:
                act = PgClient.switch
            self.doing = "pg " + act.__name__
            await act(self)
        self.doing = "pg leave"
        self.leaves()

    def leaves(self):
        how = self.rng.choice(["FIN", "RST", "X", "half", "unread", "open"])
        m = self.mark()
        message = self.rng.choice([query("SELECT '%s'" % m), parse("SELECT '%s'" % m),
                                   pgwire.extended(TEXTS[0], [m]) + query("SELECT 1")])
        if how == "half":
            self.leave(self.rng.choice(["FIN", "RST"]), message)
        if how == "X":
            self.writer.write(pgwire.terminate())
        if how == "unread":
            self.writer.write(self.rng.choice([
                query("SELECT repeat('%s', 30000)" % m), message,
                query("SELECT '%s', pg_sleep(0.05)" % m),
                query("SELECT '%s' FROM generate_series(1, 20000)" % m)]))
        if how == "open":
            self.writer.write(query("BEGIN") + query(
                "INSERT INTO leak (owner, body) VALUES ('lost', '%s')" % m))
        self.leave(self.rng.choice(["FIN", "RST"]))

    # One statement.

    async def simple(self):
        m = self.mark()
        await self.gives("SELECT '%s', %s" % (m, CONTEXT), [[m] + self.context()])

    async def extended(self):
        m = self.mark()
        await self.gives(self.rng.choice(TEXTS), [[m] + self.context()], [m])

    async def write(self):
        m = self.mark()
        await self.gives(WRITE, [[identity(self.org), m]], [str(self.number), m])
        self.written.append(m)

    async def read(self):
        """What anybody of the organization wrote last: RLS alone decides."""
        self.shared = True
        got = await self.ask("SELECT organization_id, body FROM leak ORDER BY id DESC LIMIT 5")
        self.shared = False
        for org, _ in got:
            self.same(org, identity(self.org), "the organization of a row")

    async def recall(self):
        """Of what it wrote itself it sees what is of the organization of now."""
        await self.gives("SELECT body FROM leak WHERE owner = $1 ORDER BY id",
                         [[m] for m in self.written], [str(self.number)])

    async def mistake(self):
        m = self.mark()
        sql, code = self.rng.choice([
            ("SELECT '%s'::int", "22P02"), ("SELECT \"%s\"", "42703"),
            ("SELECT leak_fail('%s')", "P0001"), ("SELEKT '%s'", "42601"),
            ("INSERT INTO leak (organization_id, body) VALUES"
             " ('" + identity((self.org + 1) % ORGANIZATIONS) + "', '%s')", "42501")])
        await self.gives(sql % m, code)

    async def said(self):
        m = self.mark()
        await self.gives("SELECT leak_say('%s')" % m, [[m]])

    async def timeout(self):
        m = self.mark()
        if self.rng.random() < 0.02:
            # Its server's answer is on its way when it is closed.
            self.awaits = "57014"
            await self.gives("SELECT '%s', pg_sleep(%d)" % (m, self.run.patience / 10), "none")
        if self.rng.random() < 0.02:
            await self.talk(query("BEGIN; SELECT '%s'" % m), "idles in a transaction")
            self.awaits = "25P03"
            await self.until("Z")
        reply = await self.talk(query(
            "SET LOCAL statement_timeout = 15; SELECT '%s', pg_sleep(5)" % m), "timeout")
        self.same([e["C"] for e in pgwire.errors(reply)], ["57014"], "statement_timeout")

    async def cancel(self):
        m = self.mark()
        self.did("cancel me " + m)
        await self.send(query("SELECT '%s', pg_sleep(%.2f)" % (m, self.rng.random() / 8)))
        await asyncio.sleep(self.rng.random() / 20)
        key = self.key if self.rng.random() < 0.8 else self.key[:4] + os.urandom(4)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.run.port)
        writer.write(pgwire.packet(80877102, key))
        reply = await self.until("Z")
        try:
            await reader.read()
        except ConnectionError:
            pass
        writer.close()
        codes = [e["C"] for e in pgwire.errors(reply)]
        if codes:
            self.same((codes, key), (["57014"], self.key), "a cancel")
        else:
            self.same(pgwire.rows(reply), [[m, ""]], "not cancelled")
            # It may be on its way, to whatever this client does next.
            self.leaves()

    async def big(self):
        m, n = self.mark(), self.rng.choice([500, 3000, 20000])
        await self.gives("SELECT repeat($1, %d), $1::text" % n, [[m * n, m]], [m])

    async def big_argument(self):
        m = self.mark() * self.rng.choice([500, 3000, 10000])
        await self.gives("SELECT length($1::text), $1::text", [[str(len(m)), m]], [m])

    async def guarded(self):
        if self.serves:
            return await self.refused()
        other = (self.org + 1) % ORGANIZATIONS
        await self.gives(self.rng.choice([
            "SET app.current_organization_id = '%s'" % identity(other),
            "SELECT set_config('app.slug', '%s', false)" % slug(other),
            "RESET app.current_organization_id", "SET ROLE postgres"]), "42501")
        await self.simple()

    async def notify(self):
        m, channel = self.mark(), "leak_" + slug(self.org)
        if self.rng.random() < 0.5:
            await self.gives("NOTIFY %s, '%s'" % (channel, m), [])
        else:
            await self.gives("SELECT pg_notify($1, $2)", [[""]], [channel, m])
        await self.gives("SELECT '%s'" % m, [[m]])
        if self.listens == channel and m not in self.heard:
            raise Leak("what it told itself was not heard: " + m)

    async def strangers(self):
        """Names that others gave in their sessions mean nothing here."""
        if not self.temp:
            await self.gives("SELECT body FROM leaky", "42P01")
        if not self.sql:
            await self.gives("EXECUTE leaky", "26000")

    # Prepared statements.

    async def named(self):
        name = "s%d" % self.rng.randrange(4)
        m, out, expected = self.mark(), b"", ""
        if name in self.names and self.rng.random() < 0.3:
            out, expected = pgwire.close("S", name), "3"
            del self.names[name]
        if name not in self.names:
            own = "SELECT '%s', $1::text, %s" % (self.mark(), CONTEXT)
            self.names[name] = own if self.rng.random() < 0.2 else self.rng.choice(TEXTS)
            out, expected = out + parse(self.names[name], name), expected + "1"
        if self.rng.random() < 0.3:
            out, expected = out + describe("S", name), expected + "tT"
        if out and self.rng.random() < 0.5:
            reply = await self.talk(out + sync(), "prepares %s: %s" % (name, self.names[name]))
            self.same(pgwire.kinds(reply), expected + "Z", "prepare")
            out, expected = b"", ""
        n = self.rng.randrange(1, 4)
        for _ in range(n):
            out += bind([m], name) + execute()
        reply = await self.talk(out + sync(), "runs %s: %s" % (name, self.names[name]))
        self.same(pgwire.kinds(reply), expected + "2DC" * n + "Z", "named statement")
        own = MARK.findall(self.names[name].encode())
        row = [m] + self.context()
        if own:
            row = ["~%s~" % b".".join(own[0]).decode()] + row
        self.same(pgwire.rows(reply), [row] * n, "named statement")

    async def unknown_name(self):
        name = self.rng.choice(["s%d" % n for n in range(4)])
        if name in self.names:
            reply = await self.talk(parse(TEXTS[0], name) + sync(), "parses again " + name)
            code = "42P05"
        else:
            reply = await self.talk(bind(["x"], name) + execute() + sync(), "binds " + name)
            code = "26000"
        self.same([e["C"] for e in pgwire.errors(reply)], [code], "a name")
        self.same(pgwire.kinds(reply), "EZ", "a name")

    async def pipeline(self):
        """Many statements in one write, some wrong, with a Sync here and there."""
        out, kinds, rows, codes, syncs = b"", "", [], [], 0
        kept, segment, failed = [], [], False
        n = self.rng.randrange(2, 12)
        for i in range(n):
            m, what = self.mark(), self.rng.random()
            if what < 0.5:
                out += parse(self.rng.choice(TEXTS)) + bind([m]) + execute()
                if not failed:
                    kinds, rows = kinds + "12DC", rows + [[m] + self.context()]
            elif what < 0.8:
                out += parse(WRITE) + bind([str(self.number), m]) + describe() + execute()
                if not failed:
                    kinds, rows = kinds + "12TDC", rows + [[identity(self.org), m]]
                    segment.append(m)
            else:
                out += parse("SELECT $1::text::int") + bind([m]) + execute()
                if not failed:
                    kinds, codes, failed = kinds + "1E", codes + ["22P02"], True
            if i == n - 1 or self.rng.random() < 0.3:
                out += sync()
                kinds, syncs = kinds + "Z", syncs + 1
                kept += [] if failed else segment
                segment, failed = [], False
        if self.rng.random() < 0.05:
            self.did("a pipeline of %d, and leaves" % n)
            self.writer.write(out)
            self.leave(self.rng.choice(["FIN", "RST"]))
        reply = await self.talk(out, "a pipeline of %d: %s" % (n, kinds), syncs)
        self.same(pgwire.kinds(reply), kinds, "pipeline")
        self.same(pgwire.rows(reply), rows, "pipeline")
        self.same([e["C"] for e in pgwire.errors(reply)], codes, "pipeline")
        self.written += kept

    # Transactions.

    async def transaction(self):
        """Of its organization or, a service user's, of one for that long or from then on."""
        m, home, mine = self.mark(), self.org, self.mine
        kept = {org: list(rows) for org, rows in self.rows.items()}
        local = self.rng.random() < 0.7
        await self.gives("BEGIN", [], state="T")
        self.state = "T"
        if self.serves and (home == NOBODY or self.rng.random() < 0.4):
            await self.choose(self.rng.choice(self.may()), local)
        stays = home if local else self.org
        acts = ["write", "read", "local", "savepoint", "cursor", "portal", "ask", "recall"]
        for _ in range(self.rng.randrange(5) if self.org != NOBODY else 0):
            what = self.rng.choice(acts + ["choose"] * 3 * (self.serves and local))
            if what == "local":
                self.mine = self.mark()
                await self.gives("SET LOCAL leak.mine = '%s'" % self.mine, [])
            elif what == "choose":
                await self.choose(self.rng.choice(self.may()), True)
            elif what == "savepoint":
                await self.savepoint(self.serves and local)
            elif what != "ask":
                await getattr(self, what)()
            await self.gives(TEXTS[0], [[m] + self.context()], [m])
        end = self.rng.random()
        if end < 0.1:
            self.did("leaves inside a transaction")
            self.leaves()
        commits = 0.2 <= end < 0.7
        if end < 0.2:
            await self.failure(m)
        self.state = "I"
        await self.gives("COMMIT" if end < 0.7 else "ROLLBACK", [])
        if not commits:
            self.rows = kept
        self.org, self.mine = stays if commits else home, mine
        if self.rng.random() < 0.2:
            await self.simple()

    async def failure(self, m):
        """By a mistake, or by an organization that it may not choose."""
        wrong, code = "SELECT '%s'::int" % m, "22P02"
        if self.serves and self.rng.random() < 0.5:
            wrong, code = "SET LOCAL weir.organization = 'nope'", "42501"
        await self.gives(wrong, code, state="E")
        await self.gives("SELECT 1", "25P02", state="E")
        if self.serves:
            await self.gives("SET LOCAL weir.organization = 'org00'", "25P02", state="E")

    async def lasting(self):
        """An organization that is chosen for good, first in a transaction or later in it."""
        home, m = self.org, self.mark()
        await self.gives("BEGIN", [], state="T")
        self.state = "T"
        if self.rng.random() < 0.5:
            await self.simple()
        await self.choose(self.rng.choice(self.may()), False)
        for _ in range(self.rng.randrange(3)):
            await self.rng.choice([self.simple, self.extended, self.read, self.recall])()
        end = self.rng.choice(["COMMIT", "ROLLBACK", "error"])
        if end == "error":
            await self.gives("SELECT '%s'::int" % m, "22P02", state="E")
        self.state = "I"
        await self.gives("ROLLBACK" if end == "ROLLBACK" else "COMMIT", [])
        if end != "COMMIT":
            self.org = home
        await self.simple()

    async def taken_back(self):
        """What is chosen behind a savepoint, by a ROLLBACK TO."""
        await self.choose(self.rng.choice(self.may()), False)
        before = self.org
        await self.gives("BEGIN", [], state="T")
        self.state = "T"
        for sql in ["SAVEPOINT s", "SAVEPOINT t"]:
            await self.simple()
            home = self.org
            await self.gives(sql, [])
            await self.choose(self.rng.choice(self.may()), True)
            await self.write()
            self.written.pop()
        await self.gives("SELECT 'x'::int", "22P02", state="E")
        await self.gives("ROLLBACK TO SAVEPOINT t", [])
        self.org = home
        await self.simple()
        self.state = "I"
        await self.gives("ROLLBACK", [])
        self.org = before
        await self.simple()

    async def savepoint(self, local):
        kept, home = list(self.written), self.org
        await self.gives("SAVEPOINT s", [])
        await self.write()
        if local and self.rng.random() < 0.3:
            await self.choose(self.rng.choice(self.may()), True)
        if self.rng.random() < 0.5:
            m = self.mark()
            await self.gives("SELECT '%s'::int" % m, "22P02", state="E")
            await self.gives("ROLLBACK TO SAVEPOINT s", [], state="T")
            self.org = home
            self.written = kept
        await self.gives("RELEASE SAVEPOINT s", [])

    async def cursor(self):
        m = self.mark()
        await self.gives("DECLARE c CURSOR FOR SELECT '%s' FROM generate_series(1, 5)" % m, [])
        await self.gives("FETCH 3 FROM c", [[m]] * 3)
        await self.gives("CLOSE c", [])

    async def portal(self):
        m = self.mark()
        out = (parse("SELECT $1::text FROM generate_series(1, 5)") + bind([m], portal="p")
               + execute("p", 2))
        self.did("a portal of 5 rows, 2 at a time")
        await self.send(out + pgwire.flush())
        self.same(pgwire.kinds(await self.until("s")), "12DDs", "portal")
        reply = await self.talk(execute("p", 0) + pgwire.close("P", "p") + sync(), "the rest")
        self.same(pgwire.kinds(reply), "DDDC3Z", "portal")
        self.same(pgwire.rows(reply), [[m]] * 3, "portal")

    async def begin_and_nothing(self):
        home, good = self.org, self.rng.random() < 0.3
        await self.gives("BEGIN", [], state="T")
        if self.serves and self.rng.random() < 0.5:
            self.state = "T"
            await self.choose(self.rng.choice(self.may()), not good)
            self.state = "I"
        if self.rng.random() < 0.1:
            self.leave("RST")
        await self.gives("COMMIT", [])
        self.org = self.org if good else home

    # Organizations, of a service user.

    def may(self):
        return list(range(FEW if self.user == "few" else ORGANIZATIONS))

    def choices(self, org, local):
        """Statements that choose it: (text, arguments, rows)."""
        kind, last = ["LOCAL", "SESSION", ""], "true" if local else "false"
        kind = "LOCAL" if local else self.rng.choice(["SESSION", ""])
        own, tenant = "weir.organization", "app.current_organization_id"
        out = [("SET %s %s = '%s'" % (kind, own, slug(org)), (), []),
               ("set %s %s TO '%s'" % (kind, tenant, identity(org)), (), []),
               ("SET %s app.slug = '%s'" % (kind, slug(org)), (), [])]
        for name, value in [(own, slug(org)), (tenant, identity(org))]:
            out += [("SELECT set_config('%s', $1, %s)" % (name, last), (value,), [[value]]),
                    ("SELECT set_config('%s', '%s', %s)" % (name, value, last), (), [[value]])]
        return out

    async def choose(self, org, local):
        sql, args, rows = self.rng.choice(self.choices(org, local))
        await self.gives(sql, rows, args)
        self.org = org

    async def switch(self):
        if self.rng.random() < 0.1:
            sql = self.rng.choice(["RESET weir.organization", "SET app.slug TO DEFAULT",
                                   "RESET app.current_organization_id"])
            reply = await self.talk(query(sql), sql)
            self.same(pgwire.kinds(reply), "CZ", sql)
            self.org = self.home
        else:
            await self.choose(NOBODY if self.rng.random() < 0.05
                              else self.rng.choice(self.may()), False)
        await self.simple()
        if self.org != NOBODY:
            await self.recall()

    async def refused(self):
        """What it may not choose, it is not: 42501, and all is as before."""
        wrong = ["nope", "org99", "ORG00"]
        if self.user == "few":
            wrong += [slug(n) for n in range(FEW, ORGANIZATIONS)]
        await self.gives(self.rng.choice([
            "SET weir.organization = '%s'", "SET LOCAL weir.organization = '%s'",
            "SELECT set_config('app.slug', '%s', false), 1",
            "SELECT set_config('weir.organization', '%s', true)"])
            % self.rng.choice(wrong), "42501")
        await self.simple()

    async def nobody(self):
        """Without an organization there is nothing to see or to say."""
        await self.choose(NOBODY, False)
        await self.read()
        await self.gives(WRITE, "42501", ["nobody", self.mark()])
        await self.switch()

    async def flood_of_switches(self):
        """Transactions of several organizations, all in one write."""
        out, expected, texts, home = b"", [], [], self.org
        for _ in range(self.rng.randrange(1, 6)):
            self.org, m = self.rng.choice(self.may()), self.mark()
            sql, args, got = self.rng.choice(self.choices(self.org, True))
            texts.append(sql)
            expected.append(got + [[m] + self.context()])
            out += query("BEGIN") + (pgwire.extended(sql, args) if args else query(sql))
            out += pgwire.extended(TEXTS[0], [m]) + query(self.rng.choice(["COMMIT", "ROLLBACK"]))
        self.org = home
        self.did("in one write: " + "; ".join(texts))
        await self.send(out)
        for n, rows in enumerate(expected):
            reply = await self.until("Z", 4)
            codes = [e["C"] for e in pgwire.errors(reply)]
            self.same((codes, pgwire.rows(reply)), ([], rows), "switch %d in one write" % n)
            self.same(reply[-1], ("Z", b"I"), "the end of a transaction in one write")
        await self.simple()

    # COPY.

    async def copy_out(self):
        m, n = self.mark(), self.rng.choice([3, 5000])
        reply = await self.talk(query(
            "COPY (SELECT '%s' FROM generate_series(1, %d)) TO STDOUT" % (m, n)), "COPY OUT")
        self.same(pgwire.kinds(reply), "H" + "d" * n + "cCZ", "COPY OUT")
        self.same({body for kind, body in reply if kind == "d"}, {m.encode() + b"\n"}, "COPY")

    async def copy_in(self):
        m, n = self.mark(), self.rng.choice([1, 100, 3000])
        self.did("COPY IN %d" % n)
        await self.send(query("COPY leak_copy (body) FROM STDIN"))
        self.same(pgwire.kinds(await self.until("GZ")), "G", "COPY IN")
        line = copy_data(("%s\n" % m).encode())
        end = self.rng.random()
        if end < 0.15:
            self.writer.write(line * n)
            self.leave(self.rng.choice(["FIN", "RST"]), line)
        if end < 0.3:
            reply = await self.talk(line * n + copy_fail(m), "fails it")
            self.same([e["C"] for e in pgwire.errors(reply)], ["57014"], "CopyFail")
            return
        reply = await self.talk(line * n + copy_done(), "ends it")
        self.same(pgwire.tags(reply), ["COPY %d" % n], "COPY IN")

    # What pins the client to a server, until it leaves.

    async def set_own(self):
        m = self.mark()
        await self.gives("SET leak.mine = '%s'" % m, [])
        self.mine = m
        await self.gives("SET application_name = '%s'" % m, [])
        await self.gives("SHOW application_name", [[m]])
        await self.simple()

    async def listen(self):
        if self.listens is None:
            self.listens = "leak_" + slug(self.org)
            await self.gives("LISTEN " + self.listens, [])
        await self.notify()
        if self.rng.random() < 0.5:
            await self.gives("UNLISTEN *", [])
            self.listens = None

    async def temporary(self):
        m = self.mark()
        if self.temp is None:
            await self.gives("CREATE TEMP TABLE leaky (body text)", [])
            self.temp = []
        await self.gives("INSERT INTO leaky VALUES ('%s')" % m, [])
        self.temp.append(m)
        await self.gives("SELECT body FROM leaky", [[t] for t in self.temp])

    async def sql_prepare(self):
        if self.sql is None:
            self.sql = self.mark()
            await self.gives("PREPARE leaky AS SELECT '%s'" % self.sql, [])
        await self.gives("EXECUTE leaky", [[self.sql]])

    async def reset_all(self):
        await self.gives("RESET ALL", [])
        self.mine, self.org = "", self.home
        await self.simple()

    async def discard_all(self):
        reply = await self.talk(query("DISCARD ALL"), "DISCARD ALL")
        self.same(pgwire.kinds(reply), "CZ", "DISCARD ALL")
        self.names, self.mine, self.listens, self.temp, self.sql = {}, "", None, None, None
        self.org = self.home
        await self.simple()
        await self.strangers()

    PLAIN = [simple, extended, extended, write, write, read, recall, mistake, said, timeout,
             cancel, big, big_argument, guarded, notify, strangers, named, named, named,
             unknown_name, pipeline, pipeline, transaction, transaction, transaction,
             begin_and_nothing, copy_out, copy_in, reset_all, discard_all]
    PINNED = [set_own, set_own, listen, listen, temporary, temporary, sql_prepare,
              reset_all, discard_all]
    SERVICE = ([switch] * 4 + [flood_of_switches] * 3
               + [lasting, lasting, taken_back, refused, nobody])
    ANYBODY = [simple, extended, named, unknown_name, switch, transaction, begin_and_nothing,
               refused, reset_all, discard_all, flood_of_switches]


# Redis.


class RedisClient(Client):
    pins = False
    DATABASES = 3

    async def live(self):
        self.doing = "redis login"
        self.db, self.values = 0, {}
        await self.open()
        self.proto = self.rng.choice([2, 3])
        if self.proto == 3:
            self.same((await self.ask("HELLO", 3, "AUTH", slug(self.org), "x"))[:1],
                      b"%", "HELLO 3")
        else:
            self.same(await self.ask("AUTH", slug(self.org), "x"), b"+OK", "AUTH")
        for act in self.acts(60, self.ACTS + (self.ALONE if self.run.soak else [])):
            await self.run.rest()
            self.doing = "redis " + act.__name__
            await act(self)
        self.doing = "redis leave"
        how, m = self.rng.choice(["FIN", "RST"]), self.mark()
        command = self.rng.choice([encode("SET", self.key("left"), m * 3000, "EX", 300),
                                   encode("ECHO", m) * 50, encode("GET", self.key("left")) * 20])
        if self.rng.random() < 0.5:
            self.writer.write(command)
        self.leave(how, command if self.rng.random() < 0.5 else b"")

    def key(self, name):
        return "leak:%02d:%08d:%s" % (self.org, self.number, name)

    async def line(self):
        while True:
            end = self.buf.find(b"\r\n", self.at)
            if end >= 0:
                line = bytes(self.buf[self.at:end])
                self.at = end + 2
                return line
            await self.more()

    async def reply(self):
        """bytes of a line with its kind; ("$", bytes), None or a list."""
        line = await self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"-" and re.match(rb"-ERR weir: (upstream|state of|query_timeout|idle_tr)", line):
            raise Lost(line.decode())
        if kind in b"+-:" or kind == b"#":
            return line
        if kind == b"_" or rest == b"-1":
            return None
        if kind == b"$":
            n = int(rest)
            while len(self.buf) - self.at < n + 2:
                await self.more()
            value = bytes(self.buf[self.at:self.at + n])
            self.at += n + 2
            return (b"$", value)
        if kind in b"*%>":
            n = int(rest) * (2 if kind == b"%" else 1)
            items = [await self.reply() for _ in range(n)]
            return kind if kind == b"%" else items
        raise Leak("not a reply: %r" % line[:200])

    async def heard(self, shared=False):
        got = await self.reply()
        todo = [got]
        for value in todo:
            if isinstance(value, list):
                todo += value
            elif value:
                self.judge(value[1] if isinstance(value, tuple) else value, shared)
        return got

    async def ask(self, *args):
        self.did(" ".join(str(a)[:60] for a in args))
        await self.send(encode(*args))
        return await self.heard()

    def command(self, moves=True):
        """A command on this client's own keys, and the reply it must have."""
        what, m = self.rng.random(), self.mark()
        name = self.key("k%d" % self.rng.randrange(6))
        now = self.values.setdefault(self.db, {})
        if what < 0.35:
            now[name] = (m * self.rng.choice([1, 1, 1, 1, 20, 3000, 12000])).encode()
            return ("SET", name, now[name], "EX", 600), b"+OK"
        if what < 0.65:
            return ("GET", name), (b"$", now[name]) if name in now else None
        if what < 0.75:
            names = [self.key("k%d" % self.rng.randrange(6)) for _ in range(4)]
            return ("MGET", *names), [(b"$", now[n]) if n in now else None for n in names]
        if what < 0.8:
            return ("DEL", name), b":%d" % (now.pop(name, None) is not None)
        if what < 0.85 and moves:
            self.db = self.rng.randrange(self.DATABASES)
            return ("SELECT", self.db), b"+OK"
        if what < 0.9:
            return ("ECHO", m), (b"$", m.encode())
        if what < 0.95:
            return ("PING", m), (b"$", m.encode())
        return ("INCRBYFLOAT", name, m), b"-ERR value is not a valid float"

    async def one(self):
        args, expected = self.command()
        self.same(await self.ask(*args), expected, " ".join(map(str, args))[:100])

    async def pipeline(self):
        both = [self.command() for _ in range(self.rng.randrange(2, 40))]
        self.did("a pipeline of %d: %s" % (len(both), " ".join(a[0] for a, _ in both)))
        await self.send(b"".join(encode(*args) for args, _ in both))
        stop = self.rng.randrange(len(both)) if self.rng.random() < 0.03 else -1
        for n, (args, expected) in enumerate(both):
            if n == stop:
                self.leave(self.rng.choice(["FIN", "RST"]))
            self.same(await self.heard(), expected, " ".join(map(str, args))[:100])

    async def queued(self):
        """A transaction, in one write or not, that ends well, or not, or not at all."""
        before = dict(self.values.setdefault(self.db, {}))
        both = [(("MULTI",), b"+OK")]
        if self.rng.random() < 0.3:
            both.insert(0, (("WATCH", self.key("k0")), b"+OK"))
        replies = []
        for _ in range(self.rng.randrange(1, 8)):
            args, expected = self.command(moves=False)
            both.append((args, b"+QUEUED"))
            replies.append(expected)
        end = self.rng.choice(["EXEC"] * 4 + ["DISCARD", "leave"])
        if end != "leave":
            both.append(((end,), replies if end == "EXEC" else b"+OK"))
        if end == "DISCARD":
            self.values[self.db] = before
        if self.rng.random() < 0.5:
            self.did("a transaction of %d: %s" % (len(replies), end))
            await self.send(b"".join(encode(*args) for args, _ in both))
            for args, expected in both:
                self.same(await self.heard(), expected, " ".join(map(str, args))[:100])
        else:
            for args, expected in both:
                self.same(await self.ask(*args), expected, " ".join(map(str, args))[:100])
        if end == "leave":
            self.leave(self.rng.choice(["FIN", "RST"]))

    async def blocking(self):
        """Its own element of its own list, or that nobody gave it one."""
        name, m = self.key("list"), self.mark()
        self.same(await self.ask("DEL", name), b":0", "DEL of a list")
        self.same(await self.ask("RPUSH", name, m), b":1", "RPUSH")
        if self.rng.random() < 0.1:
            self.writer.write(encode("BLPOP", name, name + "more", 5))
            self.leave(self.rng.choice(["FIN", "RST"]))
        self.same(await self.ask("BLPOP", name, 5),
                  [(b"$", name.encode()), (b"$", m.encode())], "BLPOP")
        if self.rng.random() < 0.3:
            self.same(await self.ask("BLPOP", name, 0.01), None, "BLPOP of nothing")

    async def shared(self):
        """Keys of the whole organization: whoever wrote last, it was one of us."""
        name, m = "leak:%02d:all:%d" % (self.org, self.rng.randrange(5)), self.mark()
        if self.rng.random() < 0.5:
            self.same(await self.ask("SET", name, m), b"+OK", "SET")
            return
        self.did("GET " + name)
        await self.send(encode("GET", name))
        await self.heard(shared=True)

    async def publishes(self):
        """To whoever of its organization listens."""
        got = await self.ask("PUBLISH", "leak:%02d:all:channel" % self.org, self.mark())
        if not re.fullmatch(rb":\d+", got):
            raise Leak("the answer to PUBLISH: %r" % got)

    async def messages(self, names):
        """What comes next; before it, into the list, what was published on these channels."""
        while True:
            got = await self.heard(shared=True)
            if not isinstance(got, list) or got[0] != (b"$", b"message"):
                return got
            if got[1][1] not in names:
                raise Leak("a message of %r, for who has %r" % (got[1], names))
            names[got[1][1]].append(got[2][1])

    async def subscribes(self):
        """Its organization's channel and its own: what is said there, and no other word."""
        m = self.mark()
        everybodys, own = ("leak:%02d:all:channel" % self.org).encode(), self.key("own").encode()
        heard = {everybodys: [], own: []}
        both = [(("SUBSCRIBE", everybodys, own), [(b"$", b"subscribe"), (b"$", everybodys), b":1"])]
        pong = (b"$", m.encode())
        if self.proto == 3:     # there it may speak, too
            both += [(("PUBLISH", own, m), None), (("PUBLISH", everybodys, m), None)]
        both += [(("PING", m), pong if self.proto == 3 else [(b"$", b"pong"), pong]),
                 (("UNSUBSCRIBE",), None), (("PING", m), pong)]
        self.did("subscribes")
        await self.send(b"".join(encode(*args) for args, _ in both))
        for args, expected in both:
            if self.rng.random() < 0.03:
                self.leave(self.rng.choice(["FIN", "RST"]))
            got = await self.messages(heard)
            if args[0] == "UNSUBSCRIBE":
                last = await self.messages(heard)
                self.same(sorted([got[1], last[1]]), sorted((b"$", c) for c in heard), "channels")
                self.same([got[0], got[2], last[0], last[2]],
                          [(b"$", b"unsubscribe"), b":1", (b"$", b"unsubscribe"), b":0"], "UNSUBSCRIBE")
            elif expected is not None:
                self.same(got, expected, args[0])
            if args[0] == "SUBSCRIBE":
                self.same(await self.messages(heard),
                          [(b"$", b"subscribe"), (b"$", own), b":2"], "SUBSCRIBE")
        self.same(heard[own], [m.encode()] if self.proto == 3 else [], "its own channel")
        if self.proto == 3 and heard[everybodys].count(m.encode()) != 1:
            raise Leak("its own word came %d times" % heard[everybodys].count(m.encode()))

    async def mistake(self):
        m = self.mark()
        got = await self.ask("NOSUCH" + m, m)
        if not got.startswith(b"-ERR unknown command") or m.encode() not in got:
            raise Leak("an unknown command: %r" % got)

    ACTS = [one, one, one, one, pipeline, pipeline, shared, mistake, publishes, subscribes]
    ALONE = [queued, queued, blocking]      # on a connection of its own, for that long


# The process.

BURST = 0.3             # seconds of its own CPU time
GRACE = 5               # and in which clients may end what they do, in a hurry or not


class Run:
    def __init__(self, proto, port, seed, seconds, clients, process, patience, database, share,
                 soak):
        self.share, self.begun, self.soak = share, time.monotonic(), soak
        self.port, self.seed, self.database = port, seed, database
        self.kind = {"postgres": PgClient, "redis": RedisClient}[proto]
        self.clients, self.patience, self.process = clients, patience, process
        self.end = time.monotonic() + seconds
        self.next = process * 10 ** 7
        self.done = collections.Counter()
        self.living, self.report = set(), None
        self.pins = asyncio.Semaphore(1)

    def is_over(self):
        return time.monotonic() > self.end or bool(self.report)

    async def rest(self):
        """Bursts of as much as there is, for no more than a share of the time."""
        if time.process_time() < BURST + self.share * (time.monotonic() - self.begun):
            return
        while not self.is_over() and \
                time.process_time() > self.share * (time.monotonic() - self.begun):
            await asyncio.sleep(0.05)

    async def slot(self):
        """One client after the other."""
        while not self.is_over():
            self.next += 1
            client = self.kind(self, self.next)
            if client.pins:
                async with self.pins:
                    await self.one(client)
            else:
                await self.one(client)

    async def one(self, client):
        self.living.add(client)
        try:
            await client.live()
        except Left:
            self.done["left"] += 1
        except (Lost, ConnectionError) as e:
            self.done["lost"] += 1
            self.done["lost: %s" % e] += 1
        except Exception as e:
            self.fail(client, "%s: %s" % (type(e).__name__, e))
        finally:
            self.living.discard(client)
            client.hang_up()

    def fail(self, client, what):
        if not self.report:
            self.report = "\n".join([
                "seed %s, client %d of %s (%s), %s:" % (
                    self.seed, client.number, slug(client.org),
                    getattr(client, "user", "redis"), client.doing),
                what, "its last actions:"] + ["  " + line for line in client.log])
            self.over.set()

    async def watch(self):
        """Nobody may wait for ever."""
        while True:
            await asyncio.sleep(1)
            for client in list(self.living):
                since = client.waiting
                if since and time.monotonic() - since > self.patience:
                    self.fail(client, "no answer for %d s" % self.patience)

    async def all(self):
        self.over = asyncio.Event()
        watch = asyncio.ensure_future(self.watch())
        slots = asyncio.gather(*[self.slot() for _ in range(self.clients)])
        over = asyncio.ensure_future(self.over.wait())
        await asyncio.wait([slots, over], return_when=asyncio.FIRST_COMPLETED,
                           timeout=self.end + GRACE - time.monotonic())
        watch.cancel()
        if self.report:
            print(self.report, flush=True)
            os._exit(1)
        if slots.done():
            slots.result()
        print(json.dumps(self.done), flush=True)
        os._exit(0)


async def main(options):
    await Run(**options).all()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
