"""
Goal:   the database `weir` shows what weir does, to those who may see it.
Method: psql, libpq and bytes of our own ask for its tables while work whose
        extent is known is under way.
"""
import subprocess
import uuid

import psycopg2
import pytest

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
