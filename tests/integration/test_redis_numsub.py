"""
Goal:   an application that counts its servers by their subscriptions counts right,
        though behind weir they share one connection.
Method: PUBSUB NUMSUB and SHARDNUMSUB with subscribers behind weir, on 1 and on 4
        workers, and beside it; byte for byte what Redis says of as many connections.
"""
import contextlib

import pytest

import respwire
from respwire import encode
from servers import wait_for


def past_weir(rd):
    r = respwire.Resp(rd.port)
    assert r.ask("AUTH", rd.password) == "OK"
    return r


def subscribed(r, how, *channels):
    r.send(encode(how, *channels))
    for _ in channels:
        r.reply()
    return r


@pytest.mark.parametrize("how, ask", [("SUBSCRIBE", "NUMSUB"), ("SSUBSCRIBE", "SHARDNUMSUB")])
def test_numsub_counts_clients_not_connections(proxy, rd, how, ask):
    def counts(*channels):
        return list(zip(*[iter(asker.ask("PUBSUB", ask, *channels))] * 2))

    asker = proxy.resp()
    clients = [subscribed(proxy.resp(2 + i % 2), how, "all", "of:%d" % i) for i in range(6)]
    with contextlib.closing(past_weir(rd)) as beside:
        subscribed(beside, how, "all")
        assert counts("all", "of:3", "none") == [(b"all", 7), (b"of:3", 1), (b"none", 0)]
    # Those who leave by a word do not count once they were told so.
    clients[0].ask(how.replace("SUBSCRIBE", "UNSUBSCRIBE"), "all")
    wait_for(lambda: counts("all") == [(b"all", 5)], 20, "not 5")
    for c in clients[1:]:
        c.close()
    wait_for(lambda: counts("all", "of:0") == [(b"all", 0), (b"of:0", 1)], 20, "still counted")


@pytest.mark.parametrize("proto", [2, 3])
def test_numsub_keeps_its_place_in_a_pipeline(proxy, proto):
    subscribed(proxy.resp(), "SUBSCRIBE", "b")
    r = proxy.resp(proto)
    assert r.ask("WATCH", "w") == "OK"
    assert r.ask("PUBSUB", "NUMSUB", "b") == [b"b", 1]
    assert r.ask("UNWATCH") == "OK"
    r.send(encode("SET", "k", "v"), encode("PUBSUB", "NUMSUB", "a", "b"), encode("GET", "k"),
           encode("PUBSUB", "NUMSUB"), encode("PUBSUB", "SHARDNUMSUB", ""), encode("PING"))
    assert [r.raw() for _ in range(6)] == [
        b"+OK\r\n", b"*4\r\n$1\r\na\r\n:0\r\n$1\r\nb\r\n:1\r\n", b"$1\r\nv\r\n", b"*0\r\n",
        b"*2\r\n$0\r\n\r\n:0\r\n", b"+PONG\r\n"]


@pytest.mark.parametrize("how, un", [("SUBSCRIBE", "UNSUBSCRIBE"), ("SSUBSCRIBE", "SUNSUBSCRIBE")])
def test_who_is_confirmed_counts_at_once_and_who_has_left_does_not(proxy, how, un):
    asked = ("PUBSUB", "NUMSUB" if how == "SUBSCRIBE" else "SHARDNUMSUB", "c")
    stays, comes, asker = subscribed(proxy.resp(), how, "c"), proxy.resp(3), proxy.resp()
    for _ in range(20):
        comes.ask(how, "c")
        assert asker.ask(*asked) == [b"c", 2]
        # A client that heard of it may ask on its own connection, too.
        comes.send(encode(*asked))
        assert comes.reply() == [b"c", 2]
        comes.ask(un, "c")
        assert asker.ask(*asked) == [b"c", 1]
    stays.close()
