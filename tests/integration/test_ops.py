"""
Goal:   the person who runs weir is told the truth: by exit codes, by one line
        per event, by /healthz, /readyz and /metrics; and neither a deploy nor a
        reload loses anything.
Method: the binary as an operator meets it: good and bad files, signals while
        clients work, HTTP.
"""
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

import pgwire
import weirproc
from canary import Canary
from pgwire import errors, kinds, query, status, tags
from respwire import Closed as RespClosed
from servers import (DATABASE, REDIS_PASSWORD, USERS, accepts, free_port, scaled,
                     wait_for)

pytestmark = pytest.mark.weir_only


# The command line.


@pytest.fixture
def run(binary, tmp_path):
    def run(*args, config=None):
        if config is not None:
            file = tmp_path / "weir.ini"
            file.write_text(config if isinstance(config, str) else weirproc.ini(config))
            args += ("-c", str(file))
        return subprocess.run([binary, *args], capture_output=True, text=True,
                              cwd=tmp_path, timeout=scaled(15))
    return run


@pytest.fixture
def good(base):
    return weirproc.merged(base, {"weir": {
        kind + "_listen": "127.0.0.1:%d" % free_port()
        for kind in ("postgres", "redis", "redis_tls", "admin")}})


def test_version_and_help(run):
    version, usage = run("-V"), run("-h")
    assert version.returncode == 0 and version.stdout.startswith("weir ")
    assert len(version.stdout.splitlines()) == 1
    assert usage.returncode == 0
    for option in ("-c", "-t", "-V", "-h"):
        assert option in usage.stdout
    assert run("-x").returncode == 2


def test_a_good_file_is_good(run, good):
    said = run("-t", config=good)
    assert said.returncode == 0, said.stderr


def test_a_bad_file_has_all_its_errors_told_at_once(run, good, tmp_path):
    bad = weirproc.merged(good, {
        "weir": {"workers": "many", "no_such_key": "1", "max_client_conn": "-1"},
        "postgres main": {"port": "99999", "sslmode": "maybe"},
        "user acme_app": {"organization": "nobody"},
        "database x": {"postgres": "absent"},
        "variables": {"app.x": "%{organization.shoe_size}"}, "nonsense": {"a": "b"}})
    said = run("-t", config=bad)
    assert said.returncode == 2
    text = (tmp_path / "weir.ini").read_text().splitlines()
    lines = (said.stderr + said.stdout).splitlines()
    wrong = {"workers": "many", "no_such_key": "1", "max_client_conn": "-1",
             "port": "99999", "sslmode": "maybe", "organization": "nobody",
             "postgres": "absent", "app.x": "%{organization.shoe_size}"}
    for key, value in wrong.items():
        place = text.index("%s = %s" % (key, value)) + 1
        assert any(re.search(r"weir\.ini:%d: ." % place, line) for line in lines), \
            "line %d, %s: %s" % (place, key, "\n".join(lines))
    assert any(re.search("nonsense", line) for line in lines)
    # Without -t the same, and nothing is started.
    again = run(config=bad)
    assert again.returncode == 2 and "no_such_key" in again.stderr


@pytest.mark.parametrize("config", ["", "[weir]\n", "[weir\n", "key = 1\n", "\0\1\2"])
def test_an_empty_or_broken_file_does_not_start(run, config):
    said = run("-t", config=config)
    assert said.returncode == 2 and "weir.ini" in said.stderr + said.stdout


def test_a_file_that_is_missing_is_named(run):
    said = run("-c", "no-such-file.ini")
    assert said.returncode == 2 and "no-such-file.ini" in said.stderr


def test_environment_and_files_are_taken_into_values(run, good, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("from-a-file\nsecond line\n")
    monkeypatch.setenv("WEIR_TEST_SECRET", "from-the-environment")
    config = weirproc.merged(good, {
        "user acme_app": {"password": "@" + str(secret)},
        "user beta_app": {"password": "${WEIR_TEST_SECRET}"}})
    assert run("-t", config=config).returncode == 0
    monkeypatch.delenv("WEIR_TEST_SECRET")
    secret.unlink()
    said = run("-t", config=config)
    assert said.returncode == 2
    assert "WEIR_TEST_SECRET" in said.stderr and str(secret) in said.stderr


def test_a_secret_of_a_file_is_the_first_line(weir, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(USERS["acme_app"][1] + "\nsecond line\n")
    w = weir({"user acme_app": {"password": "@" + str(secret)}})
    assert w.wire().value("SELECT 1") == "1"


# Starting.


@pytest.mark.parametrize("kind", ["postgres", "redis", "redis_tls", "admin"])
def test_a_port_that_is_taken_is_told_in_one_line(run, good, kind):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = "127.0.0.1:%d" % other.getsockname()[1]
        said = run(config=weirproc.merged(good, {"weir": {kind + "_listen": address}}))
    assert said.returncode not in (0, None) and said.returncode > 0
    lines = [x for x in said.stderr.splitlines() if address in x]
    assert len(lines) == 1 and "in use" in lines[0], said.stderr


def test_a_second_weir_does_not_share_the_ports_of_the_first(weir, run):
    """SO_REUSEPORT would let it take half of the connections, unnoticed."""
    w = weir({}, 4)
    said = run(config=w.config)
    assert said.returncode > 0 and "in use" in said.stderr
    assert w.wire().value("SELECT 1") == "1"


@pytest.mark.parametrize("key", ["cert_file", "key_file", "ca_file"])
@pytest.mark.parametrize("what", ["missing", "garbage"])
def test_a_certificate_that_is_missing_or_garbage_is_named(run, good, tmp_path, key, what):
    path = str(tmp_path / "no-such.pem")
    if what == "garbage":
        with open(path, "w") as f:
            f.write("this is no certificate\n")
    mode = "verify-ca" if key == "ca_file" else "allow"
    said = run(config=weirproc.merged(good, {"tls": {key: path, "client_mode": mode}}))
    assert said.returncode > 0
    lines = [x for x in said.stderr.splitlines() if "warning" not in x and path in x]
    assert len(lines) == 1, said.stderr


def test_a_key_of_another_certificate_is_told(run, good, authority):
    other = authority.issue("mismatch")
    said = run(config=weirproc.merged(good, {"tls": {"key_file": other[1]}}))
    assert said.returncode > 0 and other[1] in said.stderr


def test_it_listens_on_several_addresses_and_unix_sockets(weir, folder):
    path = os.path.join(folder, "listen-%d" % free_port())
    ports = [free_port(), free_port()]
    w = weir({"weir": {"postgres_listen": "127.0.0.1:%d, 127.0.0.2:%d, unix:%s" % (
        *ports, path)}})
    assert w.wire().value("SELECT 1") == "1"
    with pgwire.Wire(ports[1], host="127.0.0.2") as wire:
        wire.login("acme_app", DATABASE, USERS["acme_app"][1])
        assert wire.value("SELECT 2") == "2"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
        s.settimeout(scaled(20))
        s.connect(path)
        s.sendall(pgwire.startup("open_app", DATABASE))
        assert s.recv(1) == b"R"


# Stopping.


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_lets_transactions_finish_and_sends_idle_clients_home(
        weir, workers, pg, sig):
    pg.run("CREATE TABLE IF NOT EXISTS scratch.drained (x int)")
    pg.run("TRUNCATE scratch.drained")
    pg.run("GRANT ALL ON scratch.drained TO PUBLIC")
    w = weir({}, workers)
    idle, busy, asking = w.wire(), w.wire(), w.wire()
    redis_idle = w.resp()
    busy.run(query("BEGIN"))
    busy.run(query("INSERT INTO scratch.drained VALUES (1)"))
    asking.send(query("SELECT pg_sleep(1), 'answered'"))
    wait_for(lambda: pg.run("SELECT 1 FROM pg_stat_activity WHERE state = 'active'"
                            " AND query = $$SELECT pg_sleep(1), 'answered'$$"),
             what="the query does not arrive")
    w.signal(sig)

    goodbye = errors(idle.until_closed())
    assert [e["C"] for e in goodbye] == ["57P01"]
    with pytest.raises(RespClosed):
        redis_idle.reply()
    wait_for(lambda: not accepts(w.pg_port), what="it still accepts")
    assert status(busy.run(query("INSERT INTO scratch.drained VALUES (2)"))) == "T"
    assert w.alive()
    assert tags(busy.run(query("COMMIT"))) == ["COMMIT"]
    assert pgwire.rows(asking.until("Z"))[0][1] == "answered"
    assert kinds(asking.until_closed()) in ("", "E")
    assert w.wait() == 0
    w.over = True
    assert pg.run("SELECT count(*) FROM scratch.drained") == [(2,)]
    assert w.event("drain") and w.event("stop")


def test_redis_replies_that_are_due_go_out_before_it_stops(weir, rd, relay):
    line = relay(rd.port)
    w = weir({"redis main": {"url": "redis://:%s@127.0.0.1:%d" % (rd.password, line.port)}})
    r = w.resp()
    assert r.ask("SET", "k", "v") == "OK"
    line.delay, asked = 0.5, []
    line.rewrite = lambda data: asked.append(data) or data
    r.send(b"GET k\r\n" * 3)
    wait_for(lambda: b"".join(asked).count(b"GET") == 3, what="it is not asked")
    w.signal(signal.SIGTERM)
    assert r.replies(3) == [b"v"] * 3
    with pytest.raises(RespClosed):
        r.reply()
    assert w.wait() == 0
    w.over = True


def test_drain_timeout_ends_who_does_not_finish(weir, workers):
    w = weir({"weir": {"drain_timeout": 1}}, workers)
    wire = w.wire()
    wire.run(query("BEGIN"))
    start = time.monotonic()
    w.signal(signal.SIGTERM)
    assert w.wait() == 0
    w.over = True
    assert 0.8 < time.monotonic() - start
    assert [e["C"] for e in errors(wire.until_closed())] in (["57P01"], [])


def test_a_second_signal_does_not_wait(weir):
    w = weir({"weir": {"drain_timeout": 60}})
    wire = w.wire()
    wire.run(query("BEGIN"))
    w.signal(signal.SIGTERM)
    wait_for(lambda: w.events("drain"), what="it does not drain")
    time.sleep(0.3)
    assert w.alive()
    w.signal(signal.SIGTERM)
    w.wait()
    w.over = True


def test_it_stops_under_load_and_every_commit_it_told_is_there(weir, workers, pg):
    pg.run("CREATE TABLE IF NOT EXISTS scratch.drained (x int)")
    pg.run("TRUNCATE scratch.drained")
    pg.run("GRANT ALL ON scratch.drained TO PUBLIC")
    w = weir({}, workers)
    done, strange = [], []

    def work(n):
        try:
            wire = w.wire()
            while True:
                n += 100
                wire.rows(query("BEGIN"))
                wire.rows(query("INSERT INTO scratch.drained VALUES (%d)" % n))
                wire.rows(query("COMMIT"))
                done.append(n)
        except pgwire.Failed as e:
            if e.code != "57P01":
                strange.append(str(e))
        except (pgwire.Closed, OSError):
            pass
    threads = [threading.Thread(target=work, args=[n]) for n in range(20)]
    for t in threads:
        t.start()
    wait_for(lambda: len(done) > 50 or strange, what="nothing is done")
    w.signal(signal.SIGTERM)
    assert w.wait() == 0
    w.over = True
    for t in threads:
        t.join()
    assert not strange and len(done) > 20
    assert set(done) <= {x for x, in pg.run("SELECT x FROM scratch.drained")}


# Reloading.


def logs_in(w, user, password):
    with w.wire(login=False) as wire:
        try:
            return wire.login(user, DATABASE, password)
        except pgwire.Failed as e:
            assert e.code == "28P01"


def test_reload_brings_users_and_takes_them_away(weir, workers):
    w = weir({}, workers)
    old = w.wire("acme_app")
    with Canary(w):
        w.reload({"user new_app": {"auth": "scram-sha-256", "password": "new-secret"},
                  "user beta_app": None, "user plain_app": {"password": "changed"}})
        for _ in range(2 * workers):        # event=reload: on whichever worker
            assert logs_in(w, "new_app", "new-secret")
            assert not logs_in(w, "beta_app", USERS["beta_app"][1])
            assert not logs_in(w, "plain_app", USERS["plain_app"][1])
            assert logs_in(w, "plain_app", "changed")
    assert old.value("SELECT 'still here'") == "still here"


def concurrently(w, n):
    """How many of n sleeping queries ran at once, as the servers' ids tell."""
    wires = [w.wire() for _ in range(n)]
    for wire in wires:
        wire.send(query("SELECT pg_sleep(0.3), pg_backend_pid()"))
    return len({pgwire.rows(wire.until("Z"))[0][1] for wire in wires})


def test_reload_changes_the_size_of_a_pool(weir, workers):
    w = weir({"postgres main": {"pool_size": 1}}, workers)
    assert concurrently(w, 4) == 1
    w.reload({"postgres main": {"pool_size": 4}})

    def all_four():
        n = concurrently(w, 8)
        assert n <= 4
        return n >= 3
    wait_for(all_four, what="the pool did not grow")
    w.reload({"postgres main": {"pool_size": 2}})
    wait_for(lambda: concurrently(w, 6) <= 2, what="the pool did not shrink")
    assert concurrently(w, 6) <= 2, "the pool grew again"


def serial(w):
    with socket.create_connection(("127.0.0.1", w.pg_port), 5) as s:
        s.sendall(pgwire.ssl_request())
        assert s.recv(1) == b"S"
        with w.tls_context().wrap_socket(s, server_hostname="localhost") as t:
            return t.getpeercert()["serialNumber"]


def test_reload_brings_a_new_certificate_under_the_same_name(weir, workers, authority,
                                                             tmp_path):
    crt, key = str(tmp_path / "c.pem"), str(tmp_path / "k.pem")

    def install(name):
        a, b = authority.issue(name)
        shutil.copy(a, crt), shutil.copy(b, key)
    install("first")
    w = weir({"tls": {"cert_file": crt, "key_file": key}}, workers)
    first, old = serial(w), w.wire(tls=True)
    install("second")
    w.reload()
    assert first not in {serial(w) for _ in range(2 * workers)}, "still the old certificate"
    assert old.value("SELECT repeat('x', 50000)") == "x" * 50000
    with open(crt, "w") as f:
        f.write("garbage")
    second = serial(w)
    w.reload()
    assert serial(w) == second, "a bad certificate took the place of a good one"
    wait_for(lambda: any(e["level"] == "error" for e in
                         w.events("config") + w.events("reload")), 5, "no error told")


def test_a_bad_file_is_told_and_changes_nothing(weir, workers):
    w = weir({}, workers)
    before = w.config
    with Canary(w):
        w.reload(config=weirproc.merged(before, {
            "weir": {"workers": "many", "no_such_key": "1"}, "user acme_app": None}))
        bad = wait_for(lambda: [e for e in w.events("config") + w.events("reload")
                                if e["level"] == "error"], 5, "no error told")
        assert any("no_such_key" in e["line"] for e in bad)
        assert w.wire("acme_app").value("SELECT 1") == "1"
        w.reload(config=before)
    assert w.wire("acme_app").value("SELECT 1") == "1"


def test_many_reloads_under_load_disturb_nobody(weir, workers):
    w = weir({}, workers)
    with Canary(w), Canary(w, rest=0):
        for n in range(12):
            w.reload({"postgres main": {"pool_size": 1 + n % 4},
                      "user extra_%d" % n: {"auth": "trust"}})
    assert w.wire("extra_11", login=True).value("SELECT 1") == "1"


# What it tells.


def test_health_and_readiness(weir, pg, relay):
    line = relay(pg.port)
    w = weir({"postgres main": {"port": line.port}})
    assert w.http("/healthz")[0] == 200
    assert w.http("/readyz")[0] == 200
    line.stop()
    with contextlib.suppress(pgwire.Failed, pgwire.Closed):
        w.wire().value("SELECT 1")
    assert w.http("/healthz")[0] == 200, "alive is alive, whatever is behind it"
    assert w.http("/nothing")[0] == 404


def test_not_ready_while_it_drains(weir):
    w = weir()
    wire = w.wire()
    wire.run(query("BEGIN"))
    w.signal(signal.SIGTERM)
    wait_for(lambda: w.http("/readyz")[0] == 503, 5, "/readyz still says yes")
    assert w.http("/healthz")[0] == 200
    wire.run(query("COMMIT"))
    assert w.wait() == 0
    w.over = True


def test_metrics_are_what_prometheus_reads_and_count_what_happened(weir, workers):
    w = weir({}, workers)
    wait_for(lambda: w.metric("clients_accepted_total", "postgres") == w.knocked)
    w.settled()
    before = w.metrics()
    text = w.http("/metrics")[1]
    named = set(re.findall(r"^# TYPE (\S+) (?:counter|gauge|histogram)$", text, re.M))
    assert set(re.findall(r"^# HELP (\S+) \S", text, re.M)) == named
    assert all(re.fullmatch(r'weir_[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+', x)
               for x in text.splitlines() if x[0] != "#")
    wire, resp = w.wire(), w.resp()
    for _ in range(10):
        wire.value("SELECT repeat('x', 1000)")
        resp.ask("SET", "k", "v")
        resp.ask("PING")
    with pytest.raises(pgwire.Failed):
        w.wire(login=False).login("acme_app", DATABASE, "wrong")
    after = w.metrics()

    def grew(name):
        return after[name] - before[name]
    pg, redis = '{proto="postgres"}', '{proto="redis"}'
    assert after["weir_clients" + pg] in (1, 2) and after["weir_clients" + redis] == 1
    assert grew("weir_clients_accepted_total" + pg) == 2
    assert grew("weir_client_logins_total" + pg) == 1
    assert grew("weir_client_logins_total" + redis) == 1
    assert grew("weir_clients_refused_total" + pg) == 1
    assert after["weir_servers" + pg] == 1
    assert after["weir_servers_idle" + pg] == 1
    assert grew("weir_queries_total") == 10 and grew("weir_transactions_total") == 10
    assert grew("weir_redis_commands_total") == 10
    assert grew("weir_redis_commands_local_total") >= 10
    assert grew("weir_client_sent_bytes_total") > 10_000
    assert grew("weir_server_received_bytes_total") > 10_000
    assert after["weir_clients_waiting" + pg] == 0


LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (error|warn|info|debug) "
                  r"([a-z_]+=(\"([^\"\\]|\\.)*\"|[^\s\"]*) ?)+")


def test_each_event_is_one_line_of_the_one_form(weir, workers):
    w = weir({"weir": {"log_level": "debug"}}, workers)
    w.wire().value("SELECT 1")
    w.resp().ask("SET", "k", "v")
    hostile = 'x" event=start\n2026-01-01T00:00:00.000Z error forged=1 \x1b[31m'
    for _ in range(2):
        with contextlib.suppress(pgwire.Failed, pgwire.Closed):
            w.wire(login=False).login(hostile, hostile, "wrong")
        w.resp(login=False).ask("AUTH", hostile, "wrong")
    w.reload()
    w.hang_up()
    w.finish()
    lines = [x for x in w.log() if not x.startswith("warning: ")]   # of the file
    bad = [x for x in lines if not LINE.fullmatch(x) or x.count(" event=") != 1
           and "\\" not in x]
    assert not bad, bad[:3]
    assert not any(x.startswith("2026-01-01") or "\x1b" in x for x in lines)
    for event in ("start", "listen", "login", "refuse", "close", "server-open",
                  "reload", "drain", "stop"):
        assert w.events(event), event
    refused = [x for x in w.events("refuse") if x["proto"] == "postgres"]
    assert refused[0]["why"] == "BAD_AUTH" and refused[0]["session"]


def test_json_lines_are_json(weir):
    import json
    w = weir({"weir": {"log_format": "json"}})
    w.wire().value("SELECT 1")
    w.hang_up()
    w.finish()
    events = [json.loads(line)["event"] for line in w.log() if line[0] == "{"]
    assert {"start", "login", "close", "stop"} <= set(events)


def test_log_level_error_is_quiet(weir):
    w = weir({"weir": {"log_level": "error"}})
    w.wire().value("SELECT 1")
    assert w.resp().ask("AUTH", REDIS_PASSWORD) == "OK"
    assert [x for x in w.log() if not x.startswith("warning: ")] == []
