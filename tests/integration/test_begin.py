"""
Goal:   a transaction that has asked nothing holds no server, and nobody can
        tell from its answers.
Method: dialogues in exact bytes through a pool of one server, each of them
        also held directly; who holds the server is asked of weir's neighbours.
"""
import pytest

import pgwire
from pgwire import (bind, close, describe, errors, execute, extended, kinds, parse,
                    query, rows, status, sync, tags)
from servers import DATABASE, UPSTREAM_PASSWORD, UPSTREAM_USER

CONFIG = {"postgres main": {"pool_size": 1}}
USER = "acme_app"
BEGIN = [query("BEGIN")]
EXTENDED_BEGIN = [parse("BEGIN") + bind() + describe() + execute() + sync()]
NAMED_BEGIN = [parse("begin", "b") + sync(), bind(name="b") + execute() + sync()]


@pytest.fixture
def direct(pg):
    with pgwire.Wire(pg.port) as wire:
        wire.login(UPSTREAM_USER, DATABASE, UPSTREAM_PASSWORD)
        yield wire


def dialogue(wire, parts):
    """Kinds, rows, tags, codes and statuses of every reply."""
    told = []
    for part in parts:
        reply = wire.run(part)
        told.append((kinds(reply).replace("N", ""), rows(reply), tags(reply),
                     [e["C"] for e in errors(reply)], status(reply)))
    return told


ISOLATION = query("SHOW transaction_isolation")
READ_ONLY = query("SHOW transaction_read_only")


@pytest.mark.parametrize("parts", [
    [query("BEGIN"), query("SELECT 1"), query("COMMIT")],
    [query("BEGIN"), query("COMMIT")],
    [query("BEGIN"), query("ROLLBACK"), query("SELECT 1")],
    [query("START TRANSACTION"), query("END")],
    [query("BEGIN"), query("BEGIN"), query("SELECT 1"), query("ABORT")],
    [query("COMMIT"), query("ROLLBACK"), query("BEGIN"), query("COMMIT"), query("COMMIT")],
    [query("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY"), ISOLATION, READ_ONLY,
     query("COMMIT"), READ_ONLY],
    [query("BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE"), ISOLATION,
     query("COMMIT"), ISOLATION],
    [query("START TRANSACTION READ ONLY, NOT DEFERRABLE"),
     query("CREATE TABLE scratch.never (a int)"), query("SELECT 1"), query("COMMIT")],
    [query("BEGIN"), query("SELEC"), query("SELECT 1"), query("COMMIT")],
    [query("BEGIN"), extended("SELECT 2"), extended("COMMIT")],
    [query("BEGIN"), sync(), sync(), extended("SELECT 2"), sync(), query("COMMIT"), sync()],
    EXTENDED_BEGIN + [extended("SELECT 1"), extended("ROLLBACK")],
    EXTENDED_BEGIN + EXTENDED_BEGIN + [extended("COMMIT"), bind() + execute() + sync()],
    NAMED_BEGIN + [parse("COMMIT", "c") + sync(), bind(name="c") + execute() + sync(),
                   bind(name="b") + execute() + sync(), extended("SELECT 3"),
                   bind(name="c") + execute() + sync()],
    NAMED_BEGIN + [parse("begin", "b") + sync(), query("ROLLBACK"), close("S", "b") + sync(),
                   bind(name="b") + execute() + sync()],
    [parse("BEGIN") + bind() + execute() + parse("SELECT 7") + bind() + execute() + sync(),
     query("COMMIT")],
    [parse("BEGIN") + bind() + execute(limit=1) + sync(), query("SELEC"), query("END")],
    [parse("BEGIN") + bind([1]) + execute() + sync(), query("SELECT 1")],
    [parse("BEGIN") + bind(portal="p") + execute("p") + sync(), query("END")],
    [parse("BEGIN") + sync(), bind() + sync(), bind() + describe("P", "") + sync(),
     describe("S") + sync(), execute() + sync(), query("SELECT 1")],
    [parse("BEGIN") + bind() + describe("S", "") + execute() + sync(), query("END")],
    [extended("SELECT 5"), parse("BEGIN") + bind() + execute() + sync(), describe("S") + sync(),
     query("COMMIT")],
    [query("BEGIN; SELECT 1"), query("COMMIT")],
    [query("BEGIN"), query("BEGIN; SELECT 1"), query("COMMIT; SELECT 2")],
    [query("BEGIN"), query("SAVEPOINT a"), query("ROLLBACK TO a"), query("COMMIT")],
    [query("BEGIN"), query("COMMIT AND CHAIN"), query("COMMIT")],
    [query("BEGIN"), query("PREPARE TRANSACTION 'x'"), query("ROLLBACK")],
    [query("BEGIN"), query(""), query("COMMIT")],
], ids=lambda parts: "")
def test_a_deferred_begin_is_answered_as_a_real_one(proxy, direct, parts):
    with proxy.wire(USER) as wire:
        assert dialogue(wire, parts) == dialogue(direct, parts)


@pytest.mark.parametrize("begin", [BEGIN, EXTENDED_BEGIN, NAMED_BEGIN])
def test_a_transaction_that_has_asked_nothing_holds_no_server(proxy, begin):
    early, late = proxy.wire(USER), proxy.wire(USER)
    for part in begin:
        assert status(early.run(part)) in "IT"
    assert status(early.run(sync())) == "T"
    for _ in range(3):          # the only server is free
        late.run(query("BEGIN"))
        late.run(query("SELECT 1"))
        late.run(query("COMMIT"))
    assert rows(early.run(query("SELECT 2"))) == [["2"]]
    assert status(early.run(query("COMMIT"))) == "I"


def test_what_is_written_after_a_deferred_begin_can_be_rolled_back(proxy, direct):
    direct.run(query("CREATE TABLE IF NOT EXISTS scratch.deferred (a text);"
                     "GRANT ALL ON scratch.deferred TO PUBLIC"))
    with proxy.wire(USER) as wire:
        for end, there in (("ROLLBACK", []), ("COMMIT", [["kept"]])):
            wire.run(query("BEGIN"))
            wire.run(extended("INSERT INTO scratch.deferred VALUES ('kept')"))
            assert rows(direct.run(query("SELECT a FROM scratch.deferred"))) == []
            wire.run(query(end))
            assert rows(direct.run(query("SELECT a FROM scratch.deferred"))) == there
    direct.run(query("DROP TABLE scratch.deferred"))


def test_organizations_variables_are_set_before_a_deferred_begin(proxy):
    acme, beta = proxy.wire("acme_app"), proxy.wire("beta_app")
    mine = query("SELECT current_setting('app.current_organization_id')")
    alone = [rows(wire.run(mine))[0][0] for wire in (acme, beta)]
    assert alone[0] != alone[1]
    for _ in range(3):
        for wire, org in zip((acme, beta), alone):
            wire.run(query("BEGIN"))
            assert rows(wire.run(mine)) == [[org]]
            wire.run(query("ROLLBACK"))     # must not take the variables back
        for wire, org in zip((acme, beta), alone):
            assert rows(wire.run(mine)) == [[org]]


def test_a_client_that_goes_after_begin_leaves_nothing(proxy):
    for _ in range(20):
        with proxy.wire(USER) as wire:
            wire.run(query("BEGIN"))
    with proxy.wire(USER) as wire:
        assert status(wire.run(query("SELECT 1"))) == "I"


def test_statements_pipelined_behind_begin_run_inside_it(proxy, direct):
    batch = b"".join([query("BEGIN"), query("SELECT 1"), query("SELEC"), query("SELECT 2"),
                      query("ROLLBACK"), query("SELECT 3")])
    with proxy.wire(USER) as wire:
        replies = []
        for w in (wire, direct):
            w.send(batch)
            replies.append([(k, b) for k, b in w.until("Z", 6) if k in "DCZE"
                            and k != "E"])
        assert replies[0] == replies[1]


def test_a_deferred_begin_that_fails_ends_the_connection_and_runs_nothing(weir, relay, pg):
    """A standby refuses some BEGINs; here somebody on the way makes it fail."""
    between = relay(pg.port)
    proxy = weir({"postgres main": {"port": between.port}})
    between.rewrite = lambda data: data.replace(b"BEGIN READ ONLY\0", b"BEGIX READ ONLY\0")
    for run in (query, extended):
        with proxy.wire(USER) as wire:
            assert status(wire.run(query("BEGIN READ ONLY"))) == "T"
            wire.send(run("CREATE TABLE scratch.outside (a int)"))
            reply = wire.until_closed()
            assert [(e["S"], e["C"]) for e in errors(reply)] == [("FATAL", "42601")]
    with proxy.wire(USER) as wire:
        assert wire.value("SELECT to_regclass('scratch.outside')") is None


@pytest.mark.parametrize("key,text", [
    ("idle_transaction_timeout", "25P03"), ("transaction_timeout", "25P04")])
def test_timeouts_count_from_the_begin_that_was_answered(weir, key, text):
    proxy = weir({"weir": {key: "300ms"}})
    with proxy.wire(USER) as wire:
        assert status(wire.run(query("BEGIN"))) == "T"
        assert [e["C"] for e in errors(wire.until_closed())] == [text]
    with proxy.wire(USER) as wire:              # and end with it
        wire.send(query("BEGIN"), query("COMMIT"))
        wire.until("Z", 2)
        wire.sock.settimeout(0.7)
        with pytest.raises(TimeoutError):
            wire.message()


def test_a_client_that_waits_in_vain_inside_its_transaction_is_cut_off(weir):
    proxy = weir({"postgres main": {"pool_size": 1}})
    holder = proxy.wire(USER)
    holder.run(query("BEGIN"))
    holder.run(query("SELECT 1"))
    proxy.reload({"weir": {"query_wait_timeout": "300ms"}})     # of those who come now
    wire = proxy.wire(USER)
    wire.run(query("BEGIN"))
    wire.send(query("SELECT 1"))
    reply = wire.until_closed()
    assert [(e["S"], e["C"]) for e in errors(reply)] == [("FATAL", "53300")]
    assert status(holder.run(query("COMMIT"))) == "I"


def test_a_statement_known_to_the_pool_is_parsed_without_a_server(proxy):
    """By whichever worker."""
    holder = proxy.wire(USER)
    assert kinds(holder.run(parse("SELECT $1::int", "a"), sync())) == "1Z"
    holder.run(query("BEGIN"))
    holder.run(query("SELECT 1"))               # has the only server now
    wires = [proxy.wire(USER) for _ in range(8)]
    for wire in wires:
        assert kinds(wire.run(parse("SELECT $1::int", "b"), sync())) == "1Z"
        wire.run(parse("BEGIN", "begin"), sync())
        assert tags(wire.run(bind(name="begin"), execute(), sync())) == ["BEGIN"]
    holder.run(query("COMMIT"))
    for n, wire in enumerate(wires):
        assert rows(wire.run(bind([n], "b"), execute(), sync())) == [[str(n)]]
        assert status(wire.run(query("COMMIT"))) == "I"


def test_session_pooling_sends_every_begin(weir):
    proxy = weir({"postgres main": {"pool_mode": "session"}})
    with proxy.wire(USER) as wire:
        wire.run(query("BEGIN"))
        first = rows(wire.run(query("SELECT now()")))
        assert rows(wire.run(query("SELECT now()"))) == first
        wire.run(query("COMMIT"))
    assert proxy.metric("begins_deferred_total") == 0
