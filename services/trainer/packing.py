"""Rows become minibatches of token arrays that a policy can be updated on.

What the policy must predict is stated apart from the tokens that it sees, as flat lists: target n follows the hidden
state at `source_n[n]`, so the token before a fork is the source of several targets. Each target also knows the
responses that run through it: whatever is a mean over tokens counts it once for each.

Array suffixes: r rows, s positions of a row, n targets of a microbatch, m its responses.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from services.trainer.rows import Packing, Row

LossMean: TypeAlias = Literal["token", "sequence"]
"""What the loss is a mean over: all tokens alike, or responses alike and the tokens within each."""


@dataclass(frozen=True, slots=True, eq=False)
class TreeLayout:
    """How the tokens of a packed microbatch see each other: token k is seen from token q if k <= q < end_k.

    Attributes:
        position_s: int64, tokens before it on its path, the prompt's included.
        end_s: int64, one more than the index of the last token that sees it.
        chains: (start of the prompt, end of the prompt, start of the chain's tokens, their end), one for each row.
    """

    position_s: npt.NDArray[np.int64]
    end_s: npt.NDArray[np.int64]
    chains: tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Microbatch:
    """What one forward pass computes, and its targets.

    Attributes:
        token_ids_rs: int64. Of trees, one row without padding. Of single responses a row each, padded at the end; that
            needs no mask: under causal attention nothing before it sees it, and it is the source of no target.
        layout: of trees; None where rows are single responses.
        source_n: int64, index into the flattened (r, s) positions.
        target_n: int64, token ids.
        weight_n: float32, R(s) of each target.
        engine_logprob_n: float32, in nats, at temperature 1.
        first_n: int64, index of the first response that runs through it; all of them are consecutive.
        past_n: int64, one more than the index of the last.
        share_m: float64, how much each token of a response counts in the mean over the minibatch.
        version_n: int64, policy version of the oldest weights that the target's branch was sampled by.
        row_n: int64, index of the row of each target.
        samplers: of each row, the name of the sampler that sampled it; empty where that is not known.
    """

    token_ids_rs: npt.NDArray[np.int64]
    layout: TreeLayout | None
    source_n: npt.NDArray[np.int64]
    target_n: npt.NDArray[np.int64]
    weight_n: npt.NDArray[np.float32]
    engine_logprob_n: npt.NDArray[np.float32]
    first_n: npt.NDArray[np.int64]
    past_n: npt.NDArray[np.int64]
    share_m: npt.NDArray[np.float64]
    version_n: npt.NDArray[np.int64]
    row_n: npt.NDArray[np.int64]
    samplers: tuple[str, ...]

    @property
    def silent(self) -> bool:
        """Whether no target carries any weight, so that the policy gradient is zero."""
        return not self.weight_n.any()

    @property
    def responses_n(self) -> npt.NDArray[np.int64]:
        """How many responses run through each target."""
        return self.past_n - self.first_n

    @property
    def share_n(self) -> npt.NDArray[np.float32]:
        """How much each target counts in the mean over the minibatch, whose shares sum to 1."""
        before_m = np.concatenate([[0.0], np.cumsum(self.share_m)])
        share_n: npt.NDArray[np.float32] = (before_m[self.past_n] - before_m[self.first_n]).astype(np.float32)
        return share_n


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


def pack(rows: Sequence[Row], packing: Packing, token_budget: int, mean: LossMean) -> list[Microbatch]:
    """Fill microbatches with the rows of one minibatch.

    Silent rows get microbatches of their own: those are measured but need no backward pass.

    Args:
        rows: all rows of one minibatch, those of a tree next to each other.
        packing: how their tokens are laid out; single responses can be laid out as trees too.
        token_budget: tokens that a microbatch may hold, padding included; a larger row is one by itself.
        mean: what the loss is a mean over.
    """
    tokens, responses = sum(row.length_m.sum() for row in rows), sum(len(row.length_m) for row in rows)

    def share_m(group: Sequence[Row]) -> npt.NDArray[np.float64]:
        length_m = np.concatenate([row.length_m for row in group])
        return np.full(len(length_m), 1 / tokens) if mean == "token" else 1 / (responses * length_m)

    lay_out, groups = (_lay_out_trees, _fill_trees) if packing == "tree" else (_lay_out_flat, _fill_flat)
    order = sorted(rows, key=lambda row: row.silent)
    return [
        lay_out(group, share_m(group))
        for _, of_a_kind in groupby(order, key=lambda row: row.silent)
        for group in groups(list(of_a_kind), token_budget)
    ]


def _fill_trees(rows: Sequence[Row], token_budget: int) -> list[list[Row]]:
    """Rows in their order; those that share a prompt with the one before need it only once."""
    groups: list[list[Row]] = []
    held = 0
    for row in rows:
        shared = groups and groups[-1][-1].prompt_token_ids == row.prompt_token_ids
        needed = len(row.token_ids_n) + (0 if shared else len(row.prompt_token_ids))
        if not groups or held + needed > token_budget:
            groups.append([])
            held, needed = 0, len(row.token_ids_n) + len(row.prompt_token_ids)
        groups[-1].append(row)
        held += needed
    return groups


def _fill_flat(rows: Sequence[Row], token_budget: int) -> list[list[Row]]:
    """Rows of like length together, so that little is padded."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=_length, reverse=True):
        if not groups or (len(groups[-1]) + 1) * _length(groups[-1][0]) > token_budget:
            groups.append([])
        groups[-1].append(row)
    return groups


def _length(row: Row) -> int:
    return len(row.prompt_token_ids) + len(row.token_ids_n)


def _lay_out_trees(rows: Sequence[Row], share_m: npt.NDArray[np.float64]) -> Microbatch:
    token_ids, positions, ends, sources = [], [], [], []
    chains: list[tuple[int, int, int, int]] = []
    prompt: tuple[int, ...] = ()
    prompt_start = held = 0
    for row in rows:
        length = len(row.prompt_token_ids)
        if row.prompt_token_ids != prompt:
            prompt, prompt_start = row.prompt_token_ids, held
            token_ids.append(np.array(prompt))
            positions.append(np.arange(length))
            ends.append(np.zeros(length, dtype=np.int64))  # known once its last chain is there
            held += length
        token_ids.append(row.token_ids_n)
        positions.append(length + row.position_n)
        ends.append(held + row.end_n)
        sources.append(np.where(row.source_n < 0, prompt_start + length - 1, held + row.source_n))
        chains.append((prompt_start, prompt_start + length, held, held + len(row.token_ids_n)))
        held += len(row.token_ids_n)
    end_s = np.concatenate(ends)
    for start, end, _, end_of_chain in chains:
        end_s[start:end] = end_of_chain
    layout = TreeLayout(np.concatenate(positions), end_s, tuple(chains))
    return _microbatch(rows, np.concatenate(token_ids)[None], layout, sources, share_m)


def _lay_out_flat(rows: Sequence[Row], share_m: npt.NDArray[np.float64]) -> Microbatch:
    width = max(map(_length, rows))
    token_ids_rs = np.zeros((len(rows), width), dtype=np.int64)
    sources = []
    for index, row in enumerate(rows):
        start = len(row.prompt_token_ids)
        token_ids_rs[index, :start] = row.prompt_token_ids
        token_ids_rs[index, start : _length(row)] = row.token_ids_n
        sources.append(index * width + start + row.source_n)
    return _microbatch(rows, token_ids_rs, None, sources, share_m)


def _microbatch(
    rows: Sequence[Row],
    token_ids_rs: npt.NDArray[np.int64],
    layout: TreeLayout | None,
    sources: Sequence[npt.NDArray[np.int64]],
    share_m: npt.NDArray[np.float64],
) -> Microbatch:
    before = np.cumsum([0, *(len(row.length_m) for row in rows)])
    return Microbatch(
        token_ids_rs=token_ids_rs,
        layout=layout,
        source_n=np.concatenate(sources),
        target_n=np.concatenate([row.token_ids_n for row in rows]),
        weight_n=np.concatenate([row.weight_n for row in rows]),
        engine_logprob_n=np.concatenate([row.engine_logprob_n for row in rows]),
        first_n=np.concatenate([earlier + row.first_n for earlier, row in zip(before, rows, strict=False)]),
        past_n=np.concatenate([earlier + row.past_n for earlier, row in zip(before, rows, strict=False)]),
        share_m=share_m,
        version_n=np.concatenate([row.version_n for row in rows]),
        row_n=np.repeat(np.arange(len(rows)), [len(row.token_ids_n) for row in rows]),
        samplers=tuple(row.sampler for row in rows),
    )
