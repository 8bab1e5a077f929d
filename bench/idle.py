"""idle: clients that log in and then say nothing.

With sockets of our own, since a client library would need a hundred times the
memory and time that the proxies do.
"""

import socket
import ssl
import struct

from rig import DB, HOST, USER, Failed

SSL_REQUEST = struct.pack("!II", 8, 80877103)


def _startup():
    body = struct.pack("!I", 196608)
    body += b"user\0" + USER.encode() + b"\0database\0" + DB.encode() + b"\0\0"
    return struct.pack("!I", len(body) + 4) + body


def _until_ready(s):
    """Reads messages to ReadyForQuery, which is the last of any answer."""
    got = b""
    while True:
        pos = 0
        while len(got) - pos >= 5:
            kind, n = got[pos:pos + 1], struct.unpack_from("!I", got, pos + 1)[0]
            if len(got) - pos - 1 < n:
                break
            if kind == b"E":
                fields = got[pos + 5:pos + 1 + n].decode(errors="replace").split("\0")
                said = [f[1:] for f in fields if f.startswith("M")]
                raise Failed(f"idle client: {(said or fields)[0]}")
            pos += 1 + n
            if kind == b"Z":
                return
        got = got[pos:]
        more = s.recv(65536)
        if not more:
            raise Failed("idle client: closed before it was logged in")
        got += more


def postgres_client(port, tls):
    s = socket.create_connection((HOST, port), 30)
    if tls:
        s.sendall(SSL_REQUEST)
        if s.recv(1) != b"S":
            raise Failed("idle client: no TLS there")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        s = context.wrap_socket(s)
    s.sendall(_startup())
    _until_ready(s)
    return s


def postgres_query(s):
    q = b"select 1\0"
    s.sendall(b"Q" + struct.pack("!I", len(q) + 4) + q)
    _until_ready(s)


def redis_client(port):
    return socket.create_connection((HOST, port), 30)


def redis_query(s):
    s.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n")
    if not s.recv(4096).startswith((b"$", b"_")):
        raise Failed("idle client: no answer to GET")
