"""Ways to log in besides SCRAM: md5, plain.

Goal: who has the password gets in by each of them, who has not does not, and
a password is never asked for in clear where others can listen.
Method: real drivers (libpq), and the wire where a driver would help too much.
"""
import base64
import hashlib
import hmac
import os
import time

import psycopg2
import pytest

import pgwire
from servers import DATABASE, scaled, wait_for

pytestmark = pytest.mark.weir_only

PASSWORD = "a password that is long enough for anybody"
STORED = "md5" + hashlib.md5((PASSWORD + "stored_app").encode()).hexdigest()


@pytest.fixture
def proxy(weir, workers):
    return weir({
        "user md5_app": {"auth": "md5", "password": PASSWORD, "organization": "acme"},
        "user stored_app": {"auth": "md5", "password": STORED, "organization": "acme"},
        "user clear_app": {"auth": "plain", "password": PASSWORD, "organization": "beta"},
    }, workers)


def connect(proxy, user, password, sslmode="disable"):
    return psycopg2.connect(host="127.0.0.1", port=proxy.pg_port, user=user,
                            password=password, dbname=DATABASE, sslmode=sslmode)


@pytest.mark.parametrize("user, sslmode", [
    ("md5_app", "disable"), ("md5_app", "require"), ("stored_app", "disable"),
    ("clear_app", "require")])
def test_who_has_the_password_gets_in(proxy, user, sslmode):
    with connect(proxy, user, PASSWORD, sslmode) as c, c.cursor() as cur:
        cur.execute("SELECT own_organization() IS NOT NULL")
        assert cur.fetchone() == (True,)
    for wrong in ("wrong", "", PASSWORD + " ", STORED):
        with pytest.raises(psycopg2.OperationalError) as e:
            connect(proxy, user, wrong, sslmode)
        if wrong:       # libpq keeps an empty one to itself
            assert "password authentication failed" in str(e.value)


def test_a_password_in_clear_is_asked_for_over_tls_only(proxy):
    with pytest.raises(psycopg2.OperationalError) as e:
        connect(proxy, "clear_app", PASSWORD)
    assert "SSL required" in str(e.value)


def test_an_answer_to_one_salt_opens_nothing_twice(proxy):
    """Replayed to another connection it is as wrong as any other."""
    answers = []
    for _ in range(2):
        wire = proxy.wire(login=False)
        wire.send(pgwire.startup("md5_app", DATABASE))
        kind, body = wire.message()
        assert (kind, body[:4]) == ("R", b"\0\0\0\5") and len(body) == 8
        inner = hashlib.md5((PASSWORD + "md5_app").encode()).hexdigest().encode()
        answers.append(b"md5" + hashlib.md5(inner + body[4:]).hexdigest().encode())
        wire.send(pgwire.message("p", answers[0] + b"\0"))
        kind, body = wire.message()
        assert kind == ("R" if len(answers) == 1 else "E")
    assert answers[0] != answers[1]


@pytest.mark.parametrize("tail", [b"", b"\0\0", b"\0x"])
def test_a_password_message_of_another_form_is_refused(proxy, tail):
    wire = proxy.wire(login=False)
    wire.send(pgwire.startup("md5_app", DATABASE))
    wire.message()
    wire.send(pgwire.message("p", b"md5" + b"0" * 32 + tail))
    kind, body = wire.message()
    assert kind == "E" and pgwire.error(body)["C"] in ("28P01", "08P01")


# Who is there and who is not.


def salt_shown_to(proxy, user):
    """What a SCRAM client is shown of a user, without the nonce."""
    wire = proxy.wire(login=False)
    wire.send(pgwire.startup(user, DATABASE))
    kind, body = wire.message()
    assert (kind, body[:4]) == ("R", b"\0\0\0\x0a")
    first = b"n,,n=,r=abcdefgh"
    wire.send(pgwire.message("p", b"SCRAM-SHA-256\0", pgwire.I32.pack(len(first)), first))
    kind, body = wire.message()
    assert (kind, body[:4]) == ("R", b"\0\0\0\x0b")
    wire.close()
    return body[4:].split(b",", 1)[1]


def can_log_in(proxy, user, password):
    try:
        proxy.wire(login=False).login(user, DATABASE, password)
    except pgwire.Failed as e:
        assert e.code == "28P01"
        return False
    return True


def test_a_salt_stays_the_same_over_a_reload_whoevers_it_is(proxy):
    names = ["acme_app", "nobody", "nobody.acme", "later"]
    before = [salt_shown_to(proxy, name) for name in names]
    assert len(set(before)) == 3 and before[1] == before[2]
    proxy.reload({"user later": {"password": PASSWORD}})
    wait_for(lambda: can_log_in(proxy, "later", PASSWORD), 10, "the user is not there")
    assert [salt_shown_to(proxy, name) for name in names] == before
    proxy.reload({"user later": None})
    wait_for(lambda: not can_log_in(proxy, "later", PASSWORD), 10, "the user is still there")
    assert [salt_shown_to(proxy, name) for name in names] == before


def transcript(proxy, user, tls):
    """All that a client with a wrong password gets, and how long it takes."""
    wire = proxy.wire(login=False, tls=tls)
    wire.send(pgwire.startup(user, DATABASE))
    kind, body = wire.message()
    reply = [(kind, body[:4] if body[:4] == b"\0\0\0\5" else body)]
    if body[:4] == b"\0\0\0\x0a":
        first = b"n,,n=,r=abcdefgh"
        wire.send(pgwire.message("p", b"SCRAM-SHA-256\0",
                                 pgwire.I32.pack(len(first)), first))
        kind, body = wire.message()
        nonce = body[4:].split(b",")[0]
        reply.append((kind, len(body)))
        answer = b"c=biws," + nonce + b",p=" + b"A" * 43 + b"="
    else:
        answer = b"md5" + b"0" * 32 + b"\0"
    asked = time.monotonic()
    if kind != "E":
        wire.send(pgwire.message("p", answer))
    return reply + wire.until_closed(), time.monotonic() - asked


NO_ORDINARY_USERS = {"user " + name: None for name in (
    "acme_app", "beta_app", "plain_app", "default")}


@pytest.mark.parametrize("auth, secret, tls", [
    ("scram-sha-256", PASSWORD, False), ("md5", PASSWORD, False),
    ("md5", "md5" + "0" * 31 + "1", False), ("plain", PASSWORD, True),
    ("plain", PASSWORD, False)])
def test_who_is_not_there_looks_like_who_is(weir, auth, secret, tls):
    proxy = weir(dict(NO_ORDINARY_USERS, **{"user somebody": {
        "auth": auth, "password": secret}}))
    known, after_known = transcript(proxy, "somebody", tls)
    unknown, after_unknown = transcript(proxy, "nobody", tls)
    assert known == unknown
    if auth != "plain" or tls:
        assert pgwire.errors(known[-1:])[0]["C"] == "28P01"
        # PBKDF2 and queues are far below what both of them wait.
        assert after_known > 0.09 and after_unknown > 0.09
    else:
        assert pgwire.errors(known)[0]["C"] == "28000"


def test_a_first_log_in_needs_no_earlier_one(weir):
    """The keys of a password are made when they are wanted, for many at once."""
    proxy = weir(workers=2)
    wires = [proxy.wire(login=False) for _ in range(20)]
    for wire in wires:
        wire.send(pgwire.startup("acme_app", DATABASE))
    for wire in wires:
        wire.authenticate("acme_app", "acme-secret")
    for wire in wires:
        assert wire.value("SELECT own_organization() IS NOT NULL") == "t"


def test_who_leaves_while_its_proof_is_judged_harms_nobody(weir):
    proxy = weir(workers=1)
    for i in range(10):
        wire = proxy.wire(login=False)
        wire.send(pgwire.startup("acme_app", DATABASE))
        wire.message()
        first = b"n,,n=,r=abcdefgh"
        wire.send(pgwire.message("p", b"SCRAM-SHA-256\0",
                                 pgwire.I32.pack(len(first)), first))
        wire.close()
    assert proxy.wire("acme_app").value("SELECT 1") == "1"


# A list of users.


def verifier(password, salt=b"sixteen bytes...", rounds=4096):
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client = hmac.digest(salted, b"Client Key", "sha256")
    return "SCRAM-SHA-256$%d:%s$%s:%s" % (rounds, *(base64.b64encode(b).decode() for b in (
        salt, hashlib.sha256(client).digest(), hmac.digest(salted, b"Server Key", "sha256"))))


def write_list(path, users):
    with open(path, "w") as f:
        for name, secret in users.items():
            f.write('"%s" "%s"\n' % (name, secret.replace('"', '""')))
    os.chmod(path, 0o600)


def test_who_is_listed_gets_in_without_a_section(weir, tmp_path):
    listed = str(tmp_path / "userlist.txt")
    quoted = PASSWORD + ' "x" ; #'
    users = {"plain_one": quoted, "scram_one": verifier(PASSWORD),
             "hash_one": "md5" + hashlib.md5((PASSWORD + "hash_one").encode()).hexdigest(),
             "sectioned": PASSWORD}
    write_list(listed, users)
    proxy = weir({"auth": {"userlist_file": listed}, "user sectioned": {
        "organization": "acme"}}, workers=2)
    for name in users:
        password = quoted if name == "plain_one" else PASSWORD
        for sslmode in ("disable", "require"):
            with connect(proxy, name, password, sslmode) as c, c.cursor() as cur:
                cur.execute("SELECT own_organization() IS NOT NULL")
                assert cur.fetchone() == (name == "sectioned",)
        with pytest.raises(psycopg2.OperationalError) as e:
            connect(proxy, name, users[name] if password == PASSWORD != users[name] else "x")
        assert "password authentication failed" in str(e.value)
    # Read again on reload; a list with an error changes nothing.
    write_list(listed, {"late_one": PASSWORD, "sectioned": PASSWORD})
    proxy.reload()
    wait_for(lambda: can_log_in(proxy, "late_one", PASSWORD), 10, "not there")
    with open(listed, "a") as f:
        f.write("broken\n")
    proxy.reload()
    assert any("userlist.txt:3: " in e.get("error", "") for e in proxy.events("config"))
    assert can_log_in(proxy, "late_one", PASSWORD)


def test_ten_thousand_passwords_load_at_once(weir, tmp_path):
    """Their verifiers, two milliseconds each, are made when they are asked for."""
    listed = str(tmp_path / "userlist.txt")
    write_list(listed, {"user%d" % i: PASSWORD + str(i) for i in range(10000)})
    started = time.monotonic()
    proxy = weir({"auth": {"userlist_file": listed}})
    assert time.monotonic() - started < scaled(10)      # and not twenty
    for i in (0, 4711, 9999):
        connect(proxy, "user%d" % i, PASSWORD + str(i)).close()
