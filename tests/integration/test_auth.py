"""Ways to log in besides SCRAM: md5, plain.

Goal: who has the password gets in by each of them, who has not does not, and
a password is never asked for in clear where others can listen.
Method: real drivers (libpq), and the wire where a driver would help too much.
"""
import hashlib

import psycopg2
import pytest

import pgwire
from servers import DATABASE

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
