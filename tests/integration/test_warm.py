"""
Goal:   what is opened before anybody asks for it is not opened without end.
Method: servers of our own that let weir in and then talk nonsense, or leave.
"""
import socket
import threading
import time

import pytest

import fakepg
from fakepg import ready
from pgwire import kinds, query
from servers import wait_for

pytestmark = pytest.mark.weir_only

PAUSE = .25     # seconds to the next attempt, at least


def is_paced(times):
    """Each is written down before what the next waits for."""
    return all(later - sooner >= PAUSE for sooner, later in zip(times, times[1:]))


def test_a_server_that_is_no_good_behind_its_log_in_counts_as_failed(weir, workers):
    fake = fakepg.FakePg()
    w = weir({"postgres main": {"port": fake.port, "dbname": "collab", "pool_size": 1,
                                "min_pool_size": 1, "password": None,
                                "rls_check": "off"}}, workers)
    try:
        wait_for(lambda: w.metric("server_opened_total") == 1, 5, "not opened")
        fake.push(ready())
        wait_for(lambda: w.metric("server_opened_total") == 2, 5, "no new attempt")
        assert len(fake.times) == 2 and is_paced(fake.times), fake.times
        assert len(w.events("upstream-down")) == 1 and not w.events("upstream-up")
        # And then it is good.
        assert kinds(w.wire("plain_app").run(query("mine"))) == "TDCZ"
        assert len(w.event("upstream-up")) == 1
    finally:
        fake.stop()


class FakeRedis:
    """Lets everybody in.  Who may be lent asks for its id, and is told too much."""

    def __init__(self):
        self.times, self.extra = [], b"+and more\r\n"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                s = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=[s], daemon=True).start()

    def _serve(self, sock):
        said = b""
        while data := sock.recv(4096):
            said += data
            if not said.endswith((b"PING\r\n", b"a\r\n")):
                continue
            if b"CLIENT\r\n$2\r\nID" in said:
                self.times.append(time.monotonic())
                sock.sendall(b":7\r\n+PONG\r\n" + self.extra)
            else:
                sock.sendall(b"+PONG\r\n")
            said = b""


def test_a_redis_that_says_too_much_behind_its_log_in_is_not_dialled_without_end(weir, workers):
    fake = FakeRedis()
    w = weir({"redis main": {"url": "redis://127.0.0.1:%d/0" % fake.port,
                             "min_dedicated_connections": 1}}, workers)
    try:
        c = w.resp()
        assert c.ask("PING") == "PONG"
        assert c.ask("GET", "a") == "PONG"
        wait_for(lambda: len(fake.times) >= 2, 5, "no new attempt")
        assert is_paced(fake.times), fake.times
    finally:
        fake.stop()
