"""Curves of a recorded `treerl bench pass-rate --json`: what was found, against decoded tokens.

`python -m benchmarks.pass_rate_page RESULT.json > page.html`; the picture in `docs/study.md` shows that page.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from services.cli.chart import Chart, Series, line_chart
from services.cli.report import templates

SELECTIONS: Final = {"surprisal": 1, "entropy": 3, "random": 2}
"""Fork selections, each with its slot of the palette."""

_PAGE = """{% from "drawings.html.j2" import draw_chart %}<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>EPTree against i.i.d. chains</title>
<style>{% include "report.css" %}</style>
<main><div class="charts">{% for chart in charts %}{{ draw_chart(chart) }}{% endfor %}</div></main>
</html>
"""


def page(points: Sequence[Mapping[str, Any]]) -> str:
    """An HTML page that loads nothing; `points` as `pass_rate.measure` returns them."""
    charts = [
        _curves(points, "pass_rate", "Pass rate", "Share of prompts with a right leaf", "share"),
        _curves(points, "distinct_answers", "Distinct answers", "Different answers a prompt", "answers"),
    ]
    return templates().from_string(_PAGE).render(charts=charts)


def _curves(points: Sequence[Mapping[str, Any]], name: str, title: str, what: str, unit: str) -> Chart:
    def curve(label: str, colour: int, selection: str, arm: str) -> Series:
        chosen = [point for point in points if point["selection"] == selection]
        return Series(label, colour, [(point["decoded_tokens_eptree"], point[f"{name}_{arm}"]) for point in chosen])

    trees = [curve(f"EPTree, {selection} forks", slot, selection, "eptree") for selection, slot in SELECTIONS.items()]
    chains = curve("i.i.d. chains", 4, "surprisal", "iid")
    return line_chart(title, f"{what}, against decoded tokens a prompt.", [chains, *trees], unit=unit, over="tokens")


if __name__ == "__main__":
    print(page(json.loads(Path(sys.argv[1]).read_text())["figures"]["points"]))
