"""
Goal:   libpq's pipeline mode through weir is libpq's pipeline mode.
Method: pipeline.c, 6 of it at once on 3 servers, for two organizations; it
        checks each answer itself, and says which was not the one due.
"""
import os
import subprocess

import pytest

from servers import scaled, wait_for
from ways import HERE, Watch, way, workers                  # noqa: F401

TOGETHER = 6


@pytest.fixture(scope="session")
def program(folder):
    built = os.path.join(folder, "pipeline")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libpq"], check=True,
                           capture_output=True, text=True).stdout.split()
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", built,
                    os.path.join(HERE, "pipeline.c"), *flags], check=True)
    return built


@pytest.mark.parametrize("scenario", [
    "many", "errors", "transactions", "flushes", "prepared", "single_rows", "big",
    "cancels", "in_and_out"])
def test_pipeline_mode(way, program, pg, scenario):
    pg.run("DROP TABLE IF EXISTS scratch.piped")
    pg.run("CREATE TABLE scratch.piped (who text, n int); GRANT ALL ON scratch.piped TO PUBLIC")
    # Who sleeps to be cancelled keeps its server: no more of them than servers.
    n = 3 if scenario == "cancels" else TOGETHER
    with Watch(way):
        running = [subprocess.Popen(
            [program, scenario, "who%d" % i], stdin=subprocess.PIPE,
            env=way.env(["acme_app", "beta_app"][i % 2]), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for i in range(n)]
        try:
            if scenario == "cancels":
                wait_for(lambda: pg.run(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                    " AND query LIKE '%%$1::text, $2::text'")[0][0] == n, 20, "asleep")
            said = [p.communicate("\n", timeout=scaled(60))[0] for p in running]
        finally:
            for p in running:
                p.kill()
    assert said == [scenario + "\n"] * n, "".join(said)
