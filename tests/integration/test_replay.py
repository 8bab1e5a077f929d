"""
Goal:   a statement that must be parsed again on another server behaves as on
        a connection of its own, also when the world has changed meanwhile.
Method: one client, the server under it taken away by pg_terminate_backend or
        by another client, DDL in between; PostgreSQL itself says what is right.
"""
import pytest

import pgwire
from pgwire import (bind, close, describe, error, errors, execute, extended, kinds,
                    parse, query, rows, sync)
from servers import DATABASE, UPSTREAM_PASSWORD, UPSTREAM_USER

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
