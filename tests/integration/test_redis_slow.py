"""
Goal:   who asks for much, or for long, is waited for by nobody else; and nobody
        waits longer than the configuration says.
Method: one client reads a huge reply piece by piece, and behind each piece
        others get something done, or it could not go on.
"""
import contextlib

import pytest

from respwire import encode
from servers import wait_for

pytestmark = pytest.mark.weir_only

PIECE = 2 << 20
ROOM = {"redis main": {"connections": 9}}


@pytest.fixture
def big(rd):
    """A list of 40 MB: more than is kept on the way to a client."""
    element = b"e" * (1 << 20)
    with contextlib.closing(rd.connect()) as r:
        for _ in range(40):
            r.rpush("big", element)
        yield b"*40\r\n" + 40 * (b"$%d\r\n%b\r\n" % (len(element), element))
        r.delete("big")


@pytest.mark.parametrize("ask", [
    [encode("LRANGE", "big", 0, -1)],
    [encode("EVAL", "return redis.call('LRANGE', KEYS[1], 0, -1)", 1, "big")],
    [encode("GET", "small"), encode("LRANGE", "big", 0, -1)],
    [encode("MULTI"), encode("LRANGE", "big", 0, -1), encode("EXEC")],
], ids=["a list", "a script", "in a pipeline", "in a transaction"])
def test_a_huge_reply_is_read_while_others_get_theirs(weir, workers, rd, big, ask):
    w = weir(ROOM, workers)
    neighbours = [w.resp() for _ in range(2 * workers)]
    for n, r in enumerate(neighbours):
        assert r.ask("SET", "n%d" % n, 0) == "OK"
    hog = w.resp()
    hog.send(*ask)
    before = {1: b"", 2: b"$-1\r\n", 3: b"+OK\r\n+QUEUED\r\n*1\r\n"}[len(ask)]
    got, rounds = bytearray(), 0
    while len(got) < len(before) + len(big):
        end, rounds = min(len(got) + PIECE, len(before) + len(big)), rounds + 1
        while len(got) < end:
            data = hog.sock.recv(end - len(got))
            assert data, "the hog was closed behind %d bytes" % len(got)
            got += data
        for n, r in enumerate(neighbours):
            assert r.ask("INCR", "n%d" % n) == rounds
    assert got == before + big
    # It reads what it writes, on whichever connection.
    for n in range(50):
        hog.send(encode("RPUSH", "mine", n), encode("LRANGE", "mine", -1, -1))
        assert hog.replies(2) == [n + 1, [b"%d" % n]]
        hog.send(encode("SET", "mine:n", n))
        assert hog.reply() == "OK" and hog.ask("EVAL", "return redis.call('GET', KEYS[1])",
                                               1, "mine:n") == b"%d" % n
    for name in ["mine", "mine:n"] + ["n%d" % n for n in range(len(neighbours))]:
        assert hog.ask("DEL", name) == 1


def test_there_are_never_more_connections_for_it_than_configured(weir, workers, rd):
    w = weir({"redis main": {"connections": 3}}, workers)
    before = {c["id"] for c in rd.clients()}
    most = 0
    clients = [w.resp() for _ in range(12)]
    for n in range(30):
        for i, r in enumerate(clients):
            r.send(*[encode("LRANGE", "none", 0, -1), encode("GET", "none")][:1 + (i + n) % 2])
        most = max(most, len({c["id"] for c in rd.clients()} - before))
        for i, r in enumerate(clients):
            assert r.replies(1 + (i + n) % 2) == [[], None][:1 + (i + n) % 2]
    assert 1 <= most <= 3
    wait_for(lambda: len({c["id"] for c in rd.clients()} - before) <= 3, 5, "three")
