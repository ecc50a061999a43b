"""The objective worked out by hand, and that packed trees have the loss of single responses under all its settings."""

import random
from collections import defaultdict
from collections.abc import Sequence
from math import exp

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.common.tree import Tree
from services.trainer.advantages import weigh_tree
from services.trainer.loss import TokenScores, response_mean
from services.trainer.mismatch import corrected_shares
from services.trainer.objective import Loss, Objective
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


def losses(batches: Sequence[Microbatch], objective: Objective) -> tuple[list[float], dict[int, float]]:
    """Loss, clipped and corrected shares of tokens; and the gradient by token id, of which a tree holds each once."""
    parts: list[Loss] = []
    gradients: defaultdict[int, float] = defaultdict(float)
    for batch in batches:
        new_logprob_n = made_up(batch, "new").requires_grad_()
        raw_n, reference_n = made_up(batch, "raw"), made_up(batch, "reference")
        scores = TokenScores(made_up(batch, "old"), raw_n, raw_n, reference_n if objective.kl_coefficient else None)
        parts.append(objective.loss(new_logprob_n, batch, scores))
        parts[-1].total.backward()
        for target, gradient in zip(batch.target_n.tolist(), new_logprob_n.grad.tolist(), strict=True):
            gradients[target] += gradient
    figures = [
        sum(part.total.item() for part in parts),
        response_mean(batches, [part.clipped_n for part in parts]),
        response_mean(batches, [part.corrected_n for part in parts]),
    ]
    return figures, gradients


objectives = st.builds(
    Objective,
    clip_low=st.just(0.8),
    clip_high=st.just(1.26),
    kl_coefficient=st.sampled_from([0.0, 0.1]),
    correction=st.sampled_from(["off", "token", "sequence"]),
    ratio_cap=st.sampled_from([1.1, 3.0, 30.0]),
    temperature=st.sampled_from([1.0, 1.2]),
)


@given(trees(), means, objectives)
def test_packed_trees_have_the_loss_of_single_responses(graded: Tree, mean: LossMean, objective: Objective) -> None:
    packed, flat = (batches_of(graded, packing, mean) for packing in ("tree", "flat"))
    if not flat:
        return

    figures, gradients = losses(packed, objective)

    expected_figures, expected_gradients = losses(flat, objective)
    assert figures == pytest.approx(expected_figures, abs=1e-6)
    assert gradients == pytest.approx(expected_gradients, abs=1e-6)


def shared_batch(engine_logprobs: Sequence[float], weights: Sequence[float]) -> Microbatch:
    """Two responses of two tokens, the first of which they share; each token of a response is a fourth of the mean."""
    return Microbatch(
        token_ids_rs=np.zeros((1, 4), dtype=np.int64),
        layout=None,
        source_n=np.array([0, 1, 1]),
        target_n=np.array([0, 0, 0]),
        weight_n=np.array(weights, dtype=np.float32),
        engine_logprob_n=np.array(engine_logprobs, dtype=np.float32),
        first_n=np.array([0, 0, 1]),
        past_n=np.array([2, 1, 2]),
        share_m=np.array([0.25, 0.25]),
        version_n=np.array([0, 0, 0]),
        row_n=np.array([0, 0, 0]),
        samplers=("",),
    )


def scores_of(logprobs: Sequence[float], reference: Sequence[float] | None = None) -> TokenScores:
    logprob_n = torch.tensor(logprobs, dtype=torch.float64)
    return TokenScores(logprob_n, logprob_n, logprob_n, None if reference is None else torch.tensor(reference))


def test_the_kl_penalty_is_a_mean_over_tokens_of_responses() -> None:
    batch, scores = shared_batch([0.0] * 3, [0.0] * 3), scores_of([-1.0] * 3, reference=[-1.5, -1.0, -1.0])

    loss = Objective(0.8, 1.26, kl_coefficient=0.1).loss(scores.policy_logprob_n, batch, scores)

    # only the shared token differs: k3 = r - 1 - log r with r = reference / policy = exp(-1/2)
    assert loss.total.item() == pytest.approx(0.1 * 0.5 * (exp(-0.5) - 1 + 0.5))


def test_the_kl_penalty_pulls_towards_the_reference() -> None:
    batch, scores = shared_batch([0.0] * 3, [0.0] * 3), scores_of([-1.0] * 3, reference=[-0.5, -1.0, -2.0])
    new_logprob_n = scores.policy_logprob_n.clone().requires_grad_()

    Objective(0.8, 1.26, kl_coefficient=1.0).loss(new_logprob_n, batch, scores).total.backward()

    # d k3 / d log policy = 1 - reference / policy
    assert new_logprob_n.grad is not None
    assert new_logprob_n.grad.tolist() == pytest.approx([0.5 * (1 - exp(0.5)), 0.0, 0.25 * (1 - exp(-1.0))])


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.1])
def test_a_penalty_needs_tokens_without_weight_too(kl_coefficient: float) -> None:
    silent = Objective(0.8, 1.26, kl_coefficient).silent(shared_batch([0.0] * 3, [0.0] * 3))

    assert silent == (kl_coefficient == 0)
    assert not Objective(0.8, 1.26, kl_coefficient).silent(shared_batch([0.0] * 3, [0.0, 1.0, 0.0]))


def test_token_correction_caps_the_ratio_at_the_sampling_temperature() -> None:
    # trainer / engine at temperature 2: exp(0.2 / 2), exp(2 / 2) > 2, exp(-2 / 2)
    batch = shared_batch([-1.2, -3.0, -1.0], [1.0] * 3)

    share_n, cut_n = corrected_shares(batch, scores_of([-1.0, -1.0, -3.0]), "token", cap=2.0, temperature=2.0)

    assert share_n.tolist() == pytest.approx([0.5 * exp(0.1), 0.25 * 2, 0.25 * exp(-1)])
    assert cut_n.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("engine", "kept"),
    [
        ([-1.0, -1.0, -1.0], [True, True]),
        ([-1.5, -1.5, -1.0], [False, True]),  # ratios exp(1) and exp(0.5), the cap is 2
        ([-0.5, -1.0, -0.5], [True, False]),  # and so is an inverse of exp(1)
        ([-1.5, -0.5, -1.5], [True, False]),  # what counts is the product over the response
        ([-9.0, -1.0, -1.0], [False, False]),
    ],
)
def test_sequence_correction_leaves_whole_responses_out(engine: list[float], kept: list[bool]) -> None:
    batch = shared_batch(engine, [1.0] * 3)

    share_n, cut_n = corrected_shares(batch, scores_of([-1.0] * 3), "sequence", cap=2.0, temperature=1.0)

    assert share_n.tolist() == pytest.approx([0.25 * sum(kept), 0.25 * kept[0], 0.25 * kept[1]])
    assert cut_n.tolist() == pytest.approx([1 - sum(kept) / 2, 1 - kept[0], 1 - kept[1]])


def test_a_correction_multiplies_the_policy_gradient_alone() -> None:
    batch, scores = shared_batch([-1.0, -9.0, -1.0], [1.0, 2.0, 3.0]), scores_of([-1.0] * 3, reference=[-2.0] * 3)

    total = {
        correction: Objective(0.8, 1.26, 0.1, correction, 2.0).loss(scores.policy_logprob_n, batch, scores).total.item()
        for correction in ("off", "token")
    }

    # the second target's share of 1/4 is doubled; its surrogate is -2
    assert total["token"] - total["off"] == pytest.approx(0.25 * -2)


def test_a_mean_counts_a_token_once_for_each_response() -> None:
    batch = shared_batch([0.0] * 3, [0.0] * 3)

    assert response_mean([batch], [torch.tensor([1.0, 2.0, 8.0])]) == (2 * 1 + 2 + 8) / 4
