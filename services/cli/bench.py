"""`treerl bench`: measurements of one service, on this machine."""

import json
from enum import Enum
from importlib import import_module

from services.common.logs import configure_logs


class Target(Enum):
    """What can be measured; the values name the modules in `benchmarks`."""

    SAMPLER = "sampler"
    VERIFIER = "verifier"
    TRAINER = "trainer"


async def run_bench(target: Target, *, as_json: bool) -> None:
    """Measure, and print a table, or one JSON object."""
    configure_logs("bench", target.value, level="error")
    figures: dict[str, float] = await import_module(f"benchmarks.{target.value}").measure()
    if as_json:
        print(json.dumps(figures, indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", title=f"treerl bench {target.value}")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4g}")
    Console().print(table)
