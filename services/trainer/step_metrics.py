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
from services.trainer.rollouts import decoded_tokens
from services.trainer.samplers import Reload
from services.trainer.step_trees import StepTrees, is_uniform


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
    trees: StepTrees,
    microbatches: Sequence[Microbatch],
    scores: Sequence[TokenScores],
    mismatch: Mismatch,
    updates: Sequence[UpdateResult],
    rate: float,
    reload: Reload,
    times: StepTimes,
) -> StepMetrics:
    """Sum a step up."""
    sampled = trees.trained + trees.uniform  # all that the policy can be judged by
    return StepMetrics(
        step=step,
        policy_version=step,
        pass_rate=fmean(reward for tree in sampled for reward in leaf_rewards(tree).values()),
        zero_variance_share=fmean(is_uniform(tree) for tree in sampled),
        loss=fmean(update.loss for update in updates),
        grad_norm=fmean(update.grad_norm for update in updates),
        clip_fraction=fmean(update.clip_fraction for update in updates),
        entropy=response_mean(microbatches, [score.entropy_n for score in scores]),
        mismatch_kl=mismatch.kl,
        mismatch_mean_abs_logprob_diff=mismatch.mean_abs,
        staleness=step - 1 - min(tree.oldest_version for tree in trees.trained),
        prompts=len(trees.trained),
        leaves=sum(len(tree.branches) for tree in sampled),
        decoded_tokens=decoded_tokens(sampled + trees.stale),
        verdict_counts=_verdict_counts(sampled),
        step_s=times.published - times.began,
        sample_wait_s=sum(rollout.wait_s for rollout in trees.rollouts),
        train_s=times.trained - times.collected,
        publish_s=times.published - times.trained,
        reload_s=reload.pause_s,
        reload_canary_max_abs_logprob_diff=reload.canary_max_abs_logprob_diff,
        queue_prompts=trees.rollouts[0].queue_prompts,
        queue_trees=trees.rollouts[0].queue_trees,
        unix_time_s=times.unix_time_s,
        reference_kl=_reference_kl(microbatches, scores),
        corrected_fraction=fmean(update.corrected_fraction for update in updates),
        stale_trees=len(trees.stale),
        uniform_trees=len(trees.uniform),
        refills=len(trees.rollouts) - 1,
        learning_rate=rate,
    )


def _reference_kl(microbatches: Sequence[Microbatch], scores: Sequence[TokenScores]) -> float:
    estimates = [
        k3(score.reference_logprob_n, score.policy_logprob_n)
        for score in scores
        if score.reference_logprob_n is not None
    ]
    return response_mean(microbatches, estimates) if estimates else 0.0


def _verdict_counts(trees: Sequence[Tree]) -> dict[str, int]:
    verdicts = (branch.verdict for tree in trees for branch in tree.branches)
    return dict(Counter(verdict.outcome.name for verdict in verdicts if verdict is not None))
