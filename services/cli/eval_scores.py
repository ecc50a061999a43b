"""What responses say of a policy: greedy accuracy, mean accuracy and pass@k, with 95 % intervals.

A response that the grader failed on is left out, and counted; one that the sampler refused to give solves nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from services.cli.bootstrap import mean_interval
from services.cli.eval_responses import GREEDY, REFUSED, Response
from services.cli.shares import Interval, Share
from services.common.pass_at_k import pass_at_k, told_ks
from services.common.tree import FinishReason


@dataclass(frozen=True, slots=True)
class Score:
    """A figure over problems, its 95 % interval, and over how many problems it is."""

    value: float
    interval: Interval
    problems: int

    def row(self) -> dict[str, float]:
        """As JSON."""
        return {
            "value": self.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "problems": self.problems,
        }


@dataclass(frozen=True, slots=True)
class Scores:
    """The figures of one group of problems.

    Attributes:
        problems: how many there are.
        greedy: share of problems that the greedy response solves (Wilson interval); None if none was graded.
        average: mean over problems of the share of drawn responses that are right, avg@k (bootstrap over problems).
        pass_at: by k, mean over problems of the chance that one of k drawn responses is right (bootstrap likewise).
        responses: greedy and drawn.
        ungraded: of those, how many the grader failed on.
        refused: how many the sampler did not give.
        cut: how many ended at the token budget.
        tokens: in all responses.
    """

    problems: int
    greedy: Score | None
    average: Score | None
    pass_at: dict[int, Score]
    responses: int
    ungraded: int
    refused: int
    cut: int
    tokens: int

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "problems": self.problems,
            "greedy": None if self.greedy is None else self.greedy.row(),
            "average": None if self.average is None else self.average.row(),
            "pass_at": {str(k): score.row() for k, score in self.pass_at.items()},
            "responses": self.responses,
            "ungraded": self.ungraded,
            "refused": self.refused,
            "cut": self.cut,
            "tokens": self.tokens,
        }


def score(responses: Sequence[Response]) -> Scores:
    """The figures of a group's responses."""
    counts: dict[tuple[str, str], Share] = defaultdict(lambda: Share(0, 0))
    greedy = Share(0, 0)
    for response in responses:
        if response.is_correct is None:
            continue
        one = Share(int(response.is_correct), 1)
        if response.sample == GREEDY:
            greedy += one
        else:
            counts[response.data, response.id] += one
    return Scores(
        problems=len({(response.data, response.id) for response in responses}),
        greedy=Score(greedy.value, greedy.interval, greedy.total) if greedy.total else None,
        average=_over_problems([share.value for share in counts.values()]),
        pass_at=_pass_at(list(counts.values())),
        responses=len(responses),
        ungraded=sum(response.is_correct is None for response in responses),
        refused=sum(response.outcome == REFUSED for response in responses),
        cut=sum(response.finish == FinishReason.LENGTH.name for response in responses),
        tokens=sum(response.tokens for response in responses),
    )


def by_category(responses: Sequence[Response]) -> dict[str, Scores]:
    """The figures of each category, by name; problems without a category have none."""
    groups: dict[str, list[Response]] = defaultdict(list)
    for response in responses:
        if response.category:
            groups[response.category].append(response)
    return {category: score(groups[category]) for category in sorted(groups)}


def _pass_at(counts: Sequence[Share]) -> dict[int, Score]:
    """For k = 1, 2, 4, … and the most responses of a problem; a problem with fewer graded ones than k is left out."""
    most = max((share.total for share in counts), default=0)
    figures = {}
    for k in told_ks(most):
        figure = _over_problems([pass_at_k(share.total, share.correct, k) for share in counts if share.total >= k])
        assert figure is not None  # the problem with the most responses is there
        figures[k] = figure
    return figures


def _over_problems(values: Sequence[float]) -> Score | None:
    return Score(fmean(values), mean_interval(values), len(values)) if values else None
