"""crowds: what organizations cost, by crowd.c.

Three questions.  What do the variables of organizations add to a transaction,
when consecutive clients of a server are of one organization and when they are
of others, beside PgBouncer whose application says SET LOCAL itself?  And do ten
thousand organizations of a client each get what one of ten thousand gets?  And
what does an organization cost that has no client?

Two weirs have the same organizations; one of them sets a variable.
"""

import os
import subprocess
from dataclasses import dataclass, field

import figures
import rig as rigs
from rig import DB, HOST, USER, Failed

HERE = os.path.dirname(os.path.abspath(__file__))
READ = "SELECT abalance FROM pgbench_accounts WHERE aid = 1"
SET = "SET LOCAL app.current_organization_id = 'id-@'"
ONE_QUERY = [f"BEGIN; {SET}; {READ}; COMMIT"]
FOUR_QUERIES = ["BEGIN", SET, READ, "COMMIT"]
# What a request to a web application does: read two rows, write one.
REQUEST = ["BEGIN", READ, READ.replace("aid = 1", "aid = 2"),
           "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) "
           "VALUES (1, 1, 1, 1, CURRENT_TIMESTAMP)", "COMMIT"]


@dataclass
class Load:
    """Who asks for what, of whom."""
    path: str
    what: str
    where: str                      # plain, variables or pgbouncer
    names: int                      # organizations
    texts: list = field(default_factory=lambda: [READ])
    samples: list = field(default_factory=list)     # (tx/s, p99 ms, proxy us, server us) or None

    def series(self, i):
        return [s[i] if s else None for s in self.samples]


def ini(port, pg_port, pool, names, variables):
    """A weir with that many organizations, and a user who may choose any."""
    return "\n".join([
        "[weir]", "workers = 1", f"postgres_listen = {HOST}:{port}", "log_level = warn",
        f"max_client_conn = {names + 1000}",
        "[postgres main]", f"host = {HOST}", f"port = {pg_port}", f"dbname = {DB}",
        f"user = {USER}", "sslmode = disable", f"pool_size = {pool}",
        "[database *]", "postgres = main", "[user app]", "auth = trust", "organizations = *",
        *(["[variables]", "app.current_organization_id = %{organization.id}"] * variables),
        *(f"[organization o{n:05}]\nid = id-{n:05}" for n in range(names))]) + "\n"


class Crowds:
    def __init__(self, bench):
        self.rig, self.plan = bench.rig, bench.plan
        self.fail = bench.fail
        self.weir_path, self.pgbouncer_path = bench.weir_path, bench.pgbouncer_path
        self.pgbouncer = bench.pgbouncer
        self.many, self.few = self.plan.organizations, 32
        self.at, self.added, self.shared, self.each = {}, [], [], 0

    def run(self, say):
        """All of it; nothing, and why, if there is no compiler."""
        self.program = self.rig.path("crowd")
        self.rig.run([os.environ.get("CC", "cc"), "-O2", "-D_GNU_SOURCE", "-o", self.program,
                      os.path.join(HERE, "crowd.c")])
        for where in ("plain", "variables"):
            port = self.rig.free_port()
            text = ini(port, self.rig.pg_port, self.plan.pool, self.many, where == "variables")
            p = self.rig.spawn("weir-" + where, [
                self.weir_path, "-c", self.rig.write(f"weir-{where}.ini", text)], port=port)
            self.at[where] = (p, port, "app.o@")
        self.each = self._bytes_each()
        if self.pgbouncer:
            p, port = self.rig.pgbouncer(self.pgbouncer_path, "pgbouncer-crowd")
            self.at["pgbouncer"] = (p, port, USER)
        self.added, self.shared = self._loads()
        loads = [(load, self.few) for load in self.added]
        loads += [(load, self.many) for load in self.shared]
        for r in range(self.plan.rounds):
            for i in range(len(loads)):
                load, clients = loads[(r + i) % len(loads)]
                try:
                    load.samples.append(self._measure(load, clients))
                except Failed as e:
                    load.samples.append(None)
                    self.fail(f"{load.path}, {load.what}: {e}")
                got = load.samples[-1]
                say(f"  round {r + 1}/{self.plan.rounds}  {clients:5} clients  {load.path:22} "
                    f"{load.what:44} {got[0] if got else 0:8.0f}/s")

    def _bytes_each(self):
        """Of memory, for each organization of the file, before anybody came."""
        port = self.rig.free_port()
        text = ini(port, self.rig.pg_port, self.plan.pool, 10, True)
        few = self.rig.spawn("weir-few", [
            self.weir_path, "-c", self.rig.write("weir-few.ini", text)], port=port)
        many = self.at["variables"][0]
        return (rigs.private_bytes(many.pid) - rigs.private_bytes(few.pid)) / (self.many - 10)

    def _loads(self):
        added = [Load("weir", "no variables", "plain", self.few),
                 Load("weir", "variables, one organization", "variables", 1),
                 Load("weir", f"variables, {self.few} organizations", "variables", self.few)]
        if self.pgbouncer:
            added += [Load(self.pgbouncer, "no variables", "pgbouncer", 1),
                      Load(self.pgbouncer, "SET LOCAL, all in one query", "pgbouncer", self.few,
                           ONE_QUERY),
                      Load(self.pgbouncer, "SET LOCAL, four queries", "pgbouncer", self.few,
                           FOUR_QUERIES)]
        shared = [Load("weir", f"{what}, {n} organization{'s' * (n > 1)}", where, n, texts)
                  for where, what, texts in (
                      ("plain", "one read, no variables", [READ]),
                      ("variables", "one read, variables", [READ]),
                      ("variables", "five queries, variables", REQUEST))
                  for n in (1, self.many)]
        return added, shared

    def _measure(self, load, clients):
        p, port, user = self.at[load.where]
        argv = [self.program, str(port), DB, user, str(clients), str(load.names),
                str(self.plan.seconds), *load.texts]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as crowd:
            try:
                if crowd.stdout.readline() != "ready\n":
                    raise Failed(crowd.stderr.read().strip()[:200] or "it does not log in")
                before = self._cost(p)
                crowd.stdin.write("go\n")
                crowd.stdin.flush()
                line = crowd.stdout.readline().split()
                after = self._cost(p)
                if len(line) != 4:
                    raise Failed(crowd.stderr.read().strip()[:200] or "it said nothing")
            finally:
                crowd.kill()
        done, seconds = int(line[0]), float(line[1])
        return (done / seconds, int(line[3]) / 1e3,
                *((a - b) / max(done, 1) for a, b in zip(after, before)))

    def _cost(self, p):
        return rigs.cpu_us(p.pid), rigs.family_cpu_us(self.rig.pg_pid)

    # The report.

    def report(self):
        first = {load.path: load for load in reversed(self.added)}
        return "\n".join([
            f"## What an organization's variable adds ({self.few} clients, one worker)", "",
            self._table(self.added, lambda load: first[load.path], "no variables"), "",
            "Each transaction reads one row. weir sets the variable in the same write as the "
            "first request, and only where a server's last client was of another organization; "
            "with PgBouncer the application says it in each transaction.", "",
            f"## One organization of {self.many} clients, and {self.many} of one each", "",
            self._table(self.shared, lambda load: next(
                x for x in self.shared
                if (x.where, x.texts) == (load.where, load.texts)), "one"), "",
            f"On one upstream with {self.plan.pool} servers. With variables each transaction of "
            "another organization makes PostgreSQL set them; the servers pay for that. Five "
            "queries are BEGIN, two reads of a row, an INSERT and COMMIT.", "",
            f"An organization of the file costs {self.each:.0f} bytes of memory (RssAnon of a weir "
            f"of {self.many} less that of one of 10, before anybody came)."])

    @staticmethod
    def _table(loads, base, named):
        head = ["path", "load", "tx/s", "p99 ms", "proxy us/tx", "server us/tx",
                f"tx/s : {named}", f"proxy us : {named}"]
        body = []
        for load in loads:
            b = base(load)
            body.append([load.path, load.what, *(
                figures.spread(load.series(i), d) for i, d in ((0, 0), (1, 2), (2, 2), (3, 2))),
                *("1" if b is load else figures.ratio(load.series(i), b.series(i))
                  for i in (0, 2))])
        return figures.table(head, body)
