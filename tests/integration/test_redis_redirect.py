"""
Goal:   CLIENT TRACKING with REDIRECT: what one client has read and somebody
        changes is told to the client that it names, by the id that client has
        here, on whichever worker; and to nobody else, ever.
Method: the same story to weir and to Redis, byte for byte but for ids, in each
        pair of protocols; then those who go, in every order; clients of others;
        and many pairs at once, each with keys of its own.
"""
import re

import pytest

from respwire import Error, Push, encode
from servers import USERS, wait_for
from test_redis import past_weir
from test_redis_client_list import login, rows

CONFIG = {"redis main": {"connections": 4, "dedicated_connections": 20, "profile": "dedicated"}}
CHANNEL = "__redis__:invalidate"


@pytest.fixture(autouse=True)
def empty(rd):
    r = rd.connect()
    r.flushall()
    r.close()


def with_id(r):
    r.id = r.ask("CLIENT", "ID")
    return r


def redirected(open_one, hears, tracks):
    """Who hears, who tracks for it, and somebody who changes things."""
    r, t, other = with_id(open_one(hears)), with_id(open_one(tracks)), with_id(open_one(2))
    r.send(encode("SUBSCRIBE", CHANNEL))
    r.raw()
    assert t.ask("CLIENT", "TRACKING", "ON", "REDIRECT", r.id) == "OK"
    return r, t, other


ASKED = """
client tracking on redirect ID|client getredir|client trackinginfo|client tracking off
client tracking on redirect|client tracking on redirect x|client tracking on redirect 0
client tracking on redirect -1|client tracking on redirect 123456789|client tracking on foo redirect ID
client tracking on redirect ID redirect ID|client tracking on redirect ID foo|client trackinginfo
client tracking on redirect ID prefix a|client tracking on redirect ID bcast prefix|client getredir
client tracking on bcast prefix redirect redirect ID|client trackinginfo|client tracking off
client tracking on redirect ID bcast prefix a prefix b noloop|client trackinginfo
client tracking on redirect ID|client tracking on redirect 123456789 bcast|client trackinginfo
client tracking off|client trackinginfo|client getredir|client tracking on redirect ID optin
client caching yes|client trackinginfo|get a|client trackinginfo|client tracking on redirect SELF optin
client trackinginfo|client tracking on optin|client trackinginfo|client getredir
client tracking on redirect ID optin|multi|client getredir|client trackinginfo|get a|exec
client tracking off|multi|client getredir|client trackinginfo|exec|set a 1|del a
""".strip().replace("\n", "|").split("|")


@pytest.mark.parametrize("proto", [2, 3])
def test_what_is_asked_of_redirections_is_answered_as_by_redis(proxy, rd, proto):
    said = []
    for open_one in (lambda n: past_weir(rd, n), lambda n: proxy.resp(proto=n)):
        r, t = with_id(open_one(2)), with_id(open_one(proto))
        said.append([])
        for line in ASKED:
            t.send(encode(*[{"ID": r.id, "SELF": t.id}.get(w, w) for w in line.split()]))
            raw = t.raw().replace(b":%d\r\n" % r.id, b":ID\r\n")
            said[-1].append((line, raw.replace(b":%d\r\n" % t.id, b":SELF\r\n")))
        r.close(), t.close()
    assert said[1] == said[0]


def story(open_one, hears, tracks):
    r, t, other = redirected(open_one, hears, tracks)
    got = [t.ask("GET", "k"), t.ask("MGET", "a", "b")]
    assert other.ask("SET", "k", "1") == "OK"
    got += [r.raw(), t.ask("GET", "k")]
    assert other.ask("FLUSHALL") == "OK"
    got.append(r.raw())
    assert t.ask("CLIENT", "TRACKING", "OFF") == "OK"
    assert t.ask("CLIENT", "TRACKING", "ON", "REDIRECT", r.id, "BCAST", "PREFIX", "a", "PREFIX",
                 "b") == "OK"
    other.send(encode("MULTI"), encode("MSET", "a1", 1, "b1", 2, "a2", 3, "c", 4), encode("EXEC"))
    other.replies(3)
    got += [r.raw(), r.raw()]
    assert t.ask("CLIENT", "TRACKING", "OFF") == "OK"
    assert t.ask("CLIENT", "TRACKING", "ON", "REDIRECT", r.id) == "OK"
    assert t.ask("GET", "k") is None
    r.close()

    def asked(*args):
        t.send(encode(*args))
        while (raw := t.raw().replace(b":%d" % r.id, b":ID")).startswith(b">"):
            pushed.add(raw)
        return raw

    def gone():     # Redis finds out when there is something to tell
        asked("GET", "k"), other.ask("SET", "k", "1")
        info = asked("CLIENT", "TRACKINGINFO")
        return info if b"broken_redirect" in info else None
    pushed = set()
    got += [wait_for(gone, 30, "nobody knows that it is gone")]
    if tracks == 3 and not pushed:
        pushed.add(t.raw().replace(b":%d" % r.id, b":ID"))
    got.append(pushed)
    got.append(asked("CLIENT", "TRACKING", "ON", "REDIRECT", r.id))
    got.append(re.findall(rb"redir=-?\d+|flags=\S+", t.ask("CLIENT", "INFO").replace(
        b"=%d " % r.id, b"=0 ")))
    r, _ = with_id(open_one(2)), t.ask("CLIENT", "TRACKING", "OFF")
    assert t.ask("CLIENT", "TRACKING", "ON", "REDIRECT", r.id) == "OK"
    got.append(t.ask("GET", "j"))
    assert other.ask("SET", "j", "1") == "OK"   # who is not subscribed is told nothing
    r.send(encode("PING"))
    got.append(r.raw())
    r.close(), t.close(), other.close()
    return got


@pytest.mark.parametrize("hears", [2, 3])
@pytest.mark.parametrize("tracks", [2, 3])
def test_who_is_named_hears_what_has_changed(proxy, rd, hears, tracks):
    direct = story(lambda n: past_weir(rd, n), hears, tracks)
    if (hears, tracks) == (2, 3):   # Redis says to it what is no RESP2
        direct = [d.replace(b"_\r\n", b"$-1\r\n") if isinstance(d, bytes) else d for d in direct]
    said = story(lambda n: proxy.resp(proto=n), hears, tracks)
    if tracks == 2:                 # without a push only Redis knows it
        direct = [[b"flags=t", b"redir=0"] if d == [b"flags=tR", b"redir=0"] else d
                  for d in direct]
    assert said == direct


def test_nobody_hears_of_keys_but_who_was_named_for_them(proxy):
    """Each pair has keys of its own; the first to hear is named by several."""
    hear = [with_id(proxy.resp(proto=2 + n % 2)) for n in range(4)]
    for r in hear:
        r.send(encode("SUBSCRIBE", CHANNEL if r is not hear[2] else "anything"))
        r.raw()
    track = [proxy.resp(proto=2 + n % 2) for n in range(8)]
    for n, t in enumerate(track):
        assert t.ask("CLIENT", "TRACKING", "ON", "REDIRECT", hear[n % 4].id) == "OK"
    other = proxy.resp()
    for turn in range(3):
        for n, t in enumerate(track):
            t.send(*[encode("GET", "k%d:%d" % (n, i)) for i in range(20)])
        for t in track:
            t.replies(20)
        other.send(*[encode("SET", "k%d:%d" % (n, i), turn)
                     for i in range(20) for n in range(len(track))])
        assert other.replies(20 * len(track)) == ["OK"] * 20 * len(track)
        for m, r in enumerate(hear):
            want = {b"k%d:%d" % (n, i) for n in range(m, len(track), 4) for i in range(20)}
            heard = []
            while len(heard) < len(want):
                said = r.reply()
                assert said[:-1] == ([b"invalidate"] if m % 2 else [b"message", CHANNEL.encode()])
                heard += said[-1]
            assert sorted(heard) == sorted(want)
    for t in track:
        assert t.ask("PING") == "PONG"
    for m, r in enumerate(hear):
        r.send(encode("PING"))
        assert r.reply() == ("PONG" if m % 2 else [b"pong", b""])


def test_a_client_may_name_itself(proxy, rd):
    for open_one in (lambda: past_weir(rd, 3), lambda: proxy.resp(proto=3)):
        r, other = with_id(open_one()), open_one()
        assert r.ask("CLIENT", "TRACKING", "ON", "REDIRECT", r.id) == "OK"
        assert r.ask("CLIENT", "GETREDIR") == r.id
        assert r.ask("GET", "k") is None
        assert other.ask("SET", "k", "1") == "OK"
        assert r.reply() == Push([b"invalidate", [b"k"]])
        r.close(), other.close()


@pytest.mark.weir_only
def test_who_is_of_another_organization_or_user_is_unknown(proxy):
    t = login(proxy, "acme_app")
    for r in (login(proxy, "beta_app"), login(proxy, "plain_app"), with_id(proxy.resp())):
        assert t.ask("CLIENT", "TRACKING", "ON", "REDIRECT", r.id) == Error(
            "ERR The client ID you want redirect to does not exist")
        r.close()
    r = login(proxy, "acme_app", proto=3)
    assert t.ask("CLIENT", "TRACKING", "ON", "REDIRECT", r.id) == "OK"
    # As somebody else it hears nothing of that any more.
    assert r.ask("AUTH", "plain_app", USERS["plain_app"][1]) == "OK"
    assert t.ask("GET", "acme:k") is None
    other = login(proxy, "acme_app")
    assert other.ask("SET", "acme:k", "1") == "OK"
    wait_for(lambda: b"broken_redirect" in t.ask("CLIENT", "TRACKINGINFO")[1], 30, "not broken")
    assert r.ask("PING") == "PONG"


@pytest.mark.weir_only
def test_who_cannot_hear_any_more_is_closed(proxy, rd):
    r, t, other = redirected(lambda n: proxy.resp(proto=n), 2, 3)
    assert t.ask("GET", "k") is None
    with past_weir(rd) as direct:
        [info] = [row for row in rows(direct.ask("CLIENT", "LIST"))
                  if row["resp"] == "3" and row["cmd"] == "ping"]
        assert direct.ask("CLIENT", "KILL", "ID", info["id"]) == 1
    assert r.until_closed() == b""
    assert other.ask("SET", "k", "1") == "OK"
    assert t.reply() == Push([b"tracking-redir-broken", r.id])
    assert b" flags=tR " in t.ask("CLIENT", "INFO")


@pytest.mark.weir_only
def test_who_waits_for_a_connection_to_hear_by_is_told_in_the_end(weir, workers):
    p = weir({"redis main": {"connections": 2, "dedicated_connections": 1},
              "weir": {"query_wait_timeout": "300ms"}}, workers)
    blocked, r, t = p.resp(), with_id(p.resp()), p.resp()
    blocked.send(encode("BLPOP", "l", 0))
    wait_for(lambda: b"cmd=blpop" in t.ask("CLIENT", "LIST"), 30, "it blocks")
    assert t.ask("CLIENT", "TRACKING", "ON", "REDIRECT", r.id) == Error(
        "ERR weir: no connection by which that client could hear of keys")
    # Who leaves while it waits, or is waited for, leaves nothing behind.
    for n in range(4):
        r, t = with_id(p.resp()), p.resp()
        t.send(encode("CLIENT", "TRACKING", "ON", "REDIRECT", r.id))
        (r if n % 2 else t).close()
        if n % 2:
            assert isinstance(t.reply(), Error)
    assert p.resp().ask("PING") == "PONG"
