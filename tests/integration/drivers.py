"""
drivers: where a real driver connects, and the verdict on weir afterwards.

Every test of a driver runs two ways: `plain` through a weir with one worker,
`tls` through a weir with two; with WEIR_DIRECT=1 also `direct` to PostgreSQL, so
that a wrong test is noticed.  Both have a pool of three servers in transaction mode.  A client is
of acme or of beta, and what it reads back says whose it is.
"""
import asyncio
import os
import ssl
import threading

from servers import (DATABASE, ORGANIZATIONS, UPSTREAM_PASSWORD, UPSTREAM_USER,
                     USERS, scaled, wait_for)

WAYS = ["direct"] * bool(os.environ.get("WEIR_DIRECT")) + ["plain", "tls"]
WORKERS = {"plain": 1, "tls": 2}
SERVERS = 3
# A log-in by SCRAM costs asyncpg 30 ms of Python; where that is not the subject
# its clients are trusted.
CONFIG = {"postgres main": {"pool_size": SERVERS},
          **{"user %s_trusted" % who: {"auth": "trust", "organization": who}
             for who in ORGANIZATIONS}}
GONE_WELL = {"QUIT", "EOF", "PROBE", "CANCEL"}


class Way:
    """One way, for one test."""

    def __init__(self, kind, pg, weir, ca):
        self.kind, self.pg, self.weir, self.ca = kind, pg, weir, ca
        self.direct, self.tls = kind == "direct", kind == "tls"
        self.running = [weir]           # whose log is shown if the test fails
        self.port = pg.port if self.direct else weir.pg_port
        self.host = "localhost" if self.tls else "127.0.0.1"
        self.closes = self.refusals = 0
        if not self.direct:
            self.before, self.line = weir.metrics(), len(weir.log())

    # Addresses, in each driver's words.

    def account(self, who, trusted=False):
        """(user, password) of a client of that organization."""
        if self.direct:
            return ("trust_role", "") if trusted else (UPSTREAM_USER, UPSTREAM_PASSWORD)
        user = who + "_app"
        return (who + "_trusted", "") if trusted else (user, USERS[user][1])

    def settings(self, who):
        """What weir would say to the server for that client."""
        if not self.direct:
            return {}
        return {"app.current_organization_id": ORGANIZATIONS[who]}

    def libpq(self, who="acme", **more):
        user, password = self.account(who)
        options = " ".join("-c %s=%s" % item for item in self.settings(who).items())
        return dict(dict(
            host=self.host, port=self.port, user=user, password=password,
            dbname=DATABASE, gssencmode="disable", sslrootcert=self.ca,
            sslmode="verify-full" if self.tls else "disable",
            connect_timeout=int(scaled(15)),
            **({"options": options} if options else {})), **more)

    def asyncpg(self, who="acme", server_settings=None, trusted=True, **more):
        user, password = self.account(who, trusted)
        context = ssl.create_default_context(cafile=self.ca) if self.tls else False
        return dict(dict(
            host=self.host, port=self.port, user=user, password=password,
            database=DATABASE, ssl=context, timeout=scaled(15),
            server_settings=dict(self.settings(who), **(server_settings or {}))),
            **more)

    def url(self, driver, who="acme", trusted=False):
        """What create_engine() is given; the rest goes to connect_args."""
        return "postgresql+%s://%s:%s@%s:%d/%s" % (
            driver, *self.account(who, trusted), self.host, self.port, DATABASE)

    # What a test may say it has caused.

    def expect(self, closes=0, refusals=0):
        """Servers closed by weir, and requests or clients it refused."""
        self.closes += closes
        self.refusals += refusals

    def count(self, name):
        """How often since the test began."""
        return self.weir.metrics()[name] - self.before[name]

    def verdict(self):
        """Every server is back, none was closed, and nobody was turned away."""
        w = self.weir
        assert w.alive(), "weir died: %s\n%s" % (w.process.poll(), w.tail())
        w.settled()

        def quiet():
            m = w.metrics()
            return m['weir_servers{proto="postgres"}'] \
                == m['weir_servers_idle{proto="postgres"}'] \
                and m['weir_clients_waiting{proto="postgres"}'] == 0
        wait_for(quiet, 10, "servers that never came back (weir_servers_idle)")
        assert w.metric("servers", "postgres") <= SERVERS
        left = self.count('weir_client_logins_total{proto="postgres"}')
        wait_for(lambda: len(self.events("close")) >= left, 5, "no event=close")
        for event in self.events("close"):
            assert event["why"] in GONE_WELL, event["line"]
        refused = [e for e in self.events("refuse") if e.get("proto") != "redis"]
        assert len(refused) == self.refusals, w.tail()
        assert self.count("weir_server_closed_total") == self.closes, w.tail()
        for name in ("weir_server_failed_total", "weir_server_doubted_total"):
            assert self.count(name) == 0, w.tail()
        for event in self.events("fault") + self.events("upstream-down"):
            raise AssertionError(event["line"])
        w.check_log()

    def events(self, name):
        return self.weir.events(name, self.line)


def names(n):
    """The clients of a test: ('acme', 'acme-0'), ('beta', 'beta-1'), ..."""
    return [(who, "%s-%d" % (who, i))
            for i, who in zip(range(n), ["acme", "beta"] * n)]


def together(work, n=5, of=None, seconds=60):
    """work(who, me) for n clients at once, each in a thread."""
    done, failed = [], []

    def one(who, me):
        try:
            work(who, me)
            done.append(me)
        except BaseException as e:
            failed.append(e)
    of = of or names(n)
    threads = [threading.Thread(target=one, args=name, daemon=True) for name in of]
    for t in threads:
        t.start()
    for t in threads:
        t.join(scaled(seconds))
    if failed:
        raise failed[0]
    assert len(done) == len(of), "clients that got no answer: %s" % (
        {me for _, me in of} - set(done))


def tasks(work, n=5, seconds=60):
    """The same for coroutines, in one event loop."""
    async def all_of_them():
        return await asyncio.gather(*[work(who, me) for who, me in names(n)])
    return run(all_of_them(), seconds)


def run(coroutine, seconds=60):
    return asyncio.run(asyncio.wait_for(coroutine, scaled(seconds)))
