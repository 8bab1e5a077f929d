"""
Goal:   in front of a Redis Cluster weir looks like one Redis: each command finds
        the node of its key, replies come in the client's order, redirects are
        followed unseen while slots move, and what no single node can answer is
        said to be so.
Method: three masters of one's own; slots are moved by hand, so that a test may
        stop half-way; every value carries its owner.
"""
import contextlib
import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import threading

import pytest

import respwire
import servers
import test_batch_publish
from respwire import encode
from servers import wait_for

SECRET = "the-data-secret"
SLOTS = 16384
THIRDS = [(0, 5460), (5461, 10922), (10923, 16383)]


class Node(servers.Server):
    """With `more` options of redis-server; `met`: the port others are told of."""

    def __init__(self, folder, *more, met=None):
        self.port, self.bus = servers.free_port(), servers.free_port()
        super().__init__(os.path.join(folder, "cluster-%d" % self.port))
        self.met, self.more = met or self.port, more
        os.mkdir(self.folder)
        self.start()

    def start(self):
        self.spawn([shutil.which("redis-server"), "--port", str(self.port), "--bind",
                    "127.0.0.1", "--save", "", "--dir", self.folder, "--requirepass", SECRET,
                    "--masterauth", SECRET, "--cluster-enabled", "yes", "--cluster-port",
                    str(self.bus), "--cluster-node-timeout", "60000",
                    "--cluster-require-full-coverage", "no",
                    "--cluster-allow-replica-migration", "no", *self.more], "log")
        wait_for(lambda: servers.accepts(self.port), 20, "redis-server did not start")

    def resp(self):
        r = respwire.Resp(self.port, timeout=servers.scaled(20))
        assert r.ask("AUTH", SECRET) == "OK"
        return r

    def ask(self, *args):
        with contextlib.closing(self.resp()) as r:
            return r.ask(*args)

    def clients(self):
        """Of weir: not ours, nor what MIGRATE of another node keeps for a while."""
        import redis
        with contextlib.closing(redis.Redis(port=self.port, password=SECRET)) as r:
            own = str(r.client_id())
            return [c for c in r.client_list()
                    if c["id"] != own and not c["cmd"].startswith("restore")]


class Cluster:
    def __init__(self, folder, nodes=None, slots=THIRDS):
        self.nodes = nodes or [Node(folder) for _ in slots]
        for i, (n, (low, high)) in enumerate(zip(self.nodes, slots)):
            assert n.ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1) == "OK"
            assert n.ask("CLUSTER", "ADDSLOTSRANGE", low, high) == "OK"
        for n in self.nodes[1:]:
            first = self.nodes[0]
            assert n.ask("CLUSTER", "MEET", "127.0.0.1", first.met, first.bus) == "OK"
        self.wait()

    def wait(self):
        def agree():
            said = [n.ask("CLUSTER", "NODES").decode() for n in self.nodes]
            return all(s.count(" connected") == len(self.nodes) and "fail" not in s and
                       "handshake" not in s for s in said) and \
                all(b"cluster_state:ok" in n.ask("CLUSTER", "INFO") and
                    b"cluster_slots_ok:16384" in n.ask("CLUSTER", "INFO")
                    for n in self.nodes)
        wait_for(agree, 60, "the nodes do not agree")

    def home(self, slot):
        """Who has it, by its own word."""
        def found():
            for n in self.nodes:
                for low, high, at, *_ in n.ask("CLUSTER", "SLOTS"):
                    if low <= slot <= high and at[2] == n.ask("CLUSTER", "MYID"):
                        return n
            return None
        return wait_for(found, 20, "nobody has the slot")

    def agree(self):
        """Who has not heard of the last move does not know that the next one is newer."""
        def epochs():
            said = [n.ask("CLUSTER", "INFO").decode() for n in self.nodes]
            return len({s.split("cluster_current_epoch:")[1].split()[0] for s in said}) == 1
        wait_for(epochs, 20, "the nodes do not hear of each other")

    def slot(self, key):
        return self.nodes[0].ask("CLUSTER", "KEYSLOT", key)

    @contextlib.contextmanager
    def moving(self, slot, to):
        """Between the first and the last step of moving a slot."""
        self.agree()
        source = self.home(slot)
        ids = {n: n.ask("CLUSTER", "MYID") for n in self.nodes}
        assert to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source]) == "OK"
        assert source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to]) == "OK"
        yield source
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.migrate(source, to, keys)
        for n in [to, source] + [n for n in self.nodes if n not in (to, source)]:
            assert n.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[to]) == "OK"

    def migrate(self, source, to, keys):
        assert source.ask("MIGRATE", "127.0.0.1", to.port, "", 0, 10000, "AUTH", SECRET,
                          "KEYS", *keys) == "OK"

    def move(self, slot, to):
        with self.moving(slot, to):
            pass

    def other(self, node):
        return self.nodes[(self.nodes.index(node) + 1) % len(self.nodes)]

    def stop(self):
        for n in self.nodes:
            n.stop(9)


@pytest.fixture(scope="module")
def made(folder):
    cluster = Cluster(folder)
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(made):
    for n in made.nodes:
        assert n.ask("FLUSHALL") == "OK"
        assert n.ask("SCRIPT", "FLUSH") == "OK"
    return made


@pytest.fixture(params=[1, 4], ids="{}workers".format)
def start(weir, made, request):
    def run(**more):
        return weir({"redis main": {
            "url": "redis://:%s@127.0.0.1:%d,127.0.0.1:%d" % (
                SECRET, servers.free_port(), made.nodes[1].port),
            "cluster": "on", "connections": 16, "profile": "dedicated", **more}},
            workers=request.param)
    return run


def each_home(cluster):
    """A key of each node, by its port."""
    keys, i = {}, 0
    while len(keys) < len(cluster.nodes):
        key = "k%d" % i
        keys.setdefault(cluster.home(cluster.slot(key)), key)
        i += 1
    return keys


def test_each_command_finds_its_node_and_replies_keep_their_order(start, cluster):
    proxy = start()
    n = 300
    for proto in 2, 3:
        with contextlib.closing(proxy.resp(proto)) as r:
            r.send(*[encode("SET", "key:%d" % i, "%d;" % i * (1 + i % 7 * 300))
                     for i in range(n)])
            assert r.replies(n) == ["OK"] * n
            r.send(*[encode("GET", "key:%d" % i) + encode("ECHO", i) for i in range(n)])
            said = r.replies(2 * n)
            for i in range(n):
                assert said[2 * i] == b"%d;" % i * (1 + i % 7 * 300)
                assert said[2 * i + 1] == b"%d" % i
    sizes = [m.ask("DBSIZE") for m in cluster.nodes]
    assert sum(sizes) == n and min(sizes) > n / 6


def test_several_keys_are_for_one_slot_and_redis_says_so(start, cluster):
    proxy, node = start(), cluster.nodes[0]
    with contextlib.closing(proxy.resp()) as r:
        assert r.ask("MSET", "{t}a", 1, "{t}b", 2) == "OK"
        assert r.ask("MGET", "{t}a", "{t}b") == [b"1", b"2"]
        mine = next(k for k in ("x%d" % i for i in range(99))
                    if cluster.home(cluster.slot(k)) is node)
        r.send(encode("MGET", mine, "other"))
        with contextlib.closing(node.resp()) as direct:
            direct.send(encode("MGET", mine, "other"))
            assert r.raw() == direct.raw() == \
                b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
        assert r.ask("RENAME", "{t}a", "u") == "CROSSSLOT Keys in request don't hash " \
            "to the same slot"
        assert r.ask("EVAL", "return redis.call('GET', KEYS[1])", 1, "{t}b") == b"2"
        assert r.ask("SELECT", 1) == "ERR SELECT is not allowed in cluster mode"
        assert r.ask("SELECT", 0) == "OK"


def test_a_slot_that_has_moved_is_followed_unseen(start, cluster):
    proxy = start()
    slot = cluster.slot("{m}")
    with contextlib.closing(proxy.resp()) as r:
        for i in range(3):
            assert r.ask("SET", "{m}", i) == "OK"
            before = cluster.home(slot)
            cluster.move(slot, cluster.other(before))
            r.send(*[encode("INCR", "{m}")] * 20, encode("GET", "{m}"))
            assert r.replies(21) == [i + 1 + k for k in range(20)] + [b"%d" % (i + 20)]
            assert cluster.home(slot) is not before


def test_half_a_slot_is_asked_for_where_it_is(start, cluster):
    proxy = start()
    slot = cluster.slot("{h}")
    with contextlib.closing(proxy.resp()) as r:
        assert r.ask("MSET", "{h}1", "one", "{h}2", "two") == "OK"
        source = cluster.home(slot)
        to = cluster.other(source)
        with cluster.moving(slot, to):
            cluster.migrate(source, to, ["{h}2"])
            r.send(*[encode("GET", "{h}%d" % (1 + i % 2)) for i in range(20)])
            assert r.replies(20) == [b"one", b"two"] * 10
            assert r.ask("SET", "{h}3", "new") == "OK"      # is made over there
            assert to.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 2
            assert r.ask("APPEND", "{h}3", "er") == 5
            # No node has both: Redis's own words, for the client to judge.
            assert r.ask("MGET", "{h}1", "{h}2").startswith("TRYAGAIN ")
        assert r.ask("MGET", "{h}1", "{h}2", "{h}3") == [b"one", b"two", b"newer"]


def test_slots_move_under_load_and_no_client_notices(start, cluster):
    """Each key is one client's, and its value says so."""
    proxy, over, failed = start(), threading.Event(), []
    done = [0] * 4

    def client(me):
        try:
            with contextlib.closing(proxy.resp(2 + me % 2)) as r:
                keys = ["{%d}:%d" % (i, me) for i in range(24)]
                counts = dict.fromkeys(keys, 0)
                while not over.is_set():
                    r.send(*[encode("INCR", k) + encode("SETRANGE", k + ":o", 0, k) +
                             encode("GET", k + ":o") for k in keys])
                    for k in keys:
                        counts[k] += 1
                        got = r.replies(3)
                        assert got[0] == counts[k] and got[2] == k.encode(), (k, got)
                    done[me] += 1
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=client, args=[i]) for i in range(4)]
    for t in threads:
        t.start()
    try:
        for i in range(12):
            slot = cluster.slot("{%d}" % i)
            cluster.move(slot, cluster.other(cluster.home(slot)))
            wait_for(lambda was=min(done): failed or min(done) > was, 30, "they stand still")
    finally:
        over.set()
        for t in threads:
            t.join()
    assert not failed, failed[0]


def test_a_transaction_goes_to_one_node_whole(start, cluster):
    proxy = start()
    slot = cluster.slot("{w}")
    multi = encode("MULTI") + encode("SET", "{w}a", 1) + encode("INCR", "{w}a") + \
        encode("EXEC")
    with contextlib.closing(proxy.resp()) as r:
        r.send(multi)
        assert r.replies(4) == ["OK", "QUEUED", "QUEUED", ["OK", 2]]
        cluster.move(slot, cluster.other(cluster.home(slot)))
        r.send(encode("GET", "other"), multi, encode("GET", "{w}a"))
        assert r.replies(6) == [None, "OK", "QUEUED", "QUEUED", ["OK", 2], b"2"]
        # Not of one slot: as the node has it, and nothing else suffers.
        with contextlib.closing(proxy.resp()) as other:
            keys = each_home(cluster)
            own = next(k for k in ("q%d" % i for i in range(99))
                       if cluster.home(cluster.slot(k)) is cluster.nodes[0])
            near = keys[cluster.nodes[0]]
            r.send(encode("MULTI"), encode("SET", near, 1), encode("SET", own, 1),
                   encode("EXEC"))
            said = r.replies(4)
            assert said[:3] == ["OK", "QUEUED", "QUEUED"]
            assert said[3].startswith("CROSSSLOT ")
            assert other.ask("GET", near) is None
        assert r.ask("GET", "{w}a") == b"2"
        assert not proxy.events("server-close")


def test_a_script_sends_nobody_to_a_place_of_its_own(start, cluster):
    proxy = start()
    forged = "return redis.error_reply('%s %d 127.0.0.1:%d')"
    with socket.create_server(("127.0.0.1", 0)) as trap, \
            contextlib.closing(proxy.resp()) as r:
        trap.settimeout(0.01)
        port = trap.getsockname()[1]
        for word in "MOVED", "ASK":
            said = r.ask("EVAL", forged % (word, cluster.slot("f"), port), 1, "f")
            assert said == "ERR weir: redirected to a node that is not listed"
            # For a slot that is not the command's it is just an error.
            said = r.ask("EVAL", forged % (word, 1, port), 1, "f")
            assert said == "%s 1 127.0.0.1:%d" % (word, port)
        with pytest.raises(TimeoutError):
            trap.accept()
        # To one that is: it goes round a few times, and ends.
        said = r.ask("EVAL", forged % ("ASK", cluster.slot("f"), cluster.nodes[0].port), 1, "f")
        assert said == "ERR weir: too many redirects of the cluster"
        assert r.ask("SET", "f", 1) == "OK"


def test_what_is_for_all_nodes_goes_to_all(start, cluster):
    proxy = start()
    keys = each_home(cluster)
    with contextlib.closing(proxy.resp()) as r:
        sha = r.ask("SCRIPT", "LOAD", "return KEYS[1]")
        r.send(*[encode("EVALSHA", sha, 1, k) for k in keys.values()])
        assert r.replies(3) == [k.encode() for k in keys.values()]
        for k in keys.values():
            assert r.ask("SET", k, 1) == "OK"
        r.send(encode("FLUSHALL"), *[encode("EXISTS", k) for k in keys.values()])
        assert r.replies(4) == ["OK", 0, 0, 0]
        assert r.ask("FUNCTION", "LOAD", "nonsense").startswith("ERR Missing library meta")
        assert r.ask("PING") == "PONG"


def test_what_no_node_can_answer_for_all_is_refused(start, cluster):
    proxy = start()
    with contextlib.closing(proxy.resp()) as r:
        for words in ["MONITOR"], ["DEBUG", "HELP"], ["FAILOVER"], ["CLIENT", "TRACKING", "ON"]:
            said = r.ask(*words)
            assert isinstance(said, respwire.Error) and "cluster = on" in said, (words, said)
        # What each node refuses is in its words.
        for words in ["MOVE", "k", 1], ["SWAPDB", 0, 1]:
            said = r.ask(*words)
            assert said == cluster.home(cluster.slot("k")).ask(*words)
            assert said.endswith("is not allowed in cluster mode")
        assert r.ask("PING") == "PONG"


def test_all_masters_save(start, cluster):
    proxy = start()
    dumps = [os.path.join(n.folder, "dump.rdb") for n in cluster.nodes]

    def done(field):
        return all(b"%s_in_progress:0" % field in n.ask("INFO", "persistence")
                   for n in cluster.nodes)

    def saved():
        return done(b"rdb_bgsave") and all(os.path.exists(d) for d in dumps)
    wait_for(lambda: done(b"rdb_bgsave"), 60, "one saves for another test")
    with contextlib.closing(proxy.resp(3)) as r:
        for watched in False, True:
            if watched:
                assert r.ask("WATCH", "k") == "OK"
            assert r.ask("SAVE") == "OK"
            assert saved()
            for d in dumps:
                os.remove(d)
            assert r.ask("LASTSAVE") == min(n.ask("LASTSAVE") for n in cluster.nodes)
            assert r.ask("BGSAVE") == "Background saving started"
            wait_for(saved, 60, "not all of them save")
            for d in dumps:
                os.remove(d)
            assert r.ask("BGREWRITEAOF") == "Background append only file rewriting started"
            wait_for(lambda: done(b"aof_rewrite"), 60, "they are not done")


def test_all_masters_pause_and_go_on(start, cluster):
    proxy = start()
    keys = each_home(cluster)
    with contextlib.closing(proxy.resp()) as r, contextlib.closing(proxy.resp()) as other:
        for words in ["PAUSE", "x"], ["PAUSE", 1, "x"]:
            assert r.ask("CLIENT", *words) == cluster.nodes[0].ask("CLIENT", *words)
        assert r.ask("CLIENT", "PAUSE", 600000, "WRITE") == "OK"
        try:
            other.send(*[encode("SET", k, 1) for k in keys.values()])
            for n in cluster.nodes:
                waits(n)
        finally:
            assert r.ask("CLIENT", "UNPAUSE") == "OK"
        assert other.replies(3) == ["OK"] * 3


def test_what_all_nodes_have_is_told_as_if_they_were_one(start, cluster):
    proxy = start()
    keys = {b"%d" % i for i in range(300)}
    for proto in 2, 3:
        with contextlib.closing(proxy.resp(proto)) as r:
            assert r.ask("FLUSHALL") == "OK"
            r.send(encode("DBSIZE"), encode("KEYS", "*"), encode("RANDOMKEY"))
            assert r.replies(3) == [0, [], None]
            r.send(*[encode("SET", k, 1) for k in keys],
                   encode("DBSIZE"), encode("KEYS", "*"), encode("KEYS", "1?"), encode("ECHO", 1))
            said = r.replies(len(keys) + 4)[len(keys):]
            assert said[0] == 300 and said[3] == b"1"
            assert sorted(said[1]) == sorted(keys)
            assert sorted(said[2]) == [b"1%d" % i for i in range(10)]
            r.send(*[encode("RANDOMKEY")] * 60)
            drawn = r.replies(60)
            assert set(drawn) <= keys
            assert len({cluster.home(cluster.slot(k)) for k in set(drawn)}) == 3
            for words in ["DBSIZE"], ["SCAN", 0], ["KEYS", "*"]:
                assert r.ask("MULTI") == "OK"
                assert "inside MULTI with cluster = on" in r.ask(*words)
                assert r.ask("EXEC").startswith("EXECABORT ")
            with contextlib.closing(proxy.resp()) as two:
                assert two.ask("SUBSCRIBE", "one")[0] == b"subscribe"
                with contextlib.closing(cluster.nodes[0].resp()) as a, \
                        contextlib.closing(cluster.nodes[2].resp()) as b:
                    for node in a, b:
                        assert node.ask("SUBSCRIBE", "two")[0] == b"subscribe"
                    assert r.ask("PUBSUB", "CHANNELS") == [b"one", b"two"]
            assert r.ask("KEYS").startswith("ERR wrong number of arguments")


def test_a_scan_goes_through_all_nodes(start, cluster):
    proxy = start()
    keys = {b"%d" % i for i in range(400)}

    def walk(*more, between=None):
        cursor, found, steps = b"0", [], 0
        while steps == 0 or cursor != b"0":
            cursor, got = r.ask("SCAN", cursor, *more)
            assert int(cursor) < 1 << 53
            found += got
            steps += 1
            if between:
                between(steps)
        return found, steps

    for proto in 2, 3:
        with contextlib.closing(proxy.resp(proto)) as r:
            r.send(*[encode("SET", k, 1) for k in keys])
            r.replies(len(keys))
            found, steps = walk()
            assert set(found) == keys and steps >= 3 * 10
            found, steps = walk("COUNT", 10000)
            assert set(found) == keys and steps == 3
            found, steps = walk("MATCH", "1*", "TYPE", "string", "COUNT", 1000)
            assert set(found) == {k for k in keys if k.startswith(b"1")} and steps == 3
            # The last node's slots grow: what was begun elsewhere goes on.
            last = cluster.home(SLOTS - 1)
            moved = next(s for s in range(20) if cluster.home(s) is not last)
            found, _ = walk(between=lambda n: n == 3 and cluster.move(moved, last))
            assert keys <= set(found)
            cluster.move(moved, cluster.nodes[0])
            with contextlib.closing(cluster.nodes[0].resp()) as direct:
                for words in ["SCAN", "x"], ["SCAN", 0, "MATCH"], ["SCAN", 0, "COUNT", 0]:
                    r.send(encode(*words))
                    direct.send(encode(*words))
                    assert r.raw() == direct.raw(), words
            assert len(r.ask("SCAN", -1)) == 2      # odd, but Redis takes it
            # Of no node any more, or of a name that it never had: from the start.
            assert r.ask("SCAN", (7 << 22 | 255 << 14) + 16383)[0] != b"0"


def test_who_publishes_anywhere_is_heard_everywhere(start, cluster):
    proxy = start()
    with contextlib.closing(proxy.resp()) as one, contextlib.closing(proxy.resp()) as two:
        assert one.ask("SUBSCRIBE", "c")[0] == b"subscribe"
        two.ask("PUBLISH", "c", "by weir")
        assert one.reply() == [b"message", b"c", b"by weir"]
        for n in cluster.nodes:
            n.ask("PUBLISH", "c", n.port)
            assert one.reply() == [b"message", b"c", b"%d" % n.port]


def test_the_cap_of_connections_is_that_of_all_nodes(start, cluster):
    proxy = start(connections=4, dedicated_connections=3)
    keys = list(each_home(cluster).values())
    clients = [proxy.resp() for _ in range(20)]
    for turn in range(5):
        for r in clients:
            r.send(*[encode("SET", k, turn) for k in keys])
        for r in clients:
            assert r.replies(3) == ["OK"] * 3
        # One that made way is seen until its node reads of its end.
        wait_for(lambda: sum(len(n.clients()) for n in cluster.nodes) <= 4, what="too many")
    for r in clients:
        r.close()


def test_who_leaves_with_commands_outstanding_gives_nobody_a_reply(start, cluster):
    proxy = start()
    keys = list(each_home(cluster).values())
    with contextlib.closing(proxy.resp()) as stays:
        for k in keys:
            stays.ask("SET", k, "of " + k)
        for i in range(30):
            leaves = proxy.resp()
            leaves.send(*[encode("GET", "nobody's")] * 20, *[encode("GET", k) for k in keys] * 20)
            stays.send(*[encode("GET", k) for k in keys])
            leaves.close()
            assert stays.replies(3) == [b"of " + k.encode() for k in keys]


def who_subscribes_is_told_by_another_node_than_that_of_the_url(proxy, cluster):
    """The only one of the url dies as soon as weir has heard of the others."""
    first, _, third = cluster.nodes

    def asked():
        said = first.ask("INFO", "commandstats").decode().split("cmdstat_cluster|nodes:calls=")
        return int(said[1].split(",")[0])
    before = asked()

    def is_heard(sub):
        sub.send(encode("SUBSCRIBE", "news"))
        assert heard(sub, 1) == [["subscribe", "news", 1]]
        assert third.ask("PUBLISH", "news", "all is well") >= 0
        assert heard(sub, 1) == [["message", "news", "all is well"]]
    with contextlib.closing(proxy.resp()) as sub:
        is_heard(sub)
        wait_for(lambda: asked() > before, 30, "weir does not ask for the others")
        wait_for(lambda: len(first.clients()) == 1, 30, "who asks is still there")
        first.stop(9)
        assert closes(sub)

    def again():
        with contextlib.closing(proxy.resp()) as sub:
            with contextlib.suppress(respwire.Closed, ConnectionError):
                is_heard(sub)
                return True
        return False
    wait_for(again, 30, "it is not told by another")
    first.start()


def calls(node, command):
    said = node.ask("INFO", "commandstats").decode().split("cmdstat_%s:calls=" % command)
    return int(said[1].split(",")[0]) if len(said) > 1 else 0


def test_who_hears_by_a_node_that_is_thrown_out_is_told(start, cluster, folder):
    """It goes on by itself, and hears of nothing that is published."""
    first, node = cluster.nodes[0], Node(folder)
    all_of_them = [*cluster.nodes, node]

    def is_heard(sub):
        sub.send(encode("SUBSCRIBE", "news"))
        assert heard(sub, 1) == [["subscribe", "news", 1]]
        assert first.ask("PUBLISH", "news", "is there") >= 0
        assert heard(sub, 1) == [["message", "news", "is there"]]
    try:
        assert node.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus) == "OK"
        wait_for(lambda: all(n.ask("CLUSTER", "NODES").count(b" connected") == len(all_of_them)
                             for n in all_of_them), 60, "they do not know each other")
        asked = calls(node, "cluster|nodes")
        proxy = start(url="redis://:%s@127.0.0.1:%d" % (SECRET, node.port),
                      health_check="active", health_interval="1s")
        with contextlib.closing(proxy.resp()) as sub:
            is_heard(sub)
            wait_for(lambda: calls(node, "cluster|nodes") > asked, 30, "weir does not ask who is there")
            pings = calls(node, "ping")
            wait_for(lambda: calls(node, "ping") > pings + 1, 30, "weir does not look at it")
            me = node.ask("CLUSTER", "MYID")
            for n in cluster.nodes:
                assert n.ask("CLUSTER", "FORGET", me) == "OK"
            assert node.ask("CLUSTER", "RESET", "HARD") == "OK"
            assert closes(sub)
        with contextlib.closing(proxy.resp()) as sub:
            is_heard(sub)
    finally:
        node.stop(9)
        cluster.wait()


def test_a_node_that_dies_costs_its_own_keys_alone(start, folder):
    cluster = Cluster(folder)
    try:
        proxy = start(url="redis://:%s@127.0.0.1:%d" % (SECRET, cluster.nodes[0].port))
        who_subscribes_is_told_by_another_node_than_that_of_the_url(proxy, cluster)
        keys = each_home(cluster)
        dead, live = keys[cluster.nodes[2]], keys[cluster.nodes[1]]
        with contextlib.closing(proxy.resp()) as r:
            assert r.ask("SET", dead, 1) == "OK" and r.ask("SET", live, 1) == "OK"
            cluster.nodes[2].stop(9)
            for _ in range(3):
                r.send(encode("GET", live), encode("GET", dead), encode("INCR", live))
                said = r.replies(3)
                assert said[1].startswith("ERR weir: upstream"), said
                assert said[0] == b"%d" % (said[2] - 1)
            cluster.nodes[2].start()
            wait_for(lambda: r.ask("SET", dead, 2) == "OK", 30, "it is not found again")
            assert r.ask("GET", dead) == b"2"
    finally:
        cluster.stop()


def test_what_needs_a_connection_of_its_own_gets_it_on_the_node_of_its_key(start, cluster):
    proxy = start()
    keys = list(each_home(cluster).values())
    with contextlib.closing(proxy.resp()) as r, contextlib.closing(proxy.resp()) as other:
        for k in keys:
            r.send(encode("BLPOP", k, 0))
            assert other.ask("RPUSH", k, "of " + k) == 1
            assert r.reply() == [k.encode(), b"of " + k.encode()]
            assert r.ask("WATCH", k) == "OK"
            assert r.ask("MULTI") == "OK"
            assert r.ask("SET", k, 1) == "QUEUED"
            assert r.ask("EXEC") == ["OK"]
            assert r.ask("WATCH", k) == "OK"
            assert other.ask("SET", k, 2) == "OK"
            r.send(encode("MULTI"), encode("SET", k, 3), encode("EXEC"), encode("GET", k))
            assert r.replies(4) == ["OK", "QUEUED", None, b"2"]


def waits(node):
    wait_for(lambda: [c for c in node.clients() if "b" in c["flags"]], 20, "it does not wait")


def test_who_waits_at_any_node_is_unblocked_there(start, cluster):
    proxy = start(dedicated_connections=12)
    asker = proxy.resp()
    for held in (False, True):
        waiting = []
        for key in each_home(cluster).values():
            r = proxy.resp()
            id = r.ask("CLIENT", "ID")
            if held:
                assert r.ask("WATCH", "{%s}w" % key) == "OK"
            r.send(encode("BLPOP", key, 0))
            waiting.append((id, r, key))
        if held:
            assert asker.ask("WATCH", "w") == "OK"
        for n, (id, r, key) in enumerate(waiting):
            how = ["ERROR"] if n % 2 else []
            wait_for(lambda: asker.ask("CLIENT", "UNBLOCK", id, *how), 30, "unblocked")
            assert r.reply() == (
                "UNBLOCKED client unblocked via CLIENT UNBLOCK" if n % 2 else None)
            assert asker.ask("CLIENT", "UNBLOCK", id) == 0
            r.send(encode("MULTI"), encode("RPUSH", key, n), encode("LPOP", key), encode("EXEC"))
            assert r.replies(4) == ["OK", "QUEUED", "QUEUED", [1, b"%d" % n]]
            r.close()
    asker.close()


def test_what_is_waited_for_is_waited_for_where_it_has_moved(start, cluster):
    proxy = start()
    slot = cluster.slot("{b}")
    for proto in 2, 3:
        with contextlib.closing(proxy.resp(proto)) as r, \
                contextlib.closing(proxy.resp()) as other:
            for words, make, said in [
                    (["BLPOP", "{b}l", 0], ["RPUSH", "{b}l", "v"], [b"{b}l", b"v"]),
                    (["XREAD", "BLOCK", 0, "STREAMS", "{b}s", "$"],
                     ["XADD", "{b}s", "1-1", "k", "v"], None)]:
                assert other.ask("EXISTS", words[1]) == 0
                r.send(encode(*words), encode("ECHO", "behind"))
                for _ in range(2):
                    home = cluster.home(slot)
                    waits(home)
                    cluster.move(slot, cluster.other(home))
                waits(cluster.home(slot))
                other.ask(*make)
                got = r.reply()
                assert got == said if said else b"1-1" in str(got).encode(), got
                assert r.reply() == b"behind"
                other.ask("DEL", "{b}s")
            r.send(encode("BLPOP", "{b}l", 0.1), encode("PING"))
            assert r.replies(2) == [None, "PONG"]
    assert not proxy.events("server-close")


def test_what_blocks_asks_for_half_a_slot_where_it_is(start, cluster):
    proxy = start()
    slot = cluster.slot("{a}")
    with contextlib.closing(proxy.resp()) as r:
        assert r.ask("RPUSH", "{a}1", "here") == 1
        to = cluster.other(cluster.home(slot))
        with cluster.moving(slot, to):
            r.send(encode("BLPOP", "{a}2", 0))
            waits(to)
            with contextlib.closing(to.resp()) as direct:
                direct.send(encode("ASKING"), encode("RPUSH", "{a}2", "there"))
                assert direct.replies(2) == ["OK", 1]
            assert r.reply() == [b"{a}2", b"there"]
            assert r.ask("BLPOP", "{a}1", 0) == [b"{a}1", b"here"]


def test_a_watch_is_of_the_node_that_has_the_slot_now(start, cluster):
    proxy = start()
    slot = cluster.slot("{w}")
    for proto in 2, 3:
        with contextlib.closing(proxy.resp(proto)) as r, \
                contextlib.closing(proxy.resp()) as other:
            for changed in False, True:
                assert r.ask("SET", "{w}", 1) == "OK"
                cluster.move(slot, cluster.other(cluster.home(slot)))
                # All of it at once, and WATCH must go round.
                r.send(encode("WATCH", "{w}"), encode("GET", "{w}"))
                assert r.replies(2) == ["OK", b"1"]
                if changed:
                    assert other.ask("SET", "{w}", 5) == "OK"
                r.send(encode("MULTI"), encode("INCR", "{w}"), encode("EXEC"),
                       encode("GET", "{w}"))
                assert r.replies(4) == ["OK", "QUEUED", *(
                    [None, b"5"] if changed else [[2], b"2"])]
            cluster.move(slot, cluster.other(cluster.home(slot)))
            r.send(encode("WATCH", "{w}"), encode("MULTI"), encode("INCR", "{w}"),
                   encode("EXEC"), encode("GET", "{w}"))
            assert r.replies(5) == ["OK", "OK", "QUEUED", [6], b"6"]


def test_a_watched_slot_that_moves_away_has_changed(start, cluster):
    """Nothing of the transaction is done; the client does it again, as ever."""
    proxy = start()
    slot = cluster.slot("{v}")
    for proto in 2, 3:
        with contextlib.closing(proxy.resp(proto)) as r:
            for there, after in [(True, []), (False, []), (False, ["WATCH", "{v}b"])]:
                r.ask("DEL", "{v}", "{v}b")
                if there:
                    assert r.ask("SET", "{v}", 1) == "OK"
                assert r.ask("WATCH", "{v}") == "OK"
                cluster.move(slot, cluster.other(cluster.home(slot)))
                if after:
                    assert r.ask(*after) == "OK"
                assert r.ask("GET", "{v}") == (b"1" if there else None)
                assert r.ask("MULTI") == "OK"
                assert r.ask("SET", "{v}", 2) == "QUEUED"
                r.send(encode("EXEC"))
                assert r.raw() == (b"*-1\r\n" if proto == 2 else b"_\r\n")
                assert r.ask("GET", "{v}") == (b"1" if there else None)
                r.send(encode("WATCH", "{v}"), encode("MULTI"), encode("SET", "{v}", 3),
                       encode("EXEC"))
                assert r.replies(4) == ["OK", "OK", "QUEUED", ["OK"]]


def test_a_watch_in_half_a_slot_is_where_the_key_is(start, cluster):
    proxy = start()
    slot = cluster.slot("{z}")
    with contextlib.closing(proxy.resp()) as r, contextlib.closing(proxy.resp()) as other:
        assert r.ask("MSET", "{z}1", "one", "{z}2", "two") == "OK"
        source = cluster.home(slot)
        to = cluster.other(source)
        with cluster.moving(slot, to):
            cluster.migrate(source, to, ["{z}2"])
            for change in False, True:
                r.send(encode("WATCH", "{z}2"), encode("MULTI"), encode("APPEND", "{z}2", "+"))
                assert r.replies(3) == ["OK", "OK", "QUEUED"]
                if change:
                    assert other.ask("APPEND", "{z}2", "-") == 5
                assert r.ask("EXEC") == (None if change else [4])
            # In pieces, without a watch, and of what is not there yet.
            r.send(encode("MULTI"))
            assert r.reply() == "OK"
            r.send(encode("INCR", "{z}3"), encode("EXEC"))
            assert r.replies(2) == ["QUEUED", [1]]
        assert r.ask("MGET", "{z}1", "{z}2", "{z}3") == [b"one", b"two+-", b"1"]


def test_a_transaction_in_pieces_is_done_when_it_ends(start, cluster):
    proxy = start()
    slot = cluster.slot("{p}")
    for proto in 2, 3:
        with contextlib.closing(proxy.resp(proto)) as r, \
                contextlib.closing(proxy.resp()) as other:
            assert r.ask("MULTI") == "OK"
            assert r.ask("SET", "{p}", "mine") == "QUEUED"
            assert other.ask("SET", "{p}", "other") == "OK"
            assert b"multi=1" in other.ask("CLIENT", "LIST")
            assert other.ask("GET", "{p}") == b"other"
            cluster.move(slot, cluster.other(cluster.home(slot)))
            assert r.ask("GET", "{p}") == "QUEUED"
            assert r.ask("PING", "hi") == "QUEUED"
            assert r.ask("EXEC") == ["OK", b"mine", b"hi"]
            assert r.ask("EXEC") == "ERR EXEC without MULTI"
            # Dropped, and of nothing.
            for words, said in [(["DISCARD"], "OK"), (["EXEC"], []), (["RESET"], "RESET")]:
                assert r.ask("MULTI") == "OK"
                if words != ["EXEC"]:
                    assert r.ask("SET", "{p}", "never") == "QUEUED"
                assert r.ask(*words) == said
                assert other.ask("GET", "{p}") == b"mine"
    with contextlib.closing(proxy.resp()) as r:
        n = 5000
        assert r.ask("MULTI") == "OK"
        r.send(*[encode("APPEND", "{p}n", "x")] * n, encode("EXEC"), encode("STRLEN", "{p}n"))
        assert r.replies(n) == ["QUEUED"] * n
        assert r.replies(2) == [list(range(1, n + 1)), n]
        assert r.ask("MULTI") == "OK"
        r.send(*[encode("APPEND", "{p}n", "x")] * 16001, encode("EXEC"),
               encode("STRLEN", "{p}n"))
        assert r.replies(16000) == ["QUEUED"] * 16000
        assert r.reply() == "ERR weir: too large a transaction for cluster = on"
        assert r.replies(2) == ["EXECABORT Transaction discarded because of previous errors.", n]


def test_a_transaction_that_fails_says_what_redis_says(start, cluster):
    proxy = start()
    key = each_home(cluster)[cluster.nodes[0]]
    with contextlib.closing(proxy.resp()) as r, \
            contextlib.closing(cluster.nodes[0].resp()) as direct:
        for block in [
                [["GET"], ["EXEC"]], [["GET"], ["SET", key, 1], ["EXEC"]],
                [["MULTI"], ["SET", key, 1], ["EXEC"]], [["WATCH", key], ["EXEC"]],
                [["SET", key, 1], ["EXEC", "x"], ["GET", key]], [["EXEC", "x"]],
                [["INCR", key], ["LPUSH", key, 1], ["EXEC"]], [["DISCARD", "x"], ["EXEC"]],
                [["SUBSCRIBE"], ["EXEC"]], [["DISCARD"], ["DISCARD"]], [["UNWATCH"], ["EXEC"]],
                [["BLPOP", key, 0], ["TYPE", key], ["EXEC"]]]:
            for watched in False, True:
                said = []
                for conn in r, direct:
                    assert conn.ask("DEL", key) in (0, 1)
                    if watched:
                        assert conn.ask("WATCH", key) == "OK"
                    assert conn.ask("MULTI") == "OK"
                    said.append([])
                    for words in block:
                        conn.send(encode(*words))
                        said[-1].append(conn.raw())
                    conn.ask("DISCARD")
                assert said[0] == said[1], (block, watched)
        # Keys of more than one slot: when it ends, or of one command, as Redis has it.
        keys = list(each_home(cluster).values())
        cross = "CROSSSLOT Keys in request don't hash to the same slot"
        for watch in [], keys[:1]:
            for block, said in [
                    ([["SET", keys[0], 1], ["SET", keys[1], 1]], cross),
                    ([["MSET", keys[0], 1, keys[1], 1]],
                     "EXECABORT Transaction discarded because of: " + cross)]:
                if watch:
                    assert r.ask("WATCH", *watch) == "OK"
                assert r.ask("MULTI") == "OK"
                for words in block:
                    assert r.ask(*words) == "QUEUED"
                assert r.ask("EXEC") == said
                assert [r.ask("GET", k) for k in keys] == [None] * 3
        # What is watched is of another node than what is to be done; or than more of it.
        assert r.ask("WATCH", keys[0]) == "OK"
        assert r.ask("MULTI") == "OK"
        assert r.ask("SET", keys[1], 1) == "QUEUED"
        assert r.ask("EXEC") == cross
        assert r.ask("WATCH", keys[0]) == "OK"
        assert r.ask("WATCH", keys[1]) == cross
        assert r.ask("GET", keys[1]) is None
        assert r.ask("UNWATCH") == "OK"
        for words in ["FLUSHALL"], ["SCRIPT", "FLUSH"], ["HELLO", 3], \
                ["CLIENT", "UNBLOCK", 5], ["CLIENT", "HELP"], ["CLIENT", "GETREDIR"]:
            assert r.ask("MULTI") == "OK"
            assert "inside MULTI with cluster = on" in r.ask(*words)
            assert r.ask("EXEC").startswith("EXECABORT ")
    assert not proxy.events("server-close")


SAID_IN_A_TRANSACTION = """
multi|client setname foo|client getname|select 0|set K 1|client getname|exec|client getname|get K
multi|client setname foo|set K 2|discard|client getname|get K|client setname ""|client getname
multi|client setname "a b"|client setname|set K 2|exec|client getname|get K
multi|client setname x|lpush K 1|exec|client getname|client setname ""
watch K|multi|client setname foo|get K|select 0|select 1|select x|exec|client getname|client setname ""
watch K|set K 3|multi|client setname foo|get K|exec|client getname
multi|hello PROTO|hello PROTO setname bob|hello 4|get K|hello PROTO auth default wrong|exec|client getname
multi|client setname ""|client no-evict on|client no-evict x|acl whoami|client reply on|exec|get K
multi|auth default wrong|auth a b c|get K|exec
multi|client kill 1.1.1.1:1|client kill id 99999999|client id x|get K|exec
multi|readonly|readwrite|asking|get K|exec|get K
multi|unsubscribe|unsubscribe x|punsubscribe|exec|ping
multi|client setname foo|set OTHER 1|set K 1|exec|client getname
multi|client setname foo|mset K 1 OTHER 2|exec|client getname
multi|client getname|exec|client setname foo|multi|exec|client getname|client setname ""
""".strip().splitlines()


@pytest.mark.parametrize("proto", [2, 3])
def test_what_is_known_here_alone_is_said_in_a_transaction(start, cluster, proto):
    proxy = start(dedicated_connections=4)
    key, other = list(each_home(cluster).items())[0], list(each_home(cluster).values())[1]
    with contextlib.closing(proxy.resp(proto)) as r, contextlib.closing(key[0].resp()) as direct:
        if proto == 3:
            direct.ask("HELLO", 3)
        for line in SAID_IN_A_TRANSACTION:
            said = []
            for conn in r, direct:
                commands = [shlex.split(c) for c in line.replace("K ", key[1] + " ").replace(
                    "K|", key[1] + "|").replace("PROTO", str(proto)).replace(
                    "OTHER", other).split("|")]
                assert direct.ask("DEL", key[1]) in (0, 1)
                if commands[-1][-1] == "K":
                    commands[-1][-1] = key[1]
                said.append([])
                for words in commands:
                    conn.send(encode(*words))
                    said[-1].append(re.sub(rb"(\$2\r\nid\r\n:)\d+", rb"\1N", conn.raw()).replace(
                        b"$7\r\ncluster\r\n", b"$10\r\nstandalone\r\n"))
            if "OTHER" in line:     # it is told when it ends, and nothing is done
                assert said[0][-2].startswith((b"-CROSSSLOT ", b"-EXECABORT ")), line
                assert said[1][-2].startswith(b"-EXECABORT "), line
                said = [s[-1:] for s in said]
            assert said[0] == said[1], line
        # A reply that others wait behind, and messages behind that.
        me = r.ask("CLIENT", "ID")
        r.send(*[encode(*c) for c in (
            ["MULTI"], ["CLIENT", "ID"], ["SET", key[1], 1], ["CLIENT", "LIST"], ["SUBSCRIBE", "c"],
            ["AUTH", servers.REDIS_PASSWORD], ["GET", key[1]], ["EXEC"])])
        assert r.replies(7) == ["OK"] + ["QUEUED"] * 6
        exec = r.reply()
        assert exec[:2] == [me, "OK"] and b"id=%d " % me in exec[2]
        assert exec[3:] == [[b"subscribe", b"c", 1], "OK", b"1"]
        with contextlib.closing(proxy.resp()) as two:
            assert two.ask("PUBLISH", "c", "x") >= 0
        assert r.reply() == [b"message", b"c", b"x"]


def test_a_command_that_its_user_may_not_run_is_named_when_the_transaction_ends(
        start, cluster):
    proxy = start()
    key = "{n}"
    home = cluster.home(cluster.slot(key))
    for n in cluster.nodes:
        n.ask("ACL", "SETUSER", "default", "-append")
    try:
        with contextlib.closing(proxy.resp()) as r:
            why = "NOPERM this user has no permissions to run the 'append' command"
            for watch in False, True:
                if watch:
                    assert r.ask("WATCH", key) == "OK"
                assert r.ask("MULTI") == "OK"
                assert r.ask("SET", key, 1) == "QUEUED"
                assert r.ask("APPEND", key, 1) == "QUEUED"
                assert r.ask("EXEC") == "EXECABORT Transaction discarded because of: " + why
                assert r.ask("GET", key) is None
    finally:
        for n in cluster.nodes:
            n.ask("ACL", "SETUSER", "default", "+append")
    assert home is cluster.home(cluster.slot(key))


def while_slots_move(cluster, client, over, failed, went_on, done):
    """Four clients, each by itself until `over`; done of each has gone on behind each move."""
    threads = [threading.Thread(target=client, args=[i]) for i in range(4)]
    for t in threads:
        t.start()
    try:
        for i in range(8):
            slot = cluster.slot("{%d}" % (i % 2))
            cluster.move(slot, cluster.other(cluster.home(slot)))
            wait_for(lambda was=list(done): failed or went_on(was), 30, "they stand still")
    finally:
        over.set()
        for t in threads:
            t.join()
    assert not failed, failed[0]


def test_slots_move_while_clients_watch_and_wait_and_none_is_told_twice(start, cluster):
    """Each adds one at a time, by WATCH or in pieces; what was told done is done, once."""
    proxy, over, failed = start(), threading.Event(), []
    done = [0] * 4

    def client(me):
        key, queue = "{%d}count" % (me % 2), "{%d}queue:%d" % (me % 2, me)
        try:
            with contextlib.closing(proxy.resp(2 + me % 2)) as r:
                while not over.is_set():
                    assert r.ask("WATCH", key) == "OK"
                    value = int(r.ask("GET", key) or 0)
                    r.send(encode("MULTI"), encode("SET", key, value + 1), encode("EXEC"))
                    said = r.replies(3)
                    assert said[:2] == ["OK", "QUEUED"] and said[2] in (None, ["OK"]), said
                    done[me] += said[2] is not None
                    r.send(encode("MULTI"), encode("RPUSH", queue, me))
                    assert r.replies(2) == ["OK", "QUEUED"]
                    assert r.ask("EXEC") == [1]
                    assert r.ask("BLPOP", queue, 0) == [queue.encode(), b"%d" % me]
        except BaseException as e:
            failed.append(e)

    while_slots_move(cluster, client, over, failed, lambda was: all(
        sum(done[i::2]) > sum(was[i::2]) for i in (0, 1)), done)
    with contextlib.closing(proxy.resp()) as r:
        for i in 0, 1:
            assert int(r.ask("GET", "{%d}count" % i)) == sum(done[i::2])


def test_what_stands_behind_a_connection_of_its_own_is_answered_behind_it(start, cluster):
    """A transaction in pieces needs no connection of its own; its turn it has to wait for."""
    proxy = start()
    (_, k), (home, l), *_ = each_home(cluster).items()
    with contextlib.closing(proxy.resp()) as r, contextlib.closing(proxy.resp()) as other:
        for _ in range(10):
            r.send(encode("WATCH", l), encode("MULTI"), encode("SET", l, 1), encode("EXEC"),
                   encode("MULTI"), encode("SET", k, 2), encode("EXEC"), encode("GET", k))
            assert r.replies(8) == ["OK", "OK", "QUEUED", ["OK"], "OK", "QUEUED", ["OK"], b"2"]
            assert r.ask("DEL", l) == 1
            r.send(encode("BLPOP", l, 0), encode("MULTI"), encode("GET", k), encode("EXEC"),
                   encode("MULTI"), encode("EXEC"), encode("MULTI"), encode("DISCARD"))
            waits(home)
            assert other.ask("RPUSH", l, "v") == 1
            assert r.replies(8) == [[l.encode(), b"v"], "OK", "QUEUED", [b"2"], "OK", [], "OK",
                                    "OK"]


@contextlib.contextmanager
def replica_of(cluster, master, folder):
    """One more node, gone in the end, when the others are what they were."""
    node, first = Node(folder), cluster.nodes[0]
    try:
        for n in master, node:
            n.ask("CONFIG", "SET", "repl-diskless-sync-delay", 0)
        assert node.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus) == "OK"
        wait_for(lambda: node.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID")) == "OK",
                 30, "it does not know its master")
        wait_for(lambda: node.ask("ROLE")[3] == b"connected", 30, "no replica")
        line = b" slave " + master.ask("CLUSTER", "MYID")
        wait_for(lambda: all(line in n.ask("CLUSTER", "NODES") for n in cluster.nodes),
                 30, "nobody knows the replica")
        yield node
        if master.ask("ROLE")[0] != b"master":
            wait_for(lambda: master.ask("ROLE")[3] == b"connected", 30, "no replica")
            take_over(master, node, "TAKEOVER")
    finally:
        me = node.ask("CLUSTER", "MYID")
        node.stop(9)
        for n in cluster.nodes:
            n.ask("CLUSTER", "FORGET", me)
        cluster.wait()


def take_over(replica, master, *how):
    """As an operator does it: nothing is lost.  None votes twice for one in two minutes."""
    assert replica.ask("CLUSTER", "FAILOVER", *how) == "OK"
    wait_for(lambda: replica.ask("ROLE")[0] == b"master", 30, "no failover")
    wait_for(lambda: master.ask("ROLE")[0] == b"slave", 30, "the old master goes on")


def test_a_node_that_gives_way_to_its_replica_costs_no_client_anything(
        start, cluster, folder, request):
    """Neither who asks, nor who waits; who watches has to do it again."""
    proxy, over, failed = start(), threading.Event(), []
    master = cluster.nodes[1 if request.node.callspec.params["start"] == 1 else 2]
    key = each_home(cluster)[master]
    tag = "{%s}" % key

    def count(me):
        try:
            with contextlib.closing(proxy.resp(2 + me)) as r:
                n = 0
                while not over.is_set():
                    n += 1
                    r.send(encode("INCR", tag + "n%d" % me), encode("ECHO", n))
                    assert r.replies(2) == [n, b"%d" % n]
        except BaseException as e:
            failed.append(e)

    with replica_of(cluster, master, folder) as replica, \
            contextlib.closing(proxy.resp()) as waiting, \
            contextlib.closing(proxy.resp()) as watching, \
            contextlib.closing(proxy.resp()) as r:
        threads = [threading.Thread(target=count, args=[i]) for i in range(2)]
        for t in threads:
            t.start()
        try:
            waiting.send(encode("BLPOP", tag + "list", 0))
            waits(master)
            assert watching.ask("WATCH", tag + "w") == "OK"
            assert watching.ask("GET", tag + "w") is None
            take_over(replica, master)
            waits(replica)
            assert r.ask("RPUSH", tag + "list", "v") == 1
            assert waiting.reply() == [tag.encode() + b"list", b"v"]
            watching.send(encode("MULTI"), encode("SET", tag + "w", 1), encode("EXEC"),
                          encode("GET", tag + "w"))
            assert watching.replies(4) == ["OK", "QUEUED", None, None]
            watching.send(encode("WATCH", tag + "w"), encode("MULTI"),
                          encode("SET", tag + "w", 2), encode("EXEC"))
            assert watching.replies(4) == ["OK", "OK", "QUEUED", ["OK"]]
            assert replica.ask("GET", tag + "w") == b"2"
        finally:
            over.set()
            for t in threads:
                t.join()
        assert not failed, failed[0]


def test_a_node_that_hangs_is_left_for_who_took_over(start, cluster, folder):
    """Nobody says MOVED: its silence is the reason to ask who has the slot."""
    proxy, master = start(command_timeout="500ms"), cluster.nodes[0]
    key = each_home(cluster)[master]
    with replica_of(cluster, master, folder) as replica, contextlib.closing(proxy.resp()) as r:
        wait_for(lambda: r.ask("SET", key, 1) == "OK", 20, "nothing is answered")
        wait_for(lambda: replica.ask("DBSIZE") == 1, 20, "the replica is behind")
        master.process.send_signal(signal.SIGSTOP)
        try:
            assert r.ask("GET", key) == "ERR weir: command_timeout"
            assert replica.ask("CLUSTER", "FAILOVER", "TAKEOVER") == "OK"
            wait_for(lambda: r.ask("INCR", key) == 2, 30, "the old one is asked for ever")
            assert replica.ask("GET", key) == b"2"
        finally:
            master.process.send_signal(signal.SIGCONT)
        wait_for(lambda: master.ask("ROLE")[0] == b"slave", 30, "two masters")


def test_who_asks_a_node_for_much_holds_up_nobody_else_there(start, cluster):
    """The hog reads piece by piece, and behind each piece the others get theirs."""
    proxy = start()
    element, n, piece = b"e" * (1 << 20), 48, 8 << 20
    with contextlib.closing(proxy.resp()) as hog, contextlib.ExitStack() as stack:
        for _ in range(n):
            hog.send(encode("RPUSH", "{y}big", element))
        assert hog.replies(n) == list(range(1, n + 1))
        others = [stack.enter_context(contextlib.closing(proxy.resp())) for _ in range(8)]
        for i, r in enumerate(others):
            assert r.ask("SET", "{y}%d" % i, 0) == "OK"
        hog.send(encode("GET", "{y}none"), encode("LRANGE", "{y}big", 0, -1),
                 encode("GET", "{y}0"))
        size = 5 + 5 + n * (len(element) + 12)
        got, rounds = bytearray(), 0
        while len(got) < size:
            end, rounds = min(len(got) + piece, size), rounds + 1
            while len(got) < end:
                data = hog.sock.recv(end - len(got))
                assert data, "the hog was closed behind %d bytes" % len(got)
                got += data
            for i, r in enumerate(others):
                assert r.ask("INCR", "{y}%d" % i) == rounds
        assert got == b"$-1\r\n*48\r\n" + n * (b"$1048576\r\n" + element + b"\r\n")
        assert int(hog.reply()) <= rounds
        for i in range(50):
            hog.send(encode("RPUSH", "{y}mine", i), encode("LRANGE", "{y}mine", -1, -1),
                     encode("SET", "{y}n", i))
            assert hog.replies(3) == [i + 1, [b"%d" % i], "OK"]
            assert hog.ask("EVAL", "return redis.call('GET', KEYS[1])", 1, "{y}n") == b"%d" % i


def test_who_waits_too_long_for_one_node_is_told_and_goes_on(start, cluster):
    proxy = start(command_timeout="500ms")
    keys = list(each_home(cluster).values())
    home = cluster.home(cluster.slot(keys[1]))
    late = "ERR weir: command_timeout"
    with contextlib.closing(proxy.resp()) as r:
        for k in keys:
            wait_for(lambda key=k: r.ask("SET", key, key) == "OK", 20, "nothing is answered")
        home.process.send_signal(signal.SIGSTOP)
        try:
            r.send(*[encode("GET", k) for k in keys])
            said = r.replies(3)
        finally:
            home.process.send_signal(signal.SIGCONT)
        assert said[1] == late
        assert all(got in (k.encode(), late) for got, k in zip(said, keys))
        for k in keys:
            wait_for(lambda key=k: r.ask("GET", key) == key.encode(), 20, "it is not over")


def test_without_a_node_that_answers_the_client_is_told(start, cluster):
    nobody = servers.free_port()
    proxy = start(url="redis://:%s@127.0.0.1:%d" % (SECRET, nobody))
    with contextlib.closing(proxy.resp()) as r:
        said = r.ask("GET", "k")
        assert said.startswith("ERR weir: upstream is unreachable: cluster node 127.0.0.1:%d: "
                               % nobody), said
        assert r.ask("PING") == "PONG"


def test_nodes_are_spoken_to_with_tls_and_their_names_are_verified(weir, folder, authority):
    """Of two, one is known by its name and one by its address; the bus is TLS, too."""
    nodes = []
    for i, name in enumerate(["localhost", ""]):
        crt, key = authority.issue("cluster-node-%d" % i,
                                   "DNS:localhost" if name else "IP:127.0.0.1")
        port = servers.free_port()
        nodes.append(Node(folder, "--tls-port", str(port), "--tls-cluster", "yes",
                          "--tls-cert-file", crt, "--tls-key-file", key, "--tls-ca-cert-file",
                          authority.crt, "--tls-auth-clients", "no", "--cluster-announce-hostname",
                          name, met=port))
    cluster = None
    try:
        cluster = Cluster(folder, nodes, [(0, 8191), (8192, 16383)])
        wait_for(lambda: b",localhost " in nodes[1].ask("CLUSTER", "NODES"), 30, "no name")
        proxy = weir({"redis main": {
            "url": "rediss://:%s@127.0.0.1:%d" % (SECRET, nodes[1].met), "cluster": "on",
            "sslmode": "verify-full", "sslrootcert": authority.crt}})
        keys = each_home(cluster)
        with contextlib.closing(proxy.resp()) as r:
            for k in keys.values():
                assert r.ask("SET", k, k) == "OK"
                r.send(encode("WATCH", k), encode("MULTI"), encode("GET", k), encode("EXEC"))
                assert r.replies(4) == ["OK", "OK", "QUEUED", [k.encode()]]
            moved = next(k for k in ("m%d" % i for i in range(99))
                         if cluster.home(cluster.slot(k)) is nodes[1])
            cluster.move(cluster.slot(moved), nodes[0])
            assert r.ask("INCR", moved) == 1
            assert nodes[0].ask("GET", moved) == b"1"
        assert all(e["tls"] != "off" for e in proxy.event("server-open"))
        # Whoever shows a certificate of another name is not spoken to.
        crt, key = authority.issue("cluster-node-other", "DNS:other")
        assert nodes[0].ask("CONFIG", "SET", "tls-cert-file", crt, "tls-key-file", key) == "OK"
        nodes[0].ask("CLIENT", "KILL", "TYPE", "normal")
        with contextlib.closing(proxy.resp()) as r:
            wait_for(lambda: "unreachable" in str(r.ask("GET", keys[nodes[0]])), 20,
                     "another's name is good enough")
            assert r.ask("GET", keys[nodes[1]]) == keys[nodes[1]].encode()
    finally:
        for n in nodes:
            n.stop(9)


def test_what_is_to_be_set_is_set_at_all_nodes_and_their_replicas(start, cluster, folder):
    proxy, master = start(), cluster.nodes[0]
    with replica_of(cluster, master, folder) as replica, contextlib.closing(proxy.resp()) as r:
        nodes = cluster.nodes + [replica]
        try:
            assert r.ask("CONFIG", "SET", "slowlog-log-slower-than", 123456) == "OK"
            assert all(n.ask("CONFIG", "GET", "slowlog-log-slower-than")[1] == b"123456"
                       for n in nodes)
            assert r.ask("ACL", "SETUSER", "someone", "on", "+get", "~*") == "OK"
            assert all(b"someone" in n.ask("ACL", "USERS") for n in nodes)
            assert r.ask("ACL", "DELUSER", "someone") == 1
            assert not any(b"someone" in n.ask("ACL", "USERS") for n in nodes)
            for n in nodes:
                n.ask("CONFIG", "SET", "slowlog-log-slower-than", 0)
                n.ask("ECHO", "slow")
                n.ask("CONFIG", "SET", "slowlog-log-slower-than", -1)
            assert r.ask("SLOWLOG", "LEN") >= len(nodes)
            assert len(r.ask("SLOWLOG", "GET", 1)) == len(nodes)
            for words in ["SLOWLOG", "RESET"], ["MEMORY", "PURGE"], ["CONFIG", "RESETSTAT"]:
                assert r.ask(*words) == "OK"
            assert all(n.ask("SLOWLOG", "LEN") == 0 for n in nodes) and r.ask("SLOWLOG", "LEN") == 0
            assert r.ask("LATENCY", "RESET") == 0
            for words in ["CONFIG", "SET", "nonsense", 1], ["ACL", "SETUSER", "x", "nonsense"], \
                    ["CONFIG", "REWRITE"], ["ACL", "SAVE"]:
                assert r.ask(*words) == master.ask(*words), words
        finally:
            for n in nodes:
                n.ask("CONFIG", "SET", "slowlog-log-slower-than", 10000)


def test_scripts_are_there_if_all_nodes_have_them(start, cluster):
    proxy = start()
    with contextlib.closing(proxy.resp()) as r:
        shas = [r.ask("SCRIPT", "LOAD", "return %d" % i) for i in range(3)]
        assert cluster.nodes[2].ask("SCRIPT", "FLUSH") == "OK"
        shas[2] = r.ask("SCRIPT", "LOAD", "return 2")
        assert r.ask("SCRIPT", "EXISTS", *shas, "0" * 40) == [0, 0, 1, 0]


def test_subscribers_are_counted_at_all_nodes(start, cluster):
    proxy = start()
    with contextlib.ExitStack() as stack:
        def client(conn):
            return stack.enter_context(contextlib.closing(conn))
        clients = [client(proxy.resp(2 + i % 2)) for i in range(4)]
        r = client(proxy.resp())
        for c in clients:
            assert c.ask("SUBSCRIBE", "one")[0] == b"subscribe"
        assert clients[0].ask("PSUBSCRIBE", "p*")[0] == b"psubscribe"
        for n in cluster.nodes:
            assert client(n.resp()).ask("SUBSCRIBE", "one")[0] == b"subscribe"
        assert r.ask("PUBSUB", "NUMSUB", "one", "none") == [b"one", 7, b"none", 0]
        assert r.ask("PUBSUB", "NUMSUB") == []
        assert r.ask("PUBSUB", "NUMPAT") == 1
        r.send(encode("ECHO", 1), encode("PUBSUB", "NUMSUB", "one"), encode("ECHO", 2))
        assert r.replies(3) == [b"1", [b"one", 7], b"2"]


def test_a_script_is_ended_wherever_it_runs(start, cluster):
    proxy = start()
    keys = each_home(cluster)
    for n in cluster.nodes:
        assert n.ask("CONFIG", "SET", "busy-reply-threshold", 20) == "OK"
    try:
        with contextlib.closing(proxy.resp()) as r, contextlib.closing(proxy.resp()) as other:
            for kind in "SCRIPT", "FUNCTION":
                assert r.ask(kind, "KILL") == "NOTBUSY No scripts in execution right now."
            for key in keys.values():
                other.send(encode("EVAL", "while true do end", 1, key))
                wait_for(lambda: r.ask("SCRIPT", "KILL") == "OK", 20, "it is not ended")
                assert "Script killed by user" in other.reply()
                assert r.ask("SET", key, 1) == "OK"
            assert no_doubts(proxy)
    finally:
        for n in cluster.nodes:
            n.ask("CONFIG", "SET", "busy-reply-threshold", 5000)


def test_who_waits_for_copies_waits_at_all_masters(start, cluster, folder):
    proxy, master = start(), cluster.nodes[0]
    with contextlib.closing(proxy.resp()) as r, contextlib.closing(proxy.resp()) as other:
        assert r.ask("SET", "k", 1) == "OK"
        r.send(encode("WAIT", 0, 0), encode("GET", "k"), encode("WAIT", 1, 10), encode("ECHO", 1))
        assert r.replies(4) == [0, b"1", 0, b"1"]
        for words in ["WAIT", "x", 1], ["WAIT", 1, -1]:
            assert r.ask(*words) == master.ask(*words)
        # Whoever waits holds up nobody else, and may leave.
        r.send(encode("WAIT", 1, 0), encode("ECHO", "behind"))
        for n in cluster.nodes:
            waits(n)
        assert other.ask("SET", "k", 2) == "OK" and other.ask("WAIT", 0, 0) == 0
    wait_for(lambda: not any("b" in c["flags"] for n in cluster.nodes for c in n.clients()),
             20, "they still wait")


def no_doubts(proxy):
    """No server has said what was not to be said."""
    return not [e for e in proxy.events("server-close") if e["why"] == "UPSTREAM_SENSE"]


def heard(r, n):
    """Of so many confirmations or messages, in this order."""
    return [[x.decode() if isinstance(x, bytes) else x for x in r.reply()] for _ in range(n)]


def shard_of(node):
    return node.ask("PUBSUB", "SHARDCHANNELS")


@pytest.mark.parametrize("workers", [1, 4])
def test_a_batch_is_told_by_another_node_where_that_of_the_url_is_gone(
        weir, cluster, pg, relay, workers):
    pg.run(test_batch_publish.TABLE)
    first, line = cluster.nodes[0], relay(cluster.nodes[0].port)
    w = weir({"redis main": {"url": "redis://:%s@127.0.0.1:%d" % (SECRET, line.port),
                             "cluster": "on", "connections": 16},
              "batch news": test_batch_publish.BATCH}, workers)
    wire, rows = w.wire("acme_app"), itertools.count(2)

    def learnt():
        said = first.ask("INFO", "commandstats").decode()
        return int((re.findall(r"cluster\|nodes:calls=(\d+)", said) or [0])[0]) > 0 and \
            not [c for c in first.clients() if c["cmd"] == "cluster|nodes"]

    def tells():
        wire.run(test_batch_publish.op(1, next(rows)))
        return test_batch_publish.told(w) > 1
    assert first.ask("CONFIG", "RESETSTAT") == "OK"
    with contextlib.closing(cluster.nodes[2].resp()) as listener:
        assert listener.ask("PSUBSCRIBE", "*") == [b"psubscribe", b"*", 1]
        wire.run(test_batch_publish.op(1, 1))
        assert listener.reply()[2].decode() == test_batch_publish.news(1, 1)[0]
        wait_for(learnt, 20, "who else is there is not asked for")
        line.stop()
        wait_for(tells, 30, "nobody is told any more")
        assert listener.reply()[2].decode() == test_batch_publish.news(1, 2)[0]


def test_a_shard_channel_is_heard_from_the_node_of_its_slot(start, cluster):
    proxy = start()
    keys = list(each_home(cluster).values())
    with contextlib.ExitStack() as stack:
        def client(proto=2):
            return stack.enter_context(contextlib.closing(proxy.resp(proto)))
        asker = client()
        for proto in 2, 3:
            r, more = client(proto), [client(2 + i % 2) for i in range(6)]
            for i, k in enumerate(keys):
                r.send(encode("SSUBSCRIBE", k, "{%s}two" % k))
                assert heard(r, 2) == [["ssubscribe", k, 2 * i + 1],
                                       ["ssubscribe", "{%s}two" % k, 2 * i + 2]]
                for c in more:
                    assert c.ask("SSUBSCRIBE", k)[2] == i + 1
            assert all(len(shard_of(n)) == 2 for n in cluster.nodes)
            for i, k in enumerate(keys):
                # Redis counts connections, and of ours there is one.
                assert asker.ask("SPUBLISH", k, "to %s" % k) == 1
                for c in [r] + more:
                    assert heard(c, 1) == [["smessage", k, "to %s" % k]]
                cluster.home(cluster.slot(k)).ask("SPUBLISH", "{%s}two" % k, i)
                assert heard(r, 1) == [["smessage", "{%s}two" % k, str(i)]]
            assert sorted(asker.ask("PUBSUB", "SHARDCHANNELS")) == \
                sorted(x.encode() for k in keys for x in (k, "{%s}two" % k))
            assert asker.ask("PUBSUB", "SHARDCHANNELS", keys[0]) == [keys[0].encode()]
            assert asker.ask("PUBSUB", "SHARDNUMSUB", *keys, "none") == \
                [x for k in keys for x in (k.encode(), 7)] + [b"none", 0]
            assert asker.ask("PUBSUB", "NUMSUB", keys[0]) == [keys[0].encode(), 0]
            # Some, some that it has not, and all that are left.
            r.send(encode("SUNSUBSCRIBE", keys[0], "none", keys[2]), encode("SUNSUBSCRIBE"),
                   encode("SUNSUBSCRIBE"), encode("PING"))
            assert heard(r, 3) == [["sunsubscribe", keys[0], 5], ["sunsubscribe", "none", 5],
                                   ["sunsubscribe", keys[2], 4]]
            left = heard(r, 4)
            assert [x[0] for x in left] == ["sunsubscribe"] * 4
            assert [x[2] for x in left] == [3, 2, 1, 0]
            assert heard(r, 1) == [["sunsubscribe", None, 0]]
            assert r.reply() == "PONG"
            for c in more:
                c.close()
            wait_for(lambda: asker.ask("PUBSUB", "SHARDCHANNELS") == [], 20, "still there")
        # Beside what it hears from elsewhere, in one order of its own.
        r = client()
        assert r.ask("SUBSCRIBE", "plain") == [b"subscribe", b"plain", 1]
        assert r.ask("SSUBSCRIBE", keys[1]) == [b"ssubscribe", keys[1].encode(), 1]
        asker.ask("PUBLISH", "plain", 1)
        assert r.reply() == [b"message", b"plain", b"1"]
        assert "only (P|S)SUBSCRIBE" in r.ask("GET", "k")
        assert r.ask("RESET") == "RESET"
        wait_for(lambda: asker.ask("PUBSUB", "SHARDCHANNELS") == [], 20, "still there")
    assert no_doubts(proxy)


def test_shard_channels_of_one_command_are_of_one_slot(start, cluster):
    proxy, node = start(), cluster.nodes[0]
    keys = each_home(cluster)
    other = keys[cluster.nodes[1]]
    with contextlib.closing(proxy.resp()) as r, contextlib.closing(node.resp()) as direct:
        for words in ["SSUBSCRIBE", keys[node], other], ["SSUBSCRIBE"]:
            said = []
            for conn in r, direct:
                conn.send(encode(*words))
                said.append(conn.raw())
            assert said[0] == said[1]
        assert r.ask("SSUBSCRIBE", other) == [b"ssubscribe", other.encode(), 1]
        assert shard_of(cluster.nodes[1]) == [other.encode()]
    # A user that may not is told so by the node.
    for n in cluster.nodes:
        n.ask("ACL", "SETUSER", "default", "resetchannels")
    try:
        with contextlib.closing(proxy.resp()) as r:
            assert r.ask("SSUBSCRIBE", other).startswith("NOPERM ")
            assert r.ask("SET", other, 1) == "OK"
    finally:
        for n in cluster.nodes:
            n.ask("ACL", "SETUSER", "default", "allchannels")


def test_a_shard_channel_is_found_where_it_has_moved(start, cluster):
    proxy = start()
    slot = cluster.slot("{s}")
    with contextlib.closing(proxy.resp()) as other:
        assert other.ask("SPUBLISH", "{s}", 1) == 0      # the slots are known
        for proto in 2, 3:
            with contextlib.closing(proxy.resp(proto)) as r:
                cluster.move(slot, cluster.other(cluster.home(slot)))
                r.send(encode("SSUBSCRIBE", "{s}1", "{s}2"), encode("SSUBSCRIBE", "{s}3"))
                assert heard(r, 3) == [["ssubscribe", "{s}%d" % i, i] for i in (1, 2, 3)]
                assert len(shard_of(cluster.home(slot))) == 3
                assert other.ask("SPUBLISH", "{s}2", "here") == 1
                assert heard(r, 1) == [["smessage", "{s}2", "here"]]


def closes(r):
    """Without another word."""
    r.sock.settimeout(servers.scaled(20))
    return r.sock.recv(1) == b""


def test_a_slot_that_moves_away_closes_its_subscribers_and_nobody_else(start, cluster):
    """They come back and subscribe again, by themselves; to be told would mean nothing to them."""
    proxy = start()
    slot = cluster.slot("{g}")
    home = cluster.home(slot)
    near = next(k for k in ("n%d" % i for i in range(99))
                if cluster.slot(k) != slot and cluster.home(cluster.slot(k)) is home)
    with contextlib.ExitStack() as stack:
        def client(proto, *channels):
            r = stack.enter_context(contextlib.closing(proxy.resp(proto)))
            for c in channels:
                assert r.ask("SSUBSCRIBE", c)[0] == b"ssubscribe"
            return r
        gone = [client(2 + i % 2, "{g}", near) for i in range(4)] + [client(3, "{g}more")]
        stay = [client(2 + i % 2, near) for i in range(4)]
        wait_for(lambda: len(shard_of(home)) == 3, 20, "they are not there")
        cluster.move(slot, cluster.other(home))
        assert all(closes(r) for r in gone)
        assert home.ask("SPUBLISH", near, "still") == 1
        for r in stay:
            assert heard(r, 1) == [["smessage", near, "still"]]
        back = [client(2 + i % 2, "{g}") for i in range(3)]
        assert stay[0].ask("SUNSUBSCRIBE", near)[0] == b"sunsubscribe"
        assert stay[0].ask("SPUBLISH", "{g}", "again") == 1
        for r in back:
            assert heard(r, 1) == [["smessage", "{g}", "again"]]
        wait_for(lambda: shard_of(home) == [near.encode()], 20, "it is still asked for")
    assert no_doubts(proxy)


def test_shard_channels_come_and_go_while_their_slots_move(start, cluster):
    """Whoever is told of a subscription hears what is published then, or is closed."""
    proxy, over, failed = start(), threading.Event(), []
    done = [0] * 4

    def turn(me, r, publisher):
        for i in range(20):
            name = "{%d}c%d" % (me % 2, me)
            assert r.ask("SSUBSCRIBE", name) == [b"ssubscribe", name.encode(), 1]
            message = [b"smessage", name.encode(), b"%d of %d" % (i, me)]
            # Between two steps of a move two nodes have the slot, each for some.
            r.sock.settimeout(servers.scaled(1))
            for _ in range(20):
                publisher.ask("SPUBLISH", name, message[2])
                with contextlib.suppress(TimeoutError):
                    assert r.reply() == message
                    break
            else:
                raise AssertionError("nothing is heard")
            r.sock.settimeout(servers.scaled(20))
            got = r.ask("SUNSUBSCRIBE", name)
            while got == message:
                got = r.reply()
            assert got == [b"sunsubscribe", name.encode(), 0]
            done[me] += 1

    def client(me):
        try:
            while not over.is_set():
                with contextlib.closing(proxy.resp(2 + me % 2)) as r, \
                        contextlib.closing(proxy.resp()) as publisher, \
                        contextlib.suppress(respwire.Closed, ConnectionError):
                    turn(me, r, publisher)
        except BaseException as e:
            failed.append(e)

    while_slots_move(cluster, client, over, failed,
                     lambda was: all(d > w for d, w in zip(done, was)), done)
    assert no_doubts(proxy)


@contextlib.contextmanager
def one_more(cluster, folder):
    """A master that has no slots yet, and none in the end, when it is gone."""
    node, first = Node(folder), cluster.nodes[0]
    me = node.ask("CLUSTER", "MYID")
    try:
        cluster.nodes.append(node)
        assert node.ask("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus) == "OK"
        cluster.wait()
        yield node
    finally:
        cluster.nodes.remove(node)
        node.stop(9)
        for n in cluster.nodes:
            n.ask("CLUSTER", "FORGET", me)
        cluster.wait()


def test_who_has_come_since_is_asked_with_the_others(start, cluster, folder):
    """A worker that nobody was redirected on knows of no new node by itself."""
    proxy = start()
    slot = cluster.slot("{new}")
    home = cluster.home(slot)
    with contextlib.closing(proxy.resp()) as r:
        assert r.ask("DBSIZE") == 0
        with one_more(cluster, folder) as new:
            cluster.move(slot, new)
            assert new.ask("SET", "{new}", 1) == "OK"
            wait_for(lambda: r.ask("DBSIZE") == 1, 20, "it is not asked")
            assert r.ask("FLUSHALL") == "OK"
            assert new.ask("DBSIZE") == 0
            cluster.move(slot, home)


def test_who_hears_a_node_that_gives_way_is_closed(start, cluster, folder):
    proxy, master = start(), cluster.nodes[0]
    key = each_home(cluster)[master]
    with replica_of(cluster, master, folder) as replica:
        with contextlib.closing(proxy.resp()) as sub:
            assert sub.ask("SSUBSCRIBE", key)[0] == b"ssubscribe"
            take_over(replica, master, "TAKEOVER")
            assert closes(sub)
        # Who comes back at once may get the old one, which is its replica now: not for long.
        def settled():
            with contextlib.closing(proxy.resp()) as sub:
                sub.send(encode("SSUBSCRIBE", key))
                with contextlib.suppress(respwire.Closed, ConnectionError):
                    assert sub.reply()[0] == b"ssubscribe"
                    if shard_of(replica) != [key.encode()]:
                        return closes(sub) and False
                    assert replica.ask("SPUBLISH", key, "there") == 1
                    return heard(sub, 1) == [["smessage", key, "there"]]
        wait_for(settled, 30, "it is not heard where it is published")
