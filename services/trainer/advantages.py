"""Leaf rewards of a tree become one weight a segment: process rewards without a reward model (TreeRL, section 3.2).

With L(s) the graded leaves below segment s, and the root standing for the prompt,

    V(s)  = mean reward over L(s)                           Eq. 2
    GA(s) = V(s) - V(root),  LA(s) = V(s) - V(parent(s))    Eq. 3
    R(s)  = (GA(s) + LA(s)) / sqrt(|L(s)|)                  Eq. 4

A leaf whose verdict is unknown, because the grader failed, counts as if it had not been sampled: it is in no L(s), and
where only such leaves were forked off, the segments before and after the fork count as one.
What the authors' code computes instead of Eq. 4 is in `official_advantages`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean, stdev
from typing import Literal, TypeAlias

from services.common.errors import InvalidRequestError
from services.common.tree import Segment, Tree, segments
from services.trainer.official_advantages import Reweight, official_weights, select_leaves

AdvantageName: TypeAlias = Literal["treerl", "treerl-official", "ga", "la", "unweighted", "rloo", "grpo"]

Normalization: TypeAlias = Literal["none", "batch_std"]

OFFICIAL: AdvantageName = "treerl-official"

CHAIN_ADVANTAGES: tuple[AdvantageName, ...] = ("rloo", "grpo")
"""Choices that compare independent chains with each other: they mean nothing where responses share tokens."""

_GRPO_EPSILON = 1e-6
"""Added to the deviation that GRPO divides by."""

_NO_DEVIATION = 1e-8
"""A deviation below this is rounding: dividing by it would make a signal out of none."""


@dataclass(frozen=True, slots=True)
class WeightedSegment:
    """A segment and what its tokens are worth.

    Attributes:
        segment: the tokens.
        leaves: |L(s)|, graded leaves below.
        value: V(s); None where no leaf below is graded.
        weight: R(s), the advantage of each token in each response that it is part of; 0 without a graded leaf.
        responses: trained responses that run through it: |L(s)|, or fewer where the advantage selects leaves.
    """

    segment: Segment
    leaves: int
    value: float | None
    weight: float
    responses: int


@dataclass(frozen=True, slots=True)
class WeightedTree:
    """A tree and what its tokens are worth.

    Attributes:
        tree: a graded tree.
        segments: in the order of `services.common.tree.segments`.
        trained: leaves whose responses are trained on, by branch id in rising order: all graded ones, unless the
            advantage selects some of them.
    """

    tree: Tree
    segments: tuple[WeightedSegment, ...]
    trained: tuple[int, ...]


def leaf_rewards(tree: Tree) -> dict[int, float]:
    """Reward of every leaf whose verdict is known, by branch id."""
    graded = ((branch.id, branch.verdict.reward) for branch in tree.branches if branch.verdict is not None)
    return {branch_id: reward for branch_id, reward in graded if reward is not None}


def weigh_tree(tree: Tree, advantage: AdvantageName) -> WeightedTree:
    """Give every segment of a graded tree its weight.

    Raises:
        InvalidRequestError: the advantage is for chains and the tree is forked.
    """
    rewards = leaf_rewards(tree)
    trained = trained_leaves(rewards, advantage, selection_seed(tree))
    return WeightedTree(tree, tuple(weigh_segments(segments(tree.branches), rewards, advantage, trained)), trained)


def selection_seed(tree: Tree) -> str:
    """What a selection of the tree's leaves follows: its name and the seed that it was sampled by."""
    return f"{tree.tree_id} {tree.sampling.seed}"


def trained_leaves(rewards: Mapping[int, float], advantage: AdvantageName, seed: str) -> tuple[int, ...]:
    """Leaves whose responses an advantage trains on, in rising order.

    Args:
        rewards: of every graded leaf.
        advantage: `treerl-official` selects leaves, every other takes all.
        seed: the same seed selects the same leaves.
    """
    return tuple(sorted(select_leaves(rewards, seed) if advantage == OFFICIAL else rewards))


def weigh_segments(
    pieces: Sequence[Segment],
    rewards: Mapping[int, float],
    advantage: AdvantageName,
    trained: Sequence[int],
    reweight: Reweight = "sqrt",
) -> list[WeightedSegment]:
    """Give every segment its weight.

    Args:
        pieces: all segments of a tree; a parent comes before its children.
        rewards: reward of every graded leaf.
        advantage: `treerl` is Eq. 4; `ga` and `la` leave the other term out; `unweighted` is GA + LA;
            `treerl-official` is what the authors' code computes; `rloo` and `grpo` are for trees without forks.
        trained: leaves whose responses are trained on; matters to `treerl-official` alone, as does
        reweight: what it divides sums over leaves by.

    Returns:
        In the order of `pieces`.

    Raises:
        InvalidRequestError: the advantage is for chains and responses share tokens.
    """
    graded = [[leaf_id for leaf_id in piece.leaf_ids if leaf_id in rewards] for piece in pieces]
    values: dict[int | None, float] = {
        piece.id: fmean(rewards[leaf_id] for leaf_id in below)
        for piece, below in zip(pieces, graded, strict=True)
        if below
    }
    if rewards:
        values[None] = fmean(rewards.values())
    if advantage == OFFICIAL:
        weights = official_weights(pieces, rewards, trained, reweight)
    elif advantage in CHAIN_ADVANTAGES:
        weights = [_chain_weight(piece, rewards, _CHAIN_RULES[advantage]) for piece in pieces]
    else:
        weights = _tree_weights(pieces, graded, values, _TREE_RULES[advantage])
    chosen = frozenset(trained)
    return [
        WeightedSegment(piece, len(below), values.get(piece.id), weight, len(chosen.intersection(below)))
        for piece, below, weight in zip(pieces, graded, weights, strict=True)
    ]


def normalize(trees: Sequence[WeightedTree], how: Normalization) -> list[WeightedTree]:
    """Bring the weights of one step to a scale.

    Args:
        trees: all trees of the step.
        how: `none` leaves them; `batch_std` divides them by their standard deviation over the tokens of the step's
            trained responses, where a token that n responses share counts n times. The mean stays, and so does every
            weight where the deviation is 0.
    """
    tokens = [
        (piece.weight, piece.responses * (piece.segment.end - piece.segment.start))
        for tree in trees
        for piece in tree.segments
    ]
    total = sum(count for _, count in tokens)
    if how == "none" or total == 0:
        return list(trees)
    mean = sum(weight * count for weight, count in tokens) / total
    deviation = sqrt(sum((weight - mean) ** 2 * count for weight, count in tokens) / total)
    if deviation < _NO_DEVIATION:
        return list(trees)
    return [
        replace(tree, segments=tuple(replace(piece, weight=piece.weight / deviation) for piece in tree.segments))
        for tree in trees
    ]


def _tree_weights(
    pieces: Sequence[Segment],
    graded: Sequence[Sequence[int]],
    values: Mapping[int | None, float],
    rule: Callable[[float, float, int], float],
) -> list[float]:
    weights: list[float] = []
    for piece, below in zip(pieces, graded, strict=True):
        parent_id = piece.parent_id
        if not below:
            weight = 0.0
        elif parent_id is not None and below == graded[parent_id] and piece.leaf_ids != pieces[parent_id].leaf_ids:
            weight = weights[parent_id]  # only unknown leaves part here: had they not been sampled, this were no cut
        else:
            weight = rule(values[piece.id] - values[None], values[piece.id] - values[parent_id], len(below))
        weights.append(weight)
    return weights


_TREE_RULES: Mapping[str, Callable[[float, float, int], float]] = {
    "treerl": lambda ga, la, leaves: (ga + la) / sqrt(leaves),
    "ga": lambda ga, la, leaves: ga / sqrt(leaves),
    "la": lambda ga, la, leaves: la / sqrt(leaves),
    "unweighted": lambda ga, la, leaves: ga + la,
}


def _chain_weight(
    piece: Segment, rewards: Mapping[int, float], rule: Callable[[float, Sequence[float]], float]
) -> float:
    if len(piece.leaf_ids) > 1:
        raise InvalidRequestError(
            f"rloo and grpo compare independent chains, but {len(piece.leaf_ids)} of these responses share tokens; "
            "choose another advantage, or sample without forks"
        )
    (leaf_id,) = piece.leaf_ids
    others = [reward for other, reward in rewards.items() if other != leaf_id]
    return rule(rewards[leaf_id], others) if leaf_id in rewards and others else 0.0


def _rloo(reward: float, others: Sequence[float]) -> float:
    """REINFORCE leave-one-out: r_i - mean of the other chains' rewards (Ahmadian et al. 2024, arXiv 2402.14740)."""
    return reward - fmean(others)


def _grpo(reward: float, others: Sequence[float]) -> float:
    """GRPO: (r_i - mean) / deviation over all chains of the prompt (Shao et al. 2024, arXiv 2402.03300)."""
    everyone = [reward, *others]
    return (reward - fmean(everyone)) / (stdev(everyone) + _GRPO_EPSILON)


_CHAIN_RULES: Mapping[str, Callable[[float, Sequence[float]], float]] = {"rloo": _rloo, "grpo": _grpo}
