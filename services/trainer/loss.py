"""What losses are made of: log-probabilities, the clipped surrogate, and the estimate of a KL divergence.

Tensor suffixes: n target tokens, v vocabulary. Logarithms are natural.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.trainer.packing import Microbatch


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What the policy thinks of target tokens, without a gradient.

    Attributes:
        policy_logprob_n: at the sampling temperature; the "old" log-probabilities of the importance ratio.
        raw_logprob_n: at temperature 1, comparable with the engine's.
        entropy_n: of the whole distribution at temperature 1, in nats.
        reference_logprob_n: the reference policy's, at the sampling temperature; None where none is kept.
    """

    policy_logprob_n: Tensor
    raw_logprob_n: Tensor
    entropy_n: Tensor
    reference_logprob_n: Tensor | None = None

    def to(self, device: torch.device) -> "TokenScores":
        """The same on a device."""
        reference_n = self.reference_logprob_n
        return TokenScores(
            policy_logprob_n=self.policy_logprob_n.to(device),
            raw_logprob_n=self.raw_logprob_n.to(device),
            entropy_n=self.entropy_n.to(device),
            reference_logprob_n=None if reference_n is None else reference_n.to(device),
        )


def token_logprobs(logits_nv: Tensor, target_n: Tensor, temperature: float) -> Tensor:
    """log pi(target) at a temperature, in nats, float32, shape (n,)."""
    scaled_nv = logits_nv.float() / temperature
    return scaled_nv.gather(-1, target_n[:, None])[:, 0] - scaled_nv.logsumexp(-1)


def token_scores(logits_nv: Tensor, target_n: Tensor, temperature: float) -> TokenScores:
    """Score target tokens under logits."""
    logprob_nv = logits_nv.float().log_softmax(-1)
    return TokenScores(
        policy_logprob_n=token_logprobs(logits_nv, target_n, temperature),
        raw_logprob_n=logprob_nv.gather(-1, target_n[:, None])[:, 0],
        entropy_n=-(logprob_nv.exp() * logprob_nv).sum(-1),
    )


def policy_gradient_loss(
    new_logprob_n: Tensor, old_logprob_n: Tensor, weight_n: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate (Schulman et al. 2017, Eq. 7) with DAPO's asymmetric range (arXiv 2503.14476, Eq. 8).

        loss_n = -min(rho_n w_n, clip(rho_n, clip_low, clip_high) w_n),   rho_n = exp(new_n - old_n)

    Returns:
        The loss of each token, and whether the clipping removed its gradient.
    """
    ratio_n = (new_logprob_n - old_logprob_n).exp()
    free_n = ratio_n * weight_n
    clipped_n = ratio_n.clamp(clip_low, clip_high) * weight_n
    return -torch.minimum(free_n, clipped_n), clipped_n < free_n


def k3(logprob_n: Tensor, sampled_logprob_n: Tensor) -> Tensor:
    """Per-token estimate of KL(q || p) at tokens sampled from q (Schulman 2020, "Approximating KL divergence", k3).

        k3 = p/q - 1 - log(p/q)

    It is unbiased and never negative.

    Args:
        logprob_n: log p.
        sampled_logprob_n: log q.
    """
    log_ratio_n = logprob_n - sampled_logprob_n
    return log_ratio_n.expm1() - log_ratio_n


def response_mean(microbatches: Sequence[Microbatch], values: Sequence[Tensor]) -> float:
    """Mean over the tokens of responses: a token that several responses share counts once for each.

    Args:
        microbatches: with at least one target between them.
        values: of the targets (n,) of each.
    """
    total = sum(
        float((torch.from_numpy(batch.responses_n).to(value_n.device) * value_n).sum())
        for batch, value_n in zip(microbatches, values, strict=True)
    )
    return total / sum(int(batch.responses_n.sum()) for batch in microbatches)
