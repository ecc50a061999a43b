"""The loss of packed trees is that of single responses, whatever ratios and weights tokens have."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.common.tree import Tree
from services.trainer.advantages import weigh_tree
from services.trainer.loss import Objective, TokenScores, response_mean
from services.trainer.packing import LossMean, Microbatch, pack
from services.trainer.rows import Packing, tree_rows
from tests.strategies import trees

means = st.sampled_from(["token", "sequence"])


def batches_of(graded: Tree, packing: Packing, mean: LossMean) -> list[Microbatch]:
    return pack(tree_rows(weigh_tree(graded, "treerl"), packing), packing, 40, mean)


def made_up(batch: Microbatch, what: str) -> torch.Tensor:
    """Log-probabilities that follow from the token id, which is the same in both packings."""
    values = [random.Random(f"{what} {target}").uniform(-3, -1) for target in batch.target_n]
    return torch.tensor(values, dtype=torch.float64)


def losses(batches: Sequence[Microbatch], objective: Objective) -> tuple[float, float, dict[int, float]]:
    """Loss, share of clipped tokens, and gradient by token id, of which a tree holds each once."""
    loss, clipped, gradients = 0.0, [], dict[int, float]()
    for batch in batches:
        new_logprob_n = made_up(batch, "new").requires_grad_()
        old, raw = made_up(batch, "old"), made_up(batch, "raw")
        part, clipped_n = objective.loss(new_logprob_n, batch, TokenScores(old, raw, raw))
        part.backward()
        loss += part.item()
        clipped.append(clipped_n)
        for target, gradient in zip(batch.target_n.tolist(), new_logprob_n.grad.tolist(), strict=True):
            gradients[target] = gradients.get(target, 0.0) + gradient
    return loss, response_mean(batches, clipped), gradients


@given(trees(), means)
def test_a_shared_token_is_clipped_and_counted_as_in_each_response(graded: Tree, mean: LossMean) -> None:
    packed, flat = (batches_of(graded, packing, mean) for packing in ("tree", "flat"))
    if not flat:
        return
    objective = Objective(0.8, 1.26)

    loss, clipped, gradients = losses(packed, objective)

    expected_loss, expected_clipped, expected_gradients = losses(flat, objective)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    assert clipped == pytest.approx(expected_clipped)
    assert gradients == pytest.approx(expected_gradients, abs=1e-6)


def test_a_mean_counts_a_token_once_for_each_response() -> None:
    batch = Microbatch(
        token_ids_rs=np.zeros((1, 4), dtype=np.int64),
        layout=None,
        source_n=np.array([0, 1, 1]),
        target_n=np.array([0, 0, 0]),
        weight_n=np.zeros(3, dtype=np.float32),
        engine_logprob_n=np.zeros(3, dtype=np.float32),
        first_n=np.array([0, 0, 1]),
        past_n=np.array([2, 1, 2]),
        share_m=np.array([0.25, 0.25]),
    )

    assert response_mean([batch], [torch.tensor([1.0, 2.0, 8.0])]) == (2 * 1 + 2 + 8) / 4
