"""
Goal:   with merge = on, rows of one shape become one statement, and no client
        can tell: it hears what it would have heard alone, its row is there in
        its turn, and another's failure is not its own.  Where nobody can know
        whose a row or a notice is, nobody is told that it was theirs.
Method: operations that gather behind one that waits, in every form; errors,
        triggers and constraints among them; the same for PostgreSQL alone.
"""
import struct
import uuid

import pytest

from pgwire import (bind, describe, error, errors, execute, extended, kinds, parse, sync, tags)
from servers import ORGANIZATIONS, wait_for
from test_batch import (ACME, DOC, INSERT, TABLE, Holder, at_work, behind, count, direct, op, take, told)

pytestmark = pytest.mark.weir_only

CONFIG = {"batch ops": {"order_by": "doc", "merge": "on"}}


@pytest.fixture(autouse=True)
def table(pg):
    pg.run(TABLE)


def other(sql=INSERT):
    """The same INSERT by a text of which weir has learned nothing."""
    return sql + " /* %s */" % uuid.uuid4()


def merged(w, pg, requests):
    """What they hear, and how many rows were one statement with others."""
    pg.run("DELETE FROM ops WHERE clock = 1000")     # of the one they gathered behind before
    before = w.metric("batch_merged_total")
    first, answers, _ = behind(w, pg, requests)
    assert tags(first) == ["INSERT 0 1"]
    return answers, w.metric("batch_merged_total") - before


def ops(sql, n, doc=1):
    return [extended(sql, [DOC % doc, str(i), None]) for i in range(n)]


def clocks(pg):
    return [c for c, in pg.run("SELECT clock FROM ops WHERE clock < 1000 ORDER BY id")]


@pytest.mark.parametrize("n, together", [(1, 0), (2, 2), (3, 2), (37, 36), (150, 150)])
def test_rows_of_one_shape_are_one_statement(proxy, pg, n, together):
    answers, m = merged(proxy, pg, ops(other(), n))
    assert [kinds(a) for a in answers] == ["12nCZ"] * n
    assert [tags(a) for a in answers] == [["INSERT 0 1"]] * n
    assert m == together and clocks(pg) == list(range(n))
    assert pg.run("SELECT count(DISTINCT xmin::text) FROM ops")[0][0] == 2


U = uuid.UUID(DOC % 1)
SPELLED = {     # the same statement, as clients send it
    "as node-postgres": lambda sql, i: [extended(sql, [str(U), str(i), '{"a": "\\u00e9\\"}"}'])],
    "without a Describe": lambda sql, i: [
        parse(sql) + bind([str(U), str(i), None]) + execute() + sync()],
    "a format for all": lambda sql, i: [
        parse(sql) + bind([U.bytes, struct.pack("!i", i), b'\1[1]'], formats=[1])
        + execute() + sync()],
    "a format for each": lambda sql, i: [
        parse(sql) + bind([U.bytes, str(i), None], formats=[1, 0, 1])
        + describe() + execute() + sync()],
    "prepared": lambda sql, i: [
        parse(sql, "s") + describe("S", "s") + sync(),
        bind([U.bytes, struct.pack("!i", i), b'\1""'], "s", formats=[1]) + execute() + sync()],
    "prepared, and looked at": lambda sql, i: [
        parse(sql, "s") + sync(),
        bind([str(U), str(i), ""], "s", results=[1]) + describe() + execute() + sync()],
}


def test_forms_of_one_statement_share_it_and_are_answered_each_in_its_own(proxy, pg):
    """One of them has a value that is none, and all the others go on."""
    sql, heard = other(), []
    for kind in ("direct", "weir"):
        pg.run("TRUNCATE ops RESTART IDENTITY")
        wires = [direct(pg) if kind == "direct" else proxy.wire("acme_app") for _ in SPELLED]
        asked = [form(sql, i) for i, form in enumerate(SPELLED.values())]
        for wire, requests in zip(wires, asked):
            for request in requests[:-1]:
                wire.run(request)
        before = proxy.metric("batch_merged_total")
        if kind == "weir":
            holder = Holder(proxy, pg)
        for wire, requests in zip(wires, asked):
            wire.send(requests[-1]) if kind == "direct" else take(proxy, wire, requests[-1])
        if kind == "weir":
            holder.answer()
        heard.append([told(wire.until("Z")) for wire in wires])
    assert heard[1] == heard[0]
    assert proxy.metric("batch_merged_total") - before == 4 + 2
    assert clocks(pg) == list(range(len(SPELLED) - 1))


@pytest.mark.parametrize("sql, types", [
    ("INSERT INTO ops (doc, clock, data) VALUES ($1, $2, $3)", [2950, 23, 3802]),
    ("INSERT INTO ops (doc, clock, data) VALUES ($1, $2, $3)", [0, 20]),
    ("INSERT INTO public.ops (\"doc\", CLOCK, data) VALUES ($1::uuid, $2::int, $3::jsonb);", []),
    ("INSERT INTO ops AS o (doc, clock, data) VALUES ($1, $2, $3)", []),
])
def test_types_and_names_are_those_of_the_statement(proxy, pg, sql, types):
    sql = "/* %s */ %s" % (uuid.uuid4(), sql)
    answers, m = merged(proxy, pg, [
        parse(sql, types=types) + bind([DOC % 1, str(i), None]) + execute() + sync()
        for i in range(8)])
    assert [tags(a) for a in answers] == [["INSERT 0 1"]] * 8
    assert m == 8 and clocks(pg) == list(range(8))


def test_what_is_of_another_shape_goes_as_it_is(proxy, pg):
    answers, m = merged(proxy, pg, [
        extended(INSERT + " RETURNING clock", [DOC % 1, str(i), None]) for i in range(4)] + [
        extended(INSERT + " ON CONFLICT DO NOTHING", [DOC % 1, str(i), None])
        for i in range(4, 8)] + [
        extended("INSERT INTO ops (doc, clock, applied_at) VALUES ($1, $2, clock_timestamp())",
                 [DOC % 1, str(i)]) for i in range(8, 12)] + [
        extended("INSERT INTO ops (clock, doc) VALUES ($2, $1)", [DOC % 1, str(i)])
        for i in range(12, 16)])
    assert [tags(a) for a in answers] == [["INSERT 0 1"]] * 16
    assert m == 0 and clocks(pg) == list(range(16))


def test_shapes_that_take_turns_keep_their_order(proxy, pg):
    a, b = other(), other()
    answers, m = merged(proxy, pg, [
        extended((a, b)[i // 5 % 2], [DOC % 1, str(i), None]) for i in range(20)])
    assert [tags(a) for a in answers] == [["INSERT 0 1"]] * 20
    assert m == 4 * 4 and clocks(pg) == list(range(20))


def test_one_that_fails_is_alone_with_its_error(proxy, pg):
    sql = other()
    requests = ops(sql, 30)
    bad = {3: ([DOC % 1, "1", None], "23505"), 5: ([DOC % 1, "x", None], "22P02"),
           17: ([DOC % 1, "-1", None], "23514"), 29: ([None, "1", None], "23502")}
    for i, (args, _) in bad.items():
        requests[i] = extended(sql, args)
    answers, m = merged(proxy, pg, requests)
    for i, answer in enumerate(answers):
        assert [e["C"] for e in errors(answer)] == ([bad[i][1]] if i in bad else []), i
        assert i in bad or (kinds(answer), tags(answer)) == ("12nCZ", ["INSERT 0 1"])
    assert m == 16 + 8 + 4 + 2 and clocks(pg) == [i for i in range(30) if i not in bad]
    # For a while they are not put together again.
    answers, m = merged(proxy, pg, [extended(sql, [DOC % 2, str(i), None]) for i in range(8)])
    assert m == 0 and [tags(a) for a in answers] == [["INSERT 0 1"]] * 8


def test_a_row_of_nobody_is_refused_to_who_sent_it(proxy, pg):
    sql = other("INSERT INTO ops (doc, clock, organization_id) VALUES ($1, $2, $3)")
    answers, m = merged(proxy, pg, [
        extended(sql, [DOC % 1, str(i), ORGANIZATIONS["beta"] if i == 2 else ACME])
        for i in range(4)])
    assert [[e["C"] for e in errors(a)] for a in answers] == [[], [], ["42501"], []]
    assert m == 4 and clocks(pg) == [0, 1, 3]


def test_a_commit_that_fails_fails_who_is_to_blame(proxy, pg):
    sql = other()
    requests = ops(sql, 4)
    requests[1] = extended(sql, [str(uuid.UUID(int=7)), "1", None])
    answers, m = merged(proxy, pg, requests)
    assert [[e["C"] for e in errors(a)] for a in answers] == [[], ["23503"], [], []]
    assert m == 4 and clocks(pg) == [0, 2, 3]


def test_notices_end_it(proxy, pg):
    """Each hears its own from then on."""
    sql = other()
    loud = [extended(sql, [DOC % 1, str(i), '{"notice": %d}' % i]) for i in range(8)]
    answers, m = merged(proxy, pg, loud[:4])
    assert [tags(a) for a in answers] == [["INSERT 0 1"]] * 4 and m == 4
    answers, m = merged(proxy, pg, loud[4:])
    assert [error(b)["M"] for a in answers for k, b in a if k == "N"] == [
        "seen %d" % i for i in range(4, 8)]
    assert m == 0 and count(pg, "clock < 1000") == 8


def test_a_row_that_a_trigger_leaves_out_makes_all_of_them_unknown(proxy, pg):
    """They are committed, and nobody can say which; and it is done once."""
    pg.run("CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS"
           " $$ BEGIN RETURN NULL; END $$;"
           "CREATE TRIGGER leave_out BEFORE INSERT ON ops FOR EACH ROW"
           " WHEN (NEW.clock % 4 = 1) EXECUTE FUNCTION leave_out()")
    try:
        sql = other()
        answers, m = merged(proxy, pg, ops(sql, 4))
        assert [[e["C"] for e in errors(a)] for a in answers] == [["08007"]] * 4 and m == 4
        assert clocks(pg) == [0, 2, 3]
        each = [["INSERT 0 1"], ["INSERT 0 0"], ["INSERT 0 1"], ["INSERT 0 1"]]
        answers, m = merged(proxy, pg, ops(sql, 4, doc=2))
        assert [tags(a) for a in answers] == each
        assert m == 0 and clocks(pg) == [0, 2, 3] * 2
        # But if that was undone, for another's error, all is known.
        answers, m = merged(proxy, pg, ops(other(), 4, doc=3) + [
            extended(other(), [DOC % 3, "-1", None])])
        assert [tags(a) for a in answers] == each + [[]]
        assert [e["C"] for e in errors(answers[-1])] == ["23514"]
        assert m == 4 and clocks(pg) == [0, 2, 3] * 3
    finally:
        pg.run("DROP FUNCTION leave_out CASCADE")


def test_a_server_that_is_lost_before_the_commit_is_replaced(proxy, pg):
    sql, lock, db = other(), 7710, pg.connect()
    wires = [proxy.wire("acme_app") for _ in range(4)]
    holder = Holder(proxy, pg)
    before = proxy.metric("batch_merged_total")
    for i, wire in enumerate(wires):
        take(proxy, wire, extended(sql, [DOC % 1, str(i),
                                         '{"lock": %d}' % lock if i == 2 else None]))
    db.cursor().execute("SELECT pg_advisory_lock(%s)", [lock])
    holder.answer()
    pid = at_work(pg, "advisory")
    pg.run("SELECT pg_terminate_backend(%s)", [pid])
    wait_for(lambda: proxy.metric("batch_merged_total") - before == 8, 20)
    db.close()
    assert [tags(wire.until("Z")) for wire in wires] == [["INSERT 0 1"]] * 4
    assert clocks(pg) == [0, 1, 2, 3]


def test_each_of_them_is_told_to_redis(weir, pg, rd):
    w = weir({"batch ops": {"merge": "on", "publish": "merge:{doc}",
                            "publish_payload": "{clock}"}})
    sub = rd.connect(decode_responses=True).pubsub()
    sub.subscribe("merge:" + DOC % 1)
    assert sub.get_message(timeout=20)["type"] == "subscribe"
    answers, m = merged(w, pg, ops(other(), 8))
    assert m == 8 and [tags(a) for a in answers] == [["INSERT 0 1"]] * 8
    assert [sub.get_message(timeout=20)["data"] for _ in range(8)] == [str(i) for i in range(8)]
    sub.close()
