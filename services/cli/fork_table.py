"""The forks of a run by the class of the token that they replaced, against forks chosen at random. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from services.cli.fork_log import Fork, Tokens, expected_at_random, list_forks
from services.cli.shares import Share
from services.common.token_class import TokenClass
from services.common.tree import ForkSelection, Tree

ALL = "all tokens"
"""Label of the row that sums a table up."""

_FREQUENT = 4


@dataclass(frozen=True, slots=True)
class ForkRow:
    """Forks that replaced tokens of one class.

    Attributes:
        label: the class, or `ALL`.
        forks: these forks among all forks of the table.
        at_random: share of this class that forking uniformly at random would give, in expectation.
        surprisal: mean surprisal of the replaced tokens, in nats; None where there are none.
        changed: forks that changed the reward, among those whose verdicts are known; see `Fork.changed`.
        new_answers: mean of `Fork.new_answers`; None where there are no forks.
        frequent: the tokens replaced most often, first.
    """

    label: str
    forks: Share
    at_random: float
    surprisal: float | None
    changed: Share
    new_answers: float | None
    frequent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForkTable:
    """All forks of a run that were chosen in one way: a row that sums up, then one a class of tokens."""

    run: str
    selection: ForkSelection
    rows: tuple[ForkRow, ...]


def fork_tables(run: str, trees: Iterable[Tree], tokens: Tokens) -> list[ForkTable]:
    """One table for each selection that a run's trees were forked by; none where nothing was forked.

    Args:
        run: name of the run.
        trees: its recorded trees.
        tokens: of its policy's tokenizer.
    """
    forks: defaultdict[ForkSelection, list[Fork]] = defaultdict(list)
    at_random: defaultdict[tuple[ForkSelection, TokenClass], float] = defaultdict(float)
    for tree in trees:
        selection = tree.search.selection
        forks[selection] += list_forks(tree, tokens)
        for token_class, expected in expected_at_random(tree, tokens).items():
            at_random[selection, token_class] += expected
    return [
        ForkTable(run, selection, _rows(forks[selection], {c: at_random[selection, c] for c in TokenClass}))
        for selection in ForkSelection
        if forks[selection]
    ]


def largest_share(tables: Sequence[ForkTable]) -> float:
    """The largest share of any class of tokens, among forks or at random; 1 where there are no tables."""
    return max((max(row.forks.value, row.at_random) for table in tables for row in table.rows[1:]), default=1.0)


def json_tables(tables: Sequence[ForkTable]) -> list[dict[str, Any]]:
    """Tables as JSON values; shares in [0, 1], surprisal in nats."""
    return [
        {"run": table.run, "selection": table.selection.name.lower(), "rows": [_json_row(row) for row in table.rows]}
        for table in tables
    ]


def _rows(forks: Sequence[Fork], at_random: Mapping[TokenClass, float]) -> tuple[ForkRow, ...]:
    rows = [_row(ALL, forks, len(forks), 1.0)]
    for token_class in TokenClass:
        of_class = [fork for fork in forks if fork.token_class is token_class]
        if of_class or at_random[token_class]:
            rows.append(_row(token_class.value, of_class, len(forks), at_random[token_class] / len(forks)))
    return tuple(rows)


def _row(label: str, forks: Sequence[Fork], total: int, at_random: float) -> ForkRow:
    known = [fork.changed for fork in forks if fork.changed is not None]
    frequent = Counter(fork.text for fork in forks).most_common(_FREQUENT)
    return ForkRow(
        label=label,
        forks=Share(len(forks), total),
        at_random=at_random,
        surprisal=fmean(fork.surprisal for fork in forks) if forks else None,
        changed=Share(sum(known), len(known)),
        new_answers=fmean(fork.new_answers for fork in forks) if forks else None,
        frequent=tuple(text for text, _ in frequent),
    )


def _json_row(row: ForkRow) -> dict[str, Any]:
    return {
        "token_class": row.label,
        "forks": row.forks.correct,
        "share": row.forks.value,
        "share_at_random": row.at_random,
        "mean_surprisal_nats": row.surprisal,
        "changed": row.changed.value if row.changed.total else None,
        "changed_ci95": [row.changed.interval.low, row.changed.interval.high] if row.changed.total else None,
        "new_answers_per_fork": row.new_answers,
        "frequent_tokens": list(row.frequent),
    }
