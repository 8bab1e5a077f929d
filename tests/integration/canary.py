"""
canary: a well-behaved client of each protocol that works while others do not.

    with Canary(weir) as canary:
        ... whatever a hostile neighbour does ...

Leaving the block fails the test if the canary saw an error, another client's
reply, or a wait longer than `patience`; and it must sing a few times more.
"""
import threading
import time

import pgwire
from servers import scaled


class Canary:
    def __init__(self, weir, postgres=True, redis=True, patience=15, rest=0.005):
        self.weir, self.patience, self.rest = weir, scaled(patience), rest
        self.over = threading.Event()
        self.said, self.turns, self.worst, self.before = [], {}, {}, {}
        work = [self._postgres] * postgres + [self._redis] * redis
        self.threads = [threading.Thread(target=self._watch, args=[w], daemon=True)
                        for w in work]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, kind, *_):
        before, end = dict(self.turns), time.monotonic() + self.patience
        while kind is None and not self.said and time.monotonic() < end and not (
                len(self.turns) == len(self.threads)
                and all(n > before.get(name, 0) + 3 for name, n in self.turns.items())):
            time.sleep(0.01)
        self.over.set()
        for t in self.threads:
            t.join(self.patience + 30)
        if kind is None:
            self.verdict(before)

    def verdict(self, before):
        assert not self.said, "the canary suffered: %s" % self.said
        for name, n in self.turns.items():
            assert n > before.get(name, 0) + 3, "%s sings no more (%d)" % (name, n)
            assert self.worst[name] < self.patience, \
                "%s waited %.1fs" % (name, self.worst[name])
        assert len(self.turns) == len(self.threads)

    def _watch(self, work):
        name = work.__name__.strip("_")
        try:
            for _ in work():
                now = time.monotonic()
                if name in self.turns:
                    self.worst[name] = max(self.worst[name], now - self.before[name])
                self.turns[name] = self.turns.get(name, 0) + 1
                self.worst.setdefault(name, 0)
                self.before[name] = now
                if self.over.wait(self.rest):
                    return
        except Exception as e:
            self.said.append("%s: %s: %s" % (name, type(e).__name__, e))

    def _postgres(self):
        with self.weir.wire("acme_app") as wire:
            n = 0
            while True:
                n += 1
                token = "canary %d" % n
                got = (wire.rows(pgwire.query("SELECT '%s'" % token)) if n % 2 else
                       wire.rows(pgwire.extended("SELECT $1::text", [token])))
                assert got == [[token]], "%r is not mine (%s)" % (got, token)
                yield

    def _redis(self):
        with self.weir.resp() as r:
            n, key = 0, "canary:%d" % id(self)
            while True:
                n += 1
                got = (r.ask("SET", key, n), r.ask("GET", key), r.ask("PING", n))
                assert got == ("OK", b"%d" % n, b"%d" % n), got
                yield
