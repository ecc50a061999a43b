"""The table that an evaluation ends with."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from services.cli.eval_scores import Score, Scores

_PLAIN_WIDTH = 130

Groups = Mapping[str, tuple[Scores, Mapping[str, Scores]]]
"""By data set: the figures of all its problems, and those of each category."""


def print_scores(groups: Groups, samples: int, policy_versions: Sequence[int], console: Console) -> None:
    """Print a row for each data set and category, and what was left out."""
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    table = Table(title="Accuracy with 95 % intervals", title_justify="left", header_style="bold")
    table.add_column("problems")
    drawn = [f"avg@{samples}", f"pass@{samples}"] if samples else []
    for column in ("number", "greedy", *drawn, "ungraded", "refused", "cut"):
        table.add_column(column, justify="right")
    for name, (whole, categories) in groups.items():
        table.add_row(*_cells(name, whole, samples), style="bold")
        for category, scores in categories.items():
            table.add_row(*_cells(f"  {category}", scores, samples))
        table.add_section()
    console.print(table)
    ungraded = sum(whole.ungraded for whole, _ in groups.values())
    refused = sum(whole.refused for whole, _ in groups.values())
    if len(policy_versions) > 1:
        told = ", ".join(map(str, policy_versions))
        console.print(f"The weights were replaced meanwhile: responses are of versions {told}.")
    if ungraded:
        console.print(f"{ungraded} responses could not be graded: they are left out, not counted as wrong.")
    if refused:
        console.print(
            f"{refused} responses were refused by the sampler: they count as wrong; responses.jsonl says why."
        )


def _cells(name: str, scores: Scores, samples: int) -> list[str]:
    most = scores.pass_at[max(scores.pass_at)] if scores.pass_at else None
    drawn = [_text(scores.average), _text(most)] if samples else []
    share = scores.cut / scores.responses
    return [
        name,
        str(scores.problems),
        _text(scores.greedy),
        *drawn,
        str(scores.ungraded),
        str(scores.refused),
        f"{share:.0%}",
    ]


def _text(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{score.value:.1%}  ({100 * score.interval.low:.1f} to {100 * score.interval.high:.1f})"
