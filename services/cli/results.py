"""The table that a finished run ends with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from services.cli.comparison import Comparison, by_category, overall
from services.cli.shares import Interval, Share
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2

_PLAIN_WIDTH = 110


def print_results(
    summary: Mapping[str, Any],
    evaluations: Sequence[trainer_pb2.Evaluation],
    report: Path,
    console: Console | None = None,
) -> None:
    """Print held-out accuracy before and after, what the run cost, and where the report is."""
    console = console or Console()
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    before, after = evaluations[0], evaluations[-1]
    table = Table(title="Held-out accuracy, greedy, with 95 % intervals", title_justify="left", header_style="bold")
    table.add_column("problems about")
    for column in ("number", "before", "after", "gain in points"):
        table.add_column(column, justify="right")
    _add(table, overall(before, after), style="bold")
    table.add_section()
    for comparison in by_category(before, after):
        _add(table, comparison, style="")
    console.print(table)
    console.print(
        f"{summary['method']}, seed {summary['seed']}: {summary['steps']} steps, {summary['leaves']:,} leaves, "
        f"{summary['decoded_tokens']:,} tokens in {summary['wall_s']:.0f} s. Weights reloaded in "
        f"{summary['reload_s_p50'] * 1000:.0f} ms (median); every reload matched the trainer to "
        f"{summary['reload_canary_max_abs_logprob_diff']:.1e} nats."
    )
    console.print(f"Report: {report}", soft_wrap=True)


def _add(table: Table, comparison: Comparison, style: str) -> None:
    interval = comparison.gain_interval
    gain = f"{100 * comparison.gain:+.1f}  ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"
    number = str(comparison.after.total)
    table.add_row(comparison.label, number, _share(comparison.before), _share(comparison.after), gain, style=style)


def _share(share: Share) -> str:
    interval: Interval = share.interval
    return f"{share.value:.1%}  ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
