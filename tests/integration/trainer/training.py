"""Runs of the trainer in a test's own process, and what they leave behind."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from services.trainer.run_control import RunControl
from services.trainer.run_log import RunLog
from services.trainer.settings import TrainerSettings
from services.trainer.train import train
from services.trainer.training_run import open_run

MakeSettings = Callable[..., TrainerSettings]


async def run_to_end(settings: TrainerSettings) -> RunControl:
    control, run_log = RunControl(), RunLog(settings.output_dir)
    async with open_run(settings, control, run_log) as run:
        await train(run)
    return control


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def trained_trees(settings: TrainerSettings) -> list[dict[str, Any]]:
    with (settings.output_dir / "trees.jsonl.zst").open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return [json.loads(line) for line in io.TextIOWrapper(reader, encoding="utf-8")]


def trained_tree_ids(output_dir: Path) -> list[str]:
    """Ids of the trees that a run trained on, in its order."""
    with (output_dir / "trees.jsonl.zst").open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        return [json.loads(line)["tree"]["tree_id"] for line in io.TextIOWrapper(reader, encoding="utf-8")]
