"""Limits: how many servers, clients and waiters there may be.

Goal: each limit holds for the whole process, with one worker and with four;
what goes over it is refused with an error a user can act on, or waits in
order; nothing that was counted stays counted when it is gone.
Method: the server itself is asked how many backends it has, sampled all along
by a thread where a limit must never be passed.
"""
import contextlib
import threading
import time

import pytest

import pgwire
import respwire
from pgwire import query
from servers import DATABASE, wait_for

pytestmark = pytest.mark.weir_only

FULL = "53300"


def upstream(**keys):
    return {"postgres main": keys}


def busy(w, user="acme_app", database=DATABASE):
    """A client that holds a server."""
    wire = w.wire(user, database=database)
    wire.run(query("BEGIN"))
    wire.run(query("SELECT 1"))     # a BEGIN alone holds none
    return wire


def waiting(w, user="acme_app", database=DATABASE):
    """A client that has asked for a server and got none yet."""
    wire = w.wire(user, database=database)
    wire.send(query("SELECT 1"))
    return wire


def test_who_waits_long_is_told_so_once_and_served_in_the_end(weir, workers):
    w = weir({"postgres main": {"pool_size": 1},
              "weir": {"query_wait_notify": "200ms"}}, workers)
    holder = busy(w)
    other = waiting(w, "beta_app")
    notice = other.message()
    assert notice[0] == "N"
    assert pgwire.error(notice[1])["C"] == "00000"
    time.sleep(0.5)
    holder.run(query("COMMIT"))
    assert pgwire.kinds(other.until()) == "TDCZ"
    assert pgwire.kinds(other.run(query("SELECT 1"))) == "TDCZ"


def test_nobody_is_told_who_does_not_want_to_hear(weir):
    w = weir({"postgres main": {"pool_size": 1},
              "weir": {"query_wait_notify": 0, "query_wait_timeout": 1}})
    holder = busy(w)
    other = waiting(w, "beta_app")
    assert pgwire.kinds(other.until()) == "EZ"
    holder.run(query("COMMIT"))
    assert other.value("SELECT 1") == "1"
