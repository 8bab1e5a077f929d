"""
fakepg: a PostgreSQL server that answers what a test tells it to.

It speaks enough of the protocol that weir logs in, sets variables and runs
statements: a query or an Execute of any text is answered by one row of that
text and the number of the connection.  `says[text]` are other bytes for it,
which may be as wrong as the test wants, or a list of what leaves by a write
each; `at_once` is sent right behind the first ReadyForQuery; `answer_tls`
answers an SSLRequest, and with `tls`, a context, TLS begins there.

hold[text] is an Event to wait for before answering.  keep_cancels: a cancel
connection stays open until let_cancels_go().

`said` are the bodies of what was answered, once all of that has left;
`times` those of its log-ins; `dead` the numbers of the connections whose other
end has closed them.
"""
import contextlib
import socket
import struct
import threading
import time

import pgwire
from pgwire import I16, I32, message
from servers import free_port

PARAMETERS = {
    "server_version": "15.0", "client_encoding": "UTF8", "server_encoding": "UTF8",
    "standard_conforming_strings": "on", "DateStyle": "ISO, MDY", "TimeZone": "UTC",
    "integer_datetimes": "on", "IntervalStyle": "postgres", "is_superuser": "off",
    "session_authorization": "weir", "application_name": "", "in_hot_standby": "off",
    "default_transaction_read_only": "off",
}


def fields(**pairs):
    """An ErrorResponse, or what a broken server takes for one."""
    return message("E", *[k.encode() + pgwire.cstr(v) for k, v in pairs.items()], b"\0")


def data_row(*columns):
    return message("D", I16.pack(len(columns)), *[
        I32.pack(len(c)) + c for c in (str(c).encode() for c in columns)])


def description(n):
    return message("T", I16.pack(n), *[
        b"c\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0) for _ in range(n)])


def complete(tag="SELECT 1"):
    return message("C", pgwire.cstr(tag))


def ready(status=b"I"):
    return message("Z", status)


class FakePg:
    def __init__(self):
        self.port, self.says, self.hold = free_port(), {}, {}
        self.keep_cancels, self.kept = False, []
        self.at_once, self.answer_tls = b"", b"N"
        self.tls = None
        self.accepted, self.cancels = 0, []
        self.dead, self.seen, self.said, self.sockets = set(), [], [], []
        self.times = []
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def cut(self):
        """As if it had died."""
        for s in self.sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def push(self, data):
        """Bytes nobody asked for, on every connection."""
        for s in self.sockets:
            with contextlib.suppress(OSError):
                s.sendall(data)

    def let_cancels_go(self):
        self.keep_cancels = False
        for s in self.kept:
            s.close()

    def _accept(self):
        while True:
            try:
                s = self.listener.accept()[0]
            except OSError:
                return
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=[s], daemon=True).start()

    def _serve(self, sock):
        wire = pgwire.Wire.__new__(pgwire.Wire)     # the reader of messages
        wire.sock, wire.buf = sock, bytearray()
        with contextlib.suppress(OSError, pgwire.Closed):
            while True:
                size, code = struct.unpack("!II", wire.take(8))
                rest = wire.take(size - 8)
                if code == 80877103:
                    sock.sendall(self.answer_tls)
                    if self.tls:
                        sock = wire.sock = self.tls.wrap_socket(sock, server_side=True)
                elif code == 80877102:
                    keep = self.keep_cancels
                    if keep:
                        self.kept.append(sock)
                    self.cancels.append(rest)
                    if not keep:
                        sock.close()
                    return
                else:
                    break
            self.times.append(time.monotonic())
            self.accepted += 1
            number = self.accepted
            self.sockets.append(sock)
            try:
                sock.sendall(b"".join(
                    [message("R", I32.pack(0))]
                    + [message("S", pgwire.cstr(k), pgwire.cstr(v))
                       for k, v in PARAMETERS.items()]
                    + [message("K", struct.pack("!ii", number, 4711)), ready(),
                       self.at_once]))
                Talk(self, wire, number).run()
            finally:
                self.dead.add(number)
                sock.close()


class Talk:
    """One connection that is logged in."""

    def __init__(self, fake, wire, number):
        self.fake, self.wire, self.number = fake, wire, number
        self.statements, self.portals, self.status = {}, {}, b"I"

    def run(self):
        while True:
            kind, body = self.wire.message()
            self.fake.seen.append((self.number, kind, body))
            out = getattr(self, "_" + kind, lambda body: b"")(body)
            for part in out if isinstance(out, list) else [out]:
                self.wire.sock.sendall(part)
            self.fake.said.append(body[:-1].decode(errors="replace"))
            if kind == "X":
                return

    def answer(self, sql, simple):
        if sql in self.fake.hold:
            self.fake.hold[sql].wait()
        if sql in self.fake.says:
            return self.fake.says[sql]
        for words, status in (("BEGIN", b"T"), ("COMMIT", b"I"), ("ROLLBACK", b"I")):
            if sql.startswith(words):
                self.status = status
                return complete(words)
        rows = data_row(sql, self.number) + complete()
        return description(2) + rows if simple else rows

    def _Q(self, body):
        sql = body[:-1].decode()
        out = self.answer(sql, True)
        return out if sql in self.fake.says else out + ready(self.status)

    def _P(self, body):
        name, sql = body.split(b"\0")[:2]
        self.statements[name] = sql.decode()
        return message("1")

    def _B(self, body):
        portal, name = body.split(b"\0")[:2]
        self.portals[portal] = self.statements.get(name, "")
        return message("2")

    def _D(self, body):
        return (message("t", I16.pack(0)) if body[:1] == b"S" else b"") + description(2)

    def _E(self, body):
        return self.answer(self.portals.get(body.split(b"\0")[0], ""), False)

    def _C(self, body):
        return message("3")

    def _S(self, body):
        return ready(self.status)

    def _X(self, body):
        return b""
