"""The figures of a finished run, from its records."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from services.cli.comparison import Comparison, by_category, overall
from services.cli.run_folder import RunFolder
from services.cli.shares import Interval
from services.common.errors import PreconditionError
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2


def summarize_folder(folder: RunFolder) -> dict[str, Any]:
    """The summary of a run's folder; method and seed come from the configuration that it keeps.

    Raises:
        PreconditionError: see `summarize`.
    """
    trainer = folder.configuration().get("trainer", {})
    method = "treerl" if trainer.get("search", {}).get("forks") != 0 else "chainrl"
    return summarize(method, trainer.get("seed", 0), folder.steps(), folder.evaluations())


def summarize(
    method: str,
    seed: int,
    steps: Sequence[trainer_pb2.StepMetrics],
    evaluations: Sequence[trainer_pb2.Evaluation],
) -> dict[str, Any]:
    """Everything that `summary.json` holds; times in seconds, log-probabilities in nats.

    Args:
        method: how the run was trained.
        seed: of the run.
        steps: metrics of every step.
        evaluations: by policy version: the first is "before", the last is "after".

    Raises:
        PreconditionError: the run has no step yet, or was not evaluated before and after.
    """
    if not steps or len(evaluations) < 2:
        raise PreconditionError(
            f"a summary needs a step and an evaluation before and after: "
            f"the run has {len(steps)} steps and {len(evaluations)} evaluations"
        )
    before, after = evaluations[0], evaluations[-1]
    accuracy = overall(before, after)
    verdicts: Counter[str] = Counter()
    for step in steps:
        verdicts.update(step.verdict_counts)
    return {
        "method": method,
        "seed": seed,
        "steps": len(steps),
        "heldout_accuracy_before": before.accuracy,
        "heldout_accuracy_after": after.accuracy,
        "heldout_n": after.problems,
        "heldout_before_ci95": _pair(accuracy.before.interval),
        "heldout_after_ci95": _pair(accuracy.after.interval),
        "heldout_gain_ci95": _pair(accuracy.gain_interval),
        "heldout_by_category": [_row(comparison) for comparison in by_category(before, after)],
        "prompts": sum(step.prompts for step in steps),
        "leaves": sum(step.leaves for step in steps),
        "decoded_tokens": sum(step.decoded_tokens for step in steps),
        "wall_s": sum(step.step_s for step in steps) + sum(e.wall_s for e in evaluations),
        "sample_s": sum(step.sample_wait_s for step in steps),
        "train_s": sum(step.train_s for step in steps),
        "publish_s": sum(step.publish_s for step in steps),
        "evaluation_s": sum(e.wall_s for e in evaluations),
        "reload_s_p50": median(step.reload_s for step in steps),
        "reload_canary_max_abs_logprob_diff": max(step.reload_canary_max_abs_logprob_diff for step in steps),
        "mismatch_kl": fmean(step.mismatch_kl for step in steps),
        "mismatch_kl_max": max(step.mismatch_kl for step in steps),
        "staleness_max": max(step.staleness for step in steps),
        "verdict_counts": dict(sorted(verdicts.items())),
    }


def _pair(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _row(comparison: Comparison) -> dict[str, Any]:
    return {
        "category": comparison.label,
        "problems": comparison.after.total,
        "accuracy_before": comparison.before.value,
        "accuracy_after": comparison.after.value,
        "before_ci95": _pair(comparison.before.interval),
        "after_ci95": _pair(comparison.after.interval),
        "gain_ci95": _pair(comparison.gain_interval),
    }
