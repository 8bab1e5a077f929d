"""
Goal:   what applications use to speak to Redis works through weir as on Redis.
Method: redis-cli, redis-benchmark, redis-py, hiredis, and from npm ioredis, node-redis
        and what stands on them: RESP2 and RESP3, plain and TLS, all on shared
        connections with 20 noisy neighbours.  WEIR_DIRECT=1 runs the same on Redis.
"""
import asyncio
import contextlib
import os
import random
import subprocess

import pytest
import redis
import redis.asyncio

import nodejs
from redisways import (CONNECTIONS, DEDICATED, WAYS,           # noqa: F401
                       redis_way, workers)
from respwire import encode
from servers import scaled
from ways import HERE

CONFIG = {"redis main": {"connections": CONNECTIONS, "dedicated_connections": DEDICATED}}
RESP2 = [w for w in WAYS if w.endswith("2")]


# From npm: one process a cell, many libraries.


@pytest.fixture(scope="module")
def node():
    nodejs.ready()
    return lambda way, script, *scenarios: way.run(
        "node", os.path.join(nodejs.FOLDER, script), *scenarios, seconds=120)


def test_ioredis_and_node_redis(redis_way, node):
    node(redis_way, "redis.js",
         "ioredisValues", "ioredisPipelines", "ioredisScripts", "ioredisIterates",
         "ioredisSessions", "ioredisTransactions", "ioredisBlocks", "ioredisSubscribes",
         "nodeRedisValues", "nodeRedisShares", "nodeRedisPool")


def test_locks_sessions_queues_and_socket_io(redis_way, node):
    node(redis_way, "redis_apps.js", "locks", "sessions", "queues",
         "socketsOnIoredis", "socketsOnNodeRedis", "socketsSharded")


# Redis's own tools.


def test_redis_cli(redis_way):
    def cli(*args, **options):
        return redis_way.tool("redis-cli", *args, **options)

    assert cli("PING") == "PONG\n"
    assert cli("SET", "cli", "grüße\r\n") == "OK\n"
    assert cli("--no-raw", "GET", "cli") == '"gr\\xc3\\xbc\\xc3\\x9fe\\r\\n"\n'
    assert cli("-x", "SET", "cli", input="from stdin") == "OK\n"
    assert cli("GET", "cli") == "from stdin\n"
    assert cli("-n", "3", "EXISTS", "cli") == "0\n"
    assert cli("-r", "3", "INCR", "cli:n") == "1\n2\n3\n"
    assert cli(input="SELECT 3\nSET cli three\nGET cli\nDEL cli\n") == "OK\nOK\nthree\n1\n"
    assert "WRONGTYPE Operation" in cli("LPUSH", "cli", "x")
    assert "redis_version:" in cli("INFO", "server")
    sha = cli("SCRIPT", "LOAD", "return redis.call('SET', 'cli:cleaned', 'yes')").strip()
    assert cli("HSET", "scripts:sha", "cleanup", sha) == "1\n"
    assert cli("EVALSHA", cli("HGET", "scripts:sha", "cleanup").strip(), "0") == "OK\n"
    assert cli("GET", "cli:cleaned") == "yes\n"
    assert cli(input="MULTI\nINCR cli:m\nINCR cli:m\nEXEC\n").split()[-2:] == ["1", "2"]
    assert cli("--eval", "/dev/stdin", "cli", ",", "x",
               input="return {KEYS[1], ARGV[1]}").split() in (["cli", "x"], ["1)", '"cli"', "2)", '"x"'])


@pytest.mark.parametrize("redis_way", ["plain3", "tls2"], indirect=True)
def test_redis_cli_loads_and_lists_many_keys(redis_way):
    said = redis_way.tool("redis-cli", "--pipe", input="".join(
        encode("SET", "mass:%d" % i, "x" * (i % 300)).decode() for i in range(5000)))
    assert "errors: 0, replies: 5000" in said
    keys = redis_way.tool("redis-cli", "--scan", "--pattern", "mass:*").split()
    assert len(set(keys)) == 5000
    assert "Biggest string found" in redis_way.tool("redis-cli", "--bigkeys")


@pytest.mark.parametrize("redis_way", ["plain3", "tls2"], indirect=True)
def test_redis_benchmark(redis_way):
    said = redis_way.tool(
        "redis-benchmark", "-a", redis_way.password, "-c", "30", "-n", "500", "-P", "4", "-q",
        "-r", "1000", "-d", "100",
        "-t", "ping,set,get,incr,lpush,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset")
    assert said.count("requests per second") == 15, said
    assert "rror" not in said, said


# redis-py, Debian's: RESP2.

def from_url(way, kind=redis.Redis, db=0, **options):
    if way.tls:
        options["ssl_ca_certs"] = way.proxy.ca
    return kind.from_url(way.url(db), socket_timeout=scaled(60), **options)


@contextlib.contextmanager
def connected(way, **options):
    r = from_url(way, **options)
    yield r
    r.connection_pool.disconnect()


@pytest.mark.parametrize("redis_way", RESP2, indirect=True)
def test_redis_py(redis_way):
    with connected(redis_way, decode_responses=True, client_name="redis-py",
                   health_check_interval=1) as r:
        big = "x" * (2 << 20)
        assert r.set("py", big) is True and r.get("py") == big
        assert r.client_getname() == "redis-py"
        assert r.hset("py:h", mapping={"a": 1, "b": "zwei"}) == 2
        assert r.hgetall("py:h") == {"a": "1", "b": "zwei"}
        assert r.zadd("py:z", {"a": 1.5, "b": 2}) == 2
        assert r.zrange("py:z", 0, -1, withscores=True) == [("a", 1.5), ("b", 2.0)]
        entry = r.xadd("py:x", {"field": "value"})
        assert r.xread({"py:x": 0}) == [["py:x", [(entry, {"field": "value"})]]]
        assert r.info()["redis_version"] and r.ping()
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            r.lpush("py", 1)
        p = r.pipeline(transaction=False)
        for i in range(500):
            p.set("py:%d" % i, i).get("py:%d" % i)
        assert p.execute()[1::2] == [str(i) for i in range(500)]
        assert len(set(r.scan_iter("py:*", count=50))) >= 500
        twice = r.register_script("return ARGV[1] * 2 -- %d" % random.randrange(1 << 30))
        assert [twice(args=[i]) for i in range(5)] == [0, 2, 4, 6, 8]
        with r.lock("py:lock", timeout=10) as lock:
            assert lock.owned()
            assert not r.lock("py:lock", blocking=False).acquire()
        assert r.exists("py:lock") == 0
        assert r.pipeline().set("py:n", 1).incr("py:n").execute() == [True, 2]
        assert r.transaction(lambda p: (p.multi(), p.incr("py:n")), "py:n") == [3]
        assert r.blpop("py:empty", timeout=1) is None
        with r.pubsub(ignore_subscribe_messages=True) as sub:
            sub.subscribe("py:channel")
            sub.psubscribe("py:p*")
            assert sub.get_message(timeout=scaled(10)) is None      # its confirmations
            assert sub.get_message(timeout=scaled(10)) is None
            r.publish("py:channel", "x")
            r.publish("py:pattern", "y")
            assert [sub.get_message(timeout=scaled(10))["data"] for _ in range(2)] == ["x", "y"]
        with connected(redis_way, db=3) as other:
            assert other.set("py", 3) and len(r.get("py")) == len(big)
            assert other.delete("py") == 1


@pytest.mark.parametrize("redis_way", RESP2, indirect=True)
def test_redis_py_with_asyncio(redis_way):
    async def task(r, i):
        await r.set("aio:%d" % i, i)
        return int(await r.get("aio:%d" % i))

    async def run():
        r = from_url(redis_way, redis.asyncio.Redis, max_connections=20)
        assert await asyncio.gather(*[task(r, i) for i in range(20)]) == list(range(20))
        # A cancelled command's reply is nobody's.
        for i in range(20):
            waiting = asyncio.create_task(r.get("aio:1"))
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            assert await r.get("aio:2") == b"2"
        await r.close()
        await r.connection_pool.disconnect()
    asyncio.run(run())


# hiredis, Debian's: RESP2, no TLS.


@pytest.fixture(scope="module")
def hiredis(folder):
    program = os.path.join(folder, "hiredis")
    subprocess.run(["cc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-o", program,
                    os.path.join(HERE, "hiredis.c"), "-lhiredis", "-levent"], check=True)
    return program


@pytest.mark.parametrize("redis_way", ["plain2"], indirect=True)
@pytest.mark.parametrize("scenario", ["values", "pipeline", "asynchronous"])
def test_hiredis(redis_way, hiredis, scenario):
    redis_way.run(hiredis, scenario, str(redis_way.port), redis_way.password)
