"""
Goal:   what weir does with each of the 240 commands of Redis 7.0 and their 126
        subcommands: what passes gives the very bytes a direct connection gives.
Method: the rows of redis_rows.py, each called on a new connection to one Redis
        and through weir to another one just like it; RESP2 and RESP3; both
        profiles; with and without an organization.  A command without a row,
        or a row without a command, is a failure.
"""
import contextlib
import json
import os
import re
import subprocess

import pytest

import redis_rows
import respwire
from respwire import Closed, encode
from servers import REDIS_PASSWORD, USERS, Redis, scaled, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
JSON = os.path.join(HERE, "../../protocol/redis_commands_7.0.15.json")

# What profile `shared` refuses, said once more and by hand: to everybody ...
DANGER = set("""
bgrewriteaof bgsave debug failover flushall flushdb keys migrate pfdebug replicaof
restore-asking save shutdown slaveof swapdb acl|deluser acl|dryrun acl|getuser acl|list acl|load
acl|log acl|save acl|setuser acl|users client|pause client|unpause cluster|addslots
cluster|addslotsrange cluster|bumpepoch cluster|delslots cluster|delslotsrange cluster|failover
cluster|flushslots cluster|forget cluster|meet cluster|replicate cluster|reset cluster|saveconfig
cluster|set-config-epoch cluster|setslot config|resetstat config|rewrite config|set
function|delete function|flush function|kill function|load function|restore latency|doctor
latency|graph latency|histogram latency|history latency|latest latency|reset memory|doctor
memory|malloc-stats memory|purge memory|stats module|list module|load module|loadex module|unload
script|debug script|flush script|kill slowlog|get slowlog|len slowlog|reset
""".split())
# ... and to who is one organization of several.
PROBE = set("""
client|caching client|tracking dbsize function|dump function|list lastsave monitor move
pubsub|channels pubsub|numpat pubsub|numsub pubsub|shardchannels pubsub|shardnumsub randomkey scan
""".split())
# ... and to who has its user there together with others.
PROBE |= {"subscribe", "psubscribe", "ssubscribe"}
# Where an organization sees something of its own.
OWN = {
    "info": rb"(\$\d+\r\n|=\d+\r\ntxt:)# Server\r\nredis_version:7\.0\.15\r\n.*",
    "select": rb"-NOPERM this user has no permissions to run the 'select' command "
              rb"\(weir: profile = shared\)\r\n",
    "acl|whoami": rb"\$8\r\nacme_app\r\n",
    "auth": rb"\+OK\r\n",
}


def commands():
    with open(JSON) as f:
        facts = json.load(f)
    return {c[0]: c for c in facts} | {s[0]: s for c in facts for s in c[9]}


def test_every_command_has_a_row_and_every_row_a_command():
    assert {row.name for row in redis_rows.rows()} == set(commands())
    assert len(commands()) == 240 + 126


class Twin:
    """A Redis just like the other one."""

    def __init__(self, folder, authority, name):
        self.server = Redis(folder, authority, name)
        self.admin = respwire.Resp(self.server.port)
        assert self.admin.ask("AUTH", self.server.password) == "OK"
        for setting in [("slowlog-log-slower-than", -1), ("set-max-intset-entries", 512)]:
            assert self.admin.ask("CONFIG", "SET", *setting) == "OK"
        assert self.admin.ask("ACL", "SETUSER", "default", ">" + REDIS_PASSWORD) == "OK"
        self.admin.ask("SET", "x", "value")
        self.dump = self.admin.ask("DUMP", "x")

    def settled(self):
        """No child of it writes a file."""
        def so():
            info = self.admin.ask("INFO", "persistence").decode()
            return "rdb_bgsave_in_progress:0" in info and "aof_rewrite_in_progress:0" in info
        wait_for(so, 20, "a save that ends")

    def prepare(self, row):
        asked = [("FLUSHALL",)]
        if re.match("eval|script|fcall|function", row.name):
            asked += [("FUNCTION", "FLUSH"), ("SCRIPT", "FLUSH")]
        self.admin.send(*[encode(*words) for words in asked])
        assert set(self.admin.replies(len(asked))) == {"OK"}
        for command in row.prepare:
            if command == ["@SETTLED"]:
                self.settled()
            else:
                answer = self.admin.ask(*command)
                assert not isinstance(answer, respwire.Error), (command, answer)

    def words(self, command):
        return [{"@DUMP": self.dump, "@PASSWORD": REDIS_PASSWORD}.get(w, w) for w in command]


@pytest.fixture(scope="module")
def twins(folder, authority):
    pair = [Twin(folder, authority, "redis-twin-%d" % n) for n in range(2)]
    yield pair
    for twin in pair:
        twin.admin.close()
        twin.server.stop()


def past_weir(twin, proto):
    r = respwire.Resp(twin.server.port, timeout=scaled(5))
    r.ask("HELLO", proto, "AUTH", "default", REDIS_PASSWORD)
    return r


def through(w, user, proto):
    r = respwire.Resp(w.redis_port, timeout=scaled(5))
    password = REDIS_PASSWORD if user == "default" else USERS[user][1]
    r.ask("HELLO", proto, "AUTH", user, password)
    return r


def ask(r, twin, calls):
    """The replies: (bytes, value) each."""
    with contextlib.closing(r):
        found = []
        for command in calls:
            try:
                r.send(encode(*twin.words(command)))
                found.append(r.both())
            except (Closed, OSError) as e:      # neither is in any row
                found.append((type(e).__name__.encode(), None))
        return found


def shape(value):
    if isinstance(value, list):
        return [type(value).__name__] + [shape(v) for v in value]
    if isinstance(value, tuple):
        return [shape(v) for v in value]
    return type(value).__name__


def digits(raw):
    """All numbers are one."""
    return re.sub(rb"\d+", b"0", raw)


def names(row, raw):
    """Of fields: a line each, or up to a colon."""
    return row.name in ("info", "memory|stats") and re.findall(rb"^[a-z_.]+(?=:|\r)", raw, re.M)


def flat(value):
    """Without any order."""
    if isinstance(value, (list, tuple)):
        return sorted((flat(v) for v in value), key=repr)
    return value


def differs(row, direct, here):
    """Of a row that is compared: None, or what."""
    if row.how == "!":
        if len(here) != 1 or not re.fullmatch(row.note.encode() + rb"\r\n", here[0][0], re.S):
            return here[0][0]
        return None
    if row.how == "#":
        pairs = [(digits(a[0]), digits(b[0])) for a, b in zip(direct, here)]
    elif row.how == "~":
        pairs = [((shape(a[1]), names(row, a[0])), (shape(b[1]), names(row, b[0])))
                 for a, b in zip(direct, here)]
    elif row.how == "%":
        pairs = [(flat(a[1]), flat(b[1])) for a, b in zip(direct, here)]
    else:
        pairs = [(a[0], b[0]) for a, b in zip(direct, here)]
    return next(((a, b) for a, b in pairs if a != b), None)


def refusal(row):
    return (b"-NOPERM this user has no permissions to run the '%b' command "
            b"(weir: profile = shared)\r\n" % row.name.encode())


def is_refused(row, here):
    """It is refused, and nothing but it."""
    words = row.name.split("|")
    mine = [raw for (raw, _), call in zip(here, row.calls) if call[:len(words)] == words]
    return all(raw == refusal(row) for raw in mine) or mine


def judge(row, direct, here, profile, user):
    if profile == "shared" and (row.name in DANGER or user != "default" and row.name in PROBE):
        verdict = is_refused(row, here)
        return None if verdict is True else verdict
    if user != "default" and row.name in OWN:
        return None if re.fullmatch(OWN[row.name], here[0][0], re.S) else here[0][0]
    return differs(row, direct, here)


WAYS = [("dedicated", "default", 2), ("dedicated", "default", 3), ("shared", "default", 2),
        ("shared", "acme_app", 3)]


@pytest.mark.weir_only
@pytest.mark.parametrize("profile, user, proto", WAYS)
def test_each_command_gives_what_redis_gives_or_is_refused_by_profile(
        weir, twins, profile, user, proto):
    there, behind = twins
    url = "redis://:%s@127.0.0.1:%d" % (behind.server.password, behind.server.port)
    w = weir({"redis main": {"url": url, "profile": profile}}, 2)
    wrong = {}
    for row in redis_rows.rows():
        there.prepare(row), behind.prepare(row)
        direct = [] if row.how == "!" else ask(past_weir(there, proto), there, row.calls)
        here = ask(through(w, user, proto), behind, row.calls)
        verdict = judge(row, direct, here, profile, user)
        if verdict is not None:
            wrong[row.name] = verdict
    assert not wrong, "\n".join("%s: %s" % pair for pair in wrong.items())


@pytest.mark.weir_only
@pytest.mark.parametrize("proto", [2, 3])
def test_a_wrong_number_of_arguments_is_told_in_redis_own_words(weir, twins, proto):
    there, behind = twins
    url = "redis://:%s@127.0.0.1:%d" % (behind.server.password, behind.server.port)
    w = weir({"redis main": {"url": url, "profile": "dedicated"}}, 1)
    r, direct = through(w, "default", proto), past_weir(there, proto)
    wrong = {}
    for name, fact in commands().items():
        arity, words = fact[1], name.split("|")
        for argc in {abs(arity) - 1, arity + 1 if arity > 0 else 0}:
            if argc < len(words):
                continue
            asked = encode(*words, *["x"] * (argc - len(words)))
            r.send(asked), direct.send(asked)
            said, want = r.raw(), direct.raw()
            if said != want or b"wrong number of arguments" not in want:
                wrong[name, argc] = want, said
    assert not wrong
    assert r.ask("PING") == direct.ask("PING") == "PONG"


@pytest.mark.weir_only
def test_before_the_login_each_command_is_refused_as_redis_refuses_it(weir, twins):
    there, behind = twins
    url = "redis://:%s@127.0.0.1:%d" % (behind.server.password, behind.server.port)
    w = weir({"redis main": {"url": url, "profile": "shared"}}, 1)
    r, direct = w.resp(login=False), respwire.Resp(there.server.port)
    wrong = {}
    for name, fact in commands().items():
        words = name.split("|")
        words += ["x"] * (abs(fact[1]) - len(words))
        if "no_auth" in fact[2]:
            continue
        r.send(encode(*words)), direct.send(encode(*words))
        said, want = r.raw(), direct.raw()
        if said != want or not want.startswith(b"-"):
            wrong[name] = want, said
    direct.close()
    # Redis says first that its configuration forbids these to all.
    protected = {"debug", "module|load", "module|loadex", "module|unload"}
    assert set(wrong) <= protected and {said for _, said in wrong.values()} \
        == {b"-NOAUTH Authentication required.\r\n"}, wrong


@pytest.mark.weir_only
@pytest.mark.parametrize("proto", [2, 3])
def test_info_is_true_to_the_server_in_what_it_tells_an_organization(weir, twins, proto):
    twin = twins[1]
    url = "redis://:%s@127.0.0.1:%d" % (twin.server.password, twin.server.port)
    w = weir({"redis main": {"url": url, "profile": "shared"}}, 1)
    r = through(w, "acme_app", proto)
    everything = {"redis_version", "redis_mode", "arch_bits", "loading", "async_loading", "role",
                  "cluster_enabled", "maxmemory_policy"}

    def told(*sections):
        text = re.sub("^txt:", "", r.ask("INFO", *sections).decode())
        assert set(text.splitlines()) - {""} <= set(twin.admin.ask("INFO").decode().splitlines())
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    with contextlib.closing(r):
        assert set(told()) == set(told("all")) == set(told("Server", "default")) == everything
        assert told()["role"] == "master" and told("keyspace") == {}
        assert set(told("persistence")) == {"loading", "async_loading"}
        # A replica that waits for its master.
        assert twin.admin.ask("REPLICAOF", "127.0.0.1", "1") == "OK"
        try:
            assert told("replication") == {"role": "slave", "master_link_status": "down"}
            assert set(told()) == everything | {"master_link_status"}
        finally:
            twin.admin.ask("REPLICAOF", "NO", "ONE")
        assert told("replication") == {"role": "master"}
        r.send(encode("ECHO", "before"), encode("INFO", "cluster"), encode("ECHO", "after"))
        assert r.reply() == b"before"
        assert r.reply().endswith(b"# Cluster\r\ncluster_enabled:0\r\n")
        assert r.reply() == b"after"


# Commands that are in no table.


@pytest.fixture(scope="module")
def other_kind(folder, authority):
    """A Redis with commands of other names: as with a module, or newer than ours."""
    renamed = ["--rename-command", "SADD", "MY.SADD", "--rename-command", "CONFIG", "waitaof"]
    server = Redis(folder, authority, "redis-of-another-kind", renamed)
    yield server
    server.stop()


@pytest.mark.weir_only
@pytest.mark.parametrize("proto", [2, 3])
@pytest.mark.parametrize("profile, user, passes", [
    ("dedicated", "default", True), ("dedicated", "acme_app", True),
    ("shared", "default", True), ("shared", "acme_app", False)])
def test_a_command_only_the_server_knows_passes_unless_it_may_reach_others(
        weir, other_kind, profile, user, passes, proto):
    url = "redis://:%s@127.0.0.1:%d" % (other_kind.password, other_kind.port)
    w = weir({"redis main": {"url": url, "profile": profile}}, 2)
    r = through(w, user, proto)
    with contextlib.closing(r):
        r.send(encode("ECHO", "before"), encode("my.sadd", "s", "m"), encode("DEL", "s"),
               encode("My.Sadd"), encode("SADD", "s", "m"), encode("ECHO", "after"))
        unknown = "ERR unknown command '%s', with args beginning with: %s"
        arity = "ERR wrong number of arguments for 'sadd' command"
        assert r.replies(6) == [
            b"before", 1 if passes else unknown % ("my.sadd", "'s' 'm' "), int(passes),
            arity if passes else unknown % ("My.Sadd", ""),
            unknown % ("SADD", "'s' 'm' "), b"after"]
        assert r.ask("WAITAOF", "GET", "save") == unknown % ("WAITAOF", "'GET' 'save' ")
        for line in ["OBJECT FOO k", "XINFO FOO", "CLIENT FOO", "CLUSTER FOO", "COMMAND FOO"]:
            name, sub = line.split()[:2]
            assert r.ask(*line.split()) == "ERR unknown subcommand '%s'. Try %s HELP." % (sub, name)
        assert r.ask("PING") == "PONG"


@pytest.mark.weir_only
def test_before_the_login_nothing_unknown_passes_and_http_never_does(weir, other_kind, rd):
    url = "redis://:%s@127.0.0.1:%d" % (other_kind.password, other_kind.port)
    w = weir({"redis main": {"url": url, "profile": "dedicated"}})
    r = w.resp(login=False)
    assert r.ask("MY.SADD", "s", "m").startswith("ERR unknown command 'MY.SADD'")
    witness = w.resp()
    assert witness.ask("GET", "k") is None
    before = {c["id"] for c in other_kind.clients()}
    for line in (b"POST / HTTP/1.1\r\n", b"Host: x\r\n", encode("post", "x"), encode("HOST:", "x")):
        for login in (False, True):
            r = w.resp(login=login)
            r.send(line + encode("MY.SADD", "s", "post"))
            assert b"\r\n:1" not in r.until_closed()
    assert witness.ask("SMEMBERS", "s") == []
    assert {c["id"] for c in other_kind.clients()} >= before, "nobody upstream was closed"


# Scripts, as the guides tell people to use them.


@pytest.mark.weir_only
@pytest.mark.parametrize("user", ["default", "acme_app"])
def test_a_script_is_run_from_the_shell_by_the_sha_that_is_kept_in_a_hash(weir, rd, user):
    w = weir({"redis main": {"profile": "shared"}}, 2)
    password = REDIS_PASSWORD if user == "default" else USERS[user][1]
    cli = "redis-cli -p %d --user %s" % (w.redis_port, user)

    def shell(command):
        return subprocess.run(["sh", "-c", command.replace("redis-cli", cli)], text=True,
                              capture_output=True, timeout=scaled(20),
                              env=dict(os.environ, REDISCLI_AUTH=password)).stdout.strip()
    r = through(w, user, 2)
    with contextlib.closing(r):
        r.ask("DEL", "scripts:sha", "old:1", "old:2")
        script = "return redis.call('DEL', 'old:1', 'old:2')"
        assert r.ask("MSET", "old:1", 1, "old:2", 2) == "OK"
        sha = r.ask("SCRIPT", "LOAD", script)
        assert r.ask("HSET", "scripts:sha", "cleanup", sha) == 1
        assert shell("redis-cli EVALSHA $(redis-cli HGET scripts:sha cleanup) 0") == "2"
        assert r.ask("EXISTS", "old:1", "old:2") == 0
        r.ask("HSET", "scripts:sha", "cleanup", "f" * 40)
        assert shell("redis-cli EVALSHA $(redis-cli HGET scripts:sha cleanup) 0") \
            == "NOSCRIPT No matching script. Please use EVAL."


@pytest.mark.weir_only
def test_scripts_and_functions_are_there_for_all_clients_of_the_upstream(weir, workers, rd):
    w = weir({"redis main": {"profile": "dedicated"}}, workers)
    clients = [w.resp(proto=2 + n % 2) for n in range(8)]
    sha = clients[0].ask("SCRIPT", "LOAD", "return {KEYS[1], ARGV[1]}")
    lib = "#!lua name=mine\nredis.register_function('twice', function(k, a) return a[1] .. a[1] end)"
    assert clients[1].ask("FUNCTION", "LOAD", "REPLACE", lib) == b"mine"
    for n, r in enumerate(clients):
        r.send(encode("EVALSHA", sha, 1, "k", n), encode("FCALL", "twice", 0, n),
               encode("SCRIPT", "EXISTS", sha, "f" * 40))
        assert r.replies(3) == [[b"k", b"%d" % n], b"%d%d" % (n, n), [1, 0]]
    with contextlib.closing(rd.connect()) as direct:
        direct.script_flush()
        direct.execute_command("FUNCTION", "FLUSH")
    for r in clients:
        assert r.ask("EVALSHA", sha, 0) == "NOSCRIPT No matching script. Please use EVAL."
        assert r.ask("FCALL", "twice", 0) == "ERR Function not found"
