"""
Goal:   CLIENT LIST and KILL show and touch the clients of the caller's own
        organization, on all workers, and of nobody else is there any sign.
Method: clients of two organizations and of none, on one worker and on four;
        each tells what it sees; then they end one another in every way there
        is, while commands are under way; errors are compared with Redis's.
"""
import contextlib
import re

import pytest

import respwire
from respwire import Closed, Error, encode
from servers import USERS, scaled, wait_for
from test_redis import past_weir

CONFIG = {"user svc": {"auth": "plain", "password": "svc-secret", "organizations": "*"},
          "user acme_two": {"auth": "plain", "password": "two", "organization": "acme"}}
FIELDS = ("id addr laddr fd name age idle flags db sub psub ssub multi qbuf qbuf-free argv-mem "
          "multi-mem rbs rbp obl oll omem tot-mem events cmd user redir resp").split()


def login(w, user, password=None, proto=2, name=None):
    r = w.resp(login=False)
    hello = ["HELLO", proto, "AUTH", user, password or USERS[user][1]]
    assert not isinstance(r.ask(*hello), Error)
    r.id = r.ask("CLIENT", "ID")
    if name:
        assert r.ask("CLIENT", "SETNAME", name) == "OK"
    return r


def rows(text):
    """The lines of CLIENT LIST, each as a dict."""
    text = text.decode()
    if text.startswith("txt:"):
        text = text[4:]
    return [dict(word.split("=", 1) for word in line.split(" "))
            for line in text.splitlines()]


def ids(text):
    return [int(row["id"]) for row in rows(text)]


def is_closed(r):
    return r.until_closed() == b""


def lives(r):
    return r.ask("PING") == "PONG"


@pytest.mark.weir_only
def test_a_list_shows_ones_own_organization_on_all_workers_oldest_first(proxy):
    acme = [login(proxy, "acme_app", proto=2 + n % 2, name="a%d" % n) for n in range(12)]
    acme += [login(proxy, "svc.acme", "svc-secret"), login(proxy, "acme_two", "two")]
    beta = [login(proxy, "beta_app", name="b%d" % n) for n in range(5)]
    plain = [login(proxy, "plain_app"), proxy.resp()]
    plain[1].id = plain[1].ask("CLIENT", "ID")
    stranger = proxy.resp(login=False)
    for group in (acme, beta, plain):
        want = sorted(r.id for r in group)
        for r in group:
            listed = ids(r.ask("CLIENT", "LIST"))
            assert sorted(listed) == want
    assert ids(acme[0].ask("CLIENT", "LIST")) == [r.id for r in acme], "by age"
    named = {row["name"] for row in rows(acme[0].ask("CLIENT", "LIST"))}
    assert named == {"a%d" % n for n in range(12)} | {""}
    del stranger


@pytest.mark.weir_only
@pytest.mark.parametrize("proto", [2, 3])
def test_a_line_has_the_fields_of_redis_in_their_order(proxy, rd, proto):
    r = login(proxy, "acme_app", proto=proto, name="me")
    r.ask("SELECT", 0), r.ask("SET", "acme:k", "v")
    for sub in ("LIST", "INFO"):
        text = r.ask("CLIENT", sub)
        line = re.sub(rb"^txt:", b"", text)
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        assert [w.split(b"=")[0].decode() for w in line.split()] == FIELDS
        row = rows(text)[0]
        port = r.sock.getsockname()[1]
        assert row["addr"] == "127.0.0.1:%d" % port
        assert row["laddr"] == "127.0.0.1:%d" % proxy.redis_port
        want = {"id": str(r.id), "name": "me", "flags": "N", "db": "0", "user": "acme_app",
                "resp": str(proto), "cmd": "client|" + sub.lower(), "multi": "-1", "redir": "-1"}
        assert {k: row[k] for k in want} == want
    with contextlib.closing(respwire.Resp(rd.port)) as direct:
        direct.ask("AUTH", rd.password)
        text = direct.ask("CLIENT", "INFO")
        assert [w.split(b"=")[0].decode() for w in text.split()] == FIELDS
    other = login(proxy, "acme_app")
    other.ask("GET", "acme:k")
    r.ask("PING")
    seen = {int(row["id"]): row["cmd"] for row in rows(r.ask("CLIENT", "LIST"))}
    assert seen == {r.id: "client|list", other.id: "get"}


def test_a_list_tells_who_transacts_tracks_and_monitors(proxy, rd):
    said = []
    for open_one in (lambda n: past_weir(rd, n), proxy.resp):
        r, asker = open_one(3), open_one(2)
        number = r.ask("CLIENT", "ID")

        def seen():
            row = rows(asker.ask("CLIENT", "LIST", "ID", number))[0]
            return [row[k] for k in ("flags", "multi", "redir", "cmd", "resp")]
        said.append([])
        for line in ("multi|set k v|get k|multi|exec|client tracking on|get k|multi|get k|discard"
                     "|client tracking off|watch k|get k|unwatch|monitor").split("|"):
            r.ask(*line.split())
            said[-1].append((line, seen()))
        r.close(), asker.close()
    assert said[0] == said[1]
    assert said[1][2] == ("get k", ["x", "2", "-1", "get", "3"])


@pytest.mark.weir_only
def test_a_list_by_id_is_in_the_order_asked_and_has_nobody_elses(proxy):
    a = [login(proxy, "acme_app") for _ in range(6)]
    b = login(proxy, "beta_app")
    asked = [a[4].id, b.id, 999999, a[1].id, a[4].id, -5, 0]
    assert ids(a[0].ask("CLIENT", "LIST", "ID", *asked)) == [a[4].id, a[1].id, a[4].id]
    assert ids(b.ask("CLIENT", "LIST", "ID", *asked)) == [b.id]
    assert sorted(ids(a[0].ask("client", "list", "type", "NORMAL"))) == sorted(r.id for r in a)
    for kind in ("master", "replica", "slave", "pubsub"):
        assert a[0].ask("CLIENT", "LIST", "TYPE", kind) == b""
    assert a[0].ask("CLIENT", "LIST", "ID", *[1] * 1025) == "ERR weir: too many client IDs"
    assert a[0].ask("CLIENT", "LIST", "ID", *[1] * 1024) == b""


@pytest.mark.weir_only
def test_each_way_to_kill_ends_who_is_meant_and_only_of_the_own_organization(proxy):
    me, other = login(proxy, "acme_app"), login(proxy, "beta_app")

    def victim(user="acme_app", password=None):
        r = login(proxy, user, password)
        r.addr = "127.0.0.1:%d" % r.sock.getsockname()[1]
        return r
    v = victim()
    assert me.ask("CLIENT", "KILL", v.addr) == "OK" and is_closed(v)
    assert me.ask("CLIENT", "KILL", v.addr) == "ERR No such client"
    v = victim()
    assert me.ask("CLIENT", "KILL", "ID", v.id) == 1 and is_closed(v)
    assert me.ask("CLIENT", "KILL", "ID", v.id) == 0
    v = victim()
    assert me.ask("CLIENT", "KILL", "ADDR", v.addr, "TYPE", "normal") == 1 and is_closed(v)
    v = victim("acme_two", "two")
    assert me.ask("CLIENT", "KILL", "USER", "acme_two") == 1 and is_closed(v)
    assert me.ask("CLIENT", "KILL", "USER", "acme_two") == 0
    v = [victim() for _ in range(9)]
    assert me.ask("CLIENT", "KILL", "LADDR", "127.0.0.1:%d" % proxy.redis_port) == 9
    assert all(is_closed(r) for r in v)
    for foreign in [("ID", other.id), ("ID", other.id, "SKIPME", "no"), ("TYPE", "pubsub"),
                    ("TYPE", "master"), ("ADDR", "127.0.0.1:%d" % other.sock.getsockname()[1]),
                    ("ID", me.id), ("SKIPME", "yes")]:
        assert me.ask("CLIENT", "KILL", *foreign) == 0, foreign
    assert me.ask("CLIENT", "KILL", "USER", "beta_app") == "ERR No such user 'beta_app'"
    assert me.ask("CLIENT", "KILL", "USER", "nobody") == "ERR No such user 'nobody'"
    assert lives(me) and lives(other)
    wait_for(lambda: sum(e.get("why") == "KILLED" for e in proxy.events("close")) >= 13, 5)


@pytest.mark.weir_only
def test_a_client_that_kills_itself_hears_of_it_and_is_gone(proxy):
    r = login(proxy, "acme_app")
    r.send(encode("SET", "k", "v"), encode("CLIENT", "KILL", "ID", r.id, "SKIPME", "no"),
           encode("SET", "k", "behind"))
    assert r.until_closed() == b"+OK\r\n:1\r\n"
    r = login(proxy, "acme_app")
    assert r.ask("GET", "k") == b"v"
    r.send(encode("CLIENT", "KILL", "127.0.0.1:%d" % r.sock.getsockname()[1]))
    assert r.until_closed() == b"+OK\r\n"


@pytest.mark.weir_only
def test_list_and_kill_keep_their_place_in_a_pipeline(proxy):
    victims = [login(proxy, "acme_app") for _ in range(4)]
    r = login(proxy, "acme_app")
    for v in victims:
        r.send(encode("SET", "k", v.id), encode("CLIENT", "KILL", "ID", v.id), encode("GET", "k"),
               encode("CLIENT", "LIST", "ID", v.id, r.id), encode("ECHO", "last"))
        assert r.replies(3) == ["OK", 1, b"%d" % v.id]
        assert ids(r.reply()) == [r.id] and r.reply() == b"last"
        assert is_closed(v)


@pytest.mark.weir_only
def test_clients_that_are_killed_owed_replies_leave_the_others_theirs(proxy):
    """Who is killed has commands under way; nobody else hears the replies."""
    for turn in range(10):
        me = login(proxy, "acme_app")
        victims = [login(proxy, "acme_app") for _ in range(8)]
        for v in victims:
            v.send(*[encode("SET", "own:%d" % v.id, v.id) + encode("GET", "own:%d" % v.id)] * 20)
        me.send(encode("SET", "me", turn), encode("CLIENT", "KILL", "TYPE", "normal"),
                encode("GET", "me"))
        assert me.replies(3) == ["OK", 8, b"%d" % turn]
        for v in victims:
            said = v.until_closed()
            assert set(re.findall(rb"\$\d+\r\n(\d+)", said)) <= {b"%d" % v.id}
        me.close()


@pytest.mark.weir_only
def test_who_blocks_or_is_in_a_transaction_is_listed_as_that_and_may_be_killed(proxy, rd):
    for turn in range(3):
        me = login(proxy, "acme_app")
        blocked, busy = login(proxy, "acme_app"), login(proxy, "acme_app")
        blocked.send(encode("BLPOP", "kill:%d" % turn, 0))
        assert busy.ask("MULTI") == "OK" and busy.ask("SET", "kill:x", turn) == "QUEUED"

        def flags():
            return {int(row["id"]): row["flags"] for row in rows(me.ask("CLIENT", "LIST"))}
        wait_for(lambda: flags() == {me.id: "N", blocked.id: "b", busy.id: "x"}, 5)
        assert me.ask("CLIENT", "KILL", "TYPE", "normal") == 2
        assert is_closed(blocked) and is_closed(busy)
        # Nobody waits for the element any more, and no SET was run.
        wait_for(lambda: not [c for c in rd.clients() if "b" in c["flags"]], 5)
        assert me.ask("RPUSH", "kill:%d" % turn, "v") == 1
        assert me.ask("LRANGE", "kill:%d" % turn, 0, -1) == [b"v"]
        assert me.ask("EXISTS", "kill:x") == 0
        assert me.ask("DEL", "kill:%d" % turn) == 1
        me.close()


def is_answered(r, n):
    with contextlib.suppress(Closed, OSError):
        return len(r.replies(n)) == n
    return False


@pytest.mark.weir_only
def test_everybody_kills_everybody_and_nobody_waits_for_ever(proxy):
    """Askers that end while their call is on its way; calls that meet."""
    witness = login(proxy, "beta_app")

    def enters(proto):
        """A call of one who has left may still end those who come."""
        with contextlib.suppress(Closed, OSError):
            return login(proxy, "acme_app", proto=proto)
    for _ in range(8):
        crowd = [wait_for(lambda: enters(2 + n % 2)) for n in range(16)]
        for n, r in enumerate(crowd):
            with contextlib.suppress(OSError):      # it was ended by now
                r.send(encode("CLIENT", "LIST") * 3, encode("CLIENT", "KILL", "TYPE", "normal"),
                       encode("CLIENT", "LIST"))
            if n % 5 == 0:
                r.close()
        left = 0
        # Who was answered may yet be ended by another's; not once all were.
        answered = [r for n, r in enumerate(crowd) if n % 5 != 0 and is_answered(r, 5)]
        for r in answered:
            with contextlib.suppress(Closed, OSError):
                left += lives(r)
        assert left <= 1
        for r in crowd:
            r.close()
    assert lives(witness) and ids(witness.ask("CLIENT", "LIST")) == [witness.id]



ERRORS = """CLIENT LIST x|CLIENT LIST TYPE|CLIENT LIST TYPE x|CLIENT LIST TYPE normal x|CLIENT LIST ID
CLIENT LIST ID x|CLIENT LIST ID 1 x|CLIENT LIST ID 01|CLIENT LIST TYPE master|CLIENT LIST ID 99999999
CLIENT KILL|CLIENT KILL x|CLIENT KILL ID|CLIENT KILL ID x|CLIENT KILL ID 0|CLIENT KILL ID -1
CLIENT KILL ID 99999999|CLIENT KILL ID 99999999 TYPE|CLIENT KILL ID 99999999 FOO bar|CLIENT KILL TYPE foo
CLIENT KILL USER nosuch|CLIENT KILL SKIPME maybe|CLIENT KILL ADDR 1.2.3.4:5|CLIENT KILL FOO yes
CLIENT KILL ID 99999999 ID x|CLIENT INFO x|CLIENT ID x|CLIENT FOO|CLIENT|CLIENT KILL TYPE master
CLIENT KILL ID 99999999999999999999|CLIENT LIST ID 99999999999999999999
""".replace("\n", "|").strip("|").split("|")


@pytest.mark.parametrize("proto", [2, 3])
def test_what_is_malformed_is_refused_in_redis_own_words(proxy, rd, proto):
    with contextlib.closing(respwire.Resp(rd.port)) as direct:
        direct.ask("HELLO", proto, "AUTH", "default", rd.password)
        r = proxy.resp(proto=proto)
        wrong = {}
        for line in ERRORS:
            said = []
            for c in (direct, r):
                c.send(encode(*line.split()))
                said.append(c.raw())
            if said[0] != said[1]:
                wrong[line] = said
        assert not wrong


@pytest.mark.weir_only
def test_a_weir_that_ends_does_not_wait_for_a_call(weir, workers):
    w = weir({}, workers)
    clients = [w.resp() for _ in range(20)]
    for r in clients:
        r.send(encode("CLIENT", "LIST") * 50)
    w.signal(15)
    assert w.wait(15) == 0
    w.over = True


@pytest.mark.weir_only
def test_a_thousand_clients_are_listed_and_killed(proxy, san):
    n = 300 if san else 1000
    crowd = [login(proxy, "acme_app") for _ in range(n)]
    assert sorted(ids(crowd[0].ask("CLIENT", "LIST"))) == sorted(r.id for r in crowd)
    assert crowd[0].ask("CLIENT", "KILL", "USER", "acme_app") == n - 1
    assert all(is_closed(r) for r in crowd[1:]) and lives(crowd[0])
    assert ids(crowd[0].ask("CLIENT", "LIST")) == [crowd[0].id]
