"""
Goal:   nothing that was acknowledged is ever missing, and nothing is done twice,
        whatever is killed while operations of many clients share a commit.
Method: clients that write numbered rows into a table that would keep them twice,
        in every form, some of them wrong, some leaving without waiting for their
        answer; server connections killed by PostgreSQL, cut on the line with the
        answer still on it, or weir stopped.  At the end the rows are counted
        against what each client heard: a tag is one row, an error is none, and
        only 08006, 08007, 57P01 or a lost connection may be either.

Hundreds of kills; WEIR_SOAK=1 makes it thousands.  WEIR_SEED=n repeats one.
"""
import contextlib
import os
import random
import threading
import time
import uuid

import pytest

import pgwire
from pgwire import bind, errors, execute, extended, parse, query, sync, tags
from servers import DATABASE, UPSTREAM_USER, USERS, scaled, wait_for

pytestmark = pytest.mark.weir_only

SOAK = bool(os.environ.get("WEIR_SOAK"))
SEED = int(os.environ.get("WEIR_SEED") or random.SystemRandom().randrange(1 << 30))
KILLS = 200 if SOAK else 60
ROUNDS = range(15 if SOAK else 1)
CLIENTS = 16
CONFIG = {"batch faults": {"order_by": "doc", "in_flight": 3}}
DOC = "d0c00000-0000-4000-8000-00000000000%d"
YES, NO, MAYBE = "yes", "no", "maybe"
UNKNOWN = {"08006", "08007", "57P01"}

# Without a unique key: what is done twice is there twice.  "late" makes a commit
# last, so that a kill finds one at it.
TABLE = """
DROP TABLE IF EXISTS faults, fault_docs CASCADE;
CREATE TABLE fault_docs (doc uuid PRIMARY KEY);
INSERT INTO fault_docs SELECT ('d0c00000-0000-4000-8000-00000000000' || i)::uuid
    FROM generate_series(0, 9) i;
CREATE TABLE faults (
    id bigserial PRIMARY KEY,
    organization_id uuid NOT NULL DEFAULT own_organization(),
    doc uuid NOT NULL REFERENCES fault_docs DEFERRABLE INITIALLY DEFERRED,
    who int NOT NULL,
    n int NOT NULL,
    data text CHECK (data <> 'wrong'));
ALTER TABLE faults ENABLE ROW LEVEL SECURITY;
ALTER TABLE faults FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON faults USING (organization_id = own_organization())
    WITH CHECK (organization_id = own_organization());
GRANT ALL ON faults, faults_id_seq, fault_docs TO PUBLIC;
CREATE OR REPLACE FUNCTION be_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(0.004);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER be_late AFTER INSERT ON faults
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.data = 'late') EXECUTE FUNCTION be_late();
"""
INSERT = "INSERT INTO faults (doc, who, n, data) VALUES ($1, $2, $3, $4)"


@pytest.fixture(autouse=True)
def table(pg):
    pg.run(TABLE)


def judge(heard, rows):
    """What is wrong: `heard` of each (who, n), and how often each is there."""
    wrong = []
    for key, outcome in heard.items():
        n = rows.get(key, 0)
        if n > 1:
            wrong.append("%s is there %d times, heard %s" % (key, n, outcome))
        elif outcome == YES and n == 0:
            wrong.append("%s was acknowledged and is missing" % (key,))
        elif outcome == NO and n == 1:
            wrong.append("%s failed and is there" % (key,))
    return wrong + ["%s was never sent" % (key,) for key in rows if key not in heard]


def test_the_judge_sees_what_is_lost_twice_or_there_after_an_error():
    heard = {(1, 1): YES, (1, 2): NO, (1, 3): MAYBE, (1, 4): MAYBE}
    assert judge(heard, {(1, 1): 1, (1, 3): 1}) == []
    assert len(judge(heard, {})) == 1
    assert len(judge(heard, {(1, 1): 2})) == 1
    assert len(judge(heard, {(1, 1): 1, (1, 2): 1})) == 1
    assert len(judge(heard, {(1, 1): 1, (1, 3): 2})) == 1
    assert len(judge(heard, {(1, 1): 1, (2, 1): 1})) == 1
    assert halves([[(1, 1), (1, 2)], [(1, 3)]], {(1, 1): 1, (1, 2): 1}) == []
    assert len(halves([[(1, 1), (1, 2)], [(1, 3)]], {(1, 2): 1, (1, 3): 1})) == 1


class Writer(threading.Thread):
    """One client: a row, its answer, the next row."""

    def __init__(self, load, who, first):
        super().__init__(daemon=True)
        self.load, self.who, self.n = load, who, first
        self.rng = random.Random("%d %d %d" % (SEED, who, first))
        self.wire, self.prepared = None, False
        self.heard, self.odd, self.error = {}, [], None

    def run(self):
        try:
            while not self.load.over.is_set():
                try:
                    self.turn()
                    continue
                except TimeoutError:
                    self.odd.append("%s: no answer" % ((self.who, self.n),))
                except (OSError, pgwire.Closed):
                    pass
                self.leave()
                self.load.over.wait(0.02)
        except BaseException as e:      # else nobody hears of it
            self.error = e
        finally:
            self.leave()

    def leave(self):
        if self.wire:
            self.wire.close()
        self.wire = None

    def enter(self):
        self.prepared = False
        wire = pgwire.Wire(self.load.w.pg_port, timeout=scaled(60))
        try:
            wire.login("acme_app", DATABASE, USERS["acme_app"][1])
        except (pgwire.Failed, OSError, pgwire.Closed):
            wire.close()
            raise pgwire.Closed()
        self.wire = wire

    def request(self):
        """(bytes, is it right?)  Two clients alone are wrong now and then: who
        often is goes alone."""
        doc, data = DOC % self.rng.randrange(10), self.rng.choice(["", "", "", "late"])
        form, wrong = self.rng.randrange(4), 0
        if self.who < 2 and self.rng.random() < 0.1:
            wrong = self.rng.randrange(1, 3)
            data = "wrong" if wrong == 1 else data
            doc = str(uuid.UUID(int=7)) if wrong == 2 else doc
        args = [doc, self.who, self.n, data]
        if form == 0:
            out = query("INSERT INTO faults (doc, who, n, data) VALUES ('%s', %d, %d, '%s')"
                        % tuple(args))
        elif form == 1:
            out = query("BEGIN; INSERT INTO faults (doc, who, n, data) VALUES"
                        " ('%s', %d, %d, '%s'); COMMIT" % tuple(args))
            if wrong:
                out = extended(INSERT, args)    # else a transaction stays open
        elif form == 2:
            out = extended(INSERT, args)
        else:
            out = (b"" if self.prepared else parse(INSERT, "s")) + bind(args, "s")
            out += execute() + sync()
            self.prepared = True
        return out, wrong == 0

    def turn(self):
        if self.wire is None:
            self.enter()
        self.n += 1
        request, right = self.request()
        key = (self.who, self.n)
        self.heard[key] = MAYBE
        self.wire.send(request)
        if self.rng.random() < 0.01:
            return self.leave()
        reply = self.wire.until("Z")
        codes = [e["C"] for e in errors(reply)]
        if reply[-1][1] != b"I":
            self.odd.append("%s: a transaction is open: %s" % (key, reply))
        if codes:
            self.prepared = False       # what was parsed with it is not certain
            self.leave()
            if not UNKNOWN & set(codes):
                self.heard[key] = NO
                if right or codes[0] not in ("23514", "23503"):
                    self.odd.append("%s: %s" % (key, errors(reply)))
        elif "INSERT 0 1" in tags(reply):
            self.heard[key] = YES if right else MAYBE
            if not right:
                self.odd.append("%s: wrong, and %s" % (key, tags(reply)))
            self.load.acked += 1
        else:
            self.odd.append("%s: %s" % (key, reply))


class Transactor(Writer):
    """Several rows in a transaction, the next transaction: all of them or none."""

    def __init__(self, *args):
        super().__init__(*args)
        self.groups = []

    def parts(self, wrong):
        """What stands between BEGIN and its end, one of them wrong."""
        doc, rows = DOC % self.rng.randrange(10), self.rng.randrange(1, 5)
        bad = self.rng.randrange(rows) if wrong else -1
        for i in range(rows):
            self.n += 1
            data = "wrong" if i == bad else self.rng.choice(["", "", "late"])
            args = [doc, self.who, self.n, data]
            yield (query("INSERT INTO faults (doc, who, n, data) VALUES ('%s', %d, %d, '%s')"
                         % tuple(args)) if self.rng.random() < 0.5 else extended(INSERT, args))

    def turn(self):
        if self.wire is None:
            self.enter()
        wrong = self.who < 2 and self.rng.random() < 0.1
        first, parts = self.n + 1, list(self.parts(wrong))
        keys = [(self.who, n) for n in range(first, self.n + 1)]
        self.groups.append(keys)
        self.heard.update(dict.fromkeys(keys, NO))      # without a COMMIT it is not there
        if self.rng.random() < 0.1:
            parts.append(query("SELECT 1"))
        for part in [query("BEGIN")] + parts:
            if self.rng.random() < 0.01:
                return self.leave()
            codes = [e["C"] for e in errors(self.wire.run(part))]
            if codes:
                if not wrong or codes != ["23514"]:
                    self.odd.append("%s: %s" % (keys, codes))
                return self.leave()
        if self.rng.random() < 0.1:
            return self.end(keys, wrong, query("ROLLBACK"), "ROLLBACK")
        self.heard.update(dict.fromkeys(keys, MAYBE))
        self.end(keys, wrong, query("COMMIT"), "COMMIT")

    def end(self, keys, wrong, request, tag):
        self.wire.send(request)
        if self.rng.random() < 0.01:
            return self.leave()
        reply = self.wire.until("Z")
        codes = [e["C"] for e in errors(reply)]
        if reply[-1][1] != b"I" or (codes and tag == "ROLLBACK") \
                or (codes and not UNKNOWN & set(codes) and (not wrong or codes != ["23514"])) \
                or (not codes and (tags(reply) != [tag] or (wrong and tag == "COMMIT"))):
            self.odd.append("%s: %s" % (keys, reply))
        elif codes and not UNKNOWN & set(codes):
            self.heard.update(dict.fromkeys(keys, NO))
        elif not codes and tag == "COMMIT":
            self.heard.update(dict.fromkeys(keys, YES))
            self.load.acked += len(keys)


def halves(groups, rows):
    """Transactions of which some is there and some is not."""
    return [keys for keys in groups if 0 < sum(key in rows for key in keys) < len(keys)]


class Load:
    """Clients that write until they are told to stop; their numbers begin at `first`."""

    def __init__(self, w, first=0, kind=Writer):
        self.w, self.over, self.acked = w, threading.Event(), 0
        self.writers = [kind(self, who, first) for who in range(CLIENTS)]
        for t in self.writers:
            t.start()

    def wait_for_acked(self, more):
        want = self.acked + more
        wait_for(lambda: self.acked >= want, 60, "clients are not served")

    def stop(self):
        """What they heard."""
        self.over.set()
        for t in self.writers:
            t.join(scaled(90))
            assert not t.is_alive(), "client %d hangs (WEIR_SEED=%d)" % (t.who, SEED)
            if t.error:
                raise t.error
        odd = [x for t in self.writers for x in t.odd]
        assert odd == [], "WEIR_SEED=%d" % SEED
        return {k: v for t in self.writers for k, v in t.heard.items()}


def counted(pg, heard):
    """Once what clients did not wait for is over, too."""
    wait_for(lambda: pg.run("SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
                            " AND state <> 'idle'", [UPSTREAM_USER])[0][0] == 0,
             20, "servers are still at work")
    rows = {(who, n): k for who, n, k in pg.run(
        "SELECT who, n, count(*) FROM faults GROUP BY who, n")}
    assert judge(heard, rows) == [], "WEIR_SEED=%d" % SEED
    return rows


def kill_backends(pg, load, kills, seed):
    """Mostly those at work; as many as asked for."""
    rng, done = random.Random(seed), 0
    with contextlib.closing(pg.connect()) as db, db.cursor() as cur:
        while done < kills:
            at_work = " AND state = 'active'" if rng.random() < 0.8 else ""
            cur.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                        " usename = %s" + at_work + " ORDER BY random() LIMIT 1",
                        [UPSTREAM_USER])
            done += cur.rowcount
            time.sleep(rng.random() * 0.02)
            if done % 30 == 29:
                load.wait_for_acked(20)


@pytest.mark.parametrize("round", ROUNDS)
def test_killed_servers_lose_nothing_and_repeat_nothing(weir, pg, workers, round):
    w = weir(CONFIG, workers)
    load = Load(w, round)
    load.wait_for_acked(50)
    kill_backends(pg, load, KILLS, SEED + round)
    load.wait_for_acked(50)
    heard = load.stop()
    rows = counted(pg, heard)
    assert w.metric("batch_operations_total") > len(rows) / 2
    assert w.metric("batch_commits_total") < w.metric("batch_operations_total")
    assert w.metric("batch_replayed_total") > 0


@pytest.mark.parametrize("round", ROUNDS)
def test_lines_cut_under_an_answer_lose_nothing_and_repeat_nothing(weir, pg, relay, workers,
                                                                   round):
    """PostgreSQL has committed and cannot say so: who asked hears that nobody knows."""
    r = relay(pg.port)
    w = weir({**CONFIG, "postgres main": {"port": r.port}}, workers)
    load, rng = Load(w, round), random.Random(SEED + round)

    def last():
        return pg.run("SELECT max(id) FROM faults")[0][0]
    for i in range(KILLS // 3):
        load.wait_for_acked(5)
        before = last()
        if i % 2:
            r.delay = 0.05      # its answer is on the line for so long
            wait_for(lambda: last() != before, 10, "nothing is committed", every=0.002)
        else:
            time.sleep(rng.random() * 0.02)
        r.cut()
        r.delay = 0
    load.wait_for_acked(50)
    counted(pg, load.stop())
    assert w.metric("batch_unknown_total") > 0


@pytest.mark.parametrize("round", ROUNDS)
def test_killed_servers_and_cut_lines_leave_whole_transactions(weir, pg, relay, workers, round):
    """`transactions = on`: what is held is committed as a whole, once, or not at all."""
    r = relay(pg.port)
    w = weir({"batch faults": {"order_by": "doc", "in_flight": 3, "transactions": "on"},
              "postgres main": {"port": r.port}}, workers)
    load = Load(w, round, Transactor)
    for i in range(3):
        load.wait_for_acked(50)
        kill_backends(pg, load, KILLS // 9, SEED + 10 * round + i)
        load.wait_for_acked(20)
        r.delay = 0.05
        load.wait_for_acked(1)
        r.cut()
        r.delay = 0
    load.wait_for_acked(50)
    heard = load.stop()
    rows = counted(pg, heard)
    assert halves([g for t in load.writers for g in t.groups], rows) == [], "WEIR_SEED=%d" % SEED
    assert w.metric("batch_transactions_total") > 50
    assert w.metric("batch_transactions_mixed_total") > 0
    assert w.metric("batch_replayed_total") > 0


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_weir_itself_loses_nothing_when(weir, pg, how):
    """Stopped, it waits for what is under way; killed, it has acknowledged nothing
    that is not committed."""
    heard = {}
    for round in range(30 if SOAK else 2):
        w = weir(CONFIG, 4)
        load = Load(w, round * 1000000)
        load.wait_for_acked(80)
        if how == "stopped":
            w.signal(15)
            assert w.wait() == 0, w.tail()
            w.over = True
        else:
            w.kill()
        heard.update(load.stop())
    rows = counted(pg, heard)
    assert len(rows) >= 80
