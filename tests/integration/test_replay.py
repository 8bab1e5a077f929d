"""
Goal:   a statement that must be parsed again on another server behaves as on
        a connection of its own, also when the world has changed meanwhile.
Method: one client, the server under it taken away by pg_terminate_backend or
        by another client, DDL in between; PostgreSQL itself says what is right.
"""
import select as selector
import uuid

import pytest

import pgwire
from pgwire import (bind, close, copy_data, copy_done, describe, error, errors, execute, extended,
                    flush, kinds, parse, query, rows, sync)
from servers import DATABASE, UPSTREAM_PASSWORD, UPSTREAM_USER, wait_for

CONFIG = {"postgres main": {"pool_size": 1}}
USER = "acme_app"


@pytest.fixture
def direct(pg):
    with pgwire.Wire(pg.port) as wire:
        wire.login(UPSTREAM_USER, DATABASE, UPSTREAM_PASSWORD)
        yield wire


@pytest.fixture
def table(direct):
    direct.run(query("DROP TABLE IF EXISTS scratch.replayed"))
    direct.run(query("CREATE TABLE scratch.replayed (a int); INSERT INTO scratch.replayed VALUES (1)"))
    direct.run(query("GRANT ALL ON scratch.replayed TO PUBLIC"))
    yield "scratch.replayed"
    direct.run(query("DROP TABLE IF EXISTS scratch.replayed"))


def new_server(direct, wire):
    """The pool's only server is another one from here on."""
    pid = rows(wire.run(query("SELECT pg_backend_pid()")))[0][0]
    direct.run(query(f"SELECT pg_terminate_backend({pid}, 5000)"))
    return pid


def test_a_statement_that_cannot_be_parsed_again_says_why(proxy, direct, table):
    with proxy.wire(USER) as wire:
        assert kinds(wire.run(parse("SELECT a FROM scratch.replayed", "s"), sync())) == "1Z"
        direct.run(query("DROP TABLE scratch.replayed"))
        new_server(direct, wire)
        for parts in ((bind(name="s"), execute(), sync()), (describe("S", "s"), sync())):
            reply = wire.run(*parts)
            assert kinds(reply) == "EZ"
            assert errors(reply)[0]["C"] == "42P01"
        assert rows(wire.run(query("SELECT 1"))) == [["1"]]


# A plan that is no longer true.


@pytest.fixture
def select():
    """A text that no server has seen before."""
    return "SELECT * FROM scratch.replayed -- %s" % uuid.uuid4()


def changed(direct, n):
    direct.run(query("ALTER TABLE scratch.replayed ADD COLUMN c%d text DEFAULT 'new'" % n))


@pytest.mark.parametrize("in_transaction", [False, True])
def test_who_parses_again_after_a_table_changed_is_answered_as_directly(
        proxy, direct, table, select, in_transaction):
    replies = []
    for wire in (proxy.wire(USER), direct):
        told = []
        wire.run(parse(select, "s"), describe("S", "s"), sync())
        wire.run(bind(name="s"), execute(), sync())
        changed(direct, len(replies))
        if in_transaction:
            wire.run(query("BEGIN"))
        for parts in (bind(name="s") + execute() + sync(),
                      describe("S", "s") + sync(),
                      query("ROLLBACK"),
                      bind(name="s") + execute() + sync(),
                      close("S", "s") + sync(),
                      parse(select, "s") + sync(),
                      describe("S", "s") + sync(),
                      bind(name="s") + execute() + sync()):
            reply = wire.run(parts)
            told.append((kinds(reply).replace("tE", "E"), [e["C"] for e in errors(reply)],
                         [r[0] for r in rows(reply)]))
        replies.append(told)
    assert replies[0] == replies[1]
    assert replies[0][0][1] == ["0A000"]


def test_who_did_not_parse_again_gets_the_error_wherever_it_is(
        proxy, workers, direct, table, select):
    """A new server has no old plan to compare with; the answer is the same."""
    old, new, third = (proxy.wire(USER) for _ in range(3))
    for wire in (old, new, third):
        assert kinds(wire.run(parse(select, "s"), sync())) == "1Z"
        if wire is not third:
            wire.run(describe("S", "s"), sync())
        wire.run(bind(name="s"), execute(), sync())
    changed(direct, 1)
    assert errors(new.run(bind(name="s"), execute(), sync()))[0]["C"] == "0A000"
    new.run(close("S", "s"), parse(select, "s"), sync())
    assert rows(new.run(bind(name="s"), execute(), sync())) == [["1", "new"]]
    new_server(direct, new)
    assert rows(new.run(bind(name="s"), execute(), sync())) == [["1", "new"]]
    # who was never told what it returns need not hear that it has changed
    assert rows(third.run(bind(name="s"), execute(), sync())) == [["1", "new"]]
    for parts in (bind(name="s") + execute(), describe("S", "s")):
        if workers == 1:
            reply = old.run(parts, sync())
            assert kinds(reply) == "EZ" and errors(reply)[0]["C"] == "0A000"
            assert errors(reply)[0]["R"] == "RevalidateCachedQuery"     # drivers look


def test_a_table_that_changes_again_and_again_can_be_parsed_again_each_time(
        proxy, direct, table, select):
    wires = [proxy.wire(USER) for _ in range(4)]
    for n in range(6):
        for wire in wires:
            reply = wire.run(parse(select, "s%d" % n), sync())
            assert kinds(reply) == "1Z"
            reply = wire.run(bind(name="s%d" % n), execute(), sync())
            if errors(reply):       # another worker's plan: once, as told above
                assert errors(reply)[0]["C"] == "0A000"
                wire.run(close("S", "s%d" % n), sync())
                wire.run(parse(select, "s%d" % n), sync())
                reply = wire.run(bind(name="s%d" % n), execute(), sync())
            assert len(rows(reply)[0]) == n + 1
        changed(direct, n)
        for wire in wires:
            wire.run(bind(name="s%d" % n), execute(), sync())


@pytest.mark.parametrize("described", [False, True])
def test_who_was_told_what_a_statement_returns_is_sent_nothing_else(
        proxy, direct, table, select, described):
    with proxy.wire(USER) as wire:
        wire.run(parse(select, "s"), sync())
        if described:
            assert kinds(wire.run(describe("S", "s"), sync())) == "tTZ"
        new_server(direct, wire)
        wire.send(bind(name="s"), describe(), execute(), bind(name="s"), execute(), sync())
        assert kinds(wire.until("Z")) == "2TDC2DCZ"
        changed(direct, 1)
        new_server(direct, wire)
        reply = wire.run(bind(name="s"), describe(), execute(), sync())
        if described:
            assert kinds(reply) == "EZ" and errors(reply)[0]["C"] == "0A000"
        else:
            assert rows(reply) == [["1", "new"]]
        wire.run(close("S", "s"), parse(select, "s"), sync())
        assert rows(wire.run(bind(name="s"), execute(), sync())) == [["1", "new"]]


def test_what_is_not_there_any_more_is_told_before_it_is_used(proxy, direct, table, select):
    with proxy.wire(USER) as wire:
        wire.run(parse(select, "s"), describe("S", "s"), sync())
        direct.run(query("DROP TABLE scratch.replayed"))
        new_server(direct, wire)
        for _ in range(2):
            wire.send(bind(name="s"), execute(), sync(), query("SELECT 1"))
            reply = wire.until("Z", 2)
            assert kinds(reply) == "EZTDCZ" and errors(reply)[0]["C"] == "42P01"


# DEALLOCATE of what was prepared in the extended protocol.


@pytest.mark.parametrize("parts", [
    [query("DEALLOCATE s")],
    [query('DEALLOCATE PREPARE "s";')],
    [query("DEALLOCATE S"), query("DEALLOCATE s")],
    [query("DEALLOCATE nope")],
    [query("BEGIN"), query("SELECT 1/0") + extended("DEALLOCATE s") + query("ROLLBACK")],
    [query("BEGIN"), query("DEALLOCATE s"), query("COMMIT")],
    [query("BEGIN"), query("SELECT 1"), query("DEALLOCATE s"), query("ROLLBACK")],
    [query("BEGIN"), query("SELEC"), query("DEALLOCATE s"), query("ROLLBACK")],
    [extended("DEALLOCATE s")],
    [extended("DEALLOCATE s"), bind() + execute() + sync()],
    [parse("DEALLOCATE s") + describe("S") + bind() + describe() + execute() + sync()],
    [query("BEGIN"), query("SELECT 1"), extended("DEALLOCATE s"), query("COMMIT")],
    [query("BEGIN"), query("SELEC"), extended("DEALLOCATE s"), query("COMMIT")],
    [parse("SELEC") + parse("DEALLOCATE s") + bind() + execute() + sync()],
    [parse("DEALLOCATE s") + bind() + execute() + parse("SELECT 5", "s") + sync()],
    [parse("DEALLOCATE s") + bind() + sync(), execute() + sync()],
    [parse("DEALLOCATE s") + sync(), query("BEGIN; SELECT 1/0"), query("ROLLBACK")],
    [query("BEGIN"), query("SELECT 1"), parse("DEALLOCATE s") + sync(), bind(name="no") + sync(),
     bind() + execute() + sync(), query("ROLLBACK")],
    [query("DEALLOCATE ALL"), query("SELECT 1")],
    [query("BEGIN"), query("DEALLOCATE ALL"), query("ROLLBACK")],
    [query("BEGIN"), query("SELEC"), query("DEALLOCATE ALL"), query("ROLLBACK")],
    [extended("DEALLOCATE ALL"), parse("SELECT 6", "s") + sync()],
    [parse("DEALLOCATE ALL") + bind() + execute() + parse("SELECT 5", "s") + sync()],
    [parse("DEALLOCATE ALL") + sync()],
    [parse("DEALLOCATE ALL") + sync(), bind() + execute() + parse("SELECT 5", "s") + sync()],
    [parse("DEALLOCATE ALL") + bind(name="t") + execute() + bind() + execute() + sync()],
    [parse("DEALLOCATE ALL", "d") + describe("S", "d") + bind(name="d") + execute() + sync()],
], ids=lambda parts: "")
def test_deallocate_drops_what_the_client_prepared(proxy, direct, parts):
    told = []
    for wire in (proxy.wire(USER), direct):
        wire.run(query("DEALLOCATE ALL"))
        wire.run(parse("SELECT 4", "s"), parse("SELECT 8", "t"), sync())
        replies = [wire.run(part) for part in parts]
        for name in "st":
            replies.append(wire.run(bind(name=name), execute(), sync()))
        told.append([(kinds(r), rows(r), [e["C"] for e in errors(r)]) for r in replies])
    assert told[0] == told[1]


@pytest.mark.parametrize("between", [b"", flush()])
def test_a_deallocate_behind_what_no_sync_follows_is_the_servers_to_answer(proxy, between):
    """Which has no such name.  No driver speaks so; but nobody may be kept waiting."""
    with proxy.wire(USER) as wire:
        reply = wire.run(parse("SELECT 4", "s"), between, query("DEALLOCATE s"))
        assert kinds(reply) == "1EZ" and errors(reply)[0]["C"] == "26000"
        assert rows(wire.run(bind(name="s"), execute(), sync())) == [["4"]]
        assert kinds(wire.run(query("DEALLOCATE s"))) == "CZ"


@pytest.mark.parametrize("all_of", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_what_is_prepared_in_one_write_behind_a_discard_is_kept(proxy, direct, all_of):
    """Npgsql opens a pooled connection so."""
    told = []
    for wire in (proxy.wire(USER), direct):
        wire.run(query("DEALLOCATE ALL"))
        for n in range(3):
            wire.send(query(all_of), parse("SELECT %d" % n, "s"), bind(name="s"), execute(),
                      parse("SELECT 9", "t"), sync(), bind(name="t"), execute(), sync())
            reply = wire.until("Z", 3)
            told.append((kinds([m for m in reply if m[0] != "S"]), rows(reply)))
            reply = wire.run(bind(name="s"), execute(), bind(name="t"), execute(), sync())
            told.append((kinds(reply), rows(reply)))
    assert told[:6] == told[6:]


def test_behind_discard_all_an_organizations_variables_are_set(proxy):
    mine = query("SELECT current_setting('app.current_organization_id', true)")
    with proxy.wire(USER) as wire:
        org = rows(wire.run(mine))
        for what in ("DISCARD ALL", "RESET ALL", "RESET search_path"):
            wire.send(query(what), mine)
            assert rows(wire.until("Z", 2)) == org


def test_behind_a_reset_in_a_transaction_a_copy_may_follow_in_one_write(proxy, direct, table):
    copy = query("COPY scratch.replayed FROM STDIN") + copy_data(b"2\n") + copy_done()
    for wire in (direct, proxy.wire(USER)):
        for parts in ([query("BEGIN"), query("RESET search_path"), copy, query("ROLLBACK")],
                      [query("RESET search_path; COPY scratch.replayed FROM STDIN")
                       + copy_data(b"2\n") + copy_done()]):
            for part in parts:
                assert not errors(wire.run(part))


def test_who_has_flushed_without_sync_keeps_its_server(weir, direct, table):
    """Also when the answers to what came before the last Sync are read with them."""
    proxy = weir({"postgres main": {"pool_size": 1}})
    wire, other = proxy.wire(USER), proxy.wire(USER)
    pid = rows(wire.run(query("SELECT pg_backend_pid()")))[0][0]

    def backend(is_so):
        return rows(direct.run(query("SELECT 1 FROM pg_stat_activity WHERE pid = %s AND %s"
                                     % (pid, is_so))))
    direct.run(query("SELECT pg_advisory_lock(7713)"))
    wire.send(query("SELECT pg_advisory_xact_lock(7713)"),
              parse("INSERT INTO scratch.replayed VALUES (2)"), bind(), execute(), flush())
    wait_for(lambda: backend("wait_event = 'advisory'"))
    with proxy.stopped():
        direct.run(query("SELECT pg_advisory_unlock(7713)"))
        wait_for(lambda: backend("wait_event = 'ClientRead' AND query LIKE 'INSERT%'"))
    assert kinds(wire.until("C", 2)) == "TDCZ12C"
    other.send(query("SELECT 1"))
    assert not selector.select([other.sock], [], [], .2)[0]
    assert kinds(wire.run(parse("SELEC"), sync())) == "EZ"
    assert rows(other.until("Z")) == [["1"]]
    assert rows(direct.run(query("SELECT count(*) FROM scratch.replayed"))) == [["1"]]


def test_a_reset_parsed_in_an_earlier_transaction_is_undone_too(proxy):
    """The next client with the same settings gets that server as it is."""
    mine = query("SELECT current_setting('app.current_organization_id', true)")
    first, second = proxy.wire(USER), proxy.wire(USER)
    org = rows(first.run(mine))
    for name in ("", "r"):
        first.run(parse("RESET ALL", name), sync())
        assert rows(second.run(extended("SELECT 1"))) == [["1"]]
        first.run(parse("RESET ALL", name) if not name else b"", sync())
        first.run(bind(name=name), execute(), sync())
        assert rows(second.run(mine)) == org
        assert rows(first.run(mine)) == org


def test_in_a_failed_transaction_everything_fails_for_that_reason(proxy, direct):
    told = []
    for wire in (proxy.wire(USER), direct):
        wire.run(query("DEALLOCATE ALL"))
        wire.run(parse("SELECT 4", "s"), sync())
        wire.run(query("BEGIN"))
        wire.run(query("SELECT 1/0"))
        replies = [wire.run(part) for part in (
            parse("SELECT 5", "s") + sync(), parse("SELECT 4", "other") + sync(),
            parse("BEGIN", "begin") + sync(), close("S", "none") + parse("SELECT 4", "x") + sync(),
            close("S", "s") + parse("SELECT 4", "s") + sync(), bind(name="s") + sync(), bind(name="no") + sync(),
            query("DEALLOCATE s"), query("SELECT 1"), query("ROLLBACK"))]
        told.append([[e["C"] for e in errors(r)] for r in replies])
    assert told[0] == told[1]


def test_strings_that_are_read_another_way_are_refused(proxy, weir, direct):
    with proxy.wire(USER) as wire:
        assert rows(wire.run(query("SELECT set_config('standard_conforming_strings', 'on', "
                                   "true)"))) == [["on"]]
        wire.send(query("SET standard_conforming_strings = off"))
        assert [e["C"] for e in errors(wire.until_closed())] == ["0A000"]
    with pytest.raises(pgwire.Failed) as failed:
        proxy.wire(USER, options="-c standard_conforming_strings=off")
    assert failed.value.code == "0A000"
    with proxy.wire(USER) as wire:      # and nobody else is touched
        assert rows(wire.run(query("SHOW standard_conforming_strings"))) == [["on"]]
