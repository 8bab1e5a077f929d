"""
The suite's frame: private servers once, a weir per module or per test.

Run it with `/usr/bin/python3 -m pytest tests/integration`.  Environment:
    WEIR=path       the binary (default build/plain/weir); `direct` runs what
                    also holds without a proxy against PostgreSQL and Redis
    WEIR_SAN=1      it is a sanitizer build: longer timeouts, no memory bounds
                    (assumed when the path says address or thread)
    WEIR_HALF_OPEN  how many half-open connections (2000)
    WEIR_SLOW_MB    megabytes a slow reader does not read (200)
    WEIR_SOAK=1     what known bugs have taught, for longer
    WEIR_LEAK=45    seconds of random clients (test_leak.py; make soak)
    WEIR_STORM=600  seconds of 200 Redis clients (test_redis_storm.py; make soak)
    WEIR_CHAOS=600  seconds of random PostgreSQL clients each way (test_chaos.py), with WEIR_SOAK
    WEIR_SEED       what they do, to have the same again
    WEIR_KEEP=1     keep the temporary folder
"""
import os
import re
import shutil
import signal
import sys
import threading

import pytest

sys.dont_write_bytecode = not sys.pycache_prefix      # run.sh says where it may lie
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BINARY = os.environ.get("WEIR") or os.path.join(ROOT, "build/plain/weir")
DIRECT = BINARY == "direct"
SAN = bool(os.environ.get("WEIR_SAN")
           or re.search("address|thread|undefined", os.path.dirname(BINARY)))

import drivers                                              # noqa: E402
import servers                                              # noqa: E402
import weirproc                                             # noqa: E402

servers.SCALE = 4.0 if SAN else 1.0
TEST_SECONDS = 300
# What takes longest, so that no worker is left with it when the others are done.
FIRST = ["test_leak", "test_tenant", "test_redis_cluster", "test_redis_clients", "test_switch",
         "test_pg", "test_hostile", "test_track"]           # the rest as they come
TOOLS = ["postgres", "initdb", "redis-server", "openssl"]


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "weir_only: not true of the servers themselves (WEIR=direct)")
    config.addinivalue_line(
        "markers", "weir_gap(reason): of real drivers, what weir is known to lack")
    if not DIRECT and not os.access(BINARY, os.X_OK):
        pytest.exit("no binary at %s: run make, or set WEIR" % BINARY, 2)


def pytest_collection_modifyitems(items):
    def place(item):
        name = item.module.__name__
        return FIRST.index(name) if name in FIRST else len(FIRST)
    items.sort(key=place)
    for item in items:
        if DIRECT and item.get_closest_marker("weir_only"):
            item.add_marker(pytest.mark.skip(reason="needs weir"))
        gap = item.get_closest_marker("weir_gap")
        if gap and item.callspec.params["way"] != "direct":
            item.add_marker(pytest.mark.xfail(strict=True, reason=gap.args[0]))


def missing():
    return [tool for tool in TOOLS if not servers.find_tool(tool)]


def pytest_terminal_summary(terminalreporter):
    if missing():
        terminalreporter.section("INTEGRATION TESTS WERE NOT RUN", "!")
        terminalreporter.line("missing: %s" % ", ".join(missing()))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """No test may hang the suite."""
    def late(*_):
        raise TimeoutError("the test took longer than %d s" % limit)
    limit = int(servers.scaled(TEST_SECONDS))
    # On a busy machine execnet may run pytest in another thread, which may not
    # choose what the signal does: there it ends the process.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, late)
    signal.alarm(limit)
    yield
    signal.alarm(0)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what weir had to say."""
    report = (yield).get_result()
    if report.failed:
        item.has_failed = True
        for name in ("proxy", "one_server", "weir", "way"):
            for w in getattr(item.funcargs.get(name), "running",
                             [item.funcargs.get(name)]):
                if hasattr(w, "log_file") and os.path.exists(w.log_file):
                    w.process.poll()
                    report.sections.append(("weir's log, %s, exit status %s" % (
                        w.folder, w.process.returncode), w.tail(40)))


# Servers, once for all.


@pytest.fixture(scope="session")
def folder():
    if missing():
        pytest.skip("missing: " + ", ".join(missing()))
    path = servers.private_folder()
    yield path
    if not os.environ.get("WEIR_KEEP"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def authority(folder):
    return servers.Authority(folder, "authority")


@pytest.fixture(scope="session")
def certificate(authority):
    return authority.issue("weir")


@pytest.fixture(scope="session")
def pg(folder, authority):
    server = servers.Postgres(folder, authority)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def rd(folder, authority):
    server = servers.Redis(folder, authority)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def base(pg, rd, authority, certificate):
    if DIRECT:
        weirproc.Direct.prepare(pg, rd)
    return weirproc.default_config(pg, rd, certificate, authority.crt)


@pytest.fixture
def relay():
    """relay(port): a servers.Relay to it, stopped when the test is over."""
    made = []

    def make(port, **options):
        made.append(servers.Relay(port, **options))
        return made[-1]
    yield make
    for r in made:
        r.stop()


# weir.


class Factory:
    """weir(changes, workers=1): another one, judged when the test is over."""

    def __init__(self, folder, base, authority, pg, rd):
        self.folder, self.base, self.ca = folder, base, authority.crt
        self.pg, self.rd, self.running = pg, rd, []

    def new_folder(self):
        n = 1
        while os.path.exists(os.path.join(self.folder, "weir-%d" % n)):
            n += 1
        path = os.path.join(self.folder, "weir-%d" % n)
        os.mkdir(path)
        return path

    def config(self, changes=None, workers=1):
        config = weirproc.merged(self.base, {"weir": {"workers": workers}})
        return weirproc.merged(config, changes)

    def __call__(self, changes=None, workers=1, **options):
        if DIRECT:
            w = weirproc.Direct(self.pg, self.rd, self.ca)
        else:
            w = weirproc.Weir(BINARY, self.new_folder(),
                              self.config(changes, workers), self.ca, **options)
        self.running.append(w)
        return w

    def finish(self):
        failed, running, self.running = None, self.running, []
        for w in running:
            try:
                w.finish()
            except BaseException as e:
                failed = failed or e
                w.kill()
        if failed:
            raise failed


@pytest.fixture
def weir(folder, base, authority, pg, rd):
    factory = Factory(folder, base, authority, pg, rd)
    yield factory
    factory.finish()


@pytest.fixture(scope="module", params=[1] if DIRECT else [1, 4],
                ids="{}workers".format)
def workers(request):
    return request.param


@pytest.fixture(scope="module")
def shared(folder, base, authority, pg, rd, workers, request):
    """The weirs of a module, by kind."""
    module = getattr(request.module, "CONFIG", {})
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = Factory(folder, base, authority, pg, rd)
        if not made[kind].running:
            made[kind](weirproc.merged(module, KINDS[kind]), workers)
        return made[kind]
    yield get
    for factory in made.values():
        factory.finish()


KINDS = {"proxy": {}, "one_server": {"postgres main": {"pool_size": 1}}}


def borrowed(factory, request):
    """
    Lend a weir to one test.  Afterwards it must be alive, quiet and without a
    client; if it is not, or if the test failed, the next test gets a new one.
    """
    w = factory.running[0]
    yield w
    w.hang_up()
    if getattr(request.node, "has_failed", False):
        factory.running = []
        w.kill()
        return
    try:
        assert w.alive(), "weir died: %s\n%s" % (w.process.poll(), w.tail())
        w.settled()
        if not DIRECT:
            w.check_log()
    except BaseException:
        factory.running = []
        w.kill()
        raise


@pytest.fixture
def proxy(shared, request):
    """
    A weir shared by the tests of a module (which may state a CONFIG), once
    with 1 worker and once with 4.
    """
    yield from borrowed(shared("proxy"), request)


@pytest.fixture
def one_server(shared, request):
    """The same with a pool of one: the next client gets the very same server."""
    yield from borrowed(shared("one_server"), request)


@pytest.fixture(scope="module")
def driven(folder, base, authority, pg, rd):
    """The weirs that real drivers speak to, by way."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = Factory(folder, base, authority, pg, rd)
        if not made[kind].running:
            made[kind](drivers.CONFIG, drivers.WORKERS[kind])
        return made[kind]
    yield get
    for factory in made.values():
        factory.finish()


@pytest.fixture(params=drivers.WAYS)
def way(driven, pg, authority, request):
    """Where a real driver connects (drivers.py): direct, plain and tls."""
    if request.param == "direct":
        yield drivers.Way("direct", pg, None, authority.crt)
        return
    if DIRECT:
        pytest.skip("needs weir")
    factory = driven(request.param)
    w = factory.running[0]
    way = drivers.Way(request.param, pg, w, authority.crt)
    yield way
    if getattr(request.node, "has_failed", False) \
            or request.node.get_closest_marker("weir_gap"):
        factory.running = []
        w.kill()
        return
    try:
        way.verdict()
    except BaseException:
        factory.running = []
        w.kill()
        raise


@pytest.fixture(scope="session")
def binary():
    return BINARY


@pytest.fixture(scope="session")
def san():
    """Is this a sanitizer build?  Its memory says nothing about ours."""
    return SAN


collect_ignore = ["leak.py", "pgwire.py", "respwire.py", "servers.py", "weirproc.py", "canary.py",
                  "drivers.py", "ways.py", "nodejs.py", "fakepg.py", "node"]
