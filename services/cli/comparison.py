"""Held-out accuracy before and after training: overall, and by what the problems are about."""

from collections import defaultdict
from dataclasses import dataclass

from services.cli.shares import Interval, Share, difference_interval
from services.common.problem import Domain
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2

_DOMAINS = {domain.value for domain in Domain}
_JOINT = "+"
"""Joins the labels of a problem that is about several things, as in `cube+square`."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row of the table: the same problems, asked before and after."""

    label: str
    before: Share
    after: Share

    @property
    def gain(self) -> float:
        """Difference of the two accuracies."""
        return self.after.value - self.before.value

    @property
    def gain_interval(self) -> Interval:
        """95 % interval of the gain."""
        return difference_interval(self.before, self.after)


def overall(before: trainer_pb2.Evaluation, after: trainer_pb2.Evaluation) -> Comparison:
    """All held-out problems."""
    return Comparison("all problems", total_share(before), total_share(after))


def by_category(before: trainer_pb2.Evaluation, after: trainer_pb2.Evaluation) -> list[Comparison]:
    """One row a label, domains first; a problem with several labels counts in the row of each."""
    first, last = _shares(before), _shares(after)
    labels = sorted(first.keys() & last.keys(), key=lambda label: (label not in _DOMAINS, label))
    return [Comparison(label, first[label], last[label]) for label in labels]


def total_share(evaluation: trainer_pb2.Evaluation) -> Share:
    """Right answers of an evaluation."""
    return Share(round(evaluation.accuracy * evaluation.problems), evaluation.problems)


def _shares(evaluation: trainer_pb2.Evaluation) -> dict[str, Share]:
    shares: defaultdict[str, Share] = defaultdict(lambda: Share(0, 0))
    for category in evaluation.categories:
        for label in category.category.split(_JOINT):
            shares[label] += Share(category.correct, category.problems)
    return dict(shares)
