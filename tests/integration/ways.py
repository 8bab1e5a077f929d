"""
ways: one test, three ways to the database.

    from ways import way, workers       # noqa: F401, fixtures

`way` is weir without and with TLS, and with WEIR_DIRECT=1 PostgreSQL itself first:
what a real client does must be right directly, or the test is wrong.  Behind weir
are 3 servers in transaction mode and 2 workers.  Afterwards the servers must be
idle, at most 3, and without anything the client left on them.
"""
import os
import subprocess
import threading

import pytest

import weirproc
from servers import DATABASE, UPSTREAM_USER, USERS, scaled, wait_for

SERVERS = 3
HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(scope="module")
def workers():
    return 2


class Way:
    def __init__(self, name, proxy, pg, folder):
        self.name, self.proxy, self.pg, self.folder = name, proxy, pg, folder
        self.direct = proxy.direct
        self.sslmode = "require" if name == "tls" else "disable"

    def url(self, user="acme_app", database=DATABASE, sslmode=None):
        return "postgresql://%s:%s@127.0.0.1:%d/%s?sslmode=%s" % (
            user, USERS[user][1], self.proxy.pg_port, database,
            sslmode or self.sslmode)

    def env(self, user="acme_app", **more):
        """The environment of a client program of libpq."""
        return dict({
            "PATH": os.environ["PATH"], "HOME": self.folder, "LC_ALL": "C.UTF-8",
            "PGHOST": "127.0.0.1", "PGPORT": str(self.proxy.pg_port),
            "PGUSER": user, "PGPASSWORD": USERS[user][1], "PGDATABASE": DATABASE,
            "PGSSLMODE": self.sslmode, "PGGSSENCMODE": "disable",
            "PGCONNECT_TIMEOUT": str(int(scaled(15))), "DSN": self.url(user),
            "NODE_EXTRA_CA_CERTS": self.proxy.ca,
        }, **more)

    def run(self, *argv, user="acme_app", input=None, fails=False, seconds=30, **env):
        """A program's standard output; it must succeed, unless it must fail."""
        said = subprocess.run(
            argv, env=self.env(user, **env), input=input, text=True,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True, timeout=scaled(seconds), cwd=self.folder,
            start_new_session=True)
        assert (said.returncode != 0) == fails, "exit status %d\n%s\n%s" % (
            said.returncode, said.stdout[-3000:], said.stderr[-3000:])
        return said.stdout if not fails else said.stderr

    def settle(self):
        """No client, and every server back and clean."""
        self.proxy.hang_up()
        if self.direct:
            return
        self.proxy.settled()

        def idle():
            m = self.proxy.metrics()
            n = m['weir_servers{proto="postgres"}']
            return n <= SERVERS and n == m['weir_servers_idle{proto="postgres"}']
        wait_for(idle, 10, "a server is not idle though no client is left")
        assert self.proxy.metric("clients_waiting", "postgres") == 0
        # The backend of another test's client that left may still be at work.
        wait_for(lambda: not self.pg.run(
            "SELECT 1 FROM pg_stat_activity WHERE usename = %s"
            " AND state IS DISTINCT FROM 'idle'", [UPSTREAM_USER]), 15, "not idle")
        assert not self.pg.run("SELECT * FROM pg_locks WHERE locktype = 'advisory'")
        assert len(self.pg.backends()) <= SERVERS


class Watch:
    """with Watch(way): a database's servers, counted there, are never too many."""

    def __init__(self, way):
        self.way, self.most, self.over = way, 0, threading.Event()
        self.thread = threading.Thread(target=self._count, daemon=True)

    def _count(self):
        db = self.way.pg.connect()
        cur = db.cursor()
        last = False
        while not last:
            last = self.over.wait(0.05)     # and once more at the end
            cur.execute("SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM"
                        " pg_stat_activity WHERE usename = %s GROUP BY datname) s",
                        [UPSTREAM_USER])
            self.most = max(self.most, cur.fetchone()[0])
        db.close()

    def __enter__(self):
        # What a client of another test has left may still sleep in its backend.
        wait_for(lambda: not self.way.pg.run(
            "SELECT 1 FROM pg_stat_activity WHERE usename = %s"
            " AND state IS DISTINCT FROM 'idle'", [UPSTREAM_USER]), 40, "not idle")
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.thread.join()
        assert kind or self.way.direct or 1 <= self.most <= SERVERS, self.most


def directly(pg, rd, folder, ca=None):
    return Way("direct", weirproc.Direct(pg, rd, ca or ""), pg, folder)


WAYS = ["direct"] * bool(os.environ.get("WEIR_DIRECT")) + ["plain", "tls"]


@pytest.fixture(params=WAYS)
def way(request, pg, rd, authority, folder):
    weirproc.Direct.prepare(pg, rd)
    if request.param == "direct":
        way = directly(pg, rd, folder, authority.crt)
    else:
        way = Way(request.param, request.getfixturevalue("proxy"), pg, folder)
    yield way
    if not getattr(request.node, "has_failed", False):
        way.settle()
