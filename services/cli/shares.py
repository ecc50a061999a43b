"""Shares with their uncertainty."""

import math
from dataclasses import dataclass

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    correct: int
    total: int

    @property
    def value(self) -> float:
        """The share; 0 of nothing."""
        return self.correct / self.total if self.total else 0.0

    @property
    def interval(self) -> Interval:
        """Wilson's score interval, which holds for small counts and for shares near 0 and 1."""
        if not self.total:
            return Interval(0.0, 1.0)
        n, p, z = self.total, self.value, Z95
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return Interval(max(0.0, centre - half), min(1.0, centre + half))

    def __add__(self, other: "Share") -> "Share":
        return Share(self.correct + other.correct, self.total + other.total)


def difference_interval(before: Share, after: Share) -> Interval:
    """Newcombe's interval of `after - before`, from the two Wilson intervals.

    It treats the two as independent. The same problems are asked both times, which can only make the truth narrower.
    """
    difference = after.value - before.value
    b, a = before.interval, after.interval
    low = difference - math.hypot(after.value - a.low, b.high - before.value)
    high = difference + math.hypot(a.high - after.value, before.value - b.low)
    return Interval(low, high)
