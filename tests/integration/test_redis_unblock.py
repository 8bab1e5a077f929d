"""
Goal:   CLIENT UNBLOCK ends what a client waits for, on whichever worker it is,
        by the id that CLIENT ID and CLIENT LIST told of it; never another
        command of that client, nor another client.
Method: each command that blocks, unblocked in both ways, byte for byte as by
        Redis; clients of another organization; a client whose elements come
        while it is being unblocked, where both ends have to count the same.
"""
import threading

import pytest

from respwire import Error, encode
from servers import scaled, wait_for
from test_redis import past_weir
from test_redis_client_list import login, rows

CONFIG = {"redis main": {"connections": 4, "dedicated_connections": 6}}
BLOCKING = """
blpop l 0|brpop l m 0|brpoplpush l m 0|blmove l m left right 0|blmpop 0 2 l m left
bzpopmin z 0|bzpopmax z 0|bzmpop 0 1 z min|xread block 0 streams x $
xreadgroup group g me block 0 streams s >|wait 1 0
""".replace("\n", "|").strip("|").split("|")


@pytest.fixture(autouse=True)
def empty(rd):
    r = rd.connect()
    r.flushall()
    r.close()


def unblocked(asker, r, how=()):
    """CLIENT LIST says that it blocks; Redis may hear of that a moment later."""
    wait_for(lambda: [row["flags"] for row in rows(asker.ask("CLIENT", "LIST", "ID", r.id))]
             == ["b"], 30, "blocked")
    return wait_for(lambda: asker.ask("CLIENT", "UNBLOCK", r.id, *how), 30, "unblocked")


def unblocked_held(asker, r, how):
    """The same of one that watches, or tracks."""
    wait_for(lambda: "b" in rows(asker.ask("CLIENT", "LIST", "ID", r.id))[0]["flags"],
             30, "blocked")
    return wait_for(lambda: asker.ask("CLIENT", "UNBLOCK", r.id, *how), 30, "unblocked")


def with_id(r):
    r.id = r.ask("CLIENT", "ID")
    return r


@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("how", [["TIMEOUT"], ["error"], []])
def test_whatever_blocks_is_unblocked_as_by_redis(proxy, rd, proto, how):
    said = []
    for open_one in (lambda n: past_weir(rd, n), proxy.resp):
        r, asker = with_id(open_one(proto)), with_id(open_one(2))
        asker.ask("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
        said.append([])
        assert asker.ask("CLIENT", "UNBLOCK", r.id, *how) == 0
        for command in BLOCKING:
            r.send(encode(*command.split()))
            said[-1].append((unblocked(asker, r, how), r.raw()))
            assert asker.ask("CLIENT", "UNBLOCK", r.id, *how) == 0
        assert r.ask("PING") == "PONG"
        r.close(), asker.close()
    assert said[0] == said[1]
    assert {n for n, _ in said[1]} == {1} and len(said[1]) == 11


@pytest.mark.weir_only
def test_who_waits_on_any_worker_is_found_and_nobody_of_another_organization(proxy):
    acme = [login(proxy, "acme_app") for _ in range(6)]
    asker, stranger = login(proxy, "acme_app"), login(proxy, "beta_app")
    for r in acme:
        r.send(encode("BLPOP", "acme:l:%d" % r.id, 0))
    for r in reversed(acme):
        assert stranger.ask("CLIENT", "UNBLOCK", r.id) == 0
        assert unblocked(asker, r, ["ERROR"]) == 1
        assert r.reply() == "UNBLOCKED client unblocked via CLIENT UNBLOCK"
        assert r.ask("CLIENT", "ID") == r.id
    assert asker.ask("CLIENT", "UNBLOCK", 2 ** 62 + 63) == 0


@pytest.mark.parametrize("held", ["WATCH w", "CLIENT TRACKING ON"])
@pytest.mark.parametrize("proto", [2, 3])
def test_a_client_that_holds_its_connection_is_unblocked_and_goes_on(proxy, rd, proto, held):
    said = []
    for open_one in (lambda n: past_weir(rd, n), proxy.resp):
        r, asker = with_id(open_one(proto)), with_id(open_one(2))
        assert r.ask(*held.split()) == "OK"
        got = []
        for how in (["ERROR"], []):
            r.send(encode("BLPOP", "l", 0))
            got += [unblocked_held(asker, r, how), r.raw()]
            assert asker.ask("CLIENT", "UNBLOCK", r.id) == 0
        assert asker.ask("SET", "w", "1") == "OK"
        r.send(encode("MULTI"), encode("GET", "w"), encode("EXEC"))
        got += [r.raw() for _ in range(3)]
        said.append(got)
        assert asker.ask("DEL", "w") == 1
        r.close(), asker.close()
    assert said[0] == said[1]


@pytest.mark.weir_only
def test_a_connection_that_was_unblocked_is_lent_to_nobody_else(proxy, rd):
    """An UNBLOCK may come late: it must not hit who borrows next."""
    asker = with_id(proxy.resp())

    def there():
        with past_weir(rd) as direct:
            return {row["id"] for row in rows(direct.ask("CLIENT", "LIST"))}
    r = with_id(proxy.resp())
    assert r.ask("WATCH", "w") == "OK"
    r.send(encode("BLPOP", "l", 0))
    assert unblocked_held(asker, r, []) == 1
    assert r.reply() is None
    with past_weir(rd) as direct:
        [it] = [row["id"] for row in rows(direct.ask("CLIENT", "LIST")) if row["cmd"] == "blpop"]
    assert it in there()
    assert r.ask("UNWATCH") == "OK"
    wait_for(lambda: it not in there(), 30, "it is kept")


@pytest.mark.weir_only
def test_an_unblock_never_ends_a_later_command_or_somebody_elses(proxy, rd):
    """Elements come while it is unblocked: each ends as many waits as it says."""
    clients = [with_id(proxy.resp()) for _ in range(3)]
    done, ended, popped = threading.Event(), [0] * 3, [[] for _ in clients]

    def waits(n):
        r = clients[n]
        while not done.is_set():
            # Two in one write: the first may be meant, never the second with it.
            r.send(encode("BLPOP", "l%d" % n, 0), encode("BLPOP", "l%d" % n, 0))
            for reply in r.replies(2):
                if isinstance(reply, Error):
                    assert reply == "UNBLOCKED client unblocked via CLIENT UNBLOCK"
                    ended[n] += 1
                else:
                    assert reply[0] == b"l%d" % n
                    popped[n].append(int(reply[1]))

    threads = [threading.Thread(target=waits, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    asker, pusher = proxy.resp(), proxy.resp()
    asked, sent = [0] * 3, [0] * 3
    while sum(sent) < 60 or sum(asked) < 10:
        n = sum(sent) % 3
        pusher.send(encode("RPUSH", "l%d" % n, sent[n]))
        sent[n] += 1
        asked[n] += asker.ask("CLIENT", "UNBLOCK", clients[n].id, "ERROR")
        pusher.reply()
    done.set()
    for n, t in enumerate(threads):         # they wait for two more at most
        while t.is_alive():
            pusher.ask("RPUSH", "l%d" % n, sent[n])
            sent[n] += 1
            t.join(scaled(0.05))
    left = [int(v) for n in range(3) for v in pusher.ask("LRANGE", "l%d" % n, 0, -1)]
    assert ended == asked
    assert [p for p in popped] == [sorted(p) for p in popped]
    assert sum(map(len, popped)) + len(left) == sum(sent), "no element went to nobody"
