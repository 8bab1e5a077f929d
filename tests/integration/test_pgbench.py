"""
Goal:   pgbench, in every mode, counts no failed transaction through weir, and
        its books balance.
Method: 20 clients on 3 servers, directly first.  pgbench prints the numbers; the
        sums of TPC-B are asked of the database.
"""
import os

import pytest

from servers import find_tool
from ways import Watch, way, workers                        # noqa: F401

CLIENTS = 20
PIPELINE = r"""
\set a random(1, 100000)
\startpipeline
SELECT :client_id AS own, abalance FROM pgbench_accounts WHERE aid = :a;
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :a;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:client_id, 1, :a, 1, now());
COMMIT;
SELECT count(*) FROM pgbench_tellers WHERE tid = :client_id;
\endpipeline
SELECT :client_id AS mine, :a AS a \gset
\if :mine = :client_id
\else
SELECT wrong;
\endif
"""


@pytest.fixture
def bench(way, pg):
    """bench(...): its report; the tables are there and empty of history."""
    program = find_tool("pgbench")
    if not pg.run("SELECT to_regclass('scratch.pgbench_accounts')")[0][0]:
        # -i through weir: COPY, VACUUM, primary keys.
        way.run(program, "-i", "-q", PGOPTIONS="-c search_path=scratch")
        pg.run("GRANT ALL ON ALL TABLES IN SCHEMA scratch TO PUBLIC")
    pg.run("TRUNCATE scratch.pgbench_history")
    pg.run("UPDATE scratch.pgbench_accounts SET abalance = 0 WHERE abalance <> 0")
    pg.run("UPDATE scratch.pgbench_tellers SET tbalance = 0")
    pg.run("UPDATE scratch.pgbench_branches SET bbalance = 0")

    def run(turns, *argv):
        with Watch(way):
            said = way.run(program, "-n", "-c", str(CLIENTS), "-t", str(turns), *argv,
                           PGOPTIONS="-c search_path=scratch", seconds=60)
        assert "actually processed: %d/%d" % (CLIENTS * turns, CLIENTS * turns) in said
        assert "number of failed transactions: 0 (0.000%)" in said, said
        return said
    yield run


def sums(pg):
    return pg.run("""
        SELECT (SELECT count(*) FROM scratch.pgbench_history),
               (SELECT sum(delta) FROM scratch.pgbench_history),
               (SELECT sum(abalance) FROM scratch.pgbench_accounts),
               (SELECT sum(tbalance) FROM scratch.pgbench_tellers),
               (SELECT sum(bbalance) FROM scratch.pgbench_branches)""")[0]


@pytest.mark.parametrize("mode,threads", [("simple", CLIENTS), ("extended", CLIENTS),
                                          ("prepared", CLIENTS), ("prepared", 1)])
def test_tpc_b(bench, pg, mode, threads):
    """In one thread pgbench waits for a Parse while its other clients hold servers."""
    bench(10, "-M", mode, "-j", str(threads))
    n, *all_sums = sums(pg)
    assert n == 10 * CLIENTS
    assert len(set(all_sums)) == 1, all_sums


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_selects(bench, mode):
    bench(20, "-S", "-M", mode, "-j", "2")


@pytest.mark.parametrize("mode", ["extended", "prepared"])
def test_a_script_in_pipelines(bench, way, pg, mode):
    script = os.path.join(way.folder, "pipeline.sql")
    with open(script, "w") as f:
        f.write(PIPELINE)
    bench(10, "-f", script, "-M", mode, "-j", str(CLIENTS))
    assert pg.run("SELECT tid, count(*), sum(delta) FROM scratch.pgbench_history"
                  " GROUP BY 1 ORDER BY 1") == [(c, 10, 10) for c in range(CLIENTS)]
    assert sums(pg)[2] == 10 * CLIENTS


def test_a_connection_for_each_transaction(bench):
    bench(2, "-S", "-C", "-j", "2")
