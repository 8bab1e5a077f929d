"""
Several hosts per upstream, and servers that die: a primary and a streaming
standby of our own, stopped and promoted under weir; and servers that are
terminated while they are idle, which no client may notice.
"""
import os
import pwd
import shutil
import subprocess
import threading

import pytest

import pgwire
import servers
from pgwire import query
from servers import UPSTREAM_PASSWORD, UPSTREAM_USER, find_tool, free_port, wait_for

pytestmark = pytest.mark.weir_only

WHO = "SELECT inet_server_port()"


def ask(weir, sql=WHO):
    """From a new client, or None."""
    try:
        with weir.wire("acme_app", timeout=20) as wire:
            return wire.value(sql)
    except (pgwire.Failed, pgwire.Closed, OSError):
        return None


def hosts(*ports, **keys):
    keys["host"] = ",".join("127.0.0.1:%d" % port for port in ports)
    return {"postgres main": keys}


# Which host.


def test_a_dead_host_is_passed_over_and_no_client_hears_of_it(weir, workers, pg):
    w = weir(hosts(free_port(), pg.port), workers)
    assert {ask(w) for _ in range(8)} == {str(pg.port)}
    assert w.event("host-down")
    assert not w.events("upstream-down")


def test_all_hosts_dead_is_told_for_each(weir, workers):
    dead = free_port(), free_port()
    w = weir(hosts(*dead), workers)
    with pytest.raises(pgwire.Failed) as e:
        with w.wire("acme_app") as wire:
            wire.rows(query("SELECT 1"))
    assert e.value.code == "08006"
    for port in dead:
        assert "127.0.0.1:%d: Connection refused" % port in e.value.text


def test_a_silent_host_costs_the_first_client_its_time_and_nobody_else(
        weir, pg, relay):
    line = relay(pg.port)
    line.stalled = True
    w = weir(dict(hosts(line.port, pg.port),
                  weir={"server_connect_timeout": 3, "server_login_retry": 60}))
    assert ask(w) == str(pg.port)
    before = line.accepted
    clients = [w.wire() for _ in range(3)]
    for c in clients:
        c.run(query("BEGIN"))
        assert c.value(WHO) == str(pg.port)
    assert line.accepted - before <= 1


def test_the_name_in_the_certificate_is_that_of_the_host_dialled(weir, authority, pg):
    keys = dict(sslmode="verify-full", sslrootcert=authority.crt)
    other = "127.0.0.2:%d" % pg.port                # not in the certificate
    w = weir({"postgres main": dict(keys, host="%s,localhost:%d" % (other, pg.port))})
    assert ask(w) == str(pg.port)
    assert "mismatch" in w.event("host-down")[0]["line"]


# Servers that die while they are idle.


def terminate(pg, where="true"):
    """Returns when they are gone; how many."""
    return len(pg.run("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                      " WHERE usename = %%s AND %s" % where, [UPSTREAM_USER]))


def test_idle_servers_are_terminated_and_none_of_50_clients_notices(weir, workers, pg):
    w = weir({"postgres main": {"pool_size": 20}}, workers)
    rounds, wrong = 4, []
    gate = threading.Barrier(51)

    def work(n):
        with w.wire(servers.OPEN_USER, timeout=30) as wire:
            for i in range(rounds):
                gate.wait()
                try:
                    assert wire.value("SELECT %d" % (n * 100 + i)) == str(n * 100 + i)
                except Exception as e:
                    wrong.append(e)
                gate.wait()
    threads = [threading.Thread(target=work, args=[n]) for n in range(50)]
    for t in threads:
        t.start()
    killed = 0
    for _ in range(rounds):
        gate.wait()         # all ask ...
        gate.wait()         # ... and all have heard
        killed += terminate(pg)
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]
    assert killed >= rounds


def test_who_is_terminated_at_work_hears_08006_and_nothing_is_repeated(
        weir, workers, pg):
    w = weir({}, workers)
    busy = w.wire()
    busy.send(query("SELECT pg_sleep(20)"))
    wait_for(lambda: terminate(pg, "query LIKE '%%pg_sleep%%'"), 5, "no such query")
    reply = busy.until_closed()
    error = pgwire.errors(reply)
    assert [e["C"] for e in error] == ["08006"] and error[0]["S"] == "FATAL"
    assert "administrator command" in error[0]["M"]


# A primary and its standby.


class Pair:
    """A primary, and a standby that streams from it."""

    def __init__(self, folder):
        self.folder = os.path.join(folder, "pair")
        os.mkdir(self.folder)
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            who = pwd.getpwnam(self.user)
            os.chown(self.folder, who.pw_uid, who.pw_gid)
        self.ports = free_port(), free_port()
        self.server = [servers.Server(self.folder), servers.Server(self.folder)]
        self.tool("initdb", "-D", self.data(0), "-U", "postgres", "-A", "trust",
                  "-E", "UTF8", "--locale=C", "--no-sync")
        self.start(0)
        self.run(0, "CREATE ROLE %s LOGIN PASSWORD '%s'"
                 % (UPSTREAM_USER, UPSTREAM_PASSWORD))
        self.run(0, "CREATE DATABASE " + servers.DATABASE)
        self.tool("pg_basebackup", "-D", self.data(1), "-R", "-X", "stream", "-c",
                  "fast", "--no-sync", "-h", self.folder, "-p", str(self.ports[0]),
                  "-U", "postgres")
        self.start(1)

    def data(self, i):
        return os.path.join(self.folder, "data%d" % i)

    def tool(self, name, *args):
        s = servers.Server(self.folder)
        s.spawn([find_tool(name), *args], "tools.log", self.user)
        assert s.process.wait() == 0, "%s failed, see %s" % (name, self.folder)

    def start(self, i):
        settings = {
            "port": self.ports[i], "unix_socket_directories": self.folder,
            "listen_addresses": "127.0.0.1", "fsync": "off", "max_connections": 50,
            "shared_buffers": "16MB", "autovacuum": "off", "hot_standby": "on",
            "wal_retrieve_retry_interval": "100ms"}
        argv = [find_tool("postgres"), "-D", self.data(i)]
        for item in settings.items():
            argv += ["-c", "%s=%s" % item]
        self.server[i].spawn(argv, "postgres%d.log" % i, self.user)
        wait_for(lambda: self.answers(i), 30, "no server, see " + self.folder)

    def answers(self, i):
        import psycopg2
        try:
            return self.run(i, "SELECT 1")
        except psycopg2.OperationalError:
            return False

    def run(self, i, sql):
        import contextlib
        import psycopg2
        with contextlib.closing(psycopg2.connect(
                host=self.folder, port=self.ports[i], user="postgres",
                dbname="postgres")) as db:
            db.autocommit = True
            with db.cursor() as cur:
                cur.execute(sql)
                return cur.fetchall() if cur.description else []

    def stop(self):
        import signal
        for s in self.server:
            s.stop(signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def pair(folder):
    p = Pair(folder)
    yield p
    p.stop()


def test_a_primary_that_dies_is_followed_to_the_standby_that_is_promoted(weir, pair):
    import signal
    primary, standby = map(str, pair.ports)
    writer = weir(hosts(*pair.ports, target_role="primary"), 2)
    turned = weir(hosts(*reversed(pair.ports), target_role="primary"))
    reader = weir(hosts(*pair.ports, target_role="standby"), 2)
    alone = weir(hosts(pair.ports[1], target_role="primary"))
    assert {ask(writer) for _ in range(6)} == {primary}
    assert {ask(turned) for _ in range(6)} == {primary}
    assert {ask(reader) for _ in range(6)} == {standby}
    with pytest.raises(pgwire.Failed) as e:
        with alone.wire("acme_app") as wire:
            wire.rows(query("SELECT 1"))
    assert e.value.code == "08006" and "is a standby" in e.value.text

    held = reader.wire()
    held.run(query("BEGIN"))
    assert held.value(WHO) == standby
    pair.server[0].stop(signal.SIGQUIT)
    assert ask(writer) is None          # nobody fits: an error, and soon
    pair.tool("pg_ctl", "-D", pair.data(1), "promote")
    for w in (writer, turned, alone):
        wait_for(lambda w=w: ask(w) == standby, 10, "did not follow the primary")
        assert ask(w, "SELECT pg_is_in_recovery()") == "f"
    # A session keeps its transaction, and its server goes when that is over.
    assert held.value("SELECT pg_is_in_recovery()") == "f"
    held.run(query("COMMIT"))
    wait_for(lambda: ask(reader) is None, 10, "a primary is taken for a standby")
