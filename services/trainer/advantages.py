"""Leaf rewards of a tree become one weight a segment: process rewards without a reward model (TreeRL, section 3.2).

With L(s) the graded leaves below segment s, and the root standing for the prompt,

    V(s)  = mean reward over L(s)                           Eq. 2
    GA(s) = V(s) - V(root),  LA(s) = V(s) - V(parent(s))    Eq. 3
    R(s)  = (GA(s) + LA(s)) / sqrt(|L(s)|)                  Eq. 4

A leaf whose verdict is unknown, because the grader failed, counts as if it had not been sampled: it is in no L(s).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Literal, TypeAlias

from services.common.tree import Segment, Tree, segments

AdvantageName: TypeAlias = Literal["treerl", "ga", "la", "unweighted", "rloo", "grpo"]

CHAIN_ADVANTAGES: tuple[AdvantageName, ...] = ("rloo", "grpo")
"""Choices that compare independent chains with each other: they mean nothing where responses share tokens."""

_GRPO_EPSILON = 1e-6
"""Added to the deviation that GRPO divides by."""


@dataclass(frozen=True, slots=True)
class WeightedSegment:
    """A segment and what its tokens are worth.

    Attributes:
        segment: the tokens.
        leaves: |L(s)|, graded leaves below.
        value: V(s); None where no leaf below is graded.
        weight: R(s), the advantage of each token in each response that it is part of; 0 without a graded leaf.
    """

    segment: Segment
    leaves: int
    value: float | None
    weight: float


def leaf_rewards(tree: Tree) -> dict[int, float]:
    """Reward of every leaf whose verdict is known, by branch id."""
    graded = ((branch.id, branch.verdict.reward) for branch in tree.branches if branch.verdict is not None)
    return {branch_id: reward for branch_id, reward in graded if reward is not None}


def weigh_segments(tree: Tree, advantage: AdvantageName) -> list[WeightedSegment]:
    """Give every segment its weight.

    Args:
        tree: a graded tree.
        advantage: `treerl` is Eq. 4; `ga` and `la` leave the other term out; `unweighted` leaves the root out of
            (GA + LA) / sqrt(|L|); `rloo` and `grpo` are for trees without forks.

    Returns:
        In the order of `segments`.
    """
    rewards = leaf_rewards(tree)
    pieces = segments(tree.branches)
    if advantage in CHAIN_ADVANTAGES:
        return [_weigh_chain(piece, rewards, _CHAIN_RULES[advantage]) for piece in pieces]
    return _weigh_tree(pieces, rewards, _TREE_RULES[advantage])


def _weigh_tree(
    pieces: Sequence[Segment], rewards: Mapping[int, float], rule: Callable[[float, float, int], float]
) -> list[WeightedSegment]:
    root_value = fmean(rewards.values()) if rewards else None
    weighted: list[WeightedSegment] = []
    for piece in pieces:
        below = [rewards[leaf_id] for leaf_id in piece.leaf_ids if leaf_id in rewards]
        parent_value = root_value if piece.parent_id is None else weighted[piece.parent_id].value
        if not below or root_value is None or parent_value is None:
            weighted.append(WeightedSegment(piece, 0, None, 0.0))
            continue
        value = fmean(below)
        weight = rule(value - root_value, value - parent_value, len(below))
        weighted.append(WeightedSegment(piece, len(below), value, weight))
    return weighted


_TREE_RULES: Mapping[str, Callable[[float, float, int], float]] = {
    "treerl": lambda ga, la, leaves: (ga + la) / sqrt(leaves),
    "ga": lambda ga, la, leaves: ga / sqrt(leaves),
    "la": lambda ga, la, leaves: la / sqrt(leaves),
    "unweighted": lambda ga, la, leaves: ga + la,
}


def _weigh_chain(
    piece: Segment, rewards: Mapping[int, float], rule: Callable[[float, Sequence[float]], float]
) -> WeightedSegment:
    reward = rewards.get(piece.branch_id)
    if reward is None:
        return WeightedSegment(piece, 0, None, 0.0)
    others = [other for leaf_id, other in rewards.items() if leaf_id != piece.branch_id]
    return WeightedSegment(piece, 1, reward, rule(reward, others) if others else 0.0)


def _rloo(reward: float, others: Sequence[float]) -> float:
    """REINFORCE leave-one-out: r_i - mean of the other chains' rewards (Ahmadian et al. 2024, arXiv 2402.14740)."""
    return reward - fmean(others)


def _grpo(reward: float, others: Sequence[float]) -> float:
    """GRPO: (r_i - mean) / deviation over all chains of the prompt (Shao et al. 2024, arXiv 2402.03300)."""
    everyone = [reward, *others]
    return (reward - fmean(everyone)) / (stdev(everyone) + _GRPO_EPSILON)


_CHAIN_RULES: Mapping[str, Callable[[float, Sequence[float]], float]] = {"rloo": _rloo, "grpo": _grpo}
