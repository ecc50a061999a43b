"""The run's record on disk, for Prometheus, and for whoever watches.

    metrics.jsonl       one JSON object a step: the fields of `StepMetrics`
    evaluations.jsonl   one JSON object an evaluation: the fields of `Evaluation`
    trees.jsonl.zst     one JSON object a trained tree: {"step", "tree", "segments"}; one Zstandard frame a step, so
                        read it with `read_across_frames=True`

`tree` is the JSON form of the protobuf message; each segment is {"id", "parent_id", "branch_id", "start", "end",
"leaves", "value", "weight"} with |L(s)|, V(s) and the weight of `advantages`, normalized as it was trained on.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
import zstandard
from google.protobuf.json_format import MessageToDict

from services.common import codec, metrics
from services.trainer.advantages import WeightedTree
from services.trainer.loggers import Logger
from services.trainer.records import CategoryAccuracy, Evaluation, Record, StepMetrics
from services.trainer.tree_statistics import show_tree_statistics, tree_statistics

_METRICS, _EVALUATIONS, _TREES = "metrics.jsonl", "evaluations.jsonl", "trees.jsonl.zst"

log = structlog.get_logger()


class RunLog:
    """Appends records, and hands them to any number of watchers."""

    def __init__(self, folder: Path, loggers: Sequence[Logger] = ()) -> None:
        """
        Args:
            folder: of the run.
            loggers: are told everything that is recorded.
        """
        self._folder = folder
        self._loggers = loggers
        self._records: list[Record] = []
        self._changed = asyncio.Condition()
        self._closed = False

    @property
    def steps(self) -> list[StepMetrics]:
        """Metrics of every step so far."""
        return [record for record in self._records if isinstance(record, StepMetrics)]

    def open(self, offsets: Mapping[str, int]) -> None:
        """Go on where a checkpoint left the files; what lies after it is cut off.

        Args:
            offsets: bytes to keep of each file; a file not named starts empty.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in (_METRICS, _EVALUATIONS, _TREES):
            with (self._folder / name).open("ab") as file:
                file.truncate(offsets.get(name, 0))
        steps = [StepMetrics(**row) for row in _read_lines(self._folder / _METRICS)]
        evaluations = [_evaluation(row) for row in _read_lines(self._folder / _EVALUATIONS)]
        self._records = sorted([*steps, *evaluations], key=lambda r: (r.policy_version, isinstance(r, Evaluation)))
        for logger in self._loggers:
            logger.start(self._records)

    async def append_step(self, step: StepMetrics, trees: Sequence[WeightedTree]) -> None:
        """Record a step and the trees that it trained on, with the weights of their segments."""
        lines = "".join(json.dumps(_tree_row(step.step, tree)) + "\n" for tree in trees).encode()
        self._append(_TREES, zstandard.ZstdCompressor().compress(lines))
        self._append(_METRICS, (json.dumps(asdict(step)) + "\n").encode())
        _show_step(step)
        show_tree_statistics(tree_statistics(trees))
        await self._publish(step)

    async def append_evaluation(self, evaluation: Evaluation) -> None:
        """Record an evaluation."""
        self._append(_EVALUATIONS, (json.dumps(asdict(evaluation)) + "\n").encode())
        metrics.HELDOUT_ACCURACY.set(evaluation.accuracy)
        log.info("evaluated", policy_version=evaluation.policy_version, accuracy=round(evaluation.accuracy, 4))
        await self._publish(evaluation)

    def sync(self) -> dict[str, int]:
        """Force all files to disk.

        Returns:
            The bytes of each, for a checkpoint.
        """
        offsets = {}
        for name in (_METRICS, _EVALUATIONS, _TREES):
            with (self._folder / name).open("ab") as file:
                os.fsync(file.fileno())
                offsets[name] = file.tell()
        return offsets

    async def watch(self, from_step: int) -> AsyncIterator[Record]:
        """Every record from a step on, those to come included, until the log is closed.

        The evaluation of the weights that the step starts from comes too.
        """
        sent = 0
        while True:
            async with self._changed:
                while not self._closed and len(self._records) == sent:
                    await self._changed.wait()
                fresh = self._records[sent:]
            if not fresh:
                return
            sent += len(fresh)
            for record in fresh:
                # the evaluation of version v comes before step v + 1
                position = record.step if isinstance(record, StepMetrics) else record.policy_version + 1
                if position >= from_step:
                    yield record

    async def close(self) -> None:
        """End every watch once it has sent everything, and every logger."""
        for logger in self._loggers:
            await asyncio.to_thread(logger.close)  # one may still have to send
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _append(self, name: str, data: bytes) -> None:
        with (self._folder / name).open("ab") as file:
            file.write(data)

    async def _publish(self, record: Record) -> None:
        for logger in self._loggers:
            logger.write(record)
        async with self._changed:
            self._records.append(record)
            self._changed.notify_all()


def _read_lines(path: Path) -> Iterable[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _evaluation(row: dict[str, Any]) -> Evaluation:
    categories = tuple(CategoryAccuracy(**category) for category in row.pop("categories"))
    pass_at = {int(k): value for k, value in row.pop("pass_at", {}).items()}
    return Evaluation(categories=categories, pass_at=pass_at, **row)


def _tree_row(step: int, weighted: WeightedTree) -> dict[str, Any]:
    return {
        "step": step,
        "tree": MessageToDict(codec.encode_tree(weighted.tree), preserving_proto_field_name=True),
        "segments": [
            {
                "id": piece.segment.id,
                "parent_id": piece.segment.parent_id,
                "branch_id": piece.segment.branch_id,
                "start": piece.segment.start,
                "end": piece.segment.end,
                "leaves": piece.leaves,
                "value": piece.value,
                "weight": piece.weight,
            }
            for piece in weighted.segments
        ],
    }


def _show_step(step: StepMetrics) -> None:
    metrics.STEP.set(step.step)
    metrics.STEP_TIMESTAMP.set(step.unix_time_s)
    metrics.PASS_RATE.set(step.pass_rate)
    metrics.ZERO_VARIANCE_SHARE.set(step.zero_variance_share)
    metrics.LOSS.set(step.loss)
    metrics.LEARNING_RATE.set(step.learning_rate)
    metrics.GRAD_NORM.set(step.grad_norm)
    metrics.CLIP_FRACTION.set(step.clip_fraction)
    metrics.ENTROPY.set(step.entropy)
    metrics.MISMATCH_KL.set(step.mismatch_kl)
    metrics.MISMATCH_ABS.set(step.mismatch_mean_abs_logprob_diff)
    metrics.REFERENCE_KL.set(step.reference_kl)
    metrics.CORRECTED_FRACTION.set(step.corrected_fraction)
    metrics.STALENESS.set(step.staleness)
    metrics.STALE_TREES.inc(step.stale_trees)
    metrics.UNIFORM_TREES.inc(step.uniform_trees)
    metrics.REFILLS.inc(step.refills)
    phases = {"sample_wait": step.sample_wait_s, "train": step.train_s, "publish": step.publish_s, "step": step.step_s}
    for phase, seconds in phases.items():
        metrics.STEP_SECONDS.labels(phase).set(seconds)
    log.info("step done", step=step.step, pass_rate=round(step.pass_rate, 4), seconds=round(step.step_s, 2))
