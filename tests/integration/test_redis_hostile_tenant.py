"""
Goal:   on a Redis that organizations share, a client of one sees and changes
        nothing of another's by any command, and hears why in words that name
        the command, on a connection that lives.
Method: a Redis of its own; deployment/fly/redis/organization.sh makes the ACL
        users; then every way out, as organization acme, through weir, with
        beta's keys there to be found.
"""
import contextlib
import os
import subprocess

import pytest

import respwire
from respwire import Closed, Error, Map, encode
from servers import REDIS_PASSWORD, USERS, Redis, scaled, wait_for

pytestmark = pytest.mark.weir_only

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      "../../deployment/fly/redis/organization.sh")
ACL = {slug: "the-password-of-%s-in-redis" % slug for slug in ("acme", "beta")}
SHARED = "(weir: profile = shared)"
REFUSED = "WRONGPASS weir: no such organization"


def organization(own, what, slug, password=None, **env):
    env = dict(os.environ, ORGANIZATION_REDIS_PASSWORD=password or ACL.get(slug, "x" * 16),
               REDISCLI_AUTH=own.password, **env)
    return subprocess.run(["sh", SCRIPT, what, slug, "-p", str(own.port)], env=env,
                          capture_output=True, text=True, timeout=scaled(60))


@pytest.fixture(scope="module")
def own(folder, authority, request):
    """A Redis whose users are those of the script."""
    server = Redis(folder, authority, "redis-of-" + request.module.__name__)
    for slug in ACL:
        said = organization(server, "apply", slug)
        assert said.returncode == 0, said.stderr
    yield server
    server.stop()


@pytest.fixture
def fill(own):
    with contextlib.closing(own.connect()) as r:
        r.flushall()
        r.set("beta:secret", "of beta")
        r.rpush("beta:list", "of beta")
        r.hset("beta:hash", "f", "of beta")
        r.xadd("beta:stream", {"f": "of beta"}, id="1-1")
        r.set("acme:k", "of acme")
        r.rpush("acme:list", "secret")
        yield r


def config(own, **more):
    url = "redis://:%s@127.0.0.1:%d/0" % (own.password, own.port)
    return {
        "tls": {"sni_domain": "weir.test"},
        "redis main": {"url": url, "profile": "shared"},
        "user svc": {"auth": "plain", "password": "svc-secret", "organizations": "*"},
        **{"organization " + slug: {"redis_user": slug, "redis_password": password}
           for slug, password in ACL.items()},
        **more}


@pytest.fixture
def apart(weir, own, fill):
    return weir(config(own))


@pytest.fixture
def apart_on_4(weir, own, fill):
    return weir(config(own), 4)


def client(w, user="acme_app", password=None, proto=2, host=None):
    """Logged in as a client of an organization."""
    password = password or USERS[user][1]
    r = w.keep(respwire.Resp(
        w.ports["redis_tls"] if host else w.redis_port, timeout=scaled(20),
        tls=w.tls_context(check_hostname=False) if host else None,
        name=host or "localhost"))
    if proto == 3:
        assert isinstance(r.ask("HELLO", "3", "AUTH", user, password), Map)
    else:
        assert r.ask("AUTH", user, password) == "OK"
    return r


def words(line):
    import shlex
    return shlex.split(line)


def refused(r, lines, prefix="NOPERM", end=""):
    """Each is refused in words that name it, in step, and nothing else happens."""
    wrong = {}
    for line in lines.replace("\n", "|").strip("|").split("|"):
        r.send(encode("ECHO", "before"), encode(*words(line)), encode("GET", "acme:k"))
        assert r.reply() == b"before"
        answer = r.reply()
        if not (isinstance(answer, Error) and answer.startswith(prefix)
                and answer.endswith(end)):
            wrong[line] = answer
        assert r.reply() == b"of acme"
    assert not wrong


# The script.


def test_the_script_proves_that_its_users_are_kept_apart(own):
    for slug in ACL:
        said = organization(own, "check", slug)
        assert said.stdout == slug + ": kept apart\n", said.stderr


@pytest.mark.parametrize("rule, told", [
    ("+scan", "may: SCAN 0"), ("allkeys", "may: GET other:k"),
    ("allchannels", "may: PSUBSCRIBE *"), ("+flushall", "may: FLUSHALL"),
    ("-get", "may not: GET gamma:k"), ("off", "cannot log in")])
def test_the_script_finds_what_somebody_has_loosened(own, rule, told):
    assert organization(own, "apply", "gamma").returncode == 0
    assert organization(own, "check", "gamma").returncode == 0
    with contextlib.closing(own.connect()) as r:
        r.execute_command("ACL", "SETUSER", "gamma", rule)
    said = organization(own, "check", "gamma")
    assert said.returncode == 1 and told in said.stderr
    assert organization(own, "apply", "gamma").returncode == 0
    assert organization(own, "check", "gamma").returncode == 0, "apply replaces it all"


def test_the_script_takes_no_bad_slug_no_short_password_and_shows_no_secret(own):
    for slug in ("default", "a*", "a b", "", "x" * 101, "a\nb", "a:b"):
        assert organization(own, "apply", slug).returncode != 0, slug
    assert organization(own, "apply", "delta", "short").returncode == 1
    with contextlib.closing(own.connect()) as r:
        assert not set(r.acl_users()) - {"default", "acme", "beta", "gamma"}
    said = organization(own, "print", "acme")
    assert said.returncode == 0 and said.stdout.startswith("ACL SETUSER acme reset on #")
    assert ACL["acme"] not in said.stdout + said.stderr
    assert "-select" in said.stdout
    assert "-select" not in organization(own, "print", "acme", REDIS_DB="2").stdout


# Keys and channels: Redis's own ACL refuses these.


@pytest.mark.parametrize("proto", [2, 3])
def test_no_command_reads_or_writes_a_key_of_another_organization(apart, fill, proto):
    refused(client(apart, proto=proto), """
GET beta:secret|MGET acme:k beta:secret|SET beta:secret x|DEL beta:secret|UNLINK beta:secret
EXISTS beta:secret|TYPE beta:secret|TTL beta:secret|DUMP beta:secret|OBJECT ENCODING beta:secret
MEMORY USAGE beta:secret|STRLEN beta:secret|GETDEL beta:secret|GETEX beta:secret|APPEND beta:secret x
RENAME beta:secret acme:mine|RENAME acme:k beta:k|COPY beta:secret acme:mine|COPY acme:k beta:k
RESTORE beta:new 0 x|EXPIRE beta:secret 1|LRANGE beta:list 0 -1|LMOVE beta:list acme:list left left
HGETALL beta:hash|HSCAN beta:hash 0|SUNION beta:a acme:a|SINTERSTORE acme:a beta:a|PFMERGE acme:p beta:p
BITOP NOT acme:b beta:secret|XREAD STREAMS acme:s beta:stream 0 0|XINFO STREAM beta:stream
XREADGROUP GROUP g c STREAMS beta:stream >|XADD beta:stream * f v|GEOSEARCHSTORE acme:g beta:g frommember x byradius 1 m
ZUNIONSTORE acme:z 2 acme:y beta:z|LMPOP 2 acme:none beta:list left|TOUCH beta:secret
""")
    assert fill.get("beta:secret") == b"of beta" and not fill.exists("acme:mine", "beta:k")


def test_sort_by_and_get_patterns_reach_no_other_organization(apart):
    refused(client(apart), """SORT acme:list BY nosort GET beta:*|SORT_RO acme:list BY beta:* GET beta:*
SORT acme:list STORE beta:x|SORT beta:list""")


def test_no_script_reaches_another_organization_by_a_key_it_did_not_declare(apart, fill):
    r = client(apart)
    refused(r, """EVAL "return 1" 1 beta:secret|EVAL_RO "return 1" 1 beta:secret""")
    refused(r, """
EVAL "return redis.call('GET','beta:secret')" 0|EVAL "return redis.call('GET',ARGV[1])" 0 beta:secret
EVAL "return redis.call('SET','beta:secret','x')" 0|EVAL "return redis.call('SCAN',0)" 0
EVAL "return redis.call('KEYS','*')" 0|EVAL "return redis.call('RANDOMKEY')" 0
EVAL "return redis.call('DBSIZE')" 0|EVAL "return redis.call('SELECT',1)" 0
EVAL "return redis.call('FLUSHALL')" 0|EVAL "return redis.call('PUBLISH','beta:c','x')" 0
EVAL "return redis.call('SCRIPT','FLUSH')" 0|EVAL "return redis.call('CONFIG','GET','*')" 0
""", "ERR")
    sha = r.ask("SCRIPT", "LOAD", "return redis.call('GET','beta:secret')").decode()
    refused(r, "EVALSHA %s 0|EVALSHA_RO %s 0" % (sha, sha), "ERR")
    assert r.ask("EVAL", "return redis.call('GET',KEYS[1])", 1, "acme:k") == b"of acme"
    assert fill.get("beta:secret") == b"of beta"


def test_nothing_is_published_to_a_channel_of_another_organization(apart, fill):
    heard = fill.pubsub()
    heard.subscribe("beta:c")
    assert heard.get_message(timeout=5)["type"] == "subscribe"
    r = client(apart)
    refused(r, "PUBLISH beta:c x|SPUBLISH beta:c x")
    assert r.ask("PUBLISH", "acme:c", "x") == 0
    fill.publish("beta:c", "own")
    assert heard.get_message(timeout=5)["data"] == b"own"
    heard.close()


def test_no_channel_of_another_organization_is_listened_to(apart):
    refused(client(apart), "SUBSCRIBE beta:c|PSUBSCRIBE *|SSUBSCRIBE beta:c", "")


# What shows or reaches what is not one's own: weir refuses these.

PROBES = """
SCAN 0|SCAN 0 MATCH acme:*|scan 0 match *|RANDOMKEY|DBSIZE|KEYS *|KEYS acme:*|PUBSUB CHANNELS
pubsub numsub beta:c|PUBSUB NUMPAT|PUBSUB SHARDCHANNELS|PUBSUB SHARDNUMSUB|LASTSAVE|MOVE acme:k 1|MONITOR
CLIENT TRACKING ON BCAST|CLIENT CACHING YES|FUNCTION LIST|FUNCTION DUMP|SELECT 1|COPY acme:k acme:l DB 3
COPY acme:k acme:l REPLACE DB 3|copy acme:k acme:l db 00|COPY acme:k acme:l nonsense
"""
DANGERS = """
FLUSHALL|FLUSHDB ASYNC|CONFIG SET maxmemory 1|CONFIG GET *|CONFIG GET requirepass|CONFIG REWRITE|CONFIG RESETSTAT
DEBUG SLEEP 0|DEBUG SEGFAULT|SHUTDOWN NOSAVE|SAVE|BGSAVE|BGREWRITEAOF|SLAVEOF no one|REPLICAOF h 1|FAILOVER
SWAPDB 0 1|MIGRATE h 1 k 0 1|SLOWLOG GET|SLOWLOG RESET|LATENCY LATEST|LATENCY RESET|MEMORY STATS|MEMORY PURGE
MEMORY DOCTOR|MODULE LIST|MODULE LOAD /x|ACL LIST|ACL USERS|ACL LOG|ACL GETUSER beta|ACL SETUSER acme allkeys
ACL DELUSER beta|SCRIPT FLUSH|SCRIPT KILL|SCRIPT DEBUG YES|FUNCTION FLUSH|FUNCTION LOAD x|FUNCTION DELETE x
FUNCTION KILL|FUNCTION RESTORE x|CLIENT PAUSE 1000|CLIENT UNPAUSE|CLUSTER RESET|CLUSTER FAILOVER|KEYS *
RESTORE-ASKING k 0 x|PFDEBUG ENCODING k|PFSELFTEST
"""


@pytest.mark.parametrize("proto", [2, 3])
def test_what_shows_or_reaches_others_is_refused_to_an_organization(apart, proto):
    refused(client(apart, proto=proto), PROBES, "NOPERM", SHARED)


@pytest.mark.parametrize("proto", [2, 3])
def test_what_harms_everybody_is_refused_by_name(apart, proto):
    refused(client(apart, proto=proto), DANGERS, "NOPERM", SHARED)
    answer = client(apart).ask("CONFIG", "SET", "a", "b")
    assert answer == ("NOPERM this user has no permissions to run the 'config|set' "
                      "command " + SHARED)


def test_what_takes_the_connection_over_is_refused_to_all(apart):
    refused(client(apart), "SYNC|PSYNC ? -1|REPLCONF x y", "ERR weir: ", "is not supported")


def test_a_client_sees_and_ends_no_client_but_itself(apart):
    mine, other = client(apart), client(apart, "beta_app")
    other.ask("CLIENT", "SETNAME", "name-of-beta")
    for command in ("LIST", "INFO"):
        said = mine.ask("CLIENT", command)
        assert said.count(b"\n") == 1 and b"name-of-beta" not in said and b"beta" not in said
    number = other.ask("CLIENT", "ID")
    for end in [("KILL", "ID", number), ("KILL", "TYPE", "normal"), ("KILL", "TYPE", "pubsub"),
                ("KILL", "USER", "beta"), ("UNBLOCK", number)]:
        done = mine.ask("CLIENT", *end)
        assert done == 0 or isinstance(done, Error), end
    assert other.ask("GET", "beta:secret") == b"of beta"


@pytest.mark.parametrize("proto", [2, 3])
def test_info_tells_an_organization_what_clients_need_and_nothing_of_others(apart, proto):
    r = client(apart, proto=proto)
    said = r.ask("INFO").decode()
    for need in ("redis_version:7.", "loading:0", "arch_bits:", "role:master",
                 "redis_mode:standalone", "cluster_enabled:0"):
        assert need in said
    for section in ("INFO", "INFO keyspace", "INFO clients", "INFO everything",
                    "INFO commandstats", "INFO server keyspace"):
        said = r.ask(*section.split()).decode()
        assert "db0" not in said and "clients" not in said and "cmdstat" not in said
    assert r.ask("INFO", "persistence").decode().count("# ") == 1
    assert r.ask("ACL", "WHOAMI") == b"acme_app"


def test_config_get_tells_only_what_clients_ask_before_they_start(weir, own, fill):
    w = weir({"redis main": {"url": "redis://:%s@127.0.0.1:%d" % (own.password, own.port)}})
    r = client(w)
    assert r.ask("CONFIG", "GET", "save") == [b"save", b""]
    refused(r, "CONFIG GET requirepass|CONFIG GET save requirepass|CONFIG GET *", end=SHARED)


def test_a_client_without_an_organization_may_look_around_but_harm_nobody(apart):
    r = apart.resp()
    assert sorted(r.ask("SCAN", "0")[1])[0] == b"acme:k" and r.ask("DBSIZE") == 6
    assert r.ask("PUBSUB", "NUMPAT") == 0 and r.ask("SELECT", "1") == "OK"
    assert r.ask("SELECT", "0") == "OK"
    refused(r, DANGERS, "NOPERM", SHARED)


def test_profile_dedicated_lets_pass_what_can_be_carried(weir, own, fill):
    w = weir(config(own, **{
        "redis main": {"url": "redis://:%s@127.0.0.1:%d" % (own.password, own.port),
                       "profile": "dedicated"},
        "organization acme": {"redis_user": None}, "organization beta": None,
        "user beta_app": None}))
    r = client(w)
    assert r.ask("DBSIZE") == 6 and len(r.ask("KEYS", "*")) == 6
    assert b"acme:k" in r.ask("SCAN", "0", "COUNT", "100")[1]
    assert r.ask("CONFIG", "GET", "maxmemory-policy")[0] == b"maxmemory-policy"
    assert r.ask("CONFIG", "SET", "maxmemory-samples", "5") == "OK"
    assert b"# Keyspace" in r.ask("INFO", "keyspace") and r.ask("LATENCY", "RESET") == 0
    assert r.ask("SLOWLOG", "RESET") == "OK" and r.ask("SCRIPT", "FLUSH") == "OK"
    assert r.ask("FUNCTION", "LIST") == [] and r.ask("CLIENT", "UNPAUSE") == "OK"
    assert r.ask("COPY", "acme:k", "acme:l", "DB", "3") == 1
    assert r.ask("SELECT", "3") == "OK" and r.ask("GET", "acme:l") == b"of acme"
    assert r.ask("FLUSHALL") == "OK" and r.ask("SELECT", "0") == "OK" and r.ask("DBSIZE") == 0
    for line in ("SYNC", "SCRIPT DEBUG YES"):
        assert r.ask(*line.split()).startswith("ERR weir: " + line[:11])
    assert r.ask("PING") == "PONG"


# Who somebody is.

AGREE = {
    "its user's dot": ("svc.acme", "svc-secret", None, "acme"),
    "the host": ("svc", "svc-secret", "acme.weir.test", "acme"),
    "the host in capitals": ("svc.beta", "svc-secret", "BETA.Weir.Test", "beta"),
    "both": ("svc.beta", "svc-secret", "beta.weir.test", "beta"),
    "fixed": ("acme_app", "acme-secret", None, "acme"),
    "fixed, and said": ("acme_app.acme", "acme-secret", "acme.weir.test", "acme"),
    "another host": ("acme_app", "acme-secret", "localhost", "acme"),
}
DISAGREE = {
    "unknown": ("svc.nosuch", "svc-secret", None),
    "nothing behind the dot": ("svc.", "svc-secret", None),
    "an unknown host": ("svc", "svc-secret", "nosuch.weir.test"),
    "dot and host": ("svc.acme", "svc-secret", "beta.weir.test"),
    "fixed and dot": ("acme_app.beta", "acme-secret", None),
    "fixed and host": ("acme_app", "acme-secret", "beta.weir.test"),
    "not allowed any": ("plain_app.acme", "plain-secret", None),
}


@pytest.mark.parametrize("how", AGREE)
def test_an_organization_is_named_by_its_user_or_its_host(apart, how):
    user, password, host, slug = AGREE[how]
    other = {"acme": "beta", "beta": "acme"}[slug]
    for proto in 2, 3:
        r = client(apart, user, password, proto, host)
        assert r.ask("SET", slug + ":mine", "v") == "OK"
        assert r.ask("GET", other + ":k").startswith("NOPERM")


@pytest.mark.parametrize("how", DISAGREE)
def test_names_that_do_not_agree_are_refused_counted_and_logged(apart, how):
    user, password, host = DISAGREE[how]
    counter = 'weir_organization_refused_total{at="login"}'
    before, at = apart.metrics()[counter], len(apart.log())
    r = apart.keep(respwire.Resp(
        apart.ports["redis_tls"] if host else apart.redis_port, timeout=scaled(20),
        tls=apart.tls_context(check_hostname=False) if host else None,
        name=host or "localhost"))
    assert r.ask("AUTH", user, password) == REFUSED
    assert r.ask("HELLO", "3", "AUTH", user, password) == REFUSED
    assert r.ask("GET", "acme:k") == "NOAUTH Authentication required."
    assert r.ask("AUTH", user, "wrong").startswith("WRONGPASS invalid")
    assert apart.metrics()[counter] == before + 2

    def told():
        return [e for e in apart.events("refuse", at) if e.get("why") == "NO_TENANT"]
    wait_for(lambda: len(told()) == 2, 5, "not logged once each")
    assert told()[0]["user"] == user.rsplit(".", 1)[0]


def test_a_new_login_changes_the_organization_in_step_with_the_replies(apart_on_4):
    r = client(apart_on_4)
    for _ in range(20):
        r.send(encode("GET", "acme:k"), encode("GET", "beta:secret"),
               encode("AUTH", "beta_app", "beta-secret"), encode("GET", "acme:k"),
               encode("GET", "beta:secret"), encode("ACL", "WHOAMI"),
               encode("HELLO", "3", "AUTH", "svc.acme", "svc-secret"),
               encode("GET", "acme:k"), encode("GET", "beta:secret"),
               encode("HELLO", "2"), encode("AUTH", "acme_app", "wrong"),
               encode("GET", "acme:k"), encode("AUTH", "acme_app", "acme-secret"))
        got = r.replies(13)
        assert got[0] == b"of acme" and got[1].startswith("NOPERM")
        assert got[2] == "OK" and got[3].startswith("NOPERM") and got[4:6] == [b"of beta", b"beta_app"]
        assert isinstance(got[6], Map) and got[7] == b"of acme" and got[8].startswith("NOPERM")
        assert got[10].startswith("WRONGPASS") and got[11:] == [b"of acme", "OK"]


def test_a_database_selected_before_a_login_is_left_by_it(apart):
    r = apart.resp()
    assert r.ask("SELECT", "5") == "OK"
    assert r.ask("AUTH", "acme_app", "acme-secret") == "OK"
    assert r.ask("GET", "acme:k") == b"of acme"
    assert r.ask("SELECT", "5").endswith(SHARED) and r.ask("SELECT", "0") == "OK"
    assert r.ask("AUTH", REDIS_PASSWORD) == "OK" and r.ask("SELECT", "5") == "OK"
    assert r.ask("AUTH", REDIS_PASSWORD) == "OK" and r.ask("GET", "acme:k") is None


# Connections.


def test_two_acl_users_never_share_a_connection(apart_on_4, own):
    w = apart_on_4
    mine, other, all_ = client(w), client(w, "beta_app", proto=3), w.resp()
    for r in (mine, other, all_):
        r.send(*[encode("PUBLISH", "none", i) if r is all_ else encode("GET", "x:%d" % i)
                 for i in range(200)])
    for r in (mine, other, all_):
        got = r.replies(200)
        assert got == [0] * 200 if r is all_ else all(x.startswith("NOPERM") for x in got)
    users = {c["user"] for c in own.clients()}
    assert users == {"acme", "beta", "default"}


def test_a_new_acl_user_and_password_take_effect_on_reload(weir, own, fill):
    w = weir(config(own))
    old = client(w)
    assert old.ask("GET", "acme:k") == b"of acme"
    fill.execute_command("ACL", "SETUSER", "acme2", "on", ">second-password", "~acme:*", "+@all")
    fill.execute_command("ACL", "SETUSER", "beta", ">new-password-of-beta", "<" + ACL["beta"])
    w.reload({"organization acme": {"redis_user": "acme2", "redis_password": "second-password"},
              "organization beta": {"redis_password": "new-password-of-beta"}})
    try:
        new, other = client(w), client(w, "beta_app")
        assert new.ask("GET", "acme:k") == b"of acme" and new.ask("DBSIZE").endswith(SHARED)
        assert other.ask("GET", "beta:secret") == b"of beta"
        assert "acme2" in {c["user"] for c in own.clients()}
        # Who was there before goes on as who it was, or must come again.
        assert old.ask("GET", "acme:k") == b"of acme"
        fill.execute_command("ACL", "DELUSER", "acme")
        with pytest.raises(Closed):
            while True:
                assert isinstance(old.ask("GET", "acme:k"), Error)
        assert client(w).ask("GET", "acme:k") == b"of acme"
    finally:
        organization(own, "apply", "acme")
        organization(own, "apply", "beta")


def test_a_warning_tells_of_organizations_that_nothing_keeps_apart(weir, own):
    text = "2 organizations share the user default of [redis main]"
    w = weir({"redis main": {"url": "redis://:%s@127.0.0.1:%d" % (own.password, own.port)}})
    assert any(text in e.get("warning", "") for e in w.event("config"))
    w = weir(config(own))
    assert not any(text in e.get("warning", "") for e in w.events("config"))
