"""
Goal:   behind Sentinels weir speaks to the master they name and to nobody else:
        the first one, the one after a failover, and never to a replica, whether
        it lost its connection, was told -READONLY, or merely hears of the
        change; whoever is asked by mistake is asked for its ROLE.
Method: two redis-servers of one's own, and Sentinels that are either real (one
        failover) or a few lines of Python which say what the test wants.
"""
import contextlib
import os
import shutil
import signal
import socket
import socketserver
import ssl
import threading

import pytest

import servers
from respwire import encode
from servers import wait_for

NAME = "mymaster"
SECRET = "the-data-secret"


class Node(servers.Server):
    """A redis-server, or with `sentinel` what watches over one."""

    def __init__(self, folder, conf=(), sentinel=None):
        self.port = servers.free_port()
        super().__init__(os.path.join(folder, "node-%d" % self.port))
        os.mkdir(self.folder)
        self.argv = [shutil.which("redis-server")]
        if sentinel:
            file = os.path.join(self.folder, "sentinel.conf")
            with open(file, "w") as f:
                f.write("port %d\nbind 127.0.0.1\ndir %s\n%s" % (
                    self.port, self.folder, sentinel))
            self.argv += [file, "--sentinel"]
        else:
            self.argv += ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                          "--dir", self.folder, "--requirepass", SECRET,
                          "--masterauth", SECRET, "--repl-diskless-sync-delay", "0", *conf]
        self.start()

    def start(self):
        self.spawn(self.argv, "log")
        wait_for(lambda: servers.accepts(self.port), 20, "redis-server did not start")

    def ask(self, *args, password=SECRET):
        import redis
        with contextlib.closing(redis.Redis(port=self.port, password=password)) as r:
            return r.execute_command(*args)

    def role(self):
        return self.ask("ROLE")[0]

    def clients(self):
        """Of weir: those that are neither ours nor a replica's or Sentinel's."""
        import redis
        with contextlib.closing(redis.Redis(port=self.port, password=SECRET)) as r:
            own = str(r.client_id())
            return [c for c in r.client_list() if c["id"] != own and
                    c["flags"] in ("N", "b", "P") and
                    not c["name"].startswith("sentinel")]


class Sentinel:
    """It names `master`, a port; None: it knows none; `mute`: it says nothing; `tls`:
    (certificate, key)."""

    def __init__(self, master=None, password=None, tls=None):
        outer, self.master, self.mute, self.asked = self, master, False, []
        self.listening, self.deaf, self.lock = [], False, threading.Lock()
        self.port, self.password = servers.free_port(), password

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                try:
                    self.answer()
                except OSError:
                    pass            # the test has closed it
                finally:
                    with outer.lock:
                        outer.listening = [s for s in outer.listening if s is not self]

            def answer(self):
                allowed = outer.password is None
                while True:
                    words = self.words()
                    if words is None or outer.mute:
                        return
                    outer.asked.append(words)
                    if words[0] == b"AUTH":
                        allowed = words[1:] == outer.password
                        self.wfile.write(b"+OK\r\n" if allowed else b"-WRONGPASS no\r\n")
                    elif not allowed:
                        self.wfile.write(b"-NOAUTH no\r\n")
                    elif words[0] == b"SUBSCRIBE" and not outer.deaf:
                        assert words[1:] == [b"+switch-master"]
                        with outer.lock:
                            self.wfile.write(
                                b"*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n")
                            outer.listening.append(self)
                    elif words[0] == b"PING":
                        self.wfile.write(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
                    elif outer.master is None:
                        self.wfile.write(b"*-1\r\n")
                    else:
                        self.wfile.write(b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (
                            len(str(outer.master)), outer.master))

            def words(self):
                line = self.rfile.readline()
                if not line:
                    return None
                out = []
                for _ in range(int(line[1:])):
                    n = int(self.rfile.readline()[1:])
                    out.append(self.rfile.read(n + 2)[:-2])
                return out

        class Threads(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self.server = Threads(("127.0.0.1", self.port), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def announce(self, name, *text):
        """+switch-master, to all who listen."""
        text = " ".join([name, "127.0.0.1", *map(str, text)]).encode()
        with self.lock:
            for s in self.listening:
                s.wfile.write(b"*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$%d\r\n%s\r\n"
                              % (len(text), text))

    def hang_up(self):
        with self.lock:
            for s in self.listening:
                s.connection.shutdown(socket.SHUT_RDWR)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def pair(folder):
    """Two masters that know nothing of each other."""
    nodes = [Node(folder), Node(folder)]
    yield nodes
    for n in nodes:
        n.stop()


@pytest.fixture
def two(pair):
    for n in pair:
        n.ask("REPLICAOF", "NO", "ONE")
        n.ask("FLUSHALL")
        n.ask("SET", "who", n.port)
    return pair


@pytest.fixture
def sentinels():
    made = []

    def make(n, *args, **options):
        made.extend(Sentinel(*args, **options) for _ in range(n))
        return made[-n:]
    yield make
    for s in made:
        s.stop()


@pytest.fixture(params=[1, 4], ids="{}workers".format)
def start(weir, request):
    def run(ports, **more):
        return weir({"redis main": {
            "url": "redis://:%s@%s/0" % (
                SECRET, ",".join("127.0.0.1:%d" % p for p in ports)),
            "sentinel": NAME, "connections": 4, **more}}, workers=request.param)
    return run


def who(proxy):
    """Which node answers a client, by its port; or the error."""
    with contextlib.closing(proxy.resp()) as r:
        said = r.ask("GET", "who")
        return str(said) if not isinstance(said, bytes) else int(said)


def becomes(proxy, node, what):
    wait_for(lambda: who(proxy) == node.port, 20, what)


def test_it_speaks_to_the_master_that_is_named(start, two, sentinels):
    one, = sentinels(1, two[1].port)
    proxy = start([one.port])
    assert who(proxy) == two[1].port
    assert one.asked[0] == [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", NAME.encode()]
    assert not two[0].clients()


def test_of_several_the_first_that_knows_is_believed(start, two, sentinels):
    dumb, mute, one = sentinels(3, two[0].port)
    dumb.master, mute.mute = None, True
    proxy = start([servers.free_port(), dumb.port, mute.port, one.port])
    assert who(proxy) == two[0].port


def test_without_one_that_knows_the_client_is_told(start, two, sentinels):
    dumb, = sentinels(1)
    nobody = servers.free_port()
    proxy = start([nobody, dumb.port])
    said = who(proxy)
    assert "upstream is unreachable" in said, said
    assert "127.0.0.1:%d: Connection refused" % nobody in said, said
    assert "127.0.0.1:%d: does not know this master" % dumb.port in said, said
    dumb.master = two[0].port
    becomes(proxy, two[0], "it is not asked again")


def test_a_log_in_of_their_own_is_used_with_them_alone(start, two, sentinels):
    one, = sentinels(1, two[0].port, password=[b"watcher", b"their-secret"])
    proxy = start([one.port], sentinel_user="watcher", sentinel_password="their-secret")
    assert who(proxy) == two[0].port
    assert one.asked[0] == [b"AUTH", b"watcher", b"their-secret"]
    assert SECRET.encode() not in [w for words in one.asked for w in words]


def test_a_wrong_log_in_there_is_told_to_the_client(start, two, sentinels):
    one, = sentinels(1, two[0].port, password=[b"their-secret"])
    proxy = start([one.port], sentinel_password="wrong")
    assert "WRONGPASS" in who(proxy)


def test_a_lost_connection_is_made_to_whom_they_name_now(start, two, sentinels):
    one, = sentinels(1, two[0].port)
    proxy = start([one.port], health_check="passive")
    assert who(proxy) == two[0].port
    one.master = two[1].port
    two[0].ask("CLIENT", "KILL", "TYPE", "normal")
    becomes(proxy, two[1], "it went back to the old one")


def test_a_replica_is_found_out_by_its_role(start, two, sentinels):
    one, = sentinels(1, two[0].port)
    two[0].ask("REPLICAOF", "127.0.0.1", two[1].port)
    proxy = start([one.port])
    assert "no master" in who(proxy)
    one.master = two[1].port
    becomes(proxy, two[1], "the replica is not given up")
    wait_for(lambda: not two[0].clients(), 20, "connections stay with the replica")


def test_who_says_readonly_is_left_and_no_reply_is_lost(start, two, sentinels):
    one, = sentinels(1, two[0].port)
    proxy = start([one.port], health_check="passive")
    with contextlib.closing(proxy.resp()) as r:
        assert int(r.ask("GET", "who")) == two[0].port
        two[0].ask("REPLICAOF", "127.0.0.1", two[1].port)
        one.master = two[1].port

        def written():
            for _ in range(50):
                r.send(*[encode("SET", "k%d" % i, i) for i in range(4)])
            said = r.replies(200)
            bad = [s for s in said if s != "OK"]
            assert all("READONLY" in s or "unreachable" in s for s in bad), bad[:3]
            return not bad
        wait_for(written, 20, "it keeps what says -READONLY")
        assert int(r.ask("GET", "who")) == two[1].port


def test_a_connection_of_ones_own_that_says_readonly_is_not_lent_again(start, two, sentinels):
    one, = sentinels(1, two[0].port)
    proxy = start([one.port], health_check="passive")
    with contextlib.closing(proxy.resp()) as r:
        assert r.ask("WATCH", "k") == "OK"
        two[0].ask("REPLICAOF", "127.0.0.1", two[1].port)
        one.master = two[1].port

        def written():
            said = [r.ask("MULTI"), r.ask("SET", "k", 1), r.ask("DISCARD")]
            assert r.ask("WATCH", "k") == "OK"
            return said[1] == "QUEUED"
        wait_for(written, 20, "it is lent again and again")
    wait_for(lambda: not two[0].clients(), 20, "connections stay with the replica")


def test_who_waits_for_nothing_is_moved_too_with_an_active_check(start, two, sentinels):
    one, = sentinels(1, two[0].port)
    proxy = start([one.port], health_check="active", health_interval="1")
    assert who(proxy) == two[0].port
    one.master = two[1].port            # the old one lives, and takes writes
    becomes(proxy, two[1], "only a loss makes it ask again")
    wait_for(lambda: not two[0].clients(), 20, "connections stay with the old one")


@pytest.mark.parametrize("check", ["active", "passive"])
def test_a_master_that_hangs_is_left_for_who_they_name_then(start, two, sentinels, check):
    """Its connections stay open and silent; only who waits in vain can tell."""
    one, = sentinels(1, two[0].port)
    proxy = start([one.port], health_check=check, health_interval="1h", command_timeout="300ms")
    with contextlib.closing(proxy.resp()) as r:
        wait_for(lambda: r.ask("GET", "who") == b"%d" % two[0].port, 20, "it is not asked")
        two[0].process.send_signal(signal.SIGSTOP)
        try:
            assert r.ask("GET", "who") == "ERR weir: command_timeout"
            one.master = two[1].port
            wait_for(lambda: r.ask("GET", "who") == b"%d" % two[1].port, 20,
                     "they are not asked again")
            becomes(proxy, two[1], "another worker asks the old one for ever")
        finally:
            two[0].process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("password", [None, [b"watcher", b"their-secret"]])
def test_what_a_sentinel_announces_is_followed_though_nothing_is_lost(
        start, two, sentinels, password):
    one, other = sentinels(2, two[0].port, password=password)
    login = dict(sentinel_user="watcher", sentinel_password="their-secret") if password else {}
    proxy = start([one.port, other.port], health_check="passive", **login)
    with contextlib.closing(proxy.resp()) as r:
        assert int(r.ask("GET", "who")) == two[0].port
        wait_for(lambda: one.listening, 30, "nobody listens")
        # Neither what is said of others nor what is not true moves anybody.
        one.announce("mymaster2", two[0].port, "127.0.0.1", two[1].port)
        one.announce(NAME, two[0].port, "127.0.0.1", two[1].port)
        wait_for(lambda: [b"SENTINEL"] == [w[0] for w in one.asked[-1:]], 30, "it is not asked")
        assert int(r.ask("GET", "who")) == two[0].port
        # Who announces it is asked, whatever the others still say.
        one.master = two[1].port
        one.announce(NAME, two[0].port, "127.0.0.1", two[1].port)
        wait_for(lambda: int(r.ask("GET", "who")) == two[1].port, 30, "it stays")
    becomes(proxy, two[1], "another worker stays")
    wait_for(lambda: not two[0].clients(), 30, "connections stay with the old one")


def test_what_was_announced_while_nobody_listened_is_followed(start, two, sentinels):
    one, = sentinels(1, two[0].port)
    proxy = start([one.port], health_check="passive")
    with contextlib.closing(proxy.resp()) as r:
        assert int(r.ask("GET", "who")) == two[0].port
        wait_for(lambda: one.listening, 30, "nobody listens")
        one.deaf = True
        one.hang_up()
        wait_for(lambda: not one.listening, 30, "it listens still")
        wait_for(lambda: one.asked.count([b"SUBSCRIBE", b"+switch-master"]) > 1, 30,
                 "it does not come again")
        assert int(r.ask("GET", "who")) == two[0].port
        one.master, one.deaf = two[1].port, False
        wait_for(lambda: int(r.ask("GET", "who")) == two[1].port, 60, "it stays")
        assert r.ask("PING") == "PONG"


def test_sentinels_that_go_away_cost_no_connection(start, two, sentinels):
    one, = sentinels(1, two[0].port)
    proxy = start([one.port], health_check="active", health_interval="1")
    with contextlib.closing(proxy.resp()) as r:
        assert int(r.ask("GET", "who")) == two[0].port
        before = {c["id"] for c in two[0].clients()}
        one.master = None
        asked = len(one.asked)
        wait_for(lambda: len(one.asked) > asked + 1, 20, "nobody asks")
        assert int(r.ask("GET", "who")) == two[0].port
        assert before == {c["id"] for c in two[0].clients()}


def test_sentinels_and_the_master_are_spoken_to_with_tls(weir, rd, sentinels, authority, folder):
    """Both show who they are; a Sentinel that cannot is not believed."""
    stranger = servers.Authority(folder, "stranger-sentinel")
    false, = sentinels(1, servers.free_port(), tls=stranger.issue("false-sentinel"))
    named, = sentinels(1, servers.free_port(), tls=authority.issue("named", "DNS:elsewhere"))
    true, = sentinels(1, rd.tls_port, tls=authority.issue("true-sentinel"))
    proxy = weir({"redis main": {
        "url": "rediss://:%s@%s/0" % (rd.password, ",".join(
            "127.0.0.1:%d" % s.port for s in (false, named, true))),
        "sentinel": NAME, "sslmode": "verify-full", "sslrootcert": authority.crt}})
    with contextlib.closing(proxy.resp()) as r:
        assert r.ask("SET", "k", "over tls") == "OK"
        assert r.ask("GET", "k") == b"over tls"
        wait_for(lambda: true.listening, 30, "nobody listens")
    assert [s.asked for s in (false, named)] == [[], []]
    opened = proxy.event("server-open")
    assert opened and all(e["port"] == str(rd.tls_port) and e["tls"] != "off" for e in opened)


def test_real_sentinels_fail_over_and_weir_follows(start, folder):
    """The master is killed; what was acknowledged to be on both is there."""
    master = Node(folder)
    replica = Node(folder, ["--replicaof", "127.0.0.1 %d" % master.port])
    conf = ("sentinel monitor %s 127.0.0.1 %d 1\nsentinel auth-pass %s %s\n"
            "sentinel down-after-milliseconds %s 500\n"
            "sentinel failover-timeout %s 5000\n" % (
                NAME, master.port, NAME, SECRET, NAME, NAME))
    watcher = Node(folder, sentinel=conf)
    nodes = [master, replica, watcher]
    try:
        wait_for(lambda: replica.ask("ROLE")[3] == b"connected", 20, "no replica")
        wait_for(lambda: len(watcher.ask("SENTINEL", "REPLICAS", NAME, password=None)),
                 30, "the replica is not known to the Sentinel")
        proxy = start([watcher.port], health_check="passive")
        with contextlib.closing(proxy.resp()) as r:
            assert r.ask("SET", "k", "v") == "OK"
            assert r.ask("WAIT", 1, 10000) == 1
            master.stop(9)
            wait_for(lambda: r.ask("SET", "after", "v") == "OK", 60, "no failover")
            assert r.ask("GET", "k") == b"v"
        assert replica.role() == b"master" and replica.clients()
    finally:
        for n in nodes:
            n.stop(9)
