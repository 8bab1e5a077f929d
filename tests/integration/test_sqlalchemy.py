"""
Goal:   SQLAlchemy, Core and ORM, works through weir as it does without, by
        psycopg2 and by asyncpg; and so do the programs of the platform's
        deployment guide, in its very settings.
Method: one scenario for both drivers, run by several clients at once in threads
        or tasks, directly, through weir, and through weir with TLS.
"""
import asyncio
import datetime
import decimal
import enum
import threading
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine

from drivers import names, run, together
from servers import ORGANIZATIONS, scaled, wait_for

Base = orm.declarative_base(metadata=sa.MetaData(schema="alchemy"))


class Mood(enum.Enum):
    sad = 1
    happy = 2


class Author(Base):
    __tablename__ = "authors"
    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(sa.Text, nullable=False, unique=True)
    mood = sa.Column(sa.Enum(Mood, name="mood"))
    born = sa.Column(sa.DateTime(timezone=True), server_default=sa.func.now())
    books = orm.relationship("Book", back_populates="author", order_by="Book.number",
                             cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "books"
    __table_args__ = (sa.UniqueConstraint("author_id", "number", name="one_number"),)
    id = sa.Column(sa.Integer, primary_key=True)
    author_id = sa.Column(sa.ForeignKey(Author.id, ondelete="CASCADE"), nullable=False)
    number = sa.Column(sa.Integer, nullable=False)
    title = sa.Column(sa.Text)
    author = orm.relationship(Author, back_populates="books")


class Thing(Base):
    __tablename__ = "things"
    id = sa.Column(postgresql.UUID(as_uuid=True), primary_key=True)
    owner = sa.Column(sa.Text)
    number = sa.Column(sa.Numeric(40, 10))
    flag = sa.Column(sa.Boolean)
    data = sa.Column(sa.LargeBinary)
    doc = sa.Column(postgresql.JSONB)
    many = sa.Column(postgresql.ARRAY(sa.Integer))
    long = sa.Column(sa.Interval)
    day = sa.Column(sa.Date)
    mood = sa.Column(sa.Enum(Mood, name="mood"))


class Job(Base):
    __tablename__ = "jobs"
    id = sa.Column(sa.Integer, primary_key=True)
    taken_by = sa.Column(sa.Text)


@pytest.fixture(scope="module", autouse=True)
def schema(pg):
    pg.run("DROP SCHEMA IF EXISTS alchemy CASCADE")
    pg.run("CREATE SCHEMA alchemy")
    pg.run("GRANT ALL ON SCHEMA alchemy TO PUBLIC")
    engine = sa.create_engine("postgresql://", creator=lambda: pg.connect())
    Base.metadata.create_all(engine)
    engine.dispose()
    pg.run("GRANT ALL ON ALL TABLES IN SCHEMA alchemy TO PUBLIC;"
           "GRANT ALL ON ALL SEQUENCES IN SCHEMA alchemy TO PUBLIC")
    yield
    pg.run("DROP SCHEMA alchemy CASCADE")


@pytest.fixture
def empty(pg):
    pg.run("TRUNCATE alchemy.authors, alchemy.things, alchemy.jobs CASCADE")


@pytest.fixture(params=["psycopg2", "asyncpg"])
def clients(way, request):
    return Clients(way, request.param)


class Clients:
    """
    clients(work): work(session, who, me) for many at once, by one engine for
    each organization.  asyncpg's run in tasks, by run_sync().
    """

    def __init__(self, way, driver):
        self.way, self.driver = way, driver

    def __call__(self, work, n=5, by=orm.Session, **options):
        if self.driver == "psycopg2":
            return self.in_threads(work, n, by, options)
        return run(self.in_tasks(work, n, by, options))

    def in_threads(self, work, n, by, options):
        engines = {who: engine(self.way, who, **options) for who in ("acme", "beta")}

        def one(who, me):
            with (by(engines[who]) if by is orm.Session
                  else engines[who].connect()) as db:
                work(db, who, me)
        try:
            together(one, n)
        finally:
            for e in engines.values():
                e.dispose()

    async def in_tasks(self, work, n, by, options):
        engines = {who: async_engine(self.way, who, **options)
                   for who in ("acme", "beta")}

        async def one(who, me):
            async with (AsyncSession(engines[who]) if by is orm.Session
                        else AsyncConnection(engines[who])) as db:
                await db.run_sync(work, who, me)
        try:
            await asyncio.gather(*[one(*name) for name in names(n)])
        finally:
            for e in engines.values():
                await e.dispose()


def engine(way, who, **options):
    address = way.libpq(who)
    return sa.create_engine(way.url("psycopg2", who), future=True, connect_args={
        name: address[name] for name in ("sslmode", "sslrootcert", "gssencmode",
                                         "options", "connect_timeout")
        if name in address}, **options)


def async_engine(way, who, trusted=True, **options):
    address = way.asyncpg(who)
    return create_async_engine(way.url("asyncpg", who, trusted), connect_args={
        name: address[name] for name in ("ssl", "server_settings", "timeout")},
        **options)


def ask(db, text, **args):
    return db.execute(sa.text(text), args).fetchall()


def own(db):
    """The organization the server sees."""
    return ask(db, "SELECT own_organization()::text")[0][0]


# Core.


def test_tables_are_made_read_back_and_dropped(clients, pg):
    def work(db, who, me):
        meta = sa.MetaData(schema="alchemy")
        name = me.replace("-", "_")
        sa.Table(name, meta, sa.Column("id", sa.Integer, primary_key=True),
                 sa.Column("mood", sa.Enum(Mood, name="mood_of_" + name, schema="alchemy")),
                 sa.Column("big", sa.Numeric(10, 2), nullable=False,
                           server_default="7.5"),
                 sa.Column("parent", sa.ForeignKey("alchemy.%s.id" % name)),
                 sa.CheckConstraint("big > 0", name="positive"),
                 sa.Index("index_of_" + name, "mood", "big"))
        meta.create_all(db)
        db.commit()
        read = sa.Table(name, sa.MetaData(schema="alchemy"), autoload_with=db)
        assert [c.name for c in read.columns] == ["id", "mood", "big", "parent"]
        assert read.c.mood.type.enums == ["sad", "happy"]
        assert [i.name for i in read.indexes] == ["index_of_" + name]
        assert [fk.column for fk in read.foreign_keys] == [read.c.id]
        assert read.c.big.type.scale == 2 and not read.c.big.nullable
        look = sa.inspect(db)
        assert look.get_check_constraints(name, schema="alchemy")[0]["sqltext"] == \
            "big > (0)::numeric"
        assert name in look.get_table_names("alchemy")
        db.execute(read.insert(), [{"mood": "sad"}, {"mood": "happy"}])
        assert db.execute(sa.select(read.c.id, read.c.mood, read.c.big)).fetchall() == \
            [(1, "sad", decimal.Decimal("7.50")), (2, "happy", decimal.Decimal("7.50"))]
        db.commit()
        meta.drop_all(db)
        db.commit()
        assert not sa.inspect(db).has_table(name, schema="alchemy")
    clients(work, 4, by=sa.engine.Connection)


def test_rows_in_bulk(clients, empty, pg):
    def work(db, who, me):
        def rows(first, n):
            return [{"name": "%s %d" % (me, i)} for i in range(first, first + n)]
        db.execute(sa.insert(Author), rows(0, 250))
        db.execute(sa.insert(Author).values(rows(250, 50)))
        got = db.execute(sa.insert(Author).values(rows(300, 20)).returning(Author.name))
        assert [name for name, in got] == [r["name"] for r in rows(300, 20)]
        db.bulk_insert_mappings(Author, rows(320, 30))
        things = [Author(**row) for row in rows(350, 30)]
        db.bulk_save_objects(things, return_defaults=True)
        assert len({thing.id for thing in things}) == 30
        with pytest.raises(sa.exc.IntegrityError):
            with db.begin_nested():
                db.execute(sa.insert(Author), rows(370, 100))
        db.execute(postgresql.insert(Author).values(rows(370, 20))
                   .on_conflict_do_nothing())
        assert db.execute(sa.update(Author).where(Author.name.startswith(me + " "))
                          .values(mood=Mood.happy)
                          .execution_options(synchronize_session=False)).rowcount == 390
        db.commit()
        assert db.execute(
            sa.select(sa.func.count()).where(Author.name.startswith(me + " "))) \
            .scalar() == 390
    clients(work)
    assert pg.run("SELECT count(*), count(DISTINCT id) FROM alchemy.authors"
                  " WHERE mood = 'happy'") == [(1950, 1950)]


def test_results_are_streamed(clients):
    query = "SELECT :me AS me, g FROM generate_series(1, 300) g"

    def work(db, who, me):
        db = db.execution_options(stream_results=True, max_row_buffer=40)
        assert ask(db, query, me=me) == [(me, n) for n in range(1, 301)]
        parts = db.execute(sa.text(query), {"me": me}).partitions(70)
        assert [len(part) for part in parts] == [70, 70, 70, 70, 20]
        result = db.execute(sa.text(query), {"me": me})
        assert result.fetchone() == (me, 1)
        result.close()
        db.rollback()
        assert ask(db, "SELECT :me", me=me) == [(me,)]
    clients(work, by=sa.engine.Connection)


# Transactions.


def test_what_is_not_committed_is_rolled_back_on_return(clients, empty, pg):
    """The pool of one: the next session has the same connection."""
    def work(db, who, me):
        for turn in range(4):
            db.add(Author(name="%s %d" % (me, turn)))
            db.flush()
            assert own(db) == ORGANIZATIONS[who]
            if turn % 2:
                db.commit()
            db.close()
            assert ask(db, "SELECT count(*) FROM alchemy.authors WHERE name LIKE :me",
                       me=me + " %") == [((turn + 1) // 2,)]
            db.close()
    clients(work, pool_size=1, max_overflow=0)
    assert pg.run("SELECT count(*) FROM alchemy.authors") == [(10,)]


def test_savepoints(clients, empty, pg):
    def work(db, who, me):
        db.add(Author(name=me))
        for turn in range(5):
            try:
                with db.begin_nested():
                    db.add(Author(name=me + " inner %d" % turn))
                    db.flush()
                    with db.begin_nested():
                        if turn % 2:
                            db.add(Author(name=me))
            except sa.exc.IntegrityError as e:
                assert turn % 2 and me in str(e.orig)
        assert ask(db, "SELECT :me", me=me) == [(me,)]
        db.commit()
    clients(work)
    assert pg.run("SELECT name FROM alchemy.authors WHERE name LIKE 'beta-3%'"
                  " ORDER BY name") == [("beta-3",)] + [
                      ("beta-3 inner %d" % n,) for n in (0, 2, 4)]


SHOW = "SELECT current_setting('transaction_isolation')," \
    " current_setting('transaction_read_only')," \
    " current_setting('transaction_deferrable')"


def test_an_engine_of_its_own_isolation_level(clients, empty):
    def work(db, who, me):
        for _ in range(3):
            assert ask(db, SHOW) == [("serializable", "off", "off")]
            db.add(Author(name="%s %s" % (me, uuid.uuid4())))
            try:
                db.commit()
            except sa.exc.DBAPIError as e:      # of which there may be some
                assert "could not serialize" in str(e)
                db.rollback()
    clients(work, isolation_level="SERIALIZABLE")


def test_an_isolation_level_is_that_connection_s_until_it_returns(clients):
    def work(db, who, me):
        for _ in range(3):
            with db.engine.connect() as odd:
                odd = odd.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True,
                    postgresql_deferrable=True)
                assert ask(odd, SHOW) == [("repeatable read", "on", "on")]
                with pytest.raises(sa.exc.DBAPIError, match="read-only"):
                    odd.execute(sa.insert(Author), {"name": me})
            with db.engine.connect() as plain:
                assert ask(plain, SHOW) == [("read committed", "off", "off")]
                assert ask(plain, "SELECT :me", me=me) == [(me,)]
    clients(work, 4, by=sa.engine.Connection, pool_size=4)


def test_an_autocommit_engine_opens_no_transaction(clients, empty, pg):
    def work(db, who, me):
        before = ask(db, "SELECT :me, pg_current_xact_id()::text", me=me)
        after = ask(db, "SELECT :me, pg_current_xact_id()::text", me=me)
        assert before[0][0] == after[0][0] == me and before != after
        for n in range(5):
            db.execute(sa.insert(Author), {"name": "%s %d" % (me, n)})
        with pytest.raises(sa.exc.IntegrityError):
            db.execute(sa.insert(Author), {"name": me + " 0"})
        db.rollback()
        assert own(db) == ORGANIZATIONS[who]
    clients(work, 8, isolation_level="AUTOCOMMIT", pool_size=8)
    assert pg.run("SELECT count(*) FROM alchemy.authors") == [(40,)]


# ORM.


def test_a_unit_of_work(clients, empty, pg):
    def work(db, who, me):
        author = Author(name=me, mood=Mood.sad, books=[
            Book(number=n, title="%s %d" % (me, n)) for n in range(20)])
        db.add(author)
        db.commit()
        assert author.born.tzinfo and [b.title for b in author.books] == \
            ["%s %d" % (me, n) for n in range(20)]
        author.mood = Mood.happy
        author.books[3].title = me + " changed"
        del author.books[10:]
        db.commit()
        db.expunge_all()
        author = db.execute(
            sa.select(Author).options(orm.selectinload(Author.books))
            .where(Author.name == me)).scalar_one()
        assert author.mood is Mood.happy and len(author.books) == 10
        assert author.books[3].title == me + " changed"
        joined = db.execute(
            sa.select(Book.title, Author.name).join(Author).where(Author.name == me)
            .order_by(Book.number.desc()).limit(2)).fetchall()
        assert joined == [(me + " 9", me), (me + " 8", me)]
        db.add(Book(author_id=author.id, number=3))
        with pytest.raises(sa.exc.IntegrityError, match="one_number"):
            db.commit()
        with pytest.raises(sa.exc.PendingRollbackError):
            db.execute(sa.text("SELECT 1"))
        db.rollback()
        assert len(author.books) == 10 and db.get(Author, author.id) is author
        db.delete(author)
        db.commit()
    clients(work)
    assert pg.run("SELECT count(*) FROM alchemy.books") == [(0,)]


def test_values_survive_the_round_trip(clients, empty):
    def work(db, who, me):
        for n in range(3):
            values = dict(
                id=uuid.uuid4(), owner=me, number=decimal.Decimal("-12345678901.25"),
                flag=True, data=b"\0\xff" * n, doc={"me": me, "n": [n, None, "☃"]},
                many=[n, None, -n], long=datetime.timedelta(days=-n, seconds=3),
                day=datetime.date(2024, 2, 29), mood=Mood.happy)
            db.add(Thing(**values))
            db.commit()
            db.expunge_all()
            thing = db.get(Thing, values["id"])
            assert {name: getattr(thing, name) for name in values} == values
            assert db.execute(sa.select(Thing.doc["n"][2].astext)
                              .where(Thing.doc.contains({"me": me}),
                                     Thing.many.any(n))).scalars().first() == "☃"
    clients(work)


def test_a_queue_of_jobs_gives_each_to_one(clients, empty, pg):
    pg.run("INSERT INTO alchemy.jobs SELECT generate_series(1, 40)")

    def work(db, who, me):
        while True:
            job = db.execute(
                sa.select(Job).where(Job.taken_by.is_(None)).order_by(Job.id).limit(1)
                .with_for_update(skip_locked=True)).scalar_one_or_none()
            if job is None:
                break
            assert job.id not in taken
            taken[job.id] = job.taken_by = me
            db.commit()
        db.commit()
    taken = {}
    clients(work, 8, pool_size=8)
    assert dict(pg.run("SELECT id, taken_by FROM alchemy.jobs")) == taken
    assert len(taken) == 40


# The pool.


def test_a_server_that_died_while_idle_is_not_noticed(clients, pg):
    """Directly it takes pool_pre_ping; weir has a new one by itself."""
    def work(db, who, me):
        first = ask(db, "SELECT :me, pg_backend_pid()", me=me)
        db.close()
        idle.add(first[0][1])
        if all_are_idle.wait(scaled(20)) == 0:
            for pid in idle:
                assert pg.run("SELECT pg_terminate_backend(%s, 5000)", [pid]) == [(True,)]
        all_are_dead.wait(scaled(20))
        second = ask(db, "SELECT :me, pg_backend_pid()", me=me)
        assert second[0][0] == me and second[0][1] not in idle
        assert own(db) == ORGANIZATIONS[who]
    idle = set()
    n = 3 if clients.driver == "psycopg2" else 1        # who can wait for each other
    all_are_idle, all_are_dead = threading.Barrier(n), threading.Barrier(n)
    clients(work, n, pool_pre_ping=True)
    clients.way.expect(closes=len(idle))


# The programs of the deployment guide: what these engines are given is what it says.


@pytest.fixture
def notes(pg):
    pg.run("TRUNCATE notes")
    yield
    pg.run("TRUNCATE notes")


def handler(db, who, me, turn):
    """A request of a web application that knows nothing of organizations."""
    ask(db, "SELECT 1")
    noted = ask(db, "INSERT INTO notes (author, body) VALUES (:me, :body)"
                    " RETURNING id, author", me=me, body="turn %d" % turn)
    assert noted[0][1] == me
    db.commit()
    mine = ask(db, "SELECT body FROM notes WHERE author = :me ORDER BY id", me=me)
    assert mine == [("turn %d" % n,) for n in range(turn + 1)]
    all_there_is = ask(db, "SELECT DISTINCT organization_id::text FROM notes")
    assert all_there_is == [(ORGANIZATIONS[who],)]
    ask(db, "UPDATE notes SET body = body WHERE id = :id RETURNING id", id=noted[0][0])
    db.commit()


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_sixty_requests_at_once_on_the_engine_of_the_deployment_guide(
        way, pg, notes, kind):
    """Sixty of acme's on its engine, and ten of beta's on another."""
    settings = dict(pool_size=20, max_overflow=10, pool_timeout=30, pool_recycle=3600)
    requests = [("acme", "acme-%d" % n) for n in range(12 if way.direct else 60)] \
        + [("beta", "beta-%d" % n) for n in range(10)]

    async def in_tasks():
        engines = {who: async_engine(way, who, **settings) for who in ("acme", "beta")}

        async def request(who, me):
            for turn in range(2):
                async with AsyncSession(engines[who]) as session:
                    await session.run_sync(handler, who, me, turn)
        await asyncio.gather(*[request(*name) for name in requests])
        for e in engines.values():
            assert e.pool.checkedout() == 0 and e.pool.checkedin() <= 20
            await e.dispose()

    def in_threads():
        engines = {who: engine(way, who, **settings) for who in ("acme", "beta")}

        def request(who, me):
            for turn in range(2):
                with orm.Session(engines[who]) as session:
                    handler(session, who, me, turn)
        together(request, of=requests)
        for e in engines.values():
            assert e.pool.checkedout() == 0 and e.pool.checkedin() <= 20
            e.dispose()
    run(in_tasks()) if kind == "async" else in_threads()
    assert pg.run("SELECT count(*), count(DISTINCT author),"
                  " count(DISTINCT organization_id) FROM notes") == \
        [(2 * len(requests), len(requests), 2)]


def test_the_urls_of_the_deployment_guide(way):
    """The host changed and nothing else: no arguments, no certificates."""
    own_ssl = "SELECT :me, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    url = way.url("psycopg2").replace("+psycopg2", "") + "?sslmode=" + (
        "require" if way.tls else "disable")
    e = sa.create_engine(url)
    with e.connect() as db:
        assert ask(db, own_ssl, me="it") == [("it", False)]
        if not way.direct:
            assert own(db) == ORGANIZATIONS["acme"]
    e.dispose()

    async def main():       # asyncpg, unless told otherwise, tries TLS first
        e = create_async_engine(way.url("asyncpg", "beta"), pool_size=20,
                                max_overflow=10, pool_timeout=30, pool_recycle=3600)
        async with e.connect() as db:
            assert await db.run_sync(ask, own_ssl, me="it") == [("it", way.direct)]
            if not way.direct:
                assert await db.run_sync(own) == ORGANIZATIONS["beta"]
                wait_for(lambda: [e for e in way.events("login")
                                  if e["user"] == "beta_app" and e["tls"] != "off"])
        await e.dispose()
    run(main())
