"""The problems of a run, and which of them a step asks: decided by seed and step, so that resuming needs no state.

Sources are mixed by weight as seats are given to parties (Webster's method): after n draws a source of share w has had
n·w of them, to within a draw or so, and no draw is ever taken back. Each source has a new seeded order every epoch.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from services.common.problem import Problem


@dataclass(frozen=True, slots=True)
class Source:
    """Problems of one origin.

    Attributes:
        name: tells it from the run's other sources; empty for the only one.
        problems: in the order of their file.
        weight: its share of the draws is this over the sum of all weights.
    """

    name: str
    problems: tuple[Problem, ...]
    weight: float = 1.0


class Dataset:
    """A mixture of sources."""

    def __init__(self, sources: Sequence[Source], seed: int) -> None:
        """
        Args:
            sources: at least one, each with a problem.
            seed: decides the order of each.
        """
        self._sources = tuple(sources)
        self._weights = [Fraction(source.weight) for source in sources]
        self._seed = seed
        # a step spans two epochs of a source at most, unless its data are few
        self._order = lru_cache(maxsize=2 * len(sources))(self._shuffled)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Those of all sources, in the order of their files."""
        return tuple(problem for source in self._sources for problem in source.problems)

    def in_order_of(self, seed: int) -> "Dataset":
        """The same mixture in another order."""
        return Dataset(self._sources, seed)

    def problems_for_step(self, step: int, count: int) -> list[Problem]:
        """The problems of one step.

        Args:
            step: the first is 1.
            count: problems a step; the same for every step of a run.
        """
        before, after = draws(self._weights, (step - 1) * count), draws(self._weights, step * count)
        drawn = [(source, n) for source, first in enumerate(before) for n in range(first, after[source])]
        drawn.sort(key=lambda draw: (_turn(draw[1], self._weights[draw[0]]), draw[0]))
        return [self._visited(source, position) for source, position in drawn]

    def _visited(self, source: int, position: int) -> Problem:
        problems = self._sources[source].problems
        epoch, place = divmod(position, len(problems))
        return problems[self._order(source, epoch)[place]]

    def _shuffled(self, source: int, epoch: int) -> list[int]:
        name = self._sources[source].name
        of_source = f" of {name}" if name else ""
        order = list(range(len(self._sources[source].problems)))
        random.Random(f"order of epoch {epoch}{of_source} under seed {self._seed}").shuffle(order)
        return order


def draws(weights: Sequence[Fraction], total: int) -> list[int]:
    """How many of the first `total` draws are each source's.

    Draw j of a source, counted from 0, has its turn at (j + 1/2) / weight; of equal ones the first source's is first.
    """
    # all whose turn is before total / sum(weights), which is `total` draws but for rounding
    counts = [-((1 - 2 * total * weight / sum(weights)) // 2) for weight in weights]
    while sum(counts) < total:
        least = min(range(len(weights)), key=lambda source: (_turn(counts[source], weights[source]), source))
        counts[least] += 1
    while sum(counts) > total:
        most = max(range(len(weights)), key=lambda source: (_turn(counts[source] - 1, weights[source]), source))
        counts[most] -= 1
    return counts


def _turn(draw: int, weight: Fraction) -> Fraction:
    return (draw + Fraction(1, 2)) / weight
