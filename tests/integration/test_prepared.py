"""
Goal:   a prepared statement is its client's alone, and there when it would be
        there on a connection of its own.
Method: dialogues in exact bytes, several clients on one or two servers, with
        errors in the middle of pipelines; PostgreSQL itself says what is right.
"""
import pytest

import pgwire
from pgwire import (bind, close, describe, errors, execute, extended, kinds, parse,
                    query, rows, sync)
from servers import DATABASE, UPSTREAM_PASSWORD, UPSTREAM_USER

CONFIG = {"postgres main": {"pool_size": 1}}
USER = "acme_app"
ENDS = {"query": query("SELECT 1"), "close": close("S") + sync(),
        "parse": parse("SELEC") + sync()}
BETWEEN = dict(ENDS, extended=extended("SELECT 2"), error=query("SELEC"))


@pytest.fixture
def direct(pg):
    with pgwire.Wire(pg.port) as wire:
        wire.login(UPSTREAM_USER, DATABASE, UPSTREAM_PASSWORD)
        yield wire


def same(wire, direct, *parts, count=1):
    """What weir answers, which is what PostgreSQL answers."""
    reply = []
    for w in (wire, direct):
        w.send(*parts)
        reply.append(w.until("Z", count))
    ours, theirs = reply
    assert kinds(ours) == kinds(theirs)
    assert rows(ours) == rows(theirs)
    assert [e["C"] for e in errors(ours)] == [e["C"] for e in errors(theirs)]
    return ours


def test_without_a_parse_there_is_no_unnamed_statement(proxy, direct):
    other, wire = proxy.wire(USER), proxy.wire(USER)
    assert rows(other.run(extended("SELECT 'secret'"))) == [["secret"]]
    for parts in (bind() + execute() + sync(), describe("S") + sync()):
        assert errors(same(wire, direct, parts))[0]["C"] == "26000"
    # and the other one's is still where it was
    assert rows(other.run(bind(), execute(), sync())) == [["secret"]]


def test_a_parse_that_was_skipped_does_not_leave_another_ones_statement(proxy):
    other, wire = proxy.wire(USER), proxy.wire(USER)
    other.run(extended("SELECT 'secret'"))
    wire.send(bind(name="nope"), parse("SELECT 'mine'"), sync(),
              bind(), execute(), sync())
    reply = wire.until("Z", 2)
    assert errors(reply)[0]["C"] == "26000"
    assert rows(reply) in ([], [["mine"]])
    assert rows(wire.run(bind(), execute(), sync())) in ([], [["mine"]])


@pytest.mark.parametrize("between", BETWEEN.values(),
                         ids=BETWEEN)
def test_an_unnamed_statement_outlives_what_others_do(proxy, between):
    other, wire = proxy.wire(USER), proxy.wire(USER)
    wire.run(parse("SELECT 'mine'"), sync())
    other.run(between)
    assert rows(wire.run(bind(), execute(), sync())) == [["mine"]]


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_an_unnamed_statement_ends_when_postgres_ends_it(proxy, direct, end):
    wire = proxy.wire(USER)
    same(wire, direct, parse("SELECT 'mine'") + sync())
    same(wire, direct, end)
    reply = same(wire, direct, bind() + execute() + sync())
    assert errors(reply)[0]["C"] == "26000"


def test_a_statement_parsed_again_behind_an_error_is_there_after_it(proxy, direct):
    """Its Parse on a server that lacked it was skipped; the next Sync ends that."""
    other, wire = proxy.wire(USER), proxy.wire(USER)
    same(wire, direct, parse("SELECT 1", "s") + sync())
    # All of the server's statements go, and ours among them.
    other.run(query("DEALLOCATE ALL"))
    one = bind(name="s") + execute() + sync()
    reply = same(wire, direct, bind(name="nope") + one + one + one, count=3)
    assert rows(reply) == [["1"], ["1"]]


def test_a_failed_parse_of_a_name_leaves_the_name_free(proxy, direct):
    wire = proxy.wire(USER)
    same(wire, direct, parse("SELEC", "s") + sync())
    same(wire, direct, bind(name="s") + sync())
    same(wire, direct, parse("SELECT 1", "s") + bind(name="s") + execute() + sync())
    reply = same(wire, direct, parse("SELECT 2", "s") + sync())
    assert errors(reply)[0]["C"] == "42P05"
    assert rows(same(wire, direct, bind(name="s") + execute() + sync())) == [["1"]]


# A Parse behind an error is skipped; a client with several Syncs on their way
# may use its name before anybody can know.
@pytest.mark.parametrize("then", [bind(name="never") + execute(), describe("S", "never"),
                                  parse("SELECT 5", "never")], ids=["bind", "describe", "parse"])
def test_a_named_statement_whose_parse_was_skipped_is_not_there_behind_the_sync(
        proxy, direct, then):
    wire = proxy.wire(USER)
    wire.value("SELECT 1")
    same(wire, direct, parse("SELECT 1/0") + bind() + execute(), parse("SELECT 4", "never"),
         sync(), then, sync(), count=2)


def test_a_refused_query_behind_what_is_not_synced_ends_its_session(proxy):
    """Were it answered, a failure before it would make one answer too many."""
    refused = query("SET app.current_organization_id = 'x'")
    for before in (parse("SELEC"), parse("SELECT 1") + bind() + execute()):
        with proxy.wire(USER) as wire:
            wire.send(before, refused, sync(), query("SELECT 1"))
            reply = wire.until_closed()
            assert "Z" not in kinds(reply) and errors(reply)[-1]["C"] == "42501"
    with proxy.wire(USER) as wire:
        wire.send(query("SELECT 1"), refused, query("SELECT 2"))
        assert kinds(wire.until("Z", 3)) == "TDCZEZTDCZ"
