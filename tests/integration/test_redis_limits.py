"""
Goal:   the bounds of a request are where Redis has them: at the bound it is
        taken, one above it is refused in the same words and the connection is
        closed; where weir's own bound comes first, likewise.
Method: the same bytes to Redis and to weir.  That half a request is taken shows
        in that nothing is said to it, and in what is said to the next byte.
"""
import contextlib

import pytest

import respwire
from respwire import encode
from servers import scaled

REFUSED = b"-ERR Protocol error: %b\r\n"
BULK_MAX = 512 << 20
REQUEST_MAX = BULK_MAX + (1 << 20)      # weir's, of all arguments together
SLOTS_MAX = REQUEST_MAX // 16           # arguments whose places cost as much
LINE_MAX = 64 << 10


def both(proxy, rd, login):
    direct = respwire.Resp(rd.port, timeout=scaled(20))
    if login:
        direct.ask("AUTH", rd.password)
    return direct, proxy.resp(login=login)


def is_silent(r):
    r.sock.settimeout(0.1)
    try:
        return not r.sock.recv(1)
    except TimeoutError:
        return True
    finally:
        r.sock.settimeout(scaled(20))


WHOLE = {       # of requests that are all there: before the log-in, and after
    "10 arguments": encode("PING", *"123456789"),
    "11 arguments": encode("PING", *"1234567890"),
    "16 KiB": encode("AUTH", "x" * (16 << 10)),
    "16 KiB and a byte": encode("AUTH", "x" * ((16 << 10) + 1)),
    "no arguments": b"*0\r\n" + encode("QUIT"),
    "fewer than none": b"*-2147483648\r\n" + encode("QUIT"),
    "an empty name": encode("") + encode("QUIT"),
    "1025 arguments": encode("MGET", *["k"] * 1024),
}


@pytest.mark.parametrize("login", [False, True], ids=["before login", "after login"])
@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_a_request_at_a_bound_and_above_is_answered_as_by_redis(proxy, rd, data, login):
    said = []
    for r in both(proxy, rd, login):
        with contextlib.closing(r):
            r.send(data)
            with contextlib.suppress(OSError):      # it may be refused already
                r.send(encode("QUIT"))
            said.append(r.until_closed())
    assert said[0] == said[1] and said[0]


HALF = {        # what is taken, and the byte that is too much
    "an inline request": (b"x" * LINE_MAX, b"x", b"too big inline request"),
    "a count": (b"*" + b"1" * (LINE_MAX - 1), b"1", b"too big mbulk count string"),
    "a length": (b"*1\r\n$" + b"1" * (LINE_MAX - 1), b"1", b"too big bulk count string"),
    "a bulk": (b"*2\r\n$4\r\nECHO\r\n$53687091", b"3\r\n", b"invalid bulk length"),
    "arguments": (b"*214748364", b"8\r\n", b"invalid multibulk length"),
}


@pytest.mark.parametrize("taken, more, text", HALF.values(), ids=HALF)
def test_half_a_request_is_taken_up_to_the_bound_of_redis(proxy, rd, taken, more, text):
    for r in both(proxy, rd, True):
        with contextlib.closing(r):
            r.send(taken)
            assert is_silent(r)
            r.send(more)
            assert r.until_closed() == REFUSED % text


def test_the_largest_bulk_is_announced_and_waited_for(proxy, rd):
    for r in both(proxy, rd, True):
        with contextlib.closing(r):
            r.send(b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % BULK_MAX, b"x")
            assert is_silent(r)


@pytest.mark.weir_only
def test_arguments_that_could_not_be_held_are_refused_where_they_are_announced(proxy):
    for count, taken in [(SLOTS_MAX, True), (SLOTS_MAX + 1, False), (2 ** 31 - 1, False)]:
        r = proxy.resp()
        before = proxy.memory()
        r.send(b"*%d\r\n" % count)
        if taken:
            assert is_silent(r)
        else:
            assert r.until_closed() == REFUSED % b"too big request"
        assert proxy.memory() - before < 8 << 20, "memory for what was only announced"
    r = proxy.resp()
    r.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % BULK_MAX)     # together within
    assert is_silent(r)


@pytest.mark.parametrize("proto", [2, 3])
def test_a_reply_may_be_nested_as_deep_as_a_script_makes_it(proxy, rd, proto):
    script = "local t = {1} for i = 1, 200 do t = {t, 'x'} end return t"
    said = []
    for r in both(proxy, rd, True):
        with contextlib.closing(r):
            r.ask("HELLO", proto)
            r.send(encode("EVAL", script, 0), encode("ECHO", "after"))
            said.append(r.raw())
            assert r.reply() == b"after"
    assert said[0] == said[1] and said[0].count(b"*2\r\n") == 200


@pytest.mark.weir_only
def test_whatever_way_a_request_is_written_the_upstream_reads_it_in_one(proxy, rd):
    """Inline, quoted, with signs and oddities: one encoding arrives there."""
    with contextlib.closing(respwire.Resp(rd.port)) as watch:
        watch.ask("AUTH", rd.password)
        assert watch.ask("MONITOR") == "OK"
        r = proxy.resp()
        ways = [encode("SET", "canonical", "a b"), b"SET canonical 'a b'\r\n",
                b'  SET  canonical "a\\x20b"  \n', b"*3\r\n$3\r\nSET\r\n$9\r\ncanonical\r\n$3\r\na b\r\n",
                b"*0\r\n*-1\r\n\r\n" + encode("SET", "canonical", "a b"),
                b"*3\rx$3\rxSET\r\n$9\rxcanonical\r\n$3\rxa b\r\n"]
        for way in ways:
            r.send(way)
            assert r.reply() == "OK"
            while True:
                seen = watch.reply()
                if "canonical" in seen:
                    break
            assert seen.endswith('"SET" "canonical" "a b"'), way
        assert r.ask("GET", "canonical") == b"a b"
