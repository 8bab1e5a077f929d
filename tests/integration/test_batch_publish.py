"""
Goal:   what a batch commits is told to the organization's Redis, once, after
        it can be seen and before its client is answered; what is not
        committed is told to nobody, and no Redis can fail a write.
Method: subscribers of Redis itself, past weir, which look for the row in
        PostgreSQL whenever they hear of one; and a Redis that is away, does
        not answer, refuses, or answers what nobody asked.
"""
import collections
import contextlib
import json
import socket
import struct
import threading
import time
import uuid

import pytest

import pgwire
from pgwire import bind, describe, errors, execute, extended, parse, query, sync, tags
from servers import ORGANIZATIONS, Redis, scaled, wait_for

pytestmark = pytest.mark.weir_only

BATCH = {"order_by": "doc", "in_flight": 2, "publish": "acme:doc:{doc}"}
CONFIG = {"batch news": BATCH}
DOC = "d0c00000-0000-4000-8000-00000000000%d"
TABLE = """
DROP TABLE IF EXISTS news;
CREATE TABLE news (
    id bigserial PRIMARY KEY,
    organization_id uuid NOT NULL DEFAULT own_organization(),
    doc uuid NOT NULL,
    clock int NOT NULL CHECK (clock >= 0),
    name text,
    data jsonb,
    raw bytea,
    UNIQUE (doc, clock));
ALTER TABLE news ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON news USING (organization_id = own_organization())
    WITH CHECK (organization_id = own_organization());
GRANT ALL ON news, news_id_seq TO PUBLIC;
CREATE OR REPLACE FUNCTION news_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(600);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON news
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.name = 'slow to commit') EXECUTE FUNCTION news_late();
"""
INSERT = "INSERT INTO news (doc, clock, name) VALUES ($1, $2, $3)"


@pytest.fixture(autouse=True)
def table(pg):
    pg.run(TABLE)


class Listener:
    """Hears all channels of a Redis; `look` is called with each message."""

    def __init__(self, rd, look=None):
        self.heard, self.look = [], look
        self.redis = rd.connect(decode_responses=True)
        self.sub = self.redis.pubsub()
        self.sub.psubscribe("*")
        assert self.sub.get_message(timeout=scaled(20))["type"] == "psubscribe"
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        for m in self.sub.listen():
            if m["channel"] == "end":
                return
            if m["type"] == "pmessage":
                if self.look:
                    self.look(m["data"])
                self.heard.append((m["channel"], m["data"]))

    def close(self):
        """What it has heard, of all that was published until now."""
        self.redis.publish("end", "")
        self.thread.join(scaled(20))
        self.redis.close()
        return self.heard


@pytest.fixture
def listener(rd):
    one = Listener(rd)
    yield one
    if one.thread.is_alive():
        one.close()


def op(doc, clock, name=None, more=""):
    return extended(INSERT + more, [DOC % doc, str(clock), name])


def told(w, outcome="told"):
    return w.metrics()['weir_publish_total{outcome="%s"}' % outcome]


def news(doc, clock, name=None):
    """As the row that op() makes is told of."""
    return ("acme:doc:" + DOC % doc,
            json.dumps({"doc": DOC % doc, "clock": str(clock), "name": name},
                       separators=(",", ":")))


def test_each_row_is_told_of_once_in_order_and_when_it_can_be_seen(proxy, pg, rd):
    db, unseen = pg.connect(), []

    def look(data):
        row = json.loads(data)
        with db.cursor() as c:
            c.execute("SELECT 1 FROM news WHERE doc = %s AND clock = %s",
                      [row["doc"], row["clock"]])
            if c.fetchone() is None:
                unseen.append(row)
    listener, good = Listener(rd, look), []

    def client(n):
        wire = proxy.wire("acme_app")
        for i in range(8):
            # Every third fails: its key is another's.
            clock = i if i % 3 == 2 else 100 * n + i + 1000
            reply = wire.run(op(n % 3, clock))
            if not errors(reply):
                good.append((n % 3, clock))
    threads = [threading.Thread(target=client, args=[n]) for n in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    heard = listener.close()
    db.close()
    assert sorted(heard) == sorted(news(*one) for one in good)
    assert unseen == []
    for doc in range(3):
        by_id = pg.run("SELECT clock FROM news WHERE doc = %s ORDER BY id", [DOC % doc])
        assert [m for c, m in heard if c == "acme:doc:" + DOC % doc] == [
            news(doc, clock)[1] for clock, in by_id]
    assert len(good) < 16 * 8


U = uuid.UUID(DOC % 1)
FORMS = {       # what a client sends, and what is told of it but for doc and clock
    "as text": (op(1, 1, "it's \"é\"\\\n\t\x01€😀"), {"name": "it's \"é\"\\\n\t\x01€😀"}),
    "a uuid in another spelling": (
        extended(INSERT, ["{%s}" % U.hex.upper(), "1", ""]),
        {"doc": "{%s}" % U.hex.upper(), "name": ""}),
    "in binary": (
        parse("INSERT INTO news (doc, clock, name, data, raw) VALUES ($1, $2, $3, $4, $5)",
              types=[2950, 23, 25, 3802, 17])
        + bind([U.bytes, struct.pack("!i", 1), "a€".encode(), b'\1{"k": [1]}', b'\0"\xff'],
               formats=[1]) + execute() + sync(),
        {"name": "a€", "data": '{"k": [1]}', "raw": "\\x0022ff"}),
    "as a Query": (
        query("INSERT INTO news (doc, clock, name, data) VALUES ('%s', 1, 'it''s', NULL)" % U),
        {"name": "it's", "data": None}),
    "as a Query with numbers of all kinds": (
        query("INSERT INTO news (doc, clock, data) VALUES ('%s', 0, '7')" % U),
        {"clock": "0", "data": "7"}),
    "as a Query in a transaction": (
        query("BEGIN; INSERT INTO news (doc, clock) VALUES ('%s', 1); COMMIT" % U), {}),
    "with what the server makes": (
        extended("INSERT INTO news (doc, clock, name) VALUES ($1, $2, now()::text)"
                 " RETURNING id", [str(U), "1"]), {}),
    "what is there is updated": (
        op(1, 1) + op(1, 1, "new", " ON CONFLICT (doc, clock) DO UPDATE SET name = 'x'"),
        {"name": "new"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_told_is_what_was_sent(proxy, listener, form):
    request, row = FORMS[form]
    wire = proxy.wire("acme_app")
    wire.send(request)
    answers = request.count(b"S\0\0\0\4") or 1
    for _ in range(answers):
        assert errors(wire.until("Z")) == []
    channel, message = listener.close()[-1]
    assert channel == "acme:doc:" + DOC % 1
    assert json.loads(message) == {"doc": DOC % 1, "clock": "1", **row}


def test_a_statement_prepared_long_ago_is_told_of_too(proxy, listener):
    """Its types are those the server has said, as asyncpg asks for them."""
    wire = proxy.wire("acme_app")
    wire.run(parse(INSERT, "s") + describe("S", "s") + sync())
    for i in range(3):
        reply = wire.run(bind([U.bytes, struct.pack("!i", i), b"x"], "s", formats=[1])
                         + execute() + sync())
        assert tags(reply) == ["INSERT 0 1"]
    assert listener.close() == [news(1, i, "x") for i in range(3)]


def test_several_in_one_request_are_each_told_of(proxy, listener):
    wire = proxy.wire("acme_app")
    b = b"".join(bind([DOC % 1, str(i), None]) + execute() for i in (1, 1, 2, 3))
    reply = wire.run(parse(INSERT + " ON CONFLICT DO NOTHING") + b + sync())
    assert tags(reply) == ["INSERT 0 1", "INSERT 0 0", "INSERT 0 1", "INSERT 0 1"]
    assert listener.close() == [news(1, 1), news(1, 2), news(1, 3)]


def test_a_client_that_does_not_wait_hears_all_and_so_do_others(proxy, listener):
    wire = proxy.wire("acme_app")
    wire.send(b"".join(op(1, i) for i in range(600)))
    for _ in range(600):
        assert tags(wire.until("Z")) == ["INSERT 0 1"]
    assert listener.close() == [news(1, i) for i in range(600)]


def test_what_brings_no_row_is_told_to_nobody(proxy, listener):
    wire = proxy.wire("acme_app")
    wire.run(op(1, 1))
    assert errors(wire.run(op(1, 1)))[0]["C"] == "23505"
    assert errors(wire.run(op(1, -1)))[0]["C"] == "23514"
    assert errors(wire.run(op(1, "x")))[0]["C"] == "22P02"
    reply = wire.run(op(1, 1, more=" ON CONFLICT DO NOTHING"))
    assert tags(reply) == ["INSERT 0 0"]
    reply = wire.run(query("BEGIN; INSERT INTO news (doc, clock) VALUES ('%s', 1); COMMIT" % U))
    assert errors(reply)[0]["C"] == "23505"
    wire.run(query("ROLLBACK"))
    wire.run(op(1, 2))
    assert listener.close() == [news(1, 1), news(1, 2)]


def test_what_cannot_be_said_is_counted_and_committed(weir, pg, listener):
    w = weir({"batch news": {**BATCH, "publish_payload": '{"n": {name:json}}'}})
    wire = w.wire("acme_app")
    for i, name in enumerate(("[1]", "{", None)):
        assert tags(wire.run(op(1, i, name))) == ["INSERT 0 1"]
    wire.run(extended("INSERT INTO news (doc, clock) VALUES ($1, $2)", [DOC % 1, "3"]))
    assert [m for _, m in listener.close()] == ['{"n": [1]}', '{"n": null}']
    assert (told(w), told(w, "unsaid"), told(w, "failed")) == (2, 2, 0)
    assert w.event("publish")[0]["tenant"] == "acme"
    assert pg.run("SELECT count(*) FROM news") == [(4,)]


@pytest.fixture
def beta_redis(folder, authority):
    server = Redis(folder, authority, "redis-" + uuid.uuid4().hex)
    yield server
    server.stop()


@pytest.mark.parametrize("workers", [1, 4])
def test_each_organization_speaks_to_its_own_redis_as_its_own_user(
        weir, rd, beta_redis, workers):
    """One goes by TLS; and who may not speak in a channel does not."""
    w = weir({
        "batch news": {**BATCH, "publish": "acme:doc:{doc}", "publish_payload": "{name}"},
        "organization acme": {"redis_user": "acme", "redis_password": "acme-redis"},
        "organization beta": {"redis": "beta"},
        "redis beta": {"url": "rediss://:%s@localhost:%d/0" % (
            beta_redis.password, beta_redis.tls_port), "sslrootcert": beta_redis.ca},
    }, workers)
    both = [Listener(rd), Listener(beta_redis)]
    for i in range(20):
        for user, name in (("acme_app", "A"), ("beta_app", "B")):
            wire = w.wire(user)
            assert tags(wire.run(op(i % 5, i + 100 * (name == "B"), name))) == ["INSERT 0 1"]
    heard = [collections.Counter(m for _, m in one.close()) for one in both]
    assert heard == [{"A": 20}, {"B": 20}]
    with contextlib.closing(rd.connect()) as r:
        assert "acme" in [c["user"] for c in rd.clients()]
        r.execute_command("ACL", "SETUSER", "acme", "resetchannels")
    try:
        before = told(w, "failed")
        assert tags(w.wire("acme_app").run(op(1, 1000))) == ["INSERT 0 1"]
        assert told(w, "failed") == before + 1
        assert "NOPERM" in w.event("publish")[0]["error"]
    finally:
        with contextlib.closing(rd.connect()) as r:
            r.execute_command("ACL", "SETUSER", "acme", "&acme:*")


# Redis fails.


def behind(weir, port, rd, **options):
    return weir({"redis main": {"url": "redis://:%s@127.0.0.1:%d/0" % (rd.password, port)},
                 "batch news": {**BATCH, **options}})


def test_without_redis_all_is_written_and_counted(weir, rd, pg, relay, listener):
    line = relay(rd.port)
    w = behind(weir, line.port, rd)
    wire = w.wire("acme_app")
    wire.run(op(0, 0))
    wait_for(lambda: told(w) == 1)
    line.stop()
    for i in range(100):
        assert tags(wire.run(op(1, i))) == ["INSERT 0 1"]
    assert told(w, "failed") == 100
    assert w.event("publish")[0]["table"] == "news"
    line.start()
    n = iter(range(100))

    def again():
        wire.run(op(2, next(n)))
        time.sleep(0.1)
        return told(w) > 1
    wait_for(again, 9, "nothing is told any more")
    assert pg.run("SELECT count(*) FROM news") == [(101 + next(n),)]
    heard = listener.close()
    assert heard[0] == news(0, 0) and len(heard) == told(w)
    assert not [c for c, _ in heard[1:] if c != "acme:doc:" + DOC % 2]


def test_a_redis_that_does_not_answer_costs_a_second_and_no_more(weir, rd, relay):
    """Nor does it cost the same to those who come next."""
    line = relay(rd.port)
    w = behind(weir, line.port, rd)
    line.stalled = True
    wires = [w.wire("acme_app") for _ in range(5)]
    began = time.monotonic()
    for i, wire in enumerate(wires):
        wire.send(op(1, i))
    for wire in wires:
        assert tags(wire.until("Z")) == ["INSERT 0 1"]
    assert time.monotonic() - began > 0.9, "they were answered before they were told of"
    assert told(w, "failed") == 5
    # With nobody there who could be waited for this is as fast as ever.
    for i in range(20):
        assert tags(wires[0].run(op(2, i))) == ["INSERT 0 1"]
    wait_for(lambda: told(w, "failed") == 25, 10)
    assert time.monotonic() - began < scaled(20)


def test_a_line_that_breaks_tells_nothing_twice(weir, rd, pg, relay, listener):
    """And every one that is not counted as failed was heard."""
    line = relay(rd.port)
    w = behind(weir, line.port, rd)
    done = []

    def client(n):
        wire = w.wire("acme_app")
        for i in range(150):
            assert tags(wire.run(op(n, i))) == ["INSERT 0 1"]
            done.append(n)
    threads = [threading.Thread(target=client, args=[n]) for n in range(4)]
    for t in threads:
        t.start()
    for n in (100, 300):
        wait_for(lambda: len(done) >= n, 60, every=0.001)
        line.cut()
    for t in threads:
        t.join()
    heard = listener.close()
    assert pg.run("SELECT count(*) FROM news") == [(600,)]
    assert len(set(heard)) == len(heard)
    assert told(w) + told(w, "failed") == 600
    assert told(w) <= len(heard) <= 600
    for doc in range(4):
        clocks = [json.loads(m)["clock"] for c, m in heard if c == "acme:doc:" + DOC % doc]
        assert clocks == sorted(clocks, key=int)


LOGGED_IN = b"+OK\r\n:1\r\n+PONG\r\n"     # to AUTH, CLIENT ID, PING
RAVING = {
    "at once": lambda s: s.sendall(b"+OK\r\n" * 100),
    "to the log-in": lambda s: (s.recv(999), s.sendall(b"+OK\r\n" * 100)),
    "to the message": lambda s: (s.recv(999), s.sendall(LOGGED_IN), s.recv(9999),
                                 s.sendall(b":1\r\n:1\r\n" * 100)),
    "what is none": lambda s: (s.recv(999), s.sendall(LOGGED_IN), s.recv(9999),
                               s.sendall(b"what?\r\n")),
    "without an end": lambda s: (s.recv(999), s.sendall(LOGGED_IN), s.recv(9999),
                                 s.sendall(b"-" + b"x" * (1 << 20))),
    "an array of it": lambda s: (s.recv(999), s.sendall(LOGGED_IN), s.recv(9999),
                                 s.sendall(b"*2\r\n:1\r\n-NO\r\n")),
}


@pytest.mark.parametrize("how", RAVING)
def test_a_redis_that_says_what_nobody_asked_fails_no_write(weir, rd, how):
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                s = listening.accept()[0]
                with contextlib.closing(s), contextlib.suppress(OSError):
                    RAVING[how](s)
                    while s.recv(9999):
                        pass
    threading.Thread(target=serve, daemon=True).start()
    w = behind(weir, listening.getsockname()[1], rd)
    wire = w.wire("acme_app")
    for i in range(20):
        assert tags(wire.run(op(1, i))) == ["INSERT 0 1"]
    assert told(w) + told(w, "failed") == 20
    assert w.alive()
    listening.close()


def test_a_redis_lost_before_it_could_take_all_fails_no_write(weir, rd):
    """Its replies are so large that few more are asked for, and then it has none."""
    listening, asked = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        with contextlib.suppress(OSError):
            s = listening.accept()[0]
            with contextlib.closing(s):
                s.recv(999)
                s.sendall(LOGGED_IN)
                asked.append(s.recv(9999))
                s.sendall(b"$1000000\r\n" + b"x" * 1000000 + b"\r\n")
                while s.recv(9999):
                    pass
    threading.Thread(target=serve, daemon=True).start()
    w = behind(weir, listening.getsockname()[1], rd)
    wire = w.wire("acme_app")
    for n in (1, 60):
        wire.send(*[op(n % 2, i) for i in range(n)])
        for _ in range(n):
            assert tags(wire.until("Z")) == ["INSERT 0 1"]
    assert b"PUBLISH" in asked[0]
    assert told(w) + told(w, "failed") == 61 and told(w, "failed") > 16
    assert tags(wire.run(op(2, 1))) == ["INSERT 0 1"]
    listening.close()


def test_what_nobody_knows_to_be_committed_is_told_to_nobody(weir, pg, relay, listener):
    line = relay(pg.port)
    w = weir({"postgres main": {"port": line.port}, "batch news": BATCH})
    wire = w.wire("acme_app")
    wire.run(op(1, 1))
    wire.send(op(1, 2, "slow to commit"))
    wait_for(lambda: pg.run("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 20)
    line.cut()
    assert errors(wire.until("Z"))[0]["C"] == "08007"
    assert listener.close() == [news(1, 1)]
    pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")


def test_what_is_told_when_weir_is_stopped_is_answered(weir, rd, relay):
    line = relay(rd.port)
    line.stalled = True
    w = behind(weir, line.port, rd)
    wire = w.wire("acme_app")
    wire.send(op(1, 1))
    wait_for(lambda: line.accepted > 0, 20)
    w.signal(15)
    assert tags(wire.until("Z")) == ["INSERT 0 1"]
    wire.until_closed()
    w.over = True
    assert w.wait() == 0


def test_a_reload_tells_the_new_redis(weir, rd, beta_redis, listener):
    w = weir({"batch news": BATCH})
    wire = w.wire("acme_app")
    wire.run(op(1, 1))
    w.reload({"redis main": {"url": "redis://:%s@127.0.0.1:%d/0" % (
        beta_redis.password, beta_redis.port)}})
    other = Listener(beta_redis)
    w.wire("acme_app").run(op(1, 2))
    wire.run(op(1, 3))
    assert other.close() == [news(1, 2), news(1, 3)]
    assert listener.close() == [news(1, 1)]
