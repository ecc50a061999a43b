"""The problems of a run, and which of them a step asks: decided by seed and step, so that resuming needs no state.

Sources are mixed by weight as seats are given to parties (Webster's method): after n draws a source of share w has had
n·w of them, to within a draw or so, and no draw is ever taken back. Each source has a new seeded order every epoch; its
stages, if it has any, follow each other as they are, and each is shuffled by itself.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from services.common.problem import Problem


@dataclass(frozen=True, slots=True)
class Source:
    """Problems of one origin.

    Attributes:
        name: tells it from the run's other sources; empty for the only one.
        problems: in the order of their file, or stage after stage.
        weight: its share of the draws is this over the sum of all weights.
        stages: how many problems each stage of an epoch has; none if all are one stage.
    """

    name: str
    problems: tuple[Problem, ...]
    weight: float = 1.0
    stages: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Dataset:
    """A mixture of sources.

    Attributes:
        sources: at least one, each with a problem.
        seed: decides the order of each.
    """

    sources: tuple[Source, ...]
    seed: int

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All problems, source by source."""
        return tuple(problem for source in self.sources for problem in source.problems)

    def shuffled(self, seed: int) -> "Dataset":
        """The same problems in an order of another seed, and without stages."""
        return Dataset(tuple(replace(source, stages=()) for source in self.sources), seed)

    def problems_for_step(self, step: int, count: int) -> list[Problem]:
        """The problems of one step.

        Args:
            step: the first is 1.
            count: problems a step; the same for every step of a run.
        """
        weights = [Fraction(source.weight) for source in self.sources]
        before, after = draws(weights, (step - 1) * count), draws(weights, step * count)
        drawn = [(source, n) for source, first in enumerate(before) for n in range(first, after[source])]
        drawn.sort(key=lambda draw: (_turn(draw[1], weights[draw[0]]), draw[0]))
        return [self._visited(self.sources[source], position) for source, position in drawn]

    def _visited(self, source: Source, position: int) -> Problem:
        epoch, place = divmod(position, len(source.problems))
        return source.problems[_order(source.name, self.seed, epoch, source.stages or (len(source.problems),))[place]]


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


@lru_cache(maxsize=16)  # a step spans two epochs of a source at most, unless its data are few
def _order(name: str, seed: int, epoch: int, stages: tuple[int, ...]) -> list[int]:
    of_source = f" of {name}" if name else ""
    rng = random.Random(f"order of epoch {epoch}{of_source} under seed {seed}")
    order: list[int] = []
    for size in stages:
        stage = list(range(len(order), len(order) + size))
        rng.shuffle(stage)
        order += stage
    return order
