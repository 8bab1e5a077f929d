"""run: measures weir beside its peers.  See run.sh for what it listens to."""

import csv
import glob
import io
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import crowds
import figures
import idle
import rig as rigs
from rig import DB, HOST, USER, Failed, Rig

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclass
class Target:
    """One path from a client to a server."""
    name: str
    port: int
    pid: int = None                 # of the proxy; None: no proxy
    extended_names: bool = True     # named statements in transaction pooling
    strikes: int = 0                # failures in a row


@dataclass
class Sample:
    rate: float
    p99_ms: float
    proxy_us: float                 # per transaction or command
    server_us: float
    p50_ms: float = None


@dataclass
class Row:
    """One load, measured on every target, in every round."""
    mode: str
    clients: int
    depth: int = 1                  # Redis: commands in a pipeline
    size: int = 32                  # Redis: bytes of a value
    samples: dict = field(default_factory=dict)     # target name -> [Sample or None]
    notes: dict = field(default_factory=dict)       # target name -> why there is none

    def series(self, target, what):
        return [getattr(s, what) if s else None for s in self.samples.get(target, [])]


@dataclass
class Plan:
    quick: bool
    rounds: int
    seconds: int
    clients: list
    scale: int
    idle: int
    pool: int
    only: set
    workers: list
    organizations: int


def say(text):
    print(text, file=sys.stderr, flush=True)


def plan_from(env):
    quick = env.get("QUICK", "0") not in ("", "0")
    return Plan(
        quick=quick,
        rounds=int(env.get("ROUNDS", 1 if quick else 5)),
        seconds=int(env.get("SECONDS_PER", 1 if quick else 5)),
        clients=[int(c) for c in env.get("CLIENTS", "1,32" if quick else "1,32,256").split(",")],
        scale=int(env.get("SCALE", 1 if quick else 10)),
        idle=int(env.get("IDLE", 500 if quick else 2000)),
        pool=int(env.get("POOL", 20)),
        only=set(env.get("ONLY", "pg,redis,idle,organizations").split(",")),
        organizations=int(env.get("ORGANIZATIONS", 500 if quick else 10000)),
        workers=[int(n) for n in env.get("WORKERS", "1" if quick else "1,2").split(",")])


class Bench:
    def __init__(self, plan, rig, weir):
        self.plan, self.rig, self.weir_path = plan, rig, weir
        self.pgbouncer_path = rigs.which("PGBOUNCER", "pgbouncer")
        self.nutcracker_path = rigs.which("NUTCRACKER", "nutcracker")
        self.haproxy_path = rigs.which("HAPROXY", "haproxy")
        self.baseline_path = os.environ.get("BASELINE")
        self.weir_extra = os.environ.get("WEIR_POSTGRES", "").replace(";", "\n")
        self.sharing = "clients, proxies and servers share them"
        self.pgbouncer = None       # its label, once it runs
        self.nutcracker = None
        self.pg, self.redis = [], []            # targets
        self.pg_rows, self.redis_rows = [], []
        self.idle_rows = []
        self.crowds = None
        self.failures = []

    # Starting.

    def fail(self, text):
        if text not in self.failures:
            self.failures.append(text)
            say(f"bench: {text}")

    def start(self):
        say(f"bench: servers start in {self.rig.dir}")
        self.rig.certificate()
        self.rig.redis()
        self.rig.postgres(self.plan.scale, max_connections=max(self.plan.clients) + 150)
        self.pg.append(Target("direct", self.rig.pg_port))
        self.redis.append(Target("direct", self.rig.redis_port))
        self._start_peers()
        if self.baseline_path:
            self._start_weir(self.baseline_path, 1, "weir baseline")
        if self.weir_path:
            for n in self.plan.workers:
                self._start_weir(self.weir_path, n, f"weir, {n} worker" + "s" * (n > 1))

    def _start_peers(self):
        """Each is optional; one that does not start is said and left out."""
        for path, start in ((self.pgbouncer_path, self._start_pgbouncer),
                            (self.haproxy_path, self._start_haproxy),
                            (self.nutcracker_path, self._start_nutcracker)):
            try:
                if path:
                    start(path)
            except Failed as e:
                self.fail(str(e))

    def _start_pgbouncer(self, path):
        p, port = self.rig.pgbouncer(path)
        self.pgbouncer = rigs.pgbouncer_label(path)
        named = rigs.pgbouncer_version(path) >= (1, 21)
        self.pg.append(Target(self.pgbouncer, port, p.pid, extended_names=named))

    def _start_haproxy(self, path):
        p, port = self.rig.haproxy(path)
        self.pg.append(Target("HAProxy, TCP", port, p.pid))

    def _start_nutcracker(self, path):
        p, port = self.rig.nutcracker(path)
        self.nutcracker = "nutcracker"
        self.redis.append(Target(self.nutcracker, port, p.pid))

    def _start_weir(self, path, workers, name):
        try:
            p, pg, redis = self.rig.weir(path, workers, re.sub(r"\W+", "-", name),
                                         self.weir_extra)
        except Failed as e:
            self.fail(str(e))
            return
        self.pg.append(Target(name, pg, p.pid))
        self.redis.append(Target(name, redis, p.pid))

    # One measurement.

    def pgbench(self, target, row, seconds):
        db = DB
        if not target.extended_names and row.mode == "prepared":
            if row.clients > self.rig.pool:
                raise Failed("n/a")
            db = f"{DB}_session"
        mode = "simple" if row.mode == "log in" else row.mode
        prefix = self.rig.path("latency")
        argv = [f"{self.rig.pg_bin}/pgbench", "-n", "-S", "-M", mode, "-c", str(row.clients),
                "-j", str(min(row.clients, os.cpu_count())), "-T", str(seconds),
                "-l", "--log-prefix", prefix, "--sampling-rate", "0.1",
                "-h", HOST, "-p", str(target.port), "-U", USER, db]
        if row.mode == "log in":
            argv.insert(1, "-C")
        cost = self._cost(target, rigs.family_cpu_us, self.rig.pg_pid)
        before = cost()
        out = self.rig.run(argv, timeout=seconds * 2 + 20)
        self._settle()
        after = cost()
        done = re.search(r"actually processed: (\d+)", out)
        failed = re.search(r"failed transactions: (\d+)", out)
        rate = re.search(r"tps = ([\d.]+)", out)
        if not done or not rate or (failed and int(failed.group(1)) > 0):
            raise Failed("transactions failed")
        times = []
        for name in glob.glob(prefix + ".*"):
            with open(name) as f:
                times += [int(line.split()[2]) for line in f]
            os.unlink(name)
        p99 = figures.percentile(times, 99)
        return Sample(float(rate.group(1)), p99 / 1e3 if p99 is not None else None,
                      *self._per(before, after, int(done.group(1))))

    def _settle(self):
        """Waits for backends that are leaving.  What a process used cannot be
        read whole while it goes, and the next measurement must not pay."""
        end = time.monotonic() + 2
        seen = rigs.children(self.rig.pg_pid)
        while time.monotonic() < end:
            time.sleep(0.05)
            now = rigs.children(self.rig.pg_pid)
            if now == seen:
                return
            seen = now

    def redis_benchmark(self, target, row, count, timeout=None):
        argv = ["redis-benchmark", "-h", HOST, "-p", str(target.port), "-c", str(row.clients),
                "-P", str(row.depth), "-d", "32", "-n", str(count), "-t", row.mode, "--csv"]
        cost = self._cost(target, rigs.cpu_us, self.rig.redis_pid)
        before = cost()
        out = self.rig.run(argv, timeout=timeout or self.plan.seconds * 20 + 20)
        after = cost()
        for rec in csv.DictReader(io.StringIO(out[out.index('"test"'):])):
            if rec["test"].lower() == row.mode:
                return Sample(float(rec["rps"]), float(rec["p99_latency_ms"]),
                              *self._per(before, after, count))
        raise Failed("redis-benchmark printed no result")

    @staticmethod
    def _cost(target, server_cost, server_pid):
        def now():
            return (rigs.cpu_us(target.pid) if target.pid else None,
                    server_cost(server_pid))
        return now

    @staticmethod
    def _per(before, after, count):
        """(proxy, server) microseconds of CPU per unit of work."""
        return [None if b is None or a is None else (a - b) / count
                for b, a in zip(before, after)]

    # The rounds.

    def rounds(self, rows, targets, measure):
        """Every row on every target, once a round; the first one rotates."""
        for r in range(self.plan.rounds):
            for i, row in enumerate(rows):
                k = (r + i) % len(targets)
                for t in targets[k:] + targets[:k]:
                    self._one(r, row, t, measure)

    def _one(self, r, row, t, measure):
        sample = None
        if t.strikes < 2:
            try:
                sample = measure(t, row)
                t.strikes = 0
            except Failed as e:
                row.notes[t.name] = str(e)
                if str(e) != "n/a":
                    ended = self.rig.obituary(t.pid)
                    t.strikes += 2 if ended else 1
                    self.fail(f"{t.name}, {row.mode}, {row.clients} clients: {ended or e}")
                    if t.strikes >= 2:
                        self.fail(f"{t.name} is left out of what follows")
        row.samples.setdefault(t.name, []).append(sample)
        what = f"{sample.rate:10.0f}/s" if sample else row.notes.get(t.name, "left out")
        depth = f" P={row.depth}" if row.depth > 1 else ""
        say(f"  round {r + 1}/{self.plan.rounds}  {row.mode:9}{row.clients:4} clients{depth}"
            f"  {t.name:18} {what}")

    def _estimate(self, cells, seconds):
        say(f"bench: {cells * self.plan.rounds} measurements, about "
            f"{cells * self.plan.rounds * seconds / 60:.0f} minutes")

    def run_pg(self):
        p = self.plan
        modes = ["simple", "prepared"]
        self.pg_rows = [Row(m, c) for m in modes for c in p.clients]
        # Who cannot keep named statements is compared on unnamed ones instead.
        if any(not t.extended_names for t in self.pg):
            self.pg_rows += [Row("extended", c) for c in p.clients if c > self.rig.pool]
        self.pg_rows.append(Row("log in", 8))
        say("bench: warming up")
        for t in self.pg:
            try:
                self.pgbench(t, Row("simple", min(32, max(p.clients))), 1)
            except Failed as e:
                t.strikes = 2
                self.fail(f"{t.name} does not serve pgbench: {e}")
        self._estimate(len(self.pg_rows) * len(self.pg), p.seconds + 0.5)
        self.rounds(self.pg_rows, self.pg, lambda t, row: self.pgbench(t, row, p.seconds))

    def run_redis(self):
        p = self.plan
        self.redis_rows = [Row(m, 50, d) for d in (1, 16) for m in ("set", "get")]
        # Counts, not seconds, is what redis-benchmark takes: the direct rate
        # of each depth says how many are about the time asked for.
        count = {}
        for row in self.redis_rows[::2]:
            first = self.redis_benchmark(self.redis[0], row, 50000)
            count[row.depth] = max(10000, int(first.rate * p.seconds * 0.7))
        for t in self.redis[1:]:
            try:
                self.redis_benchmark(t, self.redis_rows[0], 2000, timeout=10)
            except Failed as e:
                t.strikes = 2
                self.fail(f"{t.name} does not serve redis-benchmark: {e}")
        self._estimate(len(self.redis_rows) * len(self.redis), p.seconds)
        self.rounds(self.redis_rows, self.redis,
                    lambda t, row: self.redis_benchmark(t, row, count[row.depth]))

    def run_organizations(self):
        if self.weir_path:
            self.crowds = crowds.Crowds(self)
            self.crowds.run(say)

    # Idle clients.  A fresh proxy each, so that no load has stretched it.

    def run_idle(self):
        n = min(self.plan.idle, rigs.raise_nofile(self.plan.idle + 1000) - 500)
        self.idle_n = n
        weirs = [(name, path) for name, path in
                 (("weir baseline", self.baseline_path), ("weir", self.weir_path)) if path]
        jobs = []
        for tls in (False, True):
            kind = "Postgres, TLS" if tls else "Postgres, plain"
            if self.pgbouncer:
                jobs.append((kind, self.pgbouncer, self._idle_pgbouncer, tls))
            for name, path in weirs:
                jobs.append((kind, name, self._idle_weir(path), tls))
        if self.nutcracker:
            jobs.append(("Redis, plain", "nutcracker", self._idle_nutcracker, None))
        for name, path in weirs:
            jobs.append(("Redis, plain", name, self._idle_weir(path), None))
        found = {}
        for r in range(min(self.plan.rounds, 3)):
            for kind, name, start, tls in jobs:
                try:
                    got = self._idle_once(start, tls, n)
                except (Failed, OSError) as e:
                    self.fail(f"{name}, {n} idle clients, {kind}: {e}")
                    got = (None, None)
                found.setdefault((kind, name), []).append(got)
                said = " ".join("-" if g is None else f"{g:.0f}" for g in got)
                say(f"  idle {kind:16} {name:18} {said} bytes")
        self.idle_rows = [(k[0], k[1], [g[0] for g in v], [g[1] for g in v])
                          for k, v in found.items()]

    def _idle_pgbouncer(self, redis):
        return self.rig.pgbouncer(self.pgbouncer_path, "pgbouncer-idle")

    def _idle_nutcracker(self, redis):
        return self.rig.nutcracker(self.nutcracker_path, "nutcracker-idle")

    def _idle_weir(self, path):
        def start(redis):
            p, pg_port, redis_port = self.rig.weir(path, 1, "weir-idle")
            return p, (redis_port if redis else pg_port)
        return start

    def _idle_once(self, start, tls, n):
        """Resident bytes a client: after log in, and after one query each."""
        redis = tls is None
        p, port = start(redis)
        open_one = ((lambda: idle.redis_client(port)) if redis else
                    (lambda: idle.postgres_client(port, tls)))
        query = idle.redis_query if redis else idle.postgres_query
        held = []
        try:
            # Some come first, so that what is set up once is not counted.
            for _ in range(20):
                held.append(open_one())
                query(held[-1])
            time.sleep(0.3)
            before = rigs.rss_bytes(p.pid)
            fresh = [open_one() for _ in range(n)]
            held += fresh
            time.sleep(0.5)
            opened = rigs.rss_bytes(p.pid)
            for s in fresh:
                query(s)
            time.sleep(0.5)
            asked = rigs.rss_bytes(p.pid)
            return (opened - before) / n, (asked - before) / n
        finally:
            for s in held:
                s.close()
            self.rig.stop(p, patience=2)

    # The report.

    def report(self, command):
        parts = [f"# Figures\n\n{self._facts(command)}"]
        if self.pg_rows:
            parts.append(self._pg_report())
        if self.redis_rows:
            parts.append(self._redis_report())
        if self.idle_rows:
            parts.append(self._idle_report())
        if self.crowds:
            parts.append(self.crowds.report())
        if self.failures:
            parts.append("## Not measured\n\n" + "\n".join(f"- {f}" for f in self.failures))
        return "\n\n".join(parts) + "\n"

    def _facts(self, command):
        cpu = "unknown"
        with open("/proc/cpuinfo") as f:
            found = re.search(r"^model name\s*: (.*)", f.read(), re.M)
            cpu = found.group(1) if found else platform.machine()
        with open("/proc/meminfo") as f:
            gib = int(re.search(r"MemTotal:\s+(\d+)", f.read()).group(1)) / 2**20
        p = self.plan
        lines = [
            f"Command: `{command}`", "",
            f"- {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {os.cpu_count()} cores "
            f"({cpu}), {gib:.0f} GiB, Linux {platform.release()}; {self.sharing}",
            "- " + "; ".join(v for v in self._versions() if v),
            f"- {p.rounds} interleaved round{'s' * (p.rounds > 1)} of {p.seconds} s; medians, "
            "with (minimum..maximum); a ratio is the median of the ratios inside each round",
            "- CPU is user + system time of the whole process from /proc/PID/stat, log-ins "
            "included; TCP over loopback, no TLS, no passwords (trust), fsync off",
        ]
        if self.weir_extra:
            lines.append(f"- weir with `{self.weir_extra.strip()}` in [postgres]")
        return "\n".join(lines)

    def _versions(self):
        versions = [rigs.first_line(f"{self.rig.pg_bin}/postgres", "-V"),
                    rigs.first_line("redis-server", "-v").split(" sha=")[0]]
        for path, flag in ((self.pgbouncer_path, "-V"), (self.nutcracker_path, "-V"),
                           (self.haproxy_path, "-v"), (self.weir_path, "-V"),
                           (self.baseline_path, "-V")):
            if path:
                versions.append(rigs.first_line(path, flag))
        return versions

    def _pg_report(self):
        peers = [t.name for t in self.pg if t.pid and not t.name.startswith("weir,")]
        head = ["load", "path", "tx/s", "p99 ms", "proxy us/tx", "server us/tx", "tx/s : direct"]
        if self.pgbouncer:
            head.append(f"tx/s : {self.pgbouncer}")
        head += [f"CPU : {p}" for p in peers]
        body = []
        for row in filter(lambda row: row.samples, self.pg_rows):
            load = f"{row.mode}, {row.clients} client{'s' * (row.clients > 1)}"
            for t in self.pg:
                body.append([load, self._path_name(t, row)]
                            + self._figures(row, t, self.pgbouncer, peers, "direct", 2))
        text = [f"## pgbench -S, scale {self.plan.scale}, pools of {self.rig.pool} servers", "",
                figures.table(head, body), "",
                "PgBouncer is one process on one core: its peer is weir with one worker. "
                "`log in` is one select on each new connection (pgbench -C). A new backend costs "
                "the server milliseconds: with many clients a short run counts that against "
                "direct (and HAProxy), which need one a client; SECONDS_PER makes it longer."]
        if any(not t.extended_names for t in self.pg):
            text.append(
                f"{self.pgbouncer} is the one of Debian 12; it cannot keep named statements in "
                "transaction pooling (1.21 and later can). Its `prepared` rows therefore use "
                f"session pooling where the clients fit its {self.rig.pool} servers, else they "
                "are n/a and `extended` (unnamed statements) is the comparison.")
        return "\n".join(text)

    def _path_name(self, t, row):
        if t.extended_names or row.mode != "prepared" or row.clients > self.rig.pool:
            return t.name
        return t.name + ", session pooling"

    def _figures(self, row, t, rate_peer, cpu_peers, direct, digits):
        rate, cost = row.series(t.name, "rate"), row.series(t.name, "proxy_us")
        cells = [figures.spread(rate), figures.spread(row.series(t.name, "p99_ms"), 2),
                 figures.spread(cost, digits) if t.pid else "-",
                 figures.spread(row.series(t.name, "server_us"), digits),
                 "1" if t.name == direct else figures.ratio(rate, row.series(direct, "rate"))]
        if rate_peer:
            cells.append(figures.ratio(rate, row.series(rate_peer, "rate")))
        for p in cpu_peers:
            cells.append(figures.ratio(cost, row.series(p, "proxy_us")) if t.pid else "-")
        return cells

    def _redis_report(self):
        peers = [t.name for t in self.redis if t.pid and not t.name.startswith("weir,")]
        head = ["load", "path", "ops/s", "p99 ms", "proxy us/op", "server us/op", "ops/s : direct"]
        if self.nutcracker:
            head.append(f"ops/s : {self.nutcracker}")
        head += [f"CPU : {p}" for p in peers]
        body = []
        for row in filter(lambda row: row.samples, self.redis_rows):
            load = f"{row.mode.upper()}, P={row.depth}"
            for t in self.redis:
                body.append([load, t.name]
                            + self._figures(row, t, self.nutcracker, peers, "direct", 3))
        return "\n".join([
            "## redis-benchmark -c 50 -d 32", "", figures.table(head, body), "",
            "nutcracker (twemproxy) is one thread with one server connection (-m 512); weir "
            "has one server connection a worker."])

    def _idle_report(self):
        head = ["clients", "proxy", "bytes each, after log in", "after one query",
                "after query : peer"]
        body = []
        for kind, name, opened, asked in self.idle_rows:
            peer = next((a for k, n, _, a in self.idle_rows
                         if k == kind and n in (self.pgbouncer, "nutcracker")), [])
            body.append([kind, name, figures.spread(opened), figures.spread(asked),
                         figures.ratio(asked, peer)])
        return "\n".join([
            f"## Memory of an idle client ({self.idle_n} of them)", "",
            figures.table(head, body), "",
            "Growth of the proxy's resident set (Rss of smaps_rollup) divided by the clients; "
            "what the kernel holds for a socket is not in it. A Redis client logs in with its "
            "first command, so it has only connected in the first column."])


ENVIRONMENT = ("QUICK", "ROUNDS", "SECONDS_PER", "CLIENTS", "SCALE", "IDLE", "ORGANIZATIONS",
               "ONLY", "POOL", "PGBOUNCER", "HAPROXY", "NUTCRACKER", "BASELINE", "WEIR", "WORKERS",
               "WEIR_POSTGRES", "PG_BIN")


def command_line(program, names):
    """What to type to get this run again."""
    env = [f"{n}={shlex.quote(os.environ[n])}" for n in names if os.environ.get(n)]
    return " ".join(env + [program] + [shlex.quote(a) for a in sys.argv[1:]])


def find_weir():
    """(path or None, complaint or None)"""
    path = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("WEIR", "")
    if os.environ.get("WEIR") == "none":
        return None, None
    path = os.path.abspath(path or os.path.join(TOP, "build/plain/weir"))
    if not os.access(path, os.X_OK):
        return None, f"no weir at {path}: run `make` first (WEIR=none: peers only)"
    return path, None


def measure(bench):
    """All of the plan, or as much of it as there was time for."""
    for name, run in (("pg", bench.run_pg), ("redis", bench.run_redis),
                      ("idle", bench.run_idle), ("organizations", bench.run_organizations)):
        if name in bench.plan.only:
            run()


def whole(bench, measure, command, complaint, out):
    """Start, measure, report, and clean up whatever happens: the exit status."""
    interrupted = False
    try:
        bench.start()
        try:
            measure()
        except KeyboardInterrupt:
            interrupted = True
            bench.fail("interrupted: there were fewer rounds than asked for")
        text = bench.report(command)
    except Failed as e:
        raise SystemExit(f"bench: {e}")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        bench.rig.close()
    out = os.environ.get("OUT") or os.path.join(os.path.relpath(TOP), "build", out)
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    with open(out, "w") as f:
        f.write(text)
    print(text, end="", flush=True)
    say(f"bench: written to {out}")
    if complaint:
        say(f"bench: {complaint}")
    return 130 if interrupted else 1 if complaint or bench.failures else 0


def prepare():
    """(weir or None, complaint or None) once the command line is understood."""
    figures.self_test()
    if len(sys.argv) > 2 or any(a.startswith("-") for a in sys.argv[1:]):
        raise SystemExit("usage: SCRIPT.sh [WEIR]; the rest comes from the environment, "
                         "which the head of that file lists")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rigs.raise_nofile(20000)
    weir, complaint = find_weir()
    if complaint:
        say(f"bench: {complaint}; the peers are measured all the same")
    return weir, complaint


def main():
    weir, complaint = prepare()
    plan = plan_from(os.environ)
    bench = Bench(plan, Rig(plan.pool), weir)
    return whole(bench, lambda: measure(bench), command_line("bench/run.sh", ENVIRONMENT),
                 complaint, "bench.md")


if __name__ == "__main__":
    sys.exit(main())
