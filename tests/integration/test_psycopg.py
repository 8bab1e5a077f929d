"""
Goal:   psycopg 3 works through weir as it does without.
Method: its whole repertoire, each test directly, through weir, and through weir
        with TLS; more clients than servers, and each reads back its own name.
"""
import asyncio
import contextlib
import datetime
import decimal
import threading
import time
import uuid

import psycopg
import psycopg_pool
import pytest
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from drivers import run, tasks, together
from servers import ORGANIZATIONS, scaled

STATUS = psycopg.pq.TransactionStatus


@pytest.fixture(scope="module", autouse=True)
def tables(pg):
    pg.run("DROP TABLE IF EXISTS scratch.copied3, scratch.kept3")
    pg.run("CREATE TABLE scratch.copied3 (who text, n int, at timestamptz, b bytea)")
    pg.run("CREATE TABLE scratch.kept3 (who text, n int, UNIQUE (who, n))")
    pg.run("GRANT ALL ON scratch.copied3, scratch.kept3 TO PUBLIC")


@pytest.fixture
def kept(pg):
    """The rows that were committed, as the superuser sees them."""
    pg.run("TRUNCATE scratch.kept3")
    return lambda me: [n for n, in pg.run(
        "SELECT n FROM scratch.kept3 WHERE who = %s ORDER BY n", [me])]


def connect(way, who="acme", **more):
    return psycopg.connect(**way.libpq(who, **more))


def connect_async(way, who="acme", **more):
    return psycopg.AsyncConnection.connect(**way.libpq(who, **more))


INSERT = "INSERT INTO scratch.kept3 VALUES (%s, %s)"


# Statements.


@pytest.mark.parametrize("threshold", [0, 5], ids="threshold-{}".format)
def test_every_client_reads_its_own_answers(way, threshold):
    def work(who, me):
        with connect(way, who, autocommit=True, prepare_threshold=threshold) as db:
            for n in range(8):
                assert db.execute("SELECT %s, %s::int, own_organization()", [me, n]) \
                    .fetchall() == [(me, n, uuid.UUID(ORGANIZATIONS[who]))]
                assert db.execute("SELECT '%s', %%s::text" % me, [str(n)],
                                  binary=True).fetchone() == (me, str(n))
    together(work)


VALUES = [
    True, -1, 1 << 40, 1 << 70, 2.5, float("inf"), "text ☃", "", b"\0\xff\\", None,
    decimal.Decimal("-12345678901234567890.0123456789"), uuid.UUID(int=7),
    datetime.date(2024, 2, 29), datetime.time(23, 59, 59, 999999),
    datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone.utc),
    datetime.timedelta(days=-3, seconds=5), [1, None, 3], [[1, 2], [3, 4]],
    [decimal.Decimal("1.5")], {"k": [1, {"x": None}]},
]


@pytest.mark.parametrize("style", ["%s", "%b", "%t"])
def test_values_survive_the_round_trip(way, style):
    def work(who, me):
        with connect(way, who, autocommit=True, prepare_threshold=1) as db:
            db.execute("SET timezone TO 'UTC'")
            for binary in (False, True):
                cur = db.cursor(binary=binary)
                for value in VALUES:
                    sent = Jsonb(value) if isinstance(value, dict) else value
                    assert cur.execute("SELECT %s, {0}".format(style), [me, sent]) \
                        .fetchone() == (me, value)
    together(work, 2)


def test_an_automatic_statement_is_prepared_once_and_used_by_its_owner(way):
    """The names are the same for all clients, and the texts are not."""
    def work(who, me):
        with connect(way, who, autocommit=True, prepare_threshold=2) as db:
            for n in range(5):
                for turn in range(3):
                    assert db.execute(
                        "SELECT '%s' AS w, %d + %%s" % (me, turn), [n]).fetchone() \
                        == (me, turn + n)
            assert len(db._prepared._names) == 3
    together(work)


def test_statements_over_prepared_max_are_deallocated(way):
    def work(who, me):
        with connect(way, who, autocommit=True, prepare_threshold=0) as db:
            db.prepared_max = 3
            for n in list(range(6)) * 2:
                assert db.execute("SELECT '%s', %d + %%s" % (me, n), [n]).fetchone() \
                    == (me, n + n)
    together(work)


def test_statements_are_prepared_again_after_a_rollback(way, kept):
    """psycopg sends DEALLOCATE ALL then."""
    def work(who, me):
        with connect(way, who, prepare_threshold=0) as db:
            for n in range(6):
                db.execute(INSERT, [me, n])
                assert db.execute("SELECT '%s', %%s::int" % me, [n]).fetchone() == \
                    (me, n)
                db.rollback() if n % 2 else db.commit()
    together(work)
    for me in ("acme-0", "beta-1", "acme-4"):
        assert kept(me) == [0, 2, 4]


def test_errors_have_their_class_and_leave_the_connection_usable(way, kept):
    def work(who, me):
        with connect(way, who, autocommit=True, prepare_threshold=1) as db:
            db.execute(INSERT, [me, 1])
            for _ in range(2):
                with pytest.raises(errors.UniqueViolation) as e:
                    db.execute(INSERT, [me, 1])
                assert e.value.diag.message_detail == \
                    "Key (who, n)=(%s, 1) already exists." % me
                with pytest.raises(errors.DivisionByZero):
                    db.execute("SELECT 1 / %s", [0])
                with pytest.raises(errors.UndefinedTable):
                    db.execute("SELECT * FROM nowhere")
                with pytest.raises(errors.SyntaxError):
                    db.execute("SELEC 1")
                with pytest.raises(errors.InvalidTextRepresentation):
                    db.execute("SELECT %s::int", [me])
                assert db.info.transaction_status == STATUS.IDLE
                assert db.execute("SELECT %s", [me]).fetchone() == (me,)
    together(work)


def test_executemany_keeps_every_row_and_its_order(way, kept):
    def work(who, me):
        with connect(way, who) as db:
            cur = db.cursor()
            cur.executemany(INSERT + " RETURNING who, n", [(me, n) for n in range(40)],
                            returning=True)
            got = []
            while True:
                got += cur.fetchall()
                if not cur.nextset():
                    break
            assert got == [(me, n) for n in range(40)]
            with pytest.raises(errors.UniqueViolation):
                with db.transaction():
                    db.cursor().executemany(INSERT, [(me, n) for n in range(90, 38, -1)])
    together(work)
    assert kept("beta-3") == list(range(40))


def test_rows_stream_one_by_one(way):
    def work(who, me):
        with connect(way, who, autocommit=True) as db:
            cur = db.cursor()
            got = list(cur.stream(
                "SELECT %s::text, g FROM generate_series(1, 200) g", [me]))
            assert got == [(me, n) for n in range(1, 201)]
            for n, row in enumerate(cur.stream(
                    "SELECT %s::text, repeat('x', 1000) FROM generate_series(1, 500)",
                    [me])):
                assert row[0] == me
                if n == 5:
                    break
            assert db.execute("SELECT %s", [me]).fetchone() == (me,)
    together(work)


# Transactions.


def test_blocks_commit_roll_back_and_nest(way, kept):
    def work(who, me):
        with connect(way, who, autocommit=True) as db:
            with db.transaction():
                db.execute(INSERT, [me, 1])
                with pytest.raises(ZeroDivisionError):
                    with db.transaction("inner"):
                        db.execute(INSERT, [me, 2])
                        raise ZeroDivisionError
                with db.transaction():
                    db.execute(INSERT, [me, 3])
                    with db.transaction(force_rollback=True):
                        db.execute(INSERT, [me, 4])
                with pytest.raises(errors.UniqueViolation):
                    with db.transaction():
                        db.execute(INSERT, [me, 3])
                assert db.info.transaction_status == STATUS.INTRANS
            with db.transaction() as outer:
                db.execute(INSERT, [me, 5])
                raise psycopg.Rollback(outer)
            assert db.info.transaction_status == STATUS.IDLE
    together(work)
    for me in ("acme-0", "beta-3"):
        assert kept(me) == [1, 3]


def test_leaving_the_connection_block_commits_and_an_error_rolls_back(way, kept):
    def work(who, me):
        with connect(way, who) as db:
            db.execute(INSERT, [me, 1])
        with pytest.raises(errors.DivisionByZero):
            with connect(way, who) as db:
                db.execute(INSERT, [me, 2])
                db.execute("SELECT 1/0")
        db = connect(way, who)
        db.execute(INSERT, [me, 3])
        assert db.info.transaction_status == STATUS.INTRANS
        db.close()      # in the middle
    together(work)
    assert kept("acme-2") == [1]


def test_transactions_have_their_characteristics(way):
    show = "SELECT current_setting('transaction_isolation')," \
        " current_setting('transaction_read_only')," \
        " current_setting('transaction_deferrable')"

    def work(who, me):
        odd = who == "beta"
        with connect(way, who) as db:
            if odd:
                db.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
                db.read_only = db.deferrable = True
            for _ in range(5):
                assert db.execute(show).fetchone() == (
                    ("serializable", "on", "on") if odd
                    else ("read committed", "off", "off"))
                db.commit()
            if odd:
                with pytest.raises(errors.ReadOnlySqlTransaction):
                    db.execute(INSERT, [me, 1])
                db.rollback()
                db.read_only = False
                assert db.execute(show).fetchone()[:2] == ("serializable", "off")
    together(work)


# Pipelines.


def test_pipelines_bring_every_answer_in_its_place(way):
    def work(who, me):
        with connect(way, who, autocommit=True, prepare_threshold=2) as db:
            for turn in range(2):
                with db.pipeline() as p:
                    first = [db.execute("SELECT %s, %s::int", [me, n])
                             for n in range(20)]
                    p.sync()
                    assert first[7].fetchone() == (me, 7)
                    second = [db.execute("SELECT %s::int, %s", [turn, me])
                              for _ in range(20)]
                assert [c.fetchone() for c in first if c is not first[7]] == \
                    [(me, n) for n in range(20) if n != 7]
                assert {c.fetchone() for c in second} == {(turn, me)}
    together(work)


def test_an_error_ends_its_pipeline_up_to_the_sync(way, kept):
    def work(who, me):
        with connect(way, who, autocommit=True, prepare_threshold=0) as db:
            for turn in range(3):
                with pytest.raises(errors.DivisionByZero):
                    with db.pipeline() as p:
                        db.execute(INSERT, [me, turn])
                        p.sync()
                        db.execute(INSERT, [me, turn + 10])
                        db.execute("SELECT 1 / %s", [0])
                        ignored = db.execute(INSERT, [me, turn + 20])
                        with pytest.raises(errors.PipelineAborted):
                            ignored.fetchall()
                        raise errors.DivisionByZero
                assert db.execute("SELECT %s", [me]).fetchone() == (me,)
    together(work)
    for me in ("acme-0", "beta-3"):
        assert kept(me) == [0, 1, 2]


def test_transactions_inside_a_pipeline(way, kept):
    def work(who, me):
        with connect(way, who, autocommit=True) as db:
            with db.pipeline():
                with db.transaction():
                    db.execute(INSERT, [me, 1])
                    with pytest.raises(ZeroDivisionError):
                        with db.transaction():
                            db.execute(INSERT, [me, 2])
                            raise ZeroDivisionError
                    cur = db.execute("SELECT %s, count(*) FROM scratch.kept3"
                                     " WHERE who = %s", [me, me])
                    assert cur.fetchone() == (me, 1)
                with pytest.raises(ZeroDivisionError):
                    with db.transaction():
                        db.execute(INSERT, [me, 3])
                        raise ZeroDivisionError
    together(work)
    assert kept("acme-4") == [1]


def test_a_rollback_inside_a_pipeline_of_prepared_statements(way, kept):
    """What follows it in the same write comes behind a DEALLOCATE ALL."""
    def work(who, me):
        with connect(way, who, prepare_threshold=0) as db:
            for turn in range(3):
                with db.pipeline():
                    db.execute(INSERT, [me, turn])
                    db.rollback()
                    db.execute(INSERT, [me, turn + 10])
                    db.execute("SELECT %s", [me])
                    db.commit()
    together(work)
    assert kept("beta-1") == [10, 11, 12]


# Cursors on the server.


def test_named_cursors_of_one_name_are_each_client_s_own(way):
    def work(who, me):
        with connect(way, who) as db:
            for size in (1, 7, 100):
                with db.cursor("the_name") as cur:
                    cur.itersize = size
                    cur.execute("SELECT %s::text, g FROM generate_series(1, 60) g", [me])
                    assert list(cur) == [(me, n) for n in range(1, 61)]
                db.commit()
            with db.cursor("the_name", scrollable=True) as cur:
                cur.execute("SELECT %s::text, g FROM generate_series(1, 60) g", [me])
                cur.scroll(50)
                assert cur.fetchone() == (me, 51)
                cur.scroll(0, mode="absolute")
                assert cur.fetchmany(2) == [(me, 1), (me, 2)]
                cur.scroll(-1)
                assert cur.fetchone() == (me, 2)
    together(work)


def test_a_cursor_with_hold_outlives_its_transaction(way):
    def work(who, me):
        with connect(way, who) as db:
            cur = db.cursor("held", withhold=True)
            cur.execute("SELECT %s::text, g FROM generate_series(1, 9) g", [me])
            assert cur.fetchone() == (me, 1)
            db.commit()
            assert cur.fetchall() == [(me, n) for n in range(2, 10)]
            cur.close()
            db.commit()
    together(work, 3)


# COPY.


def some_rows(me, n=100):
    at = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
    return [(me, i, at + datetime.timedelta(minutes=i), bytes([i % 256]) * (i % 50))
            for i in range(n)]


@pytest.mark.parametrize("fmt", ["text", "binary"])
def test_copy_in_and_out_row_by_row(way, pg, fmt):
    pg.run("TRUNCATE scratch.copied3")
    types = ["text", "int4", "timestamptz", "bytea"]

    def work(who, me):
        rows = some_rows(me)
        with connect(way, who) as db:
            db.execute("SET LOCAL timezone TO 'UTC'")
            cur = db.cursor()
            with cur.copy("COPY scratch.copied3 FROM STDIN (FORMAT %s)" % fmt) as copy:
                copy.set_types(types)
                for row in rows:
                    copy.write_row(row)
            assert cur.rowcount == len(rows)
            query = sql.SQL("COPY (SELECT * FROM scratch.copied3 WHERE who = {}"
                            " ORDER BY n) TO STDOUT (FORMAT {})").format(
                                me, sql.SQL(fmt))
            with cur.copy(query) as copy:
                copy.set_types(types)
                assert list(copy.rows()) == rows
    together(work)


def test_copy_that_fails_on_either_side(way, pg):
    pg.run("TRUNCATE scratch.copied3")

    def work(who, me):
        with connect(way, who, autocommit=True) as db:
            cur = db.cursor()
            with pytest.raises(errors.QueryCanceled):
                with cur.copy("COPY scratch.copied3 (who) FROM STDIN") as copy:
                    copy.write_row([me])
                    raise ZeroDivisionError
            with pytest.raises(errors.InvalidTextRepresentation):
                with cur.copy("COPY scratch.copied3 (who, n) FROM STDIN") as copy:
                    for _ in range(2000):
                        copy.write("%s\t%s\n" % (me, me))
            with pytest.raises(errors.DivisionByZero):
                with cur.copy("COPY (SELECT '%s', 1 / (300 - g) FROM"
                              " generate_series(1, 400) g) TO STDOUT" % me) as copy:
                    for row in copy.rows():
                        assert row[0] == me
            assert db.execute("SELECT %s", [me]).fetchone() == (me,)
    together(work)
    assert pg.run("SELECT count(*) FROM scratch.copied3") == [(0,)]


def test_copy_from_one_client_to_another(way, pg):
    pg.run("TRUNCATE scratch.copied3")
    with connect(way, "acme") as source, connect(way, "beta") as target:
        with source.cursor().copy("COPY (SELECT 'acme', g FROM"
                                  " generate_series(1, 5000) g) TO STDOUT") as out:
            with target.cursor().copy(
                    "COPY scratch.copied3 (who, n) FROM STDIN") as into:
                for data in out:
                    into.write(data)
    assert pg.run("SELECT count(*), sum(n) FROM scratch.copied3") == [(5000, 12502500)]


# The session.


def test_settings_belong_to_the_client(way):
    def work(who, me):
        zone = "Etc/GMT+%d" % int(me.split("-")[1])
        with connect(way, who, autocommit=True, application_name=me) as db:
            assert db.info.parameter_status("application_name") == me
            db.execute("SELECT set_config('TimeZone', %s, false)", [zone])
            for _ in range(4):
                assert db.info.timezone.key == zone
                assert db.execute("SHOW timezone").fetchone() == (zone,)
                assert db.execute("SHOW application_name").fetchone() == (me,)
            db.execute("SET client_encoding TO latin1")
            assert db.info.encoding == "iso8859-1"
            assert db.execute("SELECT %s", ["é" + me]).fetchone() == ("é" + me,)
            db.execute("RESET client_encoding")
            assert db.execute("SELECT %s", ["☃"]).fetchone() == ("☃",)
            with pytest.raises(errors.QueryCanceled):
                with db.transaction():
                    db.execute("SET LOCAL statement_timeout TO 20")
                    db.execute("SELECT pg_sleep(10)")
            assert db.execute("SHOW statement_timeout").fetchone() == ("0",)
    together(work)


def test_notices_reach_their_client(way):
    def work(who, me):
        said = []
        with connect(way, who, autocommit=True) as db:
            db.add_notice_handler(lambda d: said.append(d.message_primary))
            for n in range(10):
                db.execute("DO $$ BEGIN RAISE NOTICE '%s %d'; END $$" % (me, n))
        assert said == ["%s %d" % (me, n) for n in range(10)]
    together(work)


def test_notifications_reach_who_listens_and_nobody_else(way):
    def listen(who, me):
        with connect(way, who, autocommit=True) as db:
            db.execute("LISTEN to_%s" % who)
            ready.wait()
            got = next(db.notifies())
            assert (got.channel, got.payload) == ("to_" + who, who)
            db.execute("UNLISTEN *")
            assert db.execute("SELECT %s", [me]).fetchone() == (me,)

    ready = threading.Barrier(3)

    def speak():
        with connect(way, autocommit=True) as db:
            ready.wait()
            for who in ("acme", "beta"):
                db.execute("SELECT pg_notify(%s, %s)", ["to_" + who, who])
    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    together(listen, 2)
    speaker.join(scaled(10))


def test_cancel_stops_the_statement_of_its_own_connection(way):
    def work(who, me):
        with connect(way, who, autocommit=True) as db:
            if me == "acme-0":
                for _ in range(2):
                    timer = threading.Timer(0.5, db.cancel)
                    start = time.monotonic()
                    timer.start()
                    with pytest.raises(errors.QueryCanceled):
                        db.execute("SELECT pg_sleep(20)")
                    timer.join()
                    assert time.monotonic() - start < scaled(15)
            for n in range(40):
                assert db.execute("SELECT %s, %s::int, pg_sleep(0.002)", [me, n]) \
                    .fetchone()[:2] == (me, n)
    together(work, 4)


# Many at once in one thread.


def test_async_connections(way, kept):
    async def work(who, me):
        async with await connect_async(way, who, prepare_threshold=1) as db:
            for n in range(5):
                async with db.transaction():
                    await db.execute(INSERT, [me, n])
                    cur = await db.execute("SELECT %s, own_organization()::text", [me])
                    assert await cur.fetchone() == (me, ORGANIZATIONS[who])
            async with db.pipeline():
                curs = [await db.execute("SELECT %s, %s::int", [me, n])
                        for n in range(10)]
            assert [await c.fetchone() for c in curs] == [(me, n) for n in range(10)]
            async with db.cursor("the_name") as cur:
                cur.itersize = 9
                await cur.execute("SELECT %s::text FROM generate_series(1, 30)", [me])
                assert [row async for row in cur] == [(me,)] * 30
            async with db.cursor().copy(
                    "COPY (SELECT '%s' FROM generate_series(1, 30)) TO STDOUT" % me) \
                    as copy:
                assert [row async for row in copy.rows()] == [(me,)] * 30
    tasks(work, 10)
    assert kept("beta-9") == list(range(5))


def test_an_async_task_that_gives_up(way):
    async def work():
        db = await connect_async(way, autocommit=True)
        other = await connect_async(way, "beta", autocommit=True)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(db.execute("SELECT pg_sleep(20)"), 0.5)
        db.cancel()
        await db.close()
        for n in range(20):
            cur = await other.execute("SELECT 'beta', %s::int", [n])
            assert await cur.fetchone() == ("beta", n)
        await other.close()
    run(work())


# Its pool.


def test_a_pool_of_connections_in_threads(way, kept):
    with contextlib.ExitStack() as stack:
        pools = {who: stack.enter_context(psycopg_pool.ConnectionPool(
            kwargs=way.libpq(who), min_size=2, max_size=5, timeout=scaled(20)))
            for who in ("acme", "beta")}

        def work(who, me):
            for n in range(10):
                with pools[who].connection() as db:
                    assert db.execute("SELECT %s, own_organization()::text", [me]) \
                        .fetchone() == (me, ORGANIZATIONS[who])
                    db.execute(INSERT, [me, n])
                    if n % 3 == 2:
                        db.rollback()
        together(work, 16)
        for pool in pools.values():
            pool.check()
    assert kept("beta-15") == [n for n in range(10) if n % 3 != 2]


def test_an_async_pool(way):
    async def main():
        pools = {who: psycopg_pool.AsyncConnectionPool(
            kwargs=way.libpq(who), min_size=2, max_size=6, timeout=scaled(20),
            open=False) for who in ("acme", "beta")}
        for pool in pools.values():
            await pool.open(wait=True)

        async def work(who, me):
            for n in range(5):
                async with pools[who].connection() as db:
                    cur = await db.execute("SELECT %s, %s::int", [me, n])
                    assert await cur.fetchone() == (me, n)
        await asyncio.gather(*[work("acme" if i % 2 else "beta", "me-%d" % i)
                               for i in range(20)])
        for pool in pools.values():
            await pool.close()
    run(main())
