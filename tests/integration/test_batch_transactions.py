"""
Goal:   `transactions = on`: BEGIN, INSERTs, COMMIT of one client share a commit with
        others' as a whole or not at all; what a client hears is what PostgreSQL says,
        but that errors of the INSERTs come with the COMMIT, or with the first other
        statement; and nothing is committed that no COMMIT asked for.
Method: dialogues side by side with PostgreSQL, byte for byte; the same at once and a
        byte at a time; errors of every kind; servers killed at each stage; drivers;
        and a count of whole transactions against what was acknowledged.
"""
import itertools
import os
import random
import struct
import subprocess
import uuid

import pytest

import pgwire
from pgwire import (bind, close, describe, error, errors, execute, extended, flush, kinds, parse, query,
                    rows, status, sync, tags)
from servers import DATABASE, ORGANIZATIONS, UPSTREAM_USER, scaled, wait_for
from test_batch_publish import listener                     # noqa: F401
from test_batch import (ACME, DOC, INSERT, TABLE, Holder, at_work, count, direct, op, take, told)

pytestmark = pytest.mark.weir_only

CONFIG = {"batch ops": {"order_by": "doc", "transactions": "on"}}
HELD, MIXED = "batch_transactions_total", "batch_transactions_mixed_total"
BEGIN, COMMIT, ROLLBACK = query("BEGIN"), query("COMMIT"), query("ROLLBACK")
COUNT = query("SELECT count(*) FROM ops")
NOWHERE = str(uuid.UUID(int=7))


@pytest.fixture(scope="module", autouse=True)
def schema(pg):
    pg.run(TABLE)


@pytest.fixture(autouse=True)
def table(pg, schema):
    pg.run("TRUNCATE ops RESTART IDENTITY")


def insert(doc, clock, data="NULL", more=""):
    return query("INSERT INTO ops (doc, clock, data) VALUES ('%s', %d, %s)%s"
                 % (DOC % doc, clock, data, more))


# Dialogues: what is asked, up to each ReadyForQuery; how many transactions are held
# to their end, and how many of which something was held are run by a server.
ALL = {
    "two of node-postgres": ([BEGIN, op(1, 1), op(1, 2), COMMIT], 1, 0),
    "of psycopg2": ([BEGIN, insert(1, 1), insert(1, 2, "'{\"a\": [1]}'"), COMMIT], 1, 0),
    "of both": ([BEGIN, op(1, 1), insert(1, 2), op(1, 3), COMMIT], 1, 0),
    "one": ([query("begin;"), op(1, 1), query("END")], 1, 0),
    "in other words": ([query("START TRANSACTION"), op(1, 1), query("commit work;")], 1, 0),
    "twice": ([BEGIN, op(1, 1), COMMIT, BEGIN, op(1, 2), COMMIT, COUNT], 2, 0),
    "and then alone": ([BEGIN, op(1, 1), COMMIT, op(1, 2), BEGIN, COMMIT], 1, 0),
    "without a Describe": (
        [BEGIN, parse(INSERT) + bind([DOC % 1, "1", None]) + execute() + sync(), COMMIT], 1, 0),
    "prepared before": (
        [parse(INSERT, "s") + sync(), BEGIN, bind([DOC % 1, "1", None], "s") + execute() + sync(),
         bind([DOC % 1, "2", None], "s") + describe() + execute() + sync(), COMMIT], 1, 0),
    "prepared and described before": (
        [parse(INSERT, "s") + describe("S", "s") + sync(), BEGIN,
         bind([uuid.UUID(DOC % 1).bytes, struct.pack("!i", 1), None], "s", formats=[1])
         + execute() + sync(), COMMIT], 1, 0),
    "prepared inside": (
        [BEGIN, parse(INSERT, "s") + describe("S", "s") + sync(),
         bind([DOC % 1, "1", None], "s") + execute() + sync(), COMMIT,
         BEGIN, bind([DOC % 1, "2", None], "s") + execute() + sync(), COMMIT], 1, 0),
    "the unnamed one once more": (
        [BEGIN, op(1, 1), bind([DOC % 1, "2", None]) + execute() + sync(), COMMIT,
         bind([DOC % 1, "3", None]) + execute() + sync()], 1, 0),
    "the unnamed one is gone behind a Query": (
        [BEGIN, op(1, 1), insert(1, 2), bind([DOC % 1, "2", None]) + execute() + sync(),
         ROLLBACK], 0, 1),
    "several before one Sync": (
        [BEGIN, parse(INSERT) + bind([DOC % 1, "1", None]) + execute()
         + bind([DOC % 1, "2", None]) + describe() + execute() + sync(), op(1, 3), COMMIT], 1, 0),
    "extended from begin to end": ([extended("BEGIN"), op(1, 1), extended("COMMIT")], 1, 0),
    "ended by a prepared COMMIT": (
        [parse("COMMIT", "c") + sync(), BEGIN, op(1, 1), bind(name="c") + execute() + sync()],
        1, 0),
    "rolled back": ([BEGIN, op(1, 1), insert(1, 2), ROLLBACK, COUNT], 0, 0),
    "rolled back, extended": ([BEGIN, op(1, 1), extended("ROLLBACK"), COUNT], 0, 0),
    "with nothing between": ([BEGIN, sync(), op(1, 1), sync(), flush() + sync(), COMMIT], 1, 0),
    "with a statement closed": (
        [parse(INSERT, "s") + sync(), BEGIN, bind([DOC % 1, "1", None], "s") + execute() + sync(),
         close("S", "s") + sync(), query("SELECT 1"), COMMIT], 0, 1),
    "with a statement deallocated": (
        [parse(INSERT, "s") + sync(), BEGIN, bind([DOC % 1, "1", None], "s") + execute() + sync(),
         query("DEALLOCATE s"), COMMIT], 1, 0),
    "a NOTICE at the commit": ([BEGIN, op(1, 1), COMMIT], 1, 0),
    "and a SELECT": ([BEGIN, op(1, 1), insert(1, 2), COUNT, op(1, 3), COUNT, COMMIT], 0, 1),
    "and an extended SELECT": (
        [BEGIN, op(1, 1), extended("SELECT clock FROM ops"), COMMIT, COUNT], 0, 1),
    "and a SELECT, rolled back": ([BEGIN, op(1, 1), COUNT, ROLLBACK, COUNT], 0, 1),
    "and RETURNING": (
        [BEGIN, op(1, 1), op(1, 2, more=" RETURNING clock"), COMMIT], 0, 1),
    "and ON CONFLICT": (
        [BEGIN, op(1, 1), op(1, 1, more=" ON CONFLICT (doc, clock) DO NOTHING"), COMMIT], 0, 1),
    "and two rows": (
        [BEGIN, op(1, 1), query("INSERT INTO ops (doc, clock) VALUES ('%s', 2), ('%s', 3)"
                                % (DOC % 1, DOC % 1)), COMMIT, COUNT], 0, 1),
    "and a SAVEPOINT": (
        [BEGIN, op(1, 1), query("SAVEPOINT a"), op(1, 2), query("ROLLBACK TO a"), COMMIT, COUNT],
        0, 1),
    "and a setting": (
        [BEGIN, op(1, 1), query("SET LOCAL work_mem = '1MB'"), query("SHOW work_mem"), COMMIT],
        0, 1),
    "and another table": (
        [BEGIN, op(1, 1), query("UPDATE ops SET clock = 2"), COMMIT, COUNT], 0, 1),
    "and a second BEGIN": ([BEGIN, op(1, 1), BEGIN, COMMIT], 0, 1),
    "and COMMIT AND CHAIN": ([BEGIN, op(1, 1), query("COMMIT AND CHAIN"), op(1, 2), COMMIT], 0, 1),
    "and a COMMIT with more behind it": (
        [BEGIN, op(1, 1), query("COMMIT; SELECT 1")], 0, 1),
    "and an error": (
        [BEGIN, op(1, 1), query("SELEC"), op(1, 2), COMMIT, COUNT], 0, 1),
    "and an error of the protocol": (
        [BEGIN, op(1, 1), bind([], "nowhere") + execute() + sync(), op(1, 2), ROLLBACK], 0, 1),
    "and a parameter too few": (
        [BEGIN, op(1, 1), extended(INSERT, [DOC % 1, "1"]), ROLLBACK], 0, 1),
    "and an empty Query": ([BEGIN, op(1, 1), query(""), COMMIT], 0, 1),
    "and a COPY": (
        [BEGIN, op(1, 1), query("COPY ops (clock) TO STDOUT"), COMMIT], 0, 1),
    "read only": ([query("BEGIN READ ONLY"), op(1, 1), ROLLBACK], 0, 0),
    "of another isolation": (
        [query("BEGIN ISOLATION LEVEL READ COMMITTED"), op(1, 1), op(1, 2), COMMIT], 0, 0),
    "serializable": (
        [query("BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE"), op(1, 1), COMMIT], 0, 0),
    "a SELECT before": ([BEGIN, COUNT, op(1, 1), COMMIT], 0, 0),
    "in one Query": (
        [query("BEGIN; INSERT INTO ops (doc, clock) VALUES ('%s', 1)" % (DOC % 1)),
         op(1, 2), COMMIT], 0, 0),
}


def table_of(pg):
    return pg.run("SELECT organization_id, doc, clock, data FROM ops ORDER BY clock")


@pytest.mark.parametrize("name", ALL)
def test_every_transaction_is_answered_as_by_postgresql(proxy, pg, name):
    requests, held, mixed = ALL[name]
    heard = []
    for wire in (direct(pg), proxy.wire("acme_app")):
        pg.run("TRUNCATE ops RESTART IDENTITY")
        before = proxy.metric(HELD), proxy.metric(MIXED)
        heard.append([told(wire.run(request)) for request in requests] + [table_of(pg)])
    assert heard[1] == heard[0]
    assert (proxy.metric(HELD) - before[0], proxy.metric(MIXED) - before[1]) == (held, mixed)


def test_every_transaction_is_answered_the_same_in_one_write_and_in_bytes(proxy, pg):
    """How many are held differs: who asks before it was answered may have a server."""
    wires = (direct(pg), 0), (proxy.wire("acme_app"), 0), (proxy.wire("acme_app"), 1)
    before = proxy.metric(HELD)
    for name, (requests, _, _) in ALL.items():
        heard, whole = [], b"".join(requests)
        for wire, step in wires:
            pg.run("TRUNCATE ops RESTART IDENTITY")
            for i in range(0, len(whole), step or len(whole)):
                wire.send(whole[i:i + (step or len(whole))])
            heard.append([told(wire.until("Z")) for _ in requests] + [table_of(pg)])
            for left in (ROLLBACK, query("DEALLOCATE ALL")):
                wire.run(left)
        assert heard[1] == heard[0], name
        assert heard[2] == heard[0], name
    assert proxy.metric(HELD) - before > 10


SOAK = bool(os.environ.get("WEIR_SOAK"))
SEED = int(os.environ.get("WEIR_SEED") or (random.SystemRandom().randrange(1 << 30) if SOAK
                                           else 1))
DIALOGUES = 2000 if SOAK else 40


def dialogue(rng, clock, bad):
    """Requests at random, one of them an INSERT that fails if asked for."""
    def row():
        doc, n = rng.randrange(3), next(clock)
        return rng.choice([
            op(doc, n), op(doc, n), insert(doc, n), insert(doc, n),
            bind([DOC % doc, n, None], "s") + execute() + sync(),
            parse(INSERT) + bind([DOC % doc, n, None]) + execute()
            + bind([DOC % doc, next(clock), "{}"]) + describe() + execute() + sync(),
            op(doc, n, more=" RETURNING clock"),
            op(doc, n, more=" ON CONFLICT (doc, clock) DO NOTHING")])
    other = [COUNT, extended("SELECT max(clock) FROM ops"), query("SAVEPOINT a"),
             query("ROLLBACK TO a"), query("RELEASE a"), sync(), query(""), query("SHOW work_mem"),
             query("SET LOCAL work_mem = '2MB'"), parse("SELECT 7", "t") + sync(),
             close("S", "t") + sync(), query("SELEC")]
    begin = [BEGIN, BEGIN, BEGIN, extended("BEGIN"), query("BEGIN ISOLATION LEVEL SERIALIZABLE")]
    end = [COMMIT, COMMIT, COMMIT, extended("COMMIT"), ROLLBACK]
    if not bad:     # else one of them ends the transaction, and the other's error leaves it failed
        end.append(query("COMMIT AND CHAIN"))
    out = []
    for _ in range(rng.randrange(1, 4)):
        out.append(rng.choice(begin))
        for _ in range(rng.randrange(5)):
            out.append(row() if rng.random() < 0.8 else rng.choice(other))
        if rng.random() < 0.9:
            out.append(rng.choice(end))
        if rng.random() < 0.3:
            out.append(row())
    if bad:
        out.insert(rng.randrange(len(out) + 1),
                   rng.choice([op(1, -1), op(1, "x"), insert(1, -1),
                               extended(INSERT, [NOWHERE, next(clock), None])]))
    return out + [ROLLBACK]


def nowhere(answers):
    """Without where in PostgreSQL's source an error lies: weir's own lie nowhere."""
    return [[(kind, [f for f in body if f[0] not in "FLR"] if kind in "EN" else body)
             for kind, body in answer] for answer in answers]


def test_dialogues_at_random_are_answered_and_end_as_by_postgresql(proxy, pg):
    """Without an INSERT that fails every byte is the same, with one what is left is."""
    rng, clock, before = random.Random(SEED), itertools.count(), proxy.metric(HELD)
    wires = direct(pg), proxy.wire("acme_app")
    for i in range(DIALOGUES):
        for wire in wires:
            wire.run(query("DEALLOCATE ALL"))
            wire.run(parse(INSERT, "s") + sync())
        bad, split, heard = i % 3 == 2, rng.random(), []
        requests = dialogue(rng, clock, bad)
        for wire in wires:
            pg.run("TRUNCATE ops")
            if split < 0.7:
                answers = [told(wire.run(request)) for request in requests]
            else:
                whole = b"".join(requests)
                at = int(len(whole) * (split - 0.7) / 0.3)
                wire.send(whole[:at])
                wire.send(whole[at:])
                answers = [told(wire.until("Z")) for _ in requests]
            heard.append((None if bad else nowhere(answers), table_of(pg)))
        assert heard[1] == heard[0], "dialogue %d of WEIR_SEED=%d: %r" % (i, SEED, requests)
    assert proxy.metric(HELD) - before > 5


# Errors.

GOOD = ["INSERT 0 1"]
BAD = {
    "a key that is there": (op(1, 1), "23505"),
    "a row that breaks a CHECK": (op(1, -1), "23514"),
    "a value that is none": (op(1, "x"), "22P02"),
    "a row of nobody's": (extended(
        "INSERT INTO ops (doc, clock, organization_id) VALUES ($1, $2, $3)",
        [DOC % 1, "9", ORGANIZATIONS["beta"]]), "42501"),
    "a document there is not": (extended(INSERT, [NOWHERE, "9", None]), "23503"),
    "a column there is not": (extended("INSERT INTO ops (nope) VALUES ($1)", ["1"]), "42703"),
    "a value that is none, in a Query": (query(
        "INSERT INTO ops (doc, clock) VALUES ('x', 1)"), "22P02"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_error_is_that_of_the_commit_and_nothing_is_done(proxy, pg, name):
    """In the words PostgreSQL has for it, and both protocols' order."""
    bad, code = BAD[name]
    pg.run("INSERT INTO ops (organization_id, doc, clock) VALUES (%s, %s, 1)", [ACME, DOC % 1])
    with direct(pg) as wire:
        wire.run(BEGIN)
        want = [e for r in (bad, query("SET CONSTRAINTS ALL IMMEDIATE")) for e in
                errors(wire.run(r))][0]
        wire.run(ROLLBACK)
    wire = proxy.wire("acme_app")
    for end, before in ((COMMIT, ""), (extended("COMMIT"), "12n")):
        before_failed = proxy.metric("batch_failed_total")
        wire.run(BEGIN)
        for request in (op(1, 2), bad, op(1, 3)):
            reply = wire.run(request)
            assert tags(reply) == GOOD and status(reply) == "T"
        reply = wire.run(end)
        assert kinds(reply) == before + "EZ" and status(reply) == "I"
        assert errors(reply)[0]["C"] == code and errors(reply)[0]["M"] == want["M"]
        assert proxy.metric("batch_failed_total") == before_failed + 1
        assert count(pg) == 1
    assert tags(wire.run(op(1, 5))) == GOOD


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("ask", [COUNT, extended("SELECT 1"), query("SAVEPOINT a"),
                                 parse("SELECT 1") + sync()], ids=["Query", "extended", "savepoint",
                                                                   "parse"])
def test_an_error_before_another_statement_is_the_answer_to_that(proxy, pg, name, ask):
    """And the transaction has failed, as PostgreSQL says from then on."""
    bad, code = BAD[name]
    pg.run("INSERT INTO ops (organization_id, doc, clock) VALUES (%s, %s, 1)", [ACME, DOC % 1])
    wire = proxy.wire("acme_app")
    wire.run(BEGIN)
    wire.run(op(1, 2))
    assert tags(wire.run(bad)) == GOOD
    reply = wire.run(ask)
    if name == "a document there is not":       # that is looked at with the commit
        assert errors(reply) == [] and status(reply) == "T"
        assert [e["C"] for e in errors(wire.run(COMMIT))] == [code]
    else:
        assert kinds(reply) == "EZ" and status(reply) == "E"
        assert errors(reply)[0]["C"] == code
        for request in (op(1, 3), COUNT, extended("SELECT 1")):
            reply = wire.run(request)
            assert [e["C"] for e in errors(reply)] == ["25P02"] and status(reply) == "E"
        assert tags(wire.run(COMMIT)) == ["ROLLBACK"]
    assert rows(wire.run(COUNT)) == [["1"]]
    for request in (BEGIN, op(1, 7), COMMIT):
        assert errors(wire.run(request)) == []
    assert count(pg) == 2


def test_one_that_fails_takes_no_neighbour_along(proxy, pg):
    """Transactions of two clients and rows of others, in one commit: the one that
    fails is undone as a whole, and alone."""
    mine, other = proxy.wire("acme_app"), proxy.wire("acme_app")
    for wire, clocks in ((mine, (1, 2, -1, 3)), (other, (11, 12))):
        wire.run(BEGIN)
        for clock in clocks:
            assert tags(wire.run(op(1, clock))) == GOOD
    holder = Holder(proxy, pg)
    singles = [proxy.wire("acme_app") for _ in range(3)]
    take(proxy, singles[0], op(2, 1))
    take(proxy, mine, COMMIT)
    take(proxy, singles[1], op(2, 2))
    take(proxy, other, COMMIT)
    take(proxy, singles[2], op(2, 3))
    assert tags(holder.answer()) == GOOD
    assert [e["C"] for e in errors(mine.until("Z"))] == ["23514"]
    assert tags(other.until("Z")) == ["COMMIT"]
    assert [tags(w.until("Z")) for w in singles] == [GOOD] * 3
    assert [c for c, in pg.run("SELECT clock FROM ops WHERE clock < 999 ORDER BY clock")] \
        == [1, 2, 3, 11, 12]


def test_transactions_and_rows_share_one_commit(proxy, pg):
    wires = [proxy.wire("acme_app") for _ in range(8)]
    holder = Holder(proxy, pg)
    for i, wire in enumerate(wires):
        if i % 2:
            wire.run(BEGIN)
            for k in range(3):
                wire.run(op(1, 10 * i + k))
            take(proxy, wire, COMMIT)
        else:
            take(proxy, wire, op(1, 10 * i))
    holder.answer()
    assert [tags(w.until("Z")) for w in wires] == [GOOD, ["COMMIT"]] * 4
    assert [c for c, in pg.run("SELECT clock FROM ops WHERE clock < 999 ORDER BY id")] \
        == [0, 10, 11, 12, 20, 30, 31, 32, 40, 50, 51, 52, 60, 70, 71, 72]
    assert pg.run("SELECT count(DISTINCT xmin::text) FROM ops WHERE clock < 999")[0][0] == 1


def test_a_notice_of_what_is_held_comes_with_its_commit(proxy):
    wire = proxy.wire("acme_app")
    for end, want in ((COMMIT, "NNCZ"), (extended("COMMIT"), "12nNNCZ"), (COUNT, "NNTDCZ")):
        wire.run(BEGIN)
        for i in range(2):
            assert kinds(wire.run(op(2, i, '{"notice": %d}' % i))) == "12nCZ"
        reply = wire.run(end)
        assert kinds(reply) == want
        assert [error(b)["M"] for k, b in reply if k == "N"] == ["seen 0", "seen 1"]
        wire.run(query("DELETE FROM ops"))
        wire.run(COMMIT)


# What is not held, or not for ever.


def test_nothing_is_committed_without_a_commit(proxy, pg):
    for end in (b"", pgwire.terminate(), ROLLBACK, COMMIT[:3]):
        wire = proxy.wire("acme_app")
        wire.run(BEGIN)
        assert tags(wire.run(op(1, 1))) == GOOD
        wire.send(end)
        wire.close()
    proxy.settled(postgres=0)
    assert count(pg) == 0


def test_what_is_held_needs_no_server(one_server, pg):
    """The only one is free for others until the COMMIT."""
    early, late = one_server.wire("acme_app"), one_server.wire("acme_app")
    early.run(BEGIN)
    early.run(op(1, 1))
    late.run(BEGIN)
    assert rows(late.run(COUNT)) == [["0"]]
    late.run(COMMIT)
    assert tags(early.run(COMMIT)) == ["COMMIT"]
    assert rows(late.run(COUNT)) == [["1"]]


def test_what_is_too_much_to_be_held_is_run(proxy, pg):
    """More rows, or more bytes, than one operation may have."""
    wire = proxy.wire("acme_app")
    for clocks, data in ((range(100), None), (range(100, 110), '"%s"' % ("x" * 9000))):
        before = proxy.metric(MIXED)
        wire.run(BEGIN)
        for clock in clocks:
            reply = wire.run(op(1, clock, data))
            assert tags(reply) == GOOD and status(reply) == "T"
        assert tags(wire.run(COMMIT)) == ["COMMIT"]
        assert proxy.metric(MIXED) == before + 1
    assert count(pg) == 110


def test_documents_of_two_lanes_are_not_one_operation(weir, pg):
    w = weir({"batch ops": {"order_by": "doc", "transactions": "on", "in_flight": 64}}, 4)
    wire = w.wire("acme_app")
    for docs, held in (([1, 1], 1), ([1, 2, 3, 4, 5, 6, 7], 0)):
        before = w.metric(HELD)
        wire.run(BEGIN)
        for clock, doc in enumerate(docs):
            assert tags(wire.run(op(doc, 10 * held + clock))) == GOOD
        assert tags(wire.run(COMMIT)) == ["COMMIT"]
        assert w.metric(HELD) == before + held
    assert count(pg) == 9


def test_a_transaction_counts_for_the_rate_of_operations_as_a_whole(weir, pg, workers):
    w = weir({**CONFIG, "organization acme": {"rate_operations": "5/1h"}}, workers)
    wire = w.wire("acme_app")
    for first, tag, codes in ((0, ["COMMIT"], []), (3, [], ["53400"])):
        wire.run(BEGIN)
        for clock in range(first, first + 3):
            assert tags(wire.run(op(1, clock))) == GOOD
        reply = wire.run(COMMIT)
        assert (tags(reply), [e["C"] for e in errors(reply)], status(reply)) == (tag, codes, "I")
    assert errors(reply)[0]["H"].startswith("Retry in")
    wire.run(BEGIN)
    for clock in range(6):
        assert tags(wire.run(op(2, clock))) == GOOD
    reply = wire.run(COMMIT)
    assert [(e["C"], e["H"]) for e in errors(reply)] == [("53400", "So much at once never passes.")]
    assert count(pg) == 3


def test_another_organization_is_another_transaction(weir, pg, workers):
    """A service user's choice before, inside and between."""
    w = weir({**CONFIG, "user svc": {"auth": "trust", "organizations": "acme, beta"}}, workers)
    wire = w.wire(login=False)
    wire.login("svc", DATABASE, **{"weir.organization": "acme"})
    choose = query("SET LOCAL weir.organization = 'beta'")
    for parts, mine, others in (
            ([BEGIN, op(1, 1), COMMIT], 1, 0),
            ([BEGIN, choose, op(1, 2), COMMIT], 0, 1),
            ([BEGIN, op(1, 3), choose, op(1, 4), COMMIT], 1, 1),
            ([BEGIN, op(1, 5), COMMIT], 1, 0)):
        pg.run("TRUNCATE ops")
        for part in parts:
            assert errors(wire.run(part)) == []
        assert [count(pg, "organization_id = '%s'" % ORGANIZATIONS[o])
                for o in ("acme", "beta")] == [mine, others]
    assert w.metric(HELD) == 2


def test_it_is_off_where_nobody_asked_for_it(weir, pg):
    w = weir({"batch ops": {"order_by": "doc"}})
    wire = w.wire("acme_app")
    for part in (BEGIN, op(1, 1), op(1, 1)):
        reply = wire.run(part)
    assert [e["C"] for e in errors(reply)] == ["23505"]
    assert w.metric(HELD) == w.metric(MIXED) == 0


def test_a_transaction_that_is_idle_for_too_long_is_ended(weir, pg):
    w = weir({**CONFIG, "weir": {"idle_transaction_timeout": 1}})
    wire = w.wire("acme_app")
    wire.run(BEGIN)
    wire.run(op(1, 1))
    assert [e["C"] for e in errors(wire.until_closed())] == ["25P03"]
    assert count(pg) == 0


def test_a_stop_waits_for_a_transaction_that_is_held(weir, pg, workers):
    w = weir(CONFIG, workers)
    wire = w.wire("acme_app")
    wire.run(BEGIN)
    wire.run(op(1, 1))
    w.signal(15)
    wait_for(lambda: w.events("drain"), 5, "it does not stop")
    assert tags(wire.run(op(1, 2))) == GOOD
    assert tags(wire.run(COMMIT)) == ["COMMIT"]
    wire.close()
    assert w.wait() == 0
    w.over = True
    assert count(pg) == 2


@pytest.fixture
def left_out(pg):
    """Rows of clock 13 do not come about."""
    pg.run("CREATE OR REPLACE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS $$"
           " BEGIN RETURN NULL; END $$;"
           "CREATE TRIGGER leave_out BEFORE INSERT ON ops FOR EACH ROW WHEN (NEW.clock = 13)"
           " EXECUTE FUNCTION leave_out()")
    yield
    pg.run("DROP FUNCTION leave_out CASCADE")


def test_a_row_that_a_trigger_leaves_out_is_warned_of(proxy, left_out):
    """The tag was told before anybody knew."""
    wire = proxy.wire("acme_app")
    for end, want in ((COMMIT, "NCZ"), (COUNT, "NTDCZ")):
        wire.run(BEGIN)
        for clock in (1, 13, 2):
            assert tags(wire.run(op(3, clock))) == GOOD
        reply = wire.run(end)
        assert kinds(reply) == want and error(reply[0][1])["C"] == "01000"
        wire.run(query("DELETE FROM ops"))
        wire.run(COMMIT)


def test_what_is_held_is_told_of_when_it_is_committed(weir, pg, listener, left_out, workers):
    """To Redis, row by row, but for those that did not come about."""
    w = weir({"batch ops": {"order_by": "doc", "transactions": "on", "publish": "acme:doc:{doc}",
                            "publish_payload": "{clock}"}}, workers)
    wire = w.wire("acme_app")
    for clocks, end, tag in (((1, 13, 2), COMMIT, ["COMMIT"]), ((3, 4), ROLLBACK, ["ROLLBACK"]),
                             ((5, -1), COMMIT, []), ((6,), extended("COMMIT"), ["COMMIT"])):
        wire.run(BEGIN)
        for clock in clocks:
            assert tags(wire.run(insert(1, clock) if clock == 2 else op(1, clock))) == GOOD
        assert tags(wire.run(end)) == tag
    assert listener.close() == [("acme:doc:" + DOC % 1, clock) for clock in "126"]


# Servers that are lost.


def test_a_server_lost_before_the_commit_costs_a_second_try(proxy, pg):
    """At work on a row of the transaction, others' behind it."""
    mine, other = proxy.wire("acme_app"), proxy.wire("acme_app")
    mine.run(BEGIN)
    for i in range(3):
        mine.run(op(1, i, '{"sleep": 0.5}' if i == 1 else None))
    holder = Holder(proxy, pg)
    take(proxy, mine, COMMIT)
    take(proxy, other, op(1, 9))
    assert tags(holder.answer()) == GOOD
    pg.run("SELECT pg_terminate_backend(%s)", [at_work(pg)])
    assert tags(mine.until("Z")) == ["COMMIT"] and tags(other.until("Z")) == GOOD
    assert [c for c, in pg.run("SELECT clock FROM ops WHERE clock < 999 ORDER BY id")] \
        == [0, 1, 2, 9]


def test_a_server_lost_while_it_commits_leaves_an_outcome_nobody_knows(proxy, pg):
    wire = proxy.wire("acme_app")
    wire.run(BEGIN)
    for i in range(3):
        wire.run(op(1, i, '{"commit": 20}' if i == 1 else None))
    before = proxy.metric("batch_unknown_total")
    take(proxy, wire, COMMIT)
    pg.run("SELECT pg_terminate_backend(%s)", [at_work(pg)])
    reply = wire.until("Z")
    assert [e["C"] for e in errors(reply)] == ["08007"] and status(reply) == "I"
    assert proxy.metric("batch_unknown_total") == before + 1
    assert count(pg) == 0
    assert tags(wire.run(op(1, 1))) == GOOD


def test_a_server_lost_on_what_was_held_ends_the_connection(proxy, pg):
    """The transaction was its own: as everywhere, nobody guesses what it has done."""
    wire = proxy.wire("acme_app")
    wire.run(BEGIN)
    wire.run(op(1, 1, '{"sleep": 20}'))
    wire.send(COUNT)
    pg.run("SELECT pg_terminate_backend(%s)", [at_work(pg)])
    assert [e["C"] for e in errors(wire.until_closed())] == ["08006"]
    assert count(pg) == 0


def test_without_a_server_the_commit_says_so_and_nothing_is_done(weir, pg, workers):
    w = weir({**CONFIG, "postgres main": {"pool_size": 1}}, workers)
    holder = w.wire("acme_app")
    holder.run(BEGIN)
    holder.run(query("SELECT 1"))
    w.reload({"weir": {"query_wait_timeout": 2}})       # of those who come now
    wire = w.wire("acme_app")
    wire.run(BEGIN)
    wire.run(op(1, 1))
    reply = wire.run(COMMIT)
    assert [e["C"] for e in errors(reply)] == ["53300"] and status(reply) == "I"
    holder.run(COMMIT)
    assert count(pg) == 0
    for part in (BEGIN, op(1, 1), COMMIT):
        reply = wire.run(part)
    assert tags(reply) == ["COMMIT"]


def test_who_leaves_behind_its_commit_has_it_carried_out(proxy, pg):
    holder = Holder(proxy, pg)
    for i in range(3):
        wire = proxy.wire("acme_app")
        for part in (BEGIN, op(1, 2 * i), op(1, 2 * i + 1)):
            wire.run(part)
        take(proxy, wire, COMMIT)
        wire.close()
    holder.answer()
    wait_for(lambda: count(pg, "clock < 9") == 6, 10, "not all was carried out")


def test_who_closes_its_side_only_hears_what_it_asked_for(weir, pg):
    """By a server that is there: who waits for one has gone."""
    import socket
    w = weir(CONFIG)
    w.wire("acme_app").run(COUNT)
    for parts, heard in (([BEGIN, op(1, 1), COMMIT], "CZ12nCZCZ"),
                         ([BEGIN, op(1, 2), COUNT, COMMIT, COUNT], "CZ12nCZTDCZCZTDCZ"),
                         ([BEGIN, op(1, -1), COUNT, COMMIT], "CZ12nCZEZCZ")):
        wire = w.wire("acme_app")
        wire.send(*parts)
        wire.sock.shutdown(socket.SHUT_WR)
        assert kinds(wire.until_closed()) == heard
    assert count(pg) == 2


def waits_for_lock(pg, key):
    """Somebody for this one: another test's may still wait for its own."""
    wait_for(lambda: pg.run("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
                            " AND objid = %s AND NOT granted", [key]), 10, "nobody waits for it")


def test_who_closes_its_side_just_when_what_is_held_was_carried_out_hears_the_rest(weir, pg):
    """Its end comes in one turn with the server's answer, and behind it."""
    import socket
    w = weir(CONFIG)
    w.wire("acme_app").run(COUNT)
    db, wire = pg.connect(), w.wire("acme_app")
    db.cursor().execute("SELECT pg_advisory_lock(7711)")
    wire.send(BEGIN, op(1, 1, '{"lock": 7711}'), COUNT, COMMIT, COUNT)
    waits_for_lock(pg, 7711)
    with w.stopped():
        db.close()
        wait_for(lambda: pg.run("SELECT 1 FROM pg_stat_activity WHERE usename = %s"
                                " AND state = 'idle in transaction'", [UPSTREAM_USER]),
                 10, "the row is not inserted")
        wire.sock.shutdown(socket.SHUT_WR)
    assert kinds(wire.until_closed()) == "CZ12nCZTDCZCZTDCZ"


def test_who_closes_its_side_before_an_error_of_what_is_held_keeps_no_server(weir, pg):
    """That was the answer to all it had asked: nothing is left to wait for.  The server
    is there before: who waits for one has gone."""
    import socket
    w = weir(CONFIG)
    w.wire("acme_app").run(COUNT)
    db, wire = pg.connect(), w.wire("acme_app")
    db.cursor().execute("SELECT pg_advisory_lock(7712)")
    wire.send(BEGIN, op(1, -1, '{"lock": 7712}'), COUNT)
    wire.sock.shutdown(socket.SHUT_WR)
    waits_for_lock(pg, 7712)
    db.close()
    assert kinds(wire.until_closed()) == "CZ12nCZEZ"


# Real drivers, in their own transactions.


def url_of(w, driver=""):
    return "postgresql%s://acme_app:acme-secret@127.0.0.1:%d/%s" % (driver, w.pg_port, DATABASE)


EACH = 8


def with_psycopg2(w):
    import psycopg2
    db = psycopg2.connect(url_of(w))
    for i in range(EACH):
        with db, db.cursor() as cur:
            cur.execute("INSERT INTO ops (doc, clock, data) VALUES (%s, %s, %s)",
                        [DOC % 1, i, '{"a": 1}'])
            assert cur.rowcount == 1
    db.close()


def with_psycopg(w):
    import psycopg
    with psycopg.connect(url_of(w), prepare_threshold=2) as db:
        for i in range(EACH):
            with db.transaction():
                for k in range(2):
                    cur = db.execute("INSERT INTO ops (doc, clock) VALUES (%s, %s)",
                                     [uuid.UUID(DOC % 2), 2 * i + k])
                    assert cur.rowcount == 1


async def with_asyncpg(w):
    import asyncpg
    db = await asyncpg.connect(url_of(w))
    for i in range(EACH):
        async with db.transaction():
            assert await db.execute("INSERT INTO ops (doc, clock, data) VALUES ($1, $2, $3)",
                                    DOC % 3, i, '{"b": 2}') == "INSERT 0 1"
    await db.close()


def with_sqlalchemy(w, **options):
    import sqlalchemy
    engine = sqlalchemy.create_engine(url_of(w, "+psycopg2"), **options)
    for i in range(EACH):
        with engine.begin() as db:
            db.execute(sqlalchemy.text("INSERT INTO ops (doc, clock) VALUES (:d, :c)"),
                       {"d": DOC % 4, "c": i})
    engine.dispose()


async def with_sqlalchemy_asyncpg(w, **options):
    import sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine
    engine = create_async_engine(url_of(w, "+asyncpg"), **options)
    for i in range(EACH):
        async with engine.begin() as db:
            await db.execute(sqlalchemy.text("INSERT INTO ops (doc, clock) VALUES (:d, :c)"),
                             {"d": uuid.UUID(DOC % 5), "c": i})
    await engine.dispose()


def at_rest(what):
    import asyncio
    return asyncio.run(what) if asyncio.iscoroutine(what) else what


def with_node(w):
    import nodejs
    nodejs.ready()
    subprocess.run(["node", os.path.join(nodejs.FOLDER, "held.js")], check=True,
                   timeout=scaled(60), env={**os.environ, "DSN": url_of(w), "DOC": DOC % 6,
                                            "EACH": str(EACH)})


DRIVERS = {"node-postgres": (with_node, EACH), "psycopg2": (with_psycopg2, EACH), "psycopg": (with_psycopg, 2 * EACH),
           "asyncpg": (with_asyncpg, EACH), "SQLAlchemy": (with_sqlalchemy, EACH),
           "SQLAlchemy, asyncpg": (with_sqlalchemy_asyncpg, EACH)}


@pytest.mark.parametrize("name", DRIVERS)
def test_drivers_transactions_are_held(proxy, pg, name):
    """SQLAlchemy 1.4 names an isolation level to asyncpg: that is another transaction."""
    import sqlalchemy
    work, n = DRIVERS[name]
    before = proxy.metric(HELD)
    at_rest(work(proxy))
    assert count(pg) == n
    held = proxy.metric(HELD) - before
    if name == "SQLAlchemy, asyncpg" and sqlalchemy.__version__.startswith("1."):
        assert held == 0
    else:
        assert held >= EACH - 2     # one that prepares its statement goes by itself


def test_a_table_of_sqlalchemy_is_held_where_nothing_is_returned(proxy, pg):
    """Its id is made by the server: that is asked for, unless the insert is inline()."""
    import sqlalchemy as sa
    table = sa.Table("ops", sa.MetaData(), sa.Column("id", sa.BigInteger, primary_key=True),
                     sa.Column("doc", sa.Text), sa.Column("clock", sa.Integer))
    engine = sa.create_engine(url_of(proxy, "+psycopg2"))
    # A text is no uuid to it: the value comes with a cast.
    doc = sa.cast(DOC % 7, sa.dialects.postgresql.UUID)
    for clock, insert, held in ((0, table.insert(), 0), (1, table.insert().inline(), 1)):
        before = proxy.metric(HELD)
        with engine.begin() as db:
            db.execute(insert.values(doc=doc, clock=clock))
        assert proxy.metric(HELD) == before + held
    engine.dispose()
    assert count(pg) == 2


@pytest.mark.parametrize("work", [with_sqlalchemy, with_sqlalchemy_asyncpg])
def test_an_autocommit_engine_of_sqlalchemy_shares_commits(proxy, pg, work):
    """The recipe of the README, which needs no transactions = on."""
    before = proxy.metric("batch_operations_total"), proxy.metric(HELD), proxy.metric(MIXED)
    at_rest(work(proxy, isolation_level="AUTOCOMMIT"))
    assert count(pg) == EACH
    assert proxy.metric("batch_operations_total") >= before[0] + EACH - 1   # one prepares
    assert (proxy.metric(HELD), proxy.metric(MIXED)) == before[1:]
