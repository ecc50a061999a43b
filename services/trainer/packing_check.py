"""Whether a model computes packed trees as it computes single responses: found out by having it compute both."""

import random
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from services.common.problem import Domain, Problem
from services.common.tree import (
    Branch,
    FinishReason,
    SamplingParameters,
    SearchParameters,
    Tree,
    VersionSpan,
    segments,
)
from services.trainer import tree_attention
from services.trainer.advantages import WeightedSegment, WeightedTree
from services.trainer.packing import Microbatch, pack
from services.trainer.rows import tree_rows

_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers that packed trees can pass, as transformers names them."""

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Difference of a target's logits that is rounding, as a share of their deviation over the vocabulary."""

_SHAPE = ((None, 0, 12), (0, 4, 8), (1, 7, 6), (0, 4, 7), (None, 0, 9), (4, 3, 6))
"""Parent, fork index and tokens of each branch of the tree that is computed, in preorder: both packings then number its
responses alike."""


def prepare_for_trees(model: PreTrainedModel, logits: Callable[[Microbatch], Tensor]) -> str | None:
    """Have a model attend as packed trees need it, if that works.

    Args:
        model: whose attention is changed; left as it was where it does not work.
        logits: computes a microbatch's target logits (n, v) with it.

    Returns:
        Why it does not work; None if it does.
    """
    other = set(getattr(model.config, "layer_types", None) or ()) - _LAYERS
    if other:
        return f"it has layers of kind {', '.join(sorted(other))}"
    before = model.config._attn_implementation
    tree = _small_tree(model.config.get_text_config().vocab_size)
    expected = [logits(pack([row], "flat", 1, "token")[0]) for row in tree_rows(tree, "flat")]
    model.set_attn_implementation(tree_attention.NAME)
    if model.config._attn_implementation != tree_attention.NAME:
        return "its attention cannot be replaced"
    reason = _difference(tree, logits, expected)
    if reason is not None:
        model.set_attn_implementation(before)
    return reason


def _difference(tree: WeightedTree, logits: Callable[[Microbatch], Tensor], expected: list[Tensor]) -> str | None:
    rows = tree_rows(tree, "tree")
    (batch,) = pack(rows, "tree", sum(len(row.token_ids_n) for row in rows) * 2, "token")
    try:
        packed_nv = logits(batch)
    except (TypeError, ValueError, RuntimeError) as error:  # whatever its code is not made for
        first_line = str(error).partition("\n")[0]
        return f"it fails with {type(error).__name__}: {first_line}"
    for response, expected_nv in enumerate(expected):
        of_response_n = torch.from_numpy((batch.first_n <= response) & (response < batch.past_n))
        found_nv = packed_nv[of_response_n.to(packed_nv.device)]
        error_n = (found_nv - expected_nv).float().std(-1) / expected_nv.float().std(-1)
        if not error_n.max() <= _TOLERANCE[expected_nv.dtype]:  # so that NaN is refused too
            return f"its logits differ from those of single responses by {error_n.max():.2g} of their deviation"
    return None


def _small_tree(vocabulary: int) -> WeightedTree:
    rng = random.Random(0)
    branches = []
    for number, (parent_id, fork_index, length) in enumerate(_SHAPE):
        branches.append(
            Branch(
                id=number,
                parent_id=parent_id,
                fork_index=fork_index,
                token_ids=tuple(rng.randrange(vocabulary) for _ in range(length)),
                logprobs=(0.0,) * length,
                entropies=(),
                versions=(VersionSpan(0, length),),
                finish_reason=FinishReason.STOP,
                response_text="",
            )
        )
    problem, sampling = Problem("check", Domain.MATH, "check"), SamplingParameters(1.0, 1.0, 12)
    prompt = tuple(rng.randrange(vocabulary) for _ in range(4))
    tree = Tree("check", problem, SearchParameters(chains=2), sampling, prompt, tuple(branches))
    weighted = tuple(WeightedSegment(s, len(s.leaf_ids), None, 0.0, len(s.leaf_ids)) for s in segments(branches))
    return WeightedTree(tree, weighted, tuple(range(len(branches))))
