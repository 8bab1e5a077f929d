"""
Goal:   who asks for much, or for long, is waited for by nobody else; and nobody
        waits longer than the configuration says.
Method: one client reads a huge reply piece by piece, and behind each piece
        others get something done, or it could not go on.
"""
import contextlib
import select
import socket

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
        assert r.ask("SET", "slow:n%d" % n, 0) == "OK"
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
            assert r.ask("INCR", "slow:n%d" % n) == rounds
    assert got == before + big
    # It reads what it writes, on whichever connection.
    for n in range(50):
        hog.send(encode("RPUSH", "slow:mine", n), encode("LRANGE", "slow:mine", -1, -1))
        assert hog.replies(2) == [n + 1, [b"%d" % n]]
        hog.send(encode("SET", "slow:mine:n", n))
        assert hog.reply() == "OK" and hog.ask("EVAL", "return redis.call('GET', KEYS[1])",
                                               1, "slow:mine:n") == b"%d" % n
    for name in ["slow:mine", "slow:mine:n"] + ["slow:n%d" % n for n in range(len(neighbours))]:
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


# What is not answered.

@pytest.fixture
def paused(rd):
    """A Redis that answers no writes, and whoever stands behind one, for now."""
    with contextlib.closing(rd.connect()) as r:
        assert r.execute_command("CLIENT PAUSE 60000 WRITE")
        yield lambda: r.execute_command("CLIENT UNPAUSE")
        r.execute_command("CLIENT UNPAUSE")


def test_who_is_not_answered_in_time_is_told_so_and_hears_no_late_reply(weir, workers, paused):
    w = weir({"redis main": {"command_timeout": 2}}, workers)
    clients = [w.resp() for _ in range(2 * workers)]
    for n, r in enumerate(clients):
        r.send(encode("SET", "slow:late", "late"), encode("PING"),
               encode("INCRBY", "slow:n%d" % n, 1000))
    for r in clients:
        assert r.replies(3) == ["ERR weir: command_timeout", "PONG", "ERR weir: command_timeout"]
    assert w.metric("redis_commands_overdue_total") == 2 * len(clients)
    paused()
    # Then there is no reply that belongs to anything before.
    for n, r in enumerate(clients):
        name = "slow:own%d" % n
        wait_for(lambda: r.ask("SET", name, name) == "OK", 20, "an answer in time")
        for i in range(20):
            assert r.ask("ECHO", name) == name.encode()
            assert r.ask("GET", name) == name.encode()
        assert r.ask("GETDEL", "slow:n%d" % n) == b"1000", "it was run once, if late"
        assert r.ask("DEL", name) == 1


def test_query_timeout_closes_who_waits_and_leaves_the_others_their_replies(weir, workers, paused):
    w = weir({"weir": {"query_timeout": 2}}, workers)
    neighbours = [w.resp() for _ in range(2 * workers)]
    clients = [w.resp() for _ in range(2 * workers)]
    for r in clients:
        r.send(encode("SET", "slow:late", "late"))
    for r in clients:
        assert r.until_closed() == b""
    paused()
    for n, r in enumerate(neighbours):
        assert r.ask("SET", "slow:own", n) == "OK" and r.ask("GET", "slow:own") == b"%d" % n


def test_a_redis_that_takes_no_login_is_told_of_in_server_connect_timeout(weir, workers):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as mute:
        url = "redis://127.0.0.1:%d/0" % mute.getsockname()[1]
        w = weir({"redis main": {"url": url}, "weir": {"server_connect_timeout": 1}}, workers)
        for asked in [["GET", "k"], ["MULTI"]]:
            r = w.resp()
            r.send(encode(*asked))
            assert b"server_connect_timeout" in r.until_closed() if asked == ["MULTI"] \
                else "server_connect_timeout" in r.reply()


def test_client_idle_timeout_closes_who_is_silent_without_a_word(weir, workers):
    w = weir({"weir": {"client_idle_timeout": 1}}, workers)
    silent, talking = w.resp(), w.resp()
    silent.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        silent.reply()
    end = silent.sock.fileno()

    def gone():
        assert talking.ask("PING") == "PONG"
        return select.select([end], [], [], 0.05)[0]
    wait_for(gone, 20, "an end to the silence")
    assert silent.until_closed() == b""
    assert talking.ask("GET", "none") is None
