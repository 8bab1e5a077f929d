"""crdt_run: what an operation of a collaboration server costs.  See crdt.sh."""

import os
import re
import signal
import struct
import sys
import time
from dataclasses import dataclass

import figures
import rig as rigs
import run
from rig import DB, HOST, USER, Failed, Rig
from run import Row, Sample, Target, say

ENVIRONMENT = ("QUICK", "ROUNDS", "SECONDS_PER", "CLIENTS", "MODES", "DELAYS", "DOCUMENTS",
               "POOL", "WORKERS", "BATCH", "PGBOUNCER", "BASELINE", "WEIR", "PG_BIN")
APP = "bench_app"           # whom everybody logs in as: no superuser
ORGANIZATION = "0a000000-0000-4000-8000-000000000001"
SETTING = "app.current_organization_id"
DOCUMENTS_MAX = 5000
OFF, ON = "weir", "weir, batch"
AIMS = ("Aims: with 128 clients at least 2.5 x PgBouncer's ops/s, 4 x later, and fewer than 0.05 "
        "commits per operation; with one client within 10 % of weir without the batch; half of "
        "the upper bound.")


def numbers(env, name, default):
    return [int(x) for x in env.get(name, default).split(",")]


@dataclass
class CrdtSample(Sample):
    commits: float = None           # transactions that wrote, per operation


@dataclass
class CrdtRow(Row):
    delay_us: int = 0


class CrdtRig(Rig):
    """The schema, and proxies that know its organization."""

    def slow_postgres(self, library, max_connections):
        """fsync is on, for the log, and lasts as long as delay() said last."""
        self.delay_file = self.path("delay")
        self.delay(0)
        shim = self._open_to_all(os.path.abspath(library))
        clean = dict(self.env)
        self.env.update(LD_PRELOAD=shim, SLOW_FSYNC=self.delay_file)
        try:
            self.postgres(0, max_connections, fsync="on", checkpoint_timeout="30min",
                          max_wal_size="8GB")
        finally:
            self.env = clean

    def delay(self, us):
        with open(self.delay_file, "r+b" if os.path.exists(self.delay_file) else "wb") as f:
            f.write(struct.pack("=I", us))

    def sql(self, *commands):
        argv = [f"{self.pg_bin}/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", HOST,
                "-p", str(self.pg_port), "-U", USER, DB]
        for c in commands:
            argv += ["-c", c]
        return self.run(argv).strip()

    def schema(self):
        path = os.path.join(run.TOP, "deployment/fly/postgresql/schema/collaboration.sql")
        self.sql(f"CREATE ROLE {APP} LOGIN")
        self.run([f"{self.pg_bin}/psql", "-X1q", "-v", "ON_ERROR_STOP=1", "-v", f"app={APP}",
                  "-h", HOST, "-p", str(self.pg_port), "-U", USER, "-f", path, DB])
        self.sql(f"INSERT INTO organizations VALUES ('{ORGANIZATION}', 'bench', 'Bench')",
                 "INSERT INTO documents (id, organization_id, title) "
                 "SELECT ('d0c00000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, "
                 f"'{ORGANIZATION}', 'Document ' || i "
                 f"FROM generate_series(0, {DOCUMENTS_MAX - 1}) i",
                 "VACUUM ANALYZE", "CHECKPOINT")

    def pgbouncer(self, path, name="pgbouncer", wrap=()):
        """One that sets the organization on every server it opens."""
        port = self.free_port()
        users = self.write(f"{name}.users", f'"{APP}" ""\n')
        ini = f"""[databases]
{DB} = host={HOST} port={self.pg_port} dbname={DB} connect_query='SET {SETTING} = ''{ORGANIZATION}'''
[pgbouncer]
listen_addr = {HOST}
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = {self.pool}
max_client_conn = 10000
server_tls_sslmode = disable
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
log_stats = 0
"""
        if rigs.pgbouncer_version(path) >= (1, 21):
            ini += "max_prepared_statements = 200\n"
        return self.spawn(name, [self._open_to_all(path), self.write(f"{name}.ini", ini)],
                          port=port, unprivileged=True, stop=signal.SIGQUIT), port

    def weir_of(self, path, workers, name, batch):
        port = self.free_port()
        ini = f"""[weir]
workers = {workers}
postgres_listen = {HOST}:{port}
max_client_conn = 10000
log_level = warn
[postgres main]
host = {HOST}
port = {self.pg_port}
dbname = {DB}
user = {APP}
sslmode = disable
pool_size = {self.pool}
[database *]
postgres = main
[organization bench]
id = {ORGANIZATION}
[variables]
{SETTING} = %{{organization.id}}
[user {APP}]
auth = trust
organization = bench
{batch}
"""
        return self.spawn(name, [path, "-c", self.write(f"{name}.ini", ini)], port=port), port


class CrdtBench(run.Bench):
    def __init__(self, plan, rig, weir, env):
        super().__init__(plan, rig, weir)
        self.modes = env.get("MODES", "params" if plan.quick else "params,prepared").split(",")
        self.delays = numbers(env, "DELAYS", "0,2000")
        self.share = int(env.get("DOCUMENTS", 4))
        self.batch = ("[batch crdt_operations]\norder_by = document_id\n"
                      + env.get("BATCH", "").replace(";", "\n"))
        self.tools = os.path.abspath(env.get("BENCH_CRDT")
                                     or os.path.join(run.TOP, "build/plain/bench"))
        self.seed = int(time.time()) % 10**8 * 1000
        for name in "bench_crdt", "slow_fsync.so":
            if not os.access(os.path.join(self.tools, name), os.R_OK):
                raise SystemExit(f"bench: no {self.tools}/{name}: run `make bench-crdt`")
        self.rows, self.bounds = [], []

    def start(self):
        say(f"bench: servers start in {self.rig.dir}")
        self.rig.slow_postgres(os.path.join(self.tools, "slow_fsync.so"),
                               max(self.plan.clients) + 6 * self.plan.pool)
        self.rig.schema()
        self.pg.append(Target("direct", self.rig.pg_port))
        if self.pgbouncer_path:
            try:
                self._start_pgbouncer(self.pgbouncer_path)
            except Failed as e:
                self.fail(str(e))
        for path, prefix in ((self.baseline_path, "baseline "), (self.weir_path, "")):
            for n in self.plan.workers if path else []:
                for name, batch in ((OFF, ""), (ON, self.batch)):
                    name = prefix + name + (f", {n} workers" if n > 1 else "")
                    try:
                        p, port = self.rig.weir_of(path, n, re.sub(r"\W+", "-", name), batch)
                        self.pg.append(Target(name, port, p.pid))
                    except Failed as e:
                        self.fail(str(e))

    # One measurement.

    def _url(self, target):
        extra = f" options='-c {SETTING}={ORGANIZATION}'" if target.pid is None else ""
        return (f"host={HOST} port={target.port} user={APP} dbname={DB} sslmode=disable "
                f"gssencmode=disable{extra}")

    def _xids(self):
        """What has written has taken a number: none is lost, none comes late."""
        return int(self.rig.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())"))

    def measure(self, target, row):
        if row.mode == "prepared" and not target.extended_names:
            raise Failed("n/a")
        self.rig.sql("TRUNCATE crdt_operations", "CHECKPOINT")
        self.rig.delay(row.delay_us)
        self.seed += 1
        cost = self._cost(target, rigs.family_cpu_us, self.rig.pg_pid)
        seconds = self.plan.seconds
        xids, before = self._xids(), cost()
        out = self.rig.run([os.path.join(self.tools, "bench_crdt"), self._url(target), row.mode,
                            str(row.clients), str(seconds),
                            str(max(1, row.clients // self.share)), str(self.seed)],
                           timeout=seconds * 5 + 60)
        self._settle()
        after = cost()
        done, _, rate, p50, p99 = map(float, out.split())
        commits = self._xids() - xids
        self.rig.delay(0)
        rows = int(self.rig.sql("SELECT count(*) FROM crdt_operations"))
        if rows != done:
            raise Failed(f"{rows} rows for {done:.0f} answers")
        return CrdtSample(rate, p99, *self._per(before, after, done), p50, commits / done)

    # The rounds.

    def run_crdt(self):
        p = self.plan
        self.rows = [CrdtRow(mode, clients, delay_us=d)
                     for d in self.delays for mode in self.modes for clients in p.clients]
        self.bounds = [CrdtRow(mode, 1, delay_us=d)
                       for d in self.delays for mode in ("pipeline", "unnest")]
        for t in self.pg:
            try:
                self.measure(t, CrdtRow("params", 16))
            except Failed as e:
                t.strikes = 2
                self.fail(f"{t.name} does not serve bench_crdt: {e}")
        self._estimate(len(self.rows) * len(self.pg) + len(self.bounds), p.seconds + 1.5)
        for r in range(p.rounds):
            for i, row in enumerate(self.rows):
                k = (r + i) % len(self.pg)
                for t in self.pg[k:] + self.pg[:k]:
                    self._one(r, row, t, self.measure)
            for row in self.bounds:
                self._one(r, row, self.pg[0], self.measure)

    # The report.

    def report(self, command):
        parts = [f"# One small INSERT\n\n{self._facts(command)}"]
        for d in self.delays:
            parts.append(self._table(d))
        parts.append(self._verdict())
        if self.failures:
            parts.append("## Not measured\n\n" + "\n".join(f"- {f}" for f in self.failures))
        return "\n\n".join(parts) + "\n"

    def _facts(self, command):
        facts = super()._facts(command).replace("fsync off", "fsync on")
        return "\n".join([
            facts,
            f"- rows with 32 to 400 bytes of operation_data, {self.share} clients a document; "
            f"row level security, unique key and two indexes; pools of {self.rig.pool} servers",
            "- weir's batch: `" + "; ".join(self.batch.strip().split("\n")[1:]) + "`",
            "- params: unnamed statements, as node-postgres; prepared: named ones; xact: BEGIN, "
            "params, COMMIT",
            "- commits: transactions that wrote, for each operation; after each measurement the "
            "rows of the table were counted, and were as many as the answers"])

    def _versions(self):
        return [rigs.first_line(f"{self.rig.pg_bin}/postgres", "-V")] + [
            rigs.first_line(path, "-V") for path in
            (self.pgbouncer_path, self.weir_path, self.baseline_path) if path]

    def _cells(self, t, row):
        return [figures.spread(row.series(t.name, "rate")),
                figures.spread(row.series(t.name, "p50_ms"), 2),
                figures.spread(row.series(t.name, "p99_ms"), 2),
                figures.spread(row.series(t.name, "proxy_us"), 1) if t.pid else "-",
                figures.spread(row.series(t.name, "server_us"), 1),
                figures.spread(row.series(t.name, "commits"), 3)]

    def _ratio(self, t, row, peer, what="rate"):
        return figures.ratio(row.series(t.name, what), row.series(peer, what)) if peer else "n/a"

    def _table(self, delay):
        head = ["load", "path", "ops/s", "p50 ms", "p99 ms", "proxy us/op", "server us/op",
                "commits/op", "ops/s : direct"]
        if self.pgbouncer:
            head.append(f"ops/s : {self.pgbouncer}")
        body = []
        for row in self.rows:
            for t in self.pg if row.delay_us == delay else []:
                load = f"{row.mode}, {row.clients} client{'s' * (row.clients > 1)}"
                cells = self._cells(t, row) + [self._ratio(t, row, "direct")]
                if self.pgbouncer:
                    cells.append(self._ratio(t, row, self.pgbouncer))
                body.append([load, t.name, *cells])
        for row in self.bounds:
            if row.delay_us == delay:
                body.append([f"256 rows by {row.mode}, 1 client", "direct",
                             *self._cells(self.pg[0], row)] + ["-"] * (len(head) - 8))
        title = (f"## Commits of {delay / 1000:g} ms (a preloaded fdatasync sleeps)"
                 if delay else "## Commits of this machine's disk")
        return f"{title}\n\n{figures.table(head, body)}"

    def _verdict(self):
        """What something is expected of, one line a row."""
        head = ["row", "path", "ops/s : PgBouncer", "ops/s : weir without", "commits/op",
                "server CPU : PgBouncer", "ops/s : unnest"]
        body = []
        for row in self.rows:
            bound = next(b for b in self.bounds
                         if b.mode == "unnest" and b.delay_us == row.delay_us)
            for t in self.pg:
                if not re.search(ON, t.name):
                    continue
                body.append([
                    f"{row.mode}, {row.clients} clients, {row.delay_us / 1000:g} ms", t.name,
                    self._ratio(t, row, self.pgbouncer),
                    self._ratio(t, row, t.name.replace(ON, OFF)),
                    figures.spread(row.series(t.name, "commits"), 3),
                    self._ratio(t, row, self.pgbouncer, "server_us"),
                    figures.ratio(row.series(t.name, "rate"), bound.series("direct", "rate"))])
        return (f"## Ratios\n\n{figures.table(head, body)}\n\n{AIMS}" if body else
                f"No weir with a batch was measured.\n\n{AIMS}")


def main():
    if "--quick" in sys.argv:
        sys.argv.remove("--quick")
        os.environ["QUICK"] = "1"
    weir, complaint = run.prepare()
    quick = os.environ.get("QUICK", "0") not in ("", "0")
    plan = run.plan_from(dict(dict(
        SECONDS_PER="1" if quick else "3", CLIENTS="1,128" if quick else "1,16,128,512",
        WORKERS="1"), **os.environ))
    bench = CrdtBench(plan, CrdtRig(plan.pool), weir, os.environ)
    return run.whole(bench, bench.run_crdt, run.command_line("bench/crdt.sh", ENVIRONMENT),
                     complaint, "bench-crdt.md")


if __name__ == "__main__":
    sys.exit(main())
