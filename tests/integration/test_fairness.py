"""Organizations side by side: what one uses up the others do not miss.

Goal: each limit of an organization holds exactly for the whole process, what
goes over it is told when to come again and costs no server anything, and
nobody else sees any of it.
Method: periods far longer than a test, so that what was granted can be counted.
"""
import contextlib
import select
import threading
import time

import pytest

import pgwire
import respwire
from pgwire import query
from servers import DATABASE, REDIS_PASSWORD, scaled, wait_for

pytestmark = pytest.mark.weir_only

FULL, TOO_OFTEN = "53300", "53400"
QUERIES = 'rate_limit_refused_total{limit="queries"}'
CONNECTIONS = 'rate_limit_refused_total{limit="connections"}'


def acme(**keys):
    return {"organization acme": keys}


def code(reply):
    return pgwire.errors(reply)[0]["C"]


def is_told_when(error):
    assert error["H"].startswith("Retry in ") and error["H"].endswith(" ms.")
    return 0 < int(error["H"].split()[2]) <= 3600000


def count_granted(clients):
    """How many of the requests were granted when all ask at once."""
    granted, failed, lock = [0], [], threading.Lock()

    def run(ask):
        try:
            for _ in range(30):
                if ask():
                    with lock:
                        granted[0] += 1
        except BaseException as e:      # noqa: B902
            failed.append(e)
    threads = [threading.Thread(target=run, args=(ask,)) for ask in clients]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed, failed
    return granted[0]


BEGIN = "BEGIN; SELECT 1"        # a bare BEGIN takes no server yet


def busy(w, user="acme_app"):
    wire = w.wire(user)
    assert pgwire.kinds(wire.run(query(BEGIN)))[-1] == "Z"
    return wire


def waiting(w, n, user="acme_app"):
    wires = [w.wire(user) for _ in range(n)]
    for wire in wires:
        wire.send(query("SELECT 1"))
    return wires


def test_an_organization_holds_no_more_servers_than_its_pool_size(weir, pg, workers):
    w = weir({"postgres main": {"pool_size": 6}, "organization acme": {"pool_size": 2}},
             workers)
    holders = [busy(w), busy(w)]
    more = waiting(w, 6)
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 6, 5, "not waiting")
    # Nobody opens a server for those who may not have one, others get theirs.
    for _ in range(20):
        assert w.wire("beta_app").value("SELECT 1") == "1"
    wait_for(lambda: len(pg.backends()) <= 2 + workers)     # those of the weir before may leave yet
    assert w.metric("clients_waiting", "postgres") == 6
    # One that ends lets one in, which ever worker that is on.
    holders[0].run(query("COMMIT"))
    for wire in more:
        assert pgwire.kinds(wire.until()) == "TDCZ"
    assert w.metric("clients_waiting", "postgres") == 0
    assert w.metric("organization_held_total") > 0


def test_a_pinned_session_counts_until_it_leaves(weir, workers):
    w = weir(acme(pool_size=1), workers)
    holder = w.wire()
    holder.run(query("LISTEN news"))
    more = waiting(w, 2)
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 2, 5, "not waiting")
    more[0].close()                      # who gives up is in nobody's way
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 1, 5, "still waits")
    holder.close()
    assert pgwire.kinds(more[1].until()) == "TDCZ"


def test_a_reload_changes_what_organizations_may_hold(weir, workers):
    w = weir(acme(pool_size=1), workers)
    holder, more = busy(w), waiting(w, 1)
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 1, 5, "not waiting")
    w.reload(acme(pool_size=2))
    assert pgwire.kinds(more[0].until()) == "TDCZ"
    w.reload(acme(pool_size=1))          # for the sessions of before, too
    more[0].send(query("SELECT 1"))
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 1, 5, "not waiting")
    holder.run(query("COMMIT"))
    assert pgwire.kinds(more[0].until()) == "TDCZ"


def test_the_servers_of_an_organization_are_counted_exactly_under_load(weir, pg, workers):
    w = weir({"postgres main": {"pool_size": 8}, "organization acme": {"pool_size": 3}},
             workers)
    w.wire().value("SELECT 1")
    pg.run("DROP TABLE IF EXISTS fair_load")
    most, lock, now = [0], threading.Lock(), [0]

    def client(wire):
        def ask():
            wire.run(query(BEGIN))
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            wire.run(query("SELECT pg_sleep(0.002)"))
            with lock:
                now[0] -= 1
            wire.run(query("COMMIT"))
            return True
        return ask
    assert count_granted([client(w.wire()) for _ in range(12)]) == 12 * 30
    assert most[0] == 3


def test_a_flood_of_waiters_does_not_delay_another_organization(weir, workers):
    """Each service takes 20 ms; in the flood's line one would wait for two seconds."""
    w = weir({"postgres main": {"pool_size": 2}}, workers)
    flood = [w.wire() for _ in range(200)]
    for wire in flood:
        wire.send(*[query("SELECT pg_sleep(0.02)")] * 6)
    wait_for(lambda: w.metric("clients_waiting", "postgres") > 150, 10, "no flood")
    took = []
    for _ in range(8):
        wire = w.wire("beta_app")
        begun = time.monotonic()
        assert wire.value("SELECT 1") == "1"
        took.append(time.monotonic() - begun)
        wire.close()
    left = w.metric("clients_waiting", "postgres")
    # A service on each worker, and the 5 ms that workers do not quarrel about,
    # on a machine that has other things to do.
    assert sorted(took)[4] < 1, took
    assert left > 50, "the flood was over: %s" % took
    for wire in flood:
        wire.close()


def test_a_rate_of_queries_is_exact_over_all_clients_and_workers(weir, workers):
    w = weir(acme(rate_queries="100/1h"), workers)

    def simple(wire):
        return lambda: pgwire.kinds(wire.run(query("SELECT 1"))) == "TDCZ"

    def extended(wire):
        return lambda: "C" in pgwire.kinds(wire.run(pgwire.extended("SELECT 1")))
    clients = [simple(w.wire()) for _ in range(4)]
    clients += [extended(w.wire()) for _ in range(4)]
    assert count_granted(clients) == 100
    assert w.metric(QUERIES) == 8 * 30 - 100
    assert w.wire("beta_app").value("SELECT 1") == "1"


def test_what_is_over_the_rate_touches_no_server_and_the_session_lives(weir, pg):
    w = weir(acme(rate_queries="1/60s"))
    wire = w.wire()
    assert wire.value("SELECT 1") == "1"
    before = w.metric("transactions_total")
    reply = wire.run(query("SELECT 1"))
    assert pgwire.kinds(reply) == "EZ" and pgwire.status(reply) == "I"
    assert code(reply) == TOO_OFTEN and is_told_when(pgwire.errors(reply)[0])
    reply = wire.run(pgwire.extended("SELECT 1"))
    assert pgwire.kinds(reply) == "EZ" and code(reply) == TOO_OFTEN
    assert w.metric("transactions_total") == before
    w.reload(acme(rate_queries="1000000/1s"))
    assert wire.value("SELECT 2") == "2"


def test_over_the_rate_a_transaction_fails_and_can_be_ended(weir):
    w = weir(acme(rate_queries="2/1h"))
    wire = w.wire()
    wire.run(query("BEGIN"))
    assert wire.value("SELECT 1") == "1"
    wire.run(query("COMMIT"))
    wire.run(query("BEGIN"))
    assert wire.value("SELECT 1") == "1"
    reply = wire.run(query("SELECT 1"))
    assert pgwire.status(reply) == "E" and code(reply) == TOO_OFTEN
    assert is_told_when(pgwire.errors(reply)[0])
    reply = wire.run(query("SELECT 1"))
    assert code(reply) == "25P02"
    assert pgwire.tags(wire.run(query("ROLLBACK"))) == ["ROLLBACK"]
    # One that has asked nothing yet fails likewise, in both protocols.
    for ask in (query("SELECT 1"), pgwire.extended("SELECT 1")):
        wire.run(query("BEGIN"))
        reply = wire.run(ask)
        assert pgwire.status(reply) == "E" and code(reply) == TOO_OFTEN
        wire.run(query("ROLLBACK"))
    wire.run(query("BEGIN"))
    assert pgwire.tags(wire.run(query("COMMIT"))) == ["COMMIT"]


def test_a_pipeline_over_the_rate_stops_at_the_next_sync(weir):
    w = weir(acme(rate_queries="2/1h"))
    wire = w.wire()
    one = pgwire.parse("SELECT 1") + pgwire.bind() + pgwire.execute()
    reply = wire.run(one + one + one + one + pgwire.sync())
    assert pgwire.kinds(reply) == "12DC12DC12EZ"
    assert code(reply) == TOO_OFTEN
    reply = wire.run(one + pgwire.sync())
    assert pgwire.kinds(reply) == "EZ"


def test_a_reload_keeps_what_has_been_used_up(weir, workers):
    w = weir(acme(rate_queries="3/1h"), workers)
    wire = w.wire()
    for _ in range(3):
        assert wire.value("SELECT 1") == "1"
    w.reload({"weir": {"log_level": "info"}})
    assert code(wire.run(query("SELECT 1"))) == TOO_OFTEN
    wire.close()
    w.settled()
    assert code(w.wire().run(query("SELECT 1"))) == TOO_OFTEN


def test_a_rate_of_connections_is_exact_and_refused_with_a_hint(weir, workers):
    w = weir(acme(rate_connections="5/1h"), workers)
    refused = []
    for _ in range(9):
        try:
            w.wire()
        except pgwire.Failed as e:
            refused.append(e.fields)
    assert [e["C"] for e in refused] == [FULL] * 4
    assert all(is_told_when(e) for e in refused)
    assert w.metric(CONNECTIONS) == 4
    assert w.wire("beta_app").value("SELECT 1") == "1"


def test_redis_commands_over_the_rate_are_refused_each_in_its_place(weir, workers):
    w = weir({"organization acme": {"rate_queries": "10/1h"},
              "user default": {"organization": "acme"}}, workers)
    first, second = w.resp(), w.resp()
    first.send(*[respwire.encode("SET", "fair", str(i)) for i in range(8)],
               respwire.encode("PING"),
               *[respwire.encode("GET", "fair") for _ in range(3)])
    replies = first.replies(12)
    assert replies[:11] == ["OK"] * 8 + ["PONG"] + [b"7"] * 2
    said = str(replies[11])
    assert said.startswith("ERR") and "retry in" in said and said.endswith("ms")
    assert "retry in" in str(second.ask("GET", "fair"))
    assert second.ask("PING") == "PONG"
    assert w.metric(QUERIES) == 2


def test_what_was_to_be_a_part_of_a_transaction_over_the_rate_is_not_run(weir):
    """In one piece each is refused; where it is not, nobody knows what else is on its way."""
    w = weir({"organization acme": {"rate_queries": "3/1h"},
              "user default": {"organization": "acme"},
              "redis main": {"dedicated_connections": 2}})
    encode, exec = respwire.encode, respwire.encode("EXEC")
    multi, change = encode("MULTI"), encode("SET", "fair", "1")
    r, used = w.resp(), w.resp()
    r.send(multi, change, change, change, exec)
    assert all("rate limit" in str(said) for said in r.replies(5))
    assert r.ask("SET", "fair", "0") == "OK"
    for _ in range(2):
        assert used.ask("GET", "fair") == b"0"
    for begin in multi + change + encode("CLIENT", "ID") + exec, encode("WATCH", "fair") + multi:
        with w.resp() as late:
            late.send(begin)
            said = late.until_closed()
            assert said.startswith(b"-ERR ") and b"(rate_queries)" in said
    with w.resp() as alone:
        assert "rate limit" in str(alone.ask("MULTI"))
        assert alone.ask("PING") == "PONG"


def test_a_flood_of_redis_commands_does_not_delay_another_organization(weir):
    """All share one connection, and 40 clients of one wait for room in it."""
    w = weir({"redis main": {"connections": 1}, "user default": {"organizations": "*"}})

    def client(slug):
        r = w.resp(login=False)
        assert r.ask("AUTH", "default." + slug, REDIS_PASSWORD) == "OK"
        return r
    def read(r):
        with contextlib.suppress(Exception):        # until the test is over
            r.replies(8)
    few, flood = client("beta"), [client("acme") for _ in range(40)]
    few.ask("SET", "fair", "1")
    # Replies so large that few are under way at a time, once that is known.
    large = respwire.encode("EVAL", "return string.rep('x', 600000)", "0")
    for r in flood:
        r.send(large)
        r.reply()
    for r in flood:
        r.send(large * 8)
        threading.Thread(target=read, args=[r], daemon=True).start()
    before, begun = w.metric("redis_commands_total"), 40 * 8
    for _ in range(3):
        assert few.ask("GET", "fair") == b"1"
    served = w.metric("redis_commands_total") - before
    wait_for(lambda: w.metric("redis_commands_total") - before >= 100, 30, "no flood")
    # In one queue for all each request stands behind four of each client.
    assert served < begun / 2, served


def test_a_transaction_of_redis_is_paid_for_whole_or_refused_whole(weir, workers):
    w = weir({"organization acme": {"rate_queries": "20/1h"},
              "user default": {"organization": "acme"}}, workers)
    client = w.resp()
    assert client.ask("DEL", "whole") in (0, 1)

    def transaction(n):
        client.send(respwire.encode("MULTI"),
                    *[respwire.encode("INCR", "whole")] * n, respwire.encode("EXEC"))
        return client.replies(n + 2)
    replies = transaction(8)
    assert replies[:9] == ["OK"] + ["QUEUED"] * 8 and replies[9] == list(range(1, 9))
    # Nine tokens are left: not enough for ten, and none of them is lost.
    for _ in range(3):
        assert all("retry in" in str(r) for r in transaction(8))
    replies = transaction(7)
    assert replies[8] == list(range(9, 16))
    assert "retry in" in str(client.ask("GET", "whole"))
    # One larger than all there ever is need not be tried again.
    assert all("never passes" in str(r) for r in transaction(19))
    assert client.ask("PING") == "PONG"
    assert w.metric(QUERIES) == 3 * 10 + 1 + 21


def test_a_pipeline_for_a_batch_is_paid_for_whole_or_refused_whole(weir, pg, workers):
    pg.run("DROP TABLE IF EXISTS rated; CREATE TABLE rated (n int);"
           " GRANT ALL ON rated TO PUBLIC")
    w = weir({"batch rated": {}, "organization acme": {
        "rate_operations": "5/1h", "rate_queries": "100/1h"}}, workers)
    wire = w.wire()
    one = (pgwire.parse("INSERT INTO rated VALUES ($1)") + pgwire.bind(["1"])
           + pgwire.execute())
    for _ in range(3):
        reply = wire.run(one * 6 + pgwire.sync())
        assert pgwire.kinds(reply) == "EZ" and code(reply) == TOO_OFTEN
    assert pgwire.kinds(wire.run(one * 3 + pgwire.sync())) == "12C12C12CZ"
    assert code(wire.run(one * 3 + pgwire.sync())) == TOO_OFTEN
    assert pgwire.kinds(wire.run(one * 2 + pgwire.sync())) == "12C12CZ"
    assert code(wire.run(one + pgwire.sync())) == TOO_OFTEN
    assert pg.run("SELECT count(*) FROM rated") == [(5,)]
    # What was refused there is not missing here: 5 of the 100 are gone.
    assert [pgwire.kinds(wire.run(query("SELECT 1"))) for _ in range(96)] == \
        ["TDCZ"] * 95 + ["EZ"]


# A service user who chooses an organization, for good or for a transaction.

SVC = {"user svc": {"auth": "trust", "organizations": "*"}}


def service(w):
    wire = w.wire(login=False)
    wire.login("svc", DATABASE)
    return wire


def choose(wire, slug, local=True):
    wire.run(query("SET %s weir.organization = %s" % ("LOCAL" if local else "SESSION", slug)))


@pytest.mark.parametrize("way", ["for good", "for a transaction", "inside a transaction"])
def test_who_chooses_an_organization_is_bound_by_its_rate(weir, way):
    w = weir({**SVC, **acme(rate_queries="10/1h"),
              "organization beta": {"rate_queries": "10/1h"}})
    svc = service(w)
    choose(svc, "beta", local=False)
    assert svc.value("SELECT 1") == "1"                 # one of beta's
    if way != "for good":
        svc.run(query("BEGIN"))
    if way == "inside a transaction":
        assert svc.value("SELECT 1") == "1"             # and another
    choose(svc, "acme", local=way != "for good")
    assert [pgwire.kinds(svc.run(query("SELECT 1"))) for _ in range(11)] == \
        ["TDCZ"] * 10 + ["EZ"]
    if way != "for good":
        svc.run(query("ROLLBACK"))
    choose(svc, "beta", local=False)
    left = 8 if way == "inside a transaction" else 9
    assert [pgwire.kinds(svc.run(query("SELECT 1"))) for _ in range(left + 1)] == \
        ["TDCZ"] * left + ["EZ"]
    assert code(w.wire("acme_app").run(query("SELECT 1"))) == TOO_OFTEN
    assert w.wire("plain_app").value("SELECT 1") == "1"


@pytest.mark.parametrize("local", [True, False])
def test_who_chooses_an_organization_holds_servers_of_its_share(weir, workers, local):
    w = weir({**SVC, "postgres main": {"pool_size": 6}, **acme(pool_size=2)}, workers)
    first = busy(w)
    clients = [service(w) for _ in range(4)]
    for svc in clients:
        if not local:
            choose(svc, "acme", local=False)
        svc.run(query("BEGIN"))
        if local:
            choose(svc, "acme")
        svc.send(query("SELECT 1"))
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 3, 5, "not three wait")
    others = [service(w) for _ in range(3)]
    for svc in others:                  # another organization is not held back
        svc.run(query("BEGIN"))
        choose(svc, "beta")
        assert svc.value("SELECT 1") == "1"
    assert w.metric("clients_waiting", "postgres") == 3
    first.run(query("COMMIT"))
    served = set()

    def commit():
        for svc in clients:
            if svc not in served and select.select([svc.sock], [], [], 0)[0]:
                assert pgwire.kinds(svc.until()) == "TDCZ"
                assert pgwire.kinds(svc.run(query("COMMIT"))) == "CZ"
                served.add(svc)
        return len(served) == 4
    wait_for(commit, 10, "not all were served")
    # Its own share is given back with the last of them.
    again = [busy(w), busy(w)]
    assert w.metric("clients_waiting", "postgres") == 0 and len(again) == 2


def test_to_choose_an_organization_is_no_log_in(weir):
    w = weir({**SVC, **acme(rate_connections="2/1h")})
    svc = service(w)
    for _ in range(5):
        choose(svc, "acme", local=False)
        assert svc.value("SELECT 1") == "1"
        choose(svc, "beta", local=False)
    assert w.wire().value("SELECT 1") == "1"
    assert w.metric(CONNECTIONS) == 0


def test_who_leaves_in_a_transaction_of_another_organization_leaves_nothing(weir, workers):
    w = weir({**SVC, "postgres main": {"pool_size": 4}, **acme(pool_size=1)}, workers)
    for begin in ("BEGIN", "BEGIN; SELECT 1"):
        for ask in (None, "SELECT 1"):
            svc = service(w)
            svc.run(query(begin))
            choose(svc, "acme")
            if ask:
                assert svc.value(ask) == "1"
            svc.close()
    holder = busy(w)
    waiter = service(w)
    waiter.run(query("BEGIN"))
    choose(waiter, "acme")
    waiter.send(query("SELECT 1"))
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 1, 5, "does not wait")
    waiter.close()
    wait_for(lambda: w.metric("clients_waiting", "postgres") == 0, 5, "still waits")
    holder.run(query("COMMIT"))
    assert w.wire().value("SELECT 1") == "1"


def test_who_rolls_back_to_before_its_choice_is_bound_as_before(weir):
    w = weir({**SVC, **acme(rate_queries="1/1h"), "organization beta": {"rate_queries": "4/1h"}})
    svc = service(w)
    choose(svc, "beta", local=False)
    svc.run(query("BEGIN"))
    assert svc.value("SELECT 1") == "1"
    svc.run(query("SAVEPOINT here"))
    choose(svc, "acme")
    svc.run(query("ROLLBACK TO here"))          # acme pays for that
    assert svc.value("SELECT 1") == "1"         # and beta for what follows
    svc.run(query("COMMIT"))
    assert [pgwire.kinds(svc.run(query("SELECT 1"))) for _ in range(2)] == ["TDCZ", "EZ"]
