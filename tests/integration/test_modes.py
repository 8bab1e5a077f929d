"""Pool modes: how long a client keeps its server.

Goal: in session mode a server is the client's until it leaves, with all it
left there, and clean for the next; in statement mode no transaction stays
open; user before database before upstream.
Method: one server; the backend's pid says who has it.
"""
import pytest

import pgwire
from pgwire import query
from servers import DATABASE, scaled

pytestmark = pytest.mark.weir_only

PID = "SELECT pg_backend_pid()"


def modes(upstream, database=None, user=None, wait=20):
    changes = {"postgres main": {"pool_mode": upstream, "pool_size": 1},
               "weir": {"query_wait_timeout": int(scaled(wait))}}
    if database:
        changes["database " + DATABASE] = {"postgres": "main", "pool_mode": database}
    if user:
        changes["user acme_app"] = {"pool_mode": user}
    return changes


def test_a_session_keeps_its_server_until_it_leaves(weir, workers):
    w = weir(modes("session", wait=2), workers)
    first = w.wire("acme_app")
    pid = first.value(PID)
    second = w.wire("beta_app")
    reply = second.run(query("SELECT 1"))
    assert [e["C"] for e in pgwire.errors(reply)] == ["53300"]
    assert first.value(PID) == pid
    first.close()
    assert second.value(PID) == pid


def test_what_a_session_left_is_gone_for_the_next(weir, workers):
    w = weir(modes("session"), workers)
    first = w.wire("acme_app")
    first.run(query("SET work_mem = '3MB'; CREATE TEMP TABLE mine (x int);"
                    " SELECT pg_advisory_lock(7)"))
    first.run(query("PREPARE p AS SELECT 1"))
    assert first.value("SHOW work_mem") == "3MB"
    assert first.value("EXECUTE p") == "1"
    first.close()
    second = w.wire("beta_app")
    assert second.value("SHOW work_mem") != "3MB"
    assert second.value("SELECT to_regclass('pg_temp.mine') IS NULL") == "t"
    assert second.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0"
    assert second.value("SELECT own_organization()") != first and \
        pgwire.errors(second.run(query("EXECUTE p")))[0]["C"] == "26000"


def test_a_transaction_is_no_statement(weir, workers):
    w = weir(modes("statement"), workers)
    wire = w.wire("acme_app")
    assert wire.value("SELECT 1") == "1"
    assert pgwire.kinds(wire.run(query("BEGIN; SELECT 1; COMMIT"))) == "CTDCCZ"
    wire.send(query("BEGIN"))
    with pytest.raises(pgwire.Closed):
        wire.until("Z")
        wire.until("Z")
    other = w.wire("beta_app")
    assert other.value("SELECT 1") == "1"


@pytest.mark.parametrize("how", [query, pgwire.extended], ids=["simple", "extended"])
def test_what_a_client_prepared_it_can_deallocate_where_another_was_served(weir, how):
    """On a server that is to be given other variables first."""
    w = weir(modes("statement"))
    first, second = w.wire("acme_app"), w.wire("beta_app")
    first.run(pgwire.parse("SELECT 4", "s"), pgwire.sync())
    assert second.value("SELECT 1") == "1"
    assert pgwire.tags(first.run(how("DEALLOCATE s"))) == ["DEALLOCATE"]
    reply = first.run(pgwire.bind(name="s"), pgwire.sync())
    assert [e["C"] for e in pgwire.errors(reply)] == ["26000"]


@pytest.mark.parametrize("upstream, database, user, keeps", [
    ("session", None, None, True),
    ("transaction", "session", None, True),
    ("session", "transaction", None, False),
    ("transaction", "transaction", "session", True),
    ("session", "session", "transaction", False),
])
def test_the_user_s_mode_wins_over_the_database_s_and_that_over_the_upstream_s(
        weir, upstream, database, user, keeps):
    w = weir(modes(upstream, database, user, wait=2))
    wire = w.wire("acme_app")
    wire.value("SELECT 1")
    reply = w.wire("plain_app", database=DATABASE).run(query("SELECT 1")) \
        if keeps and not user else None
    other = w.wire("acme_app").run(query("SELECT 1"))
    assert bool(pgwire.errors(other)) == keeps
    assert reply is None or pgwire.errors(reply)


def test_a_session_in_session_mode_sees_no_statement_that_it_did_not_prepare(weir):
    w = weir(modes("session"))
    wire = w.wire("plain_app", options="-c datestyle=German -c intervalstyle=iso_8601")
    prepared = "SELECT name FROM pg_prepared_statements"
    assert wire.rows(query(prepared)) == []
    wire.run(query("RESET datestyle"))
    assert wire.rows(query(prepared)) == []


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_reset_goes_back_to_the_startup_packet_and_leaves_other_settings(weir, mode):
    w = weir(modes(mode))
    wire = w.wire("plain_app", options="-c datestyle=German -c intervalstyle=iso_8601")
    if mode == "transaction":
        wire.run(query("LISTEN something"))     # its server is its own from here
    wire.run(query("SET intervalstyle = postgres_verbose"))
    wire.run(query("SET datestyle = ISO"))
    wire.run(query("RESET datestyle"))
    assert wire.value("SHOW datestyle").startswith("German")
    assert wire.value("SHOW intervalstyle") == "postgres_verbose"
    wire.run(query("RESET ALL"))
    assert wire.value("SHOW intervalstyle") == "iso_8601"


def test_settings_put_back_spare_the_unnamed_statement(weir):
    w = weir(modes("session"))
    wire = w.wire("plain_app", options="-c datestyle=German")
    wire.run(pgwire.parse("SELECT 'mine'"), pgwire.sync())
    # In the extended protocol: a Query would end the unnamed statement.
    wire.run(pgwire.parse("RESET datestyle", name="r"), pgwire.bind(name="r"),
             pgwire.execute(), pgwire.sync())
    reply = wire.run(pgwire.bind(), pgwire.execute(), pgwire.sync())
    assert pgwire.rows(reply) == [["mine"]]
