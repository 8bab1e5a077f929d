"""
Goal:   a service user names its organization when it logs in, by every way
        there is, chooses another at run time, and never one it may not use.
Method: the ways one by one and in pairs, over TLS where the name of the host
        is one of them; what is refused is refused before a server is touched,
        counted and logged.
"""
import pytest

import pgwire
from servers import DATABASE, ORGANIZATIONS, wait_for

pytestmark = pytest.mark.weir_only

GAMMA = "cccccccc-0000-4000-8000-000000000003"
IDS = dict(ORGANIZATIONS, gamma=GAMMA)
CONFIG = {
    "tls": {"sni_domain": "weir.test"},
    "organization gamma": {"id": GAMMA, "var.app.color": "green"},
    "variables": {"app.current_organization_id": "%{organization.id}",
                  "app.slug": "%{organization.slug}",
                  "app.who": "%{user}/%{organization.slug}",
                  "app.color": "grey"},
    "user svc": {"auth": "trust", "organizations": "*"},
    "user two": {"auth": "trust", "organizations": "acme, gamma"},
    "user fixed": {"auth": "trust", "organization": "acme"},
}
OWN = "SELECT current_setting('app.current_organization_id')"


def login(proxy, user, host=None, **options):
    wire = proxy.wire(login=False)
    if host:
        wire.start_tls(proxy.tls_context(check_hostname=False), host)
    wire.login(user, DATABASE, **options)
    return wire


def option(name, value):
    return {"options": "-c %s=%s" % (name, value)}


TENANT = "app.current_organization_id"
ACME, BETA = ORGANIZATIONS["acme"], ORGANIZATIONS["beta"]
# Who | over TLS to this host | what it says at its startup | whose it is.
AGREE = {
    "its user's dot": ("svc.beta", None, {}, BETA),
    "the startup option": ("svc", None, option("weir.organization", "beta"), BETA),
    "the parameter": ("svc", None, {"weir.organization": "beta"}, BETA),
    "the variable with its id": ("svc", None, option(TENANT, BETA), BETA),
    "the variable with its slug": ("svc", None, option("app.slug", "beta"), BETA),
    "the variable in capitals": ("svc", None, option(TENANT.upper(), BETA), BETA),
    "the host": ("svc", "beta.weir.test", {}, BETA),
    "the host in capitals": ("svc.beta", "BETA.Weir.Test", {}, BETA),
    "all at once": ("svc.beta", "beta.weir.test", {
        "weir.organization": "beta", TENANT: BETA, "app.slug": "beta"}, BETA),
    "nothing": ("svc", None, {}, ""),
    "another host": ("svc", "localhost", {}, ""),
    "the domain itself": ("svc", "weir.test", {}, ""),
    "one of its list": ("two.gamma", None, {}, GAMMA),
    "a locked user's own variable": ("fixed", None, option(TENANT, ACME), ACME),
    "a locked user's own host": ("fixed", "acme.weir.test", {}, ACME),
    "a locked user's own option": (
        "fixed", None, option("weir.organization", "acme"), ACME),
}
REFUSED = {
    "an unknown one": ("svc.nope", None, {}),
    "an unknown id": ("svc", None, option(TENANT, "nope")),
    "an id where the slug belongs": ("svc", None, option("app.slug", BETA)),
    "a slug where the id belongs": ("svc", None, option(TENANT, "beta")),
    "an empty id": ("svc", None, {TENANT: ""}),
    "an unknown host": ("svc", "nope.weir.test", {}),
    "a host of two parts": ("svc", "a.beta.weir.test", {}),
    "user and option": ("svc.beta", None, option("weir.organization", "acme")),
    "user and variable": ("svc.beta", None, option(TENANT, ACME)),
    "user and host": ("svc.beta", "acme.weir.test", {}),
    "two variables": ("svc", None, {TENANT: BETA, "app.slug": "acme"}),
    "variable and host": ("svc", "acme.weir.test", option(TENANT, BETA)),
    "one not of its list": ("two.beta", None, {}),
    "an id not of its list": ("two", None, option(TENANT, BETA)),
    "a host not of its list": ("two", "beta.weir.test", {}),
    "a locked user elsewhere": ("fixed.beta", None, {}),
    "a locked user's other variable": ("fixed", None, option(TENANT, BETA)),
    "a locked user's empty variable": ("fixed", None, {TENANT: ""}),
    "a locked user's other host": ("fixed", "beta.weir.test", {}),
    "somebody who has none": ("plain_app.acme", None, {}),
    "somebody who has none, by host": ("open_app", "acme.weir.test", {}),
    "somebody who has none, by variable": ("open_app", None, option(TENANT, ACME)),
}


@pytest.mark.parametrize("name", AGREE)
def test_an_organization_is_named_by(proxy, name):
    user, host, options, expected = AGREE[name]
    wire = login(proxy, user, host, **options)
    assert wire.value(OWN) == expected
    slug = {v: k for k, v in IDS.items()}.get(expected, "")
    assert wire.value("SELECT current_setting('app.slug')") == slug
    user = user.split(".")[0]
    assert wire.value("SELECT current_setting('app.who')") == (
        "%s/%s" % (user, slug) if slug else "")


@pytest.mark.parametrize("name", REFUSED)
def test_a_log_in_is_refused_that_names(proxy, pg, name):
    user, host, options = REFUSED[name]
    counter = 'organization_refused_total{at="login"}'
    before, lines = proxy.metric(counter), len(proxy.events("refuse"))
    if user.startswith("plain"):        # it must prove who it is first
        wire = proxy.wire(login=False)
        with pytest.raises(pgwire.Failed) as e:
            wire.login(user, DATABASE, "plain-secret", **options)
    else:
        with pytest.raises(pgwire.Failed) as e:
            login(proxy, user, host, **options)
    assert e.value.code == "28000"
    wait_for(lambda: proxy.metric(counter) == before + 1, 5, "not counted")
    wait_for(lambda: len(proxy.events("refuse")) == lines + 1, 5, "not logged")


# At run time.  Each shows what the session is afterwards.


def slug_of(wire):
    got = wire.rows(pgwire.query("SELECT current_setting('app.current_organization_id'),"
                                 " current_setting('app.slug'),"
                                 " current_setting('app.color')"))[0]
    if got[0] == "":
        assert got == ["", "", "grey"]
        return ""
    slug = {v: k for k, v in IDS.items()}[got[0]]
    assert got == [got[0], slug, "green" if slug == "gamma" else "grey"]
    return slug


def by_args(sql, *args):
    return pgwire.extended(sql, args)


FOR_GOOD = {
    "SET": lambda s: pgwire.query("SET weir.organization = '%s'" % s),
    "SET TO a name": lambda s: pgwire.query("set Weir.Organization to %s;" % s),
    "SET SESSION": lambda s: pgwire.query("SET SESSION weir.organization = '%s'" % s),
    "SET of the id": lambda s: pgwire.query(
        "SET app.current_organization_id = '%s'" % IDS[s]),
    "SET of the slug": lambda s: pgwire.query('SET "app".slug = \'%s\'' % s),
    "set_config": lambda s: pgwire.query(
        "SELECT set_config('app.current_organization_id', '%s', false)" % IDS[s]),
    "set_config, extended": lambda s: pgwire.extended(
        "SELECT set_config('weir.organization', '%s', false)" % s),
    "set_config of a parameter": lambda s: by_args(
        "SELECT pg_catalog.set_config('app.current_organization_id', $1, false)", IDS[s]),
    "set_config of a parameter with its type": lambda s: by_args(
        "SELECT set_config('app.slug', $1::text, false) AS now", s),
    "SET, extended": lambda s: pgwire.extended("SET app.current_organization_id = '%s'"
                                               % IDS[s]),
}


@pytest.mark.parametrize("how", FOR_GOOD)
def test_a_service_user_switches_by(one_server, how):
    svc, acme = login(one_server, "svc"), one_server.wire("acme_app")
    assert slug_of(svc) == ""
    pins = one_server.metric("pins_total")
    for slug in ("acme", "gamma", "beta", "beta", "gamma"):
        reply = svc.run(FOR_GOOD[how](slug))
        assert not pgwire.errors(reply), reply
        if "config" in how:
            assert pgwire.rows(reply)[0][0] in (slug, IDS[slug])
        for _ in range(2):
            assert slug_of(svc) == slug
            assert acme.value(OWN) == ACME
    assert one_server.metric("pins_total") == pins


@pytest.mark.parametrize("length", [65300, 300000])
def test_what_follows_a_long_text_is_waited_for_and_read(one_server, length):
    """Its Bind and Sync may not fit where a text of usual length would leave them room."""
    long = " /* %s */" % ("x" * length)
    svc = login(one_server, "svc")
    for n in range(200 if length < 1 << 16 else 1):
        assert not pgwire.errors(svc.run(pgwire.extended(
            "SET weir.organization = 'acme'" + long + " " * n)))
        assert slug_of(svc) == "acme"
    for text, state in [("BEGIN", "T"), ("SET LOCAL weir.organization = 'beta'", "T"),
                        ("SELECT 1", "T"), ("SET LOCAL weir.organization = 'acme'", "T"),
                        ("COMMIT", "I")]:
        reply = svc.run(pgwire.extended(text + long))
        assert (pgwire.errors(reply), pgwire.status(reply)) == ([], state), text


def test_what_follows_a_long_Bind_is_waited_for_and_read(one_server):
    """The room for an Execute may end within its head."""
    begin = pgwire.parse("BEGIN")
    rest = pgwire.execute() + pgwire.sync()
    svc = login(one_server, "svc")
    for missing in range(8):
        long = (1 << 16) - missing - len(begin) - len(pgwire.bind([b""]))
        reply = svc.run(begin + pgwire.bind([b"x" * long]) + rest)
        assert ([e["C"] for e in pgwire.errors(reply)], pgwire.status(reply)) == (
            ["08P01"], "I"), missing


def test_an_answer_of_set_config_looks_like_PostgreSQL_s(proxy):
    svc, direct = login(proxy, "svc"), proxy.wire("plain_app")
    text = "SELECT set_config('%s', $1, false)"
    for send in (lambda n: pgwire.query(text.replace("$1", "'%s'" % ACME) % n),
                 lambda n: by_args(text % n, ACME),
                 lambda n: pgwire.parse(text % n) + pgwire.bind([ACME], formats=[1],
                                                                results=[1])
                 + pgwire.describe() + pgwire.execute() + pgwire.sync(),
                 lambda n: pgwire.query("RESET " + n),
                 lambda n: pgwire.query("SET %s = '%s'" % (n, ACME))):
        expected = [m for m in direct.run(send("app.other")) if m[0] not in "SN"]
        got = [m for m in svc.run(send(TENANT)) if m[0] not in "SN"]
        assert got == expected


def test_a_named_statement_switches_each_time_it_is_bound(proxy):
    svc = login(proxy, "svc")
    for name in ("acme", "gamma", "acme"):
        if name == "acme":
            svc.run(pgwire.close("S", "sw"), pgwire.sync())
            reply = svc.run(pgwire.parse(
                "SELECT set_config('app.current_organization_id', $1, false)", "sw"),
                pgwire.describe("S", "sw"), pgwire.sync())
            assert pgwire.kinds(reply) == "1tTZ"
        reply = svc.run(pgwire.bind([IDS[name]], "sw"), pgwire.execute(), pgwire.sync())
        assert pgwire.kinds(reply) == "2DCZ"
        assert slug_of(svc) == name


@pytest.mark.parametrize("sql", [
    "RESET weir.organization", "RESET app.current_organization_id", "RESET ALL",
    "DISCARD ALL", "SET weir.organization TO DEFAULT",
    "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;"])
@pytest.mark.parametrize("pinned", [False, True], ids=["shared", "pinned"])
def test_a_reset_goes_back_to_the_organization_of_the_log_in(proxy, sql, pinned):
    for user, home in (("svc", ""), ("svc.beta", "beta")):
        svc = login(proxy, user)
        if pinned:
            svc.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
        svc.rows(pgwire.query("SET weir.organization = acme"))
        assert slug_of(svc) == "acme"
        svc.rows(pgwire.query(sql))
        assert slug_of(svc) == home
        svc.close()


@pytest.mark.parametrize("sql", ["RESET ALL", "DISCARD ALL"])
@pytest.mark.parametrize("send", [pgwire.query, pgwire.extended], ids=["simple", "extended"])
def test_a_session_that_keeps_its_server_is_reset_for_good_or_not_at_all(proxy, sql, send):
    svc = login(proxy, "svc.beta")
    svc.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
    switch = pgwire.query("SET weir.organization = acme")
    for reply in (svc.run(switch, send(sql)), svc.until("Z")):
        assert not pgwire.errors(reply)
    assert slug_of(svc) == "beta"
    svc.rows(switch)
    svc.rows(send(sql))
    assert slug_of(svc) == "beta"


@pytest.mark.parametrize("send", [pgwire.query, pgwire.extended], ids=["simple", "extended"])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "SELECT 1/0"])
@pytest.mark.parametrize("pinned", [False, True], ids=["shared", "pinned"])
def test_a_reset_in_a_transaction_counts_when_that_commits(proxy, send, end, pinned):
    svc = login(proxy, "svc.beta")
    svc.rows(pgwire.query("SET weir.organization = acme"))
    if pinned:
        svc.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
    svc.rows(pgwire.query("BEGIN"))
    assert slug_of(svc) == "acme"
    svc.rows(send("RESET ALL"))
    svc.run(pgwire.query(end))
    if end == "SELECT 1/0":
        svc.rows(pgwire.query("COMMIT"))
    assert slug_of(svc) == ("beta" if end == "COMMIT" else "acme")


@pytest.mark.parametrize("how", ["SET LOCAL", "SET"])
def test_a_switch_and_a_reset_of_one_transaction_end_together(proxy, how):
    svc = login(proxy, "svc.beta")
    svc.rows(pgwire.query("SET weir.organization = acme"))
    for sql in [how + " weir.organization = gamma", "CREATE TEMPORARY TABLE t (x int)",
                "RESET ALL"]:
        svc.rows(pgwire.query("BEGIN" if sql.startswith("SET") else "SELECT 1"))
        svc.rows(pgwire.query(sql))
    svc.rows(pgwire.query("COMMIT"))
    assert slug_of(svc) == "beta"
    assert svc.value("SELECT count(*) FROM t") == "0"


@pytest.mark.parametrize("name", ["", "r"])
def test_a_reset_that_is_only_parsed_resets_nothing(proxy, name):
    svc = login(proxy, "svc.beta")
    svc.rows(pgwire.query("SET weir.organization = acme"))
    assert pgwire.kinds(svc.run(pgwire.parse("RESET ALL", name), pgwire.sync())) == "1Z"
    if name:
        assert slug_of(svc) == "acme"
    for run in (pgwire.bind(name=name), pgwire.parse("RESET ALL", name) + pgwire.bind(name=name)):
        reply = svc.run(run, pgwire.execute(), pgwire.sync())
        assert pgwire.kinds([m for m in reply if m[0] != "S"])[-3:-1] == "2C"
        assert slug_of(svc) == "beta"
        svc.rows(pgwire.query("SET weir.organization = acme"))
        assert slug_of(svc) == "acme"
        svc.run(pgwire.close("S", name), pgwire.sync())


def test_an_empty_name_is_no_organization(proxy):
    svc = login(proxy, "svc.beta")
    for sql in ("SET weir.organization = ''", "SET app.current_organization_id = ''",
                "SELECT set_config('app.current_organization_id', '', false)"):
        svc.rows(pgwire.query("SET weir.organization = acme"))
        svc.rows(pgwire.query(sql))
        assert slug_of(svc) == ""
        assert svc.value("SELECT count(*) FROM notes") == "0"


# Refused: the code, and what it was before goes on.
WRONG = [
    "SET weir.organization = 'nope'", "SET weir.organization = beta",
    "SET app.current_organization_id = '%s'" % BETA, "SET app.slug = acme2",
    "SET app.current_organization_id = 'acme'",
    "SELECT set_config('app.current_organization_id', '%s', false)" % BETA,
    "SELECT set_config('app.current_organization_id', '%s', true), count(*) FROM notes"
    % ACME,
    "SELECT 1; SET weir.organization = gamma; SET app.slug = gamma",
    "WITH x AS (SELECT set_config('app.current_organization_id', '%s', true))"
    " SELECT * FROM x" % ACME,
    "DO $$ BEGIN SET app.current_organization_id = '%s'; END $$" % BETA,
    "SET app.current_organization_id = E'%s'" % BETA,
    "SET app.who = 'x'",
    "PREPARE p AS SELECT set_config($1, $2, false)",
]


@pytest.mark.parametrize("sql", WRONG)
@pytest.mark.parametrize("way", ["alone", "in a transaction", "pinned"])
def test_a_service_user_never_has_what_it_may_not_use(proxy, sql, way):
    two = login(proxy, "two.acme")
    if way == "pinned":
        two.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
    for send in (pgwire.query, pgwire.extended):
        if way == "in a transaction":
            two.rows(pgwire.query("BEGIN"))
        reply = two.run(send(sql))
        assert [e["C"] for e in pgwire.errors(reply)] == ["42501"]
        if way == "in a transaction":
            assert pgwire.errors(two.run(pgwire.query("SELECT 1")))[0]["C"] == "25P02"
            two.rows(pgwire.query("ROLLBACK"))
        assert slug_of(two) == "acme"


def test_a_parameter_is_looked_at_too(proxy):
    two = login(proxy, "two.acme")
    before = proxy.metric('organization_refused_total{at="statement"}')
    for args in ([TENANT, BETA], [BETA]):
        sql = "SELECT set_config(%s, false)" % (
            "$1, $2" if len(args) == 2 else "'%s', $1" % TENANT)
        reply = two.run(pgwire.extended(sql, args))
        assert pgwire.errors(reply)[0]["C"][:2] in ("42", "0A")
        assert slug_of(two) == "acme"
    two.run(pgwire.query("SET weir.organization = beta"))
    assert proxy.metric('organization_refused_total{at="statement"}') > before


NAMES = [
    "SET %s = '%s'", "SET SESSION %s TO '%s'", "SET LOCAL %s = '%s'",
    "SELECT set_config('%s', '%s', false)", "SELECT set_config('%s', '%s', true)",
    "SELECT 1; SET %s = '%s'", "WITH x AS (SELECT set_config('%s', '%s', true)) TABLE x",
    "DO $$ BEGIN SET %s = '%s'; END $$", "PREPARE p AS SELECT set_config('%s', '%s', false)",
]


@pytest.mark.parametrize("sql", NAMES)
@pytest.mark.parametrize("user", ["open_app", "plain_app"])
def test_who_may_name_none_at_its_log_in_may_not_later(proxy, sql, user):
    wire = proxy.wire(user)
    for name, value in (("app.current_organization_id", ACME), ("App.Slug", "acme")):
        for send in (pgwire.query, pgwire.extended):
            if send == pgwire.extended and ";" in sql and "DO" not in sql:
                continue
            reply = wire.run(send(sql % (name, value)))
            assert [e["C"] for e in pgwire.errors(reply)] == ["42501"]
            assert slug_of(wire) == ""
    reply = wire.run(pgwire.query("SET weir.organization = acme"))
    assert [e["C"] for e in pgwire.errors(reply)] == ["42501"]
    # What else there is to set is its own affair.
    for mine in ("SET app.other = 'x'", "SET app.color = 'x'", "SET ROLE NONE",
                 "SELECT set_config('app.other', 'x', false)"):
        wire.rows(pgwire.query(mine))


# In transactions.


LOCAL = {
    "SET LOCAL": lambda s: pgwire.query("SET LOCAL weir.organization = '%s'" % s),
    "SET LOCAL of the id": lambda s: pgwire.query(
        "SET LOCAL app.current_organization_id = '%s'" % IDS[s]),
    "set_config": lambda s: pgwire.query(
        "SELECT set_config('app.current_organization_id', '%s', true)" % IDS[s]),
    "set_config of a parameter": lambda s: by_args(
        "SELECT set_config('app.current_organization_id', $1, true)", IDS[s]),
}
ENDS = ["COMMIT", "ROLLBACK", "SELECT 1/0"]


@pytest.mark.parametrize("how", LOCAL)
@pytest.mark.parametrize("end", ENDS)
def test_what_is_local_ends_with_its_transaction(one_server, how, end):
    svc, acme = login(one_server, "svc.beta"), one_server.wire("acme_app")
    for slug in ("acme", "gamma"):
        svc.rows(pgwire.query("BEGIN"))
        svc.run(LOCAL[how](slug))
        assert slug_of(svc) == slug
        svc.rows(pgwire.query("SAVEPOINT s"))
        svc.rows(pgwire.query("ROLLBACK TO s"))
        assert slug_of(svc) == slug
        svc.run(pgwire.query(end))
        if end == "SELECT 1/0":
            svc.rows(pgwire.query("COMMIT"))
        assert slug_of(svc) == "beta"
        assert acme.value(OWN) == ACME
        # And one that ends before it has asked anything.
        svc.rows(pgwire.query("BEGIN"))
        svc.run(LOCAL[how](slug))
        svc.rows(pgwire.query("COMMIT"))
        assert slug_of(svc) == "beta"


@pytest.mark.parametrize("how", LOCAL)
def test_what_is_local_outside_of_a_transaction_is_nothing(proxy, how):
    svc = login(proxy, "svc.beta")
    assert not pgwire.errors(svc.run(LOCAL[how]("acme")))
    assert slug_of(svc) == "beta"


@pytest.mark.parametrize("how", FOR_GOOD)
@pytest.mark.parametrize("pinned", [False, True], ids=["shared", "pinned"])
def test_what_is_set_for_good_in_a_transaction_stays_if_it_commits(proxy, how, pinned):
    svc = login(proxy, "svc")
    was = ""
    for end, stays in [("COMMIT", True), ("ROLLBACK", False), ("SELECT 1/0", False),
                       ("COMMIT", True)]:
        slug = "gamma" if was == "acme" else "acme"
        svc.rows(pgwire.query("BEGIN"))
        reply = svc.run(FOR_GOOD[how](slug))
        assert not pgwire.errors(reply)
        assert slug_of(svc) == slug
        svc.rows(pgwire.query("SAVEPOINT s"))
        svc.run(pgwire.query("SELECT 1/0"))
        svc.rows(pgwire.query("ROLLBACK TO s"))
        assert slug_of(svc) == slug
        svc.run(pgwire.query(end))
        if end == "SELECT 1/0":
            svc.rows(pgwire.query("COMMIT"))
        was = slug if stays else was
        assert slug_of(svc) == was
    if pinned:
        svc.rows(pgwire.query("BEGIN"))
        svc.run(FOR_GOOD[how]("beta"))
        svc.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
        svc.rows(pgwire.query("ROLLBACK"))
        assert slug_of(svc) == was


# Behind the first statement of one.


EVERY = {**{"LOCAL " + name: way for name, way in LOCAL.items()}, **FOR_GOOD}


def begun(wire, *sql):
    for text in ("BEGIN", "SELECT 1", *sql):
        wire.rows(pgwire.query(text))


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("pinned", [False, True], ids=["shared", "pinned"])
def test_behind_the_first_statement_of_a_transaction_it_holds_until_that_ends(
        one_server, how, end, pinned):
    svc, acme = login(one_server, "svc.beta"), one_server.wire("acme_app")
    if pinned:
        svc.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
    was = "beta"
    for slug in ("acme", "gamma"):
        begun(svc)
        reply = svc.run(EVERY[how](slug))
        assert not pgwire.errors(reply) and pgwire.status(reply) == "T"
        assert slug_of(svc) == slug
        assert svc.value("SELECT count(*) FROM notes WHERE organization_id <> '%s'"
                         % IDS[slug]) == "0"
        svc.run(pgwire.query(end))
        if end == "SELECT 1/0":
            svc.rows(pgwire.query("COMMIT"))
        if how in FOR_GOOD and end == "COMMIT":
            was = slug
        assert slug_of(svc) == was
        if not pinned:
            assert acme.value(OWN) == ACME


@pytest.mark.parametrize("how", LOCAL)
def test_inside_a_transaction_it_may_be_chosen_again_and_again(one_server, how):
    svc = login(one_server, "svc.beta")
    for first in ("SELECT 1", "SET LOCAL weir.organization = gamma"):
        svc.rows(pgwire.query("BEGIN"))
        svc.rows(pgwire.query(first))
        svc.rows(pgwire.query("SET LOCAL work_mem = '77MB'"))
        for slug in ("acme", "gamma", "gamma", "beta", "acme"):
            assert not pgwire.errors(svc.run(LOCAL[how](slug)))
            assert slug_of(svc) == slug
        assert svc.value("SHOW work_mem") == "77MB"     # the client's own is left alone
        svc.rows(pgwire.query("COMMIT"))
        assert slug_of(svc) == "beta"


@pytest.mark.parametrize("pinned", [False, True], ids=["shared", "pinned"])
def test_a_ROLLBACK_TO_takes_back_what_was_chosen_behind_its_savepoint(one_server, pinned):
    svc, acme = login(one_server, "svc.beta"), one_server.wire("acme_app")
    if pinned:
        svc.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
    begun(svc, "SAVEPOINT s", "SET LOCAL weir.organization = acme", "SAVEPOINT t")
    svc.run(pgwire.query("SELECT 1/0"))
    svc.rows(pgwire.query("ROLLBACK TO t"))
    assert slug_of(svc) == "acme"
    svc.rows(pgwire.query("ROLLBACK TO s"))
    assert slug_of(svc) == "beta"
    svc.rows(pgwire.query("SET LOCAL weir.organization = gamma"))
    assert slug_of(svc) == "gamma"
    svc.rows(pgwire.query("ROLLBACK TO SAVEPOINT S"))
    assert slug_of(svc) == "beta"
    svc.rows(pgwire.query("ROLLBACK"))
    assert slug_of(svc) == "beta"
    begun(svc, "SET LOCAL weir.organization = gamma")
    assert slug_of(svc) == "gamma"
    svc.rows(pgwire.query("COMMIT"))
    assert slug_of(svc) == "beta"
    if not pinned:
        assert acme.value(OWN) == ACME


MARKED = [      # statements behind BEGIN; SELECT 1, and who it is in the end
    (["SAVEPOINT s", "SET weir.organization = acme", "ROLLBACK TO s"], "beta"),
    (["SET weir.organization = acme", "SAVEPOINT s", "ROLLBACK TO s"], "acme"),
    (["SAVEPOINT s", "SET weir.organization = acme", "RELEASE s"], "acme"),
    (["SAVEPOINT s", "SET weir.organization = acme", "SAVEPOINT t",
      "SET weir.organization = gamma", "SELECT 1/0", "ROLLBACK TO t"], "acme"),
    (["SAVEPOINT s", "SET weir.organization = acme", "SAVEPOINT s",
      "SET weir.organization = gamma", "ROLLBACK WORK TO SAVEPOINT s", "RELEASE SAVEPOINT s",
      "ROLLBACK TO s"], "beta"),
    (["SET weir.organization = acme", "SAVEPOINT s", "SAVEPOINT \"S\"",
      "SET weir.organization = gamma", "RELEASE \"S\"", "ROLLBACK TO S",
      "SET weir.organization = gamma"], "gamma"),
    (["SAVEPOINT s", "SET weir.organization = gamma", "RELEASE s", "SAVEPOINT t",
      "SET weir.organization = acme", "RELEASE t"], "acme"),
    (["SAVEPOINT s", "SET weir.organization = acme", "ROLLBACK TO nowhere",
      "ROLLBACK TO s"], None),
    (["SAVEPOINT s; SAVEPOINT t", "SET weir.organization = acme", "ROLLBACK TO t"], None),
    (["SAVEPOINT %s" % ("x" * 70), "SET weir.organization = acme",
      "ROLLBACK TO %s" % ("x" * 70)], None),
]


@pytest.mark.parametrize("pinned", [False, True], ids=["shared", "pinned"])
@pytest.mark.parametrize("send", [pgwire.query, pgwire.extended], ids=["simple", "extended"])
@pytest.mark.parametrize("sql, stays", [m for m in MARKED if m[1]])
def test_savepoints_are_followed_however_they_are_sent(one_server, sql, stays, send, pinned):
    svc, acme = login(one_server, "svc.beta"), one_server.wire("acme_app")
    if pinned:
        svc.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
    for first in (["SELECT 1"], []):
        for text in ["BEGIN", *first, *sql]:
            svc.run(send(text))
        assert slug_of(svc) == stays
        if first:
            svc.run(send("ROLLBACK"))
            assert slug_of(svc) == "beta"
    svc.run(send("COMMIT"))
    assert slug_of(svc) == stays
    for text in ["BEGIN", *sql[:2], "ROLLBACK"]:
        svc.run(send(text))
    assert slug_of(svc) == stays
    if not pinned:
        assert acme.value(OWN) == ACME


@pytest.mark.parametrize("pinned", [False, True], ids=["shared", "pinned"])
@pytest.mark.parametrize("sql", [m[0] for m in MARKED if not m[1]])
def test_who_cannot_be_told_what_it_has_chosen_is_sent_away(one_server, sql, pinned):
    svc = login(one_server, "svc.beta")
    if pinned:
        svc.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
    begun(svc)
    for text in sql:
        svc.run(pgwire.query(text))
    assert slug_of(svc) == "beta"
    svc.send(pgwire.query("COMMIT"))
    assert [e["C"] for e in pgwire.errors(svc.until_closed())] == ["0A000"]
    svc = login(one_server, "svc.beta")
    begun(svc, *sql[:2], "ROLLBACK")
    assert slug_of(svc) == "beta"


def test_what_was_chosen_for_good_before_is_nothing_to_a_savepoint(one_server):
    svc = login(one_server, "svc.beta")
    begun(svc, "SET weir.organization = gamma", "COMMIT")
    begun(svc, "SAVEPOINT s", "SET LOCAL weir.organization = acme", "ROLLBACK TO s",
          "SET LOCAL weir.organization = acme")
    assert slug_of(svc) == "acme"
    svc.rows(pgwire.query("COMMIT"))
    assert slug_of(svc) == "gamma"


def test_savepoints_in_one_write_are_not_believed(one_server):
    svc = login(one_server, "svc.beta")
    begun(svc, "SET weir.organization = acme")
    svc.send(*map(pgwire.query, ["SAVEPOINT s", "SAVEPOINT t", "ROLLBACK TO s"]))
    svc.until("Z", 3)
    assert slug_of(svc) == "acme"
    reply = svc.run(pgwire.query("SET LOCAL weir.organization = gamma"))
    assert [e["C"] for e in pgwire.errors(reply)] == ["0A000"]
    svc.rows(pgwire.query("ROLLBACK"))
    assert slug_of(svc) == "beta"


@pytest.mark.parametrize("more", ["", "SELECT 1"], ids=["that is all", "then another"])
@pytest.mark.parametrize("portal", ["", "p"])
@pytest.mark.parametrize("text", ["SAVEPOINT s", "ROLLBACK TO s"])
def test_a_savepoint_that_is_bound_and_not_executed_is_not_believed(
        one_server, text, portal, more):
    svc = login(one_server, "svc.beta")
    begun(svc, "SAVEPOINT s", "SET LOCAL weir.organization = acme")
    asked = pgwire.parse(text) + pgwire.bind(portal=portal)
    if more:
        asked += pgwire.parse(more) + pgwire.bind() + pgwire.execute()
    assert not pgwire.errors(svc.run(asked + pgwire.sync()))
    assert slug_of(svc) == "acme"
    svc.rows(pgwire.query("ROLLBACK TO s"))
    assert slug_of(svc) == "beta"
    # What is not known is refused, and not said to be done.
    reply = svc.run(pgwire.query("SET LOCAL weir.organization = acme"))
    assert [e["C"] for e in pgwire.errors(reply)] == ["0A000"]
    svc.rows(pgwire.query("ROLLBACK"))
    assert slug_of(svc) == "beta"


def test_a_rollback_to_a_savepoint_that_was_bound_long_ago_is_no_riddle(one_server):
    svc = login(one_server, "svc.beta")
    begun(svc, "SAVEPOINT s")
    svc.run(pgwire.parse("ROLLBACK TO s") + pgwire.bind(portal="p") + pgwire.sync())
    svc.rows(pgwire.query("SET LOCAL weir.organization = acme"))
    svc.run(pgwire.execute("p") + pgwire.sync())
    assert slug_of(svc) == "beta"
    reply = svc.run(pgwire.query("SET LOCAL weir.organization = acme"))
    assert [e["C"] for e in pgwire.errors(reply)] == ["0A000"]


def test_more_savepoints_than_are_followed(one_server):
    svc = login(one_server, "svc.beta")
    begun(svc)
    for i in range(300):
        svc.rows(pgwire.query("SAVEPOINT s%d" % i))
    svc.rows(pgwire.query("SET LOCAL weir.organization = acme"))
    svc.rows(pgwire.query("ROLLBACK TO s299"))
    assert slug_of(svc) == "beta"
    svc.rows(pgwire.query("COMMIT"))
    assert slug_of(svc) == "beta"


def test_in_a_transaction_that_has_failed_it_fails_too(proxy):
    svc = login(proxy, "svc.beta")
    for send in [*FOR_GOOD.values(), *LOCAL.values()]:
        begun(svc)
        svc.run(pgwire.query("SELECT 1/0"))
        reply = svc.run(send("acme"))
        assert [e["C"] for e in pgwire.errors(reply)] == ["25P02"]
        svc.rows(pgwire.query("ROLLBACK"))
        assert slug_of(svc) == "beta"


def test_where_settings_were_taken_back_in_the_transaction_none_is_chosen(proxy):
    svc = login(proxy, "svc.beta")
    begun(svc, "RESET work_mem")
    reply = svc.run(pgwire.query("SET LOCAL weir.organization = acme"))
    assert [e["C"] for e in pgwire.errors(reply)] == ["0A000"]
    svc.rows(pgwire.query("ROLLBACK"))
    assert slug_of(svc) == "beta"


@pytest.mark.parametrize("how", EVERY)
def test_what_is_sent_in_one_breath_is_done_in_its_order(one_server, how):
    svc, acme = login(one_server, "svc.beta"), one_server.wire("acme_app")
    own = "SELECT current_setting('app.slug')"
    svc.send(pgwire.query("BEGIN"), pgwire.query(own),
             EVERY[how]("acme"), pgwire.query(own),
             EVERY[how]("gamma"), pgwire.extended(own),
             pgwire.query("COMMIT"), pgwire.extended(own))
    got = [pgwire.rows(svc.until()) for _ in range(8)]
    assert [got[i] for i in (1, 3, 5)] == [[["beta"]], [["acme"]], [["gamma"]]]
    assert got[7] == [["gamma" if how in FOR_GOOD else "beta"]]
    assert acme.value(OWN) == ACME


def test_a_switch_may_come_in_pieces(proxy):
    """Cut anywhere, with a server in hand and without."""
    svc = login(proxy, "svc.beta")
    sql = "SELECT set_config('app.current_organization_id', $1, %s)"
    for inside in (False, True):
        whole = by_args(sql % "true", ACME)
        for cut in range(1, len(whole), 7):
            svc.rows(pgwire.query("BEGIN"))
            if inside:
                svc.rows(pgwire.query("SELECT 1"))
            svc.send(whole[:cut])
            # What came first is looked at before the rest is there.
            proxy.wire("acme_app").close()
            svc.send(whole[cut:])
            assert not pgwire.errors(svc.until())
            assert slug_of(svc) == "acme"
            svc.rows(pgwire.query("ROLLBACK"))


# Parsed and described in one breath, bound in another: a Flush between, as
# asyncpg does, or a Sync.
APART = {"Flush": (pgwire.flush, "T"), "Sync": (pgwire.sync, "Z")}


@pytest.mark.parametrize("name", ["", "s"], ids=["unnamed", "named"])
@pytest.mark.parametrize("end", APART)
def test_it_may_be_parsed_and_described_before_it_is_bound(one_server, name, end):
    svc, acme = login(one_server, "svc.beta"), one_server.wire("acme_app")
    message, last = APART[end]
    for inside in ([], ["SELECT 1"], ["SET LOCAL weir.organization = beta"]):
        for slug in ("acme", "gamma"):
            for sql in ("BEGIN", *inside):
                svc.rows(pgwire.query(sql))
            svc.send(pgwire.parse("SELECT set_config('app.current_organization_id',"
                                  " $1, true)", name),
                     pgwire.describe("S", name), message())
            assert pgwire.kinds(svc.until(last)) == "1tTZ"[:3 + (last == "Z")]
            reply = svc.run(pgwire.bind([IDS[slug]], name=name), pgwire.execute(),
                            pgwire.sync())
            assert pgwire.kinds(reply) == "2DCZ", reply
            assert pgwire.status(reply) == "T"
            assert slug_of(svc) == slug
            svc.run(pgwire.close("S", name), pgwire.sync())
            svc.rows(pgwire.query("COMMIT"))
            assert slug_of(svc) == "beta"
            assert acme.value(OWN) == ACME


@pytest.mark.parametrize("how", ["LOCAL SET LOCAL", "SET", "LOCAL set_config of a parameter"])
def test_behind_a_Flush_that_nothing_has_followed_none_is_chosen(one_server, how):
    """Nobody knows there whether a transaction is open."""
    svc = login(one_server, "svc.beta")
    for begin in (["BEGIN"], ["BEGIN", "SELECT 1"]):
        for sql in begin:
            svc.rows(pgwire.query(sql))
        svc.send(pgwire.parse("SELECT 1"), pgwire.describe("S"), pgwire.flush())
        assert pgwire.kinds(svc.until("T")) == "1tT"
        svc.send(EVERY[how]("acme"))
        assert [e["C"] for e in pgwire.errors(svc.until())] == ["0A000"]
        svc.rows(pgwire.query("ROLLBACK"))
        assert slug_of(svc) == "beta"


def test_what_is_described_is_what_it_returns(proxy):
    svc = login(proxy, "svc.beta")
    for sql, types in [("SELECT set_config('app.current_organization_id', $1, true)", [23]),
                       ("SELECT set_config('app.current_organization_id', $1, true)", [25, 25]),
                       ("SELECT set_config('app.current_organization_id', 'x', true)", []),
                       ("SET weir.organization = acme", []), ("SELECT $1::int", [])]:
        for name in ("", "d"):
            reply = svc.run(pgwire.parse(sql, name, types), pgwire.describe("S", name),
                            pgwire.close("S", name), pgwire.sync())
            wanted = {(23,): "EZ", (25, 25): "1tT3Z"}.get(
                tuple(types), "1tn3Z" if sql.startswith("SET") else "1tT3Z")
            assert pgwire.kinds(reply) == wanted, (sql, types, name)
    assert slug_of(svc) == "beta"


def test_session_pooling_switches_as_well(weir, workers):
    w = weir(dict(CONFIG, **{"postgres main": {"pool_mode": "session"}}), workers)
    for how in FOR_GOOD:
        svc = login(w, "svc.beta")
        for slug in ("acme", "gamma"):
            assert not pgwire.errors(svc.run(FOR_GOOD[how](slug)))
            assert slug_of(svc) == slug
        begun(svc)
        assert not pgwire.errors(svc.run(FOR_GOOD[how]("acme")))
        assert slug_of(svc) == "acme"
        svc.rows(pgwire.query("ROLLBACK"))
        assert slug_of(svc) == "gamma"
        svc.rows(pgwire.query("BEGIN"))
        assert not pgwire.errors(svc.run(pgwire.query("SET LOCAL weir.organization = acme")))
        assert slug_of(svc) == "acme"
        svc.rows(pgwire.query("COMMIT"))
        assert slug_of(svc) == "gamma"
        svc.rows(pgwire.query("RESET ALL"))
        assert slug_of(svc) == "beta"
        svc.close()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("sql", [
    "COMMIT; SELECT body FROM notes", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN",
    "SELECT 1; ROLLBACK", "COMMIT; BEGIN", "BEGIN; COMMIT; SELECT 1"])
def test_nothing_runs_behind_the_end_in_the_same_text(one_server, sql, inside):
    svc = login(one_server, "svc.beta")
    for how in ("SET LOCAL weir.organization = acme", "SET weir.organization = acme"):
        for send in (pgwire.query, pgwire.extended):
            if send == pgwire.extended and ";" in sql:
                continue
            svc.rows(pgwire.query("BEGIN"))
            if inside:
                svc.rows(pgwire.query("SELECT 1"))
            svc.rows(pgwire.query(how))
            reply = svc.run(send(sql))
            assert [e["C"] for e in pgwire.errors(reply)] == ["0A000"]
            assert pgwire.status(reply) == "E" and not pgwire.rows(reply)
            svc.rows(pgwire.query("ROLLBACK"))
            assert slug_of(svc) == "beta"


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_nothing_runs_behind_the_end_in_the_same_pipeline(one_server, end):
    svc = login(one_server, "svc.beta")
    own = "SELECT current_setting('app.slug')"

    def unsynced(sql):
        return pgwire.parse(sql) + pgwire.bind() + pgwire.execute()
    for how in ("SET LOCAL weir.organization = acme", "SET weir.organization = acme"):
        begun(svc, how)
        reply = svc.run(unsynced(end), unsynced(own), pgwire.sync())
        assert [e["C"] for e in pgwire.errors(reply)] == ["0A000"]
        assert pgwire.rows(reply) == []
        assert slug_of(svc) == ("acme" if end == "COMMIT" and "LOCAL" not in how else "beta")
        svc.rows(pgwire.query("RESET weir.organization"))


# RESET ALL with others in a text.


@pytest.mark.parametrize("pinned", [False, True], ids=["shared", "pinned"])
@pytest.mark.parametrize("sql, stays", [
    ("RESET ALL; SELECT 1/0", True), ("SELECT 1/0; RESET ALL", True),
    ("SELECT 1; RESET ALL; SELECT nothing", True), ("RESET ALL; SELECT 1", False),
    ("BEGIN; RESET ALL; ROLLBACK", True), ("BEGIN; RESET ALL; COMMIT", False),
    ("BEGIN; RESET ALL; COMMIT; SELECT 1", False),
    ("RESET ALL; RESET nothing.at_all; SELECT 1/0", True), ("DISCARD ALL", False),
    ("SELECT 1; DISCARD ALL", True),        # not in a transaction block: an error
])
def test_a_RESET_ALL_counts_when_it_has_come_to_pass(one_server, sql, stays, pinned):
    svc = login(one_server, "svc.beta")
    if pinned:
        svc.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
    svc.rows(pgwire.query("SET weir.organization = acme"))
    svc.run(pgwire.query(sql))
    assert slug_of(svc) == ("acme" if stays else "beta")


@pytest.mark.parametrize("end, stays", [("COMMIT", False), ("ROLLBACK", True),
                                        ("SELECT 1/0", True)])
def test_a_RESET_ALL_in_a_transaction_counts_if_that_commits(one_server, end, stays):
    for first in ("SELECT 1", "SET LOCAL weir.organization = gamma"):
        svc = login(one_server, "svc.beta")
        svc.rows(pgwire.query("SET weir.organization = acme"))
        svc.rows(pgwire.query("BEGIN"))
        svc.rows(pgwire.query(first))
        svc.rows(pgwire.query("RESET ALL"))
        assert svc.value("SELECT count(*) FROM notes") == "0"
        svc.run(pgwire.query(end))
        if end == "SELECT 1/0":
            svc.rows(pgwire.query("COMMIT"))
        assert slug_of(svc) == ("acme" if stays else "beta")
        svc.close()


def test_clients_that_alternate_among_organizations_see_their_own_rows(proxy):
    """20 of psycopg2, half SET LOCAL per transaction, half SET in autocommit."""
    import threading
    wrong = []

    def work(n):
        db = proxy.psycopg2("svc")
        db.autocommit = n % 2 == 0
        cur = db.cursor()
        try:
            for i in range(30):
                slug = list(IDS)[(n + i) % 3]
                cur.execute("SET %s app.current_organization_id = %%s"
                            % ("LOCAL" if n % 2 else ""), [IDS[slug]])
                cur.execute("INSERT INTO notes (author, body) VALUES (%s, %s)",
                            ["switch", slug])
                cur.execute("SELECT DISTINCT organization_id::text, body FROM notes"
                            " WHERE author = 'switch'")
                got = cur.fetchall()
                if got != [(IDS[slug], slug)]:
                    wrong.append((slug, got))
                if n % 2:
                    (db.commit if i % 3 else db.rollback)()
        except Exception as e:
            wrong.append(repr(e))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]


def arrives(proxy, wire, data):
    """All that was sent before is with weir when another's questions are answered."""
    wire.send(data)
    with proxy.wire("acme_app") as other:
        for _ in range(2):
            other.value("SELECT 1")


CUT = {
    "a switch": lambda s: by_args(
        "SELECT set_config('app.current_organization_id', $1, false)", IDS[s]),
    "a switch with a name": lambda s: pgwire.parse(
        "SELECT set_config('app.current_organization_id', $1, false)", "cut") + pgwire.bind(
        [IDS[s]], "cut") + pgwire.describe() + pgwire.execute() + pgwire.sync(),
    "BEGIN": lambda s: pgwire.extended("BEGIN"),
}


@pytest.mark.parametrize("what", CUT)
def test_what_chooses_an_organization_may_arrive_in_pieces(proxy, what):
    svc = login(proxy, "svc.beta")
    whole = CUT[what]("acme")
    for at in [5, 30, *range(len(whole) - 30, len(whole), 3)]:
        arrives(proxy, svc, whole[:at])
        reply = svc.run(whole[at:])
        assert not pgwire.errors(reply), at
        if what == "BEGIN":
            svc.rows(pgwire.query("SET LOCAL weir.organization = acme"))
        assert slug_of(svc) == "acme"
        svc.rows(pgwire.query("COMMIT" if what == "BEGIN" else "RESET weir.organization"))
        svc.run(pgwire.close("S", "cut"), pgwire.sync())
        assert slug_of(svc) == "beta"


def test_a_switch_is_named_and_run_in_one_write(one_server):
    """As JDBC does once it has run a statement a few times."""
    svc = login(one_server, "svc.beta")
    for n in range(2):
        one, expected = CUT["a switch with a name"]("acme"), "12TDCZ"
        if n > 0:
            one, expected = one[one.index(b"B\0"):], "2TDCZ"
        assert pgwire.kinds(svc.run(one)) == expected
        assert slug_of(svc) == "acme"
        svc.rows(pgwire.query("RESET weir.organization"))
    # It is a name like any other.
    reply = svc.run(pgwire.parse("SELECT 1", "cut"), pgwire.sync())
    assert pgwire.errors(reply)[0]["C"] == "42P05"


def part(sql, *args, name=""):
    """As much of a statement as JDBC and Npgsql send in front of their Sync."""
    return (pgwire.parse(sql, name) + pgwire.bind(args, name) + pgwire.describe()
            + pgwire.execute())


CHOOSE = "SELECT set_config('app.current_organization_id', $1, %s)"


@pytest.mark.parametrize("name", ["", "begin"])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "SELECT 1/0"])
@pytest.mark.parametrize("local", ["true", "false"])
def test_begin_and_switch_and_the_first_statement_go_in_one_write(one_server, name, end, local):
    svc, acme = login(one_server, "svc.beta"), one_server.wire("acme_app")
    first, again = part("BEGIN", name=name), pgwire.bind(name=name) + pgwire.execute()
    for begin in [first, again if name else first]:
        reply = svc.run(begin, part(CHOOSE % local, IDS["gamma"]), part(OWN), pgwire.sync())
        assert pgwire.status(reply) == "T"
        assert pgwire.rows(reply) == [[GAMMA], [GAMMA]]
        assert slug_of(svc) == "gamma"
        svc.run(pgwire.query(end))
        if end == "SELECT 1/0":
            svc.rows(pgwire.query("COMMIT"))
        assert slug_of(svc) == ("gamma" if (end, local) == ("COMMIT", "false") else "beta")
        assert acme.value(OWN) == ACME
        svc.rows(pgwire.query("RESET weir.organization"))


def test_what_fails_behind_a_switch_in_one_write_undoes_it(one_server):
    svc = login(one_server, "svc.beta")
    reply = svc.run(part("BEGIN"), part(CHOOSE % "false", GAMMA), part("SELECT 1/0"),
                    part("SELECT 2"), pgwire.sync())
    assert [e["C"] for e in pgwire.errors(reply)] == ["22012"]
    assert pgwire.rows(reply) == [[GAMMA]] and pgwire.status(reply) == "E"
    svc.rows(pgwire.query("ROLLBACK"))
    assert slug_of(svc) == "beta"
    # Without BEGIN nobody could tell: there it is refused.
    for local in ("true", "false"):
        reply = svc.run(part(CHOOSE % local, GAMMA), part("SELECT 1/0"), pgwire.sync())
        assert [e["C"] for e in pgwire.errors(reply)] == ["0A000"]
        assert slug_of(svc) == "beta"
