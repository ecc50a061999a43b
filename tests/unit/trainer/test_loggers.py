"""What TensorBoard and Weights & Biases are told of a run, and told once."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from services.common.errors import ConfigurationError
from services.trainer.loggers import open_loggers, scalars
from services.trainer.records import CategoryAccuracy, Evaluation, StepMetrics
from services.trainer.run_log import RunLog
from services.trainer.settings import LoggerName, TrainerSettings

CATEGORIES = (CategoryAccuracy("algebra", 4, 3), CategoryAccuracy("geometry", 4, 0))


def step(number: int, pass_rate: float) -> StepMetrics:
    values: dict[str, Any] = {field.name: 0 for field in fields(StepMetrics)}
    changed = {"step": number, "policy_version": number, "pass_rate": pass_rate, "unix_time_s": 1000.0 + number}
    return StepMetrics(**values | changed | {"verdict_counts": {"CORRECT": 3}})


def evaluation(version: int, accuracy: float) -> Evaluation:
    return Evaluation(version, 8, accuracy, CATEGORIES, 1.0, 10)


def settings(folder: Path, *loggers: LoggerName) -> TrainerSettings:
    return TrainerSettings(
        model=folder,
        output_dir=folder,
        train_data=folder,
        samplers=("s:1",),
        steps=9,
        run="the-run",
        redis_url="redis://me:secret-word@127.0.0.1:6379/0",
        loggers=loggers,
    )


async def run_of_three_steps_then_again_from_the_second(of: TrainerSettings) -> None:
    """Steps 1, 2, 3; then a new process that goes on from the checkpoint of step 2, and does step 3 again."""
    log = RunLog(of.output_dir, open_loggers(of))
    log.open({})
    await log.append_evaluation(evaluation(0, 0.1))
    await log.append_step(step(1, 0.1), [])
    await log.append_step(step(2, 0.2), [])
    checkpoint = log.sync()
    await log.append_step(step(3, 0.3), [])
    await log.close()
    log = RunLog(of.output_dir, open_loggers(of))
    log.open(checkpoint)
    await log.append_step(step(3, 0.33), [])
    await log.append_step(step(4, 0.4), [])
    await log.append_evaluation(evaluation(4, 0.4))
    await log.close()


def test_all_numbers_of_a_record_are_shown_by_name() -> None:
    shown = scalars(step(7, 0.5))
    assert shown["train/pass_rate"] == 0.5
    assert shown["verdicts/CORRECT"] == 3
    assert not {"train/step", "train/unix_time_s"} & shown.keys()
    assert scalars(evaluation(7, 0.4)) == {"heldout/accuracy": 0.4, "heldout/algebra": 0.75, "heldout/geometry": 0.0}


async def test_tensorboard_has_every_step_once_after_a_resume(tmp_path: Path) -> None:
    await run_of_three_steps_then_again_from_the_second(settings(tmp_path, "tensorboard"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rates = [(event.step, event.wall_time, event.tensor_proto) for event in events.Tensors("train/pass_rate")]
    values = [proto.float_val[0] if proto.float_val else None for _, _, proto in rates]
    assert [(at, wall_time) for at, wall_time, _ in rates] == [(1, 1001), (2, 1002), (3, 1003), (4, 1004)]
    assert values == pytest.approx([0.1, 0.2, 0.33, 0.4])
    assert [event.step for event in events.Tensors("heldout/accuracy")] == [0, 4]


async def test_wandb_works_offline_gets_every_step_once_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    await run_of_three_steps_then_again_from_the_second(settings(tmp_path, "wandb"))
    runs = sorted(file for file in files_below(tmp_path) if file.suffix == ".wandb")
    assert len(runs) == 2  # one a process
    rows = [row for run in runs for row in history(run)]
    assert [(row["_step"], row.get("train/pass_rate")) for row in rows] == [
        ("0", None),
        ("1", "0.1"),
        ("2", "0.2"),
        ("3", "0.3"),
        ("4", "0.4"),
    ]
    assert rows[-1]["heldout/accuracy"] == "0.4"
    everything = b"".join(map(Path.read_bytes, files_below(tmp_path)))
    assert b"the-run" in everything
    assert b"secret-word" not in everything


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def history(file: Path) -> list[dict[str, str]]:
    """Rows of an offline run, JSON values by name, once wandb's own process has written all of them."""
    while not any(record.HasField("exit") for record in records(file)):
        time.sleep(0.05)
    items = [record.history.item for record in records(file) if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): item.value_json for item in row} for row in items]


def records(file: Path) -> Iterator[wandb_internal_pb2.Record]:
    """What an offline run holds so far: records in LevelDB's log format, after seven bytes."""
    data, begun = file.read_bytes(), b""
    at = 7
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # what is left of a block and holds no header is padding
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if at + 7 + length > len(data):
            return
        begun += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(begun)
            begun = b""


def test_a_missing_package_is_told_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigurationError, match=r"loggers names wandb, which is not installed: pip install 'treerl\[wandb\]'"
    ):
        open_loggers(settings(tmp_path, "wandb"))


def test_no_logger_loads_no_package_of_one() -> None:
    program = "import services.trainer.run_log, sys; print({'tensorboard', 'wandb', 'torch'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
