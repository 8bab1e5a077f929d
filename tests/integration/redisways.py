"""
redisways: real Redis clients on shared connections, beside noisy neighbours.

    from redisways import redis_way, workers        # noqa: F401, fixtures

`redis_way` is weir in RESP2 and RESP3, without and with TLS, and with
WEIR_DIRECT=1 Redis itself first: what a real client does must be right
directly, or the test is wrong.  While a test runs, NEIGHBOURS other clients use
the same few server connections, leave in the middle of their replies and come
back; each value carries its owner, and none may get another's.
"""
import contextlib
import os
import random
import subprocess
import threading

import pytest

import servers
import weirproc
from respwire import encode
from servers import REDIS_PASSWORD, scaled

NEIGHBOURS = 20
THREADS = 4
CONNECTIONS, DEDICATED = 4, 40
BIG = 100_000


@pytest.fixture(scope="module")
def workers():
    return 2


class Neighbours:
    """`with Neighbours(proxy):` raises at its end what one of them has seen."""

    def __init__(self, proxy):
        self.proxy, self.over, self.wrong = proxy, threading.Event(), None
        self.rounds = 0
        self.threads = [threading.Thread(target=self._run, args=[n], daemon=True)
                        for n in range(THREADS)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        servers.wait_for(lambda: self.rounds >= THREADS or self.wrong, 20, "no neighbour yet")
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        for t in self.threads:
            t.join(scaled(60))
        assert not any(t.is_alive() for t in self.threads), "a neighbour hangs"
        if kind is None and self.wrong:
            raise self.wrong

    def _run(self, n):
        rng = random.Random(n)
        own = range(n, NEIGHBOURS, THREADS)
        clients = {}
        try:
            while not self.over.wait(0.01):
                i = rng.choice(own)
                if i not in clients:
                    clients[i] = self.proxy.resp(proto=2 + i % 2, tls=i % 5 == 0)
                if not self._round(clients[i], i, rng):
                    clients.pop(i).close()
                self.rounds += 1
        except BaseException as e:
            self.wrong = e
        for c in clients.values():
            c.close()

    @staticmethod
    def _round(c, i, rng):
        """One pipeline of a neighbour; False when it has left in the middle."""
        key = "neighbour:%d" % i
        size = BIG if rng.random() < 0.05 else 50
        value = (key + "/" + "x" * size).encode()
        n = rng.randrange(1, 30)
        c.send(encode("SET", key, value), *[encode("GET", key)] * n, encode("LPUSH", key, 1))
        if rng.random() < 0.1:
            return False
        assert c.reply() == "OK"
        for _ in range(n):
            assert c.reply() == value, "a neighbour got what is not its own"
        assert c.reply().startswith("WRONGTYPE")
        return True


class RedisWay:
    def __init__(self, name, proxy, folder):
        self.name, self.proxy, self.folder = name, proxy, folder
        self.proto, self.tls = int(name[-1]), name.startswith("tls")
        self.direct, self.password = proxy.direct, REDIS_PASSWORD

    @property
    def port(self):
        return self.proxy.ports["redis_tls"] if self.tls else self.proxy.redis_port

    def url(self, db=0):
        return "redis%s://:%s@localhost:%d/%d" % (
            "s" * self.tls, REDIS_PASSWORD, self.port, db)

    def run(self, *argv, input=None, fails=False, seconds=60, **env):
        """A program's standard output; it must succeed, unless it must fail."""
        said = subprocess.run(
            argv, text=True, input=input, capture_output=True, timeout=scaled(seconds),
            cwd=self.folder, start_new_session=True,
            stdin=None if input is not None else subprocess.DEVNULL,
            env=dict({"PATH": os.environ["PATH"], "HOME": self.folder, "LC_ALL": "C.UTF-8",
                      "URL": self.url(), "RESP": str(self.proto),
                      "SECONDS": str(int(scaled(60))), "REDISCLI_AUTH": REDIS_PASSWORD,
                      "NODE_EXTRA_CA_CERTS": self.proxy.ca}, **env))
        assert (said.returncode != 0) == fails, "exit status %d\n%s\n%s" % (
            said.returncode, said.stdout[-3000:], said.stderr[-3000:])
        return said.stdout

    def tool(self, name, *args, **options):
        """redis-cli or redis-benchmark, with how to connect."""
        tls = ["--tls", "--cacert", self.proxy.ca] if self.tls else []
        return self.run(name, "-h", "localhost", "-p", str(self.port), *tls,
                        *["-3"] * (self.proto == 3), *args, **options)


CELLS = ["plain2", "plain3", "tls2", "tls3"]
WAYS = ["direct2", "direct3"] * bool(os.environ.get("WEIR_DIRECT")) + CELLS


@pytest.fixture(params=WAYS)
def redis_way(request, pg, rd, authority, folder):
    weirproc.Direct.prepare(pg, rd)
    with contextlib.closing(rd.connect()) as r:
        r.flushall()
    if request.param.startswith("direct"):
        proxy = weirproc.Direct(pg, rd, authority.crt)
    else:
        proxy = request.getfixturevalue("proxy")
    way = RedisWay(request.param, proxy, folder)
    with Neighbours(proxy):
        yield way
    if not getattr(request.node, "has_failed", False) and not way.direct:
        proxy.hang_up()
        proxy.settled()
        assert proxy.metrics()['weir_servers{proto="redis"}'] <= CONNECTIONS + DEDICATED
