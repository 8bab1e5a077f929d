"""
Goal:   a subscriber cannot tell weir from Redis, and thousands of them cost
        one connection there.
Method: the same dialogues with weir and with Redis, byte for byte, in RESP2
        and RESP3, on 1 and on 4 workers; numbered messages, each to be heard
        once and in order; then subscribers who leave, who do not read, who may
        not, and a Redis that goes away.
"""
import contextlib
import itertools
import os
import select
import socket
import threading
import time

import pytest

import respwire
from respwire import Closed, Error, Push, encode
from servers import REDIS_PASSWORD, USERS, Redis, scaled, wait_for

SERVERS = itertools.count()
SOAK = bool(os.environ.get("WEIR_SOAK"))
PROTOS = pytest.mark.parametrize("proto", [2, 3], ids="RESP{}".format)


def past_weir(rd, proto=2):
    r = respwire.Resp(rd.port)
    if proto == 3:
        r.ask("HELLO", "3", "AUTH", "default", rd.password)
    else:
        r.ask("AUTH", rd.password)
    return r


def subscribers(rd):
    """Connections of weir (and others) that subscribe to something."""
    return [c for c in rd.clients() if any(int(c[k]) for k in ("sub", "psub"))]


def alone(rd):
    """Nobody is left to subscribe: for tests that count."""
    wait_for(lambda: not subscribers(rd), 15, "somebody still subscribes")


class Both:
    """A client of weir and one of Redis, who say the same and must hear the same."""

    def __init__(self, proxy, rd, proto):
        self.weir, self.redis = proxy.resp(proto), past_weir(rd, proto)

    def __call__(self, line, n=1):
        request = line if isinstance(line, bytes) else encode(*line.split())
        answers = []
        for r in (self.weir, self.redis):
            r.send(request)
            answers.append([r.raw() for _ in range(n)])
        assert answers[0] == answers[1], line
        return answers[0]

    def hears(self, n=1):
        raw = [[r.raw() for _ in range(n)] for r in (self.weir, self.redis)]
        assert raw[0] == raw[1]
        return raw[0]

    def close(self):
        self.redis.close()


@pytest.fixture
def both(proxy, rd, proto):
    b = Both(proxy, rd, proto)
    yield b
    b.close()


@pytest.fixture
def publish(rd):
    with contextlib.closing(past_weir(rd)) as r:
        yield lambda channel, text="x": r.ask("PUBLISH", channel, text)


# Confirmations.


@PROTOS
def test_confirmations_are_those_of_redis(both):
    both("SUBSCRIBE a")
    both("SUBSCRIBE b c a", 3)
    both("PSUBSCRIBE p* q*", 2)
    both("SUBSCRIBE a a a", 3)
    both("SSUBSCRIBE s t", 2)
    both("UNSUBSCRIBE b")
    both("UNSUBSCRIBE b nowhere", 2)
    both("PUNSUBSCRIBE p*")
    both("PUNSUBSCRIBE p*")
    both("SUNSUBSCRIBE s s", 2)
    both("SUNSUBSCRIBE")
    both("SUNSUBSCRIBE")
    both("PUNSUBSCRIBE")
    both("PUNSUBSCRIBE")
    both("UNSUBSCRIBE a c", 2)
    both("UNSUBSCRIBE")
    both("GET k")


@PROTOS
@pytest.mark.parametrize("line", ["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE",
                                  "UNSUBSCRIBE a b", "PUNSUBSCRIBE a* b", "SUNSUBSCRIBE a b"])
def test_who_subscribes_to_nothing_may_unsubscribe(both, line):
    both(line, max(1, len(line.split()) - 1))
    both("SET k v")
    both(b"*2\r\n$9\r\nSUBSCRIBE\r\n$0\r\n\r\n")
    both(line, max(1, len(line.split()) - 1) if " " in line or line[0] != "U" else 1)


@PROTOS
def test_unsubscribing_from_all_counts_down(both):
    both("SUBSCRIBE a b c d", 4)
    both("PSUBSCRIBE x y", 2)
    for r in (both.weir, both.redis):
        r.send(encode("UNSUBSCRIBE"))
        said = r.replies(4)
        assert sorted(s[1] for s in said) == [b"a", b"b", b"c", b"d"]
        assert [s[2] for s in said] == [5, 4, 3, 2]
    both("UNSUBSCRIBE")
    both("PUNSUBSCRIBE x y", 2)
    both("GET k")


@PROTOS
def test_wrong_numbers_of_arguments_and_what_else_is_allowed(both):
    both("SUBSCRIBE")
    both("PSUBSCRIBE")
    both("SSUBSCRIBE")
    both("SUBSCRIBE a")
    for line in ("GET k", "get", "nonsense", "CLIENT GETNAME", "client NONSENSE", "SET k v",
                 "ECHO x", "PING", "PING hello", "PING a b", "SELECT 1", "SELECT 0",
                 "CLIENT ID x", "SUBSCRIBE", "EXEC"):
        both(line)
    both("UNSUBSCRIBE a")
    both("GET k")
    both("PING")


def test_hello_and_commands_of_the_connection_in_resp2_mode(proxy, rd):
    b = Both(proxy, rd, 2)
    b("SUBSCRIBE a")
    for line in ("HELLO 3", "HELLO", "AUTH x", "AUTH default x", "MULTI", "CLIENT SETNAME x",
                 "COMMAND COUNT", "CLIENT REPLY OFF", "PUBSUB CHANNELS"):
        b(line)
    b("QUIT")
    assert b.weir.until_closed() == b.redis.until_closed() == b""
    b.close()


@PROTOS
def test_who_asked_for_silence_hears_confirmations_and_messages_all_the_same(both, publish):
    heard = []
    for r in (both.redis, both.weir):
        asked = ["CLIENT REPLY OFF", "GET a", "UNSUBSCRIBE", "SUBSCRIBE a b", "PING"]
        r.send(*[encode(*line.split()) for line in asked])
        heard.append([r.raw() for _ in range(3)])
    publish("a", "hello")
    for r, said in zip((both.redis, both.weir), heard):
        said.append(r.raw())
        r.send(encode("UNSUBSCRIBE", "a"), encode("UNSUBSCRIBE"), encode("CLIENT", "REPLY", "ON"))
        said += [r.raw() for _ in range(3)]
    assert heard[1] == heard[0]
    both("GET a")


@PROTOS
def test_reset_ends_all_subscriptions(proxy, rd, proto, publish):
    b = Both(proxy, rd, proto)
    b("SUBSCRIBE a b", 2)
    b("PSUBSCRIBE a*")
    b("RESET")
    b("GET k")                      # not logged in any more
    publish("a")
    for r, password in ((b.weir, REDIS_PASSWORD), (b.redis, rd.password)):
        assert r.ask("AUTH", password) == "OK"
        assert r.ask("PING") == "PONG"
        r.send(encode("SUBSCRIBE", "a"))
        assert r.raw() == b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
    b.close()


def test_hello_switches_a_subscriber_to_resp2_and_its_messages_with_it(proxy, rd, publish):
    b = Both(proxy, rd, 3)
    b("SUBSCRIBE a")
    publish("a", "three")
    b.hears()
    for r in (b.weir, b.redis):
        assert isinstance(r.ask("HELLO", "2"), list)
    publish("a", "two")
    assert b.hears() == [b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$3\r\ntwo\r\n"]
    b("GET k")
    b("UNSUBSCRIBE")
    b("GET k")
    b.close()


# Messages.


@PROTOS
def test_messages_of_channels_patterns_and_shards_are_those_of_redis(both, publish, rd):
    both("SUBSCRIBE news")
    both("PSUBSCRIBE n* *s ?ews", 3)
    both("SSUBSCRIBE news")
    for text in ("hello", "", "a\r\nb\0c", "x" * 100000):
        publish("news", text)
        # Patterns in the order each Redis keeps them.
        assert sorted(both.weir.raw() for _ in range(4)) == \
            sorted(both.redis.raw() for _ in range(4))
        with contextlib.closing(past_weir(rd)) as r:
            r.ask("SPUBLISH", "news", text)
        both.hears()
    publish("other")
    publish("notes")
    assert sorted(both.weir.raw() for _ in range(2)) == sorted(both.redis.raw() for _ in range(2))
    both("PING")


@PROTOS
def test_keyspace_notifications_of_every_database(both, rd):
    with contextlib.closing(rd.connect()) as r:
        before = r.config_get("notify-keyspace-events")["notify-keyspace-events"]
        r.config_set("notify-keyspace-events", "KEA")
        try:
            both("PSUBSCRIBE __keyspace@*__:weir:*")
            both("SUBSCRIBE __keyevent@3__:set")
            r.execute_command("SELECT", 3)
            r.set("weir:k", "v")
            assert sorted(both.weir.raw() for _ in range(2)) == \
                sorted(both.redis.raw() for _ in range(2))
            r.delete("weir:k")
            both.hears()
        finally:
            r.config_set("notify-keyspace-events", before)


def test_in_resp3_other_commands_go_on_and_pushes_come_between_replies(proxy, rd, publish):
    r = proxy.resp(3)
    assert r.ask("SUBSCRIBE", "c") == Push([b"subscribe", b"c", 1])
    stop = threading.Event()

    def talk():
        with contextlib.closing(past_weir(rd)) as p:
            n = 0
            while not stop.is_set():
                n += 1
                p.ask("PUBLISH", "c", n)
    thread = threading.Thread(target=talk)
    thread.start()
    heard = 0
    try:
        for n in range(500):
            value = b"%d:" % n * 2000
            r.send(encode("SET", "mine", value), encode("GET", "mine"), encode("PING"),
                   encode("ECHO", n))
            want = ["OK", value, "PONG", b"%d" % n]
            while want:
                said = r.reply()
                if isinstance(said, Push):
                    heard += 1
                    assert said == [b"message", b"c", b"%d" % heard], "in order, each once"
                else:
                    assert said == want.pop(0)
    finally:
        stop.set()
        thread.join()
    assert heard > 0


def test_a_message_waits_for_the_end_of_a_large_reply(proxy, rd, publish):
    """The reply comes in pieces, and messages meanwhile."""
    r = proxy.resp(3)
    big = b"v" * (12 << 20)
    with contextlib.closing(rd.connect()) as past:
        past.set("pubsub:big", big)
    try:
        assert r.ask("SUBSCRIBE", "c") == Push([b"subscribe", b"c", 1])
        r.send(encode("GET", "pubsub:big"), encode("PING"))
        for n in range(200):
            publish("c", n)
        said = r.replies(202)
        pushes = [s for s in said if isinstance(s, Push)]
        assert [int(p[2]) for p in pushes] == list(range(200))
        assert [s for s in said if not isinstance(s, Push)] == [big, "PONG"]
    finally:
        with contextlib.closing(rd.connect()) as past:
            past.delete("pubsub:big")


def test_publishing_to_oneself(proxy):
    r = proxy.resp(3)
    assert r.ask("SUBSCRIBE", "c")[2] == 1
    r.send(encode("PUBLISH", "c", "x"))
    said = r.replies(2)
    assert Push([b"message", b"c", b"x"]) in said and 1 in said


@PROTOS
def test_a_confirmation_has_its_place_among_replies(proxy, proto):
    r = proxy.resp(proto)
    r.send(*[encode("INCRBY", "pubsub:n", 0) for _ in range(50)], encode("PING"),
           encode("SUBSCRIBE", "a", "b"),
           encode("PING"), encode("UNSUBSCRIBE", "a", "b"), encode("GET", "pubsub:none"),
           encode("PING"))
    said = r.replies(57)
    assert said[:51] == [0] * 50 + ["PONG"]
    assert [s[0] for s in said[51:53]] == [b"subscribe"] * 2
    assert said[53] == ("PONG" if proto == 3 else [b"pong", b""])
    assert [s[2] for s in said[54:56]] == [1, 0]
    assert said[56] is None
    assert r.reply() == "PONG"


@PROTOS
def test_what_was_published_before_is_heard_before_and_not_after(proxy, rd, publish, proto):
    """A PUBLISH that was answered is before whatever a client sends then."""
    other = proxy.resp(proto)
    assert other.ask("SUBSCRIBE", "c")[2] == 1      # so upstream has it already
    r = proxy.resp(proto)
    for n in range(40):
        publish("c", "before %d" % n)
        assert r.ask("SUBSCRIBE", "c") == [b"subscribe", b"c", 1]
        for i in range(5):
            publish("c", "%d.%d" % (n, i))
        r.send(encode("UNSUBSCRIBE", "c"))
        said = r.replies(6)
        assert [s[2] for s in said[:5]] == [b"%d.%d" % (n, i) for i in range(5)]
        assert said[5] == [b"unsubscribe", b"c", 0]
        assert r.ask("PING") == "PONG"
        assert publish("nobody") == 0
        r.send(encode("SUBSCRIBE", "own"), encode("UNSUBSCRIBE"))
        assert [r.reply()[2], r.reply()[2]] == [1, 0]
        assert publish("own") == 0, "and no longer counted"


# Many.


def drain(socks, want, seconds=60):
    """What each of the sockets is sent, `want` bytes each."""
    got = {s: bytearray() for s in socks}
    left = set(socks)
    poll = select.epoll()
    by_fd = {}
    for s in socks:
        s.setblocking(False)
        by_fd[s.fileno()] = s
        poll.register(s.fileno(), select.EPOLLIN)
    end = time.monotonic() + scaled(seconds)
    while left:
        assert time.monotonic() < end, "%d of %d have not heard all; one has %d of %d bytes" % (
            len(left), len(socks), len(got[next(iter(left))]), want)
        for fd, _ in poll.poll(0.5):
            s = by_fd[fd]
            data = s.recv(1 << 18)
            assert data, "closed"
            got[s] += data
            if len(got[s]) >= want:
                left.discard(s)
    poll.close()
    return got


@pytest.mark.weir_only
def test_many_subscribers_share_one_connection_and_each_hears_each_message_once(proxy, rd):
    alone(rd)
    clients, channels, rounds = (5000, 50, 4) if SOAK else (500, 50, 2)
    if SOAK and proxy.http:
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE,
                           (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    names = ["ch:%02d" % i for i in range(channels)]
    before = proxy.memory() if proxy.http else 0
    group = [proxy.resp(2 + n % 2) for n in range(clients)]
    for r in group:
        r.send(encode("SUBSCRIBE", *names))
    for n, r in enumerate(group):
        assert [s[2] for s in r.replies(channels)] == list(range(1, channels + 1))
    assert proxy.metric("redis_subscriptions") == clients * channels
    assert proxy.metric("redis_channels") == channels
    assert len(subscribers(rd)) == 1
    assert int(subscribers(rd)[0]["sub"]) == channels
    if SOAK and proxy.http:
        print("%d subscribers of %d channels: %.1f KB each"
              % (clients, channels, (proxy.memory() - before) / clients / 1024))

    texts = {}
    with contextlib.closing(past_weir(rd)) as p:
        for i in range(rounds):
            for name in names:
                assert p.ask("PUBLISH", name, "%s/%d" % (name, i)) == 1
                for proto in (2, 3):
                    texts.setdefault(proto, bytearray()).extend(
                        (b"*" if proto == 2 else b">") + b"3\r\n$7\r\nmessage\r\n$5\r\n%b\r\n$7"
                        b"\r\n%b/%d\r\n" % (name.encode(), name.encode(), i))
    heard = drain([r.sock for r in group], len(texts[2]), 120)
    for n, r in enumerate(group):
        assert heard[r.sock] == texts[2 + n % 2], n
    assert len(subscribers(rd)) == 1
    # They leave, and nothing stays behind.
    proxy.hang_up()
    alone(rd)
    wait_for(lambda: proxy.metric("redis_subscriptions") == 0, 10, "subscriptions stay")
    wait_for(lambda: proxy.metric("redis_channels") == 0, 10, "channels stay")


def test_each_hears_what_it_asked_for_and_nothing_else(proxy, rd, publish):
    group = [proxy.resp(2 + n % 2) for n in range(40)]
    for n, r in enumerate(group):
        names = [str(c) for c in range(40) if c % (n + 1) == 0]
        r.send(encode("SUBSCRIBE", *names))
        r.replies(len(names))
    for c in range(40):
        publish(str(c), "to %d" % c)
    for n, r in enumerate(group):
        want = [c for c in range(40) if c % (n + 1) == 0]
        assert [int(s[1]) for s in r.replies(len(want))] == want
        r.send(encode("UNSUBSCRIBE", "0"))
        assert r.reply()[1:] == [b"0", len(want) - 1], "and no message more"


def test_subscribers_come_and_go_while_messages_flow(proxy, rd):
    """Whoever stays for a while hears an unbroken series."""
    stop, failed = threading.Event(), []

    def talk():
        with contextlib.closing(past_weir(rd)) as p:
            n = 0
            while not stop.is_set():
                n += 1
                p.ask("PUBLISH", "series", n)

    def come_and_go(seed):
        try:
            for i in range(15):
                r = proxy.resp(2 + seed % 2)
                r.send(encode("SUBSCRIBE", "series", "own:%d" % seed))
                assert r.reply()[1:] == [b"series", 1]
                assert r.reply()[1:] == [b"own:%d" % seed, 2]
                first = int(r.reply()[2])
                for n in range(first + 1, first + 20):
                    assert int(r.reply()[2]) == n
                if i % 3 == 0:
                    r.send(encode("UNSUBSCRIBE"))
                    while r.reply()[0] != b"unsubscribe":
                        n += 1
                    assert r.reply()[0] == b"unsubscribe"
                    assert r.ask("PING") == "PONG"
                r.close()
        except BaseException as e:
            failed.append(e)
    threads = [threading.Thread(target=come_and_go, args=(n,)) for n in range(6)]
    talker = threading.Thread(target=talk)
    talker.start()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    stop.set()
    talker.join()
    assert not failed, failed


# A library.


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_redis_py_subscribes(proxy, tls):
    r, p = proxy.redis(tls=tls), proxy.redis(tls=tls)
    s = r.pubsub()
    heard = []
    s.subscribe("one", **{"two": lambda m: heard.append(m["data"])})
    s.psubscribe("th*")

    def message():
        return wait_for(lambda: s.get_message(timeout=1), 10, "no message")
    assert sorted(message()["type"] for _ in range(3)) == ["psubscribe", "subscribe", "subscribe"]
    assert p.publish("one", "1") == 1
    assert message() == {"type": "message", "pattern": None, "channel": b"one", "data": b"1"}
    p.publish("three", "3")
    assert message() == {"type": "pmessage", "pattern": b"th*", "channel": b"three", "data": b"3"}
    p.publish("two", "2")
    wait_for(lambda: s.get_message(timeout=0.1) or heard, 10, "no message")
    assert heard == [b"2"]
    s.ping()
    assert message()["type"] == "pong"
    s.unsubscribe()
    s.punsubscribe()
    assert [message()["type"] for _ in range(3)] == ["unsubscribe"] * 2 + ["punsubscribe"]
    s.close()


# Who may.


@pytest.fixture
def own(folder, authority, request):
    server = Redis(folder, authority, "redis-pubsub-%d" % next(SERVERS))
    yield server
    server.stop()


def on(own, **more):
    return {"redis main": {"url": "redis://:%s@127.0.0.1:%d/0" % (own.password, own.port)},
            "organization acme": {"redis_user": "acme", "redis_password": "acme-redis"}, **more}


def client(w, user, proto=2):
    r = w.keep(respwire.Resp(w.redis_port, timeout=scaled(20)))
    if proto == 3:
        assert not isinstance(r.ask("HELLO", "3", "AUTH", user, USERS[user][1]), Error)
    else:
        assert r.ask("AUTH", user, USERS[user][1]) == "OK"
    return r


@pytest.mark.weir_only
@PROTOS
@pytest.mark.parametrize("workers", [1, 4])
def test_redis_refuses_a_channel_to_the_one_who_asked(weir, own, proto, workers):
    w = weir(on(own), workers)
    noperm = ("NOPERM this user has no permissions to access one of the channels "
              "used as arguments")
    good, bad = client(w, "acme_app", proto), client(w, "acme_app", proto)
    assert good.ask("SUBSCRIBE", "acme:1")[1:] == [b"acme:1", 1]
    for args in (("SUBSCRIBE", "beta:1"), ("SUBSCRIBE", "acme:1", "beta:1", "acme:2"),
                 ("PSUBSCRIBE", "*"), ("PSUBSCRIBE", "acme:1*"), ("SSUBSCRIBE", "beta:s")):
        assert bad.ask(*args) == noperm, args
        assert bad.ask("PING") == "PONG"        # not subscribed to anything
    assert bad.ask("PSUBSCRIBE", "acme:*")[1:] == [b"acme:*", 1]
    with contextlib.closing(past_weir(own)) as p:
        for channel in ("beta:1", "acme:2", "acme:1"):
            p.ask("PUBLISH", channel, "x")
    assert good.reply() == [b"message", b"acme:1", b"x"]
    assert [bad.reply()[2] for _ in range(2)] == [b"acme:2", b"acme:1"]
    wait_for(lambda: {(c["user"], c["sub"], c["psub"]) for c in subscribers(own)}
             == {("acme", "1", "1")}, 5, "one connection, as acme")


@pytest.mark.weir_only
def test_organizations_that_share_a_user_do_not_subscribe(weir, own):
    w = weir(on(own, **{"organization acme": {}}))
    for user in ("acme_app", "beta_app"):
        r = client(w, user)
        for name in ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"):
            assert r.ask(name, "x") == (
                "NOPERM this user has no permissions to run the '%s' command "
                "(weir: profile = shared)" % name.lower())
        assert r.ask("PING") == "PONG"
    assert client(w, "plain_app").ask("SUBSCRIBE", "x")[2] == 1
    w = weir(on(own, **{"organization acme": {}, "redis main": {
        "url": w.config["redis main"]["url"], "profile": "dedicated"}}))
    assert client(w, "acme_app").ask("SUBSCRIBE", "x")[2] == 1


@pytest.mark.weir_only
def test_the_subscriptions_of_a_user_are_not_those_of_another(weir, own):
    w = weir(on(own, **{"organization beta": None, "user beta_app": None}), 4)
    acme, plain = client(w, "acme_app", 3), client(w, "plain_app", 3)
    assert acme.ask("SUBSCRIBE", "acme:1")[2] == plain.ask("SUBSCRIBE", "acme:1")[2] == 1
    assert sorted(c["user"] for c in subscribers(own)) == ["acme", "default"]
    # Nor does anybody take his along.
    assert plain.ask("AUTH", "acme_app", USERS["acme_app"][1]) == \
        "ERR weir: not as somebody else while subscribed"
    assert plain.ask("UNSUBSCRIBE")[1:] == [b"acme:1", 0]
    assert plain.ask("AUTH", "acme_app", USERS["acme_app"][1]) == "OK"
    assert plain.ask("SUBSCRIBE", "beta:1").startswith("NOPERM")
    assert plain.ask("PING") == "PONG"


@pytest.mark.weir_only
def test_no_more_subscription_connections_than_dedicated_ones(weir, own):
    w = weir(on(own, **{"redis main": {
        "url": "redis://:%s@127.0.0.1:%d/0" % (own.password, own.port),
        "dedicated_connections": 1}, "weir": {"query_wait_timeout": 2}}))
    acme, plain = client(w, "acme_app"), client(w, "plain_app")
    assert acme.ask("SUBSCRIBE", "acme:1")[2] == 1
    assert plain.ask("SUBSCRIBE", "x") == "ERR weir: query_wait_timeout"
    acme.close()
    wait_for(lambda: not subscribers(own), 20)
    wait_for(lambda: not isinstance(plain.ask("SUBSCRIBE", "x"), Error), 20)


# Trouble.


@pytest.mark.weir_only
@pytest.mark.parametrize("workers", [1, 4])
def test_a_lost_connection_closes_its_subscribers_who_come_back(weir, own, workers):
    w = weir(on(own), workers)
    group = [client(w, "plain_app", 2 + n % 2) for n in range(20)]
    for r in group:
        assert r.ask("SUBSCRIBE", "c")[2] == 1
    bystander, theirs = client(w, "plain_app", 3), client(w, "acme_app")
    assert theirs.ask("SUBSCRIBE", "acme:c")[2] == 1
    assert bystander.ask("PING") == "PONG"
    with contextlib.closing(past_weir(own)) as p:
        victim = [c for c in subscribers(own) if c["user"] == "default"]
        assert len(victim) == 1
        assert p.ask("CLIENT", "KILL", "ID", victim[0]["id"]) == 1
    for r in group:
        assert r.until_closed() == b"", "without a word"
    assert bystander.ask("PING") == "PONG"
    assert w.metric("redis_subscribers_lost_total") == 20
    again = client(w, "plain_app")
    assert again.ask("SUBSCRIBE", "c")[2] == 1
    with contextlib.closing(past_weir(own)) as p:
        p.ask("PUBLISH", "c", "x")
        p.ask("PUBLISH", "acme:c", "y")
    assert again.reply()[2] == b"x"
    assert theirs.reply()[2] == b"y"


@pytest.mark.weir_only
def test_who_subscribes_while_redis_is_down_is_closed_and_let_in_when_it_is_back(weir, own):
    w = weir(on(own))
    r = client(w, "plain_app")
    assert r.ask("SUBSCRIBE", "c")[2] == 1
    own.stop()
    assert r.until_closed() == b""
    r = client(w, "plain_app")
    r.send(encode("SUBSCRIBE", "c"))
    assert r.until_closed() == b""
    own.start()

    def back():
        with contextlib.suppress(Closed):
            return client(w, "plain_app").ask("SUBSCRIBE", "c")[2] == 1
    wait_for(back, 20, "nobody can subscribe")


@pytest.mark.weir_only
def test_a_reader_that_stops_is_closed_and_slows_nobody_down(weir, own):
    w = weir(on(own), 4)
    fast = [client(w, "plain_app", 2 + n % 2) for n in range(3)]
    slow = client(w, "plain_app")
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for r in fast + [slow]:
        assert r.ask("SUBSCRIBE", "c")[2] == 1
    text = encode("PUBLISH", "c", b"x" * (4 << 20))
    with contextlib.closing(past_weir(own)) as p:
        for n in range(12):
            p.send(text)
            assert p.reply() == 1
            drain([r.sock for r in fast], 4 << 20)
    wait_for(lambda: w.metric("redis_subscribers_slow_total") == 1, 10, "it is still there")
    assert [e["why"] for e in w.event("close")] == ["SLOW_READER"]
    w.settled(redis=3)


@pytest.mark.weir_only
@pytest.mark.parametrize("workers", [1, 4])
def test_messages_larger_than_a_buffer_arrive_whole(weir, own, workers):
    w = weir(on(own), workers)
    group = [client(w, "plain_app", 2 + n % 2) for n in range(4)]
    for r in group:
        assert r.ask("SUBSCRIBE", "c")[2] == 1
    with contextlib.closing(past_weir(own)) as p:
        for size in (0, 1, 65000, 65536, 70000, 1 << 20, 7 << 20):
            text = os.urandom(size)
            assert p.ask("PUBLISH", "c", text) == 1
            p.ask("PUBLISH", "c", "after")
            for r in group:
                assert r.reply()[2] == text
                assert r.reply()[2] == b"after"


@pytest.mark.weir_only
def test_a_subscriber_does_not_idle_and_is_gone_with_a_drain(weir, own):
    w = weir(on(own, weir={"client_idle_timeout": 2}))
    r = client(w, "plain_app")
    assert r.ask("SUBSCRIBE", "c")[2] == 1
    # Nor does who hears what keys others see change.
    hears = client(w, "plain_app", 3)
    hears.id = hears.ask("CLIENT", "ID")
    assert client(w, "plain_app").ask("CLIENT", "TRACKING", "ON", "REDIRECT", hears.id) == "OK"
    client(w, "plain_app").until_closed()
    with contextlib.closing(past_weir(own)) as p:
        p.ask("PUBLISH", "c", "x")
        tracks = client(w, "plain_app")
        tracks.send(encode("CLIENT", "TRACKING", "ON", "REDIRECT", hears.id),
                    encode("GET", "seen"))
        assert tracks.replies(2) == ["OK", None]
        p.ask("SET", "seen", "x")
    assert r.reply()[2] == b"x"
    assert hears.reply() == [b"invalidate", [b"seen"]]
    w.signal(15)
    assert r.until_closed() == b""
    assert w.wait() == 0
    w.over = True


@pytest.mark.weir_only
def test_a_reload_to_another_redis_takes_subscribers_along(weir, own, rd):
    w = weir(on(own))
    r = client(w, "plain_app")
    assert r.ask("SUBSCRIBE", "c")[2] == 1
    w.reload({"redis main": {"url": "redis://:%s@127.0.0.1:%d/0" % (rd.password, rd.port)}})
    assert r.until_closed() == b""
    r = client(w, "plain_app")
    assert r.ask("SUBSCRIBE", "c")[2] == 1
    with contextlib.closing(past_weir(rd)) as p:
        p.ask("PUBLISH", "c", "x")
    assert r.reply()[2] == b"x"


@pytest.mark.weir_only
def test_too_many_subscriptions_are_refused(proxy):
    r = proxy.resp()
    assert r.ask("SUBSCRIBE", "c")[2] == 1
    for names in (["n%d" % n for n in range(100000)], ["x" * (8 << 20), "y" * (9 << 20)]):
        assert r.ask("SUBSCRIBE", *names) == "ERR weir: too many subscriptions"
    assert r.ask("PING") == [b"pong", b""]
