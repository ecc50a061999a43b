"""`treerl bench`: measurements of one service on this machine, or of what the search finds."""

import json
from enum import Enum
from importlib import import_module
from typing import Any

from services.cli.clean_stdout import clean_stdout
from services.common.logs import configure_logs


class Target(Enum):
    """What can be measured; the names are those of the modules in `benchmarks`."""

    SAMPLER = "sampler"
    VERIFIER = "verifier"
    PASS_RATE = "pass-rate"
    TRAINER = "trainer"


async def run_bench(target: Target, *, as_json: bool) -> None:
    """Measure, and print tables, or one JSON object."""
    configure_logs("bench", target.value, level="error")
    benchmark = import_module(f"benchmarks.{target.name.lower()}")
    with clean_stdout():
        figures: dict[str, Any] = await benchmark.measure()
    if as_json:
        print(json.dumps(figures, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    points = figures.pop("points", [])
    table = Table("figure", "value", title=f"treerl bench {target.value}")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4g}")
    Console().print(table)
    if points:
        curve = Table(*(column.replace("_", " ") for column in benchmark.COLUMNS), title="points", padding=0)
        for point in points:
            values = (point[column] for column in benchmark.COLUMNS)
            curve.add_row(*(value if isinstance(value, str) else f"{value:,.3g}" for value in values))
        Console().print(curve)
