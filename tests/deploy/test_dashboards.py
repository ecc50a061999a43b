"""The dashboards' queries, as Prometheus parses them.

Not covered: what they find in a run.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring.boards import BOARDS
from monitoring.promql import WINDOW

VARIABLES = {"$namespace": ".*", "$run": ".*", WINDOW: "1m"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on the path: make deploy-tools")
def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    queries = [query.expr for board in BOARDS for panel in board.panels for query in panel.queries]
    for variable, value in VARIABLES.items():
        queries = [query.replace(variable, value) for query in queries]
    assert not any("$" in query for query in queries)
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    result = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(queries)} rules found" in result.stdout
