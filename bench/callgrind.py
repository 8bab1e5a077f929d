"""callgrind: instructions per transaction.  See callgrind.sh."""

import glob
import os
import re
import shutil
import signal
import sys

import rig as rigs
from rig import DB, HOST, USER, Failed, Rig

TOP_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Counter:
    """Runs one program under callgrind, again and again."""

    def __init__(self, rig, clients, start, redis):
        self.rig, self.clients, self.start, self.redis = rig, clients, start, redis
        self.runs = 0

    def _load(self, load, port, n):
        if load.startswith("P"):
            return ["redis-benchmark", "-h", HOST, "-p", str(port), "-c", str(self.clients),
                    "-P", load[1:], "-d", "32", "-n", str(n), "-t", "set", "-q"]
        return [f"{self.rig.pg_bin}/pgbench", "-n", "-S", "-M", load, "-c", str(self.clients),
                "-t", str(n // self.clients), "-h", HOST, "-p", str(port), "-U", USER, DB]

    def count(self, load, n):
        """(instructions from start to stop, the file callgrind left)"""
        self.runs += 1
        name = f"callgrind-{id(self):x}-{self.runs}"
        out = self.rig.path("profiles", name)
        wrap = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}.%p"]
        p, pg_port, redis_port = self.start(name, wrap)
        try:
            self.rig.run(self._load(load, redis_port if self.redis(load) else pg_port, n),
                         timeout=600)
        finally:
            self.rig.stop(p, patience=60)
        # The process itself writes its file last: helpers it ran have theirs.
        for file in glob.glob(f"{out}.{p.pid}"):
            with open(file) as f:
                found = re.search(r"^(?:summary|totals): (\d+)", f.read(), re.M)
            if found:
                return int(found.group(1)), file
        raise Failed(f"{name}: callgrind left no profile: {self.rig.last_log(name)}")

    def per_transaction(self, load, n):
        """(instructions each, the profiles of the run of n and that of 2 n)"""
        once, short = self.count(load, n)
        twice, long = self.count(load, 2 * n)
        return (twice - once) / n, (short, long)


def functions(rig, file):
    """Instructions of each function itself, callees left out."""
    out = rig.run(["callgrind_annotate", "--auto=no", "--threshold=100", file])
    found = {}
    for line in out.split("\n"):
        hit = re.match(r"\s*([\d,]+) \(\s*[\d.]+%\)\s+(\S.*)$", line)
        if hit and "PROGRAM TOTALS" not in line:
            # file:function [object]; the object only for those without a file.
            text = re.sub(r"^\?\?\?:", "", hit.group(2))
            if not text.startswith("0x"):
                text = re.sub(r" \[[^]]*\]$", "", text)
            found[text] = found.get(text, 0) + int(hit.group(1).replace(",", ""))
    return found


def top_functions(rig, short, long, n, lines):
    """The same difference, function by function, the dearest first."""
    once, twice = functions(rig, short), functions(rig, long)
    rows = [((twice[f] - once.get(f, 0)) / n, f) for f in twice]
    rows.sort(key=lambda row: -row[0])
    return [f"{each:12.1f}  {text}" for each, text in rows[:lines] if each >= 0.5]


def main():
    env = os.environ
    weir = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else
                           env.get("WEIR") or os.path.join(TOP_DIR, "build/plain/weir"))
    loads = env.get("LOADS", "simple,prepared,P1,P16").split(",")
    clients, n = int(env.get("CLIENTS", 1)), int(env.get("N", 2000))
    extra = env.get("WEIR_POSTGRES", "").replace(";", "\n")
    for program in ("valgrind", "callgrind_annotate"):
        if not shutil.which(program):
            raise SystemExit(f"callgrind.sh: {program} is not installed (Debian: valgrind)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rig = Rig()
    try:
        return measure(rig, weir, loads, clients, n, extra)
    except Failed as e:
        raise SystemExit(f"callgrind.sh: {e}")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if env.get("KEEP"):
            shutil.copytree(rig.path("profiles"), env["KEEP"], dirs_exist_ok=True)
        rig.close()


def programs(rig, weir, clients, extra):
    """[(name, Counter, loads it serves)], weir last."""
    def is_redis(load):
        return load.startswith("P")

    def weir_counter(path):
        return Counter(rig, clients, lambda name, wrap: rig.weir(path, 1, name, extra, wrap),
                       is_redis)

    def peer_counter(start, path):
        def run(name, wrap):
            p, port = start(path, name, wrap)
            return p, port, port
        return Counter(rig, clients, run, is_redis)

    found = []
    if os.environ.get("PEERS", "0") not in ("", "0"):
        bouncer = rigs.which("PGBOUNCER", "pgbouncer")
        nutcracker = rigs.which("NUTCRACKER", "nutcracker")
        if bouncer:
            named = rigs.pgbouncer_version(bouncer) >= (1, 21)
            found.append((rigs.pgbouncer_label(bouncer), peer_counter(rig.pgbouncer, bouncer),
                          lambda load: not is_redis(load) and (named or load != "prepared")))
        if nutcracker:
            found.append(("nutcracker", peer_counter(rig.nutcracker, nutcracker), is_redis))
    if os.environ.get("BASELINE"):
        found.append(("weir baseline", weir_counter(os.environ["BASELINE"]), lambda load: True))
    if os.environ.get("WEIR") != "none":
        if not os.access(weir, os.X_OK):
            raise Failed(f"no weir at {weir}: run `make` first")
        found.append(("weir", weir_counter(weir), lambda load: True))
    return found


def measure(rig, weir, loads, clients, n, extra):
    os.mkdir(rig.path("profiles"))
    os.chmod(rig.path("profiles"), 0o777)
    what = programs(rig, weir, clients, extra)
    rig.certificate()
    rig.redis()
    rig.postgres(scale=1)
    bad = 0
    for load in loads:
        many = n * 10 if load.startswith("P") else n
        title = f"redis-benchmark -t set -P {load[1:]}" if load.startswith("P") else \
            f"pgbench -S -M {load}"
        print(f"\n{title} -c {clients}: instructions per transaction "
              f"({2 * many} - {many} of them)", flush=True)
        peer = None
        for name, counter, serves in what:
            if not serves(load):
                continue
            try:
                each, files = counter.per_transaction(load, many)
            except Failed as e:
                print(f"{'failed':>12}  {name}: {e}", flush=True)
                bad = 1
                continue
            ratio = f"  ({each / peer[0]:.2f} of {peer[1]})" if peer else ""
            print(f"{each:12.0f}  {name}{ratio}", flush=True)
            peer = peer or (each, name)
            if name == "weir":
                lines = int(os.environ.get("TOP", 25))
                print("\n".join(top_functions(rig, *files, many, lines)))
    return bad


if __name__ == "__main__":
    sys.exit(main())
