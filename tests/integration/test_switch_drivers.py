"""
Goal:   a web application that chooses an organization for each task, the way its
        driver's manual says, reads and writes rows of that organization alone.
Method: more tasks than connections, more connections than the three servers, each
        task of another organization than the one before it on its connection; one
        organization has its rows in another database.  A row says who wrote it.
"""
import asyncio

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from drivers import run
from servers import DATABASE, ORGANIZATIONS, SCHEMA, scaled

pytestmark = pytest.mark.weir_only

AFAR = "cccccccc-0000-4000-8000-000000000003"
IDS = dict(ORGANIZATIONS, afar=AFAR)
CONFIG = {"organization afar": {"id": AFAR, "dbname": "afar"},
          "user svc": {"auth": "trust", "organizations": "*"}}
INSERT = "INSERT INTO notes (author, body) VALUES ('driver', '%s')"
READ = ("SELECT DISTINCT organization_id::text, body, current_database()"
        " FROM notes WHERE author = 'driver'")
TASKS = 24


@pytest.fixture(scope="module", autouse=True)
def afar(pg):
    """A database with the same table."""
    pg.run("CREATE DATABASE afar")
    db = pg.connect("afar")
    db.cursor().execute(SCHEMA[SCHEMA.index("CREATE SCHEMA"):])
    yield
    db.close()
    pg.run("DROP DATABASE afar WITH (FORCE)")


def rows_of(slug):
    return [(IDS[slug], slug, "afar" if slug == "afar" else DATABASE)]


def tasks(work):
    """work(n, slug) for all of them, eight at a time."""
    async def all_of_them():
        room = asyncio.Semaphore(8)

        async def one(n):
            async with room:
                await work(n, list(IDS)[n % 3])
        await asyncio.gather(*[one(n) for n in range(TASKS)])
    return all_of_them()


LOCAL = {
    "SET LOCAL": lambda db, slug: db.execute(
        "SET LOCAL app.current_organization_id = '%s'" % IDS[slug]),
    "set_config": lambda db, slug: db.execute(
        "SELECT set_config('app.current_organization_id', $1, true)", IDS[slug]),
}


@pytest.mark.parametrize("how", LOCAL)
@pytest.mark.parametrize("cache", [100, 0])
def test_asyncpg_chooses_for_a_transaction(proxy, how, cache):
    async def main():
        async with asyncpg.create_pool(
                host="127.0.0.1", port=proxy.pg_port, user="svc", database=DATABASE,
                ssl=False, min_size=1, max_size=6, timeout=scaled(20),
                statement_cache_size=cache) as pool:
            async def work(n, slug):
                async with pool.acquire() as db:
                    transaction = db.transaction()
                    await transaction.start()
                    await LOCAL[how](db, slug)
                    await db.execute(INSERT % slug)
                    assert [tuple(r) for r in await db.fetch(READ)] == rows_of(slug)
                    await (transaction.rollback() if n % 4 == 0 else transaction.commit())
                    assert await db.fetch(READ) == []
            await tasks(work)
    run(main())


def test_asyncpg_chooses_for_as_long_as_it_has_a_connection(proxy):
    """Its pool says RESET ALL when that is given back."""
    async def main():
        async with asyncpg.create_pool(
                host="127.0.0.1", port=proxy.pg_port, user="svc", database=DATABASE,
                ssl=False, min_size=1, max_size=6, timeout=scaled(20)) as pool:
            async def work(n, slug):
                async with pool.acquire() as db:
                    assert await db.fetch(READ) == []
                    await db.execute("SELECT set_config('app.current_organization_id',"
                                     " $1, false)", IDS[slug])
                    await db.execute(INSERT % slug)
                    async with db.transaction():
                        assert [tuple(r) for r in await db.fetch(READ)] == rows_of(slug)
                    assert [tuple(r) for r in await db.fetch(READ)] == rows_of(slug)
            await tasks(work)
    run(main())


def test_SQLAlchemy_with_asyncpg_chooses_for_a_transaction(proxy):
    async def main():
        engine = create_async_engine(
            "postgresql+asyncpg://svc@127.0.0.1:%d/%s" % (proxy.pg_port, DATABASE),
            pool_size=6, connect_args={"ssl": False, "timeout": scaled(20)})

        async def work(n, slug):
            async with engine.connect() as db:
                await db.execute(sa.text(
                    "SELECT set_config('app.current_organization_id', :id, true)"),
                    {"id": IDS[slug]})
                await db.execute(sa.text(INSERT % slug))
                assert [tuple(r) for r in await db.execute(sa.text(READ))] == rows_of(slug)
                if n % 4:
                    await db.commit()       # else it is rolled back on return
        try:
            await tasks(work)
        finally:
            await engine.dispose()
    run(main())


def test_SQLAlchemy_with_psycopg2_chooses_when_it_takes_a_connection(proxy):
    import threading
    engine = sa.create_engine(
        "postgresql+psycopg2://svc@127.0.0.1:%d/%s?sslmode=disable"
        % (proxy.pg_port, DATABASE), pool_size=6, future=True)
    mine, failed = threading.local(), []

    @sa.event.listens_for(engine, "checkout")
    def choose(dbapi, *_):
        with dbapi.cursor() as cur:
            cur.execute("SET app.current_organization_id = %s", [IDS[mine.slug]])

    def work(first):
        try:
            for n in range(first, TASKS, 6):
                mine.slug = list(IDS)[(n + first) % 3]
                with engine.connect() as db:
                    db.execute(sa.text(INSERT % mine.slug))
                    got = [tuple(r) for r in db.execute(sa.text(READ))]
                    assert got == rows_of(mine.slug)
                    if n % 4:
                        db.commit()
        except BaseException as e:
            failed.append(e)
    threads = [threading.Thread(target=work, args=[n], daemon=True) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(scaled(60))
        assert not t.is_alive()
    engine.dispose()
    assert not failed, failed[0]


def test_another_database_cannot_be_chosen_inside_a_transaction(proxy):
    import pgwire
    svc = proxy.wire(login=False)
    svc.login("svc.acme", DATABASE)
    svc.rows(pgwire.query("BEGIN"))
    svc.rows(pgwire.query("SELECT 1"))
    reply = svc.run(pgwire.query("SET LOCAL weir.organization = afar"))
    (error,) = pgwire.errors(reply)
    assert error["C"] == "0A000" and "on another upstream" in error["M"]
    svc.rows(pgwire.query("ROLLBACK"))
    svc.rows(pgwire.query("BEGIN"))
    svc.rows(pgwire.query("SET LOCAL weir.organization = afar"))
    assert svc.value("SELECT current_database()") == "afar"
    svc.rows(pgwire.query("COMMIT"))
    assert svc.value("SELECT current_database()") == DATABASE
