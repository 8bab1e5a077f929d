"""
respwire: the Redis protocol by hand, versions 2 and 3.

`encode("SET", "k", "v")` is one request; `Resp` is a socket that frames
replies.  `raw()` gives the exact bytes of one reply, for tests that compare
with Redis itself; `reply()` gives Python values: bytes, int, None, list, float,
bool, Map, Push, and `str` for +status and Error for -errors.
"""
import socket


class Error(str):
    """An error reply, without its '-'.  A value, not an exception."""


class Map(list):
    """A RESP3 map as a list of (key, value)."""


class Push(list):
    """A RESP3 push."""


class Closed(Exception):
    pass


def encode(*args):
    out = [b"*%d\r\n" % len(args)]
    for arg in args:
        if not isinstance(arg, bytes):
            arg = str(arg).encode()
        out.append(b"$%d\r\n%b\r\n" % (len(arg), arg))
    return b"".join(out)


class Resp:
    def __init__(self, port, host="127.0.0.1", timeout=20, tls=None,
                 name="localhost"):
        self.sock = socket.create_connection((host, port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.sock = tls.wrap_socket(self.sock, server_hostname=name)
        self.buf = bytearray()
        self.at = 0

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))

    def _fill(self):
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed("connection closed; unread: %r" % bytes(self.buf[:200]))
        self.buf += data

    def _line(self):
        while True:
            end = self.buf.find(b"\r\n", self.at)
            if end >= 0:
                line = bytes(self.buf[self.at:end])
                self.at = end + 2
                return line
            self._fill()

    def _bytes(self, n):
        while len(self.buf) < self.at + n + 2:
            self._fill()
        out = bytes(self.buf[self.at:self.at + n])
        self.at += n
        assert self.buf[self.at:self.at + 2] == b"\r\n", "a bulk without its end"
        self.at += 2
        return out

    def _value(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return Error(rest.decode())
        if kind in b":(":
            return int(rest)
        if kind in b"$=!":
            if int(rest) < 0:
                return None
            data = self._bytes(int(rest))
            return Error(data.decode()) if kind == b"!" else data
        if kind in b"*~>":
            if int(rest) < 0:
                return None
            items = [self._value() for _ in range(int(rest))]
            return Push(items) if kind == b">" else items
        if kind == b"%":
            return Map((self._value(), self._value()) for _ in range(int(rest)))
        if kind == b"_":
            return None
        if kind == b",":
            return float(rest)
        if kind == b"#":
            return rest == b"t"
        raise AssertionError("not a reply: %r" % line[:80])

    def both(self):
        """The next reply: (its bytes, its value)."""
        self.at = 0
        value = self._value()
        raw = bytes(self.buf[:self.at])
        del self.buf[:self.at]
        return raw, value

    def raw(self):
        return self.both()[0]

    def reply(self):
        return self.both()[1]

    def replies(self, n):
        return [self.reply() for _ in range(n)]

    def ask(self, *args):
        self.send(encode(*args))
        return self.reply()

    def until_closed(self):
        """Everything there is before the peer closes, as bytes."""
        try:
            while True:
                self._fill()
        except Closed:
            return bytes(self.buf)
