"""
Goal:   however many clients there are, of all kinds, Redis has as many
        connections as are configured, and each client gets what is its own.
Method: all of them ask at the same time; Redis is looked at meanwhile.
        WEIR_SOAK=1: 5 000 of them, and what they cost is printed.
"""
import contextlib
import os
import resource

import pytest

from respwire import encode
from servers import wait_for

pytestmark = pytest.mark.weir_only

SOAK = bool(os.environ.get("WEIR_SOAK"))
CLIENTS = 5000 if SOAK else 150
ROUNDS = 5 if SOAK else 2
MOST = 50
CONFIG = {"weir": {"query_wait_timeout": 120, "log_level": "warn"},
          "redis main": {"connections": 16, "dedicated_connections": 33}}


def asked(n, i):
    """What client n asks in round i, and what it must hear."""
    own, value = "crowd:%d" % n, b"%d/%d" % (n, i)
    both = [(("SET", own, value), "OK"), (("GET", own), value),
            (("LRANGE", own + ":l", 0, -1), [b"%d" % k for k in range(i)]),
            (("RPUSH", own + ":l", i), i + 1),
            (("EVAL", "return redis.call('GET', KEYS[1])", 1, own), value)]
    if n % 3 == 0:
        both += [(("MULTI",), "OK"), (("GET", own), "QUEUED"), (("EXEC",), [value])]
    if n % 7 == 0:
        both += [(("WATCH", own), "OK"), (("MULTI",), "OK"), (("PING",), "QUEUED"),
                 (("GET", own), "QUEUED"), (("EXEC",), ["PONG", value])]
    if n % 11 == 0:
        both += [(("RPUSH", own + ":b", value), 1),
                 (("BLPOP", own + ":b", 60), [own.encode() + b":b", value])]
    if n % 50 == 0 and i == 0:
        both += [(("SUBSCRIBE", "crowd"), [b"subscribe", b"crowd", 1])]
    return both


def test_a_crowd_of_all_kinds_arrives_on_few_connections(weir, workers, rd):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    w = weir({**CONFIG, "weir": {**CONFIG["weir"], "max_client_conn": CLIENTS + 100}}, workers)
    with contextlib.closing(rd.connect()) as r:
        r.flushall()
    others = {c["id"] for c in rd.clients()}
    before, most = w.memory(), 0

    def look():
        return len({c["id"] for c in rd.clients()} - others)
    crowd = [w.resp(2 if n % 50 == 0 else 2 + n % 2) for n in range(CLIENTS)]
    idle = w.memory()
    # A subscriber of RESP2 asks nothing else; the others go on.
    silent = set()
    for i in range(ROUNDS):
        for n, r in enumerate(crowd):
            if n not in silent:
                r.send(*[encode(*args) for args, _ in asked(n, i)])
                if n % (CLIENTS // 10) == 0:
                    most = max(most, look())
        for n, r in enumerate(crowd):
            if n in silent:
                continue
            for args, expected in asked(n, i):
                assert r.reply() == expected, (n, i, args)
            if n % (CLIENTS // 10) == 0:
                most = max(most, look())
            if n % 50 == 0:
                silent.add(n)
    assert 1 <= most <= MOST
    print("%d clients, %d workers: %d connections at most; %.1f KB each idle, %.1f KB each at most"
          % (CLIENTS, workers, most, (idle - before) / CLIENTS / 1024,
             (w.memory("VmHWM") - before) / CLIENTS / 1024))
    assert w.metric("redis_subscriptions") == len(silent)
    wait_for(lambda: w.metric("clients_waiting", "redis") == 0, 20, "somebody waits")
