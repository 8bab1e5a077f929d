"""
pgwire: the PostgreSQL v3 protocol by hand.

Drivers hide what they send.  Here a test says which bytes leave, in how many
writes, and sees every message that comes back.  Builders are plain functions
(`query(...)`, `parse(...)`, ...) that return bytes; `Wire` is a socket that
frames replies.  A reply is a list of (kind, body), and `kinds(reply)` spells
it as one string, such as "12DCZ".
"""
import base64
import functools
import hashlib
import hmac
import os
import socket
import struct

I32 = struct.Struct("!i")
I16 = struct.Struct("!h")


def cstr(text):
    return (text.encode() if isinstance(text, str) else text) + b"\0"


def message(kind, *parts):
    body = b"".join(parts)
    return kind.encode() + I32.pack(len(body) + 4) + body


def packet(code, *parts):
    """A packet without a kind: what comes before the first message."""
    body = b"".join(parts)
    return struct.pack("!ii", len(body) + 8, code) + body


def startup(user, database, **options):
    options = dict(user=user, database=database, **options)
    return packet(196608, *[cstr(k) + cstr(v) for k, v in options.items()], b"\0")


def ssl_request():
    return packet(80877103)


def gssenc_request():
    return packet(80877104)


def cancel_request(pid, secret):
    return packet(80877102, struct.pack("!i", pid), secret)


def query(sql):
    return message("Q", cstr(sql))


def parse(sql, name="", types=()):
    return message("P", cstr(name), cstr(sql), I16.pack(len(types)),
                   *[struct.pack("!I", t) for t in types])


def bind(args=(), name="", portal="", formats=(), results=()):
    out = [cstr(portal), cstr(name), I16.pack(len(formats))]
    out += [I16.pack(f) for f in formats]
    out.append(I16.pack(len(args)))
    for arg in args:
        if arg is None:
            out.append(I32.pack(-1))
        else:
            arg = arg if isinstance(arg, bytes) else str(arg).encode()
            out += [I32.pack(len(arg)), arg]
    out.append(I16.pack(len(results)))
    return message("B", *out, *[I16.pack(f) for f in results])


def describe(what="P", name=""):
    return message("D", what.encode(), cstr(name))


def execute(portal="", limit=0):
    return message("E", cstr(portal), I32.pack(limit))


def close(what, name=""):
    return message("C", what.encode(), cstr(name))


def sync():
    return message("S")


def flush():
    return message("H")


def terminate():
    return message("X")


def copy_data(data):
    return message("d", data)


def copy_done():
    return message("c")


def copy_fail(text):
    return message("f", cstr(text))


def extended(sql, args=()):
    """One statement the way most drivers send it, in one write."""
    return parse(sql) + bind(args) + describe() + execute() + sync()


# What came back.


def kinds(reply):
    return "".join(kind for kind, _ in reply)


def error(body):
    """The fields of an ErrorResponse or NoticeResponse, by their letter."""
    return {part[:1].decode(): part[1:].decode(errors="replace")
            for part in body.split(b"\0") if part}


def errors(reply):
    return [error(body) for kind, body in reply if kind == "E"]


def row(body):
    """The columns of a DataRow: text, or None."""
    n, at, out = I16.unpack_from(body)[0], 2, []
    for _ in range(n):
        size, at = I32.unpack_from(body, at)[0], at + 4
        if size < 0:
            out.append(None)
        else:
            out.append(body[at:at + size].decode())
            at += size
    return out


def rows(reply):
    return [row(body) for kind, body in reply if kind == "D"]


def tags(reply):
    return [body[:-1].decode() for kind, body in reply if kind == "C"]


def status(reply):
    """The transaction status of the last ReadyForQuery: I, T or E."""
    return [body.decode() for kind, body in reply if kind == "Z"][-1]


class Closed(Exception):
    """The peer closed the connection; `reply` is what came before."""

    def __init__(self, reply=()):
        super().__init__("connection closed after %r" % kinds(reply))
        self.reply = list(reply)


class Failed(Exception):
    """An ErrorResponse where none was expected; `code` is its SQLSTATE."""

    def __init__(self, fields):
        super().__init__("%(C)s %(M)s" % fields)
        self.code, self.text, self.fields = fields["C"], fields["M"], fields


class Wire:
    def __init__(self, port, host="127.0.0.1", timeout=20):
        self.sock = socket.create_connection((host, port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buf = bytearray()
        self.parameters = {}
        self.pid = self.secret = None

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))

    # Reading.

    def _fill(self, n, so_far=()):
        while len(self.buf) < n:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Closed(so_far)
            self.buf += data

    def take(self, n, so_far=()):
        self._fill(n, so_far)
        out = bytes(self.buf[:n])
        del self.buf[:n]
        return out

    def message(self, so_far=()):
        head = self.take(5, so_far)
        size = I32.unpack_from(head, 1)[0]
        assert 4 <= size <= 1 << 30, "not a message: %r" % head
        return chr(head[0]), self.take(size - 4, so_far)

    def until(self, last="Z", count=1):
        """Messages up to and with the count-th of a kind in `last`."""
        reply = []
        while count:
            reply.append(self.message(reply))
            count -= reply[-1][0] in last
        return reply

    def until_closed(self):
        """Everything there is before the peer closes."""
        reply = []
        try:
            while True:
                reply.append(self.message(reply))
        except Closed:
            return reply

    # Getting in.

    def start_tls(self, context, name="localhost"):
        self.send(ssl_request())
        answer = self.take(1)
        assert answer == b"S", "TLS refused: %r" % answer
        self.sock = context.wrap_socket(self.sock, server_hostname=name)

    def login(self, user, database, password=None, **options):
        """Startup to the first ReadyForQuery.  Failed if refused."""
        self.send(startup(user, database, **options))
        return self.authenticate(user, password)

    def authenticate(self, user, password):
        reply = []
        while True:
            kind, body = self.message(reply)
            reply.append((kind, body))
            if kind == "R":
                self._answer(I32.unpack_from(body)[0], body[4:], user, password)
            elif kind == "S":
                name, value = body[:-1].split(b"\0")
                self.parameters[name.decode()] = value.decode()
            elif kind == "K":
                self.pid, self.secret = I32.unpack_from(body)[0], body[4:]
            elif kind == "E":
                raise Failed(error(body))
            elif kind == "Z":
                return reply

    def _answer(self, code, data, user, password):
        if code == 0 or code == 12:
            return
        if code == 3:
            self.send(message("p", cstr(password)))
        elif code == 10:
            assert b"SCRAM-SHA-256" in data.split(b"\0"), data
            self.nonce = base64.b64encode(os.urandom(18)).decode()
            first = "n,,n=,r=" + self.nonce
            self.send(message("p", cstr("SCRAM-SHA-256"),
                              I32.pack(len(first)), first.encode()))
        elif code == 11:
            self.send(message("p", scram_final(data.decode(), self.nonce,
                                               password).encode()))
        else:
            raise AssertionError("authentication request %d" % code)

    # Asking.

    def run(self, *parts):
        """Send, and return what comes up to the first ReadyForQuery."""
        self.send(*parts)
        return self.until("Z")

    def rows(self, *parts):
        """The same, for statements that must succeed: the rows."""
        reply = self.run(*parts)
        for fields in errors(reply):
            raise Failed(fields)
        return rows(reply)

    def value(self, sql):
        return self.rows(query(sql))[0][0]


@functools.lru_cache(1000)      # thousands log in, who are few
def salted_password(password, salt, rounds):
    return hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), rounds)


def scram_final(server_first, nonce, password):
    fields = dict(part.split("=", 1) for part in server_first.split(","))
    assert fields["r"].startswith(nonce), "the server changed our nonce"
    salted = salted_password(password, fields["s"], int(fields["i"]))

    def mac(key, text):
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    client = mac(salted, "Client Key")
    bare = "c=biws,r=" + fields["r"]
    proof = mac(hashlib.sha256(client).digest(),
                ",".join(["n=,r=" + nonce, server_first, bare]))
    proof = bytes(a ^ b for a, b in zip(client, proof))
    return bare + ",p=" + base64.b64encode(proof).decode()
