"""Checkpoints are there whole or not at all."""

from pathlib import Path

import pytest

from services.common.checkpoint import Checkpoints
from services.common.errors import CheckpointError


def write_state(folder: Path) -> None:
    (folder / "deepspeed").mkdir()
    (folder / "deepspeed" / "weights").write_bytes(b"weights")


def test_the_newest_is_found_again_and_old_ones_go(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, {"metrics.jsonl": 10 * step}, write_state)

    latest = Checkpoints(tmp_path).latest()

    assert latest is not None
    assert (latest.step, latest.log_offsets) == (3, {"metrics.jsonl": 30})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_none_is_found_in_an_empty_or_missing_folder(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "missing").latest() is None


def test_a_write_that_fails_half_way_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {}, write_state)

    def write_half(folder: Path) -> None:
        write_state(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(2, {}, write_half)

    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 1
    assert checkpoints.save(2, {}, write_state).step == 2


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "no run.json"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {}, write_state)
    folder = checkpoints.save(2, {}, write_state).folder
    if damage == "changed":
        (folder / "deepspeed" / "weights").write_bytes(b"other")
    elif damage == "missing":
        (folder / "deepspeed" / "weights").unlink()
    elif damage == "added":
        (folder / "more").touch()
    else:
        (folder / "run.json").unlink()

    latest = checkpoints.latest()

    assert latest is not None
    assert latest.step == 1


def test_only_damaged_ones_are_an_error(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(1, {}, write_state).folder
    (folder / "run.json").write_text("{}")

    with pytest.raises(CheckpointError, match="set resume to never"):
        checkpoints.latest()
