"""`treerl forks`: where runs forked their trees, side by side."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.fork_table import ALL, ForkRow, ForkTable, fork_tables, json_tables
from services.cli.run_folder import RunFolder, TrainedTree
from services.cli.segment_text import load_tokenizer
from services.cli.shares import Share
from services.cli.token_texts import TokenTexts
from services.common.errors import PreconditionError

_PLAIN_WIDTH = 120


def show_forks(folders: Sequence[Path], console: Console, *, as_json: bool) -> None:
    """Print the tables of all runs, or one JSON array of them.

    Raises:
        NotFoundError: no such folder.
        PreconditionError: a run has written no weights, and so left no tokenizer to read its trees by.
    """
    runs = [RunFolder(path) for path in folders]
    tables = [table for run in runs for table in run_forks(run, run.trees())]
    if as_json:
        print(json.dumps(json_tables(tables), indent=2))
        return
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    for table in tables:
        console.print(drawn_table(table))
    if not tables:
        console.print("No tree was forked.")


def run_forks(folder: RunFolder, trees: Iterable[TrainedTree]) -> list[ForkTable]:
    """The tables of a run.

    Raises:
        PreconditionError: it has written no weights, and so left no tokenizer to read its trees by.
    """
    tokenizer = load_tokenizer(folder.tokenizer_file())
    if tokenizer is None:
        raise PreconditionError(
            f"{folder.path} holds no weights/*/tokenizer.json and no checkpoints/*/model/tokenizer.json: the tokens of "
            "its trees cannot be read without one"
        )
    return fork_tables(folder.path.resolve().name, (trained.tree for trained in trees), TokenTexts(tokenizer))


def drawn_table(table: ForkTable) -> Table:
    """A table as a terminal shows it."""
    title = f"{table.run}: {table.rows[0].forks.total:,} forks by {table.selection.name.lower()}"
    drawn = Table(title=Text(title), title_justify="left", header_style="bold")
    drawn.add_column("token class")
    for column in ("forks", "at random", "surprisal", "outcome changed", "new answers"):
        drawn.add_column(column, justify="right")
    drawn.add_column("most often")
    for row in table.rows:
        total = row.label == ALL
        frequent = Text("  ".join(repr(text) for text in row.frequent))  # as plain text: tokens may look like markup
        drawn.add_row(*_cells(row), frequent, end_section=total, style="bold" if total else "")
    return drawn


def _cells(row: ForkRow) -> tuple[str, ...]:
    return (
        row.label,
        f"{row.forks.value:.1%}",
        f"{row.at_random:.1%}",
        _number(row.surprisal),
        _share(row.changed),
        _number(row.new_answers),
    )


def _share(share: Share) -> str:
    interval = share.interval
    return f"{share.value:.1%} ({100 * interval.low:.1f} to {100 * interval.high:.1f})" if share.total else "–"


def _number(number: float | None) -> str:
    return "–" if number is None else f"{number:.2f}"
