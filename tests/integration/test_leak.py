"""
Goal:   nobody ever gets a byte that is somebody else's.
Method: random clients (leak.py) of 20 organizations, of both protocols, on four
        PostgreSQL servers and four workers: transactions, pipelines, equal
        statements, COPY, errors, timeouts, cancels, resets, service users that
        choose another organization, channels, and leaving in the middle of anything, while
        servers are killed and the configuration is read again.  They check every
        message they are sent; from the outside, each row and each key must be of
        the organization whose mark it carries.

A minute of it in bursts, so that other tests may run beside; WEIR_LEAK=3600 for an
hour at full speed (make soak), WEIR_SEED to choose as they did when it failed; what
meets what is up to the clock, so it may take a few runs.  WEIR_SOAK=1: Redis clients
transact and block as well.
"""
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

import leak
from servers import DATABASE, UPSTREAM_USER, scaled, wait_for

pytestmark = pytest.mark.weir_only

SECONDS = float(os.environ.get("WEIR_LEAK") or 60)
# Of a core, for each of its processes.
SHARE = 1 if os.environ.get("WEIR_LEAK") else 0.1
SEED = os.environ.get("WEIR_SEED") or "%08x" % random.SystemRandom().randrange(1 << 32)
SERVERS = 4
# Its clients, in processes of their own: (protocol, clients at once).
PROCESSES = [("postgres", 30), ("postgres", 30), ("redis", 60)]

SCHEMA = """
CREATE TABLE leak (
    id              bigserial PRIMARY KEY,
    organization_id text NOT NULL DEFAULT current_setting('app.current_organization_id'),
    owner           text NOT NULL,
    body            text NOT NULL
);
CREATE INDEX ON leak (owner);
ALTER TABLE leak ENABLE ROW LEVEL SECURITY;
ALTER TABLE leak FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON leak
    USING (organization_id = nullif(current_setting('app.current_organization_id'), ''))
    WITH CHECK (organization_id = nullif(current_setting('app.current_organization_id'), ''));
-- COPY FROM knows no row level security.
CREATE TABLE leak_copy (
    organization_id text NOT NULL DEFAULT current_setting('app.current_organization_id'),
    body            text NOT NULL
);
GRANT ALL ON leak, leak_id_seq, leak_copy TO PUBLIC;
CREATE FUNCTION leak_say(what text) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN RAISE NOTICE 'it said %', what; RETURN what; END $$;
CREATE FUNCTION leak_fail(what text) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'it failed %', what USING DETAIL = what; END $$;
"""
# A body is ~organization.client.serial~, as often as its writer liked.
FOREIGN = """
SELECT organization_id, body FROM (SELECT organization_id, body FROM leak
    UNION ALL SELECT organization_id, body FROM leak_copy) AS t
WHERE body !~ '^(~[0-9]{2}[.][0-9]{8}[.][0-9]{5}~)+$'
   OR ltrim(right(organization_id, 2), '0') <> ltrim(substr(body, 2, 2), '0') LIMIT 5
"""


def config(rd, slower):
    organizations = range(leak.ORGANIZATIONS)
    return {
        # Few statements a server, so that some are always forgotten and parsed again.
        "weir": {"log_level": "error", "query_wait_notify": 0, "max_prepared_statements": 12,
                 "query_wait_timeout": int(scaled(60)), "query_timeout": int(scaled(2)),
                 "idle_transaction_timeout": int(scaled(1))},
        "postgres main": {"pool_size": SERVERS},
        "redis main": {"connections": 1, "dedicated_connections": 4, "profile": "dedicated",
                       "url": "redis://:%s@127.0.0.1:%d/0" % (rd.password, slower.port)},
        "variables": {"app.current_organization_id": "%{organization.id}",
                      "app.slug": "%{organization.slug}",
                      "app.who": "%{user}/%{organization.slug}"},
        "user svc": {"auth": "trust", "organizations": "*"},
        "user few": {"auth": "trust",
                     "organizations": ", ".join(map(leak.slug, range(leak.FEW)))},
        **{"organization " + leak.slug(n): {"id": leak.identity(n)} for n in organizations},
        **{"user " + leak.slug(n): {"auth": "trust", "organization": leak.slug(n)}
           for n in organizations},
    }


class Trouble:
    """What happens to weir meanwhile, and what is seen from the outside."""

    def __init__(self, weir, pg, rd):
        self.weir, self.pg, self.rd = weir, pg, rd
        self.rng = random.Random(SEED)
        self.most = self.kills = self.reloads = self.cursor = 0

    def step(self):
        self.rng.choice([self.reload, self.kill, self.kill, self.kill_redis, self.look])()

    def reload(self):
        """Other limits, and now and then another way to the same PostgreSQL."""
        self.weir.config["weir"]["server_idle_timeout"] = self.rng.randrange(100, 600)
        one = "organization " + leak.slug(self.rng.randrange(leak.ORGANIZATIONS))
        # Each process has one client that keeps its server for as long as it lives.
        self.weir.config[one].update(weight=self.rng.randrange(1, 4),
                                     pool_size=self.rng.randrange(3, SERVERS + 1))
        self.weir.config["postgres main"]["host"] = self.rng.choice(["127.0.0.1", "127.0.0.2"])
        self.weir.write(self.weir.config)
        self.weir.signal(signal.SIGHUP)
        self.reloads += 1

    def kill(self):
        self.pg.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE usename = %s ORDER BY random() LIMIT 1", [UPSTREAM_USER])
        self.kills += 1

    def kill_redis(self):
        clients = self.rd.clients()
        if clients and self.rng.random() < 0.5:
            with contextlib.closing(self.rd.connect()) as r, contextlib.suppress(Exception):
                r.client_kill_filter(_id=self.rng.choice(clients)["id"])
            self.kills += 1

    def look(self):
        there = set(self.pg.backends())
        self.most = max(self.most, len(there))
        # One that was told to go is seen a little longer, beside the one in its place.
        wait_for(lambda: len(there & set(self.pg.backends())) <= SERVERS, 30,
                 "more than %d servers" % SERVERS)
        foreign = self.pg.run(FOREIGN)
        assert not foreign, "seed %s: rows of somebody else: %s" % (SEED, foreign)
        self.pg.run("DELETE FROM leak WHERE id < (SELECT max(id) - 100000 FROM leak)")
        self.pg.run("TRUNCATE leak_copy")
        self.look_at_keys()

    def look_at_keys(self):
        """leak:organization:client:name has that client's marks, :all: anybody's of it."""
        with contextlib.closing(self.rd.connect()) as r:
            self.cursor, keys = r.scan(self.cursor, "leak:*", 500)
            for key, value in zip(keys, r.mget(keys) if keys else []):
                _, org, client, _ = key.split(b":")
                for mark in set(leak.MARK.findall(value or b"")):
                    assert mark[0] == org and client in (mark[1], b"all"), \
                        "seed %s: %s has %s" % (SEED, key, mark)


def start(proto, clients, n, weir):
    options = dict(proto=proto, seed=SEED, seconds=SECONDS, clients=clients, process=n + 1,
                   port=weir.pg_port if proto == "postgres" else weir.redis_port,
                   patience=scaled(60), database=DATABASE, share=SHARE,
                   soak=bool(os.environ.get("WEIR_SOAK")))
    return subprocess.Popen([sys.executable, leak.__file__, json.dumps(options)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def test_every_byte_belongs_to_who_gets_it(weir, pg, rd, relay):
    signal.alarm(int(SECONDS + scaled(180)))
    pg.run(SCHEMA)
    # A Redis that takes its time, so that many share what is under way to it.
    slower = relay(rd.port)
    slower.delay = 0.002
    w = weir(config(rd, slower), workers=4)
    running = [start(proto, clients, n, w) for n, (proto, clients) in enumerate(PROCESSES)]
    try:
        done = watch(running, Trouble(w, pg, rd))
    finally:
        for p in running:
            p.kill()
            p.wait()
    print(json.dumps(done, indent=1))
    # And it was a test: of every kind, and mostly undisturbed.
    missing = [kind for kind in KINDS if not done.get(kind)]
    assert len(missing) <= 4, (missing, done)
    assert done["left"] > 3 * done.get("lost", 0), done


KINDS = (["pg " + act.__name__ for act in
          set(leak.PgClient.PLAIN + leak.PgClient.PINNED + leak.PgClient.SERVICE)
          - {leak.PgClient.strangers}]
         + ["redis " + act.__name__ for act in set(leak.RedisClient.ACTS)]
         + ["leave by FIN", "leave by RST"])


def watch(running, trouble):
    """What the processes did, all together; the first that fails is the verdict."""
    end = time.monotonic() + SECONDS + scaled(120)
    while any(p.poll() is None for p in running):
        failed = [p for p in running if p.poll()]
        assert not failed, failed[0].stdout.read()
        assert trouble.weir.alive(), "seed %s: weir died\n%s" % (SEED, trouble.weir.tail())
        assert time.monotonic() < end, "seed %s: a client does not end" % SEED
        trouble.step()
        time.sleep(trouble.rng.random())
    trouble.look()
    assert trouble.most >= 1
    done = {"servers killed": trouble.kills, "reloads": trouble.reloads}
    for p in running:
        said = p.stdout.read()
        assert p.returncode == 0, said
        for name, n in json.loads(said).items():
            done[name] = done.get(name, 0) + n
    return done
