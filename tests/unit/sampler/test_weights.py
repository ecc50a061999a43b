"""Replacing weights: what is refused, and that a refusal leaves the old ones serving."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from services.common.errors import CheckpointError, PreconditionError
from services.common.published_weights import Canary, PublishedWeights, latest, publish, version_folder
from services.sampler.engine import InFlight
from services.sampler.weights import ServedWeights
from tests.scripted_engine import ScriptedEngine

CANARY = Canary(token_ids=(1, 2, 3), logprobs=(-1.0, -1.0))


def write_model(folder: Path, width: int = 4) -> None:
    save_file({"embed": np.ones((8, width), np.float32)}, folder / "model.safetensors")


def published(root: Path, version: int, width: int = 4) -> PublishedWeights:
    return publish(root, version, [CANARY], lambda folder: write_model(folder, width))


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def served(engine: ScriptedEngine, tmp_path: Path) -> ServedWeights:
    start = tmp_path / "start"
    start.mkdir()
    write_model(start)
    return ServedWeights(engine, start, 0, "", tolerance_nats=1e-3)


async def load(served: ServedWeights, weights: PublishedWeights) -> None:
    await served.load(weights.folder, weights.policy_version, weights.checksum, InFlight.WAIT)


async def test_a_load_serves_the_new_version_and_wakes_those_who_wait(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    waiting = asyncio.create_task(served.wait_for(3))
    await load(served, published(tmp_path / "w", 3))
    await asyncio.wait_for(waiting, 1)
    assert (served.policy_version, engine.policy_version) == (3, 3)


def _remove_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _damage_shard(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def _unfinish(folder: Path) -> None:
    (folder / "STABLE").unlink()


def _forge_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"policy_version": 9}))


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (_remove_shard, "lacks model.safetensors"),
        (_damage_shard, "has checksum"),
        (_unfinish, "no STABLE marker"),
        (_forge_manifest, "expected version 1"),
    ],
)
async def test_a_broken_folder_never_reaches_the_engine(
    served: ServedWeights,
    engine: ScriptedEngine,
    tmp_path: Path,
    harm: Callable[[Path], None],
    complaint: str,
) -> None:
    weights = published(tmp_path / "w", 1)
    harm(weights.folder)
    with pytest.raises(CheckpointError, match=complaint):
        await load(served, weights)
    assert (engine.loaded, served.policy_version) == ([], 0)


async def test_another_models_tensors_never_reach_the_engine(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="not those of the model"):
        await load(served, published(tmp_path / "w", 1, width=5))
    assert engine.loaded == []


async def test_a_wrong_canary_brings_the_old_weights_back(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.canary_error = 0.2
    with pytest.raises(CheckpointError, match=r"differ from the trainer's by 2\.00e-01"):
        await load(served, published(tmp_path / "w", 1))
    assert engine.loaded[-1] == tmp_path / "start"
    assert (served.policy_version, engine.policy_version) == (0, 0)


async def test_without_its_old_weights_a_sampler_samples_no_more(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = False

    async def refuse(folder: Path, policy_version: int) -> None:
        raise OSError("gone")

    async def resume() -> None:
        nonlocal resumed
        resumed = True

    monkeypatch.setattr(engine, "replace_weights", refuse)
    monkeypatch.setattr(engine, "resume", resume)
    with pytest.raises(OSError, match="gone"):
        await load(served, published(tmp_path / "w", 1))
    assert (served.intact, resumed) == (False, False)


async def test_the_served_folder_may_be_dropped_before_the_next_load(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "start")
    await load(served, published(tmp_path / "w", 1))
    assert engine.policy_version == 1


async def test_a_second_load_at_once_is_refused(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = asyncio.Event()

    async def slow_pause(in_flight: InFlight) -> None:
        await going_on.wait()

    monkeypatch.setattr(engine, "pause", slow_pause)
    first = asyncio.create_task(load(served, published(tmp_path / "w", 1)))
    await asyncio.sleep(0.05)
    with pytest.raises(PreconditionError, match="another checkpoint"):
        await load(served, published(tmp_path / "w", 2))
    going_on.set()
    await first


def test_an_unfinished_publication_is_never_the_latest(tmp_path: Path) -> None:
    def killed_in_the_middle(folder: Path) -> None:
        write_model(folder)
        raise KeyboardInterrupt

    published(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, 2, [], killed_in_the_middle)
    assert latest(tmp_path) == version_folder(tmp_path, 1)
    assert latest(tmp_path / "nowhere") is None


def test_old_publications_are_dropped(tmp_path: Path) -> None:
    for version in range(6):
        published(tmp_path, version)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [f"v{v:08d}" for v in (3, 4, 5)]
