"""What a step's trees look like: values by depth, spread of the advantages, variety of the answers.

Not covered: what a step learned from them, which is in `step_metrics`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

from services.common import metrics
from services.common.tree import Tree
from services.trainer.advantages import WeightedTree, leaf_rewards

MAX_DEPTH = 8
"""Segments with more forks above them count as this deep, so that the metric has few series."""


@dataclass(frozen=True, slots=True)
class TreeStatistics:
    """Of the graded segments of a step's trees.

    Attributes:
        value_by_depth: mean V(s), by the number of forks above the segment.
        ga_variance: of GA(s) = V(s) - V(root) (TreeRL, Eq. 3).
        la_variance: of LA(s) = V(s) - V(parent(s)).
        distinct_answers: different answers among a tree's leaves, as they were read; mean over trees.
    """

    value_by_depth: dict[int, float]
    ga_variance: float
    la_variance: float
    distinct_answers: float


def tree_statistics(trees: Sequence[WeightedTree]) -> TreeStatistics:
    """Sum trees up; what nothing is known of is 0."""
    by_depth: dict[int, list[float]] = defaultdict(list)
    global_advantages: list[float] = []
    local_advantages: list[float] = []
    for tree in trees:
        rewards = leaf_rewards(tree.tree)
        values: dict[int | None, float] = {None: fmean(rewards.values())} if rewards else {}
        depths: dict[int | None, int] = {None: -1}
        for piece in tree.segments:
            parent_id = piece.segment.parent_id
            depths[piece.segment.id] = min(depths[parent_id] + 1, MAX_DEPTH)
            if piece.value is None:
                continue
            values[piece.segment.id] = piece.value
            by_depth[depths[piece.segment.id]].append(piece.value)
            global_advantages.append(piece.value - values[None])
            local_advantages.append(piece.value - values[parent_id])
    return TreeStatistics(
        value_by_depth={depth: fmean(values) for depth, values in sorted(by_depth.items())},
        ga_variance=pvariance(global_advantages) if global_advantages else 0.0,
        la_variance=pvariance(local_advantages) if local_advantages else 0.0,
        distinct_answers=fmean(_distinct_answers(tree.tree) for tree in trees) if trees else 0.0,
    )


def show_tree_statistics(statistics: TreeStatistics) -> None:
    """Set the metrics."""
    metrics.SEGMENT_VALUE.clear()  # else a depth that no tree has any more would stay
    for depth, value in statistics.value_by_depth.items():
        metrics.SEGMENT_VALUE.labels(str(depth)).set(value)
    metrics.GA_VARIANCE.set(statistics.ga_variance)
    metrics.LA_VARIANCE.set(statistics.la_variance)
    metrics.DISTINCT_ANSWERS.set(statistics.distinct_answers)


def _distinct_answers(tree: Tree) -> int:
    return len({branch.verdict.answer for branch in tree.branches if branch.verdict is not None} - {""})
