"""Sums a training step up."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from services.common.tree import Tree
from services.trainer.advantages import leaf_rewards
from services.trainer.loss import TokenScores, k3, response_mean
from services.trainer.mismatch import Mismatch
from services.trainer.packing import Microbatch
from services.trainer.policy import UpdateResult
from services.trainer.records import StepMetrics
from services.trainer.rollouts import Rollout, decoded_tokens
from services.trainer.samplers import Reload


@dataclass(frozen=True, slots=True)
class StepTimes:
    """When the phases of a step ended, and what the clock said at its end, in seconds."""

    began: float
    collected: float
    trained: float
    published: float
    unix_time_s: float


def step_metrics(
    step: int,
    rollout: Rollout,
    microbatches: Sequence[Microbatch],
    scores: Sequence[TokenScores],
    mismatch: Mismatch,
    updates: Sequence[UpdateResult],
    rate: float,
    reload: Reload,
    times: StepTimes,
) -> StepMetrics:
    """Sum a step up."""
    trees = rollout.trees
    rewards = [list(leaf_rewards(tree).values()) for tree in trees]
    graded = [reward for of_tree in rewards for reward in of_tree]
    return StepMetrics(
        step=step,
        policy_version=step,
        pass_rate=fmean(graded),
        zero_variance_share=fmean(len(set(of_tree)) <= 1 for of_tree in rewards),
        loss=fmean(update.loss for update in updates),
        grad_norm=fmean(update.grad_norm for update in updates),
        clip_fraction=fmean(update.clip_fraction for update in updates),
        entropy=response_mean(microbatches, [score.entropy_n for score in scores]),
        mismatch_kl=mismatch.kl,
        mismatch_mean_abs_logprob_diff=mismatch.mean_abs,
        staleness=step - 1 - _oldest_version(trees),
        prompts=len(trees),
        leaves=sum(len(tree.branches) for tree in trees),
        decoded_tokens=decoded_tokens(trees),
        verdict_counts=_verdict_counts(trees),
        step_s=times.published - times.began,
        sample_wait_s=rollout.wait_s,
        train_s=times.trained - times.collected,
        publish_s=times.published - times.trained,
        reload_s=reload.pause_s,
        reload_canary_max_abs_logprob_diff=reload.canary_max_abs_logprob_diff,
        queue_prompts=rollout.queue_prompts,
        queue_trees=rollout.queue_trees,
        unix_time_s=times.unix_time_s,
        reference_kl=_reference_kl(microbatches, scores),
        corrected_fraction=fmean(update.corrected_fraction for update in updates),
        learning_rate=rate,
    )


def _reference_kl(microbatches: Sequence[Microbatch], scores: Sequence[TokenScores]) -> float:
    estimates = [
        k3(score.reference_logprob_n, score.policy_logprob_n)
        for score in scores
        if score.reference_logprob_n is not None
    ]
    return response_mean(microbatches, estimates) if estimates else 0.0


def _oldest_version(trees: Sequence[Tree]) -> int:
    return min(span.policy_version for tree in trees for branch in tree.branches for span in branch.versions)


def _verdict_counts(trees: Sequence[Tree]) -> dict[str, int]:
    verdicts = (branch.verdict for tree in trees for branch in tree.branches)
    return dict(Counter(verdict.outcome.name for verdict in verdicts if verdict is not None))
