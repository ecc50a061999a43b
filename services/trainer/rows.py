"""Weighted trees become rows: a prompt, and the part of its tree that leads to some leaves.

Tokens lie in preorder: each after the one that it continues, and all that continues a token in one block behind it. So

    token k is on the path to token q  exactly if  k <= q < end_k

and no other structure is needed. A row of one leaf is a plain sequence. Whether rows hold whole chain trees or single
responses, each token knows the responses that run through it, and counts as many times as they are.

Array suffixes: n response tokens of a row, m responses of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from services.common.tree import chain_of
from services.trainer.advantages import WeightedSegment, WeightedTree

Packing: TypeAlias = Literal["tree", "flat"]
"""Whether a row is a chain with all that was forked from it, or a single response."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """What is computed in one piece, and what is known of its tokens.

    Attributes:
        prompt_token_ids: at least one.
        token_ids_n: int64, in preorder.
        position_n: int64, response tokens before it on its path.
        source_n: int64, index of the token that it is predicted from; -1 where that is the prompt's last.
        end_n: int64, one more than the index of the last token whose path it is on.
        first_n: int64, index of the first response that runs through it; all of them are consecutive.
        past_n: int64, one more than the index of the last.
        weight_n: float32, R(s).
        engine_logprob_n: float32, the engine's log-probability at temperature 1, in nats.
        version_n: int64, policy version of the oldest weights that the token's branch was sampled by.
        length_m: int64, tokens of each response.
        sampler: name of the sampler that sampled it; empty where that is not known.
    """

    prompt_token_ids: tuple[int, ...]
    token_ids_n: npt.NDArray[np.int64]
    position_n: npt.NDArray[np.int64]
    source_n: npt.NDArray[np.int64]
    end_n: npt.NDArray[np.int64]
    first_n: npt.NDArray[np.int64]
    past_n: npt.NDArray[np.int64]
    weight_n: npt.NDArray[np.float32]
    engine_logprob_n: npt.NDArray[np.float32]
    version_n: npt.NDArray[np.int64]
    length_m: npt.NDArray[np.int64]
    sampler: str

    @property
    def silent(self) -> bool:
        """Whether the row adds nothing to the policy gradient."""
        return not self.weight_n.any()


def sequence_row(prompt: Sequence[int], response: Sequence[int]) -> Row:
    """The row of one response, without weights and without an engine's log-probabilities."""
    return _row(tuple(prompt), [_Piece(-1, 1, 0.0, tuple(response), (0.0,) * len(response), 0)], sampler="")


def tree_rows(weighted: WeightedTree, packing: Packing) -> list[Row]:
    """The rows of a tree's trained responses: one for each chain that has any, or one for each response."""
    tree = weighted.tree
    groups: dict[int, list[int]] = {}
    for leaf_id in weighted.trained:
        chain = chain_of(tree.branches, leaf_id) if packing == "tree" else leaf_id
        groups.setdefault(chain, []).append(leaf_id)
    preorder = _in_preorder(weighted.segments)
    pieces = [_pieces(weighted, preorder, frozenset(leaves)) for leaves in groups.values()]
    return [_row(tree.prompt_token_ids, of_row, tree.sampler) for of_row in pieces]


def _in_preorder(segments: Sequence[WeightedSegment]) -> list[WeightedSegment]:
    ancestry: list[tuple[int, ...]] = []  # of each segment, itself last
    for piece in segments:
        parent_id = piece.segment.parent_id
        ancestry.append((*(() if parent_id is None else ancestry[parent_id]), piece.segment.id))
    return sorted(segments, key=lambda piece: ancestry[piece.segment.id])


@dataclass(frozen=True, slots=True)
class _Piece:
    """A segment as a row holds it.

    Attributes:
        parent: index of the piece before it on its path; -1 where that is the prompt.
        leaves: 1 if a response ends with it, 0 if not.
    """

    parent: int
    leaves: int
    weight: float
    token_ids: tuple[int, ...]
    engine_logprobs: tuple[float, ...]
    version: int


def _pieces(weighted: WeightedTree, preorder: Sequence[WeightedSegment], leaf_ids: frozenset[int]) -> list[_Piece]:
    """The segments that lead to some leaves."""
    found: list[_Piece] = []
    index: dict[int | None, int] = {None: -1}
    for piece in preorder:
        segment = piece.segment
        if leaf_ids.isdisjoint(segment.leaf_ids):
            continue
        branch = weighted.tree.branches[segment.branch_id]
        span = slice(segment.start - branch.fork_index, segment.end - branch.fork_index)
        ends = int(segment.end == branch.end and branch.id in leaf_ids)
        index[segment.id] = len(found)
        token_ids, logprobs = branch.token_ids[span], branch.logprobs[span]
        found.append(_Piece(index[segment.parent_id], ends, piece.weight, token_ids, logprobs, branch.oldest_version))
    return found


def _row(prompt_token_ids: tuple[int, ...], pieces: Sequence[_Piece], sampler: str) -> Row:
    lengths = np.array([len(piece.token_ids) for piece in pieces])
    starts = np.cumsum(lengths) - lengths
    ends = starts + lengths
    leaves = np.array([piece.leaves for piece in pieces])
    firsts = np.cumsum(leaves) - leaves
    pasts = firsts + leaves
    positions = np.zeros_like(starts)
    sources = np.full_like(starts, -1)
    for index, piece in enumerate(pieces):
        if piece.parent >= 0:
            positions[index] = positions[piece.parent] + lengths[piece.parent]
            sources[index] = starts[piece.parent] + lengths[piece.parent] - 1
    for index, piece in reversed(list(enumerate(pieces))):  # what a piece leads to is known before the piece
        if piece.parent >= 0:
            ends[piece.parent] = max(ends[piece.parent], ends[index])
            pasts[piece.parent] = max(pasts[piece.parent], pasts[index])

    within_n = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    source_n = np.arange(lengths.sum()) - 1
    source_n[starts] = sources
    return Row(
        prompt_token_ids=prompt_token_ids,
        token_ids_n=np.concatenate([np.array(piece.token_ids, dtype=np.int64) for piece in pieces]),
        position_n=np.repeat(positions, lengths) + within_n,
        source_n=source_n,
        end_n=np.repeat(ends, lengths),
        first_n=np.repeat(firsts, lengths),
        past_n=np.repeat(pasts, lengths),
        weight_n=np.repeat(np.array([piece.weight for piece in pieces], dtype=np.float32), lengths),
        engine_logprob_n=np.concatenate([np.array(piece.engine_logprobs, dtype=np.float32) for piece in pieces]),
        version_n=np.repeat(np.array([piece.version for piece in pieces]), lengths),
        length_m=(positions + lengths)[leaves == 1],
        sampler=sampler,
    )
