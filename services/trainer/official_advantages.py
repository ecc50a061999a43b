"""What the authors' published code computes as a segment's weight; it differs from the paper's Eq. 4.

With r(i) the reward of graded leaf i, L(s) the graded leaves below segment s, and k(s) those of them whose responses
were selected for training,

    A(i) = r(i) - mean of the other leaves' rewards
    v(s) = sum of A(i) over L(s) / f(k(s)) / |L(s)|         f = sqrt, 1 or the identity: `Reweight`
    LA(s) = v(s) - v(parent(s)), or LA(parent(s)) where that is 0
    weight(s) = LA(s) + v(s)

The code is github.com/THUDM/TreeRL, openrlhf/trainer/ppo_utils; this gives its numbers on recorded trees. Not covered:
its other options (chain rewards, averaging one generation, mixing all ancestors), which the paper does not use.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Literal, TypeAlias

from services.common.tree import Segment

Reweight: TypeAlias = Literal["sqrt", "original", "uniform"]

SELECTED_LEAVES = 16
"""Responses of a tree that the authors train on."""

_ZERO = 1e-8
"""An LA smaller than this counts as 0."""

_DIVISORS: Mapping[Reweight, Callable[[int], float]] = {
    "sqrt": sqrt,
    "original": lambda selected: 1.0,
    "uniform": float,
}


def select_leaves(rewards: Mapping[int, float], seed: str) -> list[int]:
    """Choose the responses to train on: one right leaf at random if there is any, and others at random.

    Args:
        rewards: reward of every graded leaf.
        seed: the same seed chooses the same leaves.

    Returns:
        16 leaf ids, or all where there are fewer.
    """
    order = sorted(rewards)
    random.Random(f"selected leaves of {seed}").shuffle(order)
    first_right = next((leaf_id for leaf_id in order if rewards[leaf_id] == 1), None)
    order.sort(key=lambda leaf_id: leaf_id != first_right)
    return order[:SELECTED_LEAVES]


def official_weights(
    pieces: Sequence[Segment], rewards: Mapping[int, float], selected: Sequence[int], reweight: Reweight
) -> list[float]:
    """Weight of each segment; 0 where no selected leaf lies below, and everywhere if only one leaf is graded.

    Args:
        pieces: all segments of a tree; a parent comes before its children.
        rewards: reward of every graded leaf.
        selected: graded leaves whose responses are trained on.
        reweight: f.
    """
    if len(rewards) < 2 or not selected:
        return [0.0] * len(pieces)
    total, chosen = sum(rewards.values()), frozenset(selected)
    centred = {leaf_id: reward - (total - reward) / (len(rewards) - 1) for leaf_id, reward in rewards.items()}

    def value(leaf_ids: Sequence[int]) -> float:
        graded = [centred[leaf_id] for leaf_id in leaf_ids if leaf_id in centred]
        return sum(graded) / _DIVISORS[reweight](len(chosen.intersection(leaf_ids))) / len(graded)

    values: dict[int | None, float] = {None: value(list(rewards))}
    local: dict[int, float] = {}
    weights: list[float] = []
    for piece in pieces:
        if chosen.isdisjoint(piece.leaf_ids):
            weights.append(0.0)
            continue
        values[piece.id] = value(piece.leaf_ids)
        local[piece.id] = values[piece.id] - values[piece.parent_id]
        if abs(local[piece.id]) < _ZERO and piece.parent_id is not None:
            local[piece.id] = local[piece.parent_id]
        weights.append(local[piece.id] + values[piece.id])
    return weights
