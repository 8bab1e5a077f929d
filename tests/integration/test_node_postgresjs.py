"""
Goal:   postgres.js works through weir as it does on PostgreSQL.
Method: scenarios of node/postgres.js, which assert their own results, directly and
        then through weir; here the tables are made and the servers counted.
"""
import pytest

from nodejs import node, table                              # noqa: F401
from ways import Watch, way, workers                        # noqa: F401

SCENARIOS = {
    "statements": ["values", "errors", "unprepared", "largeObjects"],
    "concurrency": ["pipelined", "tasks"],
    "streams": ["cursors", "copies"],
    "events": ["listens", "cancels"],
}


@pytest.mark.parametrize("scenarios", SCENARIOS.values(), ids=SCENARIOS)
def test_postgres_js(way, node, table, scenarios):
    with Watch(way):
        node("postgres.js", scenarios)
