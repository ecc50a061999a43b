"""What a training step and an evaluation measured: the records of a run's log.

Fields are named as in trainer_service.proto, which states their units.
"""

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One training step; see the message of this name."""

    step: int
    policy_version: int
    pass_rate: float
    zero_variance_share: float
    loss: float
    grad_norm: float
    clip_fraction: float
    entropy: float
    mismatch_kl: float
    mismatch_mean_abs_logprob_diff: float
    staleness: int
    prompts: int
    leaves: int
    decoded_tokens: int
    verdict_counts: dict[str, int]
    step_s: float
    sample_wait_s: float
    train_s: float
    publish_s: float
    reload_s: float
    reload_canary_max_abs_logprob_diff: float
    queue_prompts: int
    queue_trees: int
    unix_time_s: float
    reference_kl: float
    corrected_fraction: float
    stale_trees: int
    uniform_trees: int
    refills: int
    learning_rate: float


@dataclass(frozen=True, slots=True)
class CategoryAccuracy:
    """Accuracy within one category; see the message of this name."""

    category: str
    problems: int
    correct: int
    average: float = 0.0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy on held-out problems; see the message of this name."""

    policy_version: int
    problems: int
    accuracy: float
    categories: tuple[CategoryAccuracy, ...]
    wall_s: float
    decoded_tokens: int
    average: float = 0.0
    pass_at: dict[int, float] = field(default_factory=dict)


Record: TypeAlias = StepMetrics | Evaluation
