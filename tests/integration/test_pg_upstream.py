"""
Goal:   what goes wrong behind weir is said clearly in front of it, costs no
        more than it must, and is over when it is over.
Method: a weir per test, often with a relay between it and PostgreSQL that
        refuses, stalls or cuts; and PostgreSQL's own view of who is connected.
"""
import threading
import time

import pytest

import pgwire
import servers
from pgwire import errors, extended, kinds, query, status
from servers import UPSTREAM_USER, free_port, scaled, wait_for

pytestmark = pytest.mark.weir_only


def refusal(weir, user="acme_app"):
    """The error a client gets: at login, or for its first query."""
    with pytest.raises(pgwire.Failed) as e:
        with weir.wire(user) as wire:
            wire.rows(query("SELECT 1"))
    return e.value


def works(weir):
    try:
        with weir.wire("acme_app", timeout=5) as wire:
            return wire.value("SELECT 'works'") == "works"
    except (pgwire.Failed, pgwire.Closed, OSError):
        return False


def upstream(**keys):
    return {"postgres main": keys}


# TLS towards PostgreSQL.


IS_TLS = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.mark.parametrize("mode, tls", [
    ("disable", "f"), ("allow", "ft"), ("prefer", "t"), ("require", "t"),
    ("verify-ca", "t"), ("verify-full", "t")])
def test_each_sslmode_uses_tls_as_it_should(weir, workers, authority, mode, tls):
    w = weir(upstream(sslmode=mode, host="localhost", sslrootcert=authority.crt), workers)
    wire = w.wire()
    assert wire.value(IS_TLS) in tls
    assert wire.value("SELECT repeat('x', 200000)") == "x" * 200000


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_certificate_of_an_unknown_authority_is_refused(weir, folder, mode):
    stranger = servers.Authority(folder, "stranger")
    w = weir(upstream(sslmode=mode, host="localhost", sslrootcert=stranger.crt))
    e = refusal(w)
    assert e.code == "08006" and "certificate" in e.text.lower()
    assert any("certificate" in x["line"] for x in w.event("upstream-down"))


def test_verify_full_wants_the_name_and_verify_ca_does_not(weir, authority):
    keys = dict(host="127.0.0.2", sslrootcert=authority.crt)
    assert works(weir(upstream(sslmode="verify-ca", **keys)))
    e = refusal(weir(upstream(sslmode="verify-full", **keys)))
    assert e.code == "08006"


def test_require_refuses_a_server_without_tls_and_prefer_does_not(weir, pg, relay):
    line = relay(pg.port)
    line.refuse_tls = True
    assert works(weir(upstream(sslmode="prefer", port=line.port)))
    e = refusal(weir(upstream(sslmode="require", port=line.port)))
    assert e.code == "08006" and ("TLS" in e.text or "SSL" in e.text)


# Logging in to PostgreSQL.


def test_a_password_goes_in_clear_over_tls_only(weir, authority):
    keys = dict(user="clear_role", password="clear-secret")
    w = weir(upstream(sslmode="require", **keys))
    assert w.wire().value("SELECT current_user") == "clear_role"
    e = refusal(weir(upstream(sslmode="disable", **keys)))
    assert e.code == "08006"


def test_a_server_that_asks_for_no_password_is_fine(weir):
    w = weir(upstream(user="trust_role", password=None))
    assert w.wire().value("SELECT current_user") == "trust_role"


def test_a_wrong_upstream_password_is_told_with_the_servers_words(weir):
    w = weir(upstream(password="wrong"))
    e = refusal(w)
    assert e.code.startswith(("08", "28")) and UPSTREAM_USER in e.text
    assert "wrong" not in "\n".join(w.log())
    down = w.event("upstream-down")
    assert len(down) == 1 and "password authentication failed" in down[0]["line"]


def test_an_unix_socket_is_an_upstream_too(weir, pg):
    w = weir(upstream(host=pg.folder))
    assert w.wire().value("SELECT inet_client_addr() IS NULL") == "t"


# Down, and up again.


def test_an_upstream_down_at_start_is_told_and_then_found(weir, workers, pg, relay):
    line = relay(pg.port, started=False)
    w = weir(upstream(port=line.port), workers)
    for _ in range(3):
        e = refusal(w)
        assert e.code == "08006"
        assert "refused" in e.text.lower()
    assert w.event("upstream-down")
    line.start()
    wait_for(lambda: works(w), what="weir did not find the upstream again", every=0.2)
    assert w.event("upstream-up")


def test_a_name_that_does_not_resolve_is_told(weir):
    """In server_connect_timeout, even where the name server does not answer."""
    e = refusal(weir({"postgres main": {"host": "no-such-host.invalid"},
                      "weir": {"server_connect_timeout": 2}}))
    assert e.code == "08006"
    assert "no-such-host.invalid" in e.text or "server_connect_timeout" in e.text


def test_a_login_failure_is_not_repeated_before_server_login_retry(
        weir, workers, pg, relay):
    line = relay(pg.port)
    line.refuse_tls = True
    w = weir({"postgres main": {"port": line.port, "sslmode": "require"},
              "weir": {"server_login_retry": 2}}, workers)
    start = time.monotonic()
    while time.monotonic() - start < 1.2:
        threads = [threading.Thread(target=works, args=[w]) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    # Three at once may be in flight when the first of them fails, and each
    # worker finds out by itself.
    assert 1 <= line.accepted <= 4 * workers


def test_server_connect_timeout_ends_a_silent_dial(weir, workers, pg, relay):
    line = relay(pg.port)
    line.stalled = True
    w = weir({"postgres main": {"port": line.port},
              "weir": {"server_connect_timeout": 1}}, workers)
    start = time.monotonic()
    e = refusal(w)
    assert e.code == "08006" and "server_connect_timeout" in e.text
    assert 0.8 < time.monotonic() - start < scaled(15)
    line.stalled = False
    wait_for(lambda: works(w), 6, "weir did not come back", every=0.2)


def test_a_client_that_waits_is_served_when_the_upstream_is_back(weir, pg, relay):
    """The line is cut under every idle server; nobody who comes later notices."""
    line = relay(pg.port)
    w = weir(upstream(port=line.port))
    clients = [w.wire() for _ in range(6)]
    assert {c.value("SELECT 1") for c in clients} == {"1"}
    line.cut()
    wait_for(lambda: w.metric("servers", "postgres") == 0, what="it is not noticed")
    assert {c.value("SELECT 2") for c in clients} == {"2"}


# Servers that die.


def kill_backends(pg):
    pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
           " WHERE usename = %s", [UPSTREAM_USER])
    wait_for(lambda: not pg.backends(), 5, "backends did not end")


def test_an_idle_server_that_dies_is_not_noticed_by_any_client(weir, workers, pg):
    w = weir({}, workers)
    clients = [w.wire() for _ in range(6)]
    for turn in range(3):
        for c in clients:
            assert c.value("SELECT %d" % turn) == str(turn)
        kill_backends(pg)
        time.sleep(0.1)     # or the news is still on its way


def lost(wire, *parts):
    """What a client hears when its server dies: (error, is it still usable)."""
    try:
        wire.send(*parts)
        reply = []
        while not any(k == "E" for k, _ in reply):
            reply.append(wire.message(reply))
    except pgwire.Closed as e:
        reply = e.reply
        assert errors(reply), "closed without a word"
        return errors(reply)[0], False
    except (BrokenPipeError, ConnectionResetError):
        raise AssertionError("closed without a word")
    try:
        wire.until("Z")
        return errors(reply)[0], True
    except pgwire.Closed:
        return errors(reply)[0], False


@pytest.mark.parametrize("when", ["in a transaction", "in a query"])
def test_a_server_that_dies_in_use_is_told_and_nothing_is_repeated(
        weir, workers, pg, when):
    pg.run("DROP TABLE IF EXISTS scratch.once")
    pg.run("CREATE TABLE scratch.once (x int)")
    pg.run("GRANT ALL ON scratch.once TO PUBLIC")
    w = weir({}, workers)
    wire, other = w.wire(), w.wire("beta_app")
    insert = query("INSERT INTO scratch.once VALUES (1)")
    if when == "in a transaction":
        wire.run(query("BEGIN"))
        wire.run(insert)
        kill_backends(pg)
        error, usable = lost(wire, insert)
    else:
        def kill():
            wait_for(lambda: pg.run("SELECT 1 FROM pg_stat_activity WHERE state = 'active'"
                                    " AND wait_event = 'PgSleep'"), what="it is not at work")
            kill_backends(pg)
        killer = threading.Thread(target=kill)
        killer.start()
        error, usable = lost(wire, query(
            "INSERT INTO scratch.once SELECT 1 FROM pg_sleep(20)"))
        killer.join()
    assert error["C"] in ("08006", "57P01")     # 57P01 is the server's own word
    if usable:
        assert status(wire.run(pgwire.sync())) == "I"
    assert other.rows(query("SELECT count(*) FROM scratch.once")) == [["0"]]


def test_all_servers_die_under_load_and_each_client_knows(weir, workers, pg):
    """Each insert that was acknowledged is there once; no other more than once."""
    pg.run("DROP TABLE IF EXISTS scratch.once")
    pg.run("CREATE TABLE scratch.once (x int)")
    pg.run("GRANT ALL ON scratch.once TO PUBLIC")
    w = weir({}, workers)
    done, tried, over = [], [], threading.Event()

    def work(n):
        wire = None
        while not over.is_set():
            n += 100
            tried.append(n)
            try:
                wire = wire or w.wire()
                wire.rows(extended("INSERT INTO scratch.once VALUES ($1::int)", [n]))
                done.append(n)
            except (pgwire.Failed, pgwire.Closed, OSError):
                wire = None
    threads = [threading.Thread(target=work, args=[n]) for n in range(12)]
    for t in threads:
        t.start()
    for _ in range(10):
        time.sleep(0.15)
        pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
               " WHERE usename = %s", [UPSTREAM_USER])
    wait_for(lambda: len(done) > 100, what="not much is done")
    over.set()
    for t in threads:
        t.join()
    there = [x for x, in pg.run("SELECT x FROM scratch.once")]
    assert len(there) == len(set(there))
    assert set(done) <= set(there) <= set(tried)
    # The last to be killed may have been at its log-in: then there is a pause.
    wait_for(lambda: works(w), what="nobody is served any more")


# Time.


def test_server_lifetime_replaces_a_server_but_not_in_a_transaction(weir, workers):
    w = weir({"weir": {"server_lifetime": 1}, "postgres main": {"pool_size": 1}}, workers)
    wire = w.wire()
    first = wire.value("SELECT pg_backend_pid()")
    wire.run(query("BEGIN"))
    assert wire.value("SELECT pg_backend_pid()") == first
    time.sleep(1.6)
    assert wire.value("SELECT pg_backend_pid()") == first
    wire.run(query("COMMIT"))
    wait_for(lambda: wire.value("SELECT pg_backend_pid()") != first, 5,
             "the server outlived server_lifetime", every=0.2)


def test_server_idle_timeout_closes_what_nobody_uses(weir, workers, pg):
    w = weir({"weir": {"server_idle_timeout": 1}}, workers)
    wait_for(lambda: not pg.backends(), 5, "another weir's servers")
    clients = [w.wire() for _ in range(3)]
    for c in clients:
        c.send(query("SELECT pg_sleep(0.2)"))
    wait_for(lambda: 1 <= len(pg.backends()) <= 3, what="no servers")
    for c in clients:
        c.until("Z")
    wait_for(lambda: not pg.backends(), 6, "idle servers stay")
    assert clients[0].value("SELECT 1") == "1"


def test_query_wait_timeout_is_an_error_in_time(weir, workers):
    w = weir({"weir": {"query_wait_timeout": 1}, "postgres main": {"pool_size": 1}},
             workers)
    busy, waiting = w.wire(), w.wire("beta_app")
    busy.run(query("BEGIN"))
    busy.run(query("SELECT 1"))
    start = time.monotonic()
    waiting.send(query("SELECT 1"))
    reply = waiting.until("EZ")
    assert 0.9 < time.monotonic() - start < scaled(15)
    error = errors(reply)[0]
    assert error["C"] == "53300" and "query_wait_timeout" in error["M"]
    assert kinds(busy.run(query("COMMIT"))) == "CZ"
    assert works(w)


def test_waiters_are_served_in_the_order_they_came(weir):
    w = weir(upstream(pool_size=1))
    busy, order = w.wire(), []
    busy.run(query("BEGIN"))
    busy.run(query("SELECT 1"))
    clients = [w.wire() for _ in range(8)]

    def ask(n):
        order.append((int(clients[n].value("SELECT txid_current()")), n))
    threads = []
    for n in range(8):
        threads.append(threading.Thread(target=ask, args=[n]))
        threads[-1].start()
        wait_for(lambda: w.metric("clients_waiting", "postgres") == n + 1, 5,
                 "clients_waiting")
    busy.run(query("COMMIT"))
    for t in threads:
        t.join()
    # As the server saw them: threads that wake may overtake each other.
    assert [n for _, n in sorted(order)] == list(range(8))


def test_client_login_timeout_ends_who_does_not_log_in(weir, workers):
    w = weir({"weir": {"client_login_timeout": 2}}, workers)
    silent, half, waiting = (w.wire(login=False) for _ in range(3))
    half.send(pgwire.startup("acme_app", "x")[:10])
    waiting.send(pgwire.startup("acme_app", "x"))
    start = time.monotonic()
    for wire in (silent, half, waiting):
        wire.until_closed()
    assert 0.5 < time.monotonic() - start < scaled(15)
    in_time = w.wire()
    time.sleep(2.5)
    assert in_time.value("SELECT 1") == "1"


@pytest.mark.parametrize("key, seconds, setup, sqlstate", [
    ("idle_transaction_timeout", 1, "BEGIN", ("25P03",)),
    ("client_idle_timeout", 1, "SELECT 1", ("57P05",)),
    ("query_timeout", 1, "SELECT pg_sleep(10)", ("57014", "08006"))])
def test_the_other_timeouts_end_the_client_with_their_name(
        weir, key, seconds, setup, sqlstate):
    w = weir({"weir": {key: seconds}})
    wire = w.wire()
    start = time.monotonic()
    wire.send(query(setup))
    reply = wire.until_closed()
    assert 0.8 < time.monotonic() - start < scaled(15)
    assert errors(reply)[0]["C"] in sqlstate and key in errors(reply)[0]["M"]
    wait_for(lambda: works(w), what="nobody else is served")


# Many upstreams, many pools.


def test_pools_are_per_database_and_each_has_its_own_size(weir, workers, pg):
    w = weir({"postgres main": {"pool_size": 2},
              "database other": {"postgres": "main", "dbname": "postgres"}}, workers)
    wires = [w.wire() for _ in range(6)] + [w.wire(database="other") for _ in range(6)]
    for wire in wires:
        wire.send(query("SELECT pg_sleep(0.1), current_database()"))

    def there():
        rows = pg.run("SELECT datname, count(*) FROM pg_stat_activity"
                      " WHERE usename = %s GROUP BY 1", [UPSTREAM_USER])
        return len(rows) == 2 and rows
    most = wait_for(there, what="not two databases")
    for n, wire in enumerate(wires):
        name = pgwire.rows(wire.until("Z"))[0][1]
        assert name == (servers.DATABASE if n < 6 else "postgres")
    assert all(n <= 2 for _, n in most + there())


def test_an_organization_may_have_its_own_upstream(weir, workers, pg):
    w = weir({"postgres second": {
                "host": "127.0.0.1", "port": pg.port, "user": "trust_role",
                "sslmode": "disable", "pool_size": 2, "health_check": "passive"},
              "organization beta": {"postgres": "second"}}, workers)
    for _ in range(3):
        assert w.wire("acme_app").value("SELECT current_user") == UPSTREAM_USER
        assert w.wire("beta_app").value("SELECT current_user") == "trust_role"


def test_one_dead_upstream_does_not_disturb_another(weir, workers):
    w = weir({"postgres dead": {"host": "127.0.0.1", "port": free_port(),
                                "user": "x", "sslmode": "disable"},
              "organization beta": {"postgres": "dead"}}, workers)
    for _ in range(3):
        assert refusal(w, "beta_app").code == "08006"
        assert works(w)


def test_the_upstream_password_is_never_logged(weir):
    w = weir({"weir": {"log_level": "debug"}})
    assert works(w)
    assert w.event("login") and w.event("server-open")
    said = "\n".join(w.log())
    for secret in (servers.UPSTREAM_PASSWORD, servers.USERS["acme_app"][1],
                   servers.REDIS_PASSWORD):
        assert secret not in said
