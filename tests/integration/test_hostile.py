"""
Goal:   bad input costs its sender its connection, and nobody else anything: no
        crash, no leak, no stall, no unbounded memory.
Method: truncated, oversized and random bytes at every state of both protocols,
        crowds that connect and say nothing, clients that never read or send one
        byte a second, while a canary of each protocol must not feel a thing.
"""
import contextlib
import os
import random
import socket
import struct
import threading
import time

import pytest

import pgwire
from canary import Canary
from pgwire import bind, execute, extended, message, parse, query, sync
from respwire import encode
from servers import DATABASE, OPEN_USER, REDIS_PASSWORD, scaled, wait_for

CONFIG = {"weir": {"client_login_timeout": int(scaled(4)), "max_client_conn": 20_000}}
HALF_OPEN = int(os.environ.get("WEIR_HALF_OPEN", 2000))
SLOW_MB = int(os.environ.get("WEIR_SLOW_MB", 200))

pytestmark = pytest.mark.weir_only


def drop(sock, data, wait=0.05):
    """Send what weir may refuse to take, hear what it says, and be gone."""
    sock.settimeout(wait)
    with contextlib.suppress(OSError):
        sock.sendall(data)
        while sock.recv(65536):
            pass
    with contextlib.suppress(OSError):
        sock.close()


def closes(sock, seconds=15):
    """Does weir end this connection by itself?"""
    sock.settimeout(scaled(seconds))
    try:
        while sock.recv(65536):
            pass
        return True
    except socket.timeout:
        return False
    except OSError:
        return True


# PostgreSQL: how to get to each state, and what to say there.


def fresh(weir):
    return weir.wire(login=False)


def offered_tls(weir):
    wire = fresh(weir)
    wire.send(pgwire.ssl_request())
    assert wire.take(1) == b"S"
    return wire


def in_tls(weir):
    wire = fresh(weir)
    wire.start_tls(weir.tls_context())
    return wire


def asked_for_a_password(weir):
    wire = fresh(weir)
    wire.send(pgwire.startup("acme_app", DATABASE))
    wire.until("R")
    return wire


def in_the_middle_of_scram(weir):
    wire = asked_for_a_password(weir)
    first = b"n,,n=,r=abcdefghijklmnop"
    wire.send(message("p", b"SCRAM-SHA-256\0", pgwire.I32.pack(len(first)), first))
    wire.until("R")
    return wire


def logged_in(weir):
    return weir.wire()


def logged_in_over_tls(weir):
    return weir.wire(tls=True)


def in_a_transaction(weir):
    wire = weir.wire()
    wire.run(query("BEGIN"))
    wire.run(query("SELECT 1"))
    return wire


def in_a_failed_pipeline(weir):
    wire = weir.wire()
    wire.send(parse("SELECT nonsense") + bind() + execute() + pgwire.flush())
    wire.until("E")
    return wire


def in_a_copy(weir):
    wire = weir.wire()
    wire.run(query("CREATE TEMP TABLE IF NOT EXISTS c (x text)"))
    wire.send(query("COPY c FROM STDIN"))
    wire.until("G")
    return wire


BEFORE_LOGIN = [fresh, offered_tls, in_tls, asked_for_a_password, in_the_middle_of_scram]
AFTER_LOGIN = [logged_in, logged_in_over_tls, in_a_transaction, in_a_failed_pipeline,
               in_a_copy]


def noise(seed, n=50):
    """Bytes of several kinds of wrong, n of them; the same for the same seed."""
    rng = random.Random(seed)
    out = [rng.randbytes(n) for n in (1, 3, 5, 8, 9, 100, 5000, 100_000)]
    valid = (pgwire.startup(OPEN_USER, DATABASE) + query("SELECT 1")
             + extended("SELECT $1::int", [1]))
    for _ in range(10):         # almost right
        data = bytearray(valid)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        out.append(bytes(data))
    for size in (0, 1, 3, 4, 5, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 30, 10_001):
        out.append(struct.pack("!I", size) + b"\0\3\0\0user\0")
        for kind in b"QPBDECHSXdcfpF\0\xff":
            out.append(struct.pack("!cI", bytes([kind]), size) + rng.randbytes(20))
    return rng.sample(out, n)


@pytest.mark.parametrize("state", BEFORE_LOGIN + AFTER_LOGIN, ids=lambda s: s.__name__)
def test_random_and_oversized_bytes_at_every_state_of_postgres(proxy, workers, state):
    with Canary(proxy):
        for data in noise("%s %d" % (state.__name__, workers)):
            wire = state(proxy)
            drop(wire.sock, data, 0.01)
            proxy.clients.clear()
    assert proxy.metric("servers", "postgres") <= 3


@pytest.mark.parametrize("state", [fresh, in_tls, asked_for_a_password, logged_in,
                                   in_a_transaction], ids=lambda s: s.__name__)
def test_what_can_never_become_a_message_is_refused_at_once(proxy, state):
    for size in (0, 3, 0xffffffff, 0x80000000):
        wire = state(proxy)
        kind = b"" if state in (fresh, in_tls) else b"Q"
        wire.send(kind + struct.pack("!I", size) + b"\0" * 8)
        reply = wire.until_closed()
        assert all(e["C"] == "08P01" for e in pgwire.errors(reply))


STARTUPS = {
    "without a user": pgwire.packet(196608, b"database\0x\0\0"),
    "without an end": pgwire.packet(196608, b"user\0open_app\0database\0collab\0"),
    "with an odd number of strings": pgwire.packet(196608, b"user\0open_app\0extra\0\0"),
    "with bytes behind its end": pgwire.packet(196608, b"user\0open_app\0\0junk"),
    "without a NUL": pgwire.packet(196608, b"user"),
    "without anything": pgwire.packet(196608),
    "of protocol 2": pgwire.packet(131072, b"x" * 288),
    "of protocol 4": pgwire.packet(4 << 16, b"user\0open_app\0\0"),
    "that is larger than allowed": pgwire.packet(196608, b"user\0" + b"x" * 10_100 + b"\0\0"),
    "that is a cancel of a wrong length": pgwire.packet(80877102, b"123"),
    "that asks for TLS with a body": pgwire.packet(80877103, b"12345678"),
    "with a user of many bytes": pgwire.startup("u" * 5000, DATABASE),
    "with bad options": pgwire.startup(OPEN_USER, DATABASE, options="-c \\"),
    "with a bad setting": pgwire.startup(OPEN_USER, DATABASE, work_mem="x"),
    "with an unknown setting": pgwire.startup(OPEN_USER, DATABASE, nonsense="x"),
    "with invalid utf-8": pgwire.packet(196608, b"user\0\xff\xfe\0database\0\xff\0\0"),
}


def test_startup_packets_that_are_odd_are_taken_or_refused_and_soon(proxy):
    """PostgreSQL takes some of them; nobody may wait beyond client_login_timeout."""
    with Canary(proxy):
        wires = {what: fresh(proxy) for what in STARTUPS}
        for what, wire in wires.items():
            wire.send(STARTUPS[what])
        start = time.monotonic()
        for what, wire in wires.items():
            try:
                reply = wire.until("Z")
            except pgwire.Closed as e:
                reply = e.reply
            assert set(pgwire.kinds(reply)) <= set("RENvSKZ"), what
        assert time.monotonic() - start < scaled(20)


def test_bytes_between_an_ssl_request_and_its_answer_are_refused(proxy):
    """They would be plaintext taken for the start of the encrypted session."""
    wire = fresh(proxy)
    wire.send(pgwire.ssl_request() + pgwire.startup(OPEN_USER, DATABASE))
    got = wire.sock.recv(1)
    assert got in (b"E", b"S", b"")
    assert closes(wire.sock)
    assert proxy.wire(tls=True).value("SELECT 1") == "1"


def test_ssl_request_inside_of_tls_is_refused(proxy):
    wire = in_tls(proxy)
    wire.send(pgwire.ssl_request())
    got = wire.sock.recv(1)
    assert got in (b"E", b"N", b"")
    if got != b"N":
        assert closes(wire.sock)


def test_endless_ssl_and_gss_requests_do_not_go_on_forever(proxy):
    wire = fresh(proxy)
    with contextlib.suppress(OSError):
        for _ in range(200):
            wire.send(pgwire.gssenc_request())
    assert closes(wire.sock)


# Redis.


def no_auth(weir):
    return weir.resp(login=False)


def redis_logged_in(weir):
    return weir.resp()


def redis_resp3(weir):
    return weir.resp(proto=3)


def redis_in_tls(weir):
    return weir.resp(tls=True)


def redis_in_half_a_request(weir):
    r = weir.resp()
    r.send(encode("SET", "half", "x" * 100)[:40])
    return r


PROTOCOL_ERRORS = {
    b"*abc\r\n": "invalid multibulk length", b"*01\r\n": "invalid multibulk length",
    b"* 1\r\n": "invalid multibulk length",
    b"*2147483648\r\n": "invalid multibulk length",
    b"*99999999999999999999\r\n": "invalid multibulk length",
    b"*1\r\n$abc\r\n": "invalid bulk length", b"*1\r\n$-1\r\n": "invalid bulk length",
    b"*1\r\n$04\r\nPING\r\n": "invalid bulk length",
    b"*1\r\n$536870913\r\n": "invalid bulk length",
    b"*1\r\n*1\r\n": "expected '$', got '*'", b"*1\r\nPING\r\n": "expected '$', got 'P'",
    b'ECHO "a\r\n': "unbalanced quotes in request",
    b"x" * 70_000: "too big inline request",
}


@pytest.mark.parametrize("data", PROTOCOL_ERRORS, ids=lambda d: repr(d[:20]))
def test_a_malformed_request_is_told_in_redis_words_and_closed(proxy, data):
    with Canary(proxy):
        r = proxy.resp()
        r.send(encode("PING"))
        with contextlib.suppress(OSError):
            r.send(data + encode("SET", "k", "v") * (b"\n" in data))
        said = r.until_closed()
        assert said.startswith(b"+PONG\r\n")
        assert said[7:] in (b"", b"-ERR Protocol error: %s\r\n"
                            % PROTOCOL_ERRORS[data].encode())


def test_limits_are_tighter_before_the_login(proxy):
    for data, text in [(b"*11\r\n", b"unauthenticated multibulk length"),
                       (b"*1\r\n$16385\r\n", b"unauthenticated bulk length")]:
        r = proxy.resp(login=False)
        r.send(data)
        assert r.until_closed() == b"-ERR Protocol error: " + text + b"\r\n"


@pytest.mark.parametrize("state", [no_auth, redis_logged_in, redis_resp3, redis_in_tls,
                                   redis_in_half_a_request], ids=lambda s: s.__name__)
def test_random_and_oversized_bytes_at_every_state_of_redis(proxy, state):
    rng = random.Random(state.__name__)
    wrong = [rng.randbytes(n) for n in (1, 2, 5, 100, 5000, 100_000)]
    wrong += [b"\0", b"*\0", b"$\0" + rng.randbytes(100), b"\r\n" * 1000, b"*1\r\n" * 1000,
              b"*1000000\r\n" + b"$1\r\nx\r\n" * 100, b"*2\r\n$1000000\r\nx",
              b"*1048577\r\n$4\r\nPING\r\n", b"$5\r\nhello\r\n", b"%1\r\n", b">1\r\n",
              b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000000\r\n" + b"x" * 1000,
              b"*1\r\n$4\r\nPINGxx" + encode("GET", "k")]
    valid = encode("SET", "noise", "v") + encode("GET", "noise") + b"GET noise\r\n"
    for _ in range(40):
        data = bytearray(valid)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        wrong.append(bytes(data))
    with Canary(proxy):
        for data in wrong:
            drop(state(proxy).sock, data, 0.01)
            proxy.clients.clear()


def test_a_request_that_ends_in_the_wrong_bytes_smuggles_nothing(proxy, rd):
    """Redis ignores the two bytes behind a bulk; what we forward must be sure."""
    r = proxy.resp()
    r.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nvXX" + encode("SET", "smuggled", "1")
           + encode("PING"))
    r.sock.settimeout(0.5)
    with contextlib.suppress(Exception):
        answers = r.replies(3)
        assert answers == ["OK", "OK", "PONG"]      # taken as Redis takes it
        return
    with contextlib.closing(rd.connect()) as direct:
        assert direct.get("smuggled") is None       # or refused altogether


def test_replies_nobody_reads_before_the_login_do_not_pile_up(proxy, san):
    """CVE-2025-21605: PINGs without a login, and never a read."""
    before = proxy.memory()
    r = proxy.resp(login=False)
    r.sock.settimeout(1)
    sent = 0
    with Canary(proxy), contextlib.suppress(OSError):
        while sent < 50 << 20:
            r.sock.sendall(encode("PING") * 2000)
            sent += 2000 * 14
    assert san or proxy.memory() - before < 16 << 20


# The wrong protocol at the door.


HTTP = (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 20\r\n\r\n"
        b"SET smuggled http\r\n\r\n")
CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(193)


@pytest.mark.parametrize("login", [False, True], ids=["before login", "after login"])
@pytest.mark.parametrize("data", [
    HTTP, HTTP.replace(b"POST", b"GET"), b"Host: x\r\n", CLIENT_HELLO,
    pgwire.startup(OPEN_USER, DATABASE), pgwire.ssl_request(),
], ids=["POST", "GET", "Host", "TLS", "PostgreSQL", "SSLRequest"])
def test_the_redis_port_closes_on_another_protocol(proxy, rd, data, login):
    neighbours = [proxy.resp() for _ in range(3)]
    for r in neighbours:
        assert r.ask("SET", "k", "v") == "OK"
    with contextlib.closing(rd.connect()) as direct:
        direct.delete("smuggled")
        connections = {c["id"] for c in rd.clients()}
        with Canary(proxy):
            r = proxy.resp(login=login)
            r.send(data)
            if data[:4] in (b"POST", b"GET ") or data[:5] == b"Host:":
                assert closes(r.sock)
            else:
                drop(r.sock, b"\r\n" * 4, 0.3)
        assert direct.get("smuggled") is None
        assert connections <= {c["id"] for c in rd.clients()}, "it cost a connection"
    for r in neighbours:
        assert r.ask("GET", "k") == b"v"


@pytest.mark.parametrize("data", [HTTP, encode("AUTH", REDIS_PASSWORD), b"PING\r\n" * 20,
                                  CLIENT_HELLO, b"SSH-2.0-OpenSSH_9.2\r\n"],
                         ids=["HTTP", "RESP", "inline", "TLS", "SSH"])
def test_the_postgres_port_closes_on_another_protocol(proxy, data):
    with Canary(proxy):
        wire = fresh(proxy)
        wire.send(data)
        assert closes(wire.sock)


def test_plain_bytes_on_the_tls_port_close(proxy):
    for data in (encode("PING"), HTTP, bytes(100)):
        with socket.create_connection(("127.0.0.1", proxy.ports["redis_tls"])) as s:
            s.sendall(data)
            assert closes(s)


# Crowds.


def test_a_crowd_that_connects_and_says_nothing(proxy, san):
    """It is sent home by client_login_timeout; the canaries do not feel it."""
    crowd, before = [], proxy.memory()
    openings = [b"", b"\0", pgwire.startup("acme_app", DATABASE),
                pgwire.ssl_request(), b"", b"*", b"*2\r\n$4\r\nAUTH\r\n$5\r\nx", b"A"]
    with Canary(proxy, patience=10):
        for n in range(HALF_OPEN):
            port = proxy.pg_port if n % 8 < 4 else proxy.redis_port
            s = socket.create_connection(("127.0.0.1", port), scaled(10))
            s.sendall(openings[n % 8])
            crowd.append(s)
        assert san or proxy.memory() - before < HALF_OPEN * (24 << 10)
        wait_for(lambda: proxy.metric("clients", "postgres") <= 1
                 and proxy.metric("clients", "redis") <= 1, 15,
                 "half-open clients outlive client_login_timeout")
    for s in crowd:
        s.close()


def test_a_storm_of_tls_handshakes_that_never_finish(proxy):
    crowd = []
    with Canary(proxy, patience=10):
        for n in range(300):
            s = socket.create_connection(("127.0.0.1", proxy.ports["redis_tls"]))
            s.sendall(CLIENT_HELLO[:n % len(CLIENT_HELLO)])
            crowd.append(s)
        wait_for(lambda: proxy.metric("clients", "redis") <= 1, 15, "they stay")
    for s in crowd:
        s.close()


def test_one_byte_a_second_does_not_get_around_the_login_timeout(proxy):
    packet = pgwire.startup("acme_app", DATABASE)
    request = encode("AUTH", REDIS_PASSWORD)
    with Canary(proxy):
        loris = [(fresh(proxy).sock, packet), (in_tls(proxy).sock, packet),
                 (no_auth(proxy).sock, request)]
        start, ended = time.monotonic(), []
        for n in range(int(scaled(20))):
            for sock, data in loris:
                if sock in ended:
                    continue
                try:
                    sock.sendall(data[n:n + 1])
                    sock.settimeout(0.01)
                    if not sock.recv(1000):
                        ended.append(sock)
                except socket.timeout:
                    pass
                except OSError:
                    ended.append(sock)
            if len(ended) == len(loris):
                break
            time.sleep(0.7)
    assert len(ended) == len(loris), "%d of %d" % (len(ended), len(loris))
    assert time.monotonic() - start > 1


def test_half_a_message_holds_no_server(one_server):
    """A client that trickles its query must not keep the only server from others."""
    slow = one_server.wire()
    data = query("SELECT 'slow at last'")
    for n in range(len(data) - 1):
        slow.send(data[n:n + 1])
    other = one_server.wire("beta_app")
    assert other.value("SELECT 1") == "1"
    slow.send(data[-1:])
    assert pgwire.rows(slow.until("Z")) == [["slow at last"]]


# Those who do not read.


def test_a_slow_reader_of_a_big_postgres_result(proxy, san):
    """Memory stays bounded, others go on, and in the end every byte is there."""
    before = proxy.memory()
    proxy.reset_hwm()
    with Canary(proxy):
        wire = proxy.wire(timeout=60)
        wire.send(query("SELECT repeat('x', 100000) FROM generate_series(1, %d)"
                        % (SLOW_MB * 10)))
        time.sleep(scaled(1))
        for _ in range(20):             # a little, slowly
            wire.message()
            time.sleep(0.02)
        assert san or proxy.memory("VmHWM") - before < 16 << 20
        got = 19                        # those were a T and 19 rows
        while True:
            kind, body = wire.message()
            if kind == "D":
                got += 1
                assert len(body) == 100_006
            elif kind == "Z":
                break
        assert got == SLOW_MB * 10
    assert san or proxy.memory("VmHWM") - before < 16 << 20


def test_a_client_that_asks_and_never_reads_redis(proxy, rd, san):
    """500 replies of a megabyte: it waits or is closed; nobody else waits."""
    with contextlib.closing(rd.connect()) as direct:
        direct.set("mega", b"m" * (1 << 20))
    before = proxy.memory()
    proxy.reset_hwm()
    with Canary(proxy):
        greedy = [proxy.resp() for _ in range(3)]
        for r in greedy:
            r.sock.settimeout(2)
            with contextlib.suppress(OSError):
                r.send(encode("GET", "mega") * 500)
        time.sleep(scaled(2))
        peak = proxy.memory("VmHWM") - before
        assert san or peak < 200 << 20, "%d MB" % (peak >> 20)
        for r in greedy:
            r.close()
    wait_for(lambda: san or proxy.memory() - before < 32 << 20, 5, "memory stays")


def test_a_client_that_pipelines_and_never_reads_postgres(proxy, san):
    before = proxy.memory()
    proxy.reset_hwm()
    wire = proxy.wire()
    wire.sock.settimeout(2)
    flood = extended("SELECT repeat('y', 10000)") * 500
    with Canary(proxy), contextlib.suppress(OSError):
        for _ in range(100):
            wire.sock.sendall(flood)
    assert san or proxy.memory("VmHWM") - before < 32 << 20


def test_a_message_larger_than_weir_must_hold_is_refused_with_54000(weir, san):
    w = weir({"weir": {"max_message_size": 1 << 20}})
    before = w.memory()
    with Canary(w):
        wire = w.wire(timeout=30)
        with contextlib.suppress(OSError):
            wire.send(parse("SELECT '%s'" % ("x" * (8 << 20)), "big"), sync())
        reply = []
        with contextlib.suppress(pgwire.Closed):
            reply = wire.until("Z")
        assert all(e["C"] == "54000" for e in pgwire.errors(reply))
    assert san or w.memory() - before < 16 << 20


def test_twenty_thousand_named_statements_of_one_client_stay_bounded(proxy, san):
    before = proxy.memory()
    wire = proxy.wire()
    with Canary(proxy):
        for n in range(0, 20_000, 500):
            wire.send(*[parse("SELECT %d" % i, "s%d" % i) for i in range(n, n + 500)],
                      sync())
            with contextlib.suppress(pgwire.Closed):
                wire.until("Z")
    assert san or proxy.memory() - before < 64 << 20


def test_connecting_and_leaving_at_once_leaks_nothing(proxy, san):
    def rush():
        threads = [threading.Thread(target=some) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    def some():
        for n in range(150):
            port = (proxy.pg_port, proxy.redis_port, proxy.ports["redis_tls"])[n % 3]
            with contextlib.suppress(OSError):
                s = socket.create_connection(("127.0.0.1", port))
                if n % 2:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                 struct.pack("ii", 1, 0))
                s.close()
    with Canary(proxy):
        rush()
        files = len(os.listdir("/proc/%d/fd" % proxy.pid))
        memory = proxy.memory()
        for _ in range(3):
            rush()
        wait_for(lambda: len(os.listdir("/proc/%d/fd" % proxy.pid)) <= files + 8, 10,
                 "descriptors leak")
        assert san or proxy.memory() - memory < 4 << 20


@pytest.mark.weir_only
def test_a_client_that_asks_for_gss_again_and_again_is_sent_away(weir, workers):
    """Each request is answered; who never reads must not pile answers up."""
    w = weir({}, workers)
    request = pgwire.gssenc_request()
    with Canary(w):
        with socket.create_connection(("127.0.0.1", w.pg_port)) as s:
            s.settimeout(scaled(20))
            s.sendall(request)
            assert s.recv(1) == b"N"
            s.sendall(request * 1000)
            said = s.recv(100)
            assert said[:1] == b"E" and b"08P01" in said


@pytest.mark.weir_only
def test_options_given_twice_are_refused(weir, workers):
    w = weir({}, workers)
    wire = w.wire(login=False)
    body = struct.pack("!I", 196608) + b"".join(
        x + b"\0" for x in [b"user", b"open_app", b"options", b"-c work_mem=1MB",
                            b"options", b"-c work_mem=2MB", b""])
    wire.send(struct.pack("!I", len(body) + 4) + body)
    kind, error = wire.message()
    assert kind == "E" and b"0A000" in error
