"""Limits: how many servers, clients and waiters there may be.

Goal: each limit holds for the whole process, with one worker and with four;
what goes over it is refused with an error a user can act on, or waits in
order; nothing that was counted stays counted when it is gone.
Method: the server itself is asked how many backends it has, sampled all along
by a thread where a limit must never be passed.
"""
import contextlib
import select
import threading
import time

import pytest

import pgwire
import respwire
from pgwire import query
from servers import DATABASE, scaled, wait_for

pytestmark = pytest.mark.weir_only


@pytest.fixture(autouse=True)
def nobody_left(pg):
    """Servers are counted: those of the weir before may still be leaving."""
    wait_for(lambda: not pg.backends(), what="another weir's servers")


FULL = "53300"
BEGIN = "BEGIN; SELECT 1"        # a bare BEGIN takes no server yet


def upstream(**keys):
    return {"postgres main": keys}


def busy(w, user="acme_app", database=DATABASE):
    """A client that holds a server."""
    wire = w.wire(user, database=database)
    wire.run(query(BEGIN))
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
    # Another wait, should it be long, is another matter.
    assert pgwire.kinds(other.run(query("SELECT 1"))).lstrip("N") == "TDCZ"


def test_nobody_is_told_who_does_not_want_to_hear(weir):
    w = weir({"postgres main": {"pool_size": 1},
              "weir": {"query_wait_notify": 0, "query_wait_timeout": 1}})
    holder = busy(w)
    other = waiting(w, "beta_app")
    assert pgwire.kinds(other.until()) == "EZ"
    holder.run(query("COMMIT"))
    assert other.value("SELECT 1") == "1"


# Servers.


class Sampler:
    """The most backends there ever were, asked of the server all along.

    One that was told to go stays in the view for a moment, so where servers
    make room for others only those at work are counted.
    """

    def __init__(self, pg, working=False):
        self.most, self.stop = 0, threading.Event()
        self.sql = ("SELECT count(*) FROM pg_stat_activity"
                    " WHERE usename = 'weir_upstream'")
        if working:
            self.sql += " AND (state = 'active' OR state LIKE 'idle in %')"
        self.db = pg.connect()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def _run(self):
        with self.db.cursor() as cur:
            while not self.stop.is_set():
                cur.execute(self.sql)
                self.most = max(self.most, cur.fetchone()[0])

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.db.close()


@pytest.fixture
def databases(pg):
    """Three databases anybody may use."""
    names = ["limits_%d" % i for i in range(3)]
    for name in names:
        if not pg.run("SELECT 1 FROM pg_database WHERE datname = %s", [name]):
            pg.run("CREATE DATABASE " + name)
    return names


def servers_are(pg, n, seconds=10):
    wait_for(lambda: len(pg.backends()) == n, seconds,
             "%d servers instead of %d" % (len(pg.backends()), n))


def test_so_many_servers_are_kept_open_from_the_start_on(weir, pg, workers):
    w = weir(upstream(pool_size=5, min_pool_size=2, dbname=DATABASE, rls_check="off"), workers)
    servers_are(pg, 2)
    pg.run("SELECT pg_terminate_backend(%s, 5000)", [pg.backends()[0]])
    servers_are(pg, 2)
    assert w.wire().value("SELECT 1") == "1"
    # Another worker than the one that opened them may open one of its own.
    most = 2 if workers == 1 else 3
    wait_for(lambda: 2 <= len(pg.backends()) <= most, what="not so many")


def test_a_pool_of_clients_is_filled_while_it_has_some(weir, pg, workers):
    w = weir({"postgres main": {"pool_size": 5, "min_pool_size": 3},
              "weir": {"server_idle_timeout": "300ms"}}, workers)
    time.sleep(0.3)
    assert pg.backends() == []
    wire = w.wire()
    servers_are(pg, 3)
    time.sleep(1.5)     # past their idle timeout
    assert len(pg.backends()) == 3
    wire.close()
    servers_are(pg, 0)


def test_the_reserve_comes_after_a_wait_and_goes_again(weir, pg, workers):
    w = weir(upstream(pool_size=1, reserve_pool_size=2,
                      reserve_pool_timeout="400ms"), workers)
    with Sampler(pg) as seen:
        holders = [busy(w)]
        begun = time.monotonic()
        holders += [w.wire() for _ in range(4)]
        for wire in holders[1:]:
            wire.send(query(BEGIN))
        wait_for(lambda: len(pg.backends()) == 3, 5, "no reserve")
        assert time.monotonic() - begun >= 0.35
        time.sleep(0.3)     # there is no fourth
        holders[0].run(query("COMMIT"))
        # In any order: they began to wait at about the same time.
        left = {wire.sock: wire for wire in holders[1:]}
        while left:
            ready, _, _ = select.select(list(left), [], [], scaled(20))
            assert ready, "%d wait in vain" % len(left)
            wire = left.pop(ready[0])
            assert pgwire.kinds(wire.until()) == "CTDCZ"
            wire.run(query("COMMIT"))
        # Workers that look in the same moment may each see one too many.
        wait_for(lambda: len(pg.backends()) <= 1, 10, "the reserve stays")
    assert seen.most == 3
    assert w.metric("server_reserve_total") >= 2


def hammer(w, databases, seconds, rest=0.0):
    """
    A client per database, as fast as it can; how often each was served.  It
    goes on until each was, however slow the machine.
    """
    end, counts, failed = time.monotonic() + seconds, {}, []
    late = end + scaled(60)

    def over():
        now = time.monotonic()
        return now >= late or now >= end and min(counts.values()) > 0

    def run(name, wire):
        try:
            while not over():
                assert wire.value("SELECT current_database(), pg_sleep(0.005)") == name[0]
                counts[name] += 1
                time.sleep(rest)
        except BaseException as e:      # noqa: B902
            failed.append(e)
    threads = []
    names = [(d, i) for i in range(2) for d in databases]
    counts.update({name: 0 for name in names})
    for name in names:
        threads.append(threading.Thread(
            target=run, args=(name, w.wire("plain_app", database=name[0]))))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed, failed
    return counts


def test_the_cap_of_an_upstream_holds_for_all_its_databases(weir, pg, workers, databases):
    w = weir(upstream(pool_size=3, max_connections=2), workers)
    with Sampler(pg, working=True) as seen:
        counts = hammer(w, databases, 3)
    assert 1 <= seen.most <= 2
    assert min(counts.values()) > 0, counts
    assert w.metric("server_evicted_total") > 0


def test_no_more_servers_are_open_than_the_cap_allows(weir, pg, workers, databases):
    w = weir(upstream(pool_size=3, max_connections=4), workers)
    wires = [w.wire("plain_app", database=d) for d in databases * 3]
    for wire in wires:
        wire.send(query(BEGIN))
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 5, 10, "not five wait")
    left = {wire.sock: wire for wire in wires}

    def ready(timeout):
        return [left.pop(s) for s in select.select(list(left), [], [], timeout)[0]]
    first = []
    with Sampler(pg) as seen:
        wait_for(lambda: first.extend(ready(0)) or len(first) >= 4, what="not four are served")
        time.sleep(0.3)
        assert len(first) == 4 and not ready(0)
    assert seen.most == 4
    while first or left:        # each ends when it has had its turn
        for wire in first:
            wire.until()
            wire.run(query("COMMIT"))
        first = left and ready(scaled(20))
        assert first or not left, "%d wait in vain" % len(left)
    wait_for(lambda: len(pg.backends()) <= 4)   # one that was closed may still leave


def test_an_idle_server_makes_way_at_once(weir, pg, workers, databases):
    w = weir(upstream(pool_size=3, max_connections=1), workers)
    wires = [w.wire("plain_app", database=d) for d in databases]
    for _ in range(2):
        for wire, name in zip(wires, databases):
            begun = time.monotonic()
            assert wire.value("SELECT current_database()") == name
            assert time.monotonic() - begun < scaled(15)   # nothing times out
            servers_are(pg, 1)


def test_a_transaction_keeps_its_server_whoever_waits(weir, pg, workers, databases):
    w = weir(upstream(pool_size=3, max_connections=1), workers)
    holder, *others = [w.wire("plain_app", database=d) for d in databases]
    holder.run(query(BEGIN))
    for wire in others:
        wire.send(query("SELECT 1"))
    time.sleep(0.3)
    assert holder.value("SELECT 1") == "1"
    holder.run(query("COMMIT"))
    for wire in others:
        assert pgwire.kinds(wire.until()) == "TDCZ"


def test_one_more_waiter_is_refused_and_may_ask_again(weir, workers):
    w = weir(upstream(pool_size=1, max_waiting_clients=2), workers)
    wires = [w.wire() for _ in range(5)]
    wires[0].run(query(BEGIN))
    for wire in wires[1:3]:
        wire.send(query("SELECT 1"))
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 2, 5, "they do not wait")
    for wire, ask in ((wires[3], query("SELECT 1")),
                      (wires[4], pgwire.extended("SELECT 1"))):
        reply = wire.run(ask)
        assert [e["C"] for e in pgwire.errors(reply)] == [FULL]
        assert "max_waiting_clients" in pgwire.errors(reply)[0]["M"]
        assert pgwire.status(reply) == "I"
    assert w.metric("queue_refused_total") == 2
    wires[0].run(query("COMMIT"))
    for wire in wires[1:3]:
        assert pgwire.kinds(wire.until()) == "TDCZ"
    assert wires[3].value("SELECT 1") == "1"
    assert wires[4].value("SELECT 1") == "1"


def test_pools_of_databases_that_do_not_exist_do_not_pile_up(weir, workers):
    w = weir({"postgres main": {}, "weir": {"pool_idle_timeout": "500ms",
                                            "server_idle_timeout": "300ms"}}, workers)
    wire = w.wire()
    assert wire.value("SELECT 1") == "1"
    assert w.metric("pools") == 1
    wire.close()
    wait_for(lambda: w.metric("pools") == 0, 10, "the pool is still there")
    assert w.wire().value("SELECT 1") == "1"


# Clients.


def refused(w, user="acme_app", database=DATABASE):
    """What a client is told that may not log in; None if it may.  It leaves."""
    try:
        w.wire(user, database=database)
    except pgwire.Failed as e:
        return e.fields
    finally:
        w.clients.pop().close()
    return None


def test_a_user_has_so_many_clients_and_each_that_leaves_makes_room(weir, workers):
    w = weir({"user acme_app": {"max_client_conn": 3}}, workers)
    wires = [w.wire() for _ in range(3)]
    for _ in range(5):
        error = refused(w)
        assert error["C"] == FULL and "client connections exceeded" in error["M"]
    assert w.wire("beta_app").value("SELECT 1") == "1"
    wires[0].close()                            # without a word
    wires[1].send(pgwire.terminate())
    wires[2].send(b"\xff\xff\xff\xff\xff")      # thrown out
    w.settled(postgres=1)
    again = [w.wire() for _ in range(3)]
    assert again[2].value("SELECT 1") == "1"
    assert refused(w)["C"] == FULL
    assert w.metrics()['weir_client_limit_refused_total{limit="user"}'] == 6


def test_an_organization_s_clients_of_both_protocols_are_counted_together(weir, workers):
    w = weir({"organization acme": {"max_client_conn": 2},
              "user default": {"organization": "acme"}}, workers)
    first = w.wire()
    second = w.resp()
    assert "organization" in refused(w)["M"]
    third = w.resp(login=False)
    third.send(respwire.encode("AUTH", "redis-secret"))
    assert third.reply() == "ERR max number of clients reached"
    with pytest.raises(respwire.Closed):
        third.reply()
    assert second.ask("AUTH", "redis-secret") == "OK"       # it sits there already
    first.close()
    w.settled(postgres=0, redis=1)
    assert w.resp().ask("PING") == "PONG"
    assert refused(w)["C"] == FULL
    w.hang_up()
    w.settled()
    assert refused(w) is None


def test_who_logs_in_again_as_another_is_counted_there(weir):
    w = weir({"user default": {"max_client_conn": 1},
              "user other": {"password": "other-secret", "max_client_conn": 1}})
    one, two = w.resp(), w.resp(login=False)
    assert two.ask("AUTH", "other", "other-secret") == "OK"
    assert one.ask("AUTH", "other", "other-secret") == "ERR max number of clients reached"
    assert one.ask("PING") == "PONG"        # as who it was
    two.close()
    w.settled(redis=1)
    assert one.ask("AUTH", "other", "other-secret") == "OK"
    three = w.resp()
    assert three.ask("PING") == "PONG"


def test_counts_survive_a_reload_that_brings_a_limit(weir, workers):
    w = weir({}, workers)
    wires = [w.wire() for _ in range(3)]
    w.reload({"user acme_app": {"max_client_conn": 2}})
    wait_for(lambda: refused(w) is not None, 5, "the limit is not there")
    w.settled(postgres=3)
    wires[0].close()
    w.settled(postgres=2)
    assert refused(w)["C"] == FULL
    wires[1].close()
    w.settled(postgres=1)
    assert refused(w) is None
