"""How far the engine's log-probabilities are from the trainer's, what is done about it, and when it is too much.

Both compute the same model, so for tokens of the weights that are trained the difference is rounding, unless a sampler
serves stale or damaged weights: that shows as about 0.2 nats a token against a healthy 0.01 and less. For tokens of
older weights it is also what the policy learned since. Either way the tokens were sampled by another policy than the
one that is trained, for which importance sampling corrects.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor

from services.common.errors import MismatchError
from services.trainer.loss import TokenScores, k3, response_mean
from services.trainer.packing import Microbatch
from services.trainer.records import StepMetrics
from services.trainer.settings import MismatchCorrection

_BASELINE_STEPS = 3
"""The first steps, whose median mismatch is what the run is held to."""

_ALWAYS_ALLOWED = 0.1
"""Mean absolute difference that never stops a run where a single token may differ by more, in nats."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where tokens come from.

    Attributes:
        sampler: name of the sampler; empty where that is not known.
        on_policy: whether it says that it sampled them by the weights that are trained, and not by older ones.
    """

    sampler: str
    on_policy: bool


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Engine against trainer over sampled tokens, at temperature 1, in nats.

    Attributes:
        kl: mean k3 estimate of KL(engine || trainer).
        mean_abs: mean |engine logprob - trainer logprob|.
        of_source: the same mean over the tokens of each source.
    """

    kl: float
    mean_abs: float
    of_source: Mapping[Source, float]


def measure_mismatch(
    microbatches: Sequence[Microbatch], scores: Sequence[TokenScores], policy_version: int
) -> Mismatch:
    """Compare the engine's log-probabilities of all targets with the trainer's.

    Args:
        microbatches: all targets of a step.
        scores: of each microbatch, before the first update of the step.
        policy_version: of the weights that computed them.
    """
    pairs = [
        (score.raw_logprob_n, torch.from_numpy(batch.engine_logprob_n).to(score.raw_logprob_n))
        for batch, score in zip(microbatches, scores, strict=True)
    ]
    abs_n = [(trainer_n - engine_n).abs() for trainer_n, engine_n in pairs]
    return Mismatch(
        kl=response_mean(microbatches, [k3(trainer_n, engine_n) for trainer_n, engine_n in pairs]),
        mean_abs=response_mean(microbatches, abs_n),
        of_source=_by_source(microbatches, abs_n, policy_version),
    )


def _by_source(microbatches: Sequence[Microbatch], abs_n: Sequence[Tensor], version: int) -> dict[Source, float]:
    sums: dict[Source, float] = {}
    counts: dict[Source, int] = {}
    for batch, differences_n in zip(microbatches, abs_n, strict=True):
        weighted_n = batch.responses_n * differences_n.cpu().double().numpy()
        sampler_n, on_policy_n = np.array(batch.samplers)[batch.row_n], batch.version_n == version
        for sampler, on_policy in {*zip(sampler_n.tolist(), on_policy_n.tolist(), strict=True)}:
            of_source_n = (sampler_n == sampler) & (on_policy_n == on_policy)
            source = Source(sampler, on_policy)
            sums[source] = sums.get(source, 0.0) + float(weighted_n[of_source_n].sum())
            counts[source] = counts.get(source, 0) + int(batch.responses_n[of_source_n].sum())
    return {source: sums[source] / counts[source] for source in sums}


def check_mismatch(
    step: int, mismatch: Mismatch, earlier: Sequence[StepMetrics], multiple: float, tolerance: float
) -> None:
    """Refuse to train on tokens that another policy sampled than the one that is said to have.

    Tokens of the trained weights may differ by `tolerance`, or by a multiple of what they did in the first steps that
    had no others, if that is more. How far the policy moves from one version to the next nobody knows before it has:
    tokens of older weights are held to a multiple of what they differed by in the first steps that had any.

    Args:
        step: about to be trained.
        mismatch: of its tokens.
        earlier: every step before.
        multiple: of the baseline that is allowed.
        tolerance: largest difference of a single token in healthy operation, in nats.

    Raises:
        MismatchError: the difference is too large, or not a number; names the sampler.
    """
    for source, mean_abs in sorted(mismatch.of_source.items(), key=lambda item: item[0].sampler):
        allowed = _allowed(source, earlier, multiple, tolerance)
        if not mean_abs <= allowed:  # so that NaN is refused too
            raise MismatchError(
                f"step {step}: engine and trainer differ by {mean_abs:.3g} nats a token, allowed are {allowed:.3g}: "
                f"sampler {source.sampler or '(unnamed)'} samples from other weights than it says"
            )


def _allowed(source: Source, earlier: Sequence[StepMetrics], multiple: float, tolerance: float) -> float:
    alike = [past.mismatch_mean_abs_logprob_diff for past in earlier if (past.staleness == 0) == source.on_policy]
    baseline = median(alike[:_BASELINE_STEPS]) if len(alike) >= _BASELINE_STEPS else None
    if source.on_policy:
        return max(multiple * (baseline or 0.0), min(tolerance, _ALWAYS_ALLOWED))
    return math.inf if baseline is None else max(multiple * baseline, _ALWAYS_ALLOWED)


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
