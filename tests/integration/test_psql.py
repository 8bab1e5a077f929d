"""
Goal:   psql, pg_dump and pg_restore cannot tell weir from PostgreSQL.
Method: their own programs, directly and then through weir; where the output is
        long, it must be byte for byte what it is directly.
"""
import contextlib
import os
import re
import signal
import subprocess

import pytest

from pgwire import query
from servers import (DATABASE, ORGANIZATIONS, UPSTREAM_USER, USERS, find_tool, scaled,
                     wait_for)
from ways import Way, Watch, way, workers                   # noqa: F401
from ways import directly

PSQL = ["psql", "-X", "-At", "-v", "ON_ERROR_STOP=1"]
MINE = ("SELECT name, setting FROM pg_settings WHERE source IN ('session', 'client')"
        " AND name NOT LIKE 'app.%' ORDER BY 1")


@pytest.fixture
def psql(way):
    def run(*argv, **options):
        return way.run(*PSQL, *argv, **options)
    return run


@pytest.fixture
def people(pg):
    """scratch.people: a little of everything that \\d shows."""
    pg.run("DROP TABLE IF EXISTS scratch.people CASCADE")
    pg.run("""
        CREATE TABLE scratch.people (
            id int PRIMARY KEY, name text NOT NULL CHECK (name <> ''), born date,
            boss int REFERENCES scratch.people, tags text[] DEFAULT '{}');
        CREATE INDEX people_born ON scratch.people (born) WHERE born IS NOT NULL;
        CREATE VIEW scratch.bosses AS
            SELECT * FROM scratch.people WHERE id IN (SELECT boss FROM scratch.people);
        CREATE OR REPLACE FUNCTION scratch.twice(x int) RETURNS int LANGUAGE sql
            IMMUTABLE AS 'SELECT 2 * x';
        GRANT ALL ON scratch.people, scratch.bosses TO PUBLIC""")


def test_a_script_with_transactions(psql, way, people):
    script = os.path.join(way.folder, "script.sql")
    with open(script, "w") as f:
        f.write(r"""
            BEGIN ISOLATION LEVEL REPEATABLE READ;
            INSERT INTO scratch.people VALUES (1, 'ada'), (2, 'bob');
            SAVEPOINT here;
            DELETE FROM scratch.people;
            ROLLBACK TO here;
            COMMIT;
            SELECT count(*) AS n, max(name) AS last FROM scratch.people \gset
            \echo :n :last
            SELECT format('SELECT %L', 'made ' || id) FROM scratch.people ORDER BY id \gexec
            \if :{?nothing}
                SELECT 'wrong';
            \else
                SELECT 'right', 1::int AS one \gdesc
            \endif
            COPY scratch.people (id, name) FROM STDIN;
3	cem
4	dee
\.
            SELECT name FROM scratch.people WHERE id > 2 ORDER BY 1;
            BEGIN; SELECT 1/0; COMMIT;
        """)
    said = psql("-q", "-v", "ON_ERROR_STOP=0", "-f", script)
    assert said.splitlines() == ["2 bob", "made 1", "made 2", "?column?|text",
                                 "one|integer", "cem", "dee"]
    assert "duplicate key" in psql("-q", "-1", "-f", script, fails=True)
    assert psql("-c", "SELECT count(*) FROM scratch.people") == "4\n"


def test_a_script_that_fails_stops_and_leaves_nothing(psql, people):
    said = psql("-1", "-c", "INSERT INTO scratch.people VALUES (1, 'ada')",
                "-c", "\\set VERBOSITY verbose", "-c", "SELECT 'x'::int",
                "-c", "SELECT 'not reached'", fails=True)
    assert "22P02" in said and "not reached" not in said
    assert psql("-c", "SELECT count(*) FROM scratch.people") == "0\n"


def test_settings_of_psql_that_change_what_it_sends(psql, people):
    said = psql(input=r"""
        \set FETCH_COUNT 7
        SELECT count(*), sum(i) FROM (SELECT i FROM generate_series(1, 30) i) s;
        SELECT i FROM generate_series(1, 30) i;
        \unset FETCH_COUNT
        \set AUTOCOMMIT off
        INSERT INTO scratch.people VALUES (1, 'ada');
        ROLLBACK;
        \set ON_ERROR_ROLLBACK on
        \set ON_ERROR_STOP 0
        INSERT INTO scratch.people VALUES (2, 'bob');
        INSERT INTO scratch.people VALUES (2, 'twin');
        INSERT INTO scratch.people VALUES (3, 'cem');
        COMMIT;
        SELECT string_agg(name, ',' ORDER BY id) FROM scratch.people;
    """).splitlines()
    assert [line for line in said if line[0].isdigit()] == \
        ["30|465"] + [str(i) for i in range(1, 31)]
    assert said[-1] == "bob,cem"


def test_copy_in_and_out_of_files(psql, way, people):
    data, out = os.path.join(way.folder, "in.tsv"), os.path.join(way.folder, "out.tsv")
    with open(data, "w") as f:
        f.writelines("%d\tperson %d\n" % (n, n) for n in range(20_000))
    psql("-c", "\\copy scratch.people (id, name) from '%s'" % data,
         "-c", "\\copy (SELECT id, name FROM scratch.people ORDER BY id) to '%s'" % out)
    with open(data) as a, open(out) as b:
        assert a.read() == b.read()
    assert "20000\n" == psql("-c", "\\copy scratch.people to program 'wc -l'")[-6:]
    assert "unique" in psql("-c", "\\copy scratch.people (id, name) from '%s'" % data,
                            fails=True)
    assert psql("-c", "SELECT count(*) FROM scratch.people") == "20000\n"


CATALOGUE = r"""
\t off
\d
\d scratch.*
\d+ scratch.people
\d+ scratch.bosses
\dt+ scratch.people
\dn
\df+ scratch.*
\sf scratch.twice
\sv scratch.bosses
\dp scratch.*
\du
\dT
\dx
\db
\dFp
\dconfig work_mem
\dc pg_catalog.utf8_to_*
\da pg_catalog.mi*
\do pg_catalog.<@
\dC int4
\l
\ddp
\drds
\encoding
SHOW server_version;
SELECT 1 AS a \gdesc
"""


def test_catalogue_commands(psql, way, pg, rd, folder, people):
    said = psql(input=CATALOGUE)
    assert "people_born" in said and "scratch.twice(x integer)" in said
    assert said == directly(pg, rd, folder).run(*PSQL, input=CATALOGUE)


def test_large_objects_of_psql(psql, way):
    there, back = os.path.join(way.folder, "there"), os.path.join(way.folder, "back")
    with open(there, "wb") as f:
        f.write(os.urandom(300_000))
    oid = re.search(r"lo_import (\d+)", psql("-c", "\\lo_import '%s'" % there))[1]
    psql("-c", "\\lo_export %s '%s'" % (oid, back), "-c", "\\lo_unlink " + oid)
    with open(there, "rb") as a, open(back, "rb") as b:
        assert a.read() == b.read()


def test_what_the_environment_says(psql, way):
    show = "SELECT current_setting('%s')"
    assert psql("-c", show % "work_mem", "-c", show % "search_path",
                PGOPTIONS="-c work_mem=5MB --search-path=scratch") == "5MB\nscratch\n"
    assert psql("-c", show % "TimeZone", "-c", show % "DateStyle",
                "-c", show % "application_name", PGTZ="Asia/Tokyo",
                PGDATESTYLE="German", PGAPPNAME="me") == "Asia/Tokyo\nGerman, DMY\nme\n"
    assert psql("-c", show % "client_encoding", "-c", "SELECT length('\u00e9')",
                PGCLIENTENCODING="LATIN1") == "LATIN1\n2\n"
    for name in "\u00e9", "M\udcfcller":        # the latter is no UTF-8
        assert psql("-c", show % "application_name", PGAPPNAME=name) == \
            "".join("?" if b > 126 else chr(b) for b in os.fsencode(name)) + "\n"
    assert psql("-c", show % "work_mem") == "4MB\n"


def test_a_url_that_requires_tls(way):
    ssl = "SELECT 'in'"
    if way.name == "plain":
        return
    url = way.url(sslmode="require").replace("acme-secret", "acme%2Dsecret")
    said = way.run(*PSQL, url, "-c", "\\conninfo", "-c", ssl, PGSSLMODE="disable")
    assert "SSL connection (protocol: TLSv1.3" in said and said.endswith("in\n")
    ca = "&sslrootcert=" + way.proxy.ca
    assert way.run(*PSQL, way.url(sslmode="verify-full") + ca, "-c", ssl) == "in\n"


def test_passwords_are_asked_for_and_changed(psql, way, pg):
    """The new password is the old one, said twice; only its hash is sent."""
    secret = USERS["acme_app"][1] if way.direct else "upstream-secret"
    user = "acme_app" if way.direct else UPSTREAM_USER
    before = pg.run("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [user])
    psql("-c", "\\password", input="%s\n%s\n" % (secret, secret))
    after = pg.run("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [user])
    assert before != after and after[0][0].startswith("SCRAM-SHA-256$")
    assert psql("-c", "SELECT 'in'") == "in\n"
    said = psql("-c", "SELECT 1", fails=True, PGPASSWORD="wrong")
    assert "password authentication failed" in said


@contextlib.contextmanager
def running(way, *argv):
    p = subprocess.Popen([*PSQL, *argv], env=way.env(), text=True, bufsize=1,
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, start_new_session=True)
    try:
        yield p
    finally:
        p.kill()
        p.communicate()


def test_control_c_cancels(way, pg):
    others = [way.proxy.wire("beta_app") for _ in range(2)]
    with running(way, "-v", "VERBOSITY=verbose", "-c", "SELECT pg_sleep(33)") as p:
        wait_for(lambda: pg.run("SELECT 1 FROM pg_stat_activity WHERE state = 'active'"
                                " AND query = 'SELECT pg_sleep(33)'"), 10, "it sleeps")
        for n, other in enumerate(others):
            assert other.value("SELECT 'beside %d'" % n) == "beside %d" % n
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=scaled(10))
    assert p.returncode == 1 and out == "", out
    assert "ERROR:  57014: canceling statement due to user request" in err
    for n, other in enumerate(others):
        assert other.value("SELECT 'after %d'" % n) == "after %d" % n


def test_watch_goes_on_until_control_c(way):
    script = os.path.join(way.folder, "watch.sql")
    with open(script, "w") as f:
        f.write("SELECT 'tick' \\watch 0.02\n")
    with running(way, "-f", script) as p:
        ticks = 0
        for line in p.stdout:
            ticks += "tick" in line
            if ticks == 5:
                break
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=scaled(10))
    assert ticks == 5


# pg_dump and pg_restore.


@pytest.fixture
def dumped(pg):
    """A schema with data of many kinds; the name."""
    pg.run("DROP SCHEMA IF EXISTS dumped CASCADE")
    pg.run("""
        CREATE SCHEMA dumped;
        CREATE TYPE dumped.mood AS ENUM ('good', 'bad');
        CREATE TABLE dumped.thing (
            id bigserial PRIMARY KEY, mood dumped.mood, what jsonb, bytes bytea,
            at timestamptz DEFAULT now(), price numeric(10,2), list int[]);
        CREATE TABLE dumped.part (thing bigint REFERENCES dumped.thing, n int, t text);
        CREATE VIEW dumped.summary AS SELECT mood, count(*) FROM dumped.thing GROUP BY 1;
        INSERT INTO dumped.thing (mood, what, bytes, price, list)
            SELECT CASE i % 2 WHEN 0 THEN 'good'::dumped.mood END,
                   jsonb_build_object('n', i, 'odd', E'\\u00e9\\n\\t\\\\'),
                   decode(md5(i::text), 'hex'), i / 7.0, ARRAY[i, NULL]
            FROM generate_series(1, 500) i;
        INSERT INTO dumped.part SELECT 1 + i % 500, i, repeat(md5(i::text), 30)
            FROM generate_series(1, 2000) i;
        GRANT USAGE ON SCHEMA dumped TO PUBLIC;
        GRANT SELECT ON ALL TABLES IN SCHEMA dumped TO PUBLIC;
        GRANT SELECT ON ALL SEQUENCES IN SCHEMA dumped TO PUBLIC;
    """)
    yield "dumped"
    pg.run("DROP SCHEMA dumped CASCADE")


def fingerprint(server, database):
    """What is in the schema, told by the server itself."""
    with contextlib.closing(server.connect(database)) as db:
        cur = db.cursor()
        cur.execute(r"""
            SELECT (SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM dumped.thing t),
                   (SELECT md5(string_agg(p::text, '|' ORDER BY n)) FROM dumped.part p),
                   (SELECT last_value FROM dumped.thing_id_seq),
                   (SELECT string_agg(conname, ',' ORDER BY 1) FROM pg_constraint c
                    WHERE connamespace = 'dumped'::regnamespace),
                   (SELECT string_agg(md5(lo_get(oid)), ',' ORDER BY oid)
                    FROM pg_largeobject_metadata)""")
        return cur.fetchone()


@pytest.mark.parametrize("form", ["plain", "directory"])
def test_what_is_dumped_and_restored_is_the_same(way, pg, dumped, form):
    owner = "acme_app" if way.direct else UPSTREAM_USER
    target = "restored"
    pg.run("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    pg.run("SELECT lo_from_bytea(0, repeat(i || ' ', 50000)::bytea) FROM generate_series(1, 5) i")
    pg.run("DO $$ BEGIN EXECUTE (SELECT string_agg(format("
           "'GRANT ALL ON LARGE OBJECT %%s TO PUBLIC', oid), ';')"
           " FROM pg_largeobject_metadata); END $$".replace("%%", "%"))
    pg.run("CREATE DATABASE %s OWNER %s" % (target, owner))
    try:
        # Another client, whose settings pg_dump must not touch: it empties the
        # search_path and changes a dozen others with set_config() and SET.
        other = way.proxy.wire("acme_app")
        before = other.value("SHOW search_path"), other.run(query(MINE))
        dump = os.path.join(way.folder, "dump")
        subprocess.run(["rm", "-rf", dump], check=True)
        files = ["-f", dump, "-n", dumped, "--blobs", "--no-owner", "--no-acl"]
        with Watch(way):
            if form == "plain":
                way.run("pg_dump", *files)
                with open(dump) as f:
                    text = f.read()
                way.run(*PSQL, "-q", "-d", target, "-f", dump)
            else:
                # Parallel: a leader and 2 workers in one snapshot, all 3 servers.
                way.run("pg_dump", *files, "-Fd", "-j", "2")
                way.run("pg_restore", "-Fd", "-j", "2", "--no-owner", "-d", target, dump)
                text = ""
        assert fingerprint(pg, target) == fingerprint(pg, DATABASE)
        assert (other.value("SHOW search_path"), other.run(query(MINE))) == before
        if text:
            assert keyless(text) == keyless(directly_dumped(pg, dumped))
    finally:
        way.proxy.hang_up()
        pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
               [target])
        wait_for(lambda: not pg.run("SELECT 1 FROM pg_stat_activity WHERE datname = %s",
                                    [target]), 10, "backends of " + target)
        pg.run("DROP DATABASE " + target)
        pg.run("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")


def keyless(dump):
    """Without the key that pg_dump draws by lot."""
    return [line for line in dump.splitlines() if not re.match(r"\\(un)?restrict ", line)]


def directly_dumped(pg, schema):
    return subprocess.run(
        [find_tool("pg_dump"), "-h", pg.folder, "-p", str(pg.port), "-U", "postgres",
         "-n", schema, "--blobs", "--no-owner", "--no-acl", DATABASE],
        check=True, capture_output=True, text=True).stdout


def test_pg_dump_never_sees_another_organization_s_rows(way, pg):
    pg.run("DELETE FROM notes")
    pg.run("INSERT INTO notes (organization_id, author, body) SELECT id::uuid, 'dumped', id"
           " FROM unnest(%s) id", [list(ORGANIZATIONS.values())])
    dump = ["pg_dump", "-t", "notes", "--data-only", "--inserts"]
    # It turns row_security off, so that PostgreSQL refuses what it would hide.
    assert "affected by row-level security" in way.run(*dump, fails=True)
    said = way.run(*dump, "--enable-row-security")
    assert ORGANIZATIONS["acme"] in said and ORGANIZATIONS["beta"] not in said
    for user in ("acme_app", "beta_app"):
        wire = way.proxy.wire(user)
        assert wire.value("SHOW row_security") == "on"
        assert wire.value("SELECT body FROM notes") == ORGANIZATIONS[user[:4]]
    pg.run("DELETE FROM notes")
