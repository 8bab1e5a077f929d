"""
Goal:   TLS on every door, in every way a client may begin it: behind an
        SSLRequest or from the first byte, with or without a name, with a
        session of an earlier connection; and what is wrong costs itself only.
Method: one weir with four workers and three certificates for most of it;
        Python's ssl module, psycopg and openssl s_client as clients, and for
        what none of them would send, bytes.
"""
import contextlib
import os
import select
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest

import pgwire
import servers
from conftest import Factory
from servers import DATABASE, OPEN_USER, USERS, scaled, wait_for

pytestmark = pytest.mark.weir_only

USER = "acme_app"
RSA = ["-newkey", "rsa:2048", "-nodes"]


@pytest.fixture(scope="module")
def tls(folder, base, authority, pg, rd, certificate):
    """For localhost; for b.example by SHA-384, and the same with RSA."""
    pairs = [certificate,
             authority.issue("b", "DNS:b.example,DNS:*.b.example", digest="sha384"),
             authority.issue("b-rsa", "DNS:b.example", RSA, "sha512")]
    factory = Factory(folder, base, authority, pg, rd)
    yield factory({"tls": {"cert_file": ", ".join(p[0] for p in pairs),
                           "key_file": ", ".join(p[1] for p in pairs)}}, workers=4)
    factory.finish()


def direct(w, context, name="localhost", **options):
    """TLS from the first byte: PostgreSQL 17's sslnegotiation=direct."""
    s = socket.create_connection(("127.0.0.1", w.pg_port), scaled(20))
    wire = w.keep(pgwire.Wire.__new__(pgwire.Wire))
    wire.__dict__.update(buf=bytearray(), parameters={}, pid=None, secret=None)
    try:
        wire.sock = context.wrap_socket(s, server_hostname=name, **options)
    except BaseException:
        s.close()
        raise
    return wire


def alpn(w, *protocols, **options):
    context = w.tls_context(**options)
    context.set_alpn_protocols(list(protocols))
    return context


def log_in(wire, user=USER):
    wire.login(user, DATABASE, USERS.get(user, (None, None))[1])
    return wire


def works(w):
    return w.wire(tls=True).value("SELECT 1") == "1"


def closes(s):
    """Everything up to the end; a reset is an end too."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while more := s.recv(65536):
            got += more
    return got


# Beginning.


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_tls_from_the_first_byte(tls, version):
    context = alpn(tls, "postgresql", maximum_version=ssl.TLSVersion[version])
    wire = log_in(direct(tls, context))
    assert wire.sock.selected_alpn_protocol() == "postgresql"
    assert wire.value("SELECT repeat('x', 200000)") == "x" * 200000


def client_hello(context, name="localhost"):
    """A handshake without a socket, and its first bytes."""
    got, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(got, out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return tls, got, out, out.read()


@pytest.mark.parametrize("cuts", [[1], [5], [6, 100], list(range(1, 40))], ids=str)
def test_the_first_bytes_may_come_in_pieces(tls, cuts):
    handshake, got, out, hello = client_hello(alpn(tls, "postgresql"))
    with socket.create_connection(("127.0.0.1", tls.pg_port), scaled(20)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for a, b in zip([0] + cuts, cuts + [len(hello)]):
            s.sendall(hello[a:b])
            time.sleep(0.002)
        while True:
            try:
                handshake.do_handshake()
                break
            except ssl.SSLWantReadError:
                got.write(s.recv(65536))
        s.sendall(out.read())
    assert handshake.selected_alpn_protocol() == "postgresql"


@pytest.mark.parametrize("protocols", [(), ("h2", "http/1.1")], ids=["none", "others"])
def test_who_begins_with_tls_must_offer_postgresql(tls, protocols):
    context = alpn(tls, *protocols) if protocols else tls.tls_context()
    with pytest.raises(ssl.SSLError) as e:
        direct(tls, context)
    assert "no application protocol" in str(e.value)
    wait_for(lambda: any("no application protocol" in x["line"]
                         for x in tls.events("refuse")), 3, "no log line that says so")
    assert works(tls)


def test_behind_an_ssl_request_alpn_may_be_missing_but_not_wrong(tls):
    with tls.wire(login=False) as wire:
        wire.start_tls(alpn(tls, "h2", "postgresql"))
        assert wire.sock.selected_alpn_protocol() == "postgresql"
        assert log_in(wire).value("SELECT 1") == "1"
    with tls.wire(login=False) as wire, pytest.raises(ssl.SSLError) as e:
        wire.start_tls(alpn(tls, "h2"))
    assert "no application protocol" in str(e.value)
    assert works(tls)


def test_what_follows_the_first_bytes_before_their_answer_is_refused(tls):
    """Nobody can say a thing before the server has shown its half of the key."""
    *_, hello = client_hello(alpn(tls, "postgresql"))
    plain = pgwire.startup(OPEN_USER, DATABASE)
    with socket.create_connection(("127.0.0.1", tls.pg_port), scaled(20)) as s:
        s.sendall(hello + plain)
        assert b"SELECT" not in closes(s)
    assert works(tls)


def test_tls_inside_of_tls_and_behind_other_packets_is_refused(tls):
    *_, hello = client_hello(alpn(tls, "postgresql"))
    inside = direct(tls, alpn(tls, "postgresql"))
    after = tls.wire(login=False)
    after.send(pgwire.gssenc_request())
    assert after.take(1) == b"N"
    for wire in (inside, after):
        wire.send(hello)
        assert closes(wire.sock)[:1] in (b"", b"E")
    assert works(tls)


def test_where_there_is_no_tls_a_handshake_is_told_nothing(weir):
    w = weir({"tls": {"client_mode": "disable"}})
    *_, hello = client_hello(alpn(w, "postgresql"))
    with socket.create_connection(("127.0.0.1", w.pg_port), scaled(20)) as s:
        s.sendall(hello)
        assert closes(s) == b""
    assert w.wire().value("SELECT 1") == "1"


# Several certificates.


def shown(w, name, kind="postgres", sigalgs=None):
    """The CN of what a client gets who asks for that name, by s_client."""
    how = {"postgres": ["-starttls", "postgres"], "direct": ["-alpn", "postgresql"],
           "redis_tls": []}[kind]
    port = w.ports["redis_tls" if kind == "redis_tls" else "postgres"]
    said = s_client(port, *how, *(["-servername", name] if name else ["-noservername"]),
                    *(["-sigalgs", sigalgs] if sigalgs else []))
    return [x for x in said.splitlines() if x.startswith("subject=")][0].split("= ")[-1]


def s_client(port, *args):
    return subprocess.run(
        ["openssl", "s_client", "-connect", "127.0.0.1:%d" % port, *args],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=scaled(20)).stdout


@pytest.mark.parametrize("kind", ["postgres", "direct", "redis_tls"])
def test_the_certificate_is_chosen_by_name(tls, kind):
    assert shown(tls, None, kind) == shown(tls, "else.example", kind) == "weir"
    assert shown(tls, "B.example", kind, "ECDSA+SHA256") == "b"
    assert shown(tls, "b.example", kind, "RSA-PSS+SHA256") == "b-rsa"
    assert shown(tls, "in.b.example", kind) == "b"
    assert shown(tls, "too.deep.b.example", kind) == "weir"


@pytest.mark.parametrize("name", ["localhost", "b.example", "in.b.example"])
def test_the_channel_is_bound_to_the_certificate_that_was_shown(tls, name):
    """libpq hashes what it was shown; SHA-256, SHA-384 and SHA-512."""
    db = tls.psycopg3(USER, host=name, hostaddr="127.0.0.1", sslmode="verify-full",
                      channel_binding="require")
    assert db.execute("SELECT 1").fetchone() == (1,)


def test_files_that_do_not_fit_are_told_with_their_line(weir, certificate, authority):
    other = authority.issue("other")
    w = weir()
    keys = {"cert_file": "%s, %s" % (certificate[0], other[0]),
            "key_file": "%s, %s" % (certificate[1], certificate[1])}
    w.reload({"tls": keys})
    wait_for(lambda: any(".ini:" in e["line"] and "key_file = " in e["line"]
                         for e in w.events("config")), 5, "no error told")
    w.reload({"tls": dict(keys, key_file=certificate[1])})
    wait_for(lambda: any("for the 2 of cert_file" in e["line"]
                         for e in w.events("config")), 5, "no error told")
    assert works(w)


# Sessions.


def redis_tls(w, context, session=None):
    s = socket.create_connection(("127.0.0.1", w.ports["redis_tls"]), scaled(20))
    return context.wrap_socket(s, server_hostname="localhost", session=session)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_session_is_resumed_on_every_worker_and_after_a_reload(tls, version):
    """Sixteen connections land on all four workers, if the kernel is fair."""
    context = alpn(tls, "postgresql", maximum_version=ssl.TLSVersion[version])
    wire = log_in(direct(tls, context))
    session = wire.sock.session
    assert not wire.sock.session_reused
    for _ in range(16):
        wire = direct(tls, context, session=session)
        assert wire.sock.session_reused
    assert log_in(wire).value("SELECT 1") == "1"
    tls.reload()
    wire = direct(tls, context, session=session)
    assert wire.sock.session_reused
    assert log_in(wire).value("SELECT 1") == "1"


def test_a_session_of_one_protocol_is_not_resumed_in_the_other(tls):
    context = tls.tls_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    with redis_tls(tls, context) as s:
        s.sendall(b"PING\r\n")
        assert s.recv(100).startswith(b"-NOAUTH")
        session = s.session
    with redis_tls(tls, context, session) as s:
        assert s.session_reused
    context.set_alpn_protocols(["postgresql"])
    wire = direct(tls, context, session=session)
    assert not wire.sock.session_reused
    assert log_in(wire).value("SELECT 1") == "1"


def test_openssl_resumes_too(tls, tmp_path):
    kept = str(tmp_path / "session")
    for how in (["-starttls", "postgres"], ["-alpn", "postgresql"]):
        assert "New, TLSv1." in s_client(tls.pg_port, *how, "-tls1_2", "-sess_out", kept)
        assert "Reused, TLSv1." in s_client(tls.pg_port, *how, "-tls1_2",
                                            "-sess_in", kept)


# What is refused, and what it costs.


def old_hello(version):
    """A ClientHello of TLS 1.0 or 1.1, which knows no supported_versions."""
    names = b"\0\x0b\x0apostgresql"
    names = struct.pack("!HH", 16, len(names)) + names
    body = (struct.pack("!H", version) + os.urandom(32) + b"\0" + b"\0\4\xc0\x13\x00\x2f"
            + b"\1\0" + struct.pack("!H", len(names)) + names)
    body = b"\1" + struct.pack("!I", len(body))[1:] + body
    return b"\x16\3\1" + struct.pack("!H", len(body)) + body


@pytest.mark.parametrize("version", [0x0301, 0x0302], ids=["1.0", "1.1"])
@pytest.mark.parametrize("kind", ["asked", "direct", "redis_tls"])
def test_an_old_tls_gets_the_alert_for_it(tls, version, kind):
    port = tls.ports["redis_tls" if kind == "redis_tls" else "postgres"]
    with socket.create_connection(("127.0.0.1", port), scaled(20)) as s:
        if kind == "asked":
            s.sendall(pgwire.ssl_request())
            assert s.recv(1) == b"S"
        s.sendall(old_hello(version))
        got = closes(s)
    assert got[:1] == b"\x15" and got[-2:] == b"\x02\x46", got    # protocol_version


@pytest.mark.parametrize("junk", [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", pgwire.startup(OPEN_USER, DATABASE),
    b"\x16\3\1\xff\xff" + b"\0" * 100, b"\x16\3\1\0\0" * 10, b"\0" * 5000],
    ids=["HTTP", "plain", "too long", "empty", "zeros"])
def test_junk_instead_of_a_handshake_costs_itself_only(tls, junk):
    other = tls.wire(tls=True)
    for ask in (pgwire.ssl_request(), b""):
        if not ask and junk[:1] != b"\x16":
            continue
        with socket.create_connection(("127.0.0.1", tls.pg_port), scaled(20)) as s:
            if ask:
                s.sendall(ask)
                assert s.recv(1) == b"S"
            with contextlib.suppress(OSError):
                s.sendall(junk)
                s.shutdown(socket.SHUT_WR)
            assert closes(s)[:1] in (b"", b"\x15")
    assert other.value("SELECT 1") == "1"
    assert works(tls)


def test_a_handshake_that_goes_on_for_ever_ends_in_client_login_timeout(weir):
    w = weir({"weir": {"client_login_timeout": 1}})
    *_, hello = client_hello(alpn(w, "postgresql"))
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        socks = []
        for port, first in ((w.pg_port, hello[:50]), (w.ports["redis_tls"], hello[:50]),
                            (w.pg_port, hello), (w.ports["redis_tls"], hello),
                            (w.pg_port, pgwire.ssl_request())):
            s = socket.create_connection(("127.0.0.1", port), scaled(20))
            socks.append(stack.enter_context(s))
            s.sendall(first)
        for s in socks:
            closes(s)
    assert 0.5 < time.monotonic() - start < scaled(15)
    w.settled()


def test_the_end_is_said_and_no_answer_is_waited_for(tls):
    """Without a close_notify Python would take the end for an attack."""
    context = alpn(tls, "postgresql")
    wire = log_in(direct(tls, context, suppress_ragged_eofs=False))
    wire.send(pgwire.message("X"))
    assert wire.sock.recv(1) == b""
    with redis_tls(tls, tls.tls_context()) as s:
        s.suppress_ragged_eofs = False
        s.sendall(b"QUIT\r\n")
        got = b""
        while more := s.recv(100):
            got += more
        assert got == b"+OK\r\n"
    tls.hang_up()
    tls.settled()


def test_a_client_certificate_survives_a_resumption(weir, authority, certificate):
    """Whoever comes back has shown it before; without one nobody comes at all."""
    w = weir({"tls": {"client_mode": "verify-ca", "ca_file": authority.crt}}, workers=4)
    context = alpn(w, "postgresql", maximum_version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLError):
        direct(w, context)
    context.load_cert_chain(*certificate)
    session = log_in(direct(w, context)).sock.session
    stripped = alpn(w, "postgresql", maximum_version=ssl.TLSVersion.TLSv1_2)
    again = direct(w, context, session=session)
    assert again.sock.session_reused
    assert log_in(again).value("SELECT 1") == "1"
    with pytest.raises(ssl.SSLError):
        direct(w, stripped)
    # Other authorities: the session is worth nothing now.
    stranger = servers.Authority(os.path.dirname(w.file), "stranger")
    w.reload({"tls": {"ca_file": stranger.crt}})
    with pytest.raises((ssl.SSLError, OSError)):
        log_in(direct(w, context, session=session))


# Upstreams.


class Front:
    """
    TLS in front of the plain port of a server that has none like it: it asks
    for ALPN, hands out sessions, and remembers what it saw of each client.
    `answer` is what it says to an SSLRequest.
    """

    def __init__(self, target, pair, ca=None, alpn=True, answer=b"S"):
        self.target, self.answer, self.seen = target, answer, []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*pair)
        self.context.sni_callback = self._named
        if alpn:
            self.context.set_alpn_protocols(["postgresql"])
        if ca:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(ca)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _named(self, sock, name, _):
        sock.asked_for = name

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                s, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=[s], daemon=True).start()

    def _serve(self, s):
        with contextlib.suppress(OSError), s:
            direct = s.recv(1, socket.MSG_PEEK) == b"\x16"
            if not direct:
                assert s.recv(8) == pgwire.ssl_request()
                s.sendall(self.answer)
            with self.context.wrap_socket(s, server_side=True) as client:
                self.seen.append({
                    "direct": direct, "alpn": client.selected_alpn_protocol(),
                    "name": getattr(client, "asked_for", None),
                    "reused": client.session_reused, "cert": client.getpeercert()})
                self._pass(client)

    def _pass(self, client):
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            both = {client: server, server: client}
            while True:
                ready = [client] if client.pending() else select.select(both, [], [])[0]
                for s in ready:
                    data = s.recv(65536)
                    if not data:
                        return
                    both[s].sendall(data)

    def close(self):
        self.listener.close()


@pytest.fixture
def front(certificate):
    made = []

    def make(target, pair=None, **options):
        made.append(Front(target, pair or certificate, **options))
        return made[-1]
    yield make
    for f in made:
        f.close()


def behind(front, authority, **keys):
    return {"postgres main": dict({
        "host": "localhost", "port": front.port, "sslmode": "verify-full",
        "sslrootcert": authority.crt, "pool_size": 1}, **keys)}


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_an_upstream_is_told_what_is_wanted(weir, pg, front, authority, negotiation, mode):
    f = front(pg.port)
    w = weir(behind(f, authority, sslnegotiation=negotiation, sslmode=mode))
    assert w.wire().value("SELECT 1") == "1"
    assert f.seen == [{"direct": negotiation == "direct", "alpn": "postgresql",
                       "name": "localhost", "reused": False, "cert": None}]


def test_an_address_is_not_sent_as_a_name(weir, pg, front, authority):
    f = front(pg.port)
    w = weir(behind(f, authority, host="127.0.0.1"))
    assert w.wire().value("SELECT 1") == "1"
    assert f.seen[0]["name"] is None


def fails(w):
    with pytest.raises(pgwire.Failed) as e:
        w.wire().value("SELECT 1")
    assert e.value.code == "08006"
    return e.value.text


def test_a_direct_upstream_must_agree_on_the_protocol(weir, pg, front, authority):
    w = weir(behind(front(pg.port, alpn=False), authority, sslnegotiation="direct"))
    assert "ALPN" in fails(w)
    w = weir(behind(front(pg.port, alpn=False), authority))
    assert w.wire().value("SELECT 1") == "1"


@pytest.mark.parametrize("answer, told", [
    (b"S" + pgwire.message("R", struct.pack("!i", 0)), "bytes after"),
    (b"E" + b"\0\0\0\x40SFATAL\0Mpay at evil.example\0\0", "SSLRequest"),
    (b"E", "refused SSLRequest"), (b"x", "refused SSLRequest")],
    ids=["plain bytes", "an error", "half an error", "nonsense"])
def test_what_an_upstream_says_in_clear_is_not_believed(weir, pg, front, authority,
                                                        answer, told):
    """CVE-2021-23222 and CVE-2024-10977, from the other side."""
    text = fails(weir(behind(front(pg.port, answer=answer), authority)))
    assert told in text or "answer to SSLRequest" in text
    assert "evil" not in text


def test_a_certificate_is_shown_to_an_upstream(weir, pg, front, authority):
    crt, key = authority.issue("client-of-upstream")
    f = front(pg.port, ca=authority.crt)
    w = weir(behind(f, authority, sslcert=crt, sslkey=key))
    assert w.wire().value("SELECT 1") == "1"
    assert f.seen[0]["cert"]["subject"] == ((("commonName", "client-of-upstream"),),)
    assert fails(weir(behind(f, authority)))


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_the_next_server_connection_resumes_the_session(weir, pg, front, authority,
                                                        version):
    f = front(pg.port)
    f.context.maximum_version = ssl.TLSVersion[version]
    w = weir(behind(f, authority))
    for _ in range(3):
        wire = w.wire()
        pid = wire.value("SELECT pg_backend_pid()")
        wire.close()
        pg.run("SELECT pg_terminate_backend(%s, 5000)" % pid)
    assert w.wire().value("SELECT 1") == "1"
    assert [x["reused"] for x in f.seen] == [False, True, True, True]


def test_a_session_is_not_carried_to_another_trust(weir, pg, front, authority):
    """What was resumed is not verified again, so a reload forgets it."""
    f = front(pg.port)
    w = weir(behind(f, authority))
    pid = w.wire().value("SELECT pg_backend_pid()")
    stranger = servers.Authority(os.path.dirname(w.file), "stranger")
    w.reload({"postgres main": {"sslrootcert": stranger.crt}})
    w.hang_up()
    pg.run("SELECT pg_terminate_backend(%s, 5000)" % pid)
    assert "certificate" in fails(w)


def test_a_cancel_takes_the_same_way(weir, pg, front, authority):
    f = front(pg.port)
    w = weir(behind(f, authority, sslnegotiation="direct"))
    wire = w.wire()
    wire.send(pgwire.query("SELECT pg_sleep(60)"))
    wait_for(lambda: pg.run("SELECT 1 FROM pg_stat_activity WHERE state = 'active' "
                            "AND query = 'SELECT pg_sleep(60)'"), 5, "it does not run")
    with socket.create_connection(("127.0.0.1", w.pg_port)) as s:
        s.sendall(pgwire.cancel_request(wire.pid, wire.secret))
        closes(s)
    assert [e["C"] for e in pgwire.errors(wire.until("Z"))] == ["57014"]
    assert len(f.seen) == 2 and f.seen[1]["direct"]


def test_rediss_shows_a_certificate_and_resumes(weir, rd, front, authority):
    crt, key = authority.issue("client-of-redis")
    f = front(rd.port, ca=authority.crt, alpn=False)
    w = weir({"redis main": {"url": "rediss://:%s@localhost:%d/0" % (rd.password, f.port),
                             "sslrootcert": authority.crt, "connections": 1,
                             "sslcert": crt, "sslkey": key}})
    r = w.resp()
    assert r.ask("SET", "k", "1") == "OK"
    with contextlib.closing(rd.connect()) as admin:
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_for(lambda: r.ask("SET", "k", "2") == "OK", 5, "no way back to Redis")
    assert [x["reused"] for x in f.seen] == [False, True]
    assert all(x["cert"] and x["alpn"] is None for x in f.seen)
