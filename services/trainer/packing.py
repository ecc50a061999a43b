"""Weighted trees become minibatches of token arrays that a policy can be updated on.

A response is one row, its prompt before it, and every graded leaf of a tree gives one. What the policy must predict is
stated apart from the rows, as flat lists: target token n follows the hidden state at `source_n[n]`. Nothing downstream
knows that a target's source is the position to its left, so rows may come to share prefixes.

Array suffixes: r rows, s positions of a row, n targets of a microbatch.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from services.common.tree import path
from services.trainer.advantages import WeightedSegment, WeightedTree

LossMean: TypeAlias = Literal["token", "sequence"]
"""What the loss is a mean over: all tokens alike, or responses alike and the tokens within each."""


@dataclass(frozen=True, slots=True)
class Row:
    """One token sequence and what is known of the tokens to train on, which are its last ones.

    Attributes:
        token_ids: prompt and response.
        weights: R(s) of each response token.
        engine_logprobs: the engine's log-probability of each response token at temperature 1, in nats.
    """

    token_ids: tuple[int, ...]
    weights: tuple[float, ...]
    engine_logprobs: tuple[float, ...]

    @property
    def silent(self) -> bool:
        """Whether the row adds nothing to the gradient."""
        return not any(self.weights)


@dataclass(frozen=True, slots=True)
class Microbatch:
    """Rows of one forward pass, padded at the end, and their targets.

    Padding needs no mask: under causal attention nothing before it sees it, and it is the source of no target.

    Attributes:
        token_ids_rs: int64.
        source_n: int64, index into the flattened (r, s) positions.
        target_n: int64, token ids.
        weight_n: float32, R(s) of each target.
        share_n: float32, how much each target counts in the mean over the minibatch, whose shares sum to 1.
        engine_logprob_n: float32, in nats, at temperature 1.
    """

    token_ids_rs: npt.NDArray[np.int64]
    source_n: npt.NDArray[np.int64]
    target_n: npt.NDArray[np.int64]
    weight_n: npt.NDArray[np.float32]
    share_n: npt.NDArray[np.float32]
    engine_logprob_n: npt.NDArray[np.float32]

    @property
    def silent(self) -> bool:
        """Whether no target carries any weight, so that the gradient is zero."""
        return not self.weight_n.any()


def tree_rows(weighted: WeightedTree) -> list[Row]:
    """One row for each leaf of a tree whose response is trained on."""
    tree = weighted.tree
    of_branch: dict[int, list[WeightedSegment]] = {}
    for piece in weighted.segments:
        of_branch.setdefault(piece.segment.branch_id, []).append(piece)
    rows: list[Row] = []
    for leaf_id in weighted.trained:
        token_ids = list(tree.prompt_token_ids)
        weights: list[float] = []
        engine_logprobs: list[float] = []
        for branch, end in path(tree.branches, leaf_id):
            token_ids += branch.token_ids[: end - branch.fork_index]
            engine_logprobs += branch.logprobs[: end - branch.fork_index]
            for piece in of_branch[branch.id]:
                if piece.segment.end <= end:
                    weights += [piece.weight] * (piece.segment.end - piece.segment.start)
        rows.append(Row(tuple(token_ids), tuple(weights), tuple(engine_logprobs)))
    return rows


def split_by_prompt(rows_of_trees: Sequence[Sequence[Row]], parts: int, seed: str) -> list[list[Row]]:
    """Deal trees out at random into minibatches whose numbers of prompts differ by one at most.

    Args:
        rows_of_trees: rows of each tree; a tree stays together, because its weights sum to nothing only as a whole.
        parts: minibatches wanted; fewer come back where there are fewer trees.
        seed: the same seed deals the same way.
    """
    order = list(range(len(rows_of_trees)))
    random.Random(seed).shuffle(order)
    dealt = [[row for index in order[part::parts] for row in rows_of_trees[index]] for part in range(parts)]
    return [rows for rows in dealt if rows]


def pack(rows: Sequence[Row], token_budget: int, mean: LossMean) -> list[Microbatch]:
    """Put rows of like length together until a microbatch is full.

    Silent rows get microbatches of their own: those are measured but need no backward pass.

    Args:
        rows: all rows of one minibatch.
        token_budget: padded tokens a microbatch may hold; a longer row is one by itself.
        mean: what the loss is a mean over.
    """
    tokens = sum(len(row.weights) for row in rows)

    def share(row: Row) -> float:
        return 1 / tokens if mean == "token" else 1 / (len(rows) * len(row.weights))

    packed: list[Microbatch] = []
    group: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.silent, -len(row.token_ids))):
        full = group and (len(group) + 1) * len(group[0].token_ids) > token_budget
        if group and (full or row.silent != group[0].silent):
            packed.append(_collate(group, share))
            group = []
        group.append(row)
    if group:
        packed.append(_collate(group, share))
    return packed


def _collate(rows: Sequence[Row], share: Callable[[Row], float]) -> Microbatch:
    width = max(len(row.token_ids) for row in rows)
    token_ids_rs = np.zeros((len(rows), width), dtype=np.int64)
    sources: list[npt.NDArray[np.int64]] = []
    for index, row in enumerate(rows):
        length = len(row.token_ids)
        token_ids_rs[index, :length] = row.token_ids
        sources.append(index * width + np.arange(length - len(row.weights), length) - 1)
    source_n = np.concatenate(sources)
    return Microbatch(
        token_ids_rs=token_ids_rs,
        source_n=source_n,
        target_n=token_ids_rs.ravel()[source_n + 1],
        weight_n=np.concatenate([np.asarray(row.weights, dtype=np.float32) for row in rows]),
        share_n=np.concatenate([np.full(len(row.weights), share(row), dtype=np.float32) for row in rows]),
        engine_logprob_n=np.concatenate([np.asarray(row.engine_logprobs, dtype=np.float32) for row in rows]),
    )
