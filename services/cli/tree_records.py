"""Trees with rewards, read from JSONL: segments as the authors' code records them, or a run's own trees.

    {"case", "segments": [{"id", "parent", "num_tokens", "reward"}, …], "selected_leaves"?, "reweight"?}
    {"step", "tree", "segments"}      a row of trees.jsonl.zst

In the first form the segment without a parent (-1) is the root, which stands for the prompt; a parent comes before its
children; the leaves are the segments without children, and a leaf whose reward is null counts as not sampled, also
where it is selected.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from google.protobuf import json_format
from pydantic import BaseModel, Field, ValidationError

from services.common import codec
from services.common.errors import InvalidRequestError, NotFoundError
from services.common.problem import describe
from services.common.tree import Segment, segments
from services.trainer.advantages import leaf_rewards, selection_seed
from services.trainer.official_advantages import Reweight
from treerl.common.v1 import tree_pb2

_NO_PARENT = -1

_LARGEST_REWARD = 1e12
"""Far from where sums of rewards are no numbers any more."""


class _Segment(BaseModel):
    """A segment of the first form."""

    id: int
    parent: int
    num_tokens: int = Field(ge=0)
    reward: float | None = Field(default=None, ge=-_LARGEST_REWARD, le=_LARGEST_REWARD)


class _Row(BaseModel):
    """A tree of the first form; other keys, such as the search's shape, are the author's business."""

    case: str | int
    segments: list[_Segment] = Field(min_length=2)
    selected_leaves: list[int] | None = None
    reweight: Reweight = "sqrt"


@dataclass(frozen=True, slots=True)
class TreeRecord:
    """A tree of which only what advantages depend on is known.

    Attributes:
        case: its name.
        seed: what a selection of its leaves follows.
        pieces: its segments.
        names: what the file calls each of them.
        rewards: of every graded leaf.
        selected: graded leaves that the row selects; None where it leaves that open.
        reweight: what the authors' code divided sums by.
    """

    case: str | int
    seed: str
    pieces: Sequence[Segment]
    names: Sequence[int]
    rewards: Mapping[int, float]
    selected: Sequence[int] | None
    reweight: Reweight


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a file, which may be compressed by Zstandard (.zst), the first being 1; blank ones are left out.

    Raises:
        NotFoundError: the file cannot be read.
        InvalidRequestError: it is not what its name says.
    """
    try:
        with path.open("rb") as file:
            compressed = path.suffix == ".zst"
            lines = (
                io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
                if compressed
                else file
            )
            yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error
    except zstandard.ZstdError as error:
        raise InvalidRequestError(f"{path} is not a Zstandard file: {error}") from error


def parse_tree(line: bytes) -> TreeRecord:
    """Read one line.

    Raises:
        InvalidRequestError: it is no such row; says what is wrong.
    """
    try:
        row: Any = json.loads(line.strip())  # or a missing end would be told to be in a second line
        if not isinstance(row, dict):
            raise InvalidRequestError(f"expected a JSON object, got {type(row).__name__}")
        return _trained_tree(row["tree"]) if "tree" in row else _recorded_tree(_Row.model_validate(row))
    except ValidationError as error:
        raise InvalidRequestError(describe(error)) from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"not JSON text: {error}") from error


def _trained_tree(message: Any) -> TreeRecord:
    try:
        tree = codec.decode_tree(json_format.ParseDict(message, tree_pb2.Tree()))
    except (json_format.ParseError, TypeError) as error:  # the latter where a number stands for a message
        raise InvalidRequestError(f"tree: {error}") from error
    pieces = segments(tree.branches)
    names = [piece.id for piece in pieces]
    return TreeRecord(tree.tree_id, selection_seed(tree), pieces, names, leaf_rewards(tree), None, "sqrt")


def _recorded_tree(row: _Row) -> TreeRecord:
    _check_shape(row.segments)
    root, *others = row.segments
    parents = {segment.id: segment.parent for segment in others}
    leaf_ids: dict[int, list[int]] = {segment.id: [] for segment in others}
    leaves = [segment for segment in others if segment.id not in parents.values()]
    for leaf in leaves:
        above = leaf.id
        while above != root.id:
            leaf_ids[above].append(leaf.id)
            above = parents[above]
    places = {segment.id: place for place, segment in enumerate(others)}
    ends = {root.id: 0}
    pieces: list[Segment] = []
    for place, segment in enumerate(others):
        start = ends[segment.parent]
        ends[segment.id] = start + segment.num_tokens
        below = tuple(leaf_ids[segment.id])
        pieces.append(Segment(place, places.get(segment.parent), below[0], start, ends[segment.id], below))
    rewards = {leaf.id: leaf.reward for leaf in leaves if leaf.reward is not None}
    selected = _graded_selection(row.selected_leaves, {leaf.id for leaf in leaves}, rewards)
    return TreeRecord(row.case, str(row.case), pieces, list(places), rewards, selected, row.reweight)


def _graded_selection(
    selected: Sequence[int] | None, leaf_ids: AbstractSet[int], rewards: Mapping[int, float]
) -> list[int] | None:
    for leaf_id, times in Counter(selected or ()).items():
        if leaf_id not in leaf_ids:
            raise InvalidRequestError(f"selected leaf {leaf_id} is no leaf")
        if times > 1:
            raise InvalidRequestError(f"leaf {leaf_id} is selected {times} times: expected once")
    return None if selected is None else [leaf_id for leaf_id in selected if leaf_id in rewards]


def _check_shape(rows: Sequence[_Segment]) -> None:
    inner = {segment.parent for segment in rows}
    seen: set[int] = set()
    for segment in rows:
        if segment.id in seen:
            raise InvalidRequestError(f"segment {segment.id} is there twice")
        if segment.parent not in (seen or {_NO_PARENT}):
            raise InvalidRequestError(
                f"segment {segment.id} has parent {segment.parent}: the root comes first and has parent {_NO_PARENT}, "
                "and every other segment comes after its parent"
            )
        if segment.id in inner and segment.reward is not None:
            raise InvalidRequestError(f"segment {segment.id} has children and a reward: rewards are for leaves")
        seen.add(segment.id)
