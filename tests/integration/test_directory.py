"""Organizations that a database knows.

Goal: a new organization needs no restart, a changed one is changed for who logs
in next, a removed one is nobody's any more, and nothing of that costs a query
for each client; and when the directory cannot be asked, who is known gets in for
a while and who is not does not.
Method: a table behind a function that counts how often it was asked and waits
when told to; NOTIFY; a relay that breaks the line to it.
"""
import contextlib
import socket
import time

import pytest

import pgwire
import respwire
from servers import DATABASE, scaled, wait_for
from test_auth_query import held, in_background, joined

pytestmark = pytest.mark.weir_only

PASSWORD = "app-secret"
SCHEMA = """
CREATE ROLE weir_directory SUPERUSER LOGIN PASSWORD 'directory-secret';
CREATE SCHEMA directory;
CREATE TABLE directory.organizations (
    slug text PRIMARY KEY, id text, postgres text, dbname text, redis text,
    redis_user text, redis_password text, max_client_conn text, weight text,
    plan text, more text);
CREATE TABLE directory.asked (slug text);
-- Whoever holds lock 77 makes it wait.
CREATE FUNCTION directory.ask(text) RETURNS SETOF directory.organizations
LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO directory.asked VALUES ($1);
    PERFORM pg_advisory_xact_lock(77);
    RETURN QUERY SELECT * FROM directory.organizations o WHERE o.slug = $1;
END $$;
"""
COLUMNS = ("slug, id, postgres, dbname, redis, redis_user, redis_password, "
           "max_client_conn, weight, plan AS \"var.app.plan\"")
ID = "cccccccc-0000-4000-8000-00000000000%d"


@pytest.fixture(scope="module")
def source(pg):
    pg.run(SCHEMA)
    yield pg
    pg.run("DROP SCHEMA directory CASCADE")


@pytest.fixture
def table(source):
    """table(slug, id=..., ...): a row, in place of the one before."""
    source.run("TRUNCATE directory.organizations, directory.asked")

    def put(slug, notify=False, **columns):
        with contextlib.closing(source.connect()) as db, db.cursor() as cur:
            cur.execute("BEGIN; DELETE FROM directory.organizations WHERE slug = %s",
                        [slug])
            if columns:
                cur.execute(
                    "INSERT INTO directory.organizations (slug, %s) VALUES (%s)"
                    % (", ".join(columns), ", ".join(["%s"] * (len(columns) + 1))),
                    [slug, *columns.values()])
            if notify:
                cur.execute("SELECT pg_notify('Weir \"channel', %s)",
                            ["" if notify == "all" else slug])
            cur.execute("COMMIT")
    return put


def config(pg, source=None, **directory):
    return {"postgres source": {"host": "127.0.0.1", "port": pg.port,
                                "user": "weir_directory", "dbname": DATABASE,
                                "password": "directory-secret", "sslmode": "disable",
                                "pool_size": 2, **(source or {})},
            "database *": {"postgres": "main"},
            "user app": {"password": PASSWORD, "organizations": "*"},
            "user some": {"password": PASSWORD, "organizations": "acme, newco"},
            "directory": {"postgres": "source", "notify_channel": "Weir \"channel",
                          "query": "SELECT %s FROM directory.ask($1)" % COLUMNS,
                          "query_by_id": "SELECT slug, id FROM directory.organizations "
                                         "WHERE id = $1", **directory}}


def enter(w, slug, user="app", **options):
    wire = w.wire(login=False)
    wire.login("%s.%s" % (user, slug) if slug else user, DATABASE, PASSWORD, **options)
    return wire


def refused(w, slug, user="app", **options):
    with pytest.raises(pgwire.Failed) as e:
        enter(w, slug, user, **options)
    return e.value.code


def current(wire, name="app.current_organization_id"):
    return wire.value("SELECT current_setting('%s', true)" % name)


def redis_auth(w, slug):
    r = w.resp(login=False)
    return r, r.ask("AUTH", "app." + slug, PASSWORD)


def asked(pg, slug=None):
    return pg.run("SELECT count(*) FROM directory.asked WHERE slug = coalesce(%s, slug)",
                  [slug])[0][0]


def listens(pg, n=1):
    """Somebody hears a NOTIFY."""
    wait_for(lambda: len(pg.run(
        "SELECT 1 FROM pg_stat_activity WHERE usename = 'weir_directory' "
        "AND query LIKE 'LISTEN%%' AND state = 'idle'")) >= n, 10, "nobody listens")


def test_a_new_organization_needs_no_restart(weir, workers, source, table):
    w = weir(config(source, negative_ttl="0"), workers)
    for _ in range(2):
        assert refused(w, "newco") == "28000"
        answer = redis_auth(w, "newco")[1]
        assert isinstance(answer, respwire.Error) and "no such organization" in str(answer)
    table("newco", id=ID % 1, plan="%{organization.slug} gold", redis_user="acme",
          redis_password="acme-redis")
    wire = enter(w, "newco")
    assert current(wire) == ID % 1 and current(wire, "app.plan") == "newco gold"
    assert current(enter(w, "newco", "some")) == ID % 1
    assert refused(w, "newco", "acme_app") == "28P01"
    r, answer = redis_auth(w, "newco")
    assert answer == "OK"
    assert isinstance(r.ask("SET", "beta:k", "v"), respwire.Error)
    assert r.ask("SET", "acme:k", "v") == "OK"


def test_by_every_name_it_is_the_same(weir, source, table):
    table("newco", id=ID % 1)
    table("other", id=ID % 2)
    w = weir(config(source, notify_channel=None), 2)
    by_option = {"options": "-c weir.organization=newco"}
    by_id = {"app.current_organization_id": ID % 1}
    for slug, options in (("newco", {}), (None, by_option), (None, by_id),
                          ("newco", {**by_option, **by_id})):
        assert current(enter(w, slug, **options)) == ID % 1
    assert refused(w, "other", **by_option) == "28000"
    assert refused(w, "other", **by_id) == "28000"
    assert refused(w, None, **{"app.current_organization_id": ID % 9}) == "28000"
    assert refused(w, "other", "some") == "28000"       # not one of its own
    assert refused(w, "newco", "plain_app") == "28P01"
    assert asked(source, "newco") == 1


def test_what_is_no_slug_is_not_asked_for(weir, source, table):
    w = weir(config(source), 2)
    for slug in ("a b", "x" * 101, "a'b", "caf\u00e9", "*"):
        assert refused(w, slug) == "28000"
    assert refused(w, "unlisted", "some") == "28000"
    assert asked(source) == 0


def test_the_file_wins_over_the_directory(weir, source, table):
    table("acme", id=ID % 1)
    w = weir(config(source), 2)
    assert current(enter(w, "acme")) != ID % 1
    assert asked(source) == 0


@pytest.mark.parametrize("columns, why", [
    ({"id": ID % 1, "postgres": "nowhere"}, "postgres: expected the name of a"),
    ({"id": ID % 1, "redis": "nowhere"}, "redis: expected the name of a"),
    ({"id": ID % 1, "weight": "0"}, "weight: expected a whole number"),
    ({"id": ID % 1, "redis_user": "u"}, "only one of redis_user and redis_password"),
    ({"id": ID % 1, "plan": "%{nothing}"}, "var.app.plan: expected"),
    ({"id": "aaaaaaaa-0000-4000-8000-000000000001"}, "its id is that of"),
])
def test_a_row_that_is_no_good_is_refused_and_logged(weir, source, table, columns, why):
    table("newco", **columns)
    w = weir(config(source), 2)
    assert refused(w, "newco") == refused(w, "newco") == "28000"
    assert why in w.event("directory")[0]["error"]
    assert len(w.events("directory")) == 1


@pytest.mark.parametrize("query, why", [
    ("SELECT slug, id, more AS plan FROM directory.ask($1)", "plan: expected a column"),
    ("SELECT id FROM directory.ask($1)", "expected a column slug"),
    ("SELECT 'other' AS slug, id FROM directory.ask($1)", "the row is of another slug"),
    ("SELECT slug FROM directory.organizations WHERE slug <> $1 || 'x'", "more than one row"),
    ("SELECT slug FROM directory.nowhere WHERE slug = $1", "does not exist"),
])
def test_a_query_that_is_no_good_lets_nobody_in(weir, source, table, query, why):
    table("newco", id=ID % 1)
    table("other", id=ID % 2)
    w = weir(config(source, query=query))
    assert refused(w, "newco") in ("28000", "08006")
    assert why in w.event("directory")[0]["error"]


def test_a_change_is_heard_of_and_running_sessions_keep_theirs(weir, workers, source, table):
    table("newco", id=ID % 1, plan="silver")
    w = weir(config(source), workers)
    old = enter(w, "newco")
    listens(source)
    assert current(old, "app.plan") == "silver"
    for notify, plan in ((True, "gold"), ("all", "platinum")):
        table("newco", id=ID % 1, plan=plan, notify=notify)
        wait_for(lambda: current(enter(w, "newco"), "app.plan") == plan, 5, plan)
    assert current(old, "app.plan") == "silver"


def test_nobody_of_a_removed_organization_stays(weir, workers, source, table):
    table("newco", id=ID % 1, plan="silver", redis_user="acme", redis_password="acme-redis")
    w = weir(config(source), workers)
    idle, busy = enter(w, "newco"), enter(w, "newco")
    r, answer = redis_auth(w, "newco")
    assert answer == "OK" and r.ask("SET", "acme:k", "v") == "OK"
    listens(source)
    # Who came before a change hears of the end as well.
    table("newco", id=ID % 1, plan="gold", notify=True)
    wait_for(lambda: current(enter(w, "newco"), "app.plan") == "gold", 5, "gold")
    busy.rows(pgwire.query("BEGIN"))
    assert current(busy) == ID % 1
    table("newco", notify=True)
    wait_for(lambda: gone(w), 5, "newco still gets in")
    assert current(busy) == ID % 1      # its transaction ends as it likes
    busy.rows(pgwire.query("COMMIT"))
    for wire in (idle, busy):
        wire.send(pgwire.query("SELECT 1"))
        assert [e["C"] for e in pgwire.errors(wire.until_closed())] == ["57P01"]
    answer = r.ask("GET", "acme:k")
    assert isinstance(answer, respwire.Error) and "no more" in str(answer)
    table("newco", id=ID % 2, notify=True)
    wait_for(lambda: not gone(w), 5, "newco does not come back")
    assert current(enter(w, "newco")) == ID % 2


def gone(w):
    try:
        enter(w, "newco").close()
    except pgwire.Failed as e:
        assert e.code == "28000"
        return True
    return False


def test_answers_are_kept_and_so_is_that_there_is_none(weir, source, table):
    table("newco", id=ID % 1)
    w = weir(config(source), 2)
    listens(source)
    for _ in range(3):
        assert refused(w, "later") == "28000"
        enter(w, "newco").close()
    assert asked(source, "later") == asked(source, "newco") == 1
    table("later", id=ID % 2, notify=True)
    wait_for(lambda: outcome(w, "later") == ID % 2, 3, "what is new stays unknown")


def outcome(w, slug):
    try:
        return current(enter(w, slug))
    except pgwire.Failed as e:
        return e.code


def test_many_at_once_cost_one_query(weir, workers, source, table):
    table("newco", id=ID % 1)
    w = weir(dict(config(source, notify_channel=None), **{"user app": {"auth": "trust", "organizations": "*"}}),
             workers)
    with held(source):
        threads, results = in_background(lambda: current(enter(w, "newco")), 200)
        wait_for(lambda: w.metric("clients", "postgres") == 200
                 and source.run("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' "
                                "AND objid = 77 AND NOT granted"), 20, "200 who wait")
        r = w.resp(login=False)
        r.send(respwire.encode("AUTH", "app.newco", PASSWORD))
        for wire in (w.wire(login=False) for _ in range(5)):    # and some who leave
            wire.send(pgwire.startup("app.newco", DATABASE))
            wire.close()
    joined(threads)
    assert results == [ID % 1] * 200
    assert r.reply() == "OK"
    assert asked(source) == 1


def test_who_is_known_gets_in_while_the_directory_is_down(weir, source, table, relay):
    table("newco", id=ID % 1)
    table("later", id=ID % 2)
    line = relay(source.port)
    w = weir(config(source, {"port": line.port}, ttl="500ms"), 2)
    listens(source)
    assert outcome(w, "newco") == ID % 1
    line.stop()
    begun = time.monotonic()
    for _ in range(4):
        said = outcome(w, "newco")
        if time.monotonic() - begun > 3:    # on a slow machine
            break
        assert said == ID % 1
        assert outcome(w, "later") == "08006"
    # Not for ever: ten times ttl.
    wait_for(lambda: outcome(w, "newco") == "08006", 10, "newco gets in for ever")
    line.start()
    wait_for(lambda: outcome(w, "later") == ID % 2, 10, "later never gets in")
    assert outcome(w, "newco") == ID % 1


def test_what_was_said_while_nobody_listened_is_asked_for(weir, source, table, relay):
    table("newco", id=ID % 1)
    line = relay(source.port)
    w = weir(config(source, {"port": line.port}), 2)
    listens(source)
    assert outcome(w, "newco") == ID % 1
    assert outcome(w, "later") == "28000"
    line.stop()
    table("newco", id=ID % 3, notify=True)
    table("later", id=ID % 2, notify=True)
    line.start()
    wait_for(lambda: outcome(w, "newco") == ID % 3, 10, "the change went unheard")
    assert outcome(w, "later") == ID % 2


def test_a_reload_asks_again_and_may_bring_or_end_the_directory(weir, source, table):
    w = weir(dict(config(source), directory=None), 2)
    table("newco", id=ID % 1)
    assert outcome(w, "newco") == "28000"
    w.reload(config(source, notify_channel=None))
    wait_for(lambda: outcome(w, "newco") == ID % 1, 5, "the directory")
    table("newco", id=ID % 2)
    assert outcome(w, "newco") == ID % 1
    w.reload()
    wait_for(lambda: outcome(w, "newco") == ID % 2, 5, "the change")
    w.reload({"directory": None})
    wait_for(lambda: outcome(w, "newco") == "28000", 5, "the end of the directory")


# Who may choose, chooses one of the directory at run time.


TENANT = "app.current_organization_id"
SWITCHES = {
    "SET": pgwire.query("SET weir.organization = newco"),
    "SET of its id": pgwire.query("SET %s = '%s'" % (TENANT, ID % 1)),
    "set_config": pgwire.query("SELECT set_config('%s', '%s', false)" % (TENANT, ID % 1)),
    "set_config of a parameter": pgwire.extended(
        "SELECT set_config('%s', $1, false)" % TENANT, [ID % 1]),
    "a statement with a name": pgwire.parse(
        "SELECT set_config('weir.organization', $1, false)", "sw") + pgwire.describe("S", "sw")
    + pgwire.sync() + pgwire.bind(["newco"], "sw") + pgwire.execute() + pgwire.sync(),
}
BEFORE = {
    "between transactions": [],
    "first in a transaction": ["BEGIN"],
    "inside a transaction": ["BEGIN", "SELECT 1"],
    "on a server that is kept": ["CREATE TEMPORARY TABLE t (x int)"],
    "inside a transaction on a server that is kept": [
        "CREATE TEMPORARY TABLE t (x int)", "BEGIN"],
}


def put(wire, *messages):
    """All at once; no error."""
    wire.send(*messages)
    count = b"".join(messages).count(pgwire.sync())
    reply = wire.until(count=max(count, 1))
    assert not pgwire.errors(reply), reply


@pytest.mark.parametrize("before", BEFORE)
def test_an_organization_of_the_directory_is_chosen(weir, workers, source, table, before):
    table("newco", id=ID % 1, plan="gold")
    table("other", id=ID % 2, plan="silver")
    w = weir(config(source), workers)
    for way in SWITCHES.values():
        for home, home_id in ((None, ""), ("other", ID % 2)):
            wire = enter(w, home)
            for sql in BEFORE[before]:
                wire.run(pgwire.query(sql))
            put(wire, way)
            assert current(wire) == ID % 1 and current(wire, "app.plan") == "gold"
            if "BEGIN" in BEFORE[before]:
                wire.rows(pgwire.query("COMMIT"))
                assert current(wire) == ID % 1
            wire.rows(pgwire.query("RESET weir.organization"))
            assert current(wire) == home_id
            wire.close()
    assert asked(source, "newco") <= 2      # by its slug; and what a lapse may cost


@pytest.mark.parametrize("local", ["SET LOCAL weir.organization = newco",
                                   "SELECT set_config('weir.organization', 'newco', true)"])
@pytest.mark.parametrize("inside", [False, True])
def test_one_of_the_directory_may_be_local(weir, source, table, local, inside):
    table("newco", id=ID % 1, plan="gold")
    w = weir(dict(config(source), **{"postgres main": {"pool_size": 1}}), 1)
    wire, other = enter(w, "acme"), w.wire("beta_app")
    home = current(wire)
    for end in ("COMMIT", "ROLLBACK"):
        wire.rows(pgwire.query("BEGIN"))
        if inside:
            wire.rows(pgwire.query("SELECT 1"))
        wire.rows(pgwire.query(local))
        assert (current(wire), current(wire, "app.plan")) == (ID % 1, "gold")
        wire.rows(pgwire.query(end))
        assert current(other, "app.plan") in ("", None)
        assert (current(wire), current(wire, "app.plan")) == (home, "")


def test_while_it_is_looked_up_its_session_waits_and_others_do_not(weir, workers, source,
                                                                   table):
    table("newco", id=ID % 1)
    w = weir(dict(config(source, notify_channel=None), **{"postgres main": {"pool_size": 1}}),
             workers)
    free, kept, inside = enter(w, None), enter(w, None), enter(w, None)
    gone = enter(w, None)
    own = "SELECT current_setting('%s')" % TENANT
    with held(source):
        for wire in (free, gone):
            wire.send(pgwire.query("SET weir.organization = newco"), pgwire.query(own))
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 " \
                  "AND NOT granted"
        wait_for(lambda: source.run(waiting), 10, "a question")
        for _ in range(20):
            assert w.wire("acme_app").value("SELECT 1") == "1"
        gone.close()
    assert [pgwire.rows(free.until()) for _ in range(2)] == [[], [[ID % 1]]]
    # With a server in hand it waits as well.
    table("late", id=ID % 2)
    table("later", id=ID % 3)
    with held(source):
        inside.rows(pgwire.query("BEGIN"))
        inside.rows(pgwire.query("SELECT 1"))
        inside.send(pgwire.query("SET LOCAL weir.organization = late"), pgwire.query(own))
        wait_for(lambda: source.run(waiting), 10, "a question")
    assert [pgwire.rows(inside.until()) for _ in range(2)] == [[], [[ID % 2]]]
    inside.rows(pgwire.query("COMMIT"))
    kept.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
    with held(source):
        kept.send(pgwire.extended("SELECT set_config('weir.organization', 'later', false)"),
                  pgwire.extended(own))
        wait_for(lambda: source.run(waiting), 10, "a question")
    assert [pgwire.rows(kept.until()) for _ in range(2)] == [[["later"]], [[ID % 3]]]


@pytest.mark.parametrize("before", ["between transactions", "inside a transaction",
                                    "on a server that is kept"])
def test_who_closes_its_side_while_one_is_looked_up_is_answered(weir, source, table, before):
    table("newco", id=ID % 1)
    w = weir(config(source, notify_channel=None), 1)
    wire = enter(w, None)
    for sql in BEFORE[before]:
        wire.run(pgwire.query(sql))
    with held(source):
        wire.send(pgwire.query("SET weir.organization = newco"),
                  pgwire.query("SELECT current_setting('%s')" % TENANT))
        wait_for(lambda: source.run("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
                                    " AND objid = 77 AND NOT granted"), 10, "a question")
        wire.sock.shutdown(socket.SHUT_WR)
        w.wire("acme_app").value("SELECT 1")        # it has been heard
    assert pgwire.kinds(reply := wire.until_closed()) == "CZTDCZ"
    assert pgwire.rows(reply) == [[ID % 1]]
    w.hang_up()
    w.settled()


@pytest.mark.parametrize("before", BEFORE)
def test_one_that_nobody_knows_is_refused_and_nothing_changes(weir, source, table, before):
    table("unlisted", id=ID % 2)
    w = weir(config(source), 2)
    for send in (pgwire.query, pgwire.extended):
        wire = enter(w, "acme", "some")
        home = current(wire)
        for sql in BEFORE[before]:
            wire.run(pgwire.query(sql))
        for sql in ("SET weir.organization = 'newco'", "SET weir.organization = 'unlisted'",
                    "SET %s = '%s'" % (TENANT, ID % 1), "SET %s = '%s'" % (TENANT, ID % 2)):
            reply = wire.run(send(sql))
            expected = "42501"
            if pgwire.status(reply) == "E" and sql != "SET weir.organization = 'newco'":
                expected = "25P02"
            assert [e["C"] for e in pgwire.errors(reply)] == [expected]
        if pgwire.status(reply) == "E":
            wire.rows(pgwire.query("ROLLBACK"))
        assert current(wire) == home
        wire.close()


def test_when_the_directory_is_down_a_switch_says_so_and_the_session_lives(
        weir, source, table, relay):
    table("newco", id=ID % 1)
    table("later", id=ID % 2)
    line = relay(source.port)
    w = weir(config(source, {"port": line.port}), 2)
    listens(source)
    wire = enter(w, "acme")
    home = current(wire)
    wire.rows(pgwire.query("SET weir.organization = newco"))
    wire.rows(pgwire.query("RESET weir.organization"))
    line.stop()
    for send in (pgwire.query, pgwire.extended):
        for n in range(2):
            if n:
                wire.rows(pgwire.query("BEGIN"))
            reply = wire.run(send("SET weir.organization = later"))
            (error,) = pgwire.errors(reply)
            assert error["C"] == "08006" and "cannot be looked up now" in error["M"]
            if n:
                wire.rows(pgwire.query("ROLLBACK"))
            assert current(wire) == home
    wire.rows(pgwire.query("SET weir.organization = newco"))    # who is known is known
    assert current(wire) == ID % 1
    line.start()

    def again():
        return not pgwire.errors(wire.run(pgwire.query("SET weir.organization = later")))
    wait_for(again, 10, "later is never found")
    assert current(wire) == ID % 2


def test_who_has_chosen_one_that_is_removed_hears_of_it(weir, workers, source, table):
    table("newco", id=ID % 1)
    w = weir(config(source), workers)
    listens(source)
    chosen, inside, kept, home = (enter(w, s) for s in (None, "acme", None, None))
    kept.rows(pgwire.query("CREATE TEMPORARY TABLE t (x int)"))
    inside.rows(pgwire.query("BEGIN"))
    inside.rows(pgwire.query("SET LOCAL weir.organization = newco"))
    for wire in (chosen, kept, home):
        wire.rows(pgwire.query("SET weir.organization = newco"))
    for wire in (chosen, kept, inside, home):
        assert current(wire) == ID % 1
    home.rows(pgwire.query("RESET weir.organization"))
    table("newco", notify=True)
    wait_for(lambda: gone(w), 5, "newco still gets in")
    assert current(inside) == ID % 1        # its transaction ends as it likes
    inside.rows(pgwire.query("COMMIT"))
    assert current(inside) != ID % 1 and current(home) == ""
    for wire in (chosen, kept):
        wire.send(pgwire.query("SELECT 1"))
        assert [e["C"] for e in pgwire.errors(wire.until_closed())] == ["57P01"]
    reply = home.run(pgwire.query("SET weir.organization = newco"))
    assert [e["C"] for e in pgwire.errors(reply)] == ["42501"]


def test_what_is_changed_is_changed_for_who_chooses_it_next(weir, source, table):
    table("newco", id=ID % 1, plan="silver")
    w = weir(config(source), 2)
    listens(source)
    wire = enter(w, None)
    wire.rows(pgwire.query("SET weir.organization = newco"))
    table("newco", id=ID % 1, plan="gold", notify=True)
    wait_for(lambda: current(enter(w, "newco"), "app.plan") == "gold", 5, "gold")
    assert current(wire, "app.plan") == "silver"
    wire.rows(pgwire.query("SET weir.organization = newco"))
    assert current(wire, "app.plan") == "gold"
