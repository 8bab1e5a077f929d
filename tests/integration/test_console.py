"""
Goal:   the database `weir` shows what weir does, to those who may see it.
Method: psql, libpq and bytes of our own ask for its tables while work whose
        extent is known is under way.
"""
import subprocess
import threading
import uuid

import psycopg2
import pytest

import fakepg
import pgwire
from pgwire import errors, kinds, query, rows, tags
from servers import UPSTREAM_USER, wait_for

pytestmark = pytest.mark.weir_only

USERS = {"weir": {"admin_users": "chief", "stats_users": "viewer, acme_app"},
         "user chief": {"auth": "trust"}, "user viewer": {"auth": "trust"}}
BATCH = {**USERS, "batch seen": {"order_by": "doc"}}
INSERT = "INSERT INTO seen (doc, clock) VALUES ($1, $2)"


@pytest.fixture
def w(weir, workers):
    return weir(USERS, workers)


def table(wire, name):
    """As a list of dicts."""
    reply = wire.run(query("SHOW " + name))
    assert kinds(reply)[0] == "T" and kinds(reply)[-2:] == "CZ", errors(reply)
    body, at, names = reply[0][1], 2, []
    while at < len(body):
        end = body.index(b"\0", at)
        names.append(body[at:end].decode())
        at = end + 19
    return [dict(zip(names, row)) for row in rows(reply)]


def test_psql_shows_help_and_what_it_names(w):
    def psql(*commands):
        said = subprocess.run(
            ["psql", "-X", "-A", "-t", "host=127.0.0.1 port=%d user=viewer dbname=weir"
             % w.pg_port, *commands], capture_output=True, text=True)
        return said.stdout, said.stderr, said.returncode
    out, err, code = psql("-c", "show help;")
    assert code == 0 and not err
    named = [line.split("|")[0] for line in out.splitlines()]
    assert "SHOW BATCHES" in named and "SHOW POOLS" in named
    for command in named:
        if command.startswith("SHOW"):
            assert psql("-c", command)[2] == 0, command
    assert psql("-c", "SHOW VERSION")[0].startswith("weir ")
    for wrong in ("SELECT 1", "SHOW NOTHING", "SHOW POOLS; SHOW HELP", "SHOW", "x" * 300):
        assert "not a command of the console" in psql("-c", wrong)[1]


def test_the_console_is_for_those_who_are_named_and_of_no_organization(w):
    for user in ("plain_app", "acme_app", "open_app"):
        for database in ("weir", "pgbouncer"):
            with pytest.raises(psycopg2.OperationalError, match="the console is for"):
                w.psycopg2(user, dbname=database)
    for user in ("chief", "viewer"):
        wire = w.wire(user, database="pgbouncer")
        assert kinds(wire.run(query("SHOW HELP")))[0] == "T"


def test_a_section_of_that_name_is_no_console(weir, workers):
    w = weir({**USERS, "database weir": {"postgres": "main", "dbname": "postgres"}}, workers)
    assert w.wire("plain_app", database="weir").value("SELECT current_database()") == "postgres"
    assert w.wire("viewer", database="pgbouncer").rows(query("SHOW VERSION"))


def test_only_an_administrator_reloads(weir, workers):
    w = weir(USERS, workers)
    w.config["weir"]["stats_users"] = "viewer, plain_app"
    w.write(w.config)
    reply = w.wire("viewer", database="weir").run(query("RELOAD"))
    assert [e["C"] for e in errors(reply)] == ["42501"]
    with pytest.raises(psycopg2.OperationalError):
        w.psycopg2("plain_app", dbname="weir")
    assert tags(w.wire("chief", database="weir").run(query("RELOAD"))) == ["RELOAD"]

    def is_in():
        try:
            return w.psycopg2("plain_app", dbname="weir")
        except psycopg2.OperationalError:
            return False
    wait_for(is_in, 10, "not read again")


def test_the_extended_protocol_gives_the_same_in_text_and_in_binary(w):
    wire = w.wire("viewer", database="weir")
    w.wire("plain_app").run(query("SELECT 1"))
    wait_for(lambda: table(wire, "POOLS"), 5, "no pool")
    want = rows(wire.run(query("SHOW POOLS")))
    reply = wire.run(pgwire.parse("SHOW POOLS", "p"), pgwire.describe("S", "p"),
                     pgwire.bind(name="p"), pgwire.describe(), pgwire.execute(),
                     pgwire.sync())
    assert kinds(reply) == "1tT2T" + "D" * len(want) + "CZ"
    assert rows(reply) == want
    reply = wire.run(pgwire.bind(name="p", results=[1]), pgwire.execute(), pgwire.sync())
    for (_, body), text in zip(reply[1:], want):
        at = 2
        for column, said in enumerate(text):
            size = int.from_bytes(body[at:at + 4], "big")
            cell, at = body[at + 4:at + 4 + size], at + 4 + size
            assert cell == (said.encode() if column in (0, 1, 15)
                            else int(said).to_bytes(8, "big"))
    # An error skips to the Sync, and the connection goes on.
    wire.send(pgwire.parse("SELECT 1"), pgwire.bind(), pgwire.execute(), pgwire.sync(),
              pgwire.bind(name="none"), pgwire.sync(), query(""),
              pgwire.close("S", "p"), pgwire.parse("SHOW VERSION", "p"), pgwire.sync())
    reply = wire.until("Z", 4)
    assert kinds(reply) == "EZEZIZ31Z"
    assert [e["C"] for e in errors(reply)] == ["42601", "26000"]


def test_waiting_clients_and_servers_at_work_are_in_pools(weir, workers):
    w = weir({**USERS, "postgres main": {"pool_size": 1}}, workers)
    wire = w.wire("viewer", database="weir")
    holder, others = w.wire("acme_app"), [w.wire("beta_app") for _ in range(3)]
    holder.run(query("BEGIN"))
    holder.run(query("SELECT 1"))
    for other in others:
        other.send(query("SELECT 1"))

    def pool():
        found = [p for p in table(wire, "POOLS") if p["database"] == "collab"]
        assert len(found) == 1 and found[0]["user"] == UPSTREAM_USER
        return found[0]
    wait_for(lambda: pool()["cl_waiting"] == "3", 5, "nobody waits")
    assert pool()["sv_active"] == "1" and pool()["cl_active"] == "1"
    wait_for(lambda: int(pool()["maxwait_us"]) > 0 or int(pool()["maxwait"]) > 0, 5, "no time")
    holder.run(query("COMMIT"))
    for other in others:
        other.until("Z")
    wait_for(lambda: pool()["cl_waiting"] == "0" and pool()["sv_idle"] == "1", 5, "at work")


def test_batches_are_counted_and_what_is_under_way_is_shown(weir, pg, workers):
    pg.run("DROP TABLE IF EXISTS seen")
    pg.run("CREATE TABLE seen (doc uuid, clock int); GRANT ALL ON seen TO PUBLIC")
    w = weir({**BATCH, "postgres main": {"pool_size": 1}}, workers)
    wire = w.wire("viewer", database="weir")
    for i in range(3):
        w.wire("acme_app").run(pgwire.extended(INSERT, [str(uuid.UUID(int=1)), str(i)]))

    def totals():
        found = [b for b in table(wire, "BATCHES") if b["organization"] is None]
        return found[0] if found else {}
    assert totals()["operations"] == "3" and totals()["commits"] == "3"
    assert totals()["replayed"] == "0" == totals()["unknown"]
    db = pg.connect()
    db.autocommit = False
    with db.cursor() as cur:
        cur.execute("LOCK TABLE seen")
        clients = [w.wire("acme_app") for _ in range(4)]
        for i, client in enumerate(clients):
            client.send(pgwire.extended(INSERT, [str(uuid.UUID(int=1)), str(i)]))

        def under_way():
            return [b for b in table(wire, "BATCHES") if b["organization"] == "acme"]
        wait_for(lambda: sum(int(b["waiting"]) + int(b["sent"]) for b in under_way()) == 4,
                 10, "not under way")
        row, = under_way()
        assert row["table"] == "seen" and row["database"] == "collab" and row["lanes"] == "1"
        assert int(row["sent"]) >= 1 and row["operations"] is None
    db.rollback()
    db.close()
    for client in clients:
        assert tags(client.until("Z")) == ["INSERT 0 1"]
    wait_for(lambda: not under_way(), 5, "still under way")
    assert totals()["operations"] == "7"


def test_nonsense_ends_the_connection_and_nothing_else(w):
    for junk in (b"\0" * 40, b"Q\0\1\0\0" + b"x" * 70000, b"B\0\0\0\5x", b"F\0\0\0\4",
                 pgwire.message("D", b"S"), pgwire.message("Q", b"no end")):
        wire = w.wire("viewer", database="weir")
        wire.send(junk)
        assert kinds(wire.until_closed()).endswith("E")
    assert table(w.wire("viewer", database="weir"), "VERSION")


def test_who_asks_and_leaves_is_forgotten(w):
    for _ in range(30):
        wire = w.wire("viewer", database="weir")
        wire.send(query("SHOW POOLS") * 3)
        wire.close()
    w.settled()
    wire = w.wire("viewer", database="weir")
    wire.send(query("SHOW POOLS") * 200)
    for _ in range(200):
        assert kinds(wire.until("Z"))[-2:] == "CZ"


# Who is connected, to whom, and by what settings.


CLIENTS = ["type", "user", "database", "state", "addr", "port", "local_addr", "local_port",
           "connect_time", "request_time", "wait", "wait_us", "close_needed", "ptr", "link",
           "remote_pid", "tls", "application_name", "prepared_statements"]


def test_clients_and_servers_are_linked_by_who_has_whom(weir, workers):
    w = weir({**USERS, "postgres main": {"pool_size": 1}}, workers)
    wire = w.wire("viewer", database="weir")
    holder = w.wire("acme_app", tls=True, application_name="editor")
    pid = holder.value("SELECT pg_backend_pid()")
    holder.run(pgwire.parse("SELECT 1", "kept"), pgwire.sync())
    holder.run(query("BEGIN"))
    holder.run(query("SELECT 1"))
    waiter = w.wire("plain_app")
    waiter.send(query("SELECT 1"))
    redis = w.redis(client_name="cache")
    assert redis.ping()

    def clients():
        return {row["user"]: row for row in table(wire, "CLIENTS")}
    wait_for(lambda: clients()["plain_app"]["state"] == "waiting", 10, "nobody waits")
    seen = clients()
    assert list(seen["acme_app"])[:len(CLIENTS)] == CLIENTS
    assert set(seen) == {"viewer", "acme_app", "plain_app", "default"}
    mine = seen["acme_app"]
    host, port = holder.sock.getsockname()
    assert (mine["addr"], mine["port"], mine["local_port"]) == (host, str(port), str(w.pg_port))
    assert (mine["type"], mine["state"], mine["database"]) == ("C", "active", "collab")
    assert (mine["organization"], mine["proto"]) == ("acme", "postgres")
    assert mine["tls"].startswith("TLSv1") and mine["application_name"] == "editor"
    assert mine["prepared_statements"] == "1" and mine["connect_time"].endswith(" UTC")
    assert seen["viewer"]["database"] == "weir" and seen["viewer"]["state"] == "idle"
    assert seen["default"]["proto"] == "redis" and seen["default"]["application_name"] == "cache"
    assert len({row["ptr"] for row in seen.values()}) == 4
    wait_for(lambda: int(clients()["plain_app"]["wait_us"]) > 0, 5, "no time")
    server, = [s for s in table(wire, "SERVERS") if s["proto"] == "postgres"]
    assert (server["type"], server["state"], server["user"]) == ("S", "active", UPSTREAM_USER)
    assert server["ptr"] == mine["link"] and server["link"] == mine["ptr"]
    assert server["remote_pid"] == pid and server["organization"] == "acme"
    holder.run(query("COMMIT"))
    waiter.until("Z")
    wait_for(lambda: [s["state"] for s in table(wire, "SERVERS") if s["proto"] == "postgres"]
             == ["idle"], 5, "at work")


def test_a_server_that_is_cleaned_shows_no_organization(weir, workers):
    """That of its client, who has left, may be no more."""
    fake, let = fakepg.FakePg(), threading.Event()
    fake.hold["ROLLBACK"] = let
    w = weir({**USERS, "weir": {**USERS["weir"], "server_connect_timeout": "60"},
              "postgres main": {"port": fake.port, "dbname": "collab",
                                "password": None, "rls_check": "off"}}, workers)
    try:
        wire, client = w.wire("viewer", database="weir"), w.wire("acme_app")
        client.run(query("BEGIN"))
        assert kinds(client.run(query("SELECT 1"))) == "TDCZ"

        def server():
            return table(wire, "SERVERS")[0]
        assert (server()["state"], server()["organization"]) == ("active", "acme")
        client.close()
        wait_for(lambda: server()["state"] == "tested", 10, "not cleaned")
        assert server()["organization"] is None
        # What kept it goes with the configuration before.
        w.reload({"user new": {"auth": "trust"}})
        assert (server()["state"], server()["organization"]) == ("tested", None)
    finally:
        let.set()
        fake.stop()


def test_the_name_of_an_application_is_cut_and_made_printable(w):
    wire = w.wire("viewer", database="weir")
    w.wire("acme_app", application_name="é\x1b[2J" + "x" * 5000)
    name, = [c["application_name"] for c in table(wire, "CLIENTS") if c["user"] == "acme_app"]
    assert name == "???[2J" + "x" * 57


def test_what_the_file_says_is_shown_without_its_secrets(weir, pg, workers):
    w = weir({**USERS, "auth": {"jwt_secret": "s3cr3t" * 8},
              "database other": {"postgres": "main", "dbname": "collab", "pool_mode": "session"},
              "postgres main": {"min_pool_size": 1}}, workers)
    wire = w.wire("viewer", database="weir")
    w.wire("acme_app").value("SELECT 1")
    rows = {row["name"]: row for row in table(wire, "DATABASES")}
    assert set(rows) == {"*", "other"}
    other = rows["other"]
    assert (other["host"], other["port"]) == ("127.0.0.1", str(pg.port))
    assert (other["database"], other["force_user"]) == ("collab", UPSTREAM_USER)
    assert (other["pool_size"], other["min_pool_size"]) == ("3", "1")
    assert (other["pool_mode"], rows["*"]["pool_mode"]) == ("session", "transaction")
    wait_for(lambda: 0 < int({r["name"]: r for r in table(wire, "DATABASES")}["other"]
                             ["current_connections"]) == w.metric("servers", "postgres"),
             10, "no connection")
    users = {row["name"]: row for row in table(wire, "USERS")}
    assert users["acme_app"]["organization"] == "acme"
    assert users["open_app"]["auth"] == "trust"
    config = {row["key"]: row for row in table(wire, "CONFIG")}
    assert config["max_client_conn"]["value"] == "5000"
    assert config["max_client_conn"]["default"] == "10000"
    assert config["workers"]["changeable"] == "no" and config["stats_users"]["value"]
    assert config["drain_timeout"]["value"] == "10"
    everything = str([table(wire, name) for name in ("CONFIG", "DATABASES", "USERS", "CLIENTS",
                                                     "SERVERS", "MEM", "LISTS", "STATS")])
    for secret in ("s3cr3t", "acme-secret", "upstream-secret", "redis-secret"):
        assert secret not in everything


def test_totals_are_of_all_workers(weir, workers):
    w = weir(USERS, workers)
    wire = w.wire("viewer", database="weir")
    for _ in range(5):
        w.wire("acme_app").value("SELECT 1")
    row, = table(wire, "STATS")
    assert row["total_xact_count"] == "5" == row["total_query_count"]
    assert table(wire, "STATS_TOTALS")[0]["total_xact_count"] == "5"
    items = {row["list"]: int(row["items"]) for row in table(wire, "LISTS")}
    assert items["used_clients"] == 6 and items["users"] == len(
        [s for s in w.config if s.startswith("user ")])
    memory = {row["name"]: row for row in table(wire, "MEM")}
    assert memory["postgres_client"]["used"] == "6"
    assert int(memory["postgres_client"]["memtotal"]) > 6 * 100


def test_many_clients_are_shown_in_many_turns(weir, workers):
    """And who comes, leaves, or reads nothing meanwhile does no harm."""
    w = weir(USERS, workers)
    many = [w.wire(login=False) for _ in range(700)]
    w.settled(postgres=700)
    wire, idle = w.wire("viewer", database="weir"), w.wire("viewer", database="weir")
    before = w.metric("turns_total")
    seen = table(wire, "CLIENTS")
    assert len(seen) == 702 == len({row["ptr"] for row in seen})
    assert w.metric("turns_total") - before >= 2 * 700 / 128
    idle.send(query("SHOW CLIENTS") * 50)
    gone = w.wire("viewer", database="weir")
    gone.send(query("SHOW CLIENTS") * 5)
    gone.close()
    for n, other in enumerate(many):
        wire.send(query("SHOW CLIENTS")) if n % 50 == 0 else None
        other.close()
    for _ in range(14):
        assert kinds(wire.until("Z"))[-2:] == "CZ"
    wait_for(lambda: len(table(wire, "CLIENTS")) == 2, 10, "still there")
    for _ in range(50):
        assert kinds(idle.until("Z"))[-2:] == "CZ"
    assert table(idle, "VERSION")
