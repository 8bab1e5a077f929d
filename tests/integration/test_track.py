"""
Goal:   what a session sets is its own on every server it is given, and nobody
        else's: without a server of its own, as long as it can be repeated.
Method: two sessions on one server, so that each finds what the other left, and
        servers taken away under them; a direct connection says what is right.
"""
import random
import select
import socket

import pytest

import pgwire
from pgwire import bind, errors, execute, extended, kinds, parse, query, rows, sync
from servers import DATABASE, UPSTREAM_PASSWORD, UPSTREAM_USER, wait_for

USER = "plain_app"


GOLD = "cccccccc-0000-4000-8000-000000000003"
CONFIG = {"weir": {"track_settings": "on"},
          "organization gamma": {"id": GOLD, "var.app.plan": "gold",
                                 "var.search_path": "gamma_s"},
          "user svc": {"auth": "trust", "organizations": "*"}}


def direct(pg, **options):
    wire = pgwire.Wire(pg.port)
    wire.login(UPSTREAM_USER, DATABASE, UPSTREAM_PASSWORD, **options)
    return wire


def setting(wire, name):
    return wire.value("SELECT current_setting('%s', true)" % name)


def new_server(pg, wire):
    """The pool's only server is another one from here on."""
    pid = wire.value("SELECT pg_backend_pid()")
    pg.run("SELECT pg_terminate_backend(%s, 5000)" % pid)


def simple(sql):
    return query(sql)


def named(sql):
    return parse(sql, "setter") + bind(name="setter") + execute() + sync()


SETS = [    # text, what is set by it, to what
    ("SET work_mem = '3MB'", "work_mem", "3MB"),
    ("set session Work_Mem to '3072kB'", "work_mem", "3MB"),
    ("SET search_path TO scratch, \"$user\", 'odd, name'", "search_path",
     'scratch, "$user", "odd, name"'),
    ("SET TIME ZONE 'Asia/Tokyo'", "timezone", "Asia/Tokyo"),
    ("SET TimeZone = 'Asia/Tokyo'", "timezone", "Asia/Tokyo"),
    ("SET time zone interval '-08:30' hour to minute", "timezone", "<-08:30>+08:30"),
    ("SET NAMES 'latin1'", "client_encoding", "LATIN1"),
    ("SET DateStyle = 'SQL, DMY'", "datestyle", "SQL, DMY"),
    ("SET extra_float_digits = 0", "extra_float_digits", "0"),
    ("SET statement_timeout = 30000", "statement_timeout", "30s"),
    ("SET application_name TO 'it''s mine'", "application_name", "it's mine"),
    ("SET \"app\".\"Locale\" = 'de'", "app.locale", "de"),
    ("SET app.empty = 'x'; SET app.empty = ''", "app.empty", ""),
    ("SELECT set_config('work_mem', '3MB', false)", "work_mem", "3MB"),
    ("SELECT 1, pg_catalog.set_config('app.locale', 'd' || 'e', false) FROM pg_class LIMIT 1",
     "app.locale", "de"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
     "default_transaction_isolation", "serializable"),
    ("SET client_min_messages = warning; SET standard_conforming_strings = on;"
     " SET intervalstyle = iso_8601", "intervalstyle", "iso_8601"),
    ("BEGIN; SET work_mem = '3MB'; COMMIT", "work_mem", "3MB"),
]


@pytest.mark.parametrize("send", [simple, extended, named], ids=lambda f: f.__name__)
@pytest.mark.parametrize("sql, name, value", SETS, ids=[s[0] for s in SETS])
def test_what_is_set_goes_along_and_reaches_nobody_else(one_server, pg, sql, name, value, send):
    if send is not simple and ";" in sql:
        pytest.skip("one statement at a time")
    pins = one_server.metric("pins_total")
    with one_server.wire(USER) as mine, one_server.wire(USER) as other:
        before = setting(other, name)
        assert not errors(mine.run(send(sql)))
        assert setting(other, name) in (before, "")
        assert setting(mine, name) == value
        assert setting(other, name) in (before, "")
        new_server(pg, other)
        assert setting(mine, name) == value
        mine.run(query("RESET " + name))
        assert setting(mine, name) in (before, "")
        assert setting(other, name) in (before, "")
    assert one_server.metric("pins_total") == pins


def test_to_set_what_is_set_already_asks_for_no_more_than_what_it_is(one_server):
    """Sessions that set the same share a server at no cost."""
    with one_server.wire(USER) as a, one_server.wire(USER) as b:
        for wire in (a, b):
            wire.run(query("SET work_mem = '3MB'"))
        a.value("SELECT 1")
        binds = one_server.metric("binds_total")
        asked = one_server.metric("settings_asked_total")
        for wire in (a, b) * 5:
            assert wire.value("SHOW work_mem") == "3MB"
        assert one_server.metric("binds_total") == binds
        assert one_server.metric("settings_asked_total") == asked


# One step each; a transaction is a list of them.
STEPS = ["SET work_mem = '%d MB'", "SET work_mem TO DEFAULT", "RESET work_mem", "RESET ALL",
         "SET app.track = 'v%d'", "RESET app.track", "SET LOCAL work_mem = '1%d MB'",
         "SELECT set_config('app.track', 'c%d', false)", "SET DateStyle = 'SQL, DMY'",
         "SELECT set_config('app.track', 'l%d', true)", "SET work_mem = 'nonsense'",
         "SET enable_seqscan = off; SET work_mem = '2%d MB'", "SET nothing_called_so = 1",
         "SET search_path = scratch", "SELECT 1"]
WATCHED = ["work_mem", "app.track", "datestyle", "enable_seqscan", "search_path"]
LOOK = "SELECT " + ", ".join("coalesce(current_setting('%s', true), '')" % n for n in WATCHED)


def script(rng):
    out = []
    for _ in range(rng.randint(2, 5)):
        steps = [rng.choice(STEPS) for _ in range(rng.randint(1, 4))]
        steps = [s % rng.randint(2, 9) if "%d" in s else s for s in steps]
        how = rng.choice(["alone", "alone", "block", "savepoint", "at once"])
        if how == "alone":
            out += steps
        elif how == "at once":
            out.append("; ".join(steps))
        else:
            out.append("BEGIN")
            for s in steps:
                if how == "savepoint":
                    out.append("SAVEPOINT s")
                out.append(s)
                if how == "savepoint" and rng.random() < 0.5:
                    out.append("ROLLBACK TO s")
            out.append(rng.choice(["COMMIT", "COMMIT", "ROLLBACK"]))
        if rng.random() < 0.2:
            out.append("DISCARD ALL")
    return out


@pytest.mark.parametrize("options", [{}, {"options": "-c work_mem=5MB -c app.track=start"}],
                         ids=["plain", "startup"])
def test_whatever_is_done_with_settings_a_session_has_those_of_a_direct_one(
        one_server, pg, options):
    rng = random.Random(20)
    pins = one_server.metric("pins_total")
    noise = one_server.wire(USER)
    plain = noise.rows(query(LOOK))
    for _ in range(25):
        steps = script(rng)
        with direct(pg, **options) as there, one_server.wire(USER, **options) as here:
            # A name that was set once is '' from then on, and there never was one.
            for wire in (there, here):
                wire.run(query("SELECT set_config('app.track', current_setting('app.track',"
                               " true), true)"))
            for step in steps:
                a, b = there.run(query(step)), here.run(query(step))
                assert kinds(a).replace("S", "") == kinds(b).replace("S", ""), (step, steps)
                assert a[-1] == b[-1], (step, steps)
                if b[-1][1] == b"I":
                    assert noise.rows(query(LOOK)) == plain, (step, steps)
                    assert here.rows(query(LOOK)) == there.rows(query(LOOK)), (step, steps)
    assert one_server.metric("pins_total") == pins


@pytest.mark.parametrize("options", [{}, {"TimeZone": "America/Lima"}], ids=["plain", "startup"])
def test_a_client_knows_its_parameters_as_on_a_direct_connection(one_server, pg, options):
    """Or at the next answer: what the server does not say is said behind it."""
    told = []
    noise = one_server.wire(USER)
    for wire in (direct(pg, **options), one_server.wire(USER, **options)):
        with wire:
            known, got = {}, []
            for sql in ("SET TimeZone = 'Asia/Tokyo'", "SET TimeZone TO 'Asia/Tokyo'",
                        "BEGIN; SET application_name = 'a'; COMMIT",
                        "BEGIN; SET application_name = 'b'; ROLLBACK",
                        "SET TimeZone TO DEFAULT", "SET TimeZone = 'Asia/Tokyo'",
                        "RESET TimeZone", "SET DateStyle = SQL", "RESET ALL",
                        "SET TimeZone = 'Asia/Tokyo'; SET TimeZone = 'Etc/UTC'", "DISCARD ALL"):
                noise.value("SELECT 1")
                for text in (sql, "SELECT 1"):
                    known.update(body.split(b"\0")[:2] for kind, body in wire.run(query(text))
                                 if kind == "S")
                got.append((sql, dict(known)))
                noise.value("SELECT 1")
            told.append(got)
    assert told[0] == told[1]
    assert not [1 for kind, _ in noise.run(query("SELECT 1")) if kind == "S"]


def test_requests_sent_behind_a_SET_are_answered_with_it(one_server):
    with one_server.wire(USER) as wire:
        noise = one_server.wire(USER)
        for n in range(2, 22):
            wire.send(query("SET work_mem = '%dMB'" % n) + query("SHOW work_mem")
                      + extended("SELECT current_setting('work_mem')"))
            assert kinds(wire.until("Z")) == "CZ"
            assert rows(wire.until("Z")) == [["%dMB" % n]]
            assert rows(wire.until("Z")) == [["%dMB" % n]]
            assert noise.value("SHOW work_mem") == "4MB"


def test_who_sets_something_and_leaves_leaves_nothing(one_server):
    noise = one_server.wire(USER)
    for n in range(20):
        wire = one_server.wire(USER)
        wire.send(query("SET work_mem = '%dMB'" % (n + 5)))
        if n % 2:
            wire.until("Z")
        wire.close()
        assert noise.value("SHOW work_mem") == "4MB"


def test_who_closes_its_side_behind_a_SET_is_answered_all_the_same(one_server):
    for n in range(5, 25):
        with one_server.wire(USER) as wire:
            wire.value("SELECT 1")      # its worker has the server
            wire.send(query("SET work_mem = '%dMB'" % n) + query("SHOW work_mem"))
            wire.sock.shutdown(socket.SHUT_WR)
            assert kinds(wire.until("Z")) == "CZ"
            assert rows(wire.until("Z")) == [["%dMB" % n]]


def test_who_closes_its_side_behind_a_RESET_is_answered_all_the_same(one_server):
    for _ in range(20):
        with one_server.wire(USER, options="-c work_mem=5MB") as wire:
            wire.value("SELECT 1")      # its worker has the server
            wire.send(query("RESET work_mem") + query("SHOW work_mem") + query("SELECT 3"))
            wire.sock.shutdown(socket.SHUT_WR)
            assert kinds(wire.until("Z")) == "CZ"
            assert rows(wire.until("Z")) == [["5MB"]]
            assert rows(wire.until("Z")) == [["3"]]


STAYS = [
    "SET statement_timeout = '900ms'",
    "SET idle_session_timeout = '1h'",
    "SET standard_conforming_strings = off",
    "SET temp_buffers = 200",
    "SET default_transaction_deferrable = on",
    "SET SESSION CHARACTERISTICS AS TRANSACTION DEFERRABLE",
    "SET app.name = 'Zo\u00eb'",
    "SET app.name = '%s'" % ("x" * 2000),
    "; ".join("SET app.n%d = 'x'" % n for n in range(17)),
    "SELECT set_config(lower('WORK_MEM'), '3MB', false)",
    "DO $$ BEGIN PERFORM set_config('work_mem', '3MB', false); END $$",
    "SET ROLE NONE",
]


@pytest.mark.parametrize("sql", STAYS)
def test_what_cannot_be_repeated_keeps_its_server(one_server, sql):
    pins = one_server.metric("pins_total")
    with one_server.wire(USER) as wire:
        wire.run(query("SET app.before = 'mine'"))
        assert not errors(wire.run(query(sql)))
        wait_for(lambda: one_server.metric("pins_total") == pins + 1)
        pid = wire.value("SELECT pg_backend_pid()")
        assert setting(wire, "app.before") == "mine"
        wire.run(query("SET app.before = 'changed'"))
        assert setting(wire, "app.before") == "changed"
        wire.run(query("RESET app.before"))
        assert setting(wire, "app.before") == ""
        assert wire.value("SELECT pg_backend_pid()") == pid
    with one_server.wire(USER) as wire:
        assert setting(wire, "app.before") in (None, "")
        assert wire.value("SHOW work_mem") == "4MB"
        assert wire.value("SHOW statement_timeout") == "0"


PINNED = ["LISTEN something", "CREATE TEMP TABLE t (a int)", "PREPARE p AS SELECT 1",
          "SELECT pg_advisory_lock(77)", "SET statement_timeout = '900ms'"]


@pytest.mark.parametrize("send", [simple, extended], ids=lambda f: f.__name__)
@pytest.mark.parametrize("sql", PINNED)
def test_who_discards_all_shares_its_server_again(one_server, sql, send):
    with one_server.wire(USER, options="-c work_mem=5MB") as wire, one_server.wire(USER) as other:
        wire.run(query("SET app.mine = 'x'"))
        wire.run(query(sql))
        assert kinds(wire.run(send("DISCARD ALL"))).endswith("CZ")
        assert other.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0"
        assert other.value("SELECT count(*) FROM pg_listening_channels()") == "0"
        assert other.value("SHOW statement_timeout") == "0"
        assert other.value("SHOW work_mem") == "4MB"
        assert setting(wire, "work_mem") == "5MB"
        assert setting(wire, "app.mine") == ""
        wire.run(query(sql))        # and keeps it again
        assert not [r for r in errors(wire.run(query("SELECT 1")))]


def test_a_DISCARD_ALL_that_fails_or_is_followed_keeps_the_server(one_server):
    with one_server.wire(USER) as wire, one_server.wire(USER) as other:
        wire.run(query("LISTEN something"))
        pid = wire.value("SELECT pg_backend_pid()")
        for sql in ("BEGIN; DISCARD ALL", "ROLLBACK", "SELECT 1; DISCARD ALL"):
            wire.run(query(sql))
        assert wire.value("SELECT pg_backend_pid()") == pid
        assert wire.value("SELECT count(*) FROM pg_listening_channels()") == "1"
        wire.send(query("DISCARD ALL") + query("LISTEN another"))
        wire.until("Z"), wire.until("Z")
        assert wire.value("SELECT count(*) FROM pg_listening_channels()") == "1"
        other.send(query("SELECT 1"))
        assert not select.select([other.sock], [], [], 0.05)[0]
        wire.run(query("DISCARD ALL"))
        assert rows(other.until("Z")) == [["1"]]


# A literal is read when it is parsed.


@pytest.mark.parametrize("how", ["startup", "SET"])
def test_a_prepared_literal_is_read_by_the_settings_of_its_session(one_server, how):
    sql = "SELECT '01/02/2020'::date - '2020-01-01'::date, '2020-01-01'::timestamptz = '2019-12-31 15:00Z'"
    styles = {"ISO, DMY": ("Asia/Tokyo", ["31", "t"]), "ISO, MDY": ("UTC", ["1", "f"])}
    wires = []
    for style, (zone, want) in styles.items():
        if how == "startup":
            wire = one_server.wire(USER, DateStyle=style, TimeZone=zone)
        else:
            wire = one_server.wire(USER)
            wire.run(query("SET DateStyle = '%s'; SET TimeZone = '%s'" % (style, zone)))
        wires.append((wire, want))
    for wire, _ in wires:
        assert kinds(wire.run(parse(sql, "s"), sync())) == "1Z"
    for wire, want in wires * 3:
        assert rows(wire.run(bind(name="s"), execute(), sync())) == [want]


def test_a_statement_prepared_before_a_SET_is_not_read_by_it_for_others(one_server):
    sql = "SELECT '01/02/2020'::date - '2020-01-01'::date -- changes"
    a, b = one_server.wire(USER), one_server.wire(USER)
    for wire in (a, b):
        wire.run(parse(sql, "s"), sync())
        wire.run(bind(name="s"), execute(), sync())
    a.run(query("SET DateStyle = 'ISO, DMY'"))
    a.run(bind(name="s"), execute(), sync())
    assert rows(b.run(bind(name="s"), execute(), sync())) == [["1"]]
    assert rows(b.run(extended(sql))) == [["1"]]


def test_organizations_keep_their_settings_apart_and_their_variables(one_server):
    acme, beta = one_server.wire("acme_app"), one_server.wire("beta_app")
    acme.run(query("SET work_mem = '6MB'"))
    beta.run(query("SET work_mem = '7MB'"))
    own = [setting(w, "app.current_organization_id") for w in (acme, beta)]
    assert own[0] != own[1] and all(own)
    for _ in range(5):
        for wire, mem, org in ((acme, "6MB", own[0]), (beta, "7MB", own[1])):
            assert setting(wire, "work_mem") == mem
            assert setting(wire, "app.current_organization_id") == org
    reply = acme.run(query("SET work_mem = '8MB'; SET app.current_organization_id = 'x'"))
    assert errors(reply)[0]["C"] == "42501"
    assert setting(acme, "work_mem") == "6MB"


# A service user, and what is its organization's own.

@pytest.fixture
def service(one_server):
    wire = one_server.wire(login=False)
    wire.login("svc", DATABASE)
    return wire


@pytest.mark.parametrize("sql", ["SET app.plan = 'free'",
                                 "SELECT set_config('app.plan', 'free', false)"])
@pytest.mark.parametrize("first", [None, "acme"])
def test_a_variable_of_the_organization_is_stronger_than_what_was_set_before(
        service, sql, first):
    if first:
        service.rows(query("SET weir.organization = " + first))
    service.rows(query(sql))
    service.rows(query("SET weir.organization = gamma"))
    assert setting(service, "app.plan") == "gold"


def test_a_variable_of_the_organization_stays_with_it(service):
    service.rows(query("SET weir.organization = gamma"))
    service.rows(query("SET work_mem = '5MB'"))
    service.rows(query("SET weir.organization = acme"))
    assert setting(service, "app.plan") in (None, "")
    service.rows(query("SET app.plan = 'x'"))
    service.rows(query("RESET app.plan"))
    assert setting(service, "app.plan") in (None, "")


def test_a_search_path_of_the_organization_is_its_own(service):
    service.rows(query("SET search_path = public"))
    service.rows(query("SET weir.organization = gamma"))
    assert setting(service, "search_path") == "gamma_s"
    service.rows(query("SET weir.organization = acme"))
    assert setting(service, "search_path") == "public"


def test_what_is_set_behind_a_DISCARD_ALL_in_one_pipeline_stays(one_server, pg):
    def request(sql):
        return parse(sql) + bind() + execute()
    for make in (lambda: direct(pg), lambda: one_server.wire(USER)):
        with make() as wire:
            wire.run(query("LISTEN x"))
            wire.run(request("DISCARD ALL"), request("SET work_mem = '3MB'"), sync())
            for _ in range(2):
                assert setting(wire, "work_mem") == "3MB"


def test_without_tracking_what_is_set_keeps_its_server(weir):
    w = weir({"weir": {"track_settings": "off"}})
    wire = w.wire(USER)
    wire.run(query("SET work_mem = '3MB'"))
    assert setting(wire, "work_mem") == "3MB"
    assert w.metric("settings_asked_total") == 0 and len(w.events("pin")) == 1
