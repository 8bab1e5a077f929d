"""Login storms: what a password costs is shared out fairly.

Goal: however many clients of one organization log in at once, one of another
waits for a log-in of theirs and not for all of them; a user's password is
worked on once; and what waits is bounded.
Method: weir is stopped while a storm of first SCRAM messages is sent to it, so
that it finds them all at once.  It counts itself how many log-ins were taken
up while one waited (event=auth passed=, at log_level = debug): no clock is
asked, only the order.
"""

import pytest

import pgwire
from servers import DATABASE, ORGANIZATIONS, USERS, wait_for

pytestmark = pytest.mark.weir_only

STORM = 300
PASSWORD = "the password of one of a storm"
REFUSED = 'weir_client_limit_refused_total{limit="logins"}'


def many_users(n):
    return {"user u%d" % i: {"password": PASSWORD, "organization": "acme"}
            for i in range(n)}


def first_message(wire):
    wire.nonce = "rOprNGfwEbeRWgbNEkqO"
    text = b"n,,n=,r=" + wire.nonce.encode()
    return pgwire.message("p", pgwire.cstr("SCRAM-SHA-256"),
                          pgwire.I32.pack(len(text)), text)


def storm(w, users):
    """All of them ask at once, in this order: (user, wire) of each."""
    clients = [(user, w.wire(login=False)) for user in users]
    for user, wire in clients:
        wire.send(pgwire.startup(user, DATABASE))
    for user, wire in clients:
        assert wire.message()[0] == "R"
    with w.stopped():
        for user, wire in clients:
            wire.send(first_message(wire))
    return clients


def passed(w, n):
    """{user: log-ins taken up while its own waited}, once there are n."""
    def told():
        lines = [e for e in w.events("auth") if "passed" in e]
        return lines if len(lines) >= n else None
    return {e["user"]: int(e["passed"]) for e in wait_for(told, 30)}


@pytest.mark.parametrize("workers", [1, 4])
def test_a_storm_of_one_organization_is_one_log_in_to_another(weir, workers):
    w = weir(dict(many_users(STORM), weir={"log_level": "debug"}), workers)
    users = ["u%d" % i for i in range(STORM)] + ["beta_app"]
    clients = storm(w, users)
    others = passed(w, len(users))
    beta = others.pop("beta_app")
    assert max(others.values()) >= 5, "there was no storm"
    assert beta <= 1
    clients[-1][1].authenticate("beta_app", USERS["beta_app"][1])
    assert clients[-1][1].value("SELECT current_setting('app.current_organization_id')") \
        == ORGANIZATIONS["beta"]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_storm_of_one_user_costs_what_its_first_costs(weir, workers):
    w = weir({"weir": {"log_level": "debug"}}, workers)
    clients = storm(w, ["acme_app"] * STORM + ["beta_app"])
    for user, wire in clients[-20:]:
        wire.authenticate(user, USERS[user][1])
    assert passed(w, 1).get("beta_app", 0) <= 1
    # One for beta_app; two threads may begin with acme_app at the same time.
    assert 2 <= w.metric("login_hashes_total") <= 3
    assert w.metrics()[REFUSED] == 0


def test_who_waits_for_its_turn_is_bounded(weir):
    """16 of the 64 clients there may be.  They may be served as fast as they come
    where the machine is busy: then others come, whose passwords are not known."""
    tries, each = 10, 60
    w = weir(dict(many_users(tries * each),
                  weir={"log_level": "debug", "max_client_conn": 64}))
    for n in range(tries):
        clients = storm(w, ["u%d" % i for i in range(n * each, (n + 1) * each)]
                        + ["beta_app"])
        answers = [wire.message() for _, wire in clients[:-1]]
        refused = [pgwire.error(body)["C"] for kind, body in answers if kind == "E"]
        if refused:
            break
        w.hang_up()
        w.settled()
    assert set(refused) == {"53300"}
    assert 16 < len(clients) - len(refused)
    assert w.metrics()[REFUSED] == len(refused)
    clients[-1][1].authenticate("beta_app", USERS["beta_app"][1])
    assert {e["why"] for e in w.events("refuse") if e["proto"] == "postgres"} == \
        {"LOGINS_FULL"}
    w.hang_up()
    w.settled()
    wire = w.wire(login=False)
    wire.login("u%d" % (tries * each - 1), DATABASE, PASSWORD)
    assert wire.value("SELECT 1") == "1"
