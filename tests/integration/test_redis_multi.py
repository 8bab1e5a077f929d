"""
Goal:   what a client may say between MULTI and EXEC does, and answers, what it
        does on a direct connection: also SELECT, HELLO, CLIENT and SUBSCRIBE,
        which are about the client itself; and nothing of it is left on the
        connection that the next one borrows.
Method: the same scripts to weir and to Redis, byte for byte, in RESP2 and RESP3;
        transactions that fail, are discarded, or lose their client or server at
        every place; those that borrow next look at what they have got.
"""
import contextlib
import re
import signal

import pytest

import respwire
from respwire import Error, Push, encode
from servers import REDIS_PASSWORD, USERS, Redis, wait_for
from test_redis import past_weir
from test_redis_own import words

CONFIG = {"redis main": {"connections": 4, "dedicated_connections": 3}}


@pytest.fixture(autouse=True)
def empty(rd):
    with contextlib.closing(rd.connect()) as r:
        r.flushall()


# Byte for byte, but for ids.  All end in database 9, nameless, and with no key.
SCRIPTS = """
multi|select 3|set a 1|exec|get a|del a|select 9|get a
multi|select 3|set a 1|discard|get a|select 9
multi|select 3|get|exec|get a|select 9
multi|select 99|set a 1|select x|select -1|exec|get a|del a
multi|select 3|select 4|set a 1|select 5|exec|get a|select 4|del a|select 9
watch a|multi|select 3|set a 1|exec|get a|del a|select 9
multi|select 3|exec|watch a|multi|set a 1|select 9|exec|get a|select 3|del a|select 9
set a 0|watch a|set a 1|multi|select 3|set a 2|exec|get a|del a
multi|hello 3|hset h f v|hgetall h|hello 2|hgetall h|get b|exec|get b|del h
multi|hello 2|get b|exec|get b|multi|hello 3|get b|exec|get b
multi|hello|hello 4|hello x|hello 3 foo|hello 3 setname|hello 3 setname "a b"|get b|exec|get b
multi|hello 3 setname bob|client getname|exec|client getname|client setname ""|hello 2
multi|hello 2 setname bob foo|exec|client getname|client setname ""
multi|hello 3|discard|get b
multi|client getname|client setname foo|client getname|client setname "a b"|exec|client getname|client setname ""
multi|client setname foo|discard|client getname
multi|client setname|exec|client getname
multi|client no-evict on|client no-evict x|client no-evict off|client reply on|client reply x|exec
multi|client kill 1.1.1.1:1|client kill id 99999999|client kill foo bar|client kill id x|exec
multi|client getredir|client trackinginfo|client caching yes|client caching no|exec
multi|client tracking on|client trackinginfo|client getredir|exec|client trackinginfo|client tracking off|client trackinginfo
multi|client tracking on optin|client caching yes|get a|client tracking off|exec|client trackinginfo
multi|client tracking on\0x|get a|exec|client trackinginfo|client tracking off
multi|client tracking maybe|client tracking on prefix p|client tracking off|exec|client trackinginfo
multi|client tracking on|discard|client trackinginfo
multi|client help|exec
multi|client foo|exec
multi|readonly|readwrite|asking|exec
multi|ssubscribe s|set a 1|exec|get a|del a
multi|unsubscribe|unsubscribe x|punsubscribe|punsubscribe x|sunsubscribe|sunsubscribe x|exec|ping
multi|subscribe a|set a 1|exec|ping|unsubscribe|get a|del a
multi|psubscribe a*|set a 1|get a|exec|ping|punsubscribe a*|get a|del a
multi|set a 1|subscribe a|psubscribe b|unsubscribe a|punsubscribe b|get a|exec|get a|del a
multi|subscribe a|discard|get a
multi|subscribe a|get|exec|get a
multi|monitor|exec
multi|reset x|exec
multi|role|echo x|ping|acl whoami x|exec
multi|auth PASSWORD|acl whoami|set a 1|exec|acl whoami|get a|del a
multi|auth default PASSWORD|auth default wrong|acl whoami|auth a b c|auth wrong|exec|acl whoami
multi|select 3|set a 1|auth PASSWORD|get a|exec|get a|del a|select 9
multi|auth|exec
multi|auth default PASSWORD|discard|acl whoami
multi|hello 3 auth default PASSWORD|get b|acl whoami|exec|get b
multi|hello 3 auth default PASSWORD setname foo|client getname|exec|client getname|client setname ""
multi|hello 3 setname foo auth default wrong|get b|client getname|exec|client getname|get b|client setname ""
multi|hello 2 auth default|hello 3 auth default PASSWORD foo|get b|exec|get b
watch a|auth PASSWORD|hello 3 auth default PASSWORD|set a 1|multi|get a|exec|get a|del a
multi|client unblock 99999999|client unblock 99999999 error|client unblock 5 foo|client unblock x|exec
multi|client unblock 5 timeout foo|client unblock 99999999 timeout|set a 1|exec|get a|del a
multi|client unblock|exec
""".strip().splitlines()

ID = re.compile(rb"(\$2\r\nid\r\n:)\d+\r\n")


def run(r, line, proto, how, password=REDIS_PASSWORD):
    commands = [encode(*words(c)) for c in line.replace("PASSWORD", password).split("|")]
    if how == "in one write":
        r.send(*commands)
    said = []
    for c in commands:
        if how == "one by one":
            r.send(c)
        said.append(ID.sub(rb"\1N\r\n", r.raw()))
    r.ask("HELLO", proto)
    return said


@pytest.mark.parametrize("how", ["one by one", "in one write"])
@pytest.mark.parametrize("proto", [2, 3])
def test_what_is_said_in_a_transaction_is_answered_as_redis_does(proxy, rd, proto, how):
    with past_weir(rd, proto) as direct, proxy.resp(proto=proto) as r:
        assert r.ask("SELECT", 9) == "OK"
        for line in SCRIPTS:
            assert run(r, line, proto, how) == run(
                direct, line, proto, how, rd.password), line
            assert direct.ask("DBSIZE") == 0, line


def test_what_is_known_here_alone_is_told_in_a_transaction(proxy):
    with proxy.resp() as r:
        me = r.ask("CLIENT", "ID")
        r.send(*[encode(*c.split()) for c in (
            "MULTI", "CLIENT ID", "SET a 1", "CLIENT INFO", "ACL WHOAMI", "CLIENT LIST",
            "CLIENT SETINFO lib-name x", "GET a", "SELECT 3", "CLIENT INFO", "EXEC", "CLIENT INFO")])
        assert r.replies(10) == ["OK"] + ["QUEUED"] * 9
        id, ok, info, whoami, all, setinfo, a, select, later = r.reply()
        assert (id, ok, whoami, setinfo, a, select) == (me, "OK", b"default", "OK", b"1", "OK")
        for line in (info, all, later):
            assert b"id=%d " % me in line and b" flags=x " in line and b" multi=9 " in line
        assert b" db=0 " in info and b" db=3 " in later
        after = r.reply()
        assert b" flags=N db=3 " in after and b" multi=-1 " in after


def test_a_client_may_be_killed_from_a_transaction_and_so_may_who_asks(proxy):
    a, b = proxy.resp(), proxy.resp()
    id = [c.ask("CLIENT", "ID") for c in (a, b)]
    a.send(*[encode(*c.split()) for c in (
        "MULTI", "SET a 1", "CLIENT KILL ID %d" % id[1], "GET a", "EXEC", "GET a")])
    assert a.replies(6) == ["OK", "QUEUED", "QUEUED", "QUEUED", ["OK", 1, b"1"], b"1"]
    assert b.until_closed() == b""
    a.send(*[encode(*c.split()) for c in (
        "MULTI", "CLIENT KILL ID %d SKIPME no" % id[0], "GET a", "EXEC", "GET a")])
    assert a.replies(3) == ["OK", "QUEUED", "QUEUED"]
    assert a.until_closed() == b"*2\r\n:1\r\n"
    a.close(), b.close()


# Where it is to hear what others publish.


@pytest.mark.parametrize("proto", [2, 3])
def test_who_subscribes_in_a_transaction_hears_from_then_on(proxy, rd, proto):
    heard = []
    for r, other in ((past_weir(rd, proto), past_weir(rd)),
                     (proxy.resp(proto=proto), proxy.resp())):
        r.send(encode("MULTI"), encode("SUBSCRIBE", "a", "b"), encode("PSUBSCRIBE", "c*"),
               encode("ECHO", "x"), encode("EXEC"))
        # Two confirmations for one of three: so has it Redis.
        got = [r.raw() for _ in range(6)]
        for channel in ("a", "b", "cc"):
            other.ask("PUBLISH", channel, "1")
            got.append(r.raw())
        r.send(encode("UNSUBSCRIBE", "a", "b"), encode("PUNSUBSCRIBE"))
        got += [r.raw() for _ in range(3)]
        heard.append(got)
        assert r.ask("GET", "k") is None
        r.close(), other.close()
    assert heard[1] == heard[0]


def test_messages_wait_until_a_transaction_is_told(proxy):
    r, other = proxy.resp(proto=3), proxy.resp()
    assert r.ask("SUBSCRIBE", "a") == Push([b"subscribe", b"a", 1])
    for n in range(20):
        r.send(encode("MULTI"), encode("PING"), encode("CLIENT", "LIST"), encode("UNSUBSCRIBE", "x"),
               encode("SUBSCRIBE", "c%d" % n), encode("PING"), encode("EXEC"))
        sent = 0
        seen, replies = [], []
        while len(replies) < 7:
            if sent < 5:
                other.send(encode("PUBLISH", "a", n))
                sent += 1
            said = r.reply()
            (seen if isinstance(said, Push) else replies).append(said)
        exec = replies[-1]
        assert exec[0] == exec[4] == "PONG" and exec[2] == Push([b"unsubscribe", b"x", n + 1])
        assert exec[3] == Push([b"subscribe", b"c%d" % n, n + 2])
        while len(seen) < sent:
            seen.append(r.reply())
        assert seen == [Push([b"message", b"a", b"%d" % n])] * sent
        other.replies(sent)
    r.close(), other.close()


@pytest.mark.parametrize("proto", [2, 3])
def test_who_asks_for_silence_in_a_transaction_is_not_answered_from_there_on(proxy, rd, proto):
    said = []
    for r in (past_weir(rd, proto), proxy.resp(proto=proto)):
        r.send(*[encode(*c.split()) for c in (
            "MULTI", "PING", "CLIENT REPLY OFF", "SELECT 4", "SET a 1", "EXEC", "GET a",
            "MULTI", "CLIENT SETNAME x", "CLIENT REPLY ON", "CLIENT GETNAME", "EXEC", "GET a",
            "MULTI", "CLIENT REPLY SKIP", "DEL a", "EXEC", "ECHO unheard", "ECHO heard")])
        got = b""
        while not got.endswith(b"heard\r\n"):
            got += r.sock.recv(65536)
        said.append(got)
        r.close()
    assert said[1] == said[0]


def test_what_is_tracked_in_a_transaction_is_invalidated(proxy, rd):
    for r, other in ((past_weir(rd, 3), past_weir(rd)), (proxy.resp(proto=3), proxy.resp())):
        r.send(*[encode(*c.split()) for c in (
            "MULTI", "CLIENT TRACKING ON", "GET k", "EXEC", "GET l")])
        assert r.replies(5) == ["OK", "QUEUED", "QUEUED", ["OK", None], None]
        for key in ("k", "l"):
            assert other.ask("SET", key, "1") == "OK"
            assert r.reply() == Push([b"invalidate", [key.encode()]])
        r.send(*[encode(*c.split()) for c in (
            "MULTI", "GET k", "SELECT 4", "CLIENT TRACKING OFF", "EXEC", "GET l")])
        assert r.replies(6) == ["OK", "QUEUED", "QUEUED", "QUEUED", [b"1", "OK", "OK"], None]
        assert other.ask("DEL", "k", "l") == 2
        assert r.ask("PING") == "PONG"
        r.close(), other.close()


# What is refused.


@pytest.mark.parametrize("command, why", [
    ("AUTH acme_app acme-secret", "auth is not supported as another user inside MULTI"),
    ("HELLO 3 AUTH acme_app acme-secret", "hello is not supported as another user inside MULTI"),
    ("SYNC", "sync is not supported inside MULTI"),
    ("CLIENT TRACKING ON REDIRECT 5", "client|tracking is not supported with REDIRECT inside"
     " MULTI"),
    ("CLIENT TRACKING ON REDIRECT\0x 5", "client|tracking is not supported with REDIRECT inside"
     " MULTI"),
    ("CLIENT TRACKING ON|AUTH %s" % REDIS_PASSWORD, "auth is not supported inside MULTI while keys"
     " are tracked"),
    ("CLIENT TRACKING ON|HELLO 3 AUTH default %s" % REDIS_PASSWORD, "hello is not supported inside"
     " MULTI while keys are tracked"),
    ("CLIENT TRACKING ON|SUBSCRIBE a", "subscribe is not supported inside MULTI while keys are"
     " tracked"),
    ("SUBSCRIBE a|CLIENT TRACKING ON", "client|tracking is not supported there inside MULTI"),
    ("CLIENT ID|" * 1024 + "CLIENT ID", "client|id is not supported so often inside one MULTI"),
    ("CLIENT SETNAME %s" % ("x" * (1 << 20)), "client|setname is not supported so often inside one"
     " MULTI"),
])
def test_what_cannot_be_carried_is_refused_and_the_transaction_fails(proxy, command, why):
    commands = command.split("|")
    with proxy.resp() as r:
        assert r.ask("MULTI") == "OK"
        for c in commands[:-1]:
            assert r.ask(*c.split()) == "QUEUED"
        assert r.ask(*commands[-1].split()) == Error("ERR weir: " + why)
        assert r.ask("EXEC").startswith("EXECABORT")
        assert r.ask("CLIENT", "GETNAME") is None
        assert r.ask("GET", "a") is None


@pytest.mark.parametrize("login", ["AUTH plain_app %s", "HELLO 3 AUTH plain_app %s"])
def test_who_is_the_same_user_upstream_may_change_the_name_in_a_transaction(proxy, login):
    login = login % USERS["plain_app"][1]
    with proxy.resp() as r, proxy.resp() as other:
        r.send(*[encode(*c.split()) for c in (
            "MULTI", "SET a 1", "ACL WHOAMI", login, "GET a", "ACL WHOAMI", "EXEC", "ACL WHOAMI")])
        assert r.replies(6) == ["OK"] + ["QUEUED"] * 5
        said = r.reply()
        assert said[:2] + said[3:] == ["OK", b"default", b"1", b"plain_app"]
        assert r.reply() == b"plain_app"
        r.send(*[encode(*c.split()) for c in (
            "WATCH a", "AUTH default %s" % REDIS_PASSWORD, "ACL WHOAMI")])
        assert r.replies(3) == ["OK", "OK", b"default"]
        assert other.ask("SET", "a", "2") == "OK"
        r.send(encode("MULTI"), encode("GET", "a"), encode("EXEC"))
        assert r.replies(3) == ["OK", "QUEUED", None]       # it watches still


def test_who_watches_becomes_nobody_else(proxy):
    with proxy.resp() as r:
        assert r.ask("WATCH", "a") == "OK"
        for how in ("auth", "hello"):
            command = ["HELLO", "3"] if how == "hello" else []
            assert r.ask(*command, "AUTH", "acme_app", USERS["acme_app"][1]) == Error(
                "ERR weir: %s is not supported as another user while keys are watched or tracked"
                % how)
        assert r.ask("AUTH", "acme_app", "wrong").startswith("WRONGPASS")
        assert r.ask("ACL", "WHOAMI") == b"default"


@pytest.mark.parametrize("proto", [2, 3])
def test_who_waits_is_unblocked_from_a_transaction(proxy, rd, proto):
    said = []
    for open_one in (lambda n: past_weir(rd, n), proxy.resp):
        waiting, r = open_one(2), open_one(proto)
        id = waiting.ask("CLIENT", "ID")
        waiting.send(encode("BLPOP", "l", 0))
        wait_for(lambda: b"flags=b" in r.ask("CLIENT", "LIST", "ID", id), 30, "blocked")
        with past_weir(rd) as direct:
            wait_for(lambda: b"cmd=blpop" in direct.ask("CLIENT", "LIST"), 30, "blocked there")
        commands = ["MULTI", "SET a 1", "CLIENT UNBLOCK %d ERROR" % id, "GET a",
                    "CLIENT UNBLOCK %d" % id, "PING", "EXEC", "GET a", "DEL a"]
        r.send(*[encode(*c.split()) for c in commands])
        said.append([r.raw() for _ in commands] + [waiting.raw()])
        r.close(), waiting.close()
    assert said[1] == said[0]


@pytest.mark.weir_only
def test_an_organization_does_not_leave_its_database_in_a_transaction(weir):
    p = weir({"redis main": {"connections": 2, "dedicated_connections": 2, "profile": "shared"}})
    with p.resp(login=False) as r:
        assert r.ask("AUTH", "acme_app", USERS["acme_app"][1]) == "OK"
        for db, ok in ((1, False), (0, True)):
            assert r.ask("MULTI") == "OK"
            said = r.ask("SELECT", db)
            assert said == "QUEUED" if ok else said.startswith("NOPERM")
            assert r.ask("EXEC") == ["OK"] if ok else r.ask("EXEC").startswith("EXECABORT")


@pytest.mark.weir_only
def test_an_organization_hears_in_a_transaction_what_it_hears_outside(weir):
    p = weir({"redis main": {"connections": 2, "dedicated_connections": 2, "profile": "shared"}})
    asked = [["INFO"], ["INFO", "replication"], ["INFO", "keyspace"], ["CLUSTER", "INFO"],
             ["CONFIG", "GET", "save"], ["COMMAND", "COUNT"], ["ROLE"]]
    for user, password in (("acme_app", USERS["acme_app"][1]), ("default", REDIS_PASSWORD)):
        with p.resp(login=False) as r:
            assert r.ask("AUTH", user, password) == "OK"
            outside = [r.ask(*words) for words in asked]
            r.send(encode("MULTI"), *[encode(*words) for words in asked], encode("EXEC"))
            assert r.replies(1 + len(asked)) == ["OK"] + ["QUEUED"] * len(asked)
            inside = r.reply()
            assert inside[1:] == outside[1:]
            if user == "acme_app":
                assert inside[0] == outside[0] and b"connected_clients" not in inside[0]
            assert r.ask("MULTI") == "OK"
            assert r.ask("CONFIG", "GET", "dir").startswith("NOPERM")
            assert r.ask("EXEC").startswith("EXECABORT")


# What is left behind.

LEAVES = ["SELECT 5", "HELLO 3", "CLIENT TRACKING ON BCAST", "CLIENT REPLY OFF", "SUBSCRIBE a",
          "CLIENT SETNAME x", "SELECT 5|CLIENT LIST"]


@pytest.mark.parametrize("left", LEAVES)
@pytest.mark.parametrize("end", ["EXEC", "DISCARD", "nothing", "EXEC and gone"])
def test_nothing_of_a_transaction_is_left_for_the_next(proxy, left, end):
    for n in range(4):
        r = proxy.resp()
        r.send(encode("MULTI"), *[encode(*c.split()) for c in left.split("|")], encode("SET", "k", n))
        if end != "nothing":
            r.send(encode(end.split()[0]))
        if end != "EXEC and gone":
            r.reply(), r.reply(), r.reply()
        r.close()
        with proxy.resp() as r:     # of a key of its own: the SET may come after all
            r.send(encode("WATCH", "w"), encode("SET", "a", "b"), encode("HSET", "h", "f", n),
                   encode("HGETALL", "h"), encode("CLIENT", "TRACKINGINFO"), encode("MULTI"),
                   encode("GET", "a"), encode("DEL", "h", "a"), encode("EXEC"))
            assert r.replies(4) == ["OK", "OK", 1, [b"f", b"%d" % n]]
            assert r.reply()[1] == [b"off"]
            assert r.replies(4) == ["OK", "QUEUED", "QUEUED", [b"b", 2]]


@pytest.mark.weir_only
def test_who_loses_the_server_in_the_middle_of_exec_is_closed(weir, workers, folder, authority):
    server = Redis(folder, authority, "gone%d" % workers, ["--lua-time-limit", "10"])
    try:
        w = weir({"redis main": {"profile": "dedicated", "url":
                  "redis://:%s@127.0.0.1:%d" % (server.password, server.port)}}, workers)
        with w.resp() as r:
            r.send(encode("MULTI"), encode("SELECT", "3"), encode("EVAL", "while true do end", 0),
                   encode("EXEC"))
            assert r.replies(3) == ["OK", "QUEUED", "QUEUED"]
            with respwire.Resp(server.port) as direct:
                wait_for(lambda: direct.ask("AUTH", server.password).startswith("BUSY") or
                         direct.ask("GET", "k"), 20, "it does not run")
                server.stop(signal.SIGKILL)
            assert r.until_closed() == b"-ERR weir: upstream connection lost\r\n"
    finally:
        server.stop(signal.SIGKILL)
