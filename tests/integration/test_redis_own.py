"""
Goal:   transactions, blocking commands and whatever else needs a connection of
        its own behave as on a direct connection, over few connections, and
        nobody's reply, watch or element ever becomes another's.
Method: the same scripts to weir and to Redis, byte for byte, in RESP2 and RESP3;
        clients that leave in every state; owners whose values carry their name.
"""
import contextlib
import os
import random
import signal
import threading
import time

import pytest

import respwire
from respwire import Error, encode
from servers import REDIS_PASSWORD, Redis, scaled, wait_for
from test_redis import past_weir

OWN = 6
CONFIG = {"redis main": {"connections": 4, "dedicated_connections": OWN}}


@pytest.fixture(autouse=True)
def empty(rd):
    with contextlib.closing(rd.connect()) as r:
        r.flushall()


# Byte for byte.  A list is one write; "|" parts commands.
SCRIPTS = """
multi|set a 1|get a|incr b|lrange l 0 -1|exec|get a
multi|set a 1|discard|get a|exec|discard
multi|set a 1|nosuch x|get a|exec|get a
multi|set a 1|get|exec|get a
multi|set a 1|hget a f|exec|get a
multi|multi|watch a|set a 1|exec
multi|exec|multi|exec x|exec|get a
multi|blpop l 0|brpop l 0|blmove l m left right 0|bzpopmin z 0|xread block 0 streams x $|unwatch|wait 0 0|exec
multi|ping|echo x|eval "return{1,2}" 0|hgetall h|exec
watch a|get a|multi|set a 5|exec|get a
watch a|set a 4|multi|set a 5|exec|get a|exec
watch a|set a 4|unwatch|multi|set a 5|exec|unwatch
watch a b c|multi|set a 1|discard|set a 2|multi|get a|exec
watch a|watch|watch b|get a|multi|get b|exec
rpush l 1 2 3|blpop l 0|brpop l 0|blmove l m left left 0|brpoplpush m l 0|blmpop 0 1 l left count 2
zadd z 1 a 2 b 3 c|bzpopmin z 0|bzpopmax z 0|bzmpop 0 1 z min
blpop l 0.01|brpoplpush l m 0.01|blmove l m left right 0.01|blmpop 0.01 1 l left|bzpopmin z 0.01|bzmpop 0.01 1 z max
blpop l x|blpop l -1|brpoplpush l m|set s 1|blpop s 0|blmpop 0 x l left
xadd x 1-1 f v|xread block 10 streams x 0|xread block 10 streams x $|xgroup create x g 0|xreadgroup group g me block 10 streams x >
xreadgroup group g me block 10 streams x >|xread block x streams x 0|xread block 10 streams x
wait 0 0|wait 0 10|wait x 0|wait 1 10
client tracking on|client trackinginfo|get a|client tracking off|client trackinginfo
client tracking on optin|client caching yes|get a|client tracking on bcast|client tracking off
client caching yes|client tracking maybe|client tracking off|client tracking on prefix p
client reply on|client reply maybe|get a
""".strip().splitlines()


def words(line):
    import shlex
    return shlex.split(line)


@pytest.mark.parametrize("proto, how", [(2, "one by one"), (3, "in one write")])
def test_what_needs_its_own_connection_answers_as_redis_does(proxy, rd, proto, how):
    answers = []
    for r in (past_weir(rd, proto), proxy.resp(proto=proto)):
        got = {}
        for line in SCRIPTS:
            commands = [encode(*words(c)) for c in line.split("|")]
            if how == "in one write":
                r.send(*commands)
            got[line] = []
            for c in commands:
                if how == "one by one":
                    r.send(c)
                got[line].append(r.raw())
            r.send(encode("DEL", *"abclmshzx"))
            r.raw()
        answers.append(got)
        r.close()
    assert answers[1] == answers[0]


def test_silence_is_kept_for_whom_asked_for_it(proxy, rd):
    for r in (past_weir(rd), proxy.resp()):
        with r:
            r.send(*[encode(*c.split()) for c in (
                "CLIENT REPLY OFF", "SET r 1", "PING", "NOSUCH", "BLPOP l 0.01", "MULTI",
                "SET r 2", "EXEC", "CLIENT REPLY ON", "GET r", "CLIENT REPLY SKIP", "GET r",
                "ECHO z", "CLIENT REPLY SKIP", "PING", "PING y", "CLIENT REPLY SKIP",
                "CLIENT REPLY SKIP", "GET r", "ECHO end")])
            assert r.replies(5) == ["OK", b"2", b"z", b"y", b"end"]
            r.send(*[encode(*c.split()) for c in (
                "CLIENT REPLY SKIP", "MULTI", "SET r 3", "EXEC", "ECHO end")])
            assert r.replies(3) == ["QUEUED", ["OK"], b"end"]


def test_invalidations_reach_who_tracks_and_nobody_else(proxy):
    a, b, c = (proxy.resp(proto=3) for _ in range(3))
    assert a.ask("CLIENT", "TRACKING", "ON") == "OK"
    for n in range(5):
        assert a.ask("GET", "k%d" % n) is None
        assert b.ask("SET", "k%d" % n, "v") == "OK"
        assert a.reply() == respwire.Push([b"invalidate", [b"k%d" % n]])
        assert a.ask("PING") == "PONG"
        assert b.ask("GET", "k%d" % n) == c.ask("GET", "k%d" % n) == b"v"
    assert "does not exist" in b.ask("CLIENT", "TRACKING", "ON", "REDIRECT", "1")
    assert a.ask("RESET") == "RESET"


def hello(r):
    said = r.reply()
    return dict(said if isinstance(said, respwire.Map) else zip(said[::2], said[1::2]))[b"proto"]


@pytest.mark.parametrize("proto", [2, 3])
def test_who_holds_a_connection_may_change_the_protocol(proxy, rd, proto):
    for a, b in ((past_weir(rd, proto), past_weir(rd)), (proxy.resp(proto=proto), proxy.resp())):
        other, hashes = 5 - proto, {2: [b"f", b"v"], 3: [(b"f", b"v")]}
        assert [a.ask("HSET", "h", "f", "v"), a.ask("WATCH", "w")] == [1, "OK"]
        a.send(encode("HELLO", other), encode("HGETALL", "h"), encode("HELLO", other))
        assert [hello(a), a.reply(), hello(a)] == [other, hashes[other], other]
        assert b.ask("SET", "w", "1") == "OK"
        assert [a.ask("MULTI"), a.ask("PING"), a.ask("EXEC")] == ["OK", "QUEUED", None]
        assert a.ask("HGETALL", "h") == hashes[other]
        a.send(encode("HELLO", 3), encode("CLIENT", "TRACKING", "ON"), encode("HELLO", 2),
               encode("HELLO", 3), encode("GET", "w"))
        assert [hello(a), a.reply(), hello(a), hello(a), a.reply()] == [3, "OK", 2, 3, b"1"]
        assert b.ask("SET", "w", "2") == "OK"
        assert a.reply() == respwire.Push([b"invalidate", [b"w"]])
        assert b.ask("DEL", "w", "h") == 2
        a.close(), b.close()


def test_who_asked_for_silence_hears_invalidations_all_the_same(proxy, rd):
    for a, b in ((past_weir(rd, 3), past_weir(rd)), (proxy.resp(proto=3), proxy.resp())):
        assert [a.ask("CLIENT", "TRACKING", "ON"), a.ask("GET", "k")] == ["OK", None]
        a.send(encode("CLIENT", "REPLY", "OFF"), encode("PING"))
        assert b.ask("SET", "k", "v" * 100000) == "OK"
        assert a.reply() == respwire.Push([b"invalidate", [b"k"]])
        a.send(encode("PING"), encode("GET", "k"), encode("CLIENT", "REPLY", "ON"))
        assert [a.reply(), a.ask("PING"), b.ask("DEL", "k")] == ["OK", "PONG", 1]
        assert a.reply() == respwire.Push([b"invalidate", [b"k"]])
        a.close(), b.close()


def test_a_monitor_hears_everything_and_can_end_it(proxy):
    a, b = proxy.resp(), proxy.resp()
    assert a.ask("MONITOR") == "OK"
    for n in range(3):
        assert b.ask("SET", "k%d" % n, "v") == "OK"
        while not a.reply().endswith('"SET" "k%d" "v"' % n):
            pass        # weir's own log-ins
    assert a.ask("RESET") == "RESET"
    a.send(encode("PING"))
    assert a.reply().startswith("NOAUTH") or proxy.direct


# Order, and who has what.


def test_a_client_reads_what_it_has_written_across_connections(proxy):
    r = proxy.resp()
    for n in range(20):
        r.send(encode("SET", "k", n), encode("RPUSH", "l", n), encode("BLPOP", "l", 0),
               encode("MULTI"), encode("PING"), encode("GET", "k"), encode("EXEC"),
               encode("INCR", "k"), encode("WATCH", "k"), encode("MULTI"), encode("INCR", "k"),
               encode("EXEC"), encode("GET", "k"))
        assert r.replies(13) == ["OK", 1, [b"l", b"%d" % n], "OK", "QUEUED", "QUEUED",
                                 ["PONG", b"%d" % n], n + 1, "OK", "OK", "QUEUED", [n + 2],
                                 b"%d" % (n + 2)]


def test_a_watch_notices_another_client_on_whatever_connection(proxy):
    a, b = proxy.resp(), proxy.resp()
    for change in (["SET", "k", "x"], ["DEL", "k"]):
        assert a.ask("WATCH", "k") == "OK"
        assert not isinstance(b.ask(*change), Error)
        a.send(encode("MULTI"), encode("SET", "k", "mine"), encode("EXEC"))
        assert a.replies(3) == ["OK", "QUEUED", None]


def test_states_that_clients_leave_behind_are_nobody_elses(proxy, rd):
    for left in ([("MULTI",), ("SET", "k", "left")], [("WATCH", "k")],
                 [("CLIENT", "TRACKING", "ON")], [("MONITOR",)], [("CLIENT", "REPLY", "OFF")],
                 [("WATCH", "k"), ("SELECT", "5")]):
        for _ in range(3):
            r = proxy.resp(proto=3)
            r.send(*[encode(*c) for c in left])
            r.send(encode("PING"))
            time.sleep(0.01)
            r.close()
        r = proxy.resp(proto=3)
        assert r.ask("SET", "k", "v") == "OK"
        assert r.ask("WATCH", "other") == "OK"
        assert r.ask("GET", "k") == b"v"
        r.send(encode("MULTI"), encode("GET", "k"), encode("EXEC"))
        assert r.replies(3) == ["OK", "QUEUED", [b"v"]]
        assert r.ask("BLPOP", "none", "0.01") is None
    with contextlib.closing(rd.connect()) as direct:
        assert direct.get("k") == b"v"


@pytest.mark.weir_only
def test_who_leaves_while_blocked_takes_nothing_along(proxy, rd):
    with contextlib.closing(rd.connect()) as direct:
        def blocked():
            return int(direct.info("clients")["blocked_clients"])
        for n in range(OWN + 2):        # more often than there are connections
            r = proxy.resp()
            r.send(encode("BLPOP", "l", 0))
            wait_for(lambda: blocked() == 1, 5, "BLPOP does not arrive")
            r.close()
            wait_for(lambda: blocked() == 0, 5, "BLPOP outlives its client")
            direct.rpush("l", n)
            assert direct.llen("l") == 1
            direct.delete("l")


@pytest.mark.weir_only
def test_hundreds_of_clients_need_few_connections(proxy, rd):
    clients = [proxy.resp() for _ in range(100)]
    most = 0
    for command in [("WATCH", "k"), ("MULTI",), ("SET", "k", "v")]:
        for r in clients[:OWN]:
            r.send(encode(*command))
        for r in clients[:OWN]:
            assert r.reply() in ("OK", "QUEUED")
        most = max(most, len(rd.clients()))
    for r in clients[OWN:]:
        r.send(encode("SET", "other", 1), encode("BLPOP", "none", 0.01))
    for r in clients[:OWN]:
        assert isinstance(r.ask("EXEC"), (list, type(None)))
    for r in clients[OWN:]:
        assert r.replies(2) == ["OK", None]
    most = max(most, len(rd.clients()))
    assert most <= 4 + OWN


@pytest.mark.weir_only
def test_who_waits_too_long_for_a_connection_is_told_so(weir, workers):
    w = weir({"redis main": {"dedicated_connections": 1}}, workers)
    a = w.resp()
    assert a.ask("WATCH", "k") == "OK"
    w.reload({"weir": {"query_wait_timeout": "300ms"}})     # of those who come now
    b, c = w.resp(), w.resp()
    assert b.ask("BLPOP", "l", 0) == "ERR weir: query_wait_timeout"
    assert b.ask("SET", "k", "v") == "OK"
    assert c.ask("MULTI") == "ERR weir: query_wait_timeout"
    with pytest.raises(respwire.Closed):
        c.ask("SET", "k", "not in a transaction")
    a.close()
    wait_for(lambda: b.ask("BLPOP", "l", 0.01) is None, what="it waits in vain")


def of_db_7(redis):
    """Connections of clients that have selected it: what each was asked last."""
    return {c["id"]: c["cmd"] for c in redis.clients() if c["db"] == "7"}


def ready(redis):
    """How many have logged in and were not lent yet."""
    return list(of_db_7(redis).values()).count("ping")


@pytest.mark.weir_only
def test_connections_are_ready_before_anybody_wants_one(weir, workers, rd):
    w = weir({"redis main": {"min_dedicated_connections": 3}}, workers)
    crowd = [w.resp() for _ in range(6)]
    for r in crowd:
        assert r.ask("SELECT", 7) == "OK" and r.ask("GET", "k") is None
    wait_for(lambda: ready(rd) == 3)
    before = set(of_db_7(rd))
    for command in [("WATCH", "k"), ("MULTI",)]:
        for r in crowd[:3]:
            assert r.ask(*command) == "OK"
    for r in crowd[:3]:
        assert r.ask("EXEC") == []
    # Who asks where none is may have one opened before another's comes over.
    after = set(of_db_7(rd))
    assert after >= before and (workers > 1 or after == before)


@pytest.fixture
def other(folder, authority):
    server = Redis(folder, authority, "other-%d" % random.randrange(10 ** 9))
    yield server
    server.stop()


@pytest.mark.weir_only
def test_a_reload_says_how_many_are_ready_and_where(weir, workers, rd, other):
    w = weir({}, workers)
    a = w.resp()
    assert a.ask("SELECT", 7) == "OK" and a.ask("GET", "k") is None
    assert ready(rd) == 0
    w.reload({"redis main": {"min_dedicated_connections": 2}})
    wait_for(lambda: ready(rd) == 2)
    w.reload({"redis main": {"url": "redis://:%s@127.0.0.1:%d/0" % (other.password, other.port)}})
    wait_for(lambda: ready(rd) == 0)
    b = w.resp()
    assert b.ask("SELECT", 7) == "OK" and b.ask("GET", "k") is None
    wait_for(lambda: ready(other) == 2)
    assert ready(rd) == 0


@pytest.mark.weir_only
def test_wait_is_about_what_this_client_has_written(weir, workers, rd, folder, authority):
    replica = Redis(folder, authority, "replica-%d" % random.randrange(10 ** 9))
    with contextlib.closing(rd.connect()) as direct:
        direct.config_set("repl-diskless-sync-delay", 0)
    with contextlib.closing(replica.connect()) as r:
        r.config_set("masterauth", rd.password)
        r.slaveof("127.0.0.1", rd.port)
        try:
            wait_for(lambda: r.info("replication")["master_link_status"] == "up", 20)
            w = weir({}, workers)
            a = w.resp()
            for n in range(3):
                assert a.ask("SET", "k", n) == "OK"
                assert a.ask("WAIT", 1, 20000) == 1
            os.kill(replica.process.pid, signal.SIGSTOP)
            assert a.ask("SET", "k", "v") == "OK"
            assert a.ask("WAIT", 1, 50) == 0
        finally:
            os.kill(replica.process.pid, signal.SIGCONT)
            replica.stop()


# Everybody at once.


def owner(proxy, n, end, wrong):
    """All it writes and reads carries its name; it leaves when it likes."""
    rng, me = random.Random(n), b"own-%d" % n
    turns = lives = 0
    try:
        while time.monotonic() < end:
            lives += 1      # what the last one sent may still be carried out
            k, q = b"%b:k%d" % (me, lives), b"%b:q%d" % (me, lives)
            with respwire.Resp(proxy.redis_port, timeout=scaled(20)) as r:
                r.ask("HELLO", 2 + n % 2, "AUTH", "default", REDIS_PASSWORD)
                for _ in range(rng.randrange(1, 6)):
                    turns += 1
                    v = b"%b %d" % (me, turns)
                    scripts = [
                        ([("SET", k, v), ("GET", k)], ["OK", v]),
                        ([("MULTI",), ("SET", k, v), ("GET", k), ("EXEC",), ("ECHO", v)],
                         ["OK", "QUEUED", "QUEUED", ["OK", v], v]),
                        ([("WATCH", k), ("SET", k, v), ("MULTI",), ("GET", k), ("EXEC",)],
                         ["OK", "OK", "OK", "QUEUED", None]),
                        ([("WATCH", k), ("MULTI",), ("ECHO", v), ("EXEC",), ("ECHO", v)],
                         ["OK", "OK", "QUEUED", [v], v]),
                        ([("DEL", q), ("RPUSH", q, v), ("BLPOP", q, 5), ("ECHO", v)],
                         [..., 1, [q, v], v]),
                        ([("DEL", q), ("BLPOP", q, 0.005), ("ECHO", v)], [..., None, v])]
                    ask, want = rng.choice(scripts)
                    sent = [encode(*c) for c in ask]
                    if rng.random() < 0.15:     # and gone, at any byte
                        sent = b"".join(sent)
                        r.send(sent[:rng.randrange(len(sent))])
                        break
                    if rng.random() < 0.5:
                        r.send(*sent)
                        got = [r.reply() for _ in want]
                    else:
                        got = [r.ask(*c) for c in ask]
                    bad = [(w, g) for w, g in zip(want, got) if w is not ... and w != g]
                    if bad:
                        wrong.append((n, ask, bad))
                        return
    except Exception as e:
        wrong.append((n, type(e).__name__, str(e)))


def test_fifty_owners_hear_nothing_of_each_other(proxy, rd):
    wrong, end = [], time.monotonic() + scaled(3)
    threads = [threading.Thread(target=owner, args=[proxy, n, end, wrong]) for n in range(50)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert proxy.direct or len(rd.clients()) <= 2 * 4 + OWN


@pytest.mark.weir_only
def test_who_ends_a_script_or_a_pause_does_not_wait_behind_it(weir, workers, folder, authority):
    server = Redis(folder, authority, "busy%d" % workers, ["--lua-time-limit", "10"])
    loop = "#!lua name=busy\nredis.register_function('busy', function() while true do end end)"
    try:
        w = weir({"redis main": {"connections": 1, "profile": "dedicated", "url":
                  "redis://:%s@127.0.0.1:%d" % (server.password, server.port)}}, workers)
        assert w.resp().ask("FUNCTION", "LOAD", loop) == b"busy"
        for proto, kind, ask in [(2, "SCRIPT", ("EVAL", "while true do end", 0)),
                                 (3, "FUNCTION", ("FCALL", "busy", 0))]:
            with w.resp() as busy, w.resp(proto=proto) as other:
                assert other.ask("SELECT", 9) == "OK"
                busy.send(encode(*ask))
                wait_for(lambda: other.ask(kind, "KILL") == "OK", 20, "nothing to kill")
                assert "killed by user" in busy.reply()
                assert other.ask("SET", "k", kind) == "OK"
                assert [busy.ask("GET", "k"), other.ask("GET", "k")] == [None, kind.encode()]
                assert other.ask("CLIENT", "PAUSE", 600000, "WRITE") == "OK"
                busy.send(encode("DEL", "k"))
                assert other.ask("GET", "k") == kind.encode()
                assert other.ask("CLIENT", "UNPAUSE") == "OK"
                assert busy.reply() == 0
                assert other.ask("GET", "k") == kind.encode()
    finally:
        server.stop(signal.SIGKILL)     # it may be busy


@pytest.mark.weir_only
def test_who_ends_a_script_or_a_pause_does_what_it_can_without_dedicated_connections(weir, workers):
    w = weir({"redis main": {"profile": "dedicated", "dedicated_connections": 0}}, workers)
    with w.resp() as r:
        assert r.ask("SCRIPT", "KILL") == "NOTBUSY No scripts in execution right now."
        assert r.ask("CLIENT", "PAUSE", 1) == r.ask("CLIENT", "UNPAUSE") == r.ask("SET", "k", 1) == "OK"
