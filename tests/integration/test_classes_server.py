"""
Goal:   a server that breaks the protocol costs itself its connection and the
        client that asked an error; nobody else sees a byte of it.
Method: a server of our own (fakepg.py) that says what a test wants, behind a
        pool of one, with two neighbours of the client that asked.

Where each class of known bugs in poolers has its test.  Files without a
prefix are test_classes_*.py.

    what goes wrong                                     where
 1  rows of another client                              traffic
 2  released before all Syncs were answered             pipeline; test_pg (splits)
 3  bytes left behind ReadyForQuery                     server; tests/test_pg_server.c
 4  two answers to one query                            server
 5  ReadyForQuery twice when no server was to be had    pipeline
 6  an error and a simple Query in one batch            pipeline; test_pg (dialogues)
 7  Flush without Execute, PortalSuspended and Flush    pipeline; test_pg
 8  what is known of a server's statements is not true  statements; test_prepared
 9  one name, two statements                            statements; test_pg, test_prepared
10  65 535 parameters; both directions full             pipeline
18  a cancel that comes late                            cancel; test_pg
19  repeated behind a server that died in a transaction statements; test_pg_upstream
20  a server that was closed while idle is handed out   statements; test_pg_upstream
21  reset in the middle of a pipeline                   statements
22  what one role may see is shown to another           test_auth, test_tenant
23  lengths and fields that lie                         server; test_hostile, tests/test_scram.c
24  bytes behind SSLRequest, E as its answer            server; test_tls, test_hostile
25  passwords compared or not compared                  test_auth, test_passthrough
26  names that confuse organizations                    statements; test_tenant
27  a storm of log-ins                                  statements
28  memory                                              statements; test_hostile, test_pg, test_flood
"""
import contextlib
import os
import ssl
import struct
import threading

import pytest

import fakepg
import pgwire
from conftest import Factory, borrowed
from fakepg import complete, data_row, description, fields, ready
from pgwire import errors, extended, kinds, message, query, rows
from servers import wait_for

pytestmark = pytest.mark.weir_only

SOAK = os.environ.get("WEIR_SOAK")      # all of it, and longer
USER = "plain_app"
ANSWER = description(2) + data_row("theirs", "0") + complete()
NOTICE = message("N", b"SNOTICE\0C00000\0Mhello\0\0")
NOTIFICATION = message("A", struct.pack("!I", 7), b"channel\0text\0")
PARAMETER = message("S", b"application_name\0stranger\0")


@pytest.fixture(scope="module")
def fake():
    server = fakepg.FakePg()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def kept(folder, base, authority, pg, rd, fake, workers):
    factory = Factory(folder, base, authority, pg, rd)

    def get():
        if not factory.running:
            factory({"postgres main": {"port": fake.port, "pool_size": 1,
                                       "password": None},
                     "weir": {"query_wait_timeout": 10}}, workers)
        return factory
    yield get
    factory.finish()


@pytest.fixture
def proxy(kept, fake, request):
    fake.says, fake.at_once, fake.answer_tls = {}, b"", b"N"
    yield from borrowed(kept(), request)


def number(wire, text="mine"):
    """Which server connection answers; and it must be our answer."""
    reply = wire.run(query(text))
    assert kinds(reply) == "TDCZ", kinds(reply)
    assert rows(reply)[0][0] == text
    return int(rows(reply)[0][1])


def hears(wire, *parts):
    """All there is up to a ReadyForQuery or the end; and whether that was it."""
    wire.send(*parts)
    reply = []
    try:
        while not reply or reply[-1][0] != "Z":
            reply.append(wire.message(reply))
    except pgwire.Closed:
        return reply, True
    return reply, False


# What a server says to one query.  `told`: the answer is whole before it
# goes wrong, so that an error may also be left out.
WRONG = {
    "bytes behind ready": (ANSWER + ready() + b"xyz", True),
    "an error behind ready": (ANSWER + ready() + fields(S="ERROR", C="XX000", M="x"), True),
    "a row behind ready": (ANSWER + ready() + data_row("theirs", "0"), True),
    "two times ready": (ANSWER + ready() + ready(), True),
    "two answers": ((ANSWER + ready()) * 2, True),
    "half a message behind ready": (ANSWER + ready() + data_row("theirs", "0")[:9], True),
    "ready of an unknown status": (ANSWER + ready(b"X"), True),
    "ready of status zero": (ANSWER + ready(b"\0"), True),
    "ready without a status": (ANSWER + ready(b""), True),
    "ready with more behind its status": (ANSWER + ready(b"II"), True),
    "a length of 3": (ANSWER + b"D\0\0\0\3" + ready(), False),
    "a length of 3 between rows": (
        description(2) + data_row("wrong", "0") * 3 + b"D\0\0\0\3" + data_row("theirs", "0"), False),
    "a row of another kind between rows": (
        description(2) + data_row("wrong", "0") * 3 + message("V", b"") + data_row("a", "0"), False),
    "a length of 0": (ANSWER + b"D\0\0\0\0" + ready(), False),
    "a negative length": (ANSWER + b"D\xff\xff\xff\xff" + ready(), False),
    "a huge length": (ANSWER + b"C\x7f\xff\xff\xff" + ready(), False),
    "a huge error behind ready": (ANSWER + ready() + b"E\x7f\xff\xff\xff", True),
    "parse complete": (message("1") + ANSWER + ready(), False),
    "an authentication": (message("R", b"\0\0\0\3") + ANSWER + ready(), False),
    "a key": (ANSWER + message("K", b"\0" * 8) + ready(), False),
    "an unknown type": (ANSWER + message("~", b"abc") + ready(), False),
    "a type of zero": (ANSWER + b"\0\0\0\0\4" + ready(), False),
    "a type of a client": (ANSWER + message("Q", b"SELECT 1\0") + ready(), False),
    "copy data too short": (message("H", b"\0\0\0") + b"d\0\0\0\2", False),
}


@pytest.mark.parametrize("way", [query, extended], ids=["simple", "extended"])
@pytest.mark.parametrize("what", WRONG)
def test_a_server_that_breaks_the_protocol_is_never_pooled(
        proxy, fake, workers, what, way):
    if (workers == 4) != (way is query) and not SOAK:
        pytest.skip("half of the combinations are enough")
    said, told = WRONG[what]
    if way is extended:     # Execute is all that is answered wrongly
        said = said.replace(description(2), b"")
    fake.says["wrong"] = said
    asker, near, late = proxy.wire(USER), proxy.wire(USER), proxy.wire("open_app")
    bad = number(asker)
    assert number(near) == bad
    reply, over = hears(asker, way("wrong"))
    # In step to the end: whole messages, and an error or the whole answer.
    assert told or [e["C"] for e in errors(reply)] == ["08P01"]
    # Nobody else has seen a byte, and the next to ask has another server.
    wait_for(lambda: bad in fake.dead, 5, "the server was not closed")
    for wire in (near, late, proxy.wire(USER)):
        assert number(wire) != bad
    with contextlib.suppress(pgwire.Closed, OSError):
        assert over or number(asker) != bad


HALF = b"D\0\0\0\x20\0\1"


def in_half_a_row(w, wire):
    number(wire)
    wire.send(query("half"))
    wire.until("T")
    wire._fill(len(HALF))


def test_a_server_that_ends_in_a_message_ends_its_client(proxy, fake):
    """An error told in the middle of a row would be taken for its columns."""
    fake.says["half"] = description(2) + HALF
    asker, near = proxy.wire(USER), proxy.wire(USER)
    in_half_a_row(proxy, asker)
    fake.cut()
    asker.until_closed()
    assert bytes(asker.buf) == HALF[5:]       # its head was read
    assert number(near)


@pytest.mark.parametrize("key", ["query_timeout", "transaction_timeout"])
def test_a_timeout_in_the_middle_of_a_message_adds_nothing_to_it(weir, fake, workers, key):
    fake.says = {"half": description(2) + HALF}
    w = weir({"postgres main": {"port": fake.port, "password": None},
              "weir": {key: "500ms"}}, workers)
    asker = w.wire(USER)
    if key == "transaction_timeout":
        asker.run(query("BEGIN"))
    in_half_a_row(w, asker)
    asker.until_closed()
    assert bytes(asker.buf) == HALF[5:]


# What weir says itself before a request, and a request that it says it for.
SET = "SELECT pg_catalog.set_config($1,$2,false) IS NULL"
PREPARES = {"a begin": ("BEGIN", query("SHOW x")), "a commit": ("COMMIT", query("SHOW x")),
            "a setting": (SET, query("SHOW x")), "a setting alone": (SET, extended("SELECT 1"))}


@pytest.mark.parametrize("what, error", {
    "without a code": fields(S="ERROR", M="no code"),
    "with nothing in it": message("E", b"\0"),
    "without its end": message("E", b"SERROR\0C42601\0Mno end"),
    "of no byte": message("E"),
    "with a code of one byte": fields(S="ERROR", C="4", M="short"),
    "with a long text": fields(S="ERROR", C="42601", M="x" * 200_000),
}.items(), ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("when", ["an answer", "idle", *PREPARES])
def test_an_error_that_is_none_harms_nobody(proxy, fake, when, what, error):
    """Those that weir reads itself are the dangerous ones: it is idle, it binds."""
    wire, other = proxy.wire("acme_app"), proxy.wire(USER)
    bad = number(other)
    if when == "an answer":
        fake.says["wrong"] = error + ready()
        reply, over = hears(wire, query("wrong"))
        assert kinds(reply)[:1] == "E"
    elif when == "idle":
        fake.push(error)
        wait_for(lambda: bad in fake.dead, 5, "the server was not closed")
    else:
        ours, request = PREPARES[when]
        fake.says[ours] = error
        reply, over = hears(wire, request)
        assert kinds(reply)[:1] == "E" and len(errors(reply)[0].get("C", "")) == 5
        wait_for(lambda: bad in fake.dead, 5, "the server was not closed")
        fake.says.clear()
    assert not other.buf
    assert number(other) != bad or when == "an answer"
    assert number(proxy.wire("acme_app"))


@pytest.mark.parametrize("what, data", {
    "ready": ready(), "a row": data_row("stray"), "an answer": ANSWER + ready(),
    "junk": b"\0" * 7, "one byte": b"D", "a fatal error": fields(
        S="FATAL", C="57P01", M="go")}.items(), ids=lambda x: x if isinstance(x, str) else "")
def test_what_an_idle_server_says_closes_it(proxy, fake, what, data):
    wires = [proxy.wire(USER) for _ in range(3)]
    bad = number(wires[0])
    fake.push(data)
    wait_for(lambda: bad in fake.dead, 5, "the server was not closed")
    for wire in wires:
        assert not wire.buf
        assert number(wire) != bad


def test_what_comes_behind_the_log_in_is_no_answer(proxy, fake):
    """An answer before any request: the second connection is a good one."""
    fake.at_once = ANSWER + ready()
    wire = proxy.wire(USER, login=False)
    wire.send(pgwire.startup("open_app", "collab"))
    reply, over = hears(wire)
    if not over and not errors(reply):
        reply, over = hears(wire, query("mine"))
    assert rows(reply) in ([], [["mine", str(fake.accepted)]])
    fake.at_once = b""
    wait_for(lambda: number(proxy.wire(USER)), 5)


@pytest.mark.parametrize("cut", [0, 1], ids=["whole", "cut off"])
def test_a_server_that_is_ended_in_its_log_in_is_told_to_have_been(weir, fake, workers, cut):
    error = fields(S="FATAL", V="FATAL", C="57P01", M="gone by an administrator")
    fake.at_once = error[:len(error) - cut]
    w = weir({"postgres main": {"port": fake.port, "password": None}}, workers)
    wire = w.wire("open_app", login=False)
    wire.send(pgwire.startup("open_app", "collab"))
    closed = w.event("server-close")[0]
    fake.at_once = b""
    assert closed["why"] == "UPSTREAM_DOWN"
    assert (closed["sqlstate"], closed["error"]) == (
        ("", "bytes after ReadyForQuery") if cut
        else ("57P01", "gone by an administrator"))
    # It was not the client that was told to go.
    assert [e["C"] for e in errors(hears(wire)[0])] == ["08006"]

    def back():
        with contextlib.suppress(pgwire.Failed):
            return number(w.wire(USER))
    wait_for(back, 5, "never tried again")


@pytest.mark.parametrize("name, data", {"notice": NOTICE, "notification": NOTIFICATION,
                                        "parameter": PARAMETER}.items(),
                         ids=["notice", "notification", "parameter"])
def test_what_may_come_at_any_time_is_for_the_client_that_is_there(proxy, fake, name, data):
    """And for nobody when nobody is: the next must not read it as its own."""
    kind = data[:1].decode()
    wire, other = proxy.wire(USER), proxy.wire(USER)
    number(wire)
    parts = [description(2), data_row("within", "1"), complete(), ready()]
    for at in range(4):
        fake.says["within"] = b"".join(parts[:at]) + data + b"".join(parts[at:])
        assert kinds(wire.run(query("within"))).replace("S", "") == \
            "TDCZ"[:at] + kind.replace("S", "") + "TDCZ"[at:]
        assert number(other)
    fake.says["behind"] = b"".join(parts) + data
    assert kinds(wire.run(query("behind"))) == "TDCZ"
    wire.run(query("mine"))     # and may be told first what came behind
    heard = proxy.metric("server_received_bytes_total")
    fake.push(data)
    wait_for(lambda: proxy.metric("server_received_bytes_total") > heard, 5, "not read")
    for w in (other, wire, proxy.wire(USER)):
        assert number(w)


@pytest.mark.parametrize("size", [1, 4, 5, 7, 64, 1000])
def test_rows_that_come_in_pieces_of_any_size_arrive_as_they_are(proxy, fake, size):
    """Rows that are here as a whole go along at once, and what is between them."""
    wire, other = proxy.wire(USER), proxy.wire(USER)
    row = [data_row("x" * n, str(n)) for n in range(40)]
    said = description(2) + b"".join(row[:20]) + NOTICE + row[20] + NOTICE + \
        b"".join(row[21:]) + complete("SELECT 40") + ready()
    fake.says["rows"] = [said[i:i + size] for i in range(0, len(said), size)]
    reply = wire.run(query("rows"))
    assert kinds(reply) == "T" + "D" * 20 + "N" + "D" + "N" + "D" * 19 + "CZ"
    assert rows(reply) == [["x" * n, str(n)] for n in range(40)]
    assert number(other) and number(wire)


def test_a_parameter_of_one_client_is_taken_back_for_the_next(proxy, fake):
    """The server said it changed; whoever comes next is told what is true for it."""
    wire, other = proxy.wire(USER), proxy.wire(USER)
    fake.says["SELECT 1"] = PARAMETER + ANSWER + ready()
    assert kinds(wire.run(query("SELECT 1"))) == "STDCZ"
    assert number(other)


def waits_behind(w, wire, n=1):
    wire.send(query("mine"))
    wait_for(lambda: w.metric("clients_waiting", "postgres") == n, 5, "nobody waits")


def test_a_server_is_nobody_elses_before_all_it_said_is_read(proxy, fake):
    """A notice of which the first bytes came with ReadyForQuery is the asker's."""
    fake.says["half"] = ANSWER + ready() + NOTICE[:3]
    asker, other = proxy.wire(USER), proxy.wire(USER)
    assert kinds(asker.run(query("half"))) == "TDCZ"
    waits_behind(proxy, other)
    heard = proxy.metric("client_received_bytes_total")
    asker.send(query("mine")[:1])       # has it looked at
    wait_for(lambda: proxy.metric("client_received_bytes_total") > heard, 5, "not read")
    fake.push(NOTICE[3:])
    assert kinds(other.until("Z")) == "TDCZ"
    asker.send(query("mine")[1:])
    assert kinds(asker.until("Z")) == "NTDCZ"


def test_a_client_that_leaves_before_all_is_read_costs_its_server(proxy, fake):
    fake.says["half"] = ANSWER + ready() + NOTICE[:3]
    asker, other = proxy.wire(USER), proxy.wire(USER)
    bad = number(asker)
    asker.run(query("half"))
    waits_behind(proxy, other)
    asker.send(pgwire.terminate())
    reply = other.until("Z")
    assert kinds(reply) == "TDCZ" and int(rows(reply)[0][1]) != bad
    wait_for(lambda: bad in fake.dead, 5, "the server was not closed")


def test_who_waits_is_not_given_what_came_behind_another_record(weir, fake, authority):
    """Of two records of TLS weir reads one; the turn does not end before the grant."""
    fake.answer_tls, fake.tls = b"S", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    fake.tls.load_cert_chain(*authority.issue("fake"))
    go = fake.hold["two"] = threading.Event()
    fake.says["two"] = [ANSWER + ready(), ANSWER + ready()]
    w = weir({"postgres main": {"port": fake.port, "pool_size": 1, "password": None,
                                "sslmode": "require"}}, 1)
    try:
        asker, other = w.wire(USER), w.wire(USER)
        bad = number(asker)
        fake.said.clear()
        asker.send(query("two"))
        waits_behind(w, other)
        with w.stopped():
            go.set()
            wait_for(lambda: "two" in fake.said, 5, "the server did not answer")
        assert kinds(asker.until("Z")) == "TDCZ"
        reply = other.until("Z")
        assert rows(reply)[0][0] == "mine" and int(rows(reply)[0][1]) != bad
    finally:
        go.set()
        fake.answer_tls, fake.tls = b"N", None
        fake.hold.clear()


@pytest.mark.parametrize("answer", [b"E", b"", b"X", b"S" + ready(), b"N" + ANSWER,
                                    fields(S="FATAL", C="57P03", M="starting up")],
                         ids=["E", "nothing", "X", "S and more", "N and more", "an error"])
def test_an_odd_answer_to_an_ssl_request_is_a_failed_log_in(weir, fake, workers, answer):
    fake.answer_tls = answer
    for mode in ("require", "prefer"):
        w = weir({"postgres main": {"port": fake.port, "sslmode": mode},
                  "weir": {"server_connect_timeout": 1}}, workers)
        wire = w.wire("open_app", login=False)
        wire.send(pgwire.startup("open_app", "collab"))
        reply, over = hears(wire)
        if not over and not errors(reply):
            reply, over = hears(wire, query("mine"))
        assert errors(reply) and errors(reply)[0]["C"] == "08006"
    fake.answer_tls = b"N"
