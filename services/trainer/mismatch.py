"""How far the engine's log-probabilities are from the trainer's, what is done about it, and when it is too much.

Both compute the same model, so the difference is rounding, unless an engine serves stale or damaged weights: that shows
as about 0.2 nats a token against a healthy 0.01. Rounding too makes the sampled tokens those of another policy, for
which importance sampling corrects.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from services.common.errors import MismatchError
from services.trainer.loss import TokenScores, k3, response_mean
from services.trainer.packing import Microbatch
from services.trainer.settings import MismatchCorrection

_BASELINE_STEPS = 3
"""The first steps, whose median mismatch is what the run is held to."""

_ALWAYS_ALLOWED = 0.1
"""Mean absolute difference that never stops a run, in nats a token."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Engine against trainer over sampled tokens, at temperature 1, in nats.

    Attributes:
        kl: mean k3 estimate of KL(engine || trainer).
        mean_abs: mean |engine logprob - trainer logprob|.
    """

    kl: float
    mean_abs: float


def measure_mismatch(microbatches: Sequence[Microbatch], scores: Sequence[TokenScores]) -> Mismatch:
    """Compare the engine's log-probabilities of all targets with the trainer's."""
    pairs = [
        (score.raw_logprob_n, torch.from_numpy(batch.engine_logprob_n).to(score.raw_logprob_n))
        for batch, score in zip(microbatches, scores, strict=True)
    ]
    return Mismatch(
        kl=response_mean(microbatches, [k3(trainer_n, engine_n) for trainer_n, engine_n in pairs]),
        mean_abs=response_mean(microbatches, [(trainer_n - engine_n).abs() for trainer_n, engine_n in pairs]),
    )


def check_mismatch(mismatch: Mismatch, earlier: Sequence[float], multiple: float, samplers: Sequence[str]) -> None:
    """Refuse to train on tokens that another policy sampled.

    Args:
        mismatch: of the step about to be trained.
        earlier: `mean_abs` of every step before.
        multiple: of the baseline that is allowed.
        samplers: addresses that the tokens may come from.

    Raises:
        MismatchError: the difference is too large, or not a number.
    """
    baseline = median(earlier[:_BASELINE_STEPS]) if len(earlier) >= _BASELINE_STEPS else 0.0
    allowed = max(multiple * baseline, _ALWAYS_ALLOWED)
    if not mismatch.mean_abs <= allowed:  # so that NaN is refused too
        raise MismatchError(
            f"step {len(earlier) + 1}: engine and trainer differ by {mismatch.mean_abs:.3g} nats a token, "
            f"allowed are {allowed:.3g} (first steps: {baseline:.3g}); of {', '.join(samplers)} one samples from "
            "other weights than were published"
        )


def corrected_shares(
    batch: Microbatch, scores: TokenScores, correction: MismatchCorrection, cap: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """How much each target counts in the mean over the minibatch, corrected for who sampled it.

    With the importance ratio r = pi_trainer / pi_engine, `token` multiplies a target's share by min(r, cap) (truncated
    importance sampling: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training");
    `sequence` leaves out responses whose product of r over all tokens is not within [1 / cap, cap] (masking: Liu et al.
    2025, "When Speed Kills Stability"). The mean is still over all responses.

    The engine tells log-probabilities at temperature 1. At the sampling temperature T the logits' difference counts
    1/T, so log r is taken as 1/T of the difference; that the normalizers differ a little as well is neglected, and so
    is the nucleus.

    Args:
        batch: the targets.
        scores: of the targets before the first update of the training step.
        correction: `off` changes nothing.
        cap: largest ratio, more than 1.
        temperature: that the tokens were sampled at.

    Returns:
        The shares (n,), float32, and for each target the part of its responses (n,) in which it was cut.
    """
    share_n, engine_logprob_n, first_n, past_n, share_m = (
        torch.from_numpy(array).to(scores.raw_logprob_n.device)
        for array in (batch.share_n, batch.engine_logprob_n, batch.first_n, batch.past_n, batch.share_m)
    )
    log_ratio_n = (scores.raw_logprob_n - engine_logprob_n) / temperature
    if correction == "off":
        return share_n, torch.zeros_like(share_n)
    if correction == "token":
        ratio_n = log_ratio_n.exp()
        return share_n * ratio_n.clamp(max=cap), (ratio_n > cap).to(share_n)

    def over_responses(value_m: Tensor) -> Tensor:
        """Sum over the responses that run through each target."""
        before_m = torch.cat([value_m.new_zeros(1), value_m.cumsum(0)])
        return before_m[past_n] - before_m[first_n]

    # a target's ratio counts in all of its responses: from the first on, and past the last no longer
    change_m = share_m.new_zeros(len(share_m) + 1)
    change_m.index_add_(0, first_n, log_ratio_n.double()).index_add_(0, past_n, -log_ratio_n.double())
    kept_m = (change_m.cumsum(0)[:-1].abs() <= math.log(cap)).double()
    cut_n = 1 - over_responses(kept_m) / (past_n - first_n)
    return over_responses(share_m * kept_m).to(share_n), cut_n.to(share_n)
