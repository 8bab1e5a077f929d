"""
Goal:   single-row INSERTs of many clients share a commit, and no client can
        tell: every byte it hears is what PostgreSQL itself would have said,
        its row is committed when it hears so, and another's failure is not
        its own.
Method: every form in which clients send them, side by side with PostgreSQL;
        commits that take long, so that operations gather; servers killed at
        every stage; and a count of what was committed against what was
        acknowledged.
"""
import concurrent.futures
import struct
import threading
import time
import uuid

import pytest

import pgwire
from pgwire import (bind, describe, error, errors, execute, extended, kinds, parse,
                    query, rows, sync, tags)
from servers import DATABASE, ORGANIZATIONS, UPSTREAM_PASSWORD, UPSTREAM_USER, wait_for

pytestmark = pytest.mark.weir_only

CONFIG = {"batch ops": {"order_by": "doc"}}
ACME = ORGANIZATIONS["acme"]
DOC = "d0c00000-0000-4000-8000-00000000000%d"

TABLE = """
DROP TABLE IF EXISTS ops, docs CASCADE;
CREATE TABLE docs (doc uuid PRIMARY KEY);
INSERT INTO docs SELECT ('d0c00000-0000-4000-8000-00000000000' || i)::uuid
    FROM generate_series(0, 9) i;
CREATE TABLE ops (
    id bigserial PRIMARY KEY,
    organization_id uuid NOT NULL DEFAULT own_organization(),
    doc uuid NOT NULL REFERENCES docs DEFERRABLE INITIALLY DEFERRED,
    clock int NOT NULL CHECK (clock >= 0),
    data jsonb,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (doc, clock));
ALTER TABLE ops ENABLE ROW LEVEL SECURITY;
ALTER TABLE ops FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON ops USING (organization_id = own_organization())
    WITH CHECK (organization_id = own_organization());
GRANT ALL ON ops, ops_id_seq, docs TO PUBLIC;
CREATE OR REPLACE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.data ? 'notice' THEN
        RAISE NOTICE 'seen %', NEW.data->>'notice';
    END IF;
    IF NEW.data ? 'lock' THEN
        PERFORM pg_advisory_xact_lock_shared((NEW.data->>'lock')::int);
    END IF;
    PERFORM pg_sleep((NEW.data->>'sleep')::float8);
    RETURN NEW;
END $$;
CREATE TRIGGER act BEFORE INSERT ON ops FOR EACH ROW
    WHEN (NEW.data ?| '{notice,sleep,lock}') EXECUTE FUNCTION act();
CREATE OR REPLACE FUNCTION act_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep((NEW.data->>'commit')::float8);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER act_late AFTER INSERT ON ops
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.data ? 'commit') EXECUTE FUNCTION act_late();
"""
INSERT = "INSERT INTO ops (doc, clock, data) VALUES ($1, $2, $3)"


@pytest.fixture(autouse=True)
def table(pg):
    pg.run(TABLE)


def direct(pg):
    """PostgreSQL itself, as weir speaks to it for acme."""
    wire = pgwire.Wire(pg.port)
    wire.login(UPSTREAM_USER, DATABASE, UPSTREAM_PASSWORD,
               options="-c app.current_organization_id=" + ACME)
    return wire


def op(doc, clock, data=None, more=""):
    return extended(INSERT + more, [DOC % doc, str(clock), data])


def count(pg, where="true"):
    return pg.run("SELECT count(*) FROM ops WHERE " + where)[0][0]


# What clients send, up to each ReadyForQuery; where is a request that shares a
# commit, and where one that goes its own way.
def be8(n):
    return struct.pack("!q", n)


FORMS = {
    "one as node-postgres sends it": [(op(1, 1), 1)],
    "without a Describe": [(
        parse(INSERT) + bind([DOC % 1, "1", None]) + execute() + sync(), 1)],
    "with RETURNING": [(op(1, 1, more=" RETURNING id, clock, data"), 1)],
    "with a value, quotes and all": [(op(1, 1, '{"a": "it\'s \\u00e9"}', " RETURNING data"), 1)],
    "with a result in binary": [(
        parse(INSERT + " RETURNING id, doc, clock")
        + bind([DOC % 1, "1", None], results=[1]) + describe() + execute() + sync(), 1)],
    "with types and arguments in binary": [(
        parse(INSERT, types=[2950, 23, 3802])
        + bind([uuid.UUID(DOC % 1).bytes, struct.pack("!i", 7), b'\1{"k": 1}'],
               formats=[1]) + describe() + execute() + sync(), 1)],
    "a conflict that does nothing": [
        (op(1, 1), 1), (op(1, 1, more=" ON CONFLICT (doc, clock) DO NOTHING"), 1),
        (op(1, 1, '{"b": 2}', " ON CONFLICT (doc, clock) DO UPDATE SET data = excluded.data"
            " RETURNING data"), 1)],
    "prepared before": [
        (parse(INSERT, "s") + sync(), 0),
        (bind([DOC % 1, "1", None], "s") + execute() + sync(), 1),
        (bind([DOC % 1, "2", None], "s") + describe() + execute() + sync(), 1)],
    "the unnamed one once more": [
        (op(1, 1), 1), (bind([DOC % 1, "2", None]) + describe() + execute() + sync(), 1)],
    "several before one Sync": [(
        parse(INSERT) + bind([DOC % 1, "1", None]) + execute()
        + bind([DOC % 1, "2", None]) + describe() + execute()
        + parse(INSERT + " RETURNING id") + bind([DOC % 1, "3", None]) + execute()
        + sync(), 1)],
    "a Query": [(query("INSERT INTO ops (doc, clock) VALUES ('%s', 1)" % (DOC % 1)), 1)],
    "a Query with RETURNING": [(query(
        "INSERT INTO ops (doc, clock, data) VALUES ('%s', 1, '[1]') RETURNING id, data;"
        % (DOC % 1)), 1)],
    "a Query with its own transaction": [(query(
        "BEGIN; INSERT INTO ops (doc, clock) VALUES ('%s', 1); COMMIT" % (DOC % 1)), 1)],
    "the same with RETURNING": [(query(
        "BEGIN; INSERT INTO ops (doc, clock) VALUES ('%s', 1) RETURNING clock; COMMIT;"
        % (DOC % 1)), 1)],
    "a NOTICE": [(op(1, 1, '{"notice": "me"}'), 1)],
    "a NOTICE of a Query": [(query(
        "INSERT INTO ops (doc, clock, data) VALUES ('%s', 1, '{\"notice\": 1}')"
        % (DOC % 1)), 1)],
    "a key that is there": [(op(1, 1), 1), (op(1, 1), 1), (op(1, 2), 1)],
    "a row that breaks a CHECK": [(op(1, -1), 1), (op(1, 1), 1)],
    "a value that is none": [(op(1, "x"), 1), (op(1, 1, "{"), 1)],
    "a parameter too few": [(extended(INSERT, [DOC % 1, "1"]), 0)],
    "a row of nobody's": [(extended(
        "INSERT INTO ops (doc, clock, organization_id) VALUES ($1, $2, $3)",
        [DOC % 1, "1", ORGANIZATIONS["beta"]]), 1)],
    "a document there is not, at the commit": [(op(1, 1), 1), (extended(
        INSERT, ["%s" % uuid.UUID(int=7), "2", None]), 1), (op(1, 3), 1)],
    "a column there is not": [(extended("INSERT INTO ops (nope) VALUES ($1)", ["1"]), 1)],
    "a Query that fails": [(query(
        "INSERT INTO ops (doc, clock) VALUES ('%s', -1)" % (DOC % 1)), 1)],
    "a transaction in a Query that fails": [
        (query("BEGIN; INSERT INTO ops (doc, clock) VALUES ('%s', -1); COMMIT"
               % (DOC % 1)), 1),
        (query("SELECT 1"), 0), (query("ROLLBACK"), 0), (op(1, 1), 1)],
    "the second of three before one Sync": [(
        parse(INSERT) + bind([DOC % 1, "1", None]) + execute()
        + bind([DOC % 1, "-1", None]) + execute()
        + bind([DOC % 1, "3", None]) + execute() + sync(), 1), (op(1, 1), 1)],
    "in a transaction": [(query("BEGIN"), 0), (op(1, 1), 0), (op(1, 1), 0),
                         (query("ROLLBACK"), 0), (op(1, 1), 1)],
    "what is none": [
        (query("INSERT INTO ops (doc, clock) VALUES ('%s', 1), ('%s', 2)"
               % (DOC % 1, DOC % 1)), 0),
        (extended("INSERT INTO ops (doc, clock) SELECT $1, $2", [DOC % 1, "3"]), 0),
        (extended("SELECT count(*) FROM ops", []), 0),
        (query("SELECT 1; INSERT INTO ops (doc, clock) VALUES ('%s', 5)" % (DOC % 1)), 0)],
}


def told(reply):
    """What a client hears, but for where in PostgreSQL's source an error lies."""
    return [(kind, sorted(error(body).items()) if kind in "EN" else body)
            for kind, body in reply]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_answered_as_by_postgresql(proxy, pg, form):
    heard = []
    for wire in (direct(pg), proxy.wire("acme_app")):
        pg.run("TRUNCATE ops RESTART IDENTITY")
        before = proxy.metric("batch_operations_total")
        heard.append([told(wire.run(request)) for request, _ in FORMS[form]])
        heard[-1].append(pg.run("SELECT organization_id, doc, clock, data FROM ops"
                                " ORDER BY clock"))
    assert heard[1] == heard[0]
    assert proxy.metric("batch_operations_total") - before == sum(
        n for _, n in FORMS[form])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_answered_the_same_in_one_write_and_in_bytes(proxy, pg, form):
    """All of its requests at once, and then a byte at a time."""
    requests = [request for request, _ in FORMS[form]]
    heard = []
    for wire, step in ((direct(pg), 0), (proxy.wire("acme_app"), 0),
                       (proxy.wire("acme_app"), 1)):
        pg.run("TRUNCATE ops RESTART IDENTITY")
        whole = b"".join(requests)
        for i in range(0, len(whole), step or len(whole)):
            wire.send(whole[i:i + (step or len(whole))])
        heard.append([told(wire.until("Z")) for _ in requests])
    assert heard[1] == heard[0]
    assert heard[2] == heard[0]


# Operations that gather.


class Holder:
    """An operation that is at work until it is let go: others gather behind it."""
    LOCK = 7700

    def __init__(self, w, pg, user="acme_app"):
        self.wire, self.pg, self.db = w.wire(user), pg, pg.connect()
        self.db.cursor().execute("SELECT pg_advisory_lock(%s)", [self.LOCK])
        self.wire.send(op(9, 1000, '{"lock": %d}' % self.LOCK))
        at_work(pg, "advisory")

    def let_go(self):
        self.db.close()

    def answer(self):
        self.let_go()
        return self.wire.until("Z")


def at_work(pg, event="PgSleep"):
    """The backend of weir's that waits for this."""
    return wait_for(lambda: pg.run(
        "SELECT pid FROM pg_stat_activity WHERE usename = %s AND wait_event = %s",
        [UPSTREAM_USER, event]), 10, "it is not at work")[0][0]


def take(w, wire, request):
    """Sent, and on its way."""
    before = w.metric("batch_operations_total")
    wire.send(request)
    wait_for(lambda: w.metric("batch_operations_total") > before, 5, "not taken")


def behind(w, pg, requests):
    """What clients hear whose requests gather behind one, which hears first."""
    wires = [w.wire("acme_app") for _ in requests]
    runs = w.metric("batch_commits_total")
    holder = Holder(w, pg)
    for wire, request in zip(wires, requests):
        take(w, wire, request)
    first = holder.answer()
    answers = [wire.until("Z") for wire in wires]
    return first, answers, w.metric("batch_commits_total") - runs


def test_what_gathers_shares_one_commit(proxy, pg):
    first, answers, commits = behind(proxy, pg, [op(i % 10, i) for i in range(30)])
    assert tags(first) == ["INSERT 0 1"]
    assert [kinds(a) for a in answers] == ["12nCZ"] * 30
    assert commits == 2 and count(pg) == 31
    assert pg.run("SELECT count(DISTINCT xmin::text) FROM ops")[0][0] == 2


def test_rows_of_one_document_are_committed_in_the_order_they_came(proxy, pg):
    behind(proxy, pg, [op(1, 100 - i) for i in range(20)])
    assert [c for c, in pg.run("SELECT clock FROM ops WHERE clock <= 100 ORDER BY id")] \
        == [100 - i for i in range(20)]


def test_one_that_fails_is_alone_with_its_error(proxy, pg):
    """By a key that is there, a value that is none, a row of somebody else's, a
    statement that is none: and by all of them at once, among others."""
    pg.run("INSERT INTO ops (organization_id, doc, clock) VALUES (%s, %s, 1)",
           [ACME, DOC % 1])
    bad = {3: (op(1, 1), "23505"), 5: (op(1, "x"), "22P02"), 6: (op(2, -1), "23514"),
           9: (extended("INSERT INTO ops (doc, clock, organization_id) VALUES"
                        " ($1, $2, $3)", [DOC % 1, "50", ORGANIZATIONS["beta"]]), "42501"),
           11: (extended("INSERT INTO ops (nope) VALUES ($1)", ["1"]), "42703")}
    first, answers, commits = behind(proxy, pg, [
        bad[i][0] if i in bad else op(1, 100 + i) for i in range(14)])
    assert tags(first) == ["INSERT 0 1"]
    for i, answer in enumerate(answers):
        want = [bad[i][1]] if i in bad else []
        assert [e["C"] for e in errors(answer)] == want, (i, answer)
        assert answer[-1] == ("Z", b"I")
    assert [c for c, in pg.run("SELECT clock FROM ops WHERE clock BETWEEN 100 AND 999"
                               " ORDER BY id")] == [100 + i for i in range(14) if i not in bad]
    assert proxy.metric("batch_replayed_total") > 0


def test_a_commit_that_fails_fails_who_is_to_blame(proxy, pg):
    """A constraint that is looked at with the commit: nobody says whose it was."""
    nowhere = extended(INSERT, [str(uuid.UUID(int=7)), "2", None])
    _, answers, _ = behind(proxy, pg, [op(1, 1), nowhere, op(1, 3), op(2, 4)])
    assert [[e["C"] for e in errors(a)] for a in answers] == [[], ["23503"], [], []]
    assert [c for c, in pg.run("SELECT clock FROM ops WHERE clock < 9 ORDER BY id")] == [1, 3, 4]


def test_two_with_one_key_are_one_row_and_one_error(proxy, pg):
    _, answers, _ = behind(proxy, pg, [op(1, 1)] * 5)
    assert sorted(len(errors(a)) for a in answers) == [0, 1, 1, 1, 1]
    assert [errors(a) == [] for a in answers] == [True, False, False, False, False]


def test_organizations_and_settings_never_share_a_commit(proxy, pg):
    a, b = proxy.wire("acme_app"), proxy.wire("beta_app")
    named = proxy.wire(login=False)
    named.login("acme_app", DATABASE, "acme-secret", application_name="other")
    holder = Holder(proxy, pg)
    show = " RETURNING organization_id, current_setting('application_name')"
    for wire, clock in ((a, 1), (named, 2), (b, 3), (a, 4)):
        take(proxy, wire, op(clock, clock, more=show))
    holder.answer()
    assert rows(a.until("Z"))[0] == [ACME, ""]
    assert rows(named.until("Z"))[0] == [ACME, "other"]
    assert rows(b.until("Z"))[0] == [ORGANIZATIONS["beta"], ""]
    assert rows(a.until("Z")) == [[ACME, ""]]
    assert pg.run("SELECT count(DISTINCT xmin::text) FROM ops WHERE clock < 9")[0][0] >= 3


def test_who_fails_again_and_again_is_left_alone(proxy, pg):
    """Its neighbours are not tried twice any more."""
    bad = proxy.wire("acme_app")
    op_bad = op(1, -1)
    for _ in range(3):
        assert [e["C"] for e in errors(bad.run(op_bad))] == ["23514"]
    good = [proxy.wire("acme_app") for _ in range(4)]
    before = proxy.metric("batch_replayed_total")
    holder = Holder(proxy, pg)
    for i, wire in enumerate(good):
        take(proxy, wire, op(2, i))
    take(proxy, bad, op_bad)
    holder.answer()
    assert [tags(w.until("Z")) for w in good] == [["INSERT 0 1"]] * 4
    assert len(errors(bad.until("Z"))) == 1
    assert proxy.metric("batch_replayed_total") == before


def test_a_request_behind_one_under_way_keeps_its_place(proxy, pg):
    """Of one client: by the same way, and by another."""
    wire = proxy.wire("acme_app")
    wire.send(op(1, 1), op(1, 2), query("SELECT max(clock) FROM ops"), op(1, 3),
              query("SELECT max(clock) FROM ops"))
    replies = [wire.until("Z") for _ in range(5)]
    assert [rows(r) for r in (replies[2], replies[4])] == [[["2"]], [["3"]]]


def test_what_a_client_asked_before_it_left_is_done(proxy, pg):
    holder = Holder(proxy, pg)
    for i in range(5):
        wire = proxy.wire("acme_app")
        take(proxy, wire, op(1, i))
        wire.close()
    holder.answer()
    wait_for(lambda: count(pg, "clock < 9") == 5, 10, "not all was carried out")


# Servers that are lost.


def test_what_a_lost_server_had_not_done_is_done_on_another(proxy, pg):
    """It is killed at work on the first of them: it says so, and they are not."""
    wires = [proxy.wire("acme_app") for _ in range(6)]
    first = Holder(proxy, pg)
    for i, wire in enumerate(wires):
        take(proxy, wire, op(1, i, '{"sleep": 0.5}' if i == 0 else None))
    assert tags(first.answer()) == ["INSERT 0 1"]
    pg.run("SELECT pg_terminate_backend(%s)", [at_work(pg)])
    assert [tags(w.until("Z")) for w in wires] == [["INSERT 0 1"]] * 6
    assert [c for c, in pg.run("SELECT clock FROM ops WHERE clock < 9 ORDER BY id")] \
        == list(range(6))


def test_nobody_guesses_what_became_of_a_commit(proxy, pg):
    """The server is killed while it commits: to everyone in it the outcome is unknown,
    and the connection of each lives on."""
    wires = [proxy.wire("acme_app") for _ in range(4)]
    first = Holder(proxy, pg)
    for i, wire in enumerate(wires):
        take(proxy, wire, op(1, i, '{"commit": 20}' if i == 3 else None))
    assert tags(first.answer()) == ["INSERT 0 1"]
    backend = at_work(pg)
    before = proxy.metric("batch_unknown_total")
    pg.run("SELECT pg_terminate_backend(%s)", [backend])
    assert [[e["C"] for e in errors(w.until("Z"))] for w in wires] == [["08007"]] * 4
    assert proxy.metric("batch_unknown_total") == before + 4
    assert [tags(w.run(op(2, i))) for i, w in enumerate(wires)] == [["INSERT 0 1"]] * 4


def test_a_server_that_dies_with_every_try_is_not_tried_for_ever(proxy, pg):
    wire = proxy.wire("acme_app")
    wire.send(op(1, 1, '{"sleep": 20}'))
    over = threading.Event()

    def kill():
        while not over.is_set():
            pg2 = pg.connect()
            pg2.cursor().execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                " usename = %s AND wait_event = 'PgSleep'", [UPSTREAM_USER])
            pg2.close()
            over.wait(0.02)
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert [e["C"] for e in errors(wire.until("Z"))] == ["08006"]
    finally:
        over.set()
        killer.join()
    assert tags(wire.run(op(1, 2))) == ["INSERT 0 1"] and count(pg) == 1


def test_without_a_server_in_time_there_is_an_error_and_the_client_lives(weir, pg, workers):
    w = weir({**CONFIG, "postgres main": {"pool_size": 1}}, workers)
    holder = w.wire("acme_app")
    holder.run(query("BEGIN"))
    holder.run(query("SELECT 1"))
    w.reload({"weir": {"query_wait_timeout": 2}})       # of those who come now
    wire = w.wire("acme_app")
    assert [e["C"] for e in errors(wire.run(op(1, 1)))] == ["53300"]
    holder.run(query("COMMIT"))
    assert tags(wire.run(op(1, 1))) == ["INSERT 0 1"]


def test_a_server_that_does_not_answer_is_given_up(weir, pg, workers):
    w = weir({**CONFIG, "weir": {"query_timeout": 2}}, workers)
    wire = w.wire("acme_app")
    assert [e["C"] for e in errors(wire.run(op(1, 1, '{"commit": 3}')))] == ["08007"]
    assert tags(wire.run(op(1, 2))) == ["INSERT 0 1"]


def test_without_an_upstream_there_is_an_error_and_the_client_lives(weir, pg, relay, workers):
    r = relay(pg.port)
    w = weir({**CONFIG, "postgres main": {"port": r.port},
              "weir": {"query_wait_timeout": 3}}, workers)
    wire = w.wire("acme_app")
    assert tags(wire.run(op(1, 1))) == ["INSERT 0 1"]
    r.stop()        # a server whose end is not seen yet may be sent it: 08007
    assert errors(wire.run(op(1, 2)))[0]["C"] in ("08006", "08007", "08004", "53300")
    r.start()
    wait_for(lambda: tags(wire.run(op(1, 2))) == ["INSERT 0 1"], 20, "it does not recover")


def test_a_stop_waits_for_what_is_under_way(weir, pg, workers):
    w = weir(CONFIG, workers)
    wires = [w.wire("acme_app") for _ in range(6)]
    holder = Holder(w, pg)
    for i, wire in enumerate(wires):
        take(w, wire, op(1, i))
    wires.pop().close()     # who is gone is waited for, too
    w.signal(15)
    wait_for(lambda: w.events("drain"), 5, "it does not stop")
    holder.let_go()
    assert [tags(x.until("Z")) for x in [holder.wire] + wires] == [["INSERT 0 1"]] * 6
    assert w.wait() == 0
    w.over = True
    assert count(pg, "clock < 9") == 6


# Many clients, on several workers.


def test_a_reader_who_polls_misses_nothing(weir, pg):
    """64 clients write one document; `id > last`, again and again, sees every row:
    numbers are committed in their order, which PostgreSQL alone does not promise."""
    w = weir(CONFIG, 4)
    each, clients = 12, 64
    seen, over = [], threading.Event()

    def read():
        wire, last = w.wire("acme_app"), 0
        while True:
            done = over.is_set()
            for i, in rows(wire.run(query(
                    "SELECT id FROM ops WHERE id > %d ORDER BY id" % last))):
                seen.append(int(i))
                last = int(i)
            if done:
                return

    def write(n):
        wire = w.wire("acme_app")
        for i in range(each):
            assert tags(wire.run(op(1, n * each + i))) == ["INSERT 0 1"]
    with concurrent.futures.ThreadPoolExecutor(clients + 1) as pool:
        reader = pool.submit(read)
        list(pool.map(write, range(clients)))
        over.set()
        reader.result()
    assert sorted(seen) == [i for i, in pg.run("SELECT id FROM ops ORDER BY id")]
    assert len(seen) == each * clients
    assert w.metric("batch_commits_total") < each * clients


@pytest.mark.parametrize("lanes", [1, 3])
def test_each_document_keeps_its_order_over_all_lanes(weir, pg, lanes):
    """Clients take turns on one document: who was answered comes first."""
    w = weir({"batch ops": {"order_by": "doc", "in_flight": lanes}}, 4)
    wires = [w.wire("acme_app") for _ in range(8)]

    def turns(doc):
        for i in range(24):
            assert tags(wires[(i + doc) % 8].run(op(doc, i))) == ["INSERT 0 1"]
    for doc in range(4):
        turns(doc)
    for doc in range(4):
        assert [c for c, in pg.run("SELECT clock FROM ops WHERE doc = %s ORDER BY id",
                                   [DOC % doc])] == list(range(24))
    assert w.metric("batch_operations_total") == 96


# Statements whose rows the client has been told of.

ASK = INSERT + " RETURNING id, data"


def prepared(w, name="s", sql=ASK):
    wire = w.wire("acme_app")
    reply = wire.run(parse(sql, name) + describe("S", name) + sync())
    assert kinds(reply) == "1tTZ"
    return wire


def told_op(clock):
    return bind([DOC % 1, str(clock), "{}"], "s") + execute() + sync()


def test_a_statement_that_was_described_returns_what_was_said(one_server, pg):
    """Also on a server that has never heard of it."""
    wire = prepared(one_server)
    before = one_server.metric("batch_operations_total")
    for clock in range(4):
        if clock % 2:
            for pid in pg.backends():
                pg.run("SELECT pg_terminate_backend(%s, 5000)", [pid])
        assert rows(wire.run(told_op(clock)))[0][1] == "{}"
    assert one_server.metric("batch_operations_total") == before + 4


def test_rows_of_another_shape_reach_nobody(one_server, pg):
    """Its columns have changed since, and the server that knew is gone."""
    wire, other = prepared(one_server), one_server.wire("acme_app")
    assert kinds(wire.run(told_op(1))) == "2DCZ"
    pg.run("DROP TRIGGER act ON ops; DROP TRIGGER act_late ON ops;"
           " ALTER TABLE ops ALTER data TYPE text")
    for pid in pg.backends():
        pg.run("SELECT pg_terminate_backend(%s, 5000)", [pid])
    answer = wire.run(told_op(2))
    assert [(e["C"], e["M"]) for e in errors(answer)] == [
        ("0A000", "cached plan must not change result type")]
    assert tags(other.run(op(1, 3))) == ["INSERT 0 1"]
    assert [c for c, in pg.run("SELECT clock FROM ops ORDER BY id")] == [1, 3]
    assert tags(prepared(one_server).run(told_op(4))) == ["INSERT 0 1"]


def test_who_was_told_nothing_gets_the_rows_of_now(one_server, pg):
    """As by a direct connection, where each of its requests is parsed anew."""
    wire = one_server.wire("acme_app")
    ask = " RETURNING data, clock -- of now"
    before = one_server.metric("batch_operations_total")
    assert kinds(wire.run(op(1, 1, "{}", more=ask))) == "12TDCZ"
    pg.run("DROP TRIGGER act ON ops; DROP TRIGGER act_late ON ops;"
           " ALTER TABLE ops ALTER data TYPE text")
    answer = wire.run(op(1, 2, "{}", more=ask))
    assert kinds(answer) == "12TDCZ" and rows(answer) == [["{}", "2"]]
    assert struct.unpack("!I", answer[2][1][2 + 5 + 6:][:4]) == (25,)      # text now
    assert one_server.metric("batch_operations_total") == before + 2


def test_a_statement_that_no_longer_parses_says_so_itself(one_server, pg):
    wire = prepared(one_server, sql=ASK + " -- parses")
    pg.run("ALTER TABLE ops RENAME data TO payload")
    for pid in pg.backends():
        pg.run("SELECT pg_terminate_backend(%s, 5000)", [pid])
    assert [e["C"] for e in errors(wire.run(told_op(1)))] == ["42703"]
    pg.run("ALTER TABLE ops RENAME payload TO data")
    assert kinds(wire.run(told_op(2))) == "2DCZ"


# Real drivers.


@pytest.mark.parametrize("lanes", [1, 3])
def test_asyncpg_and_psycopg_and_sqlalchemy_share_commits(weir, pg, lanes):
    """Each in its own formats: binary with types only the server told, text, both."""
    import asyncio
    import asyncpg
    import psycopg
    import sqlalchemy
    w = weir({"batch ops": {"order_by": "doc", "in_flight": lanes}}, 4)
    url = "postgresql://acme_app:acme-secret@127.0.0.1:%d/%s" % (w.pg_port, DATABASE)
    each = 20

    async def with_asyncpg():
        async with asyncpg.create_pool(url, min_size=4, max_size=4) as pool:
            async def one(i):
                got = await pool.fetchrow(
                    "INSERT INTO ops (doc, clock, data) VALUES ($1, $2, $3)"
                    " RETURNING clock, organization_id", DOC % 1, i, '{"a": 1}')
                assert (got["clock"], str(got["organization_id"])) == (i, ACME)
                await pool.execute("INSERT INTO ops (doc, clock) VALUES ($1, $2)",
                                   uuid.UUID(DOC % 2), i)
            await asyncio.gather(*[one(i) for i in range(each)])

    def with_psycopg():
        with psycopg.connect(url, autocommit=True, prepare_threshold=3) as db:
            for i in range(each):
                db.execute("INSERT INTO ops (doc, clock, data) VALUES (%s, %s, %s)",
                           [uuid.UUID(DOC % 3), i, '{"b": 2}'])
                got = db.execute("INSERT INTO ops (doc, clock) VALUES (%b, %b) RETURNING clock",
                                 [uuid.UUID(DOC % 4), i], binary=True).fetchone()
                assert got == (i,)

    def with_sqlalchemy():
        engine = sqlalchemy.create_engine(
            url.replace("postgresql:", "postgresql+psycopg2:"), isolation_level="AUTOCOMMIT")
        with engine.connect() as db:
            for i in range(each):
                db.execute(sqlalchemy.text("INSERT INTO ops (doc, clock) VALUES (:d, :c)"),
                           {"d": DOC % 5, "c": i})
        engine.dispose()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for f in [pool.submit(asyncio.run, with_asyncpg()), pool.submit(with_psycopg),
                  pool.submit(with_sqlalchemy)]:
            f.result()
    assert count(pg) == 5 * each
    assert w.metric("batch_operations_total") >= 5 * each - 30      # cold ones go by themselves


# What it costs, and tells.


def test_a_rate_of_operations_is_kept(weir, pg, workers):
    w = weir({**CONFIG, "organization acme": {"rate_operations": "5/1h"}}, workers)
    wires = [w.wire("acme_app") for _ in range(2)]
    answers = [wires[i % 2].run(op(1, i)) for i in range(8)]
    assert [tags(a) for a in answers[:5]] == [["INSERT 0 1"]] * 5
    assert [errors(a)[0]["C"] for a in answers[5:]] == ["53400"] * 3
    assert errors(answers[5])[0]["H"].startswith("Retry in")
    assert w.wire("beta_app").run(op(2, 1))[-2][0] == "C"       # another's
    assert wires[0].value("SELECT count(*) FROM ops") == "5"
    assert w.metric('rate_limit_refused_total{limit="operations"}') == 3


def test_a_group_waits_for_company_if_it_is_told_to(weir, pg):
    w = weir({"batch ops": {"order_by": "doc", "max_delay_ms": 300}})
    wires = [w.wire("acme_app") for _ in range(5)]
    for i, wire in enumerate(wires):
        wire.send(op(1, i))
    assert [tags(x.until("Z")) for x in wires] == [["INSERT 0 1"]] * 5
    assert w.metric("batch_commits_total") == 1
    assert w.metric("batch_size_sum") == 5 and w.metric("batch_size_count") == 1


def test_the_bounds_of_a_commit_are_kept(weir, pg):
    w = weir({"batch ops": {"order_by": "doc", "max_ops": 4}})
    _, answers, commits = behind(w, pg, [op(1, i) for i in range(10)])
    assert [tags(a) for a in answers] == [["INSERT 0 1"]] * 10
    assert commits == 1 + 3


def test_a_client_that_asks_for_much_at_once_is_answered_in_order(proxy, pg):
    wire, n = proxy.wire("acme_app"), 700
    wire.send(*[op(1, i, more=" RETURNING clock") for i in range(n)])
    assert [rows(wire.until("Z")) for _ in range(n)] == [[[str(i)]] for i in range(n)]


def test_an_answer_of_megabytes_arrives_whole(proxy, pg):
    """What it returns is longer than what was sent; and more than weir holds back
    for one is the end of the server, with the outcome unknown."""
    wire = proxy.wire("acme_app")
    data = '{"a": "%s"}' % ("x" * 39500)
    columns = ", ".join(["data"] * 200)
    reply = wire.run(op(1, 1, data, " RETURNING " + columns))
    assert len(rows(reply)[0]) == 200 and tags(reply) == ["INSERT 0 1"]
    columns = ", ".join(["data"] * 450)
    assert [e["C"] for e in errors(wire.run(op(1, 2, data, " RETURNING " + columns)))] \
        == ["08007"]
    assert tags(wire.run(op(1, 3))) == ["INSERT 0 1"]


# What a second pair of eyes has found.


def test_a_query_whose_commit_fails_hears_no_tag(proxy, pg):
    """As by PostgreSQL: its row was never there."""
    ask = query("INSERT INTO ops (doc, clock) VALUES ('%s', 1)" % uuid.UUID(int=7))
    heard = [told(wire.run(ask)) for wire in (direct(pg), proxy.wire("acme_app"))]
    assert heard[1] == heard[0] and [k for k, _ in heard[0]] == ["E", "Z"]


def test_who_closes_its_side_only_hears_all_it_asked_for(proxy, pg):
    import socket
    for n, more in ((300, []), (3, [query("SELECT 7"), op(1, 900)])):
        pg.run("TRUNCATE ops")
        wire = proxy.wire("acme_app")
        holder = Holder(proxy, pg)
        wire.send(*[op(1, i) for i in range(n)], *more)
        wire.sock.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        holder.answer()
        replies = wire.until_closed()
        assert kinds(replies).count("Z") == n + len(more)
        assert count(pg, "clock < 1000") == n + (1 if more else 0)


def test_old_sessions_live_through_many_reloads(weir, pg, workers):
    w = weir(CONFIG, workers)
    wire = w.wire("acme_app")
    for i in range(4):
        assert tags(wire.run(op(1, i))) == ["INSERT 0 1"]
        w.reload({"weir": {"query_wait_timeout": 20 + i}})
    assert tags(wire.run(op(1, 9))) == ["INSERT 0 1"]
    for pid in pg.backends():
        pg.run("SELECT pg_terminate_backend(%s, 5000)", [pid])
    assert tags(wire.run(op(1, 10))) == ["INSERT 0 1"]


def test_who_is_cut_off_in_a_commit_is_told_that_nobody_knows(weir, pg, workers):
    w = weir({**CONFIG, "weir": {"drain_timeout": 0.5}}, workers)
    wire = w.wire("acme_app")
    take(w, wire, op(1, 1, '{"commit": 3}'))
    w.signal(15)
    assert [e["C"] for e in errors(wire.until_closed())] == ["08007"]
    assert w.wait() == 0
    w.over = True
