"""
Goal:   whatever becomes of servers, connections and the configuration, a client
        hears the replies to what it asked, in its order, of its own bytes, or
        weir's word that there is none; nothing is done twice, nobody hangs.
Method: clients pick groups of commands by a seed and know what each reply must
        be; they send them whole or in pieces, read slowly, and leave at any byte.
        Meanwhile connections are killed, servers pause, hang and restart, slots
        move, replicas take over, and weir's file changes.

WEIR_SOAK=300: so many seconds of each (60 at least), a cluster too, and all that may
go wrong.  WEIR_SEED=n: clients and mishaps choose as they did when it failed.
"""
import collections
import contextlib
import os
import random
import select
import signal
import socket
import struct
import threading
import time

import pytest

import respwire
from respwire import Closed, Error, Push, encode
from servers import REDIS_PASSWORD, USERS, scaled, wait_for
from test_redis_cluster import SECRET, THIRDS, Cluster, Node

SOAK = float(os.environ.get("WEIR_SOAK") or 0)
SECONDS = max(60, SOAK) if SOAK else 1.2
CLIENTS = 30 if SOAK else 12
SEED = int(os.environ.get("WEIR_SEED") or (random.SystemRandom().randrange(1 << 30) if SOAK else 1))
TAGS = [b"{%d-%d}" % (i, j) for i in range(7) for j in range(4)]
# In place of any reply: it could not be had.
OUTAGES = ("ERR weir:", "ERR WAIT cannot", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED", "LOADING",
           "MASTERDOWN", "READONLY", "EXECABORT", "CROSSSLOT weir")


class Foreign(Exception):
    pass


def outage(v):
    return isinstance(v, Error) and v.startswith(OUTAGES)


def number(v):
    return isinstance(v, int)


def brief(command):
    return tuple(x[:80] if isinstance(x, (bytes, str)) else x for x in command)


class Wire(respwire.Resp):
    """Reads while it sends, or neither side would go on; `slow`: in small pieces."""
    slow = False

    def send(self, data):
        rest = memoryview(data)
        while rest:
            readable, writable, _ = select.select([self.sock], [self.sock], [], scaled(90))
            if not readable and not writable:
                raise TimeoutError("it does not read")
            if readable and not self.slow:
                self._fill()
            if writable:
                rest = rest[self.sock.send(rest):]
            elif self.slow:
                self._fill()

    def _fill(self):
        if self.slow:
            time.sleep(0.002)
        super()._fill()

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Client:
    """One after the other: each of its lives has a name, which is in all it owns."""

    def __init__(self, world, n):
        self.world, self.n, self.life, self.c = world, n, 0, None
        self.r = random.Random("%d of %d" % (n, SEED))
        self.said = collections.deque(maxlen=60)    # for whom it fails
        self.stat = collections.Counter()

    def run(self):
        while not self.is_late():
            try:
                self.live()
            except TimeoutError as e:
                raise Foreign("it hangs: %s" % e)
            except (Closed, OSError):
                self.stat["gone"] += 1
                time.sleep(.05)
            finally:
                if self.c:
                    self.c.close()
                    self.c = None

    def is_late(self):      # however slow the machine, it is a test
        return time.monotonic() > self.world.until and (self.stat["right"] or self.world.wrong)

    def live(self):
        r = self.r
        self.life += 1
        self.me = b"<%d.%d.%d>" % (self.n, self.life, self.world.runs)
        self.asked, self.counted = collections.Counter(), collections.Counter()
        self.sure = not SOAK            # that no counter has lost or won anything
        self.channel, self.tracks = None, False
        self.proto, self.user = r.choice([2, 3]), r.choice(["default", "default", "acme_app"])
        self.c = self.connect()
        for _ in range(r.randrange(1, 60)):
            if self.is_late():
                return
            self.turn()
        self.leave()

    def connect(self):
        c = Wire(self.world.proxy.redis_port, timeout=scaled(90))
        if SOAK and self.r.random() < .1:
            c.slow = True
            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        said = c.ask("HELLO", self.proto, "AUTH", self.user, self.password())
        if outage(said):
            raise Closed
        self.expect(said, lambda v: isinstance(v, list), "HELLO")
        return c

    def password(self):
        return REDIS_PASSWORD if self.user == "default" else USERS[self.user][1]

    def leave(self):
        r, how = self.r, self.r.random()
        pairs = self.groups(6)
        sent = b"".join(encode(*command) for command, _ in pairs)
        if how < .3:
            self.c.send(sent[:r.choice([len(sent), r.randrange(len(sent))])])
        elif how < .4:
            self.c.send(encode("BLPOP", self.key(), 30))
            time.sleep(r.random() * .05)
        elif how < .5:          # it has said all, but hears it to the end
            self.c.send(sent)
            self.c.sock.shutdown(socket.SHUT_WR)
            self.hear(pairs)
        if r.random() < .5:
            self.c.reset()

    # What it hears.

    def reply(self):
        while isinstance(v := self.c.reply(), Push):
            self.pushed(v)
        return v

    def pushed(self, v):
        if v[0] == b"invalidate":
            ok = self.tracks and all(self.me in k for k in v[1] or [])
        else:
            ok = v[0] in (b"message", b"smessage") and v[1] == self.channel and self.me in v[2]
        self.expect(v, lambda _: ok, "pushed")
        self.stat["pushed"] += 1

    def expect(self, v, want, what):
        if not (want(v) if callable(want) else v == want):
            raise Foreign("%r -> %.400r, not %.400r" % (what, v, want))

    def hear(self, pairs):
        """`want` is a value, a test of it, or None where no reply is to come."""
        for command, want in pairs:
            if want is None:
                continue
            v = self.reply()
            self.said.append("%r -> %.80r" % (brief(command), v))
            if outage(v):
                self.stat["outages"] += 1
                self.stat[v[:40]] += 1
                self.sure = False
            else:
                self.expect(v, want, brief(command))
                self.stat["right"] += 1

    # What it says: groups of (command, what its reply must be), true whatever failed before.

    def token(self, n=None):
        return self.me + b"%d-" % self.r.randrange(1 << 30) * (
            n or self.r.choice([1, 1, 1, 1, 3, 5, 400, 20000 if self.r.random() < .1 else 3]))

    def key(self, tag=None):
        """Of this client alone, in a slot of many; `tag`: where others of a command are."""
        return (tag or self.r.choice(TAGS)) + self.me + b"%d" % self.r.randrange(3)

    def mine(self, v):
        return v is None or isinstance(v, bytes) and self.me in v

    @staticmethod
    def nil(v):
        return v is None

    def strings(self):
        k, v = self.key(), self.token()
        return [(("SET", k, v), "OK"), (("GET", k), self.mine), (("APPEND", k, self.me), number),
                (("STRLEN", k), number), (("MGET", k, k + b"2", k), lambda v: len(v) == 3 and all(
                    map(self.mine, v)))][:self.r.randrange(1, 6)]

    def large(self):
        if self.r.random() > .1:
            return []
        k, size = self.key() + b"large", 400000 if self.c.slow else 40000
        return [(("SET", k, self.me * size), "OK"), *[(("GET", k), lambda v: v in (
            None, self.me * size))] * self.r.randrange(1, 8), (("DEL", k), number)]

    def own(self):
        """What weir answers itself."""
        v = self.token()
        return self.r.sample([
            (("ECHO", v), v), (("PING",), "PONG"), (("PING", v), v), (("SELECT", 0), "OK"),
            (("CLIENT", "SETNAME", self.me), "OK"), (("CLIENT", "ID"), number),
            (("EXEC",), "ERR EXEC without MULTI"),
            (("GET",), "ERR wrong number of arguments for 'get' command")], 3)

    def counters(self):
        k = self.key() + b"n"

        def one(v):
            low, self.counted[k] = self.counted[k] if self.sure else 0, v
            return low < v <= (low + 1 if self.sure else self.asked[k])

        def both(v):
            return len(v) == 2 and all(outage(x) or one(x) for x in v)
        n, how = self.r.randrange(1, 6), self.r.random()
        self.asked[k] += n if how < .6 else 2
        if how < .6:
            return [(("INCR", k), one)] * n
        pieces = [(("ECHO", k), "QUEUED")] * (how < .8)
        return [(("MULTI",), "OK"), (("INCR", k), "QUEUED"), *pieces, (("INCR", k), "QUEUED"),
                (("EXEC",), lambda v: both([v[0], *v[1 + len(pieces):]])
                 and (not pieces or v[1] == k))]

    def scripts(self):
        k, v = self.key(), self.token(1)
        return [(("EVAL", "return {KEYS[1], ARGV[1]}", 1, k, v), [k, v]),
                (("EVAL", "return redis.error_reply('MINE ' .. ARGV[1])", 1, k, self.me),
                 "MINE " + self.me.decode()),
                (("INCRBY", k, v), "ERR value is not an integer or out of range")]

    def transaction(self):
        tag, out, want = self.r.choice(TAGS), [(("MULTI",), "OK")], []
        for _ in range(self.r.randrange(1, 5)):
            k, v = self.key(tag), self.token()
            out += [(("SET", k, v), "QUEUED"), (("GET", k), "QUEUED")]
            want += ["OK", v]
        return [*out, (("EXEC",), want)]

    def pieces(self):
        """A transaction with what is weir's own inside."""
        k, v, e = self.key(), self.token(), self.token(1)
        some = [(("ECHO", e), e), (("PING",), "PONG"), (("CLIENT", "ID"), number),
                (("CLIENT", "SETNAME", self.me), "OK"), (("CLIENT", "GETNAME"), self.mine)]
        pairs = [(("SET", k, v), "OK"), *self.r.sample(some, self.r.randrange(1, 4)),
                 (("GET", k), v)]
        out = [(("MULTI",), "OK"), *[(c, "QUEUED") for c, _ in pairs]]
        how = self.r.random()
        if how < .15:
            return [*out, (("DISCARD",), "OK")]
        if how < .3:
            return [*out, (("GET",), lambda x: isinstance(x, Error)),
                    (("EXEC",), lambda x: False)]       # EXECABORT, or it was none
        return [*out, (("EXEC",), lambda x: len(x) == len(pairs) and all(
            outage(y) or (want(y) if callable(want) else y == want)
            for (_, want), y in zip(pairs, x)))]

    def watching(self):
        k, v = self.key(), self.token()
        out = [(("WATCH", k), "OK"), (("GET", k), self.mine)]
        if self.r.random() < .3:
            return [*out, (("UNWATCH",), "OK")]
        if self.r.random() < .2:
            out.append((("SET", k, self.me), "OK"))
        out += [(("MULTI",), "OK"), (("SET", k, v), "QUEUED"), (("GET", k), "QUEUED")]
        if self.r.random() < .2:
            return [*out, (("DISCARD",), "OK")]
        return [*out, (("EXEC",), lambda x: x is None or x == ["OK", v])]

    def blocking(self):
        k, v, how = self.key() + b"l", self.token(1), self.r.random()

        def pop(x, key=k):
            return x is None or x[0] == key and self.me in x[1]
        if how < .2:
            return [(("BLPOP", k, .01), pop)]
        if how < .6:
            return [(("RPUSH", k, v), number), (("BLPOP", k, 1), pop)]
        if how < .8:
            return [(("RPUSH", k, v), number),
                    (("BLMOVE", k, k + b"2", "LEFT", "RIGHT", .02), self.mine),
                    (("BRPOP", k + b"2", .01), lambda x: pop(x, k + b"2"))]
        return [(("XADD", k + b"x", "MAXLEN", 5, "*", "f", v), lambda x: b"-" in x),
                (("XREAD", "BLOCK", 10, "STREAMS", k + b"x", "$"), self.nil)]

    def everywhere(self):
        def refused(v):
            return isinstance(v, Error) and v.startswith("NOPERM")
        return self.r.choice([
            [(("DBSIZE",), lambda v: number(v) or refused(v))], [(("WAIT", 0, 10), number)],
            [(("SCRIPT", "EXISTS", "f" * 40), lambda v: v == [0] or refused(v))], [], [], []])

    def silent(self):
        """CLIENT REPLY, and what is behind it."""
        k, v = self.key(), self.token(1)
        skip, echo = (("CLIENT", "REPLY", "SKIP"), None), (("ECHO", v), v)
        return self.r.choice([
            [skip, (("SET", k, v), None), echo], [skip, (("ECHO", v), None), echo],
            [skip, (("BLPOP", k + b"l", .01), None), echo],
            [(("CLIENT", "REPLY", "OFF"), None), (("SET", k, v), None), (("MULTI",), None),
             (("GET", k), None), (("EXEC",), None), (("CLIENT", "REPLY", "ON"), "OK"), echo]])

    def identity(self):
        """It becomes another, or speaks otherwise."""
        k, how = self.key(), self.r.random()
        out, own = [(("SET", k, self.token(1)), "OK")], (("GET", k), self.mine)
        if how < .3:
            return [*out, (("AUTH", self.user, self.password()), "OK"), own]
        if how < .6:
            self.proto = 5 - self.proto
            return [*out, (("HELLO", self.proto), lambda x: isinstance(x, list)), own]
        if how < .8 and not self.world.cluster and self.user == "default":
            return [*out, (("SELECT", 3), "OK"), *out, own, (("BLPOP", k + b"l", .01), self.nil),
                    (("DEL", k), number), (("SELECT", 0), "OK"), own]
        self.user, self.proto = self.r.choice(["default", "acme_app"]), 2
        return [*out, (("RESET",), "RESET"), (("GET", k), "NOAUTH Authentication required."),
                (("AUTH", self.user, self.password()), "OK"), own,
                (("ACL", "WHOAMI"), self.user.encode())]

    KINDS = [strings] * 3 + [own] * 2 + [
        large, counters, scripts, transaction, pieces, watching, blocking, everywhere, silent]

    def groups(self, n):
        out = [(("PING",), "PONG")]
        while len(out) < n:
            out += self.r.choice(self.KINDS)(self)
        return out

    def say(self, pairs):
        sent, at = b"".join(encode(*command) for command, _ in pairs), 0
        self.said.append([brief(command) for command, _ in pairs])
        for to in sorted(self.r.randrange(len(sent)) for _ in range(self.r.choice([0, 0, 1, 4]))):
            self.c.send(sent[at:to])
            at = to
            time.sleep(self.r.random() * .01)
        self.c.send(sent[at:])
        if self.c.slow:
            time.sleep(self.r.random() * 1.5)
        self.hear(pairs)

    def turn(self):
        how = self.r.random()
        if how < .06:
            self.subscribe()
        elif how < .09 and self.proto == 3 and not self.world.cluster and self.user == "default":
            self.track()
        elif how < .13:
            self.say(self.identity() + self.groups(4))
        else:
            self.say(self.groups(self.r.randrange(1, 30)))

    def track(self):
        k = self.key() + b"t"
        self.tracks = True
        self.say([(("CLIENT", "TRACKING", "ON", *self.r.choice([(), ("BCAST", "PREFIX", k)])),
                   "OK"), (("GET", k), self.mine), (("SET", k, self.me), "OK"),
                  *self.groups(8), (("CLIENT", "TRACKING", "OFF"), "OK"), *self.groups(2)])
        self.tracks = False

    def subscribe(self):
        """It hears what it, or another of its kind, says there; in RESP3 it goes on meanwhile."""
        self.channel = channel = b"c" + self.key()
        sub, unsub, pub = self.r.choice([("SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH")] * 2 + [
            ("SSUBSCRIBE", "SUNSUBSCRIBE", "SPUBLISH")])
        self.said.append((sub, channel))
        self.c.send(encode(sub, channel))
        v = self.c.reply()
        if outage(v):
            return
        self.expect(v, lambda v: v[:2] == [sub.lower().encode(), channel], sub)
        said = [((pub, channel, self.token()), number) for _ in range(self.r.randrange(4))]
        if self.proto == 3:
            self.say(said + self.groups(3))
        else:
            with contextlib.closing(self.connect()) as other:
                for command, _ in said:
                    self.expect(other.ask(*command), lambda v: number(v) or outage(v), pub)
        self.c.send(encode("PING", self.me) + encode(unsub, *[channel] * (self.r.random() < .7)))
        due = [b"pong", unsub.lower().encode()]
        while due:
            v = self.c.reply()
            if v == self.me:
                v = [b"pong", self.me]
            if isinstance(v, list) and v[0] in (b"message", b"smessage"):
                self.pushed(v)
            elif outage(v):
                due.pop()
            else:
                self.expect(v, lambda v: v[0] in due and v[1] in (self.me, channel), unsub)
                due.remove(v[0])
        self.channel = None


class World:
    """Servers, a weir before them, and what goes wrong with both."""

    def __init__(self, folder, cluster):
        self.cluster, self.runs = cluster, 0
        more = ["--cluster-enabled", "yes" if cluster else "no", "--cluster-node-timeout", "3000",
                "--user", "acme", "on", ">own", "~*", "&*", "+@all"]
        self.nodes = [Node(folder, *more) for _ in range(6 if cluster else 1)]
        if cluster:
            self.slots = Cluster(folder, self.nodes[:3])
            for master, node in zip(self.nodes, self.nodes[3:]):
                self.replicate(master, node)
            self.slots.nodes = self.nodes
            self.slots.wait()

    def replicate(self, master, node):
        first = self.nodes[0]
        assert node.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus) == "OK"
        wait_for(lambda: node.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID")) == "OK",
                 30, "it does not know its master")

    def config(self, some=random.Random(1)):
        url = "redis://:%s@%s" % (SECRET, ",".join(
            "127.0.0.1:%d" % n.port for n in self.nodes[:3]))
        upstream = {"url": url + some.choice(["", "/0"]), "connections": some.randrange(2, 9),
                    "dedicated_connections": some.randrange(4, 20), "health_check": "passive",
                    "command_timeout": 2 if SOAK and SEED % 2 else int(scaled(60)),
                    "cluster": "on" if self.cluster else "off"}
        return {"weir": {"log_level": "warn"}, "redis main": upstream,
                "redis shared": dict(upstream, profile="shared"),
                "organization acme": {"redis": "shared", "redis_user": "acme",
                                      "redis_password": "own"}}

    def start(self, weir, workers):
        self.runs += 1
        self.wrong, self.until = [], time.monotonic() + SECONDS
        self.r = random.Random(SEED)
        self.merged = lambda: weir.config(self.config(self.r), workers)
        self.proxy = weir(self.config(), workers)

    def masters(self):
        return [n for n in self.nodes if n.ask("ROLE")[0] == b"master"]

    # Mishaps.

    def kill_some(self, node):
        with contextlib.closing(node.resp()) as c:
            own = b"%d" % c.ask("CLIENT", "ID")
            ids = [dict(f.split(b"=", 1) for f in line.split()) for line
                   in c.ask("CLIENT", "LIST").splitlines()]
            ids = [x[b"id"] for x in ids if not set(b"MS") & set(x[b"flags"]) and x[b"id"] != own]
            for i in self.r.sample(ids, min(len(ids), 2)):
                c.ask("CLIENT", "KILL", "ID", i)

    def kill_all(self, node):
        node.ask("CLIENT", "KILL", "TYPE", self.r.choice(["normal", "pubsub"]))

    def pause(self, node):
        node.ask("CLIENT", "PAUSE", self.r.randrange(10, 400 if SOAK else 50))

    def reload(self, _):
        config = self.merged()
        config["weir"].update({k: v for k, v in self.proxy.config["weir"].items() if "listen" in k})
        self.proxy.write(config)
        self.proxy.signal(signal.SIGHUP)

    def hang(self, node):
        node.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(self.r.random() * 2)
        finally:
            node.process.send_signal(signal.SIGCONT)

    def restart(self, node):
        if self.r.random() < .8:
            return
        node.process.kill()
        node.process.wait()
        time.sleep(6 if self.cluster else .3)       # the others take note
        node.start()

    def move(self, _):
        slot = self.slots.slot(self.r.choice(TAGS))
        home = self.slots.home(slot)
        to = self.r.choice([n for n in self.masters() if n is not home])
        with self.slots.moving(slot, to):
            time.sleep(self.r.random() * .3)

    def take_over(self, node):
        if node.ask("ROLE")[0] == b"slave":
            node.ask("CLUSTER", "FAILOVER")

    def mishaps(self, clients):
        kinds = [self.kill_some] * 4 + [self.kill_all, self.pause, self.reload]
        if SOAK:
            kinds += [self.hang, self.restart] + ([self.move] * 6 + [self.take_over]) * self.cluster
        while any(t.is_alive() for t in clients):
            time.sleep(self.r.random() * (1.5 if SOAK else .3))
            # A server that is away, or not what it was, is no mistake of weir's.
            with contextlib.suppress(OSError, Closed, AssertionError, LookupError, TypeError):
                self.r.choice(kinds)(self.r.choice(self.nodes))


@pytest.fixture(scope="module", params=["single", "cluster"] if SOAK else ["single"])
def world(request, folder):
    world = World(folder, request.param == "cluster")
    yield world
    for n in world.nodes:
        n.stop(9)


@pytest.mark.weir_only
@pytest.mark.parametrize("workers", [1, 4], ids="{}workers".format)
def test_nobody_hears_anything_but_replies_to_what_it_asked(world, weir, workers):
    if SOAK:
        signal.alarm(int(SECONDS + 600))        # in place of conftest's
    world.start(weir, workers)
    clients = [Client(world, i) for i in range(CLIENTS)]

    def run(client):
        try:
            client.run()
        except BaseException as e:
            world.until = 0
            world.wrong.append("%s: %r\n    %s" % (
                client.me, e, "\n    ".join(map(str, client.said))))
    threads = [threading.Thread(target=run, args=[c], daemon=True) for c in clients]
    for t in threads:
        t.start()
    world.mishaps(threads)      # here: a server ends with the thread that has started it
    for t in threads:
        t.join()
    stat = sum((c.stat for c in clients), collections.Counter())
    print("seed %d: %s" % (SEED, dict(stat)))
    assert not world.wrong, "WEIR_SEED=%d\n%s" % (SEED, "\n".join(world.wrong[:3]))
    assert stat["right"] > (100 * CLIENTS if SOAK else stat["outages"]), stat
    world.proxy.settled()
    with contextlib.closing(world.proxy.resp()) as r:   # and it goes on
        wait_for(lambda: r.ask("SET", "after", "it") == "OK", 60, "nothing is answered any more")
