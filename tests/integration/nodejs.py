"""
nodejs: the clients of node/, installed once from its lock file.

`node(script, scenarios)` runs some scenarios of one script.  The packages stay in
node/node_modules between runs; npm's own cache is below build/.
"""
import os
import shutil
import subprocess

import pytest

from servers import scaled
from ways import HERE

FOLDER = os.path.join(HERE, "node")


def installed():
    """Is what npm put there no older than the lock file?"""
    try:
        there = os.stat(os.path.join(FOLDER, "node_modules/.package-lock.json"))
        return there.st_mtime >= os.stat(
            os.path.join(FOLDER, "package-lock.json")).st_mtime
    except FileNotFoundError:
        return False


def install():
    import fcntl
    cache = os.path.join(HERE, "../../build/npm")
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)        # workers of pytest come together
        if not installed():
            said = subprocess.run(
                ["npm", "ci", "--cache", cache, "--prefer-offline"], cwd=FOLDER,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
            assert said.returncode == 0, said.stderr


def ready():
    if not shutil.which("node") or not (installed() or shutil.which("npm")):
        pytest.fail("node and npm are not installed: tests/setup.sh test")
    install()


@pytest.fixture
def node(way):
    ready()

    def run(script, scenarios, **env):
        return way.run("node", os.path.join(FOLDER, script), *scenarios, seconds=120,
                       OTHER=way.url("beta_app"), SECONDS=str(int(scaled(60))), **env)
    return run


@pytest.fixture
def table(pg):
    """scratch.tasks (task int, tag text), for everybody."""
    pg.run("DROP TABLE IF EXISTS scratch.tasks")
    pg.run("CREATE TABLE scratch.tasks (task int NOT NULL, tag text);"
           "GRANT ALL ON scratch.tasks TO PUBLIC")
