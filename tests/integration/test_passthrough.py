"""Logging in upstream with a client's own keys.

Goal: where weir holds nothing but a verifier, what a client proves to weir is
proof enough for a server that holds the same verifier, and for no other.
Method: roles whose verifiers are made here, of any salt and any number of
rounds, and a weir whose upstream has no user and no password of its own.
"""
import base64
import hashlib
import hmac
import os

import pytest

import pgwire
from servers import DATABASE, wait_for

pytestmark = pytest.mark.weir_only

PASSWORD = "known to the client alone, and to nobody between"


def verifier(password, salt=b"0123456789abcdef", rounds=4096):
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client = hmac.digest(salted, b"Client Key", "sha256")
    b64 = lambda b: base64.b64encode(b).decode()            # noqa: E731
    return "SCRAM-SHA-256$%d:%s$%s:%s" % (
        rounds, b64(salt), b64(hashlib.sha256(client).digest()),
        b64(hmac.digest(salted, b"Server Key", "sha256")))


@pytest.fixture
def role(pg):
    """role(stored): a role of that rolpassword, gone after the test."""
    made = []

    def make(stored):
        name = "own_%d_%d" % (os.getpid(), len(made))
        pg.run("CREATE ROLE %s LOGIN PASSWORD %%s" % name, [stored])
        made.append(name)
        return name
    yield make
    for name in made:
        pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
               "WHERE usename = %s", [name])
        pg.run("DROP ROLE " + name)


def config(users, **upstream):
    return {"postgres main": {"user": None, "password": None, **upstream},
            **{"user " + name: {"password": stored} for name, stored in users.items()}}


def enter(w, user, password=PASSWORD, **more):
    wire = w.wire(user, login=False, **more)
    wire.login(user, DATABASE, password)
    return wire


@pytest.mark.parametrize("salt, rounds", [
    (b"0123456789abcdef", 4096), (b"x", 1), (bytes(range(200)), 999), (b"s" * 32, 20000)])
def test_a_server_with_the_same_verifier_takes_the_clients_keys(
        weir, workers, role, salt, rounds):
    stored = verifier(PASSWORD, salt, rounds)
    name = role(stored)
    w = weir(config({name: stored}), workers)
    wires = [enter(w, name) for _ in range(6)]
    for wire in wires:
        assert wire.value("SELECT current_user") == name
    with pytest.raises(pgwire.Failed) as e:
        enter(w, name, PASSWORD + "?")
    assert e.value.fields["C"] == "28P01"


def test_the_keys_are_good_over_tls_and_for_channel_binding(weir, workers, role, authority):
    stored = verifier(PASSWORD)
    name = role(stored)
    w = weir(config({name: stored}, sslmode="verify-full", host="localhost",
                    sslrootcert=authority.crt), workers)
    for tls in (False, True):
        wire = enter(w, name, tls=tls)
        assert wire.value("SELECT ssl FROM pg_stat_ssl "
                          "WHERE pid = pg_backend_pid()") == "t"


@pytest.mark.parametrize("theirs", [
    verifier(PASSWORD, b"another salt"), verifier(PASSWORD, rounds=4097),
    verifier("another password")])
def test_a_server_with_another_verifier_refuses_and_that_is_all(weir, role, pg, theirs):
    ours = verifier(PASSWORD)
    name = role(theirs)
    w = weir(config({name: ours}))
    for _ in range(3):
        with pytest.raises(pgwire.Failed) as e:
            enter(w, name)
        assert e.value.fields["C"] in ("28P01", "08006"), e.value.fields
    # No loop: one attempt, or one more after the first wait of 250 ms.
    assert w.metric("server_failed_total") <= 3
    # The right verifier and the next client, and all is well at once.
    pg.run("ALTER ROLE %s PASSWORD %%s" % name, [ours])
    wait_for(lambda: logs_in(w, name), 5, "the keys were never taken")


def logs_in(w, name, password=PASSWORD):
    try:
        return enter(w, name, password).value("SELECT current_user") == name
    except pgwire.Failed:
        return False


def test_the_next_client_brings_new_keys(weir, workers, role, pg):
    one, two = verifier(PASSWORD), verifier("the next", b"with its own salt")
    name = role(one)
    w = weir(config({name: one}), workers)
    assert logs_in(w, name)
    pg.run("ALTER ROLE %s PASSWORD %%s" % name, [two])
    w.hang_up()
    w.reload({"user " + name: {"password": two}})
    pg.run("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
           " WHERE usename = %s", [name])
    wait_for(lambda: logs_in(w, name, "the next"), 10, "the new keys were never taken")
    assert not logs_in(w, name)


def test_a_password_corrected_by_a_reload_is_used(weir, workers, role):
    """Servers ask with the same salt still: the old one's keys must be gone."""
    name = role(verifier(PASSWORD))
    w = weir(config({name: "not what the server knows"}), workers)
    with pytest.raises(pgwire.Failed):
        enter(w, name, "not what the server knows")
    w.reload({"user " + name: {"password": PASSWORD}})
    wait_for(lambda: logs_in(w, name), 10, "the corrected password is not used")


def test_an_upstream_of_its_own_user_is_given_no_keys(weir, workers, role, pg):
    """A client's keys are for the client's own log-in, never for another's."""
    stored = verifier(PASSWORD)
    name, other = role(stored), role(stored)
    w = weir(config({name: stored}, user=other), workers)
    with pytest.raises(pgwire.Failed) as e:
        enter(w, name)
    assert "no password is configured" in e.value.fields["M"]
    assert not pg.backends(other)
