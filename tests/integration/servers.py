"""
servers: what weir stands in front of, in a private temporary folder.

Certificates, a PostgreSQL 15 cluster, redis-server, and a TCP relay that can
refuse, stall or cut what passes through it.  Everything listens on 127.0.0.1
and on ports nobody else has; nothing of the machine's own services is touched.
"""
import contextlib
import ctypes
import glob
import os
import pwd
import random
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

SCALE = 1.0     # longer under sanitizers; set by conftest

DATABASE = "collab"
ORGANIZATIONS = {
    "acme": "aaaaaaaa-0000-4000-8000-000000000001",
    "beta": "bbbbbbbb-0000-4000-8000-000000000002",
}
# user: (organization or None, password)
USERS = {
    "acme_app": ("acme", "acme-secret"),
    "beta_app": ("beta", "beta-secret"),
    "plain_app": (None, "plain-secret"),    # names no organization
}
OPEN_USER = "open_app"                      # auth = trust
REDIS_PASSWORD = "redis-secret"             # what clients of weir say
UPSTREAM_USER, UPSTREAM_PASSWORD = "weir_upstream", "upstream-secret"

SCHEMA = """
CREATE ROLE weir_upstream LOGIN PASSWORD 'upstream-secret'
    NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
CREATE ROLE clear_role LOGIN PASSWORD 'clear-secret';   -- pg_hba: password
CREATE ROLE trust_role LOGIN;                           -- pg_hba: trust

CREATE SCHEMA scratch;
GRANT ALL ON SCHEMA scratch TO PUBLIC;

CREATE FUNCTION own_organization() RETURNS uuid LANGUAGE sql STABLE AS
$$ SELECT nullif(current_setting('app.current_organization_id', true), '')::uuid $$;

CREATE TABLE notes (
    id              bigserial PRIMARY KEY,
    organization_id uuid NOT NULL DEFAULT own_organization(),
    author          text NOT NULL,
    body            text NOT NULL
);
CREATE INDEX ON notes (author);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE notes FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON notes USING (organization_id = own_organization())
    WITH CHECK (organization_id = own_organization());
GRANT ALL ON notes, notes_id_seq TO PUBLIC;
"""


def scaled(seconds):
    return seconds * SCALE


PATIENCE = 30   # what is to come may take this long where the machine is slow


def wait_for(true, seconds=10, what="", every=0.02):
    """
    Poll until true() is truthy and return that; AssertionError if it is later
    than `seconds` and PATIENCE: this is how to wait, not how to measure.
    """
    seconds = max(seconds, PATIENCE)
    end = time.monotonic() + scaled(seconds)
    while True:
        value = true()
        if value:
            return value
        assert time.monotonic() < end, "not within %gs: %s" % (scaled(seconds), what)
        time.sleep(every)


BLOCK = 500


def block_of_ports():
    """
    Ports of this process alone, below the range the kernel gives to outgoing
    connections: several runs of the suite may go on side by side.  The name of
    an abstract socket is the lock, which no exit can leave behind.
    """
    blocks = list(range(10000, 32000, BLOCK))
    random.SystemRandom().shuffle(blocks)
    for first in blocks:
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind("\0weir-tests-ports-%d" % first)
        except OSError:
            lock.close()
            continue
        return {"lock": lock, "first": first, "next": 0}
    raise AssertionError("no block of ports is free")


_ports = {}


def free_port():
    if not _ports:          # not for those who only collect tests
        _ports.update(block_of_ports())
    while True:
        port = _ports["first"] + _ports["next"] % BLOCK
        _ports["next"] += 1
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def accepts(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), 1).close()
        return True
    except OSError:
        return False


def die_with_parent():
    """In a child before exec: no server outlives an interrupted test run."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def find_tool(name):
    """A program of PATH, or of Debian's PostgreSQL folders; None if missing."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/" + name))
    return found[-1] if found else shutil.which(name)


# Certificates.


class Authority:
    """A certificate authority of our own, in folder/NAME.crt and .key."""

    def __init__(self, folder, name):
        self.folder, self.crt, self.key = folder, *self._paths(folder, name)
        openssl("req", "-x509", "-days", "30", "-subj", "/CN=" + name, *NEW_KEY,
                "-keyout", self.key, "-out", self.crt)

    @staticmethod
    def _paths(folder, name):
        return os.path.join(folder, name + ".crt"), os.path.join(folder, name + ".key")

    def issue(self, name, alt="DNS:localhost,IP:127.0.0.1", new_key=None,
              digest="sha256"):
        """(certificate, key), paths, for a server called localhost."""
        crt, key = self._paths(self.folder, name)
        csr = crt + ".csr"
        openssl("req", "-new", "-subj", "/CN=" + name, *(new_key or NEW_KEY),
                "-keyout", key, "-out", csr, "-addext", "subjectAltName=" + alt)
        openssl("x509", "-req", "-in", csr, "-CA", self.crt, "-CAkey", self.key,
                "-CAcreateserial", "-days", "30", "-copy_extensions", "copy",
                "-" + digest, "-out", crt)
        return crt, key


NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, capture_output=True)


# The servers.


class Server:
    """A child process with a log file."""

    def __init__(self, folder):
        self.folder, self.process = folder, None

    def spawn(self, argv, log, user=None):
        as_user = {}
        if user and os.geteuid() == 0:
            gid = pwd.getpwnam(user).pw_gid
            as_user = dict(user=user, group=gid, extra_groups=[])
        with open(os.path.join(self.folder, log), "ab") as out:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                cwd=self.folder, preexec_fn=die_with_parent, **as_user)

    def stop(self, sig=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Postgres(Server):
    """A cluster of our own, as an unprivileged user when we are root."""
    SETTINGS = {}

    def __init__(self, folder, authority):
        super().__init__(os.path.join(folder, "postgres"))
        self.port = free_port()
        self.user = "postgres" if os.geteuid() == 0 else None
        self.data = os.path.join(self.folder, "data")
        self.crt, self.key = authority.issue("postgres-server")
        os.mkdir(self.folder)
        for path in (self.crt, self.key):
            shutil.copy(path, self.folder)
            os.chmod(os.path.join(self.folder, os.path.basename(path)), 0o600)
        if self.user:
            who = pwd.getpwnam(self.user)
            for path in [self.folder] + glob.glob(self.folder + "/*"):
                os.chown(path, who.pw_uid, who.pw_gid)
        self._initdb()
        self.start()
        with contextlib.closing(self.connect("postgres")) as db:
            db.cursor().execute("CREATE DATABASE " + DATABASE)
        self.admin = self.connect()
        self.run(SCHEMA)

    def _initdb(self):
        self.spawn([find_tool("initdb"), "-D", self.data, "-U", "postgres", "-A",
                    "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
                   "initdb.log", self.user)
        assert self.process.wait() == 0, "initdb failed, see " + self.folder
        with open(os.path.join(self.data, "pg_hba.conf"), "w") as f:
            f.write("local all all trust\n"
                    "host all clear_role 127.0.0.0/8 password\n"
                    "host all trust_role,%s 127.0.0.0/8 trust\n"
                    "host all all 127.0.0.0/8 scram-sha-256\n" % OPEN_USER)

    def start(self):
        settings = {
            "listen_addresses": "127.0.0.1,127.0.0.2", "port": self.port,
            "unix_socket_directories": self.folder, "max_connections": 300,
            "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
            "autovacuum": "off", "wal_level": "minimal", "max_wal_senders": 0,
            "shared_buffers": "64MB", "jit": "off", "ssl": "on",
            "ssl_cert_file": os.path.join(self.folder, os.path.basename(self.crt)),
            "ssl_key_file": os.path.join(self.folder, os.path.basename(self.key)),
        }
        settings.update(self.SETTINGS)
        argv = [find_tool("postgres"), "-D", self.data]
        for name, value in settings.items():
            argv += ["-c", "%s=%s" % (name, value)]
        self.spawn(argv, "postgres.log", self.user)
        wait_for(self._answers, 30, "PostgreSQL did not start, see " + self.folder)

    def _answers(self):
        import psycopg2
        try:
            self.connect("postgres").close()
            return True
        except psycopg2.OperationalError:
            return False

    def stop(self, sig=signal.SIGINT):      # fast shutdown
        super().stop(sig)

    def connect(self, database=DATABASE):
        """A superuser, past weir, over the unix socket."""
        import psycopg2
        db = psycopg2.connect(host=self.folder, port=self.port, user="postgres",
                              dbname=database, application_name="suite")
        db.autocommit = True
        return db

    def run(self, sql, args=None):
        """As superuser, past weir: the rows, if there are any."""
        with self.admin.cursor() as cur:
            cur.execute(sql, args)
            return cur.fetchall() if cur.description else []

    def backends(self, user=UPSTREAM_USER):
        """The process ids of weir's server connections."""
        return [pid for pid, in self.run(
            "SELECT pid FROM pg_stat_activity WHERE usename = %s", [user])]


class Redis(Server):
    """A redis-server with a plain and a TLS port and one ACL user more."""

    def __init__(self, folder, authority, name="redis", options=()):
        super().__init__(os.path.join(folder, name))
        self.options = options
        self.port, self.tls_port = free_port(), free_port()
        self.ca = authority.crt
        self.crt, self.key = authority.issue(name + "-server")
        self.password = "redis-upstream-secret"
        os.mkdir(self.folder)
        self.start()

    def start(self):
        self.spawn([
            shutil.which("redis-server"), "--port", str(self.port), "--bind",
            "127.0.0.1", "--save", "", "--appendonly", "no", "--tls-port",
            str(self.tls_port), "--tls-cert-file", self.crt, "--tls-key-file",
            self.key, "--tls-ca-cert-file", self.ca, "--tls-auth-clients", "no",
            "--requirepass", self.password, "--user", "acme", "on", ">acme-redis",
            "~acme:*", "&acme:*", "+@all", "-@dangerous", *self.options], "redis.log")
        wait_for(lambda: accepts(self.port), 10, "redis-server did not start")

    def connect(self, **options):
        """Past weir."""
        import redis
        return redis.Redis(port=self.port, password=self.password, **options)

    def clients(self):
        """The connections of others, as CLIENT LIST tells them."""
        with contextlib.closing(self.connect()) as r:
            own = r.client_id()
            return [c for c in r.client_list() if c["id"] != str(own)]


class Relay:
    """
    A TCP relay to 127.0.0.1:port, so that a test can break the line.

    `stop()` refuses new connections and cuts old ones, `start()` is back on the
    same port; `stalled` accepts and then says nothing; `refuse_tls` answers N to
    an SSLRequest; `delay` holds every byte from the server for that long;
    `rewrite(data)` changes what clients send, piece by piece.
    """

    def __init__(self, target, started=True):
        self.target, self.port = target, free_port()
        self.stalled = self.refuse_tls = False
        self.delay = 0
        self.rewrite = None
        self.accepted = 0
        self.listener, self.pairs = None, []
        if started:
            self.start()

    def start(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[self.listener], daemon=True).start()

    def stop(self):
        if self.listener:
            # Wakes the thread in accept(), which close() alone does not.
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
        self.cut()

    def cut(self):
        """Close what is open, as if the server had died."""
        pairs, self.pairs = self.pairs, []
        for s in [s for pair in pairs for s in pair]:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    def _accept(self, listener):
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            self.accepted += 1
            if self.stalled:
                self.pairs.append((client,))
                continue
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError, ValueError):
            if self.refuse_tls:
                client.recv(8, socket.MSG_WAITALL)
                client.sendall(b"N")
            server = socket.create_connection(("127.0.0.1", self.target))
            self.pairs.append((client, server))
            while True:
                for s in select.select([client, server], [], [])[0]:
                    data = s.recv(65536)
                    if s is server and self.delay:
                        time.sleep(self.delay)
                    if s is client and self.rewrite:
                        data = self.rewrite(data)
                    (server if s is client else client).sendall(data)
                    if not data:
                        client.close()
                        server.close()
                        return
        client.close()


def private_folder():
    """A folder an unprivileged PostgreSQL may enter, removed by its owner."""
    folder = tempfile.mkdtemp(prefix="weir-tests-")
    os.chmod(folder, 0o755)
    return folder
