"""Replication connections.

Goal: whatever speaks to a walsender -- a standby, pg_basebackup, pg_receivewal,
pg_recvlogical, a subscription, a program of one's own -- may speak to weir
instead, where the operator says so; each on a server of its own that nobody had
before and nobody gets after, and never for users of an organization.
Method: a primary that keeps WAL and a second cluster, both for this file alone,
PostgreSQL's own programs, and the protocol by hand.
"""
import contextlib
import os
import shutil
import signal
import subprocess
import time

import pytest

import pgwire
import servers
from pgwire import query
from servers import DATABASE, USERS, find_tool, scaled, wait_for

pytestmark = pytest.mark.weir_only


class Cluster(servers.Postgres):
    SETTINGS = {"wal_level": "logical", "max_wal_senders": 20,
                "max_replication_slots": 20, "hot_standby": "on",
                "wal_receiver_status_interval": 1, "wal_retrieve_retry_interval": 200}

    def _initdb(self):
        super()._initdb()
        with open(os.path.join(self.data, "pg_hba.conf"), "a") as f:
            f.write("host replication all 127.0.0.0/8 scram-sha-256\n")

    def walsenders(self):
        return [pid for pid, in self.run(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'")]


def cluster(folder, authority, name):
    path = os.path.join(folder, name)
    os.mkdir(path)
    return Cluster(path, authority)


@pytest.fixture(scope="module")
def primary(folder, authority):
    server = cluster(folder, authority, "primary")
    server.run("CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'upstream-secret';"
               "CREATE TABLE words (n int PRIMARY KEY, word text);"
               "GRANT SELECT ON words TO replicator;"
               "CREATE PUBLICATION all_words FOR TABLE words")
    yield server
    server.stop()


def config(primary, **upstream):
    return {"weir": {"workers": 2, "query_wait_timeout": 3},
            "postgres main": {"port": primary.port, "user": "replicator",
                              "max_replication_connections": 4, **upstream}}


@pytest.fixture
def through(weir, primary):
    """A weir before the primary; afterwards no walsender may be left."""
    w = weir(config(primary))
    yield w
    w.hang_up()
    wait_for(lambda: not primary.walsenders(), 10, "a walsender is left")


@contextlib.contextmanager
def slot(primary, name, kind="physical"):
    primary.run("SELECT pg_create_%s_replication_slot(%%s%s)"
                % (kind, ", 'test_decoding'" if kind == "logical" else ""), [name])
    yield name
    wait_for(lambda: primary.run(
        "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND NOT active",
        [name]), 10, "the slot is still in use")
    primary.run("SELECT pg_drop_replication_slot(%s)", [name])


def tool(w, name, *args, user="plain_app", sslmode="disable", **dsn):
    """Start one of PostgreSQL's programs against weir."""
    dsn = dict(host="localhost", port=w.pg_port, user=user, sslmode=sslmode,
               password=USERS[user][1], **dsn)
    return subprocess.Popen(
        [find_tool(name), "-d", " ".join("%s=%s" % x for x in dsn.items()), *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process, seconds=60):
    out, err = process.communicate(timeout=scaled(seconds))
    assert process.returncode == 0, err
    return out


@pytest.fixture(params=["disable", "require"])
def sslmode(request):
    return request.param


# PostgreSQL's own programs.


def test_a_base_backup_with_its_wal_comes_through_and_is_complete(
        through, tmp_path, sslmode):
    target = str(tmp_path / "backup")
    finished(tool(through, "pg_basebackup", "-D", target, "-X", "stream", "-c", "fast",
                  "--no-sync", sslmode=sslmode))
    subprocess.run([find_tool("pg_verifybackup"), target], check=True,
                   capture_output=True)


def test_pg_receivewal_writes_what_the_primary_wrote(through, primary, tmp_path):
    with slot(primary, "wal"):
        process = tool(through, "pg_receivewal", "-D", str(tmp_path), "--slot", "wal",
                       "--synchronous", "--status-interval=1")
        wait_for(lambda: primary.run("SELECT 1 FROM pg_stat_replication "
                                     "WHERE application_name = 'pg_receivewal' "
                                     "AND state = 'streaming'"))
        primary.run("INSERT INTO words VALUES (1000, 'received'); SELECT pg_switch_wal()")
        lsn, name = primary.run("SELECT pg_current_wal_lsn(), "
                                "pg_walfile_name(pg_current_wal_lsn())")[0]
        wait_for(lambda: primary.run(
            "SELECT 1 FROM pg_stat_replication WHERE flush_lsn >= %s", [lsn]),
            20, "status updates do not reach the primary")
        process.send_signal(signal.SIGINT)
        finished(process)
    primary.run("DELETE FROM words")
    files = [f for f in os.listdir(tmp_path) if not f.endswith(".partial")]
    assert files, "no complete segment"
    with open(os.path.join(primary.data, "pg_wal", files[0]), "rb") as f:
        assert f.read() == (tmp_path / files[0]).read_bytes()


def test_pg_recvlogical_decodes_what_was_written(through, primary, sslmode):
    with slot(primary, "logical", "logical"):
        process = tool(through, "pg_recvlogical", "--slot", "logical", "--start", "-f", "-",
                       "--status-interval=1", sslmode=sslmode, dbname=DATABASE)
        primary.run("INSERT INTO words VALUES (1, 'one')")
        line = ""
        while "INSERT" not in line:
            line = process.stdout.readline()
            assert line, process.stderr.read()
        assert "n[integer]:1 word[text]:'one'" in line
        process.send_signal(signal.SIGINT)
        finished(process)
    primary.run("DELETE FROM words")


def test_a_standby_follows_and_is_told_apart_by_its_name(
        through, primary, folder, tmp_path):
    path = os.path.join(folder, "standby")
    finished(tool(through, "pg_basebackup", "-D", path, "-c", "fast", "--no-sync"))
    standby = Standby(path, primary)
    try:
        standby.start("host=127.0.0.1 port=%d user=plain_app password=%s "
                      "application_name=the_standby sslmode=disable"
                      % (through.pg_port, USERS["plain_app"][1]))
        primary.run("INSERT INTO words VALUES (2, 'two')")
        wait_for(lambda: standby.words() == [(2, "two")], 20, "it does not follow")
        assert primary.run("SELECT application_name FROM pg_stat_replication") == [
            ("the_standby",)]
    finally:
        standby.stop()
        primary.run("DELETE FROM words")


class Standby(servers.Server):
    """A backup of the primary, started as one."""

    def __init__(self, data, primary):
        super().__init__(data)
        self.port, self.user = servers.free_port(), primary.user
        for name in ("postgresql.auto.conf", "standby.signal"):
            open(os.path.join(data, name), "a").close()
        for path, _, names in os.walk(data):
            for name in [""] + names:
                if self.user:
                    shutil.chown(os.path.join(path, name), self.user, self.user)

    def start(self, primary_conninfo):
        argv = [find_tool("postgres"), "-D", self.folder]
        for name, value in dict(Cluster.SETTINGS, port=self.port,
                                max_connections=300, fsync="off",
                                listen_addresses="127.0.0.1", shared_buffers="64MB",
                                unix_socket_directories=self.folder,
                                primary_conninfo=primary_conninfo).items():
            argv += ["-c", "%s=%s" % (name, value)]
        self.spawn(argv, "standby.log", self.user)
        wait_for(lambda: self.words() is not None, 30, "no standby, see " + self.folder)

    def words(self):
        import psycopg2
        try:
            with contextlib.closing(psycopg2.connect(
                    host=self.folder, port=self.port, user="postgres",
                    dbname=DATABASE)) as db, db.cursor() as cur:
                cur.execute("SELECT * FROM words")
                return cur.fetchall()
        except psycopg2.OperationalError:
            return None

    def stop(self, sig=signal.SIGINT):
        super().stop(sig)


def test_a_subscription_copies_and_then_follows(through, primary, folder, authority):
    primary.run("INSERT INTO words VALUES (1, 'before')")
    other = cluster(folder, authority, "subscriber")
    try:
        other.run("CREATE TABLE words (n int PRIMARY KEY, word text)")
        other.run("CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1 port=%d "
                  "user=plain_app password=%s dbname=%s sslmode=disable' "
                  "PUBLICATION all_words" % (through.pg_port, USERS["plain_app"][1],
                                             DATABASE))

        def has(*words):
            wait_for(lambda: [w for w, in other.run("SELECT word FROM words ORDER BY n")]
                     == list(words), 20, "the subscriber has not %r" % (words,))
        has("before")
        primary.run("INSERT INTO words VALUES (2, 'after')")
        has("before", "after")
        # What copied the table takes its leave by itself.
        wait_for(lambda: primary.run("SELECT application_name FROM pg_stat_replication")
                 == [("sub",)], 20, "more than the subscription follows")
        primary.run("UPDATE words SET word = repeat('x', 300000) WHERE n = 2")
        has("before", "x" * 300000)
        other.run("DROP SUBSCRIPTION sub")
        assert primary.run("SELECT * FROM pg_replication_slots") == []
    finally:
        other.stop()
        primary.run("DELETE FROM words")


# By hand.


def walsender(w, replication="database", user="plain_app", **options):
    return w.wire(user, replication=replication, **options)


def code_of_refusal(w, user="plain_app", **options):
    with pytest.raises(pgwire.Failed) as failed:
        walsender(w, user=user, **options)
    return failed.value


@pytest.mark.parametrize("word", ["true", "on", "YES", "1"])
def test_every_word_for_yes_makes_a_physical_walsender(through, word):
    a = walsender(through, word)
    assert pgwire.kinds(a.run(query("IDENTIFY_SYSTEM"))) == "TDCZ"
    assert pgwire.errors(a.run(query("SELECT 1")))[0]["C"] == "0A000"


@pytest.mark.parametrize("word", ["false", "off", "No", "0"])
def test_every_word_for_no_makes_an_ordinary_client(through, primary, word):
    a = walsender(through, word)
    assert a.value("SELECT backend_type FROM pg_stat_activity "
                   "WHERE pid = pg_backend_pid()") == "client backend"


def test_any_other_word_is_a_protocol_violation(through):
    assert code_of_refusal(through, replication="maybe").code == "08P01"


def test_settings_of_the_startup_packet_are_the_walsenders_own(through):
    a = walsender(through, application_name="hand", options="-c datestyle=German")
    assert a.parameters["application_name"] == "hand"
    assert a.parameters["DateStyle"].startswith("German")
    assert a.value("SHOW datestyle").startswith("German")
    assert a.value("SHOW application_name") == "hand"
    # What other clients get at every transaction it got once.
    assert a.value("SELECT current_setting('app.current_organization_id')") == ""


def test_a_wrong_setting_fails_its_own_log_in_and_no_other(through):
    for _ in range(3):
        assert code_of_refusal(through, options="-c work_mem=much").code == "22023"
        walsender(through).close()


def test_a_message_may_come_byte_by_byte(through):
    a = walsender(through)
    for byte in query("SELECT 'whole'"):
        a.send(bytes([byte]))
    assert pgwire.rows(a.until()) == [["whole"]]


def test_several_commands_may_be_on_their_way(through):
    a = walsender(through)
    a.send(query("SELECT 1"), query("IDENTIFY_SYSTEM"), query("SELECT 1/0"), query("SELECT 2"))
    assert pgwire.kinds(a.until(count=4)) == "TDCZTDCZEZTDCZ"


def test_a_walsender_is_nobodys_before_and_after(through, primary):
    seen = set()
    for _ in range(5):
        a = walsender(through)
        pid = a.value("SELECT pg_backend_pid()")
        a.run(query("SET work_mem = '5MB'"))
        assert pid not in seen
        seen.add(pid)
        assert len(primary.walsenders()) == 1
        a.send(pgwire.terminate())
        a.close()
        wait_for(lambda: not primary.walsenders())
    # Nor has an ordinary client ever been on one.
    assert through.wire("plain_app").value("SELECT pg_backend_pid()") not in seen


def test_a_client_that_vanishes_takes_its_walsender_with_it(through, primary):
    with slot(primary, "gone"):
        a = walsender(through, "true")
        a.send(query("START_REPLICATION SLOT gone PHYSICAL 0/1000000"))
        assert a.until("WE")[-1][0] == "W"
        a.close()
        wait_for(lambda: not primary.walsenders(), 10, "its walsender is left")


def test_a_cancel_request_reaches_the_walsender(through, primary):
    a = walsender(through)
    a.send(query("SELECT pg_sleep(60)"))
    wait_for(lambda: primary.run("SELECT 1 FROM pg_stat_activity WHERE state = 'active' "
                                 "AND query = 'SELECT pg_sleep(60)'"))
    b = through.wire(login=False)
    b.send(pgwire.cancel_request(a.pid, a.secret))
    assert pgwire.errors(a.until())[0]["C"] == "57014"


def test_what_the_server_says_last_is_the_last(through, primary):
    a = walsender(through)
    primary.run("SELECT pg_terminate_backend(%s)", primary.walsenders())
    assert [e["C"] for e in pgwire.errors(a.until_closed())] == ["57P01"]


def test_a_malformed_message_ends_the_connection(through, primary):
    a = walsender(through)
    a.send(b"Q\0\0\0\3")
    assert pgwire.errors(a.until_closed())[0]["C"] == "08P01"
    wait_for(lambda: not primary.walsenders())


# What the operator says.


def test_without_the_key_they_are_refused_and_told_why(weir, primary):
    w = weir(config(primary, max_replication_connections=None))
    for word in ("true", "database"):
        refusal = code_of_refusal(w, replication=word)
        assert refusal.code == "0A000"
        assert "max_replication_connections of [postgres main]" in refusal.text
    assert walsender(w, "false").value("SELECT 1") == "1"


def test_users_of_an_organization_are_refused(through):
    for word in ("true", "database"):
        assert code_of_refusal(through, "acme_app", replication=word).code == "42501"


def test_a_wrong_password_is_refused_before_anything_is_said(through):
    a = through.wire(login=False)
    a.send(pgwire.startup("plain_app", DATABASE, replication="database"))
    with pytest.raises(pgwire.Failed) as failed:
        a.authenticate("plain_app", "not this")
    assert failed.value.code == "28P01"


def test_there_are_as_many_as_the_key_says_and_not_one_more(weir, primary):
    w = weir(config(primary, max_replication_connections=2, pool_size=1))
    kept = [walsender(w), walsender(w, "true")]
    assert code_of_refusal(w).code == "53300"
    assert w.wire("plain_app").value("SELECT 1") == "1"     # pool_size is another matter
    kept.pop().close()
    walsender(w)


def test_a_role_that_may_not_replicate_is_refused_by_the_server(weir, primary):
    w = weir(config(primary, user="weir_upstream"))
    refusal = code_of_refusal(w)
    assert "replication" in refusal.text and refusal.code == "42501"


def test_no_timeout_ends_an_idle_stream(weir, primary):
    changes = config(primary)
    changes["weir"].update({name: "300ms" for name in (
        "client_idle_timeout", "query_timeout", "transaction_timeout",
        "idle_transaction_timeout", "server_lifetime", "server_idle_timeout")})
    w = weir(changes)
    with slot(primary, "idle"):
        a, b = walsender(w, "true"), walsender(w)
        a.send(query("START_REPLICATION SLOT idle PHYSICAL 0/1000000"))
        assert a.until("WE")[-1][0] == "W"
        time.sleep(scaled(1))
        assert b.value("SELECT 1") == "1"
        a.send(pgwire.copy_done())
        assert pgwire.kinds(a.until())[-1] == "Z"
        a.close()


def test_a_drain_ends_streams_at_once_and_says_so(weir, primary):
    w = weir(config(primary))
    with slot(primary, "drain"):
        a, b = walsender(w, "true"), walsender(w)
        a.send(query("START_REPLICATION SLOT drain PHYSICAL 0/1000000"))
        assert a.until("WE")[-1][0] == "W"
        began = time.monotonic()
        w.signal(signal.SIGTERM)
        for wire in (a, b):
            assert pgwire.errors(wire.until_closed())[-1]["C"] == "57P01"
            wire.close()
        assert w.wait(8) == 0
        w.over = True
        assert time.monotonic() - began < scaled(9)


def test_a_drain_lets_a_base_backup_finish(weir, primary):
    w = weir(config(primary))
    a = walsender(w, "true")
    a.send(query("BASE_BACKUP (CHECKPOINT 'fast')"))
    a.until("d")
    w.signal(signal.SIGTERM)
    wait_for(lambda: not servers.accepts(w.pg_port), 5)
    reply = a.until_closed()
    assert pgwire.kinds(reply)[-2:] == "ZE"
    assert pgwire.errors(reply)[0]["C"] == "57P01"
    a.close()
    assert w.wait(8) == 0
    w.over = True
