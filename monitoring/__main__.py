"""`python -m monitoring`: write dashboards, alerts and the reference of metrics."""

from pathlib import Path

from monitoring.alerts import rules
from monitoring.boards import BOARDS
from monitoring.grafana import to_json
from monitoring.reference import reference

ROOT = Path(__file__).parents[1]


def generated() -> dict[Path, str]:
    """Text of every generated file, by its path in the repository; the chart has copies, for it must hold its files."""
    files = {Path("docs/metrics.md"): reference()}
    for rules_file in ("docker/prometheus/rules/treerl.yaml", "k8s/treerl/files/rules.yaml"):
        files[Path(rules_file)] = rules()
    for board in BOARDS:
        files[Path(f"docker/grafana/dashboards/{board.name}.json")] = to_json(board)
        files[Path(f"k8s/treerl/files/dashboards/{board.name}.json")] = to_json(board, indent=None)
    return files


if __name__ == "__main__":
    for path, text in generated().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
