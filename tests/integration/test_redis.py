"""
Goal:   a Redis client cannot tell weir from Redis, except that many of them
        arrive there on few connections.
Method: the same commands are sent to weir and to Redis itself, byte for byte,
        in RESP2 and RESP3; values carry their owner; then noise, leaving
        clients and dying upstreams beside clients that must notice nothing.
"""
import contextlib
import random
import re
import subprocess
import threading
import time

import pytest

import respwire
from respwire import Error, encode
from servers import (REDIS_PASSWORD, USERS, Authority, Redis, free_port, scaled,
                     wait_for)

CONNECTIONS = 4
CONFIG = {"redis main": {"connections": CONNECTIONS}}
DIRECT_DB = 9           # where the same commands are sent past weir

NOAUTH = "NOAUTH Authentication required."
WRONGPASS = "WRONGPASS invalid username-password pair or user is disabled."


@pytest.fixture(autouse=True)
def empty(rd):
    with contextlib.closing(rd.connect()) as r:
        r.flushall()


def past_weir(rd, proto=2):
    r = respwire.Resp(rd.port)
    if proto == 3:
        r.ask("HELLO", "3", "AUTH", "default", rd.password)
    else:
        r.ask("AUTH", rd.password)
    assert r.ask("SELECT", DIRECT_DB) == "OK"
    return r


# Logging in.


def test_nothing_but_a_login_works_before_the_login(proxy):
    r = proxy.resp(login=False)
    for command in [("GET", "k"), ("PING",), ("SELECT", "0"), ("ECHO", "x")]:
        assert r.ask(*command) == NOAUTH
    assert r.ask("AUTH", REDIS_PASSWORD) == "OK"
    assert r.ask("PING") == "PONG"


def test_hello_tells_of_the_upstream_as_that_does(proxy, rd):
    said = []
    for r in (past_weir(rd, 3), proxy.resp(proto=3)):
        assert r.ask("GET", "k") is None        # by then it is known
        r.send(respwire.encode("HELLO", 3), respwire.encode("HELLO", 2))
        said.append([re.sub(rb"(\r\nid\r\n:)\d+", rb"\1N", r.raw()) for _ in range(2)])
        r.close()
    assert said[1] == said[0]


def test_auth_with_one_argument_and_with_two(proxy):
    for args in [(REDIS_PASSWORD,), ("default", REDIS_PASSWORD)]:
        r = proxy.resp(login=False)
        assert r.ask("AUTH", *args) == "OK"
        assert r.ask("SET", "k", "v") == "OK"


@pytest.mark.weir_only
def test_any_configured_user_may_log_in(proxy):
    for user in USERS:
        r = proxy.resp(login=False)
        assert r.ask("AUTH", user, USERS[user][1]) == "OK"
        assert r.ask("PING") == "PONG"


@pytest.mark.parametrize("args", [
    ("wrong",), ("default", "wrong"), ("no_such_user", REDIS_PASSWORD),
    ("acme_app", REDIS_PASSWORD), ("",)])
def test_a_wrong_password_is_refused_and_one_may_try_again(proxy, args):
    r = proxy.resp(login=False)
    assert r.ask("AUTH", *args) == WRONGPASS
    assert r.ask("GET", "k") == NOAUTH
    assert r.ask("AUTH", REDIS_PASSWORD) == "OK"
    assert r.ask("GET", "k") is None


def test_a_failed_auth_leaves_the_earlier_login(proxy):
    r = proxy.resp()
    assert r.ask("AUTH", "wrong") == WRONGPASS
    assert r.ask("PING") == "PONG"


def test_login_and_work_in_one_write(proxy):
    r = proxy.resp(login=False)
    r.send(encode("PING"), encode("AUTH", REDIS_PASSWORD), encode("PING"),
           encode("SET", "k", "v"), encode("AUTH", "x", "y"), encode("GET", "k"))
    assert r.replies(6) == [NOAUTH, "OK", "PONG", "OK", WRONGPASS, b"v"]


HELLO = [b"server", b"version", b"proto", b"id", b"mode", b"role", b"modules"]


def test_hello_2_and_3(proxy):
    r = proxy.resp(login=False)
    refused = r.ask("HELLO", "3")
    assert refused.startswith("NOAUTH HELLO must be called")
    assert r.ask("GET", "k") == NOAUTH
    three = r.ask("HELLO", "3", "AUTH", "default", REDIS_PASSWORD, "SETNAME", "me")
    assert isinstance(three, respwire.Map) and [k for k, _ in three] == HELLO
    assert dict(three)[b"server"] == b"redis" and dict(three)[b"proto"] == 3
    assert r.ask("HGETALL", "h") == respwire.Map()
    two = r.ask("HELLO", "2")
    assert two[0::2] == HELLO and two[5] == 2
    assert not isinstance(r.ask("HGETALL", "h"), respwire.Map)
    assert dict(zip(two[0::2], two[1::2]))[b"id"] == dict(three)[b"id"]
    assert r.ask("HELLO")[5] == 2


@pytest.mark.parametrize("args, text", [
    (("4",), "NOPROTO unsupported protocol version"),
    (("1",), "NOPROTO unsupported protocol version"),
    (("x",), "ERR Protocol version is not an integer or out of range"),
    (("3", "FOO"), "ERR Syntax error in HELLO option 'FOO'"),
    (("3", "AUTH", "default"), "ERR Syntax error in HELLO option 'AUTH'"),
    (("3", "SETNAME", "a b"),
     "ERR Client names cannot contain spaces, newlines or special characters."),
    (("3", "AUTH", "default", "wrong"), WRONGPASS)])
def test_a_hello_that_fails_changes_nothing(proxy, args, text):
    r = proxy.resp()
    assert r.ask("HELLO", *args) == text
    r.send(encode("HGETALL", "h"))
    assert r.raw() == b"*0\r\n"       # still logged in, still RESP2


def test_redis_py_as_anybody_uses_it(proxy):
    for tls in (False, True):
        r = proxy.redis(tls=tls, db=3)
        assert r.ping()
        r.set("k", "v", ex=100)
        assert r.get("k") == b"v" and 0 < r.ttl("k") <= 100
        with r.pipeline(transaction=False) as pipe:
            for n in range(1000):
                pipe.set("k%d" % n, n).get("k%d" % n)
            assert pipe.execute() == [x for n in range(1000) for x in (True, b"%d" % n)]
        assert r.hset("h", mapping={"a": 1, "b": 2}) in (0, 2)
        assert r.hgetall("h") == {b"a": b"1", b"b": b"2"}
        assert r.eval("return {KEYS[1], ARGV[1]}", 1, "k", "a") == [b"k", b"a"]


# Databases.


def test_each_client_has_its_own_database(proxy):
    clients = [proxy.resp() for _ in range(24)]
    for n, r in enumerate(clients):
        assert r.ask("SELECT", n % 16) == "OK"
        assert r.ask("SET", "where", n % 16) == "OK"
    for turn in range(5):
        for n, r in enumerate(clients):
            assert r.ask("GET", "where") == b"%d" % (n % 16)


def test_select_is_in_step_within_a_pipeline(proxy):
    r = proxy.resp()
    r.send(*[encode("SELECT", n) + encode("SET", "k", n) + encode("GET", "k")
             for n in range(16)])
    assert r.replies(48) == [x for n in range(16) for x in ("OK", "OK", b"%d" % n)]
    r.send(*[encode("SELECT", n) + encode("GET", "k") for n in (3, 1, 2)])
    assert r.replies(6) == ["OK", b"3", "OK", b"1", "OK", b"2"]


@pytest.mark.parametrize("db, text", [
    ("99", "ERR DB index is out of range"), ("-1", "ERR DB index is out of range"),
    ("x", "ERR value is not an integer or out of range"), ("", None), ("1 ", None)])
def test_a_select_that_fails_stays_where_it_was(proxy, db, text):
    r = proxy.resp()
    r.ask("SELECT", "5"), r.ask("SET", "k", "five")
    answer = r.ask("SELECT", db)
    assert isinstance(answer, Error) and (text is None or answer == text)
    assert r.ask("GET", "k") == b"five"


# What weir answers itself, and in what order.


def test_ping_and_echo(proxy):
    r = proxy.resp()
    assert r.ask("PING") == "PONG" and r.ask("ping") == "PONG"
    assert r.ask("PING", "x\r\ny") == b"x\r\ny"
    assert r.ask("ECHO", "") == b"" and r.ask("EcHo", "a b") == b"a b"
    for command in [("PING", "a", "b"), ("ECHO",), ("ECHO", "a", "b")]:
        assert r.ask(*command) == "ERR wrong number of arguments for '%s' command" \
            % command[0].lower()


def test_quit_answers_what_came_before_it_and_drops_what_came_behind(proxy, rd):
    r = proxy.resp()
    r.send(encode("SET", "k", "before"), encode("GET", "k"), encode("QUIT"),
           encode("SET", "k", "behind"))
    assert r.until_closed() == b"+OK\r\n$6\r\nbefore\r\n+OK\r\n"
    with contextlib.closing(rd.connect()) as direct:
        assert direct.get("k") == b"before"
    assert proxy.resp(login=False).ask("QUIT") == "OK"


def test_inline_commands(proxy):
    r = proxy.resp()
    r.send(b"PING\r\n", b"set k 'a b'\r\n", b"GET k\n", b"  \r\n", b"\r\n",
           b'ECHO "a\\x41\\n\\"b"\r\n', encode("GET", "k"), b"STRLEN k\r\n")
    assert r.replies(6) == ["PONG", "OK", b"a b", b'aA\n"b', b"a b", 3]
    r.send(b"SET key\r\n")
    assert r.reply() == "ERR wrong number of arguments for 'set' command"


def test_requests_that_ask_nothing_get_no_reply(proxy):
    r = proxy.resp()
    r.send(b"*0\r\n", b"*-1\r\n", b"*-10\r\n", b"\r\n", encode("PING"))
    assert r.reply() == "PONG"


def test_local_and_forwarded_commands_keep_their_order(proxy):
    rng = random.Random(1)
    r = proxy.resp()
    arity = "ERR wrong number of arguments for 'get' command"
    for turn in range(20):
        sent, expected = [], []
        for n in range(200):
            token = "%d-%d" % (turn, n)
            pairs = rng.choice([
                [(("PING", token), token.encode())], [(("ECHO", token), token.encode())],
                [(("PING",), "PONG")], [(("GET", "none"), None)], [(("GET",), arity)],
                [(("SET", "k", token), "OK"), (("GET", "k"), token.encode())]])
            sent += [encode(*command) for command, _ in pairs]
            expected += [reply for _, reply in pairs]
        r.send(*sent)
        assert r.replies(len(expected)) == expected


def test_a_request_may_be_split_at_any_byte(proxy):
    session = (encode("AUTH", REDIS_PASSWORD) + encode("SET", "k", "v\r\nw")
               + b"GET k\r\n" + encode("PING", "x") + encode("HELLO", "3")
               + encode("HGETALL", "none") + encode("NOSUCH", "a") + encode("QUIT"))

    def answers(pieces):
        r = proxy.resp(login=False)
        for piece in pieces:
            r.send(piece)
            time.sleep(0.0005)
        out = r.until_closed()
        r.close()
        # The id of the client is the only thing that may differ.
        return b"\r\n".join(line for line in out.split(b"\r\n") if line[:1] != b":")

    whole = answers([session])
    assert whole.startswith(b"+OK\r\n+OK\r\n$4\r\nv\r\nw\r\n$1\r\nx\r\n%7\r\n")
    assert b"%0\r\n-ERR unknown command 'NOSUCH'" in whole and whole.endswith(b"+OK\r\n")
    for at in range(1, len(session)):
        assert answers([session[:at], session[at:]]) == whole, "split at byte %d" % at
    assert answers([session[i:i + 1] for i in range(len(session))]) == whole


# The commands, compared with Redis.


COMMANDS = """
set k v|get k|append k w|strlen k|getrange k 0 0|substr k 0 0|setrange k 1 X|getset k new
getdel k|set n 10|incr n|incrby n 5|decr n|decrby n 2|incrbyfloat n 1.5|setnx n 1|setex s 100 v
psetex s 100000 v|getex s persist|mset a 1 b 2|mget a b none|msetnx a 1 c 1|set a v nx get
lcs a b len|setbit bit 7 1|getbit bit 7|bitcount bit|bitpos bit 1|bitop not dest bit
bitfield bf set u8 0 200 get u4 0|bitfield_ro bf get u8 0|set k v px 100000 keepttl|get k
exists a b none|type a|rename a a2|renamenx a2 a|copy a a3|del a3|unlink none|touch a b
expire a 100|pexpire a 100000|expireat a 99999999999|pexpireat a 99999999999999|expiretime a
pexpiretime a|persist a|ttl a|pttl a|dump none|object encoding a|object refcount a|object help
sort none|sort_ro none|lpush l 3 2 1|rpush l 4|lpushx l 0|rpushx none 1|llen l|lrange l 0 -1
lindex l 0|linsert l before 3 x|lpos l x|lrem l 1 x|lset l 0 zero|ltrim l 0 3|lmove l l2 left right
rpoplpush l l2|lmpop 1 l left|lpop l2|rpop l 2|sort l2 alpha|sadd s1 1 2 3|sadd s2 2 3 4|scard s1
smembers s1|sismember s1 1|smismember s1 1 9|sinter s1 s2|sintercard 2 s1 s2|sunion s1 s2
sdiff s1 s2|sinterstore sd s1 s2|sunionstore sd s1 s2|sdiffstore sd s1 s2|smove s1 s2 1|srem s2 1
sscan s2 0|srandmember none|spop none|hset h f 1 g 2|hget h f|hmget h f none|hmset h i 3|hgetall h
hkeys h|hvals h|hlen h|hexists h f|hincrby h f 5|hincrbyfloat h f 0.5|hsetnx h f 0|hstrlen h f
hdel h g|hscan h 0|hrandfield h 5 withvalues|zadd z 1 a 2 b 3 c|zadd z2 5 b|zcard z|zscore z a
zmscore z a none|zrange z 0 -1 withscores|zrevrange z 0 -1|zrangebyscore z 1 2|zrevrangebyscore z 2 1
zrangebylex z - +|zrevrangebylex z + -|zrank z b|zrevrank z b|zcount z 1 2|zlexcount z - +
zincrby z 1.5 a|zinter 2 z z2 withscores|zunion 2 z z2 withscores|zdiff 2 z z2|zintercard 2 z z2
zinterstore zd 2 z z2|zunionstore zd 2 z z2|zdiffstore zd 2 z z2|zrangestore zd z 0 -1|zscan z 0
zrem z a|zpopmin zd|zpopmax zd 2|zmpop 1 z2 min|zremrangebyrank z 0 0|zremrangebyscore z 0 0
zremrangebylex z [x [y|zrandmember z|pfadd p a b|pfcount p|pfmerge pd p
geoadd g 13.36 38.11 x 15.08 37.50 y|geodist g x y|geohash g x|geopos g x none
geosearch g frommember x byradius 300 km|geosearchstore gd g frommember x byradius 300 km
georadius g 15 37 200 km|georadius_ro g 15 37 200 km|georadiusbymember g x 300 km
georadiusbymember_ro g x 300 km|xadd x 1-1 f v|xadd x 2-1 f w|xlen x|xrange x - +|xrevrange x + -
xread count 1 streams x 0|xgroup create x grp 0|xreadgroup group grp me streams x >|xpending x grp
xclaim x grp me 0 1-1|xautoclaim x grp me 0 0|xack x grp 1-1|xinfo groups x|xdel x 1-1|xtrim x maxlen 1
xsetid x 5-5|eval "return 1" 0|eval "return redis.call('get',KEYS[1])" 1 a|eval_ro "return 2" 0
evalsha ffffffffffffffffffffffffffffffffffffffff 0|evalsha_ro ffffffffffffffffffffffffffffffffffffffff 0
fcall nofunction 0|fcall_ro nofunction 0|publish ch hello|spublish ch hello|restore none 0 garbage
get l|incr l|hget a f|zadd z notanumber m|lset l 99 x|get|set k|hset h f|expire a x|xadd x 1-1 f v
""".replace("\n", "|").strip("|").split("|")


def words(line):
    import shlex
    return shlex.split(line)


@pytest.mark.parametrize("how", ["one by one", "in one write"])
@pytest.mark.parametrize("proto", [2, 3])
def test_the_shareable_commands_answer_as_redis_does(proxy, rd, proto, how):
    asked = {words(line)[0].lower() for line in COMMANDS}
    assert len(asked) > 155, "of 168"
    answers = []
    for r in (past_weir(rd, proto), proxy.resp(proto=proto)):
        if how == "one by one":
            got = []
            for line in COMMANDS:
                r.send(encode(*words(line)))
                got.append(r.raw())
        else:
            r.send(*[encode(*words(line)) for line in COMMANDS])
            got = [r.raw() for _ in COMMANDS]
        answers.append(list(zip(COMMANDS, got)))
        r.close()
    assert answers[1] == answers[0]
    kinds = {raw[:1] for _, raw in answers[0]}
    assert kinds >= ({b"+", b"-", b":", b"$", b"*"} if proto == 2 else
                     {b"+", b"-", b":", b"$", b"*", b"%", b"~", b",", b"_"})


UNSUPPORTED = """SYNC|PSYNC ? -1|REPLCONF x y
""".replace("\n", "|").strip("|").split("|")


@pytest.mark.weir_only
@pytest.mark.parametrize("proto", [2, 3])
def test_what_is_not_supported_says_so_and_stays_in_step(proxy, proto):
    r = proxy.resp(proto=proto)
    assert r.ask("SET", "k", "v") == "OK"
    other = {}
    for line in UNSUPPORTED:
        r.send(encode("ECHO", line), encode(*line.split()), encode("GET", "k"))
        assert r.reply() == line.encode()
        answer = r.reply()
        assert r.reply() == b"v"
        if not (isinstance(answer, Error) and answer.upper().startswith("ERR WEIR: " + line.split()[0])
                and answer.endswith(("is not supported yet", "is not supported"))):
            other[line] = answer
    assert not other


def test_an_unknown_command_is_told_in_redis_own_words(proxy, rd):
    for command in [("NOSUCH",), ("NoSuch", "a", "b"), ("", "x"), ("GETX", "1" * 300),
                    ("x\r\ny", "z\r\n+OK\r\n"), ("GET",), ("SET", "a"),
                    ("OBJECT", "nosuch", "k"), ("XGROUP",)]:
        texts = []
        for r in (past_weir(rd), proxy.resp()):
            texts.append(r.ask(*command))
            assert r.ask("PING") == "PONG"
            r.close()
        assert isinstance(texts[0], Error)
        assert texts[1] == texts[0]


# Size.


def test_a_value_of_64_megabytes_both_ways(proxy, san):
    r = proxy.resp(timeout=60)
    value = random.Random(2).randbytes(1 << 20) * 64
    before = 0 if proxy.direct else proxy.memory()
    assert r.ask("SET", "big", value) == "OK"
    assert r.ask("STRLEN", "big") == 64 << 20
    assert r.ask("GET", "big") == value
    r.send(encode("PING"), encode("GET", "big"), encode("PING", "after"))
    assert r.reply() == "PONG" and r.reply() == value and r.reply() == b"after"
    r.close()
    if not san and not proxy.direct:
        with contextlib.suppress(AssertionError):
            wait_for(lambda: proxy.memory() - before < 40 << 20, 5)
        assert (proxy.memory() - before) >> 20 < 40, "megabytes were not given back"


def test_many_arguments_and_many_elements(proxy):
    r = proxy.resp()
    members = ["m%d" % n for n in range(20_000)]
    assert r.ask("RPUSH", "l", *members) == len(members)
    assert r.ask("LRANGE", "l", 0, -1) == [m.encode() for m in members]
    deep = r.ask("EVAL", "local t = {1} for i = 1, 20 do t = {t} end return t", 0)
    for _ in range(20):
        deep = deep[0]
    assert deep == [1]


def test_a_long_pipeline_before_the_first_read(proxy):
    r = proxy.resp(timeout=60)
    n = 20_000
    writer = threading.Thread(target=lambda: r.send(*[
        encode("SET", "k%d" % i, "x" * 100) + encode("GET", "k%d" % i)
        for i in range(n)]))
    writer.start()
    for _ in range(n):
        assert r.reply() == "OK" and r.reply() == b"x" * 100
    writer.join()


# Many clients, few connections.


@pytest.mark.parametrize("depth", [1, 16])
def test_redis_benchmark_with_50_clients(proxy, rd, depth):
    said = subprocess.Popen(
        ["redis-benchmark", "-p", str(proxy.redis_port), "-a", REDIS_PASSWORD, "-t",
         "set,get,incr,lpush,hset,zadd,lrange_100,mset", "-c", "50", "-P", str(depth),
         "-n", "4000", "-r", "1000", "-q", "--csv"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    most = 0
    while said.poll() is None:
        most = max(most, len(rd.clients()))
        time.sleep(0.02)
    out = said.stdout.read()
    assert said.returncode == 0, out
    assert out.count('"') > 8 * 10 and "Error" not in out, out
    if not proxy.direct:
        assert 1 <= most <= CONNECTIONS, most


@pytest.mark.weir_only
def test_hundred_clients_arrive_on_few_connections(proxy, rd):
    clients = [proxy.resp() for _ in range(100)]
    for turn in range(3):
        for n, r in enumerate(clients):
            r.send(encode("SET", "own:%d" % n, n), encode("GET", "own:%d" % n))
        for n, r in enumerate(clients):
            assert r.replies(2) == ["OK", b"%d" % n]
    assert 1 <= len(rd.clients()) <= CONNECTIONS
    assert proxy.metric("clients", "redis") == 100
    assert proxy.metric("redis_commands_total") >= 600


def owner(proxy, n, seconds, wrong, proto=2, tls=False):
    """A client whose every value carries its name."""
    rng = random.Random(n)
    try:
        with contextlib.closing(proxy.resp(proto=proto, tls=tls)) as r:
            r.ask("SELECT", n % 3)
            end = time.monotonic() + seconds
            turns = 0
            while time.monotonic() < end or turns < 5:
                turns += 1
                sent, want = [], []
                for i in range(rng.choice([1, 2, 16])):
                    value = b"%d:%d:%d" % (n, turns, i) * rng.choice([1, 1, 1, 500])
                    sent += [encode("SET", "own:%d" % n, value),
                             encode("GET", "own:%d" % n), encode("ECHO", value),
                             encode("HSET", "h:%d" % n, "f", value),
                             encode("HGETALL", "h:%d" % n)]
                    pair = [b"f", value]
                    want += ["OK", value, value, ...,
                             [tuple(pair)] if proto == 3 else pair]
                r.send(*sent)
                for w in want:
                    got = r.reply()
                    if w is not ... and got != w:
                        wrong.append((n, w[:80], got[:80]))
                        return
    except Exception as e:
        wrong.append((n, type(e).__name__, str(e)))


def run_owners(proxy, n, seconds, meanwhile=lambda: None, **options):
    wrong = []
    threads = [threading.Thread(target=owner, args=[proxy, i, seconds, wrong],
                                kwargs=dict(options, proto=2 + i % 2))
               for i in range(n)]
    for t in threads:
        t.start()
    meanwhile()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_resp2_and_resp3_clients_side_by_side_get_their_own_replies(proxy, tls):
    run_owners(proxy, 20, scaled(2), tls=tls)


def test_twenty_noisy_neighbours_who_leave_with_replies_outstanding(proxy, rd):
    with contextlib.closing(rd.connect()) as direct:
        for db in range(3):
            direct.execute_command("SELECT", db)
            direct.set("large", "n" * 100_000)

    def noise():
        rng = random.Random(3)
        end = time.monotonic() + scaled(2.5)
        while time.monotonic() < end:
            noisy = [proxy.resp(proto=2 + n % 2) for n in range(20)]
            for r in noisy:
                r.send(encode("SELECT", rng.randrange(3)),
                       *[encode("GET", "large") + encode("SET", "noise", "x" * 1000)
                         for _ in range(rng.randrange(1, 8))],
                       encode("SET", "half", "x" * 5000)[:rng.randrange(1, 5000)])
            rng.shuffle(noisy)
            for r in noisy:
                r.close()
            del proxy.clients[:]
            time.sleep(0.05)
    run_owners(proxy, 10, scaled(3), noise)
    assert proxy.direct or len(rd.clients()) <= 3 * 2 * CONNECTIONS


def test_a_command_of_a_client_that_left_is_done_once_or_never(proxy, rd):
    for n in range(50):
        r = proxy.resp()
        r.send(encode("INCR", "count:%d" % n))
        r.close()
    time.sleep(0.5)
    with contextlib.closing(rd.connect()) as direct:
        assert {direct.get("count:%d" % n) for n in range(50)} <= {None, b"1"}


# Upstream.


@pytest.mark.weir_only
def test_an_upstream_that_dies_and_comes_back(weir, workers, folder, authority):
    own = Redis(folder, authority, "redis-%d" % random.randrange(10 ** 9))
    w = weir({"redis main": {"url": "redis://:%s@127.0.0.1:%d" % (own.password, own.port)}},
             workers)
    clients = [w.resp(proto=2 + n % 2) for n in range(10)]
    for r in clients:
        assert r.ask("SET", "k", "v") == "OK"
    own.process.kill()
    own.process.wait()
    for r in clients:       # an error for each, and still in step
        r.send(encode("GET", "k"), encode("PING"))
        answer = r.reply()
        assert isinstance(answer, Error) and answer.startswith("ERR "), answer
        assert r.reply() == "PONG"
    assert w.event("upstream-down")
    own.start()
    for r in clients:
        wait_for(lambda: r.ask("SET", "k", "again") == "OK", 8, "no recovery", every=0.2)
        assert r.ask("GET", "k") == b"again"
    own.stop()


@pytest.mark.weir_only
def test_connections_that_are_killed_cost_at_most_one_error_each(proxy, rd):
    clients = [proxy.resp() for _ in range(10)]
    for turn in range(5):
        for r in clients:
            r.ask("PING"), r.ask("GET", "k")
        with contextlib.closing(rd.connect()) as direct:
            direct.client_kill_filter(_type="normal", skipme=True)
        time.sleep(0.1)
        for r in clients:
            answers = [r.ask("GET", "k") for _ in range(2)]
            assert answers[1] is None
            assert r.ask("PING") == "PONG"


@pytest.mark.weir_only
def test_replies_outstanding_when_the_upstream_dies_are_errors_in_step(
        weir, workers, rd, relay):
    line = relay(rd.port)
    w = weir({"redis main": {"url": "redis://:%s@127.0.0.1:%d" % (rd.password, line.port)}},
             workers)
    clients = [w.resp() for _ in range(6)]
    for r in clients:
        assert r.ask("GET", "none") is None
    line.delay = 0.5
    for r in clients:
        r.send(encode("GET", "none"), encode("ECHO", "between"), encode("GET", "none"))
    time.sleep(0.1)
    line.cut()
    line.delay = 0
    for r in clients:
        a, b, c = r.replies(3)
        assert isinstance(a, Error) and b == b"between"
        assert c is None or isinstance(c, Error)
        wait_for(lambda: r.ask("GET", "none") is None, 5, "no recovery", every=0.1)


@pytest.mark.weir_only
def test_rediss_upstream(weir, workers, rd, authority, folder):
    url = "rediss://:%s@localhost:%d/2" % (rd.password, rd.tls_port)
    w = weir({"redis main": {"url": url, "sslmode": "verify-full",
                             "sslrootcert": authority.crt}}, workers)
    r = w.resp(proto=3)
    assert r.ask("SET", "k", "over tls") == "OK"
    assert r.ask("GET", "k") == b"over tls"
    stranger = Authority(folder, "stranger-redis")
    w = weir({"redis main": {"url": url, "sslmode": "verify-full",
                             "sslrootcert": stranger.crt}}, workers)
    assert isinstance(w.resp().ask("GET", "k"), Error)
    assert any("certificate" in x["line"] for x in w.event("upstream-down"))


@pytest.mark.weir_only
def test_an_upstream_down_at_start_is_an_error_with_the_reason(weir):
    w = weir({"redis main": {"url": "redis://127.0.0.1:%d" % free_port()}})
    r = w.resp()
    assert r.ask("PING") == "PONG"
    answer = r.ask("GET", "k")
    assert isinstance(answer, Error) and "refused" in answer.lower()
    assert r.ask("PING") == "PONG"


@pytest.mark.weir_only
def test_an_organization_may_have_its_own_acl_user(weir, workers):
    w = weir({"organization acme": {"redis_user": "acme", "redis_password": "acme-redis"}},
             workers)
    acme, other = w.resp(login=False), w.resp()
    assert acme.ask("AUTH", "acme_app", USERS["acme_app"][1]) == "OK"
    for _ in range(5):
        assert acme.ask("SET", "acme:k", "v") == "OK"
        assert acme.ask("SET", "beta:k", "v").startswith("NOPERM")
        assert other.ask("SET", "beta:k", "v") == "OK"


def test_redis_cli(proxy):
    said = subprocess.run(
        ["redis-cli", "-p", str(proxy.redis_port), "--no-auth-warning", "-a",
         REDIS_PASSWORD], input="SET k v\nGET k\nPING\nHGETALL none\n",
        capture_output=True, text=True, timeout=scaled(20))
    assert said.stdout.split() == ["OK", "v", "PONG"] and said.returncode == 0
    said = subprocess.run(
        ["redis-cli", "-3", "-n", "4", "-p", str(proxy.redis_port), "--no-auth-warning",
         "-a", REDIS_PASSWORD, "--raw", "GET", "k"],
        capture_output=True, text=True, timeout=scaled(20))
    assert said.stdout.strip() == ""
