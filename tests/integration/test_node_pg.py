"""
Goal:   node-postgres works through weir as it does on PostgreSQL.
Method: scenarios of node/pg.js, which assert their own results, directly and
        then through weir; here the tables are made and the servers counted.
"""
import pytest

from nodejs import node, table                              # noqa: F401
from ways import Watch, way, workers                        # noqa: F401

SCENARIOS = {
    "statements": ["values", "named", "errors", "timeouts"],
    "concurrency": ["pool", "queued", "pipelined", "pipelinedTransactions"],
    "streams": ["cursors", "streams", "copies"],
    "events": ["listens", "cancels", "killed"],
}


@pytest.mark.parametrize("scenarios", SCENARIOS.values(), ids=SCENARIOS)
def test_node_postgres(way, node, table, scenarios):
    with Watch(way):
        node("pg.js", scenarios)
