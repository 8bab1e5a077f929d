"""
weirproc: one running weir, and everything a test asks of it.

`Weir(...)` writes an ini from a dict of sections, starts the binary, waits until
its ports accept, and offers clients, numbers and log lines.  `finish()` is the
verdict every test ends with: it was still alive, it drains and exits 0 on
SIGTERM, and no sanitizer or assertion spoke.

With WEIR=direct the same object stands for the servers themselves: what a test
expects of weir and PostgreSQL alike can so be checked against PostgreSQL.
"""
import contextlib
import copy
import http.client
import os
import re
import signal
import ssl
import subprocess

import pgwire
import respwire
import servers
from servers import DATABASE, OPEN_USER, USERS, accepts, free_port, scaled, wait_for

BAD_WORDS = re.compile("AddressSanitizer|LeakSanitizer|ThreadSanitizer|"
                       "runtime error|Assertion|assertion|event=fault")


def default_config(pg, rd, certificate, ca):
    """What most tests need; each says only where it differs."""
    users = {"user " + name: dict({"auth": "scram-sha-256", "password": password},
                                  **({"organization": org} if org else {}))
             for name, (org, password) in USERS.items()}
    return {
        "weir": {
            "workers": 1, "log_level": "info", "drain_timeout": 10,
            "client_login_timeout": 30, "query_wait_timeout": int(scaled(20)),
            "server_login_retry": 1, "max_client_conn": 5000,
        },
        "tls": {"cert_file": certificate[0], "key_file": certificate[1],
                "ca_file": ca, "client_mode": "allow"},
        "postgres main": {
            "host": "127.0.0.1", "port": pg.port, "user": servers.UPSTREAM_USER,
            "password": servers.UPSTREAM_PASSWORD, "sslmode": "disable",
            "pool_size": 3, "health_check": "passive",
        },
        "redis main": {
            "url": "redis://:%s@127.0.0.1:%d/0" % (rd.password, rd.port),
            "connections": 4, "health_check": "passive",
        },
        "database *": {"postgres": "main"},
        **users,
        "user " + OPEN_USER: {"auth": "trust"},
        "user default": {"auth": "scram-sha-256", "password": servers.REDIS_PASSWORD},
        **{"organization " + slug: {"id": i}
           for slug, i in servers.ORGANIZATIONS.items()},
        "variables": {"app.current_organization_id": "%{organization.id}"},
    }


def merged(config, changes):
    """None removes a key or a section."""
    out = copy.deepcopy(config)
    for section, keys in (changes or {}).items():
        if keys is None:
            out.pop(section, None)
            continue
        out.setdefault(section, {}).update(keys)
        out[section] = {k: v for k, v in out[section].items() if v is not None}
    return out


def ini(config):
    return "\n".join("[%s]\n%s" % (section, "".join(
        "%s = %s\n" % item for item in keys.items()))
        for section, keys in config.items())


class Weir:
    direct = False

    def __init__(self, binary, folder, config, ca, listen=True, wait=True):
        self.binary, self.folder, self.ca = binary, folder, ca
        self.file = os.path.join(folder, "weir.ini")
        self.log_file = os.path.join(folder, "weir.log")
        self.clients, self.over = [], False
        self.ports = {}
        if listen:
            for kind in ("postgres", "redis", "redis_tls", "admin"):
                where = config["weir"].setdefault(
                    kind + "_listen", "127.0.0.1:%d" % free_port())
                self.ports[kind] = int(re.search(r":(\d+)", where)[1])
        self.pg_port, self.redis_port = self.ports.get("postgres"), self.ports.get("redis")
        self.config = config
        self.write(config)
        self.start(wait)

    # The process.

    def write(self, config):
        with open(self.file, "w") as f:
            os.chmod(self.file, 0o600)
            f.write(ini(config))

    def start(self, wait=True):
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "-c", self.file], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, preexec_fn=servers.die_with_parent)
        self.pid, self.knocked = self.process.pid, 0
        if wait:
            wait_for(self._listening, 15, "weir does not accept:\n" + self.tail())

    def _listening(self):
        assert self.process.poll() is None, \
            "weir exited with %d:\n%s" % (self.process.returncode, self.tail())
        if self.pg_port:
            if not accepts(self.pg_port):
                return False
            self.knocked += 1       # of clients_accepted_total, by and by
        return all(accepts(port) for port in self.ports.values() if port != self.pg_port)

    def alive(self):
        return self.process.poll() is None

    def signal(self, sig):
        self.process.send_signal(sig)

    @contextlib.contextmanager
    def stopped(self):
        """It does nothing meanwhile, and then finds all at once.  A signal that was sent
        is not obeyed yet: each thread goes on until it is its turn."""
        def is_so():
            return all(state == "T" for state in self._states())
        self.signal(signal.SIGSTOP)
        try:
            wait_for(is_so, 10, "weir does not stop")
            yield
        finally:
            self.signal(signal.SIGCONT)

    def _states(self):
        for task in os.listdir("/proc/%d/task" % self.pid):
            with open("/proc/%d/task/%s/stat" % (self.pid, task)) as f:
                yield f.read().rsplit(")", 1)[1].split()[0]

    def wait(self, seconds=20):
        """The exit status, once it stops by itself."""
        return self.process.wait(scaled(seconds))

    def reload(self, changes=None, config=None):
        """SIGHUP with a changed file; returns when weir has logged it."""
        self.config = merged(self.config, changes) if config is None else config
        before = len(self.events("reload"))
        self.write(self.config)
        self.signal(signal.SIGHUP)
        wait_for(lambda: len(self.events("reload")) > before, 10,
                 "no log line about the reload")

    def hang_up(self):
        """Close every client this object has opened."""
        for client in self.clients:
            with contextlib.suppress(Exception):
                client.close()
        self.clients = []

    def finish(self):
        """The verdict: alive, drains, exits 0, nothing bad was said."""
        self.hang_up()
        if not self.over:
            self.over = True
            status = self.process.poll()
            assert status is None, "weir died: %s\n%s" % (status, self.tail())
            self.signal(signal.SIGTERM)
            try:
                status = self.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError("SIGTERM did not stop it:\n" + self.tail())
            assert status == 0, "exit status %d:\n%s" % (status, self.tail())
        self.check_log()

    def check_log(self):
        bad = [line for line in self.log() if BAD_WORDS.search(line)]
        assert not bad, "weir said:\n" + self.tail(60)

    def kill(self):
        self.over = True
        if self.alive():
            self.process.kill()
        self.process.wait()

    # What it tells about itself.

    def log(self):
        with open(self.log_file, errors="replace") as f:
            return f.read().splitlines()

    def tail(self, n=30):
        return "\n".join(self.log()[-n:])

    def events(self, name, since=0):
        """The log lines of one event, each as a dict of its fields."""
        return [fields(line) for line in self.log()[since:]
                if re.search(r"\bevent=%s\b(?!-)" % re.escape(name), line)]

    def event(self, name):
        """The same, but wait for the first: lines are written by a thread."""
        return wait_for(lambda: self.events(name), 3, "no event=" + name)

    def http(self, path, method="GET"):
        """(status, text) of the admin port."""
        http_client = http.client.HTTPConnection(
            "127.0.0.1", self.ports["admin"], timeout=scaled(30))
        with contextlib.closing(http_client) as c:
            c.request(method, path)
            answer = c.getresponse()
            return answer.status, answer.read().decode()

    def metrics(self):
        """/metrics as {'weir_clients{proto="redis"}': 3.0, ...}."""
        status, text = self.http("/metrics")
        assert status == 200
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
                for line in text.splitlines() if line and line[0] != "#"}

    def metric(self, name, proto=None):
        label = '{proto="%s"}' % proto if proto else ""
        return self.metrics()["weir_" + name + label]

    def settled(self, postgres=0, redis=0):
        """Wait until that many clients are connected, as weir counts them."""
        def so():
            m = self.metrics()
            return (m['weir_clients{proto="postgres"}'] == postgres
                    and m['weir_clients{proto="redis"}'] == redis)
        wait_for(so, 10, "weir still counts clients that have left (weir_clients)")

    def memory(self, field="VmRSS"):
        """Bytes; VmHWM is the highest there ever was."""
        with open("/proc/%d/status" % self.pid) as f:
            return int(re.search(field + r":\s+(\d+) kB", f.read())[1]) << 10

    def reset_hwm(self):
        with open("/proc/%d/clear_refs" % self.pid, "w") as f:
            f.write("5")

    # Its clients.  All are closed when the test ends.

    def keep(self, client):
        self.clients.append(client)
        return client

    def dsn(self, user="acme_app", sslmode="disable", **more):
        password = USERS[user][1] if user in USERS else None
        return dict(dict(
            host="localhost" if sslmode == "verify-full" else "127.0.0.1",
            port=self.pg_port, user=user, password=password, dbname=DATABASE,
            sslmode=sslmode, sslrootcert=self.ca, gssencmode="disable",
            connect_timeout=int(scaled(15))), **more)

    def psycopg2(self, user="acme_app", **more):
        """psycopg2: simple protocol; autocommit, so transactions are explicit."""
        import psycopg2
        db = psycopg2.connect(**self.dsn(user, **more))
        db.autocommit = True
        return self.keep(db)

    def psycopg3(self, user="acme_app", prepare_threshold=5, **more):
        """psycopg 3: extended protocol, named statements after a few uses."""
        import psycopg
        return self.keep(psycopg.connect(
            autocommit=True, prepare_threshold=prepare_threshold,
            **self.dsn(user, **more)))

    def connect_pg(self, *args, **more):
        return self.psycopg2(*args, **more)

    def tls_context(self, **options):
        context = ssl.create_default_context(cafile=self.ca)
        for name, value in options.items():
            setattr(context, name, value)
        return context

    def wire(self, user="acme_app", tls=False, login=True, timeout=20, **options):
        """A protocol 3.0 socket, logged in unless told otherwise."""
        w = self.keep(pgwire.Wire(self.pg_port, timeout=scaled(timeout)))
        if tls:
            w.start_tls(self.tls_context())
        if login:
            w.login(user, options.pop("database", DATABASE),
                    USERS.get(user, (None, None))[1], **options)
        return w

    def redis(self, tls=False, **options):
        """redis-py, one connection of its own."""
        import redis
        options = dict(dict(password=servers.REDIS_PASSWORD,
                            socket_timeout=scaled(20)), **options)
        if tls:
            options.update(ssl=True, ssl_ca_certs=self.ca)
        port = self.ports["redis_tls"] if tls else self.redis_port
        return self.keep(redis.Redis(host="localhost" if tls else "127.0.0.1",
                                     port=port, **options))

    def resp(self, proto=2, tls=False, login=True, timeout=20):
        """A RESP socket, logged in as `default` unless told otherwise."""
        r = self.keep(respwire.Resp(
            self.ports["redis_tls"] if tls else self.redis_port,
            timeout=scaled(timeout), tls=self.tls_context() if tls else None))
        if login and proto == 3:
            hello = r.ask("HELLO", "3", "AUTH", "default", servers.REDIS_PASSWORD)
            assert isinstance(hello, respwire.Map), hello
        elif login:
            assert r.ask("AUTH", servers.REDIS_PASSWORD) == "OK"
        return r


class Direct(Weir):
    """The servers themselves behind the same face (WEIR=direct)."""
    direct = True

    def __init__(self, pg, rd, ca):
        self.ca, self.clients, self.over = ca, [], True
        self.pg_port, self.redis_port = pg.port, rd.port
        self.ports = {"postgres": pg.port, "redis": rd.port, "redis_tls": rd.tls_port}

    def alive(self):
        return True

    def finish(self):
        self.hang_up()

    def settled(self, **_):
        pass

    @staticmethod
    def prepare(pg, rd):
        """Give the servers the users weir would have, once."""
        if pg.run("SELECT 1 FROM pg_roles WHERE rolname = %s", [OPEN_USER]):
            return
        for name, (org, password) in USERS.items():
            pg.run("CREATE ROLE %s LOGIN PASSWORD %%s" % name, [password])
            if org:
                pg.run("ALTER ROLE %s SET app.current_organization_id = '%s'"
                       % (name, servers.ORGANIZATIONS[org]))
        pg.run("CREATE ROLE %s LOGIN" % OPEN_USER)
        with contextlib.closing(rd.connect()) as r:
            r.execute_command("ACL", "SETUSER", "default", "on",
                              ">" + servers.REDIS_PASSWORD)


def fields(line):
    """`key=value key="quoted value"` as a dict; `level` is the second word."""
    out = dict(re.findall(r'(?:^| )([a-z_]+)=("(?:[^"\\]|\\.)*"|\S*)', line))
    out = {k: v[1:-1] if v[:1] == '"' else v for k, v in out.items()}
    out["line"] = line
    out["level"] = (line.split() + ["", ""])[1]
    return out
