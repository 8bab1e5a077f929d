"""
Goal:   a PostgreSQL client cannot tell weir from PostgreSQL.
Method: most tests are dialogues: exact bytes, sent to weir and to PostgreSQL
        itself, whose answers must be the same message for message.  Then real
        drivers and pgbench, and what happens to the others when a client leaves
        in the middle.
"""
import contextlib
import re
import socket
import subprocess
import threading
import time

import pytest

import pgwire
from pgwire import (bind, close, copy_data, copy_done, copy_fail, describe,
                    errors, execute, extended, flush, kinds, parse, query, rows,
                    status, sync, tags, terminate)
from servers import (DATABASE, OPEN_USER, UPSTREAM_PASSWORD, UPSTREAM_USER, USERS,
                     find_tool, scaled, wait_for)

SERVERS = 3
CONFIG = {"postgres main": {"pool_size": SERVERS}}


@pytest.fixture
def direct(pg):
    """PostgreSQL itself, by the same wire."""
    with pgwire.Wire(pg.port) as wire:
        wire.login(UPSTREAM_USER, DATABASE, UPSTREAM_PASSWORD)
        yield wire


# Logging in.


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("user", list(USERS) + [OPEN_USER])
def test_who_knows_the_password_gets_in(proxy, user, tls):
    wire = proxy.wire(user, tls=tls)
    assert wire.value("SELECT 1") == "1"
    assert wire.parameters["server_version"].startswith("15")
    assert wire.parameters["client_encoding"] == "UTF8"
    assert wire.parameters["standard_conforming_strings"] == "on"
    assert wire.pid is not None and len(wire.secret) >= 4


@pytest.mark.parametrize("user, password", [
    ("acme_app", "wrong"), ("acme_app", ""), ("acme_app", USERS["beta_app"][1]),
    ("no_such_user", "wrong"), ("ACME_APP", USERS["acme_app"][1])])
def test_who_does_not_is_refused_and_not_told_why(proxy, user, password):
    wire = proxy.wire(login=False)
    with pytest.raises(pgwire.Failed) as e:
        wire.login(user, DATABASE, password)
    assert e.value.code == "28P01"
    assert e.value.fields["S"] == "FATAL"
    assert "password authentication failed" in e.value.text
    assert wire.until_closed() == []


@pytest.mark.weir_only
def test_an_unknown_user_sees_the_same_challenge_each_time(proxy):
    """Or one could ask twice to learn which users exist."""
    salts = []
    for _ in range(2):
        wire = proxy.wire(login=False)
        wire.send(pgwire.startup("no_such_user", DATABASE))
        assert b"SCRAM-SHA-256\0" in wire.until("R")[-1][1]
        first = b"n,,n=,r=abcdefghijklmnop"
        wire.send(pgwire.message("p", b"SCRAM-SHA-256\0",
                                 pgwire.I32.pack(len(first)), first))
        challenge = wire.until("R")[-1][1][4:].decode()
        salts.append(re.search("s=([^,]*),i=(.*)", challenge).groups())
    assert salts[0] == salts[1]


def test_an_unknown_database_is_refused_by_name(proxy):
    wire = proxy.wire(login=False)
    with pytest.raises(pgwire.Failed) as e:
        wire.login("acme_app", "no_such_database", USERS["acme_app"][1])
        wire.rows(query("SELECT 1"))
    assert e.value.code == "3D000"
    assert "no_such_database" in e.value.text


@pytest.mark.weir_only
def test_a_database_that_is_not_configured_is_refused(weir):
    w = weir({"database *": None, "database " + DATABASE: {"postgres": "main"}})
    assert w.wire().value("SELECT current_database()") == DATABASE
    with pytest.raises(pgwire.Failed) as e:
        w.wire(database="postgres")
    assert e.value.code == "3D000"


@pytest.mark.weir_only
def test_a_database_may_have_another_name_upstream(weir):
    w = weir({"database front": {"postgres": "main", "dbname": DATABASE}})
    assert w.wire(database="front").value("SELECT current_database()") == DATABASE


@pytest.mark.weir_only
def test_a_gss_request_is_declined_and_the_connection_goes_on(proxy):
    wire = proxy.wire(login=False)
    wire.send(pgwire.gssenc_request())
    assert wire.take(1) == b"N"
    wire.start_tls(proxy.tls_context())
    wire.login("acme_app", DATABASE, USERS["acme_app"][1])
    assert wire.value("SELECT 1") == "1"


def test_a_newer_protocol_is_negotiated_down(proxy):
    wire = proxy.wire(login=False)
    wire.send(pgwire.packet(196608 + 9, b"user\0open_app\0database\0",
                            DATABASE.encode(), b"\0_pq_.thing\0on\0\0"))
    reply = wire.until("Z")
    assert "v" in kinds(reply)
    body = dict(reply)["v"]
    assert body[:4] == pgwire.I32.pack(196608) or body[:4] == pgwire.I32.pack(0)
    assert b"_pq_.thing\0" in body
    assert wire.value("SELECT 1") == "1"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_both_tls_versions_work(proxy, version):
    import ssl
    wire = proxy.wire(login=False)
    wire.start_tls(proxy.tls_context(maximum_version=ssl.TLSVersion[version],
                                     minimum_version=ssl.TLSVersion[version]))
    wire.login("acme_app", DATABASE, USERS["acme_app"][1])
    assert wire.sock.version() == version.replace("_", ".")
    assert wire.value("SELECT repeat('x', 100000)") == "x" * 100000


@pytest.mark.weir_only
def test_client_mode_require_refuses_who_does_not_use_tls(weir):
    w = weir({"tls": {"client_mode": "require"}})
    assert w.wire(tls=True).value("SELECT 1") == "1"
    with pytest.raises(pgwire.Failed) as e:
        w.wire(tls=False)
    assert e.value.code == "28000" and "SSL" in e.value.text


@pytest.mark.weir_only
def test_client_mode_disable_answers_n(weir):
    w = weir({"tls": {"client_mode": "disable"}})
    wire = w.wire(login=False)
    wire.send(pgwire.ssl_request())
    assert wire.take(1) == b"N"
    wire.login("acme_app", DATABASE, USERS["acme_app"][1])
    assert wire.value("SELECT 1") == "1"


@pytest.mark.weir_only
def test_the_client_after_max_client_conn_is_refused_with_53300(weir):
    w = weir({"weir": {"max_client_conn": 5}}, workers=4)
    for _ in range(5):
        w.wire()
    with pytest.raises(pgwire.Failed) as e:
        w.wire()
    assert e.value.code == "53300"


# Dialogues: what is sent, and the kinds of message it must bring.


BAD = parse("SELECT nonsense FROM nowhere")
LATE = "SELECT 1 / floor(random())::int"        # fails when run, not before
DIALOGUES = {
    # the simple protocol
    "a query": (query("SELECT 1, NULL, ''"), "TDCZ"),
    "an empty query": (query(""), "IZ"),
    "a query of a semicolon": (query(" ; "), "IZ"),
    "several statements": (query("SELECT 1; SELECT 2, 3; SELECT"), "TDCTDCTDCZ"),
    "an error among several statements": (
        query("SELECT 1; SELECT 1/0; SELECT 2"), "TDCEZ"),
    "a syntax error": (query("SELEC 1"), "EZ"),
    "several queries in one write": (query("SELECT 1") + query("SELECT 2"), "TDCZTDCZ"),
    "an error and a query in one write": (query("SELECT 1/0") + query("SELECT 2"),
                                          "EZTDCZ"),
    "a late error and a query in one write": (query(LATE) + query("SELECT 2"),
                                              "TEZTDCZ"),
    "a transaction": (query("BEGIN") + query("SELECT 1") + query("COMMIT"), "CZTDCZCZ"),
    "a transaction in one query": (query("BEGIN; SELECT 1; COMMIT"), "CTDCCZ"),
    "begin and something else in one query": (
        query("BEGIN; SELECT 1") + query("COMMIT"), "CTDCZCZ"),
    "commit of nothing": (query("COMMIT"), "NCZ"),
    "rollback of nothing": (query("ROLLBACK"), "NCZ"),
    "begin in a transaction": (query("BEGIN") + query("BEGIN") + query("ROLLBACK"),
                               "CZNCZCZ"),
    "an error in a transaction": (
        query("BEGIN") + query(LATE) + query("SELECT 1") + query("COMMIT"),
        "CZTEZEZCZ"),
    "savepoints": (
        query("BEGIN") + query("SAVEPOINT a") + query("SELECT 1/0")
        + query("ROLLBACK TO a") + query("SELECT 1") + query("COMMIT"),
        "CZCZEZCZTDCZCZ"),
    "begin with options": (
        query("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY")
        + query("SHOW transaction_isolation") + query("COMMIT AND CHAIN")
        + query("SHOW transaction_read_only") + query("ROLLBACK"), "CZTDCZCZTDCZCZ"),
    "a notice": (query("DO $$ BEGIN RAISE NOTICE 'hello'; END $$"), "NCZ"),
    "a warning and a notice among rows": (
        query("DO $$ BEGIN RAISE WARNING 'a'; RAISE NOTICE 'b'; END $$; SELECT 1"),
        "NNCTDCZ"),
    # the extended protocol
    "a statement": (extended("SELECT $1::int + 1, $2::text", [41, None]), "12TDCZ"),
    "only a sync": (sync(), "Z"),
    "several syncs in one write": (sync() * 5, "ZZZZZ"),
    "several statements, each with its sync": (
        extended("SELECT 1") + extended("SELECT 2") + extended("SELECT 3"),
        "12TDCZ12TDCZ12TDCZ"),
    "a pipeline with one sync": (
        (parse("SELECT $1::text") + bind(["a"]) + execute()) * 3 + sync(),
        "12DC12DC12DCZ"),
    "an error in a pipeline": (
        parse("SELECT 1") + bind() + execute() + BAD + bind() + execute()
        + parse("SELECT 2") + bind() + execute() + sync(), "12DCEZ"),
    "an error in each pipeline of several": (
        (BAD + bind() + execute() + sync()) * 3, "EZEZEZ"),
    "an error, then a good pipeline, in one write": (
        BAD + bind() + execute() + sync() + extended("SELECT 1"), "EZ12TDCZ"),
    "an error, and a query before its sync": (
        BAD + query("SELECT 'ignored'") + sync(), "EZ"),
    "an error, its sync, and a query": (BAD + sync() + query("SELECT 1"), "EZTDCZ"),
    "an error, flush, sync": (BAD + flush() + bind() + flush() + sync(), "EZ"),
    "an error of the execution": (
        parse(LATE) + bind() + describe() + execute() + bind() + execute() + sync(),
        "12TEZ"),
    "an error of the bind": (
        parse("SELECT $1::int") + bind(["x"]) + describe() + execute() + sync(), "1EZ"),
    "an error of the planner": (extended("SELECT 1 / $1::int", [0]), "1EZ"),
    "a statement and a query in one write": (
        extended("SELECT 1") + query("SELECT 2"), "12TDCZTDCZ"),
    "a query between parse and sync": (
        parse("SELECT 1") + query("SELECT 2") + sync(), "1TDCZZ"),
    "describe a statement": (
        parse("SELECT $1::int, $2::text AS t") + describe("S") + sync(), "1tTZ"),
    "describe what returns nothing": (
        parse("SET LOCAL work_mem = '8MB'") + describe("S") + bind() + describe()
        + sync(), "1tn2nZ"),
    "an empty statement": (parse("") + bind() + describe() + execute() + sync(),
                           "12nIZ"),
    "a portal read in parts": (
        parse("SELECT generate_series(1, 5)") + bind() + execute("", 2)
        + execute("", 2) + execute("", 2) + sync(), "12DDsDDsDCZ"),
    "a named portal": (
        query("BEGIN") + parse("SELECT generate_series(1, 3)") + bind(portal="p")
        + execute("p", 1) + sync() + execute("p", 1) + sync() + execute("p") + sync()
        + close("P", "p") + sync() + query("COMMIT"), "CZ12DsZDsZDCZ3ZCZ"),
    "a portal after its transaction": (
        parse("SELECT 1") + bind(portal="p") + sync() + execute("p") + sync(), "12ZEZ"),
    "a named statement, used and closed": (
        parse("SELECT 'named', $1::int", "n") + sync() + bind([1], "n") + execute()
        + sync() + bind([2], "n") + execute() + sync() + close("S", "n") + sync(),
        "1Z2DCZ2DCZ3Z"),
    "a statement after it was closed": (
        parse("SELECT 1", "n") + close("S", "n") + bind([], "n") + execute() + sync(),
        "13EZ"),
    "a statement that never was": (bind([], "ghost") + execute() + sync(), "EZ"),
    "describe of a statement that never was": (describe("S", "ghost") + sync(), "EZ"),
    "a statement of a name in use": (
        parse("SELECT 1", "n") + sync() + parse("SELECT 2", "n") + sync()
        + bind([], "n") + execute() + sync() + close("S", "n") + sync(), "1ZEZ2DCZ3Z"),
    "the unnamed statement outlives its sync": (
        parse("SELECT 'unnamed'") + sync() + bind() + execute() + sync(), "1Z2DCZ"),
    "the unnamed statement, replaced": (
        parse("SELECT 1") + parse("SELECT 2") + bind() + execute() + sync(), "112DCZ"),
    "close of what never was": (close("S", "ghost") + close("P", "ghost") + sync(),
                                "33Z"),
    "a name from before an error": (
        parse("SELECT 'kept'", "n") + BAD + sync() + bind([], "n") + execute() + sync(),
        "1EZ2DCZ"),
    "binary results": (
        parse("SELECT 258::int, 'x'::bytea") + bind(results=[1]) + execute() + sync(),
        "12DCZ"),
    "a transaction in the extended protocol": (
        extended("BEGIN") + extended("SELECT 1") + extended("COMMIT"),
        "12nCZ12TDCZ12nCZ"),
    "a transaction in one pipeline": (
        parse("BEGIN") + bind() + execute() + parse("SELECT 1") + bind() + execute()
        + parse("COMMIT") + bind() + execute() + sync(), "12C12DC12CZ"),
    "a pipeline that fails in a transaction": (
        query("BEGIN") + extended(LATE) + extended("SELECT 1") + query("ROLLBACK"),
        "CZ12TEZEZCZ"),
    "a function call": (        # of version()
        pgwire.message("F", pgwire.I32.pack(89), pgwire.I16.pack(0) * 2,
                       pgwire.I16.pack(1)), "VZ"),
    # copy
    "copy out": (query("COPY (VALUES (1, 'a'), (2, 'b')) TO STDOUT"), "HddcCZ"),
    "copy in": (
        query("CREATE TEMP TABLE c (x int) ON COMMIT DROP") + query("BEGIN")
        + query("CREATE TEMP TABLE c (x int) ON COMMIT DROP")
        + query("COPY c FROM STDIN") + copy_data(b"1\n2") + copy_data(b"\n3\n")
        + copy_done() + query("SELECT sum(x) FROM c") + query("COMMIT"),
        "CZCZCZGCZTDCZCZ"),
    "copy in that the client gives up": (
        query("COPY scratch.copied FROM STDIN") + copy_data(b"1\n") + copy_fail("no")
        + query("SELECT 1"), "GEZTDCZ"),
    "copy in of what is no number": (
        query("COPY scratch.copied FROM STDIN") + copy_data(b"1\nx\n2\n")
        + copy_data(b"3\n") + copy_done() + query("SELECT 1"), "GEZTDCZ"),
    "copy in, extended": (
        query("BEGIN") + parse("COPY scratch.copied FROM STDIN") + bind() + execute()
        + copy_data(b"1\n") + copy_done() + sync() + query("ROLLBACK"), "CZ12GCZCZ"),
    "copy out that fails": (
        query("COPY (SELECT 1 / (3 - generate_series(1, 5))) TO STDOUT")
        + query("SELECT 1"), "HddEZTDCZ"),
    "stray copy messages": (
        copy_data(b"late") + copy_done() + copy_fail("late") + query("SELECT 1"),
        "TDCZ"),
}
DIALOGUES = {name.replace(" ", "_").replace(",", ""): d for name, d in DIALOGUES.items()}


@pytest.fixture(scope="module", autouse=True)
def tables(pg):
    pg.run("DROP TABLE IF EXISTS scratch.copied, scratch.written")
    pg.run("CREATE TABLE scratch.copied (x int)")
    pg.run("CREATE TABLE scratch.written (x text)")
    pg.run("GRANT ALL ON scratch.copied, scratch.written TO PUBLIC")


def same(reply):
    """What must be equal: all, except an error's place in PostgreSQL's source."""
    out = []
    for kind, body in reply:
        if kind in "EN":
            body = {k: v for k, v in pgwire.error(body).items() if k not in "FLR"}
        out.append((kind, body))
    return out


@pytest.mark.parametrize("name", DIALOGUES)
def test_the_dialogue_is_the_one_postgresql_holds(proxy, direct, name):
    data, expected = DIALOGUES[name]
    answers = []
    for wire in (direct, proxy.wire("plain_app")):
        wire.send(data)
        answers.append(wire.until("Z", expected.count("Z")))
        # Nothing is left over, and the connection is as good as before.
        assert kinds(wire.run(query("SELECT 1"))) == "TDCZ"
    assert kinds(answers[0]) == expected, "PostgreSQL itself disagrees"
    assert same(answers[1]) == same(answers[0])


def test_all_dialogues_one_after_the_other_on_one_connection(proxy, direct):
    """In one write, as a client gone mad might; and TLS on one side."""
    chosen = [d for name, d in DIALOGUES.items() if "copy" not in name]
    data = b"".join(d[0] for d in chosen)
    n = sum(d[1].count("Z") for d in chosen)
    answers = []
    for wire in (direct, proxy.wire("plain_app", tls=True)):
        wire.send(data)
        answers.append(same(wire.until("Z", n)))
    assert answers[1] == answers[0]


def test_flush_brings_the_answer_but_ends_nothing(proxy):
    """asyncpg's first use of a statement: the reply must come without a Sync."""
    wire, others = proxy.wire(), [proxy.wire("beta_app") for _ in range(4)]
    for n in range(5):
        wire.send(parse("SELECT $1::int"), describe("S"), flush())
        assert kinds(wire.until("T")) == "1tT"
        for other in others[:SERVERS - 1]:
            assert other.value("SELECT 'between'") == "between"
        wire.send(bind([n]), execute(), flush())
        reply = wire.until("C")
        assert kinds(reply) == "2DC" and rows(reply) == [[str(n)]]
        assert kinds(wire.run(sync())) == "Z"


def test_data_behind_a_terminate_is_not_run(proxy, pg):
    pg.run("TRUNCATE scratch.written")
    wire = proxy.wire()
    wire.send(query("INSERT INTO scratch.written VALUES ('before')"), terminate(),
              query("INSERT INTO scratch.written VALUES ('behind')"))
    assert kinds(wire.until_closed()) == "CZ"
    assert pg.run("SELECT x FROM scratch.written") == [("before",)]


# The same bytes, cut into writes at every place.


SESSION = (pgwire.startup(OPEN_USER, DATABASE) + query("BEGIN")
           + extended("SELECT $1::text", ["split"]) + query("COMMIT")
           + parse(LATE) + bind() + execute() + sync()
           + query("COPY (SELECT 1) TO STDOUT"))


def replay(proxy, pieces):
    """All replies to a session sent in these pieces, from the first 'Z' on."""
    wire = proxy.wire(login=False)
    for piece in pieces:
        wire.send(piece)
        time.sleep(0.0005)
    reply = wire.until("Z", 6)
    wire.send(terminate())
    assert wire.until_closed() == []
    wire.close()
    return same(reply)[kinds(reply).index("Z"):]


def test_a_session_may_be_split_at_any_byte(proxy):
    whole = replay(proxy, [SESSION])
    assert "".join(k for k, _ in whole) == "ZCZ12TDCZCZ12EZHdcCZ"
    for at in range(1, len(SESSION)):
        assert replay(proxy, [SESSION[:at], SESSION[at:]]) == whole, \
            "split at byte %d" % at


def test_a_session_may_come_byte_by_byte(proxy):
    assert replay(proxy, [SESSION[i:i + 1] for i in range(len(SESSION))]) == \
        replay(proxy, [SESSION])


# Prepared statements of real drivers.


def test_clients_use_the_same_names_for_different_statements(proxy):
    clients = [proxy.wire(u) for u in list(USERS) * 4]
    for n, wire in enumerate(clients):
        assert kinds(wire.run(parse("SELECT 'client %d', $1::int" % n, "same"),
                              sync())) == "1Z"
    for turn in range(10):
        for n, wire in enumerate(clients):
            assert wire.rows(bind([turn], "same"), execute(), sync()) == \
                [["client %d" % n, str(turn)]]


def test_a_named_statement_describes_itself_on_whatever_server(proxy):
    clients = [proxy.wire() for _ in range(6)]
    for n, wire in enumerate(clients):
        wire.run(parse("SELECT %s::int AS c%d" % ("$1", n), "d"), sync())
    for _ in range(3):
        for n, wire in enumerate(clients):
            reply = wire.run(describe("S", "d"), sync())
            assert kinds(reply) == "tTZ"
            assert b"c%d\0" % n in reply[1][1]


def test_psycopg_pipelines(proxy):
    db = proxy.psycopg3(prepare_threshold=1)
    for n in range(20):
        with db.pipeline():
            cursors = [db.execute("SELECT %s::int * 2", [i]) for i in range(50)]
        assert [c.fetchone()[0] for c in cursors] == [i * 2 for i in range(50)]


def test_asyncpg_pools_reset_and_come_back(proxy):
    import asyncio

    import asyncpg

    async def work():
        async with asyncpg.create_pool(
                host="localhost", port=proxy.pg_port, user="acme_app",
                password=USERS["acme_app"][1], database=DATABASE, ssl=False,
                min_size=2, max_size=8) as pool:
            async def one(n):
                async with pool.acquire() as db:
                    async with db.transaction():
                        assert await db.fetchval("SELECT $1::int + 1", n) == n + 1
                    assert await db.fetchval("SELECT own_organization()::text")
            await asyncio.gather(*[one(n) for n in range(200)])
    asyncio.run(asyncio.wait_for(work(), scaled(30)))


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench_with_64_clients_stays_on_three_servers(proxy, pg, folder, mode):
    if not pg.run("SELECT to_regclass('pgbench_accounts')")[0][0]:
        subprocess.run([find_tool("pgbench"), "-i", "-q", "-h", pg.folder, "-p",
                        str(pg.port), "-U", "postgres", DATABASE], check=True,
                       capture_output=True)
        pg.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC")
    bench = subprocess.Popen(
        [find_tool("pgbench"), "-n", "-S", "-c", "64", "-j", "2", "-t", "60", "-M",
         mode, "-h", "127.0.0.1", "-p", str(proxy.pg_port), "-U", "acme_app", DATABASE],
        env={"PGPASSWORD": USERS["acme_app"][1], "PGSSLMODE": "disable"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    most = 0
    while bench.poll() is None:
        most = max(most, len(pg.backends()))
        time.sleep(0.01)
    said = bench.stdout.read()
    assert bench.returncode == 0, said
    assert "number of transactions actually processed: 3840/3840" in said
    if not proxy.direct:
        assert 1 <= most <= SERVERS
        assert proxy.metric("servers", "postgres") <= SERVERS


# Size.


def test_a_big_result_is_streamed_not_stored(proxy, san):
    wire = proxy.wire(timeout=60)
    size, n = 100_000, 1000                 # 100 MB
    before = 0 if proxy.direct else proxy.memory()
    if not proxy.direct:
        proxy.reset_hwm()
    wire.send(query("SELECT repeat('x', %d) FROM generate_series(1, %d)" % (size, n)))
    got = 0
    while True:
        kind, body = wire.message()
        got += len(body) - 6 if kind == "D" else 0
        if kind == "Z":
            break
    assert got == size * n
    if not san and not proxy.direct:
        assert proxy.memory("VmHWM") - before < 16 << 20


def test_a_single_value_of_64_megabytes(proxy, san):
    wire = proxy.wire(timeout=60)
    before = 0 if proxy.direct else proxy.memory()
    reply = wire.run(query("SELECT repeat('y', 64 << 20)"))
    assert kinds(reply) == "TDCZ" and len(reply[1][1]) == (64 << 20) + 6
    if not san and not proxy.direct:
        assert proxy.memory() - before < 16 << 20


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_parameter_of_20_megabytes(proxy, tls, san):
    wire = proxy.wire(tls=tls, timeout=60)
    value = "z" * (20 << 20)
    before = 0 if proxy.direct else proxy.memory()
    for _ in range(2):
        assert wire.rows(extended("SELECT length($1), md5($1)", [value]))[0][0] == \
            str(len(value))
    assert wire.value("SELECT length('%s')" % value) == str(len(value))
    if not san and not proxy.direct:
        assert proxy.memory() - before < 24 << 20


@pytest.mark.parametrize("size", [1 << 14, (1 << 16) - 32, 1 << 16, 70_000, 1 << 20])
def test_statements_around_and_above_64_kilobytes(proxy, size):
    wire = proxy.wire()
    text = "q" * size
    assert wire.value("SELECT length('%s')" % text) == str(size)
    assert wire.rows(extended("SELECT length('%s') + $1::int" % text, [1])) == \
        [[str(size + 1)]]
    text = text[:500_000]       # weir must hold a named one, and has a limit
    wire.run(parse("SELECT '%s', $1::int" % text, "long"), sync())
    for n in range(3):
        assert wire.rows(bind([n], "long"), execute(), sync()) == [[text, str(n)]]


# COPY with a driver.


def test_copy_in_and_out_with_a_driver(proxy, pg):
    pg.run("TRUNCATE scratch.written")
    db = proxy.psycopg3()
    lines = ["line %d" % n for n in range(50_000)]
    with db.cursor().copy("COPY scratch.written FROM STDIN") as copy:
        copy.write("\n".join(lines) + "\n")
    with db.cursor().copy("COPY scratch.written TO STDOUT") as copy:
        out = b"".join(copy).decode().split("\n")
    assert out[:-1] == lines


def test_copy_in_abandoned_by_the_driver_leaves_nothing(proxy, pg):
    import psycopg
    pg.run("TRUNCATE scratch.written")
    db = proxy.psycopg3()
    with pytest.raises(psycopg.errors.QueryCanceled):
        with db.cursor().copy("COPY scratch.written FROM STDIN") as copy:
            copy.write("half\n" * 10_000)
            raise ZeroDivisionError
    assert db.execute("SELECT count(*) FROM scratch.written").fetchone() == (0,)


# Leaving in the middle.  One server, so that the next client needs it back.


def leave(wire, how):
    if how == "reset":          # RST instead of FIN
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             b"\1\0\0\0\0\0\0\0")
    if how == "terminate":
        wire.send(terminate())
    wire.close()


# What the client has sent when it leaves, and the last kind it has read.
LEAVING = {
    "in a transaction": (query("BEGIN") + query(
        "INSERT INTO scratch.written VALUES ('lost')"), "ZZ"),
    "in a transaction, extended": (query("BEGIN") + extended(
        "INSERT INTO scratch.written VALUES ($1)", ["lost"]), "ZZ"),
    "in an aborted transaction": (query("BEGIN") + query("SELECT 1/0"), "ZZ"),
    "with the reply unread": (query(
        "BEGIN; INSERT INTO scratch.written VALUES ('lost')"), ""),
    "in a long query": (query("SELECT pg_sleep(8)"), ""),
    "in a big result": (query(
        "SELECT repeat('x', 10000) FROM generate_series(1, 10000)"), "T"),
    "before the sync": (parse(
        "INSERT INTO scratch.written VALUES ('lost')") + bind() + execute() + flush(),
        "C"),
    "in a copy in": (query("COPY scratch.written FROM STDIN")
                     + copy_data(b"lost\n" * 1000), "G"),
    "in a copy out": (query(
        "COPY (SELECT repeat('x', 10000) FROM generate_series(1, 10000)) TO STDOUT"),
        "H"),
    "in half a message": (query("BEGIN") + query("SELECT 'half'")[:9], "Z"),
    "in half a big message": (query("BEGIN") + extended(
        "SELECT $1::text", ["x" * 300_000])[:200_000], "Z"),
    "after half a message": (query("SELECT 'half'")[:9], ""),
}


# Half a message has no Terminate behind it, and a query that has one is run.
WAYS = [(when, how) for when in LEAVING for how in ("close", "reset", "terminate")
        if how != "terminate" or not ("half" in when or "long" in when)]


@pytest.mark.weir_only
@pytest.mark.parametrize("when, how", WAYS)
def test_the_next_client_is_not_hurt_by_one_who_leaves(one_server, pg, when, how):
    pg.run("TRUNCATE scratch.written")
    data, seen = LEAVING[when]
    gone = one_server.wire("acme_app")
    gone.send(data)
    for kind in seen:
        gone.until(kind)
    leave(gone, how)
    start = time.monotonic()
    beta = one_server.wire("beta_app")
    assert beta.rows(query("SELECT count(*) FROM scratch.written")) == [["0"]]
    assert kinds(beta.run(extended("SELECT 1"))) == "12TDCZ"
    assert time.monotonic() - start < scaled(7.5)
    assert status(beta.run(sync())) == "I"
    # Nobody told that backend; the next test counts them.
    pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
           " WHERE query = 'SELECT pg_sleep(8)' AND state = 'active'")


@pytest.mark.weir_only
@pytest.mark.parametrize("data", [
    query("BEGIN; SELECT pg_advisory_lock(7701)"),
    query("BEGIN; SELECT pg_advisory_lock(7701)") + query("SELECT 1"),
    query("BEGIN; SELECT pg_advisory_lock(7701)") + query("SELECT 1")[:9],
    query("BEGIN; SELECT pg_advisory_lock(7701)") + query("COPY scratch.written FROM STDIN"),
    extended("SELECT pg_advisory_lock(7701)") + flush(),
], ids=["in a transaction", "with more", "with half a message", "with a copy", "with a flush"])
def test_who_leaves_just_when_its_settings_are_confirmed_leaves_its_server(weir, pg, data):
    """Its end comes in one turn with the server's answer, and behind it."""
    w = weir({"postgres main": {"pool_size": 1}})
    beta = w.wire("beta_app")
    assert beta.value("SELECT 1") == "1"        # so that they have to be set
    db, gone = pg.connect(), w.wire("acme_app")
    db.cursor().execute("SELECT pg_advisory_lock(7701)")
    gone.send(data)

    def is_so(state):
        return pg.run("SELECT 1 FROM pg_stat_activity WHERE usename = 'weir_upstream'"
                      " AND " + state)
    wait_for(lambda: is_so("wait_event = 'advisory'"), what="it does not wait")
    with w.stopped():
        db.close()
        wait_for(lambda: is_so("wait_event = 'ClientRead'"), what="it is not answered")
        gone.close()
    assert beta.value("SELECT 2") == "2"
    w.settled(postgres=1)


def test_begin_now_and_commit_later_while_others_wait(one_server, pg):
    pg.run("TRUNCATE scratch.written")
    first, second = one_server.wire("acme_app"), one_server.wire("beta_app")
    first.run(query("BEGIN"))
    first.run(query("INSERT INTO scratch.written VALUES ('first')"))
    second.send(query("SELECT count(*) FROM scratch.written"))
    second.sock.settimeout(0.3)
    if not one_server.direct:
        with pytest.raises(socket.timeout):
            second.until("Z")
    second.sock.settimeout(scaled(10))
    assert status(first.run(query("SELECT 1"))) == "T"
    assert tags(first.run(query("COMMIT"))) == ["COMMIT"]
    if not one_server.direct:
        assert rows(second.until("Z")) == [["1"]]


def test_an_idle_client_holds_no_server(one_server):
    clients = [one_server.wire() for _ in range(30)]
    for n, wire in enumerate(clients * 2):
        assert wire.value("SELECT %d" % n) == str(n)
    if not one_server.direct:
        assert one_server.metric("servers", "postgres") == 1
        assert one_server.metric("clients", "postgres") == 30


# Cancelling.


def test_cancel_stops_the_query_of_the_client_that_asked(proxy):
    import psycopg2
    for turn in range(6):
        db = proxy.psycopg2(sslmode="require" if turn % 2 else "disable")
        timer = threading.Timer(0.5, db.cancel)
        timer.start()
        start = time.monotonic()
        with pytest.raises(psycopg2.extensions.QueryCanceledError):
            db.cursor().execute("SELECT pg_sleep(20)")
        assert time.monotonic() - start < scaled(15)
        timer.join()
        with db.cursor() as cur:
            cur.execute("SELECT 'alive'")
            assert cur.fetchone() == ("alive",)


def cancel(proxy, pid, secret):
    with contextlib.closing(socket.create_connection(("127.0.0.1", proxy.pg_port))) as s:
        s.settimeout(scaled(10))
        s.sendall(pgwire.cancel_request(pid, secret))
        return s.recv(1)


def test_a_cancel_with_a_wrong_key_is_ignored_without_a_word(proxy):
    wire = proxy.wire()
    wire.send(query("SELECT pg_sleep(0.7)"))
    for pid, secret in [(wire.pid, b"\0\0\0\0"), (wire.pid + 1, wire.secret),
                        (0, wire.secret), (-1, b"\xff\xff\xff\xff"),
                        (wire.pid, bytes(b ^ 1 for b in wire.secret))]:
        assert cancel(proxy, pid, secret) == b""
    assert kinds(wire.until("Z")) == "TDCZ"


def test_the_key_of_an_idle_client_cancels_nobody(one_server):
    idle, busy = one_server.wire("acme_app"), one_server.wire("beta_app")
    idle.value("SELECT 1")      # this was the server that busy has now
    busy.send(query("SELECT pg_sleep(0.5)"))
    for _ in range(10):
        cancel(one_server, idle.pid, idle.secret)
    assert kinds(busy.until("Z")) == "TDCZ"


def test_a_late_cancel_never_hits_the_next_client(one_server):
    """acme cancels its short queries while beta works on the same server."""
    acme, beta = one_server.wire("acme_app"), one_server.wire("beta_app")
    over, seen = threading.Event(), []

    def work():
        while not over.is_set():
            seen.extend(errors(beta.run(query("SELECT pg_sleep(0.001)"))))
    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(150):
        acme.send(query("SELECT pg_sleep(0.0005)"))
        cancel(one_server, acme.pid, acme.secret)
        acme.until("Z")
    over.set()
    worker.join()
    assert not seen


def test_cancel_of_a_client_that_waits_for_a_server(one_server):
    """Whether it is cancelled or waits on: nobody else is, and it gets an answer."""
    if one_server.direct:
        return
    busy, waiting = one_server.wire(), one_server.wire("beta_app")
    busy.send(query("SELECT pg_sleep(1)"))
    time.sleep(0.2)
    waiting.send(query("SELECT 'after all'"))
    cancel(one_server, waiting.pid, waiting.secret)
    assert kinds(busy.until("Z")) == "TDCZ"
    reply = waiting.until("EZ")
    assert rows(reply) == [["after all"]] or errors(reply)[0]["C"] == "57014"


def test_keys_are_not_guessable(proxy):
    keys = [(w.pid, w.secret) for w in (proxy.wire() for _ in range(20))]
    assert len(set(keys)) == 20
    assert len({secret for _, secret in keys}) == 20


# psql, the client everybody tries first.


def test_psql(proxy):
    said = subprocess.run(
        ["psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p",
         str(proxy.pg_port), "-U", "acme_app", DATABASE,
         "-c", "SELECT 1", "-c", "\\dt public.notes", "-c", "SELECT 2; SELECT 3",
         "-c", "\\d notes"],
        env={"PGPASSWORD": USERS["acme_app"][1], "PGSSLMODE": "require",
             "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=scaled(20))
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("1\npublic|notes|table|postgres\n2\n3\n")
    assert "organization_id|uuid||not null|own_organization()" in said.stdout


# Sequences: what nextval() gave is remembered by the backend that gave it.


@pytest.mark.weir_only
@pytest.mark.parametrize("how", ["simple", "extended", "named"])
def test_the_last_value_of_a_sequence_is_never_another_client_s(one_server, pg, how):
    pg.run("CREATE SEQUENCE IF NOT EXISTS scratch.ticket")
    pg.run("GRANT ALL ON SEQUENCE scratch.ticket TO PUBLIC")
    acme, beta = one_server.wire("acme_app"), one_server.wire("beta_app")
    beta.run(query("SELECT nextval('scratch.ticket')"))

    def last(wire):
        if how == "simple":
            return wire.run(query("SELECT lastval()"))
        if how == "extended":
            return wire.run(extended("SELECT lastval()"))
        wire.run(parse("SELECT lastval()", name="last") + sync())
        reply = wire.run(bind(name="last") + execute() + sync())
        wire.run(close("S", "last") + sync())
        return reply
    assert [e["C"] for e in errors(last(acme))] == ["0A000"]
    assert status(acme.run(sync())) == "I"
    acme.run(query("BEGIN"))
    given = rows(acme.run(query("SELECT nextval('scratch.ticket')")))
    assert rows(last(acme)) == given
    acme.run(query("COMMIT"))
    assert rows(acme.run(query(
        "SELECT setval('scratch.ticket', 50); SELECT lastval()")))[-1] == ["50"]
