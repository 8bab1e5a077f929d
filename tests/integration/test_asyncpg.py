"""
Goal:   asyncpg works through weir as it does without.
Method: its pool, its cache of statements, cursors, COPY, types it looks up by
        itself, time-outs: each test directly, through weir, and with TLS.
"""
import asyncio
import contextlib
import datetime
import decimal
import json
import uuid

import asyncpg
import pytest

from drivers import names, run, tasks
from servers import ORGANIZATIONS, scaled

SCHEMA = """
DROP SCHEMA IF EXISTS drv CASCADE;
CREATE SCHEMA drv;
GRANT ALL ON SCHEMA drv TO PUBLIC;
CREATE TYPE drv.mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE drv.pair AS (name text, n int, moods drv.mood[]);
CREATE DOMAIN drv.positive AS int CHECK (VALUE > 0);
CREATE TYPE drv.spread AS RANGE (subtype = float8);
CREATE TABLE drv.kept (who text, n int, UNIQUE (who, n));
CREATE TABLE drv.copied (who text, n int, at timestamptz, data bytea, mood drv.mood);
GRANT ALL ON ALL TABLES IN SCHEMA drv TO PUBLIC;
"""
OWN = "own_organization()"
INSERT = "INSERT INTO drv.kept VALUES ($1, $2)"


@pytest.fixture(scope="module", autouse=True)
def schema(pg):
    pg.run(SCHEMA)
    yield
    pg.run("DROP SCHEMA drv CASCADE")


@pytest.fixture
def kept(pg):
    """The rows that were committed, as the superuser sees them."""
    pg.run("TRUNCATE drv.kept")
    return lambda me: [n for n, in pg.run(
        "SELECT n FROM drv.kept WHERE who = %s ORDER BY n", [me])]


@contextlib.asynccontextmanager
async def connected(way, who="acme", **more):
    db = await asyncpg.connect(**way.asyncpg(who, **more))
    try:
        yield db
    finally:
        await db.close()


@contextlib.asynccontextmanager
async def pools(way, size=8, **more):
    """A pool for each organization."""
    async with asyncpg.create_pool(
            min_size=1, max_size=size, **way.asyncpg("acme", **more)) as acme, \
        asyncpg.create_pool(
            min_size=1, max_size=size, **way.asyncpg("beta", **more)) as beta:
        yield {"acme": acme, "beta": beta}


def organization(who):
    return uuid.UUID(ORGANIZATIONS[who])


# Pools.


def test_forty_tasks_share_a_pool(way, kept):
    async def main():
        async with connected(way, trusted=False) as db:     # with its password
            assert await db.fetchval("SELECT own_organization()") == organization("acme")
        async with pools(way, 10) as pool:
            async def work(who, me):
                for n in range(3):
                    assert tuple(await pool[who].fetchrow(
                        "SELECT $1::text, $2::int, own_organization()", me, n)) == \
                        (me, n, organization(who))
                    async with pool[who].acquire() as db:
                        async with db.transaction():
                            await db.execute(INSERT, me, n)
                            assert await db.fetchval(
                                "SELECT count(*) FROM drv.kept WHERE who = $1", me) \
                                == n + 1
            await asyncio.gather(*[work(*name) for name in names(40)])
    run(main())
    assert kept("beta-39") == list(range(3))


def test_a_released_connection_has_lost_its_state(way):
    """The pool sends RESET ALL and more of the kind; what weir set stays."""
    async def main():
        async with pools(way, 1) as pool:
            async def work(who, me):
                for _ in range(3):
                    async with pool[who].acquire() as db:
                        assert await db.fetchrow(
                            "SELECT current_setting('search_path'),"
                            " current_setting('work_mem'), own_organization()") == \
                            ('"$user", public', "4MB", organization(who))
                        await db.execute("SET search_path TO drv; SET work_mem TO '9MB'")
                        assert await db.fetchval("SHOW search_path") == "drv"
                        await db.execute(
                            "DECLARE held CURSOR WITH HOLD FOR SELECT '%s'" % me)
                        await db.execute("SELECT pg_advisory_lock(%d)" % len(who))
                        await db.add_listener("drv", print)
                        await db.remove_listener("drv", print)
            await asyncio.gather(*[work(*name) for name in names(4)])
            # The lock is free again: anybody may have it, at once.
            assert await pool["beta"].fetchval("SELECT pg_try_advisory_lock(4)")
    run(main())


def test_statement_caches_of_many_clients_hold_different_texts(way):
    """All of them call theirs __asyncpg_stmt_1__ and so on."""
    async def work(who, me):
        async with connected(way, who) as db:
            for turn in range(4):
                for n in range(6):
                    assert tuple(await db.fetchrow(
                        "SELECT '%s', $1::int + %d" % (me, n), turn)) == (me, turn + n)
            first = await db.prepare("SELECT '%s', $1::text" % me)
            second = await db.prepare("SELECT $1::int, '%s'" % me)
            assert first.get_attributes()[1].type.name == "text"
            for n in range(4):
                assert tuple(await first.fetchrow(str(n))) == (me, str(n))
                assert tuple(await second.fetchrow(n)) == (n, me)
            assert await first.explain("x")
    tasks(work, 10)


@pytest.mark.parametrize("size", [0, 2], ids="cache-{}".format)
def test_statements_that_leave_the_cache_are_closed(way, size):
    async def work(who, me):
        async with connected(way, who, statement_cache_size=size) as db:
            for n in list(range(5)) * 3:
                query = "SELECT '%s', %d + $1::int" % (me, n)
                assert tuple(await db.fetchrow(query, n)) == (me, n + n)
    tasks(work)


# Transactions.


def test_transactions_commit_roll_back_and_nest(way, kept):
    async def work(who, me):
        async with connected(way, who) as db:
            async with db.transaction():
                await db.execute(INSERT, me, 1)
                with pytest.raises(asyncpg.UniqueViolationError) as e:
                    async with db.transaction():
                        await db.execute(INSERT, me, 2)
                        await db.execute(INSERT, me, 1)
                assert e.value.detail == "Key (who, n)=(%s, 1) already exists." % me
                async with db.transaction():
                    await db.execute(INSERT, me, 3)
            with pytest.raises(ZeroDivisionError):
                async with db.transaction():
                    await db.execute(INSERT, me, 4)
                    raise ZeroDivisionError
            by_hand = db.transaction()
            await by_hand.start()
            await db.execute(INSERT, me, 5)
            await by_hand.rollback()
            assert not db.is_in_transaction()
    tasks(work, 10)
    for me in ("acme-0", "beta-9"):
        assert kept(me) == [1, 3]


def test_transactions_have_their_characteristics(way):
    show = "SELECT current_setting('transaction_isolation')," \
        " current_setting('transaction_read_only')," \
        " current_setting('transaction_deferrable'), $1::text"

    async def work(who, me):
        async with connected(way, who) as db:
            for _ in range(4):
                async with db.transaction(isolation="serializable", readonly=True,
                                          deferrable=True):
                    assert tuple(await db.fetchrow(show, me)) == \
                        ("serializable", "on", "on", me)
                async with db.transaction(isolation="repeatable_read"):
                    assert tuple(await db.fetchrow(show, me)) == \
                        ("repeatable read", "off", "off", me)
                async with db.transaction():
                    assert tuple(await db.fetchrow(show, me)) == \
                        ("read committed", "off", "off", me)
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                    async with db.transaction(readonly=True):
                        await db.execute(INSERT, me, 1)
    tasks(work)


def test_executemany_is_all_or_nothing(way, kept):
    async def work(who, me):
        async with connected(way, who) as db:
            await db.executemany(INSERT, [(me, n) for n in range(500)])
            with pytest.raises(asyncpg.UniqueViolationError):
                await db.executemany(INSERT, [(me, n) for n in range(900, 490, -1)])
            with pytest.raises(asyncpg.DataError):
                await db.executemany(INSERT, [(me, 1000), (me, "x")])
            assert await db.fetchval("SELECT count(*) FROM drv.kept WHERE who = $1",
                                     me) == 500
    tasks(work)
    assert kept("beta-3") == list(range(500))


def test_errors_leave_the_connection_usable(way):
    async def work(who, me):
        async with connected(way, who) as db:
            for n in range(4):
                with pytest.raises(asyncpg.DivisionByZeroError):
                    await db.fetchval("SELECT 1 / $1::int", 0)
                with pytest.raises(asyncpg.UndefinedTableError):
                    await db.fetch("SELECT * FROM nowhere")
                with pytest.raises(asyncpg.PostgresSyntaxError):
                    await db.execute("SELEC 1")
                assert await db.fetchval("SELECT $1::text", me) == me
    tasks(work)


# Cursors.


def test_cursors_fetch_in_parts(way):
    query = "SELECT $1::text, g FROM generate_series(1, $2::int) g"

    async def work(who, me):
        async with connected(way, who) as db:
            async with db.transaction():
                got = [tuple(r) async for r in db.cursor(query, me, 120, prefetch=50)]
                assert got == [(me, n) for n in range(1, 121)]
                one, two = await db.cursor(query, me, 20), await db.cursor(query, me, 9)
                assert (await one.fetchrow())["g"] == 1
                assert [r["g"] for r in await two.fetch(2)] == [1, 2]
                assert await one.forward(10) == 10
                assert [tuple(r) for r in await one.fetch(3)] == \
                    [(me, 12), (me, 13), (me, 14)]
                assert [r["g"] for r in await two.fetch(20)] == list(range(3, 10))
            # one row of many: Execute with a limit, and the portal is left
            assert tuple(await db.fetchrow(query, me, 1000)) == (me, 1)
            assert await db.fetchval(query, me, 1000, column=1) == 1
    tasks(work)


# COPY.


def test_copy_in_and_out(way, pg, kept):
    pg.run("TRUNCATE drv.copied")
    at = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)

    async def work(who, me):
        rows = [(me, n, at + datetime.timedelta(n), bytes([n % 256]) * n, "ok")
                for n in range(300)]
        async with connected(way, who) as db:
            assert await db.copy_records_to_table(
                "copied", schema_name="drv", records=rows) == "COPY 300"
            out = bytearray()

            async def take(data):
                out.extend(data)
            assert await db.copy_from_query(
                "SELECT who, n FROM drv.copied WHERE who = $1 ORDER BY n", me,
                output=take, format="csv") == "COPY 300"
            assert out.decode() == "".join("%s,%d\n" % (me, n) for n in range(300))

            async def give():
                for line in bytes(out).splitlines(True):
                    yield line
            assert await db.copy_to_table("kept", schema_name="drv", source=give(),
                                          format="csv") == "COPY 300"
            out.clear()
            await db.copy_from_query("SELECT $1::text", me, output=take,
                                     format="binary")
            assert bytes(out).startswith(b"PGCOPY\n\xff\r\n") and me.encode() in out
            with pytest.raises(asyncpg.UniqueViolationError):
                await db.copy_records_to_table("kept", schema_name="drv",
                                               records=[(me, -1), (me, 0)])

            async def fail():
                yield b"%s,-1\n" % me.encode()
                raise ZeroDivisionError
            with pytest.raises(ZeroDivisionError):
                await db.copy_to_table("kept", schema_name="drv", source=fail(),
                                       format="csv")
            assert [tuple(r) for r in await db.fetch(
                "SELECT * FROM drv.copied WHERE who = $1 ORDER BY n", me)] == rows
    tasks(work)
    assert kept("acme-4") == list(range(300))


# Types.


def test_types_are_looked_up_once_and_come_back_as_they_went(way):
    values = [True, -1, 1 << 40, 2.5, "text ☃", b"\0\xff", None, uuid.UUID(int=7),
              datetime.date(2024, 2, 29), datetime.timedelta(days=-3),
              decimal.Decimal("-1234567890123456789.0123")]
    types = ["bool", "int4", "int8", "float8", "text", "bytea", "text", "uuid", "date",
             "interval", "numeric"]

    async def work(who, me):
        async with connected(way, who) as db:
            for _ in range(2):
                for value, kind in zip(values, types):
                    assert tuple(await db.fetchrow(
                        "SELECT $1::text, $2::%s, ARRAY[$2::%s, NULL]" % (kind, kind),
                        me, value)) == (me, value, [value, None])
                pair = await db.fetchval(
                    "SELECT $1::drv.pair", (me, 5, ["sad", "happy"]))
                assert tuple(pair) == (me, 5, ["sad", "happy"])
                assert await db.fetchval("SELECT $1::drv.mood[]", ["ok", None]) == \
                    ["ok", None]
                assert await db.fetchval("SELECT $1::drv.positive", 3) == 3
                got = await db.fetchval("SELECT $1::drv.spread",
                                        asyncpg.Range(1.5, 2.5))
                assert (got.lower, got.upper) == (1.5, 2.5)
                assert [tuple(p) for p in await db.fetchval(
                    "SELECT ARRAY[($1::text, n, '{ok}')::drv.pair]"
                    " FROM generate_series(1, 1) n", me)] == [(me, 1, ["ok"])]
            await db.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps,
                                    decoder=json.loads)
            for n in range(3):
                assert await db.fetchval("SELECT $1::jsonb", {me: [n]}) == {me: [n]}
    tasks(work, 4)


def test_a_table_that_changes_is_read_as_it_is(way, pg):
    """asyncpg prepares anew when it hears that a cached plan is no more."""
    pg.run("DROP TABLE IF EXISTS drv.changing")
    pg.run("CREATE TABLE drv.changing AS SELECT 1 AS a")
    pg.run("GRANT ALL ON drv.changing TO PUBLIC")

    async def work(who, me):
        query = "SELECT *, '%s' FROM drv.changing" % me
        async with connected(way, who) as db:
            for _ in range(3):
                assert tuple(await db.fetchrow(query)) == (1, me)
            arrived.append(me)
            while len(arrived) < 4:
                await asyncio.sleep(0.01)
            if me == "acme-0":
                pg.run("ALTER TABLE drv.changing ADD b text DEFAULT 'new'")
                changed.set()
            await changed.wait()
            for _ in range(3):
                assert tuple(await db.fetchrow(query)) == (1, "new", me)

    arrived = []

    async def main():
        nonlocal changed
        changed = asyncio.Event()
        await asyncio.gather(*[work(*name) for name in names(4)])
    changed = None
    run(main())


def test_a_stale_plan_in_a_transaction_is_an_error_of_that_transaction(way, pg):
    pg.run("DROP TABLE IF EXISTS drv.changing")
    pg.run("CREATE TABLE drv.changing AS SELECT 1 AS a")
    pg.run("GRANT ALL ON drv.changing TO PUBLIC")

    async def main():
        async with connected(way) as db:
            query = "SELECT * FROM drv.changing"
            assert tuple(await db.fetchrow(query)) == (1,)
            pg.run("ALTER TABLE drv.changing ADD b text DEFAULT 'new'")
            with pytest.raises(asyncpg.InvalidCachedStatementError):
                async with db.transaction():
                    await db.fetchrow(query)
            assert await db.fetchval("SELECT 'alive'") == "alive"
    run(main())


# The session.


def test_settings_and_listeners_belong_to_the_client(way):
    async def main():
        heard = {"acme": [], "beta": []}
        ready = asyncio.Event()

        async def work(who, me):
            async with connected(way, who, server_settings={
                    "application_name": me, "work_mem": "%dMB" % (5 + len(me))}) as db:
                for _ in range(8):
                    assert tuple(await db.fetchrow(
                        "SELECT current_setting('application_name'),"
                        " current_setting('work_mem'), own_organization()")) == \
                        (me, "%dMB" % (5 + len(me)), organization(who))
        await asyncio.gather(*[work(*name) for name in names(8)])

        async def listen(who):
            async with connected(way, who) as db:
                await db.add_listener(
                    "to_" + who, lambda *args: heard[who].append(args[2:]))
                ready_count.append(who)
                await ready.wait()
                while not heard[who]:
                    await asyncio.sleep(0.01)
                await db.reset()
        ready_count = []
        listening = [asyncio.create_task(listen(who)) for who in heard]
        while len(ready_count) < 2:
            await asyncio.sleep(0.01)
        ready.set()
        async with connected(way) as db:
            for who in heard:
                await db.execute("SELECT pg_notify($1, $2)", "to_" + who, who)
        await asyncio.gather(*listening)
        assert heard == {who: [("to_" + who, who)] for who in heard}
    run(main())


def test_a_time_out_cancels_the_statement_of_its_own_connection(way):
    async def main():
        async with connected(way) as db, connected(way, "beta") as other:
            async def steady():
                for n in range(60):
                    assert tuple(await other.fetchrow(
                        "SELECT 'beta', $1::int, pg_sleep(0.002)", n))[:2] == ("beta", n)
            work = asyncio.create_task(steady())
            for _ in range(2):
                with pytest.raises(asyncio.TimeoutError):
                    await db.fetchval("SELECT pg_sleep(20)", timeout=0.5)
                assert await db.fetchval("SELECT 'acme'") == "acme"
                task = asyncio.create_task(db.execute("SELECT pg_sleep(20)"))
                await asyncio.sleep(0.3)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await db.fetchval("SELECT 'acme'", timeout=scaled(15)) == "acme"
            await work
    run(main())


def test_a_task_cancelled_in_a_pool_gives_a_clean_connection_back(way):
    async def main():
        async with pools(way, 3) as pool:
            async def long():
                async with pool["acme"].acquire() as db:
                    async with db.transaction():
                        await db.execute(INSERT, "cancelled", 1)
                        await db.execute("SELECT pg_sleep(20)")

            for _ in range(3):
                task = asyncio.create_task(long())
                await asyncio.sleep(0.1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                for n, who in enumerate(["acme", "beta"] * 3):
                    assert tuple(await pool[who].fetchrow(
                        "SELECT $1::int, own_organization()", n)) == \
                        (n, organization(who))
            assert await pool["acme"].fetchval(
                "SELECT count(*) FROM drv.kept WHERE who = 'cancelled'") == 0
    run(main())
