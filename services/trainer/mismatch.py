"""How far the engine's log-probabilities are from the trainer's, and when that is too far to train on.

Both compute the same model, so the difference is rounding, unless an engine serves stale or damaged weights: that shows
as about 0.2 nats a token against a healthy 0.01.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from services.common.errors import MismatchError
from services.trainer.loss import TokenScores, k3, response_mean
from services.trainer.packing import Microbatch

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
