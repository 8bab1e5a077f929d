"""redis_run: what the Redis half costs, beside its peers.  See redis.sh."""

import csv
import io
import os
import sys

import figures
import rig as rigs
import run
from rig import HOST, Failed, Rig
from run import Row, Sample, Target, say

ENVIRONMENT = ("QUICK", "ROUNDS", "SECONDS_PER", "CLIENTS", "DEPTHS", "SIZES", "LOADS", "MBUF",
               "PIN", "NUTCRACKER", "BASELINE", "WEIR", "WORKERS")
AIMS = ("Aims: with P=1 and 50 clients or more, ops/s not below direct and Redis's own CPU below half "
        "of direct; in every row at most 0.6 of nutcracker's CPU.")


FLOOR = "floor"     # bench_floor


def numbers(env, name, default):
    return [int(x) for x in env.get(name, default).split(",")]


def own_core():
    """Gives one core to what makes the load, and the others to all that we
    start from here on.  What the load's commands begin with; nothing where
    there is one core only."""
    load, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return []
    os.sched_setaffinity(0, others)
    return ["taskset", "-c", str(load)]


class RedisBench(run.Bench):
    def __init__(self, plan, rig, weir, env):
        super().__init__(plan, rig, weir)
        quick = plan.quick
        self.loads = env.get("LOADS", "get,hiredis" if quick else "set,get,hiredis").split(",")
        self.depths = numbers(env, "DEPTHS", "1,16")
        self.sizes = numbers(env, "SIZES", "32" if quick else "32,4096")
        self.mbufs = numbers(env, "MBUF", "512,16384")
        tools = os.path.abspath(
            env.get("BENCH_REDIS") or os.path.join(run.TOP, "build/plain/bench"))
        self.hiredis_path = os.path.join(tools, "bench_redis")
        self.floor_path = os.path.join(tools, "bench_floor")
        for path in self.hiredis_path, self.floor_path:
            if not os.access(path, os.X_OK):
                raise SystemExit(f"bench: no {path}: run `make bench-redis`")
        self.on_core = own_core() if env.get("PIN", "1") not in ("", "0") else []
        if self.on_core:
            self.sharing = "the load has one to itself, proxies and Redis share the others"
        self.peers = []             # names of the nutcrackers that run
        self.usual = {}             # (target, load): ops/s, what redis-benchmark is asked for

    def start(self):
        say(f"bench: servers start in {self.rig.dir}")
        self.rig.certificate()
        self.rig.redis()
        self.redis.append(Target("direct", self.rig.redis_port))
        for size in self.mbufs if self.nutcracker_path else []:
            name = f"nutcracker -m {size}"
            try:
                p, port = self.rig.nutcracker(self.nutcracker_path, f"nutcracker-{size}",
                                              mbuf=size)
            except Failed as e:
                self.fail(str(e))
                continue
            self.peers.append(name)
            self.redis.append(Target(name, port, p.pid))
        p, port = self.rig.floor(self.floor_path)
        self.peers.append(FLOOR)
        self.redis.append(Target(FLOOR, port, p.pid))
        if self.baseline_path:
            self._start_weir(self.baseline_path, 1, "weir baseline")
        if self.weir_path:
            for n in self.plan.workers:
                self._start_weir(self.weir_path, n, f"weir, {n} worker" + "s" * (n > 1))

    # One measurement.

    def measure(self, target, row, seconds=None, rate=None):
        """`rate`: about what to expect, where the tool takes a count."""
        cost = self._cost(target, rigs.cpu_us, self.rig.redis_pid)
        seconds = seconds or self.plan.seconds
        before = cost()
        if row.mode == "hiredis":
            ops, done, p50, p99 = self._hiredis(target, row, seconds)
        else:
            ops, done, p50, p99 = self._redis_benchmark(target, row, int(rate * seconds))
        after = cost()
        return Sample(done, p99, *self._per(before, after, ops), p50)

    def _hiredis(self, target, row, seconds):
        out = self.rig.run([*self.on_core, self.hiredis_path, str(target.port), str(row.clients),
                            str(row.depth), str(row.size), str(seconds)],
                           timeout=seconds * 10 + 30)
        ops, _, rate, p50, p99 = map(float, out.split())
        return ops, rate, p50, p99

    def _redis_benchmark(self, target, row, count):
        count = max(count, row.clients * row.depth * 4)
        if row.mode == "get":       # the key to get, of this size
            self._run_redis_benchmark(self.rig.redis_port, "set", 1, 1, row.size, 1)
        out = self._run_redis_benchmark(target.port, row.mode, row.clients, row.depth,
                                        row.size, count)
        for rec in csv.DictReader(io.StringIO(out[out.index('"test"'):])):
            if rec["test"].lower() == row.mode:
                return (count, float(rec["rps"]), float(rec["p50_latency_ms"]),
                        float(rec["p99_latency_ms"]))
        raise Failed("redis-benchmark printed no result")

    def _run_redis_benchmark(self, port, test, clients, depth, size, count):
        return self.rig.run(
            [*self.on_core, "redis-benchmark", "-h", HOST, "-p", str(port), "-t", test, "-c", str(clients),
             "-P", str(depth), "-d", str(size), "-n", str(count), "--csv"],
            timeout=self.plan.seconds * 20 + 30)

    # The rounds.

    def run_redis(self):
        p = self.plan
        self.redis_rows = []
        for size in self.sizes:
            for depth in self.depths:
                for clients in p.clients:
                    for mode in self.loads:
                        self.redis_rows.append(Row(mode, clients, depth, size))
        self._estimate(len(self.redis_rows) * len(self.redis), p.seconds + 0.2)
        self.rounds(self.redis_rows, self.redis, self._one_of_a_round)

    def _one_of_a_round(self, target, row):
        """redis-benchmark takes a count, and each path is asked for what it did
        before: a slow one must not be measured for longer than the others."""
        if row.mode == "hiredis":
            return self.measure(target, row)
        key = (target.name, row.mode, row.clients, row.depth, row.size)
        if key not in self.usual:
            self.usual[key] = self.measure(target, row, 1, rate=2000).rate
        return self.measure(target, row, rate=self.usual[key])

    # The report.

    def report(self, command):
        parts = [f"# Redis figures\n\n{self._facts(command)}"]
        for size in self.sizes:
            for depth in self.depths:
                parts.append(self._table(size, depth))
        parts.append(self._verdict())
        if self.failures:
            parts.append("## Not measured\n\n" + "\n".join(f"- {f}" for f in self.failures))
        return "\n\n".join(parts) + "\n"

    def _versions(self):
        return [rigs.first_line("redis-server", "-v").split(" sha=")[0]] + [
            rigs.first_line(path, "-V") for path in
            (self.nutcracker_path, self.weir_path, self.baseline_path) if path]

    def _table(self, size, depth):
        head = ["load", "path", "ops/s", "p50 ms", "p99 ms", "proxy us/op", "Redis us/op",
                "ops/s : direct", "Redis CPU : direct"] + [f"CPU : {p}" for p in self.peers]
        body = []
        for row in self.redis_rows:
            if (row.size, row.depth) != (size, depth):
                continue
            load = f"{row.mode.upper() if row.mode != 'hiredis' else 'hiredis'}, {row.clients}"
            for t in self.redis:
                cost = row.series(t.name, "proxy_us")
                cells = [figures.spread(row.series(t.name, "rate")),
                         figures.spread(row.series(t.name, "p50_ms"), 2),
                         figures.spread(row.series(t.name, "p99_ms"), 2),
                         figures.spread(cost, 2) if t.pid else "-",
                         figures.spread(row.series(t.name, "server_us"), 2)]
                for what in "rate", "server_us":
                    cells.append(figures.ratio(row.series(t.name, what),
                                               row.series("direct", what)) if t.pid else "1")
                for p in self.peers:
                    cells.append(figures.ratio(cost, row.series(p, "proxy_us"))
                                 if t.pid else "-")
                body.append([load, t.name, *cells])
        return (f"## P={depth}, values of {size} bytes\n\n" + figures.table(head, body))

    def _verdict(self):
        """One line a row: the ratios that something is expected of."""
        weirs = [t.name for t in self.redis if t.name.startswith("weir,")]
        head = ["row", "path", "ops/s : direct", "Redis CPU : direct", "CPU : best nutcracker",
                "floor's CPU : best nutcracker", "ops/s : floor", "CPU : floor"]
        body = []
        nutcrackers = [p for p in self.peers if p != FLOOR]
        for row in self.redis_rows:
            best = min(nutcrackers, default=None, key=lambda p: figures.median(
                row.series(p, "proxy_us")) or float("inf"))
            for name in weirs:
                body.append([
                    f"{row.mode}, {row.clients} clients, P={row.depth}, {row.size} B", name,
                    figures.ratio(row.series(name, "rate"), row.series("direct", "rate")),
                    figures.ratio(row.series(name, "server_us"),
                                  row.series("direct", "server_us")),
                    *(figures.ratio(row.series(path, "proxy_us"), row.series(best, "proxy_us"))
                      if best else "n/a" for path in (name, FLOOR)),
                    *(figures.ratio(row.series(name, what), row.series(FLOOR, what))
                      for what in ("rate", "proxy_us"))])
        return f"## Ratios\n\n{figures.table(head, body)}\n\n{AIMS}"


def main():
    weir, complaint = run.prepare()
    quick = os.environ.get("QUICK", "0") not in ("", "0")
    plan = run.plan_from(dict(dict(
        SECONDS_PER="1" if quick else "2", CLIENTS="50" if quick else "1,50,500",
        WORKERS="1"), **os.environ))
    bench = RedisBench(plan, Rig(plan.pool), weir, os.environ)
    return run.whole(bench, bench.run_redis, run.command_line("bench/redis.sh", ENVIRONMENT),
                     complaint, "bench-redis.md")


if __name__ == "__main__":
    sys.exit(main())
