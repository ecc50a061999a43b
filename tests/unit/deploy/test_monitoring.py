"""Dashboards, alerts and their documents: generated, complete, and only of metrics that exist."""

import json
import re
from pathlib import Path

import pytest

from monitoring.__main__ import ROOT, generated
from monitoring.alerts import ALERTS
from monitoring.boards import BOARDS
from monitoring.grafana import to_json
from monitoring.panels import Panel
from monitoring.promql import name, series
from monitoring.reference import own_metrics, reference
from services.common import metrics

PANELS = [panel for board in BOARDS for panel in board.panels]
QUERIES = [query.expr for panel in PANELS for query in panel.queries] + [alert.expr for alert in ALERTS]
OWN = [metric for registry in (metrics.REGISTRY, *metrics.OF_SERVICE.values()) for metric in own_metrics(registry)]


@pytest.mark.parametrize("path", generated(), ids=str)
def test_generated_files_are_up_to_date(path: Path) -> None:
    found = (ROOT / path).read_text(encoding="utf-8")
    assert found == generated()[path], f"{path} differs from the metrics; run python -m monitoring and commit"


def test_queries_name_metrics_that_are_exposed() -> None:
    exposed = {name(metric) + ending for metric in OWN for ending in ("", "_bucket", "_sum", "_count")}
    named = {found for query in QUERIES for found in re.findall(r"treerl_\w+", query)}
    assert len(named) > 30
    assert named <= exposed


def test_every_metric_is_shown_or_watched() -> None:
    assert [name(metric) for metric in OWN if not any(name(metric) in query for query in QUERIES)] == []


def test_the_reference_lists_every_metric() -> None:
    assert len(OWN) > 45
    assert [name(metric) for metric in OWN if f"`{name(metric)}`" not in reference()] == []


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_says_what_a_healthy_value_is(panel: Panel) -> None:
    assert re.search("[Hh]ealthy", panel.description)
    assert panel.description.endswith(".")


def test_panels_lie_side_by_side_and_have_ids_of_their_own() -> None:
    for board in BOARDS:
        panels = json.loads(to_json(board))["panels"]
        cells = [
            (x, y)
            for at in (panel["gridPos"] for panel in panels)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24
        assert len({panel["id"] for panel in panels}) == len(panels)


def test_a_board_lets_its_reader_choose_the_source_the_namespace_and_the_run() -> None:
    for board in BOARDS:
        variables = {v["name"]: v for v in json.loads(to_json(board))["templating"]["list"]}
        assert list(variables) == ["datasource", "namespace", "run"]
        assert variables["run"]["allValue"] == ".*"  # matches series of a scrape that sets no such label


def test_series_of_the_engine_are_found_under_both_spellings_of_their_names() -> None:
    assert series("vllm:x") == '{__name__=~"vllm[:_]x",namespace=~"$namespace",run=~"$run"}'


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    headings = re.findall(r"^## (Treerl\w+)$", (ROOT / "docs/runbooks.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [alert.name for alert in ALERTS]
