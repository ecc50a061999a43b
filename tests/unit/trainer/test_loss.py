"""The loss against numbers worked out by hand."""

from math import exp, log

import pytest
import torch

from services.trainer.loss import k3, policy_gradient_loss, token_logprobs, token_scores


def test_the_clip_is_pessimistic_on_both_sides() -> None:
    ratio_n = torch.tensor([1.0, 1.5, 1.5, 0.5, 0.5])
    weight_n = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0])
    old_logprob_n = torch.full((5,), -1.0)

    loss_n, clipped_n = policy_gradient_loss(old_logprob_n + ratio_n.log(), old_logprob_n, weight_n, 0.8, 1.26)

    # free: 2, 1.5, -1.5, 0.5, -0.5; clipped: 2, 1.26, -1.26, 0.8, -0.8
    assert loss_n.tolist() == pytest.approx([-2, -1.26, 1.5, -0.5, 0.8])
    assert clipped_n.tolist() == [False, True, False, False, True]


def test_the_gradient_at_ratio_one_is_the_weight() -> None:
    old_logprob_n = torch.tensor([-1.0, -2.0])
    new_logprob_n = old_logprob_n.clone().requires_grad_()

    loss_n, _ = policy_gradient_loss(new_logprob_n, old_logprob_n, torch.tensor([0.5, -3.0]), 0.8, 1.26)
    loss_n.sum().backward()

    assert new_logprob_n.grad is not None
    assert new_logprob_n.grad.tolist() == [-0.5, 3.0]


def test_logprobs_at_a_temperature() -> None:
    logits_nv = torch.tensor([[0.0, log(4.0)]])

    assert token_logprobs(logits_nv, torch.tensor([1]), 1.0).item() == pytest.approx(log(4 / 5))
    assert token_logprobs(logits_nv, torch.tensor([1]), 2.0).item() == pytest.approx(log(2 / 3))


def test_scores() -> None:
    scores = token_scores(torch.tensor([[0.0, log(4.0)]]), torch.tensor([0]), 2.0)

    assert scores.policy_logprob_n.item() == pytest.approx(log(1 / 3))
    assert scores.raw_logprob_n.item() == pytest.approx(log(1 / 5))
    assert scores.entropy_n.item() == pytest.approx(-(0.2 * log(0.2) + 0.8 * log(0.8)))


def test_k3_is_zero_at_equality_and_follows_its_formula() -> None:
    assert k3(torch.tensor([-1.0]), torch.tensor([-1.0])).item() == 0
    assert k3(torch.tensor([-1.5]), torch.tensor([-1.0])).item() == pytest.approx(exp(-0.5) - 1 + 0.5)
