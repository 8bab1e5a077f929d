"""
Goal:   among clients that do everything at once, of all classes of commands,
        and leave at any byte, nobody ever hears what is another's.
Method: each client has keys, channels and values that carry its name, and
        knows what each of its replies must be; it picks commands by a seed and
        hangs up at random: between commands, with replies owed, in the middle
        of a request, while it blocks, in a transaction.  Whoever hears anything
        else says so.  WEIR_STORM=600: 200 of them for so many seconds (make soak).
"""
import contextlib
import os
import random
import re
import signal
import threading
import time

import pytest

import respwire
from respwire import Error, Map, encode
from servers import REDIS_PASSWORD, USERS, scaled

SOAK = float(os.environ.get("WEIR_STORM") or 0)
CLIENTS = 200 if SOAK else 24
SEED = int(os.environ.get("WEIR_SEED") or 1)
CONNECTIONS = 4
CONFIG = {"redis main": {"connections": CONNECTIONS}}
WHO = ["default", "acme_app", "beta_app"]


class Foreign(Exception):
    pass


def expect(got, want):
    """A reply that is not what it must be; `want` may be a function."""
    if not (want(got) if callable(want) else got == want):
        raise Foreign("%r instead of %r" % (got, want))


class Client:
    """One of them: `name` is in all it owns."""

    def __init__(self, w, n):
        self.w, self.n, self.r = w, n, None
        self.name = b"client-%d-" % n
        self.rng = random.Random("%d of %d" % (n, SEED))
        self.turns = self.replies = self.lives = 0

    def connect(self):
        self.lives += 1     # what was sent in the last one may still be carried out
        self.who = WHO[self.n % len(WHO)]
        password = REDIS_PASSWORD if self.who == "default" else USERS[self.who][1]
        self.proto = self.rng.choice([2, 3])
        self.db = self.rng.randrange(3) if self.who == "default" else 0
        tls = self.rng.random() < 0.2
        self.r = respwire.Resp(self.w.ports["redis_tls"] if tls else self.w.redis_port,
                               timeout=scaled(30), tls=self.w.tls_context() if tls else None)
        if not isinstance(self.r.ask("HELLO", self.proto, "AUTH", self.who, password), list):
            raise Foreign("no HELLO")
        expect(self.r.ask("SELECT", self.db), "OK")

    def token(self, n=None):
        more = n or self.rng.choice([1, 1, 1, 10, 2000])
        return self.name + b"%d-" % self.rng.randrange(1 << 30) * more

    def key(self, kind):
        return b"%b-%b%d-%d" % (kind, self.name, self.lives % 8, self.rng.randrange(3))

    # What it does: pairs of (command, what the reply must be).

    def strings(self):
        k, v = self.key(b"s"), self.token()
        return [(("SET", k, v), "OK"), (("GET", k), v), (("STRLEN", k), len(v)),
                (("GETSET", k, b"x"), v), (("APPEND", k, v), len(v) + 1), (("DEL", k), 1),
                (("GET", k), None)]

    def hashes(self):
        k, v = self.key(b"h"), self.token()
        pair = Map([(b"f", v)]) if self.proto == 3 else [b"f", v]
        return [(("DEL", k), lambda n: n in (0, 1)), (("HSET", k, "f", v), 1),
                (("HGETALL", k), pair), (("HGET", k, "f"), v),
                (("HGET", k, "f", "g"), "ERR wrong number of arguments for 'hget' command")]

    def local(self):
        v = self.token()
        return [(("ECHO", v), v), (("PING",), "PONG"), (("PING", v), v),
                (("CLIENT", "SETNAME", self.name), "OK"), (("CLIENT", "GETNAME",), self.name),
                (("EXEC",), "ERR EXEC without MULTI"), (("SELECT", self.db), "OK"),
                (("NOSUCH-" + self.name.decode(),),
                 "ERR unknown command 'NOSUCH-%s', with args beginning with: " % self.name.decode())]

    def scripts(self):
        v = self.token(1)
        return [(("EVAL", "return {KEYS[1], ARGV[1]}", 1, self.key(b"e")[:2] + self.name, v),
                 [b"e-" + self.name, v]),
                (("EVALSHA", "f" * 40, 0), "NOSCRIPT No matching script. Please use EVAL."),
                (("EVAL", "return redis.error_reply('MINE ' .. ARGV[1])", 0, v),
                 "MINE " + v.decode())]

    def clients(self):
        own = self.who.encode()
        return [(("CLIENT", "LIST"), lambda t: set(re.findall(rb"user=(\S+)", t)) <= {own}
                 and own in t),
                (("CLIENT", "KILL", "ID", 1 << 40), 0)]

    def transaction(self):
        k, v = self.key(b"t"), self.token()
        return [(("DEL", k), lambda n: n in (0, 1)), (("WATCH", k), "OK"), (("MULTI",), "OK"),
                (("SET", k, v), "QUEUED"), (("GET", k), "QUEUED"), (("EXEC",), ["OK", v]),
                (("GET", k), v), (("UNWATCH",), "OK"), (("MULTI",), "OK"),
                (("SET", k, "x"), "QUEUED"), (("DISCARD",), "OK"), (("MULTI",), "OK"),
                (("GET", k), "QUEUED"), (("EXEC",), [v])]

    def blocking(self):
        k, v = self.key(b"b"), self.token()
        z = self.key(b"z")
        return [(("DEL", k, z), lambda n: n in (0, 1, 2)), (("RPUSH", k, v), 1),
                (("BLPOP", k, 5), [k, v]), (("BLPOP", k, 0.01), None), (("ZADD", z, 1, v), 1),
                (("BZPOPMIN", z, 5), lambda x: x[:2] == [z, v]), (("ECHO", v), v)]

    def streams(self):
        k, v = self.key(b"x"), self.token(1)

        def mine(got):
            got = got[0] if isinstance(got, list) else got
            return got in ((k, [[b"1-1", [b"f", v]]]), [k, [[b"1-1", [b"f", v]]]])
        return [(("DEL", k), lambda n: n in (0, 1)), (("XADD", k, "1-1", "f", v), b"1-1"),
                (("XREAD", "COUNT", 1, "STREAMS", k, 0), mine),
                (("XREAD", "BLOCK", 5000, "STREAMS", k, 0), mine)]

    def subscribing(self):
        c = self.key(b"c")
        shared = ("NOPERM this user has no permissions to run the 'subscribe' command "
                  "(weir: profile = shared)")     # two organizations are one user there
        return [(("SUBSCRIBE", c), lambda x: x in ([b"subscribe", c, 1], shared)),
                (("PING",), lambda x: x in ("PONG", [b"pong", b""])),
                (("UNSUBSCRIBE", c), lambda x: x == [b"unsubscribe", c, 0]),
                (("PUBLISH", c, self.token(1)), lambda n: n == 0)]

    KINDS = ([strings] * 4 + [hashes] * 3 + [local] * 3 + [scripts] * 2 + [clients]
             + [transaction] * 2 + [blocking] * 2 + [streams] * 2 + [subscribing])

    def turn(self):
        pairs = []
        for _ in range(self.rng.choice([1, 1, 2, 6])):
            pairs += self.rng.choice(self.KINDS)(self)
        sent = b"".join(encode(*command) for command, _ in pairs)
        how = self.rng.random()
        if how < 0.05:          # in the middle of a request, or with all replies owed
            with contextlib.suppress(OSError):
                self.r.send(sent[:self.rng.randrange(len(sent) + 1)])
            return self.leave()
        if how < 0.5:           # one by one
            for command, want in pairs:
                self.r.send(encode(*command))
                self.hear(command, want)
        else:
            cut = self.rng.randrange(len(sent) + 1)
            self.r.send(sent[:cut])
            self.r.send(sent[cut:])
            stop = self.rng.randrange(len(pairs)) if how < 0.55 else len(pairs)
            for command, want in pairs[:stop]:
                self.hear(command, want)
            if stop < len(pairs):
                return self.leave()
        self.turns += 1

    def hear(self, command, want):
        try:
            expect(self.r.reply(), want)
        except Foreign as e:
            raise Foreign("%r: %.600s" % (command[:2], e))
        self.replies += 1

    def leave(self):
        self.r.close()
        self.r = None

    def run(self, until, wrong, stop):
        try:
            # However slow the machine, it is a test.
            while (time.monotonic() < until or self.replies <= 10) and not stop.is_set():
                if self.r is None:
                    self.connect()
                self.turn()
        except Exception as e:
            wrong.append("%s as %s, RESP%s: %s: %s" % (self.name, self.who, self.proto,
                                                      type(e).__name__, e))
            stop.set()
        finally:
            if self.r is not None:
                self.r.close()


def storm(w, n, seconds):
    wrong, stop = [], threading.Event()
    clients = [Client(w, i) for i in range(n)]
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=c.run, args=[until, wrong, stop]) for c in clients]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, "seed %d\n" % SEED + "\n".join(wrong)
    return clients


@pytest.mark.weir_only
def test_nobody_hears_what_is_anothers_among_clients_that_do_everything(proxy):
    if SOAK:
        signal.alarm(int(SOAK + 600))   # in place of conftest's
    clients = storm(proxy, CLIENTS, SOAK or scaled(2.5))
    assert sum(c.replies for c in clients) > 10 * CLIENTS
    assert all(c.replies for c in clients)
    proxy.settled()
    with contextlib.closing(proxy.resp()) as r:     # and all of it works still
        assert r.ask("SET", "after", "the storm") == "OK"
        assert r.ask("GET", "after") == b"the storm"
