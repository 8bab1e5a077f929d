"""rig: private servers and proxies, and what they cost.

Everything lives in one temporary folder and on free ports of 127.0.0.1.  Each
process is our child and asks the kernel to be ended when we are, so nothing
is left behind even when we are killed.  PostgreSQL refuses to run as root, so
then it runs as `postgres` or `nobody`.
"""

import ctypes
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

HOST = "127.0.0.1"
USER = "bench"
DB = "bench"
TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """What could not be started or measured, in one line."""


def _stat(pid):
    """/proc/PID/stat from the third field on, or None when it has gone."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def cpu_us(pid):
    """CPU time of a process, all its threads, in microseconds."""
    s = _stat(pid)
    return (int(s[11]) + int(s[12])) * TICK_US if s else None


def family_cpu_us(pid):
    """The same with its children, the reaped as well as the living."""
    s = _stat(pid)
    if s is None:
        return None
    ticks = sum(int(x) for x in s[11:15])
    for child in children(pid):
        c = _stat(child)
        if c:
            ticks += int(c[11]) + int(c[12])
    return ticks * TICK_US


def children(pid):
    """The living ones."""
    found = set()
    for name in os.listdir("/proc"):
        s = _stat(name) if name.isdigit() else None
        if s and int(s[1]) == pid:
            found.add(int(name))
    return found


def rss_bytes(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return int(re.search(r"^Rss:\s+(\d+) kB", f.read(), re.M).group(1)) * 1024


def private_bytes(pid):
    """What the process has allocated: no code, no files."""
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"^RssAnon:\s+(\d+) kB", f.read(), re.M).group(1)) * 1024


def which(env, name):
    """The program: as the environment says, else as PATH does, else None."""
    path = os.environ.get(env)
    if path:
        return os.path.abspath(path)
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def first_line(*argv):
    """What a program says of its version, or an empty string."""
    try:
        out = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return out.strip().split("\n")[0]


def raise_nofile(want):
    """More descriptors for us and our children; how many there are now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < want:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (want, max(want, hard)))
        except (ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Rig:
    def __init__(self, pool=20):
        self.pool = pool
        self.dir = tempfile.mkdtemp(prefix="weir-bench-")
        os.chmod(self.dir, 0o755)
        self.procs = []
        self.pg_port = self.redis_port = None
        self.account = self._account()
        self.pg_bin = self._pg_bin()
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        self.env.update(PGSSLMODE="disable", PGGSSENCMODE="disable", LC_ALL="C")

    @staticmethod
    def _account():
        """Whom PostgreSQL runs as: None is ourselves."""
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            try:
                return pwd.getpwnam(name)
            except KeyError:
                pass
        raise Failed("root, and neither a user postgres nor nobody to run PostgreSQL as")

    @staticmethod
    def _pg_bin():
        for d in (os.environ.get("PG_BIN", ""), "/usr/lib/postgresql/15/bin"):
            if os.path.exists(os.path.join(d, "initdb")):
                return d
        if shutil.which("initdb"):
            return os.path.dirname(shutil.which("initdb"))
        raise Failed("no PostgreSQL server found: set PG_BIN to the folder of initdb")

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)
        return self.path(name)

    @staticmethod
    def free_port():
        with socket.socket() as s:
            s.bind((HOST, 0))
            return s.getsockname()[1]

    def run(self, argv, unprivileged=False, timeout=300, cwd=None):
        """A command to its end; its output, or Failed with its last line."""
        as_user = self._as_account() if unprivileged else {}
        try:
            p = subprocess.run(argv, env=self.env, text=True, timeout=timeout,
                               cwd=cwd or self.dir, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, **as_user)
        except subprocess.TimeoutExpired:
            raise Failed(f"{os.path.basename(argv[0])} did not end in {timeout} s")
        except OSError as e:
            raise Failed(f"{argv[0]}: {e.strerror}")
        if p.returncode != 0:
            said = (p.stderr.strip() or p.stdout.strip() or "no message").split("\n")
            telling = [line for line in said if re.search("error|fatal|failed", line, re.I)]
            raise Failed(f"{os.path.basename(argv[0])}: {(telling or said[-1:])[0]}")
        return p.stdout

    def _as_account(self):
        a = self.account
        return dict(user=a.pw_uid, group=a.pw_gid, extra_groups=[]) if a else {}

    def spawn(self, name, argv, port=None, unprivileged=False, stop=signal.SIGTERM,
              patience=15):
        """A daemon in the foreground; returns once its port answers."""
        log = open(self.path(f"{name}.log"), "w")
        try:
            p = subprocess.Popen(
                argv, env=self.env, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, stop),
                **(self._as_account() if unprivileged else {}))
        except OSError as e:
            raise Failed(f"{argv[0]}: {e.strerror}")
        finally:
            log.close()
        p.title, p.stop = name, stop
        self.procs.append(p)
        end = time.monotonic() + patience
        while port:
            if p.poll() is not None:
                raise Failed(f"{name} ended with {p.returncode}: {self.last_log(name)}")
            try:
                socket.create_connection((HOST, port), 1).close()
                break
            except OSError:
                if time.monotonic() > end:
                    raise Failed(f"{name} does not listen after {patience} s: "
                                 f"{self.last_log(name)}")
                time.sleep(0.05)
        return p

    def obituary(self, pid):
        """How a child that should still run came to its end, or None."""
        for p in self.procs:
            if p.pid == pid and p.poll() is not None:
                return f"{p.title} ended with {p.returncode}: {self.last_log(p.title)}"
        return None

    def last_log(self, name, lines=1):
        with open(self.path(f"{name}.log"), errors="replace") as f:
            said = f.read().strip().split("\n")
        return "\n".join(said[-lines:]) or "no message"

    def stop(self, p, patience=10):
        """Ends it, kindly first.  Its exit status."""
        if p.poll() is None:
            p.send_signal(p.stop)
            try:
                p.wait(patience)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        if p in self.procs:
            self.procs.remove(p)
        return p.returncode

    def close(self):
        # Proxies first, the servers they lean on last.
        for p in reversed(list(self.procs)):
            self.stop(p)
        shutil.rmtree(self.dir, ignore_errors=True)

    # The servers.

    def postgres(self, scale, max_connections=400, **more):
        data, self.pg_port = self.path("data"), self.free_port()
        os.mkdir(data, 0o700)
        if self.account:
            os.chown(data, self.account.pw_uid, self.account.pw_gid)
        self.run([f"{self.pg_bin}/initdb", "-D", data, "-U", USER, "-A", "trust",
                  "-N", "-E", "UTF8", "--locale=C"], unprivileged=True)
        settings = dict(listen_addresses=HOST, port=self.pg_port, fsync="off",
                        unix_socket_directories="", max_connections=max_connections,
                        shared_buffers="256MB", autovacuum="off", log_min_messages="fatal")
        settings.update(more)
        argv = [f"{self.pg_bin}/postgres", "-D", data]
        for k, v in settings.items():
            argv += ["-c", f"{k}={v}"]
        p = self.spawn("postgres", argv, unprivileged=True, stop=signal.SIGINT)
        self.pg_pid = p.pid
        ready = [f"{self.pg_bin}/pg_isready", "-q", "-h", HOST, "-p", str(self.pg_port)]
        for _ in range(100):
            if p.poll() is not None:
                raise Failed(f"postgres ended: {self.last_log('postgres')}")
            if subprocess.run(ready, env=self.env).returncode == 0:
                break
            time.sleep(0.1)
        at = ["-h", HOST, "-p", str(self.pg_port), "-U", USER]
        self.run([f"{self.pg_bin}/createdb", *at, DB])
        if scale:
            self.run([f"{self.pg_bin}/pgbench", *at, "-i", "-q", "-s", str(scale), DB])
        self.run([f"{self.pg_bin}/psql", *at, "-qc", "checkpoint", DB])

    def redis(self):
        self.redis_port = self.free_port()
        p = self.spawn("redis", [which("REDIS_SERVER", "redis-server"), "--save", "",
                                 "--appendonly", "no", "--bind", HOST,
                                 "--port", str(self.redis_port), "--dir", self.dir,
                                 "--maxclients", "10000"], port=self.redis_port)
        self.redis_pid = p.pid

    def certificate(self):
        self.cert, self.key = self.path("cert.pem"), self.path("key.pem")
        self.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                  "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj",
                  "/CN=localhost", "-keyout", self.key, "-out", self.cert])
        if self.account:
            os.chown(self.key, self.account.pw_uid, self.account.pw_gid)

    def _open_to_all(self, path):
        """A program that PostgreSQL's user may run as well: PgBouncer, too,
        refuses root, and its own way down would lose our hold on it."""
        if self.account is None or path.startswith("/usr/"):
            return path
        copy = self.path("bin-" + os.path.basename(path))
        shutil.copy(path, copy)
        os.chmod(copy, 0o755)
        return copy

    # The proxies.  Each returns (process, port).

    def pgbouncer(self, path, name="pgbouncer", wrap=()):
        port = self.free_port()
        users = self.write(f"{name}.users", f'"{USER}" ""\n')
        upstream = f"host={HOST} port={self.pg_port} dbname={DB}"
        # Database bench_session is the same one, a server per client.
        ini = f"""[databases]
{DB} = {upstream}
{DB}_session = {upstream} pool_mode=session
[pgbouncer]
listen_addr = {HOST}
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = {self.pool}
max_client_conn = 10000
client_tls_sslmode = allow
client_tls_cert_file = {self.cert}
client_tls_key_file = {self.key}
server_tls_sslmode = disable
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
log_stats = 0
"""
        if pgbouncer_version(path) >= (1, 21):
            ini += "max_prepared_statements = 200\n"
        # SIGINT waits for clients, SIGTERM does in newer ones: under a wrapper
        # it must end in its own way, else it may as well end at once.
        return self.spawn(name, [*wrap, self._open_to_all(path),
                                 self.write(f"{name}.ini", ini)],
                          port=port, unprivileged=True,
                          stop=signal.SIGINT if wrap else signal.SIGQUIT,
                          patience=60 if wrap else 15), port

    def haproxy(self, path):
        port = self.free_port()
        cfg = f"""global
\tnbthread 1
\tmaxconn 4000
defaults
\tmode tcp
\ttimeout connect 10s
\ttimeout client 1h
\ttimeout server 1h
listen postgres
\tbind {HOST}:{port}
\tserver one {HOST}:{self.pg_port}
"""
        return self.spawn("haproxy", [path, "-db", "-f", self.write("haproxy.cfg", cfg)],
                          port=port), port

    def nutcracker(self, path, name="nutcracker", wrap=(), mbuf=512):
        port = self.free_port()
        yml = f"""bench:
  listen: {HOST}:{port}
  redis: true
  server_connections: 1
  preconnect: true
  servers:
   - {HOST}:{self.redis_port}:1 one
"""
        return self.spawn(name, [*wrap, path, "-c", self.write(f"{name}.yml", yml),
                                 "-m", str(mbuf), "-o", self.path(f"{name}.log"),
                                 "-s", str(self.free_port()), "-a", HOST],
                          port=port, patience=60 if wrap else 15), port

    def floor(self, path):
        port = self.free_port()
        return self.spawn("floor", [path, str(port), str(self.redis_port)], port=port), port

    def weir(self, path, workers, name, extra="", wrap=()):
        """(process, port for Postgres, port for Redis)"""
        pg, redis = self.free_port(), self.free_port()
        if self.pg_port is None:    # never asked for anything
            self.pg_port = self.free_port()
        ini = f"""[weir]
workers = {workers}
postgres_listen = {HOST}:{pg}
redis_listen = {HOST}:{redis}
max_client_conn = 10000
log_level = warn
[tls]
cert_file = {self.cert}
key_file = {self.key}
client_mode = allow
[postgres main]
host = {HOST}
port = {self.pg_port}
dbname = {DB}
user = {USER}
sslmode = disable
pool_size = {self.pool}
{extra}
[redis main]
url = redis://{HOST}:{self.redis_port}/0
connections = {workers}
[database *]
postgres = main
[user {USER}]
auth = trust
[user default]
auth = trust
"""
        p = self.spawn(name, [*wrap, path, "-c", self.write(f"{name}.ini", ini)], port=pg,
                       patience=60 if wrap else 15)
        return p, pg, redis


def pgbouncer_version(path):
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", first_line(path, "-V"))
    return tuple(int(x or 0) for x in found.groups()) if found else (0, 0, 0)


def pgbouncer_label(path):
    """Its name in every table: Debian 12 ships the one of 2023."""
    major, minor, _ = pgbouncer_version(path)
    return f"PgBouncer {major}.{minor}" + (" (2023)" if (major, minor) == (1, 18) else "")
