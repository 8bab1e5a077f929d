"""
Goal:   a web application that chooses an organization for each task, the way its
        driver's manual says, reads and writes rows of that organization alone.
Method: more tasks than connections, more connections than the three servers, each
        task of another organization than the one before it on its connection; one
        organization has its rows in another database, and one on another PostgreSQL.
        A row says who wrote it, and the server that has it who that is.
"""
import asyncio
import json
import os
import subprocess

import asyncpg
import psycopg
import psycopg_pool
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

import nodejs
from drivers import run, together
from servers import (DATABASE, ORGANIZATIONS, SCHEMA, UPSTREAM_PASSWORD, UPSTREAM_USER,
                     Postgres, scaled)

pytestmark = pytest.mark.weir_only

BESIDE = "cccccccc-0000-4000-8000-000000000003"
AFAR = "dddddddd-0000-4000-8000-000000000004"
IDS = dict(ORGANIZATIONS, beside=BESIDE, afar=AFAR)
CONFIG = {"organization beside": {"id": BESIDE, "dbname": "beside"},
          "organization afar": {"id": AFAR, "postgres": "afar"},
          "user svc": {"auth": "trust", "organizations": "*"}}
INSERT = "INSERT INTO notes (author, body) VALUES ('driver', '%s')"
READ = ("SELECT DISTINCT organization_id::text, body, current_database()::text,"
        " inet_server_port() FROM notes WHERE author = 'driver'")
TASKS = 24
PORTS = {}


@pytest.fixture(scope="module", autouse=True)
def elsewhere(pg, folder, authority):
    """Another database, and another PostgreSQL, with the same table."""
    pg.run("CREATE DATABASE beside")
    db = pg.connect("beside")
    db.cursor().execute(SCHEMA[SCHEMA.index("CREATE SCHEMA"):])
    os.mkdir(os.path.join(folder, "afar"))
    os.chmod(os.path.join(folder, "afar"), 0o755)
    far = Postgres(os.path.join(folder, "afar"), authority)
    CONFIG["postgres afar"] = {
        "host": "127.0.0.1", "port": far.port, "user": UPSTREAM_USER,
        "password": UPSTREAM_PASSWORD, "sslmode": "disable", "pool_size": 3,
        "health_check": "passive"}
    PORTS.update(dict.fromkeys(IDS, pg.port), afar=far.port)
    yield
    far.stop()
    db.close()
    pg.run("DROP DATABASE beside WITH (FORCE)")


def rows_of(slug):
    return [(IDS[slug], slug, "beside" if slug == "beside" else DATABASE, PORTS[slug])]


def slug_of(n):
    return list(IDS)[n % len(IDS)]


def tasks(work):
    """work(n, slug) for all of them, eight at a time."""
    async def all_of_them():
        room = asyncio.Semaphore(8)

        async def one(n):
            async with room:
                await work(n, slug_of(n))
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
                mine.slug = slug_of(n + first)
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


# psycopg 3.


def libpq_of(proxy):
    return "host=127.0.0.1 port=%d user=svc dbname=%s sslmode=disable connect_timeout=%d" % (
        proxy.pg_port, DATABASE, scaled(20))


CHOOSE = {
    "SET LOCAL": lambda db, slug: db.execute(
        psycopg.sql.SQL("SET LOCAL weir.organization = {}").format(slug)),
    "set_config": lambda db, slug: db.execute(
        "SELECT set_config('app.current_organization_id', %s, true)", [IDS[slug]]),
}


@pytest.mark.parametrize("how", CHOOSE)
@pytest.mark.parametrize("threshold", [0, None])
def test_psycopg_chooses_for_a_transaction(proxy, how, threshold):
    """With all statements prepared, and with none."""
    with psycopg_pool.ConnectionPool(
            libpq_of(proxy), min_size=1, max_size=6, timeout=scaled(20),
            kwargs={"prepare_threshold": threshold}) as pool:
        def work(_, me):
            for n in range(int(me), TASKS, 6):
                slug = slug_of(n)
                with pool.connection() as db:
                    with db.transaction(force_rollback=n % 3 == 0):
                        CHOOSE[how](db, slug)
                        db.execute(INSERT % slug)
                        assert db.execute(READ).fetchall() == rows_of(slug)
                    assert db.execute(READ).fetchall() == []
        together(work, of=[("svc", str(n)) for n in range(6)])


def test_psycopg_chooses_for_as_long_as_it_has_a_connection(proxy):
    """What its pool is told to do with one that is given back."""
    with psycopg_pool.ConnectionPool(
            libpq_of(proxy), min_size=1, max_size=6, timeout=scaled(20),
            reset=lambda db: db.execute("RESET ALL"),
            kwargs={"autocommit": True}) as pool:
        def work(_, me):
            for n in range(int(me), TASKS, 6):
                slug = slug_of(n)
                with pool.connection() as db:
                    assert db.execute(READ).fetchall() == []
                    db.execute("SELECT set_config('app.current_organization_id', %s, false)",
                               [IDS[slug]])
                    db.execute(INSERT % slug)
                    with db.transaction():
                        assert db.execute(READ).fetchall() == rows_of(slug)
                    assert db.execute(READ).fetchall() == rows_of(slug)
        together(work, of=[("svc", str(n)) for n in range(6)])


def test_psycopg_chooses_in_its_pipeline(proxy):
    """BEGIN, the choice, and what is for that organization, in one write."""
    with psycopg.connect(libpq_of(proxy), autocommit=True) as db:
        for n in range(12):
            slug = slug_of(n)
            with db.pipeline(), db.transaction():
                CHOOSE["set_config"](db, slug)
                db.execute(INSERT % slug)
                rows = db.execute(READ)
            assert rows.fetchall() == rows_of(slug)
            assert db.execute(READ).fetchall() == []


# node-postgres and postgres.js.


@pytest.mark.parametrize("script", ["choose_pg.js", "choose_postgres.js"])
def test_node_chooses(proxy, folder, script):
    nodejs.ready()
    said = subprocess.run(
        ["node", os.path.join(nodejs.FOLDER, script), "local", "pooled"],
        env={"PATH": os.environ["PATH"], "HOME": folder, "SECONDS": str(int(scaled(60))),
             "DSN": "postgresql://svc@127.0.0.1:%d/%s" % (proxy.pg_port, DATABASE),
             "INSERT": INSERT, "READ": READ, "TASKS": str(TASKS),
             "ROWS": json.dumps({slug: rows_of(slug) for slug in IDS})},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=scaled(90))
    assert said.returncode == 0, said.stderr


def test_another_database_or_server_cannot_be_chosen_inside_a_transaction(proxy):
    import pgwire
    svc = proxy.wire(login=False)
    svc.login("svc.acme", DATABASE)
    for slug in ("beside", "afar"):
        svc.rows(pgwire.query("BEGIN"))
        svc.rows(pgwire.query("SELECT 1"))
        reply = svc.run(pgwire.query("SET LOCAL weir.organization = " + slug))
        (error,) = pgwire.errors(reply)
        assert error["C"] == "0A000" and "on another upstream" in error["M"]
        svc.rows(pgwire.query("ROLLBACK"))
        svc.rows(pgwire.query("BEGIN"))
        svc.rows(pgwire.query("SET LOCAL weir.organization = " + slug))
        svc.rows(pgwire.query(INSERT % slug))
        assert svc.rows(pgwire.query(READ)) == [[str(x) for x in rows_of(slug)[0]]]
        svc.rows(pgwire.query("ROLLBACK"))
        assert svc.value("SELECT inet_server_port()") == str(PORTS["acme"])
        assert svc.value("SELECT current_database()") == DATABASE
