"""What a run leaves in its folder: steps, evaluations, and trees with their values."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import zstandard
from google.protobuf import json_format
from google.protobuf.message import Message

from services.cli.documents import read_document
from services.common import codec
from services.common.errors import InvalidRequestError, NotFoundError
from services.common.tree import Segment, Tree, segments
from treerl.common.v1 import tree_pb2
from treerl.trainer.v1 import trainer_service_pb2 as trainer_pb2

MessageT = TypeVar("MessageT", bound=Message)


@dataclass(frozen=True, slots=True)
class ValuedSegment:
    """A segment, its value V, and its process reward R; None where no leaf below it has a known verdict."""

    segment: Segment
    value: float | None
    reward: float | None


@dataclass(frozen=True, slots=True)
class TrainedTree:
    """A tree as one training step used it."""

    step: int
    tree: Tree
    segments: tuple[ValuedSegment, ...]


class RunFolder:
    """Reads a run's records; a folder of a run that still goes is read as far as it is written."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the trainer's output folder.

        Raises:
            NotFoundError: no such folder.
        """
        if not path.is_dir():
            raise NotFoundError(f"{path} is not the folder of a run: no such folder")
        self.path = path

    def configuration(self) -> dict[str, Any]:
        """The run's effective configuration; empty where it keeps none."""
        path = self.path / "config.toml"
        return read_document(path) if path.exists() else {}

    def steps(self) -> list[trainer_pb2.StepMetrics]:
        """Metrics of every step, in order; of a step that was done again after a crash, the last."""
        records = _records(self.path / "metrics.jsonl", trainer_pb2.StepMetrics)
        return [step for _, step in sorted({step.step: step for step in records}.items())]

    def evaluations(self) -> list[trainer_pb2.Evaluation]:
        """Every evaluation, by policy version."""
        records = _records(self.path / "evaluations.jsonl", trainer_pb2.Evaluation)
        return [evaluation for _, evaluation in sorted({e.policy_version: e for e in records}.items())]

    def trees(self) -> Iterator[TrainedTree]:
        """The recorded trees, in the order of training."""
        path = self.path / "trees.jsonl.zst"
        if not path.exists():
            return
        with path.open("rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            for number, line in enumerate(io.TextIOWrapper(reader, encoding="utf-8"), start=1):
                yield _trained_tree(line, f"{path}, tree {number}")

    def tokenizer_file(self) -> Path | None:
        """The tokenizer of the weights published last, or, where they were broadcast, of the newest checkpoint."""
        published = max(self.path.glob("weights/*/tokenizer.json"), default=None)
        return published or max(self.path.glob("checkpoints/*/model/tokenizer.json"), default=None)


def _records(path: Path, message_type: type[MessageT]) -> list[MessageT]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        # the last line may be half written: the run may still go, or was killed there
        return [json_format.Parse(line, message_type()) for line in lines if line.endswith("\n")]
    except json_format.ParseError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}") from error


def _trained_tree(line: str, place: str) -> TrainedTree:
    try:
        row: dict[str, Any] = json.loads(line)
        tree = codec.decode_tree(json_format.ParseDict(row["tree"], tree_pb2.Tree()))
        numbers = {int(entry["id"]): entry for entry in row["segments"]}
        valued = tuple(
            ValuedSegment(segment, numbers[segment.id]["value"], numbers[segment.id]["weight"])
            for segment in segments(tree.branches)
        )
        return TrainedTree(int(row["step"]), tree, valued)
    except (ValueError, KeyError, TypeError, json_format.ParseError, InvalidRequestError) as error:
        raise InvalidRequestError(f"{place} cannot be read: {error!r}") from error
