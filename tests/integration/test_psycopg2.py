"""
Goal:   psycopg2, the driver most programs have, works through weir.
Method: its cursors, COPY, transactions, pools and asynchronous connections, each
        test directly, through weir, and through weir with TLS.
"""
import contextlib
import datetime
import decimal
import io
import select
import threading
import time
import uuid

import psycopg2
import psycopg2.extras
import psycopg2.pool
import pytest
from psycopg2 import errors, extensions

from drivers import together
from servers import ORGANIZATIONS, scaled

psycopg2.extras.register_uuid()


@pytest.fixture(scope="module", autouse=True)
def tables(pg):
    pg.run("DROP TABLE IF EXISTS scratch.kept2")
    pg.run("CREATE TABLE scratch.kept2 (who text, n int, UNIQUE (who, n))")
    pg.run("GRANT ALL ON scratch.kept2 TO PUBLIC")


@pytest.fixture
def kept(pg):
    """The rows that were committed, as the superuser sees them."""
    pg.run("TRUNCATE scratch.kept2")
    return lambda me: [n for n, in pg.run(
        "SELECT n FROM scratch.kept2 WHERE who = %s ORDER BY n", [me])]


INSERT = "INSERT INTO scratch.kept2 VALUES (%s, %s)"


@contextlib.contextmanager
def connected(way, who="acme", autocommit=False, **more):
    with contextlib.closing(psycopg2.connect(**way.libpq(who, **more))) as db:
        db.autocommit = autocommit
        yield db


def ask(db, query, args=None):
    with db.cursor() as cur:
        cur.execute(query, args)
        return cur.fetchall() if cur.description else cur.statusmessage


# Statements.


VALUES = [
    True, -1, 1 << 70, 2.5, "text ☃ 'quoted' \\", "", None, ["a", None, 'b"'],
    decimal.Decimal("-123456789012345678901234567890.0123456789"), uuid.UUID(int=7),
    datetime.date(2024, 2, 29), datetime.timedelta(days=-3, seconds=5),
    datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone.utc),
]


def test_every_client_reads_its_own_answers(way):
    def work(who, me):
        with connected(way, who, autocommit=who == "acme") as db:
            for n in range(20):
                assert ask(db, "SELECT %s, %s, own_organization()", (me, n)) == \
                    [(me, n, uuid.UUID(ORGANIZATIONS[who]))]
            for value in VALUES:
                assert ask(db, "SELECT %s, %s", (me, value)) == [(me, value)]
            assert bytes(ask(db, "SELECT %s", (b"\0\xff\\",))[0][0]) == b"\0\xff\\"
            with db.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cur:
                cur.execute("SELECT %(me)s AS me; SELECT %(me)s AS last", {"me": me})
                assert cur.fetchall() == [{"last": me}]
    together(work)


def test_many_rows_in_few_statements(way, kept):
    def work(who, me):
        with connected(way, who) as db, db.cursor() as cur:
            got = psycopg2.extras.execute_values(
                cur, "INSERT INTO scratch.kept2 VALUES %s RETURNING who, n",
                [(me, n) for n in range(250)], page_size=60, fetch=True)
            assert got == [(me, n) for n in range(250)]
            psycopg2.extras.execute_batch(
                cur, INSERT, [(me, n) for n in range(250, 400)], page_size=70)
            cur.executemany(INSERT, [(me, n) for n in range(400, 420)])
            db.commit()
            assert ask(db, "SELECT count(*), sum(n) FROM scratch.kept2 WHERE who = %s",
                       [me]) == [(420, 87990)]
            cur.callproc("concat", [me, "-", 5])
            assert cur.fetchone() == (me + "-5",)
    together(work)
    assert kept("beta-3") == list(range(420))


def test_errors_have_their_class_and_leave_the_connection_usable(way, kept):
    def work(who, me):
        with connected(way, who, autocommit=True) as db:
            ask(db, INSERT, [me, 1])
            for _ in range(3):
                with pytest.raises(errors.UniqueViolation) as e:
                    ask(db, INSERT, [me, 1])
                assert e.value.diag.message_detail == \
                    "Key (who, n)=(%s, 1) already exists." % me
                with pytest.raises(errors.DivisionByZero):
                    ask(db, "SELECT 1/0")
                with pytest.raises(errors.SyntaxError):
                    ask(db, "SELEC 1")
                assert ask(db, "SELECT %s", [me]) == [(me,)]
            db.autocommit = False
            with pytest.raises(errors.UndefinedTable):
                ask(db, "SELECT * FROM nowhere")
            with pytest.raises(errors.InFailedSqlTransaction):
                ask(db, "SELECT 1")
            db.rollback()
            assert ask(db, "SELECT %s", [me]) == [(me,)]
    together(work)


# Transactions.


def test_a_block_commits_and_an_error_rolls_back(way, kept):
    def work(who, me):
        with connected(way, who) as db:
            for n in range(4):
                with db:
                    ask(db, INSERT, [me, n])
                with pytest.raises(errors.UniqueViolation):
                    with db:
                        ask(db, INSERT, [me, 100])
                        ask(db, INSERT, [me, n])
            ask(db, INSERT, [me, 4])
            ask(db, "SAVEPOINT a")
            with pytest.raises(errors.UniqueViolation):
                ask(db, INSERT, [me, 4])
            ask(db, "ROLLBACK TO a")
            ask(db, INSERT, [me, 5])
            db.commit()
            ask(db, INSERT, [me, 6])
            db.rollback()
    together(work)
    for me in ("acme-0", "beta-3"):
        assert kept(me) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("autocommit", [False, True], ids=["blocks", "autocommit"])
def test_the_session_has_its_characteristics(way, autocommit):
    """In blocks they go with BEGIN; with autocommit they are settings."""
    show = "SELECT current_setting('transaction_isolation')," \
        " current_setting('transaction_read_only')," \
        " current_setting('transaction_deferrable')"

    def work(who, me):
        with connected(way, who) as db:
            if who == "beta":
                db.set_session(isolation_level="SERIALIZABLE", readonly=True,
                               deferrable=True, autocommit=autocommit)
            else:
                db.set_session(autocommit=autocommit)
            for _ in range(5):
                assert ask(db, show) == [
                    ("serializable", "on", "on") if who == "beta"
                    else ("read committed", "off", "off")]
                db.rollback()
            if who == "beta":
                with pytest.raises(errors.ReadOnlySqlTransaction):
                    ask(db, INSERT, [me, 1])
                db.rollback()
                db.set_session(isolation_level="DEFAULT", readonly="DEFAULT",
                               deferrable="DEFAULT")
                assert ask(db, show) == [("read committed", "off", "off")]
                db.rollback()
                db.isolation_level = extensions.ISOLATION_LEVEL_REPEATABLE_READ
                assert ask(db, show)[0][0] == "repeatable read"
    together(work)


def test_serialization_failures_are_told_to_one_of_two(way, kept):
    ask_for = "SELECT count(*) FROM scratch.kept2"
    with connected(way, "acme") as a, connected(way, "beta") as b:
        for db in (a, b):
            db.set_session(isolation_level="SERIALIZABLE")
        assert ask(a, ask_for) == ask(b, ask_for) == [(0,)]
        ask(a, INSERT, ["acme", 1])
        ask(b, INSERT, ["beta", 1])
        a.commit()
        with pytest.raises(errors.SerializationFailure):
            b.commit()
        b.rollback()
        assert ask(b, "SELECT own_organization()::text") == [(ORGANIZATIONS["beta"],)]
    assert kept("acme") == [1] and kept("beta") == []


# Cursors on the server.


def test_named_cursors_of_one_name_are_each_client_s_own(way):
    def work(who, me):
        with connected(way, who) as db:
            for size in (3, 2000):
                with db.cursor("the_name") as cur:
                    cur.itersize = size
                    cur.execute("SELECT %s, g FROM generate_series(1, 30) g", [me])
                    assert list(cur) == [(me, n) for n in range(1, 31)]
                db.rollback()
            with db.cursor("the_name", scrollable=True) as cur:
                cur.execute("SELECT %s, g FROM generate_series(1, 30) g", [me])
                cur.scroll(20)
                assert cur.fetchone() == (me, 21)
                cur.scroll(-21)
                assert cur.fetchmany(2) == [(me, 1), (me, 2)]
    together(work)


def test_a_cursor_with_hold_outlives_its_transaction(way):
    def work(who, me):
        with connected(way, who) as db:
            with db.cursor("held", withhold=True) as cur:
                cur.execute("SELECT %s, g FROM generate_series(1, 9) g", [me])
                assert cur.fetchone() == (me, 1)
                db.commit()
                assert cur.fetchall() == [(me, n) for n in range(2, 10)]
            db.commit()
    together(work, 3)


# COPY.


def test_copy_expert_in_and_out(way, kept):
    def work(who, me):
        with connected(way, who) as db, db.cursor() as cur:
            text = "".join("%s,%d\n" % (me, n) for n in range(3000))
            cur.copy_expert("COPY scratch.kept2 FROM STDIN (FORMAT csv)",
                            io.StringIO(text))
            db.commit()
            out = io.StringIO()
            cur.copy_expert("COPY (SELECT * FROM scratch.kept2 WHERE who = '%s'"
                            " ORDER BY n) TO STDOUT (FORMAT csv)" % me, out)
            assert out.getvalue() == text
            with pytest.raises(errors.UniqueViolation):
                cur.copy_expert("COPY scratch.kept2 FROM STDIN (FORMAT csv)",
                                io.StringIO("%s,-1\n%s,0\n" % (me, me)))
            db.rollback()

            class Broken(io.StringIO):
                def read(self, *_):
                    raise ZeroDivisionError("no more")
            with pytest.raises(errors.QueryCanceled):
                cur.copy_expert("COPY scratch.kept2 FROM STDIN", Broken())
            db.rollback()
            assert ask(db, "SELECT %s", [me]) == [(me,)]
    together(work)
    assert kept("acme-4") == list(range(3000))


def test_a_large_object_is_written_and_read(way):
    def work(who, me):
        with connected(way, who) as db:
            big = db.lobject(0, "wb")
            big.write(me.encode() * 1000)
            oid = big.oid
            big.close()
            db.commit()
            big = db.lobject(oid, "rb")
            assert big.read() == me.encode() * 1000
            big.unlink()
            db.commit()
    together(work, 4)


# The session.


def test_settings_belong_to_the_client(way):
    def work(who, me):
        zone = "Etc/GMT+%d" % int(me.split("-")[1])
        with connected(way, who, autocommit=True, application_name=me) as db:
            ask(db, "SET timezone TO '%s'" % zone)
            for _ in range(10):
                assert db.get_parameter_status("TimeZone") == zone
                assert ask(db, "SHOW timezone; SELECT current_setting('timezone'),"
                               " current_setting('application_name')") == [(zone, me)]
            db.set_client_encoding("LATIN1")
            assert ask(db, "SELECT %s", ["é" + me]) == [("é" + me,)]
            db.set_client_encoding("UTF8")
            assert ask(db, "SELECT %s", ["☃" + me]) == [("☃" + me,)]
            ask(db, "DISCARD ALL")
            assert db.get_parameter_status("TimeZone") != zone
            assert ask(db, "SHOW application_name") == [(me,)]
            assert ask(db, "SELECT own_organization()::text") == [(ORGANIZATIONS[who],)]
    together(work)


def test_reset_brings_back_a_connection_as_new(way):
    def work(who, me):
        with connected(way, who) as db:
            db.set_session(isolation_level="SERIALIZABLE", readonly=True)
            ask(db, "SET search_path TO nowhere")
            db.commit()
            ask(db, "SELECT 1")
            db.reset()
            assert ask(db, "SELECT %s, current_setting('search_path'),"
                           " current_setting('transaction_isolation'),"
                           " own_organization()::text", [me]) == \
                [(me, '"$user", public', "read committed", ORGANIZATIONS[who])]
    together(work, 4)


def test_notifications_reach_who_listens_and_nobody_else(way):
    with connected(way, "acme", autocommit=True) as acme, \
            connected(way, "beta", autocommit=True) as beta:
        for who, db in (("acme", acme), ("beta", beta)):
            ask(db, "LISTEN to_" + who)
        with connected(way, "acme", autocommit=True) as speaker:
            for who in ("beta", "acme"):
                ask(speaker, "SELECT pg_notify(%s, %s)", ["to_" + who, who])
        for who, db in (("acme", acme), ("beta", beta)):
            while not db.notifies:
                assert select.select([db], [], [], scaled(10))[0]
                db.poll()
            assert [(n.channel, n.payload) for n in db.notifies] == [("to_" + who, who)]


def test_cancel_stops_the_statement_of_its_own_connection(way):
    def work(who, me):
        with connected(way, who, autocommit=True) as db:
            if me == "acme-0":
                for _ in range(2):
                    timer = threading.Timer(0.5, db.cancel)
                    start = time.monotonic()
                    timer.start()
                    with pytest.raises(errors.QueryCanceled):
                        ask(db, "SELECT pg_sleep(20)")
                    timer.join()
                    assert time.monotonic() - start < scaled(15)
            for n in range(40):
                assert ask(db, "SELECT %s, %s, pg_sleep(0.002)", [me, n])[0][:2] == \
                    (me, n)
    together(work, 4)


# Without blocking.


def wait(db):
    """What the manual says one does with an asynchronous connection."""
    while True:
        state = db.poll()
        if state == extensions.POLL_OK:
            return
        rd, wr = {extensions.POLL_READ: ([db], []),
                  extensions.POLL_WRITE: ([], [db])}[state]
        assert any(select.select(rd, wr, [], scaled(20)))


def test_asynchronous_connections_side_by_side(way):
    dbs = [psycopg2.connect(async_=1, **way.libpq(("acme", "beta")[n % 2]))
           for n in range(8)]
    for db in dbs:
        wait(db)
    curs = [db.cursor() for db in dbs]
    for turn in range(10):
        for n, cur in enumerate(curs):
            cur.execute("SELECT %s, %s, own_organization()::text", (n, turn))
        for n, (db, cur) in enumerate(zip(dbs, curs)):
            wait(db)
            assert cur.fetchall() == [(n, turn, ORGANIZATIONS[("acme", "beta")[n % 2]])]
    for db in dbs:
        db.close()


# Its pool.


def test_a_threaded_pool(way, kept):
    pools = {who: psycopg2.pool.ThreadedConnectionPool(2, 8, **way.libpq(who))
             for who in ("acme", "beta")}

    def work(who, me):
        for n in range(10):
            db = pools[who].getconn()
            assert ask(db, "SELECT %s, own_organization()::text", [me]) == \
                [(me, ORGANIZATIONS[who])]
            ask(db, INSERT, [me, n])
            if n % 3:
                db.commit()
            pools[who].putconn(db)      # which rolls back what is open
    together(work, 16)
    for pool in pools.values():
        pool.closeall()
    assert kept("beta-15") == [n for n in range(10) if n % 3]
