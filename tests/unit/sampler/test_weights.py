"""Replacing weights: what is refused, and that a refusal leaves the old ones serving."""

import asyncio
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from services.common import metrics
from services.common.errors import CanaryError, CheckpointError, UnavailableError
from services.common.published_weights import Canary, PublishedWeights, publish, unpublished
from services.sampler.engine import InFlight
from services.sampler.weights import Loaded, ServedWeights
from tests.scripted_engine import ScriptedEngine

CANARY = Canary(token_ids=(1, 2, 3), logprobs=(-1.0, -1.0))
INDEX = "model.safetensors.index.json"


class Trust:
    """What a health service would have been told."""

    def __init__(self) -> None:
        self.said: list[bool] = []

    async def __call__(self, trusted: bool) -> None:
        self.said.append(trusted)


def write_model(folder: Path, embed: npt.NDArray[np.generic] | None = None) -> None:
    """A model in two shards, with the index that says which tensor is where."""
    embed = np.ones((8, 4), np.float32) if embed is None else embed
    save_file({"embed": embed}, folder / "one.safetensors")
    save_file({"head": np.ones((8, 4), np.float32)}, folder / "two.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"embed": "one.safetensors", "head": "two.safetensors"}}))


def published(root: Path, version: int, write: Callable[[Path], None] = write_model) -> PublishedWeights:
    return publish(root, version, [CANARY], write)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def trust() -> Trust:
    return Trust()


@pytest.fixture
async def served(engine: ScriptedEngine, trust: Trust, tmp_path: Path) -> ServedWeights:
    """Serves version 1."""
    start = tmp_path / "start"
    start.mkdir()
    write_model(start)
    served = ServedWeights(engine, unpublished(start), tolerance_nats=1e-3, on_trust=trust)
    await load(served, published(tmp_path / "w", 1))
    return served


async def load(served: ServedWeights, weights: PublishedWeights, in_flight: InFlight = InFlight.WAIT) -> Loaded:
    return await served.load(weights.folder, weights.policy_version, weights.checksum, in_flight)


def count(result: str) -> float:
    return metrics.RELOADS.labels(result)._value.get()


async def test_a_load_serves_the_new_version_and_wakes_those_who_wait(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    waiting = asyncio.create_task(served.wait_for(3))
    await load(served, published(tmp_path / "w", 3))
    await asyncio.wait_for(waiting, 1)
    assert (served.policy_version, engine.policy_version) == (3, 3)


def _remove_shard(folder: Path) -> None:
    (folder / "two.safetensors").unlink()


def _damage_shard(folder: Path) -> None:
    path = folder / "one.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def _truncate_shard(folder: Path) -> None:
    path = folder / "one.safetensors"
    path.write_bytes(path.read_bytes()[:40])


def _unfinish(folder: Path) -> None:
    (folder / "STABLE").unlink()


def _change_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _forge_version(folder: Path) -> None:
    _change_manifest(folder, policy_version=9)


def _forget_canary(folder: Path) -> None:
    _change_manifest(folder, canaries=[])


def _shorten_canary(folder: Path) -> None:
    _change_manifest(folder, canaries=[{"token_ids": [1, 2, 3], "logprobs": [-1.0]}])


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (_remove_shard, "lacks two.safetensors"),
        (_damage_shard, "has checksum"),
        (_truncate_shard, "has checksum"),
        (_unfinish, "no STABLE marker"),
        (shutil.rmtree, "does not exist"),
        (_forge_version, "expected version 2"),
        (_forget_canary, "has no canary"),
        (_shorten_canary, "a canary of 3 tokens has 1 logprobs"),
    ],
)
async def test_a_broken_folder_never_reaches_the_engine(
    served: ServedWeights,
    engine: ScriptedEngine,
    trust: Trust,
    tmp_path: Path,
    harm: Callable[[Path], None],
    complaint: str,
) -> None:
    weights = published(tmp_path / "w", 2)
    before, refused = list(engine.loaded), count("refused")
    harm(weights.folder)
    with pytest.raises(CheckpointError, match=complaint):
        await load(served, weights)
    assert (engine.loaded, served.policy_version, trust.said) == (before, 1, [])
    assert count("refused") == refused + 1


def _write_without_shard(folder: Path) -> None:
    write_model(folder)
    (folder / "two.safetensors").unlink()


def _write_empty_shard(folder: Path) -> None:
    write_model(folder)
    save_file({}, folder / "two.safetensors")


def _write_unlisted_tensor(folder: Path) -> None:
    write_model(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"embed": "one.safetensors"}}))


def _write_narrow(folder: Path) -> None:
    write_model(folder, np.ones((8, 5), np.float32))


def _write_half(folder: Path) -> None:
    write_model(folder, np.ones((8, 4), np.float16))


def _write_integers(folder: Path) -> None:
    write_model(folder, np.ones((8, 4), np.int8))


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (_write_without_shard, "cannot be read: .*two.safetensors"),
        (_write_empty_shard, "two.safetensors lacks head, which model.safetensors.index.json says it holds"),
        (_write_unlisted_tensor, r"head is missing, expected F32 \[8, 4\]"),
        (_write_narrow, r"embed is F32 \[8, 5\], expected F32 \[8, 4\]"),
        (_write_half, r"embed is F16 \[8, 4\], expected F32 \[8, 4\]"),
    ],
)
async def test_what_the_trainer_wrote_wrongly_never_reaches_the_engine_though_its_checksums_are_right(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path, write: Callable[[Path], None], complaint: str
) -> None:
    before = list(engine.loaded)
    with pytest.raises(CheckpointError, match=complaint):
        await load(served, published(tmp_path / "w", 2, write))
    assert (engine.loaded, served.policy_version) == (before, 1)


async def test_the_first_trainer_may_publish_in_another_precision_but_not_in_integers(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    write_model(tmp_path)
    served = ServedWeights(engine, unpublished(tmp_path), tolerance_nats=1e-3)
    with pytest.raises(CheckpointError, match="embed is I8"):
        await load(served, published(tmp_path / "w", 1, _write_integers))
    await load(served, published(tmp_path / "w", 1, _write_half))
    assert served.policy_version == 1


async def test_a_tied_output_layer_may_be_written_or_not(engine: ScriptedEngine, tmp_path: Path) -> None:
    def write_tied(folder: Path) -> None:
        save_file({"embed": np.ones((8, 4), np.float32)}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"tie_word_embeddings": true}')

    write_tied(tmp_path)
    both = {name: np.ones((8, 4), np.float32) for name in ("embed", "lm_head.weight")}
    save_file(both, tmp_path / "model.safetensors")
    served = ServedWeights(engine, unpublished(tmp_path), tolerance_nats=1e-3)
    await load(served, published(tmp_path / "w", 1, write_tied))
    assert served.policy_version == 1


@pytest.mark.parametrize("error", [0.2, math.nan, math.inf])
async def test_a_wrong_canary_brings_the_old_weights_back_and_costs_the_trust_until_a_good_load(
    served: ServedWeights, engine: ScriptedEngine, trust: Trust, tmp_path: Path, error: float
) -> None:
    weights, failed = published(tmp_path / "w", 2), count("wrong canary")
    engine.canary_errors[2] = error
    with pytest.raises(CanaryError, match=f"after loading version 2 .* differ from the trainer's by {error:.2e} nats"):
        await load(served, weights)
    assert (served.policy_version, engine.policy_version, engine.paused) == (1, 1, False)
    assert (served.trusted, served.intact, trust.said) == (False, True, [False])
    assert count("wrong canary") == failed + 1

    engine.canary_errors[2] = 0.0
    await load(served, weights)
    assert (served.policy_version, served.trusted, trust.said) == (2, True, [False, True])


async def test_one_logprob_that_is_not_a_number_spoils_a_canary_of_many(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def score(token_ids: tuple[int, ...], replica: int) -> tuple[float, ...]:
        return (-1.0, math.nan if engine.policy_version == 2 else -1.0)

    monkeypatch.setattr(engine, "score", score)
    with pytest.raises(CanaryError, match="by nan nats"):
        await load(served, published(tmp_path / "w", 2))
    assert served.policy_version == 1


async def test_every_replica_must_prove_its_weights(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.replicas, engine.canary_errors[2] = 3, 0.2
    with pytest.raises(CanaryError):
        await load(served, published(tmp_path / "w", 2))


async def test_completions_that_ran_under_refused_weights_begin_anew(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.canary_errors[2] = 0.2
    with pytest.raises(CanaryError):
        await load(served, published(tmp_path / "w", 2), InFlight.KEEP)
    assert engine.pauses[-2:] == [InFlight.KEEP, InFlight.ABORT]


async def test_a_load_under_way_is_not_taken_for_a_loss(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, seen = engine.replace_weights, []

    async def replace_watched(folder: Path, policy_version: int) -> None:
        await replace(folder, policy_version)
        seen.append((served.intact, served.trusted, served.policy_version))

    monkeypatch.setattr(engine, "replace_weights", replace_watched)
    await load(served, published(tmp_path / "w", 2))
    assert seen == [(True, True, 1)]


async def test_weights_that_the_engine_cannot_read_are_refused_without_loss_of_trust(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    weights = published(tmp_path / "w", 2)
    engine.unreadable = {weights.folder}
    with pytest.raises(CheckpointError, match="cannot read"):
        await load(served, weights)
    assert (served.policy_version, engine.policy_version, served.trusted, engine.paused) == (1, 1, True, False)


async def test_without_its_old_weights_a_sampler_samples_no_more(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    weights = published(tmp_path / "w", 2)
    engine.unreadable = {weights.folder, served.now.folder}
    with pytest.raises(
        UnavailableError, match=r"cannot read .*v00000002; the weights before are lost too: .*v00000001"
    ):
        await load(served, weights)
    assert (served.intact, engine.paused) == (False, True)


async def test_old_weights_that_come_back_wrong_are_lost(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.canary_errors = {1: 0.1, 2: 0.2}
    with pytest.raises(CanaryError, match=r"by 2\.00e-01 .* lost too: after loading version 1 .* by 1\.00e-01"):
        await load(served, published(tmp_path / "w", 2))
    assert (served.intact, engine.paused) == (False, True)


async def test_a_model_without_a_canary_comes_back_proven_by_its_own_scores(
    engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path)
    served = ServedWeights(engine, unpublished(tmp_path), tolerance_nats=1e-3)
    engine.canary_errors[1] = 0.2
    weights = published(tmp_path / "w", 1)
    with pytest.raises(CanaryError):
        await load(served, weights)
    assert (served.policy_version, served.intact) == (0, True)

    replace = engine.replace_weights

    async def replace_for_ever(folder: Path, policy_version: int) -> None:
        await replace(folder, policy_version)
        engine.canary_errors[0] = 0.1

    monkeypatch.setattr(engine, "replace_weights", replace_for_ever)
    with pytest.raises(CheckpointError, match="lost too"):
        await load(served, weights)
    assert not served.intact


async def test_a_load_ends_also_if_its_caller_goes_away(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.pausing.clear()
    calling = asyncio.create_task(load(served, published(tmp_path / "w", 2)))
    while not engine.paused:
        await asyncio.sleep(0.01)
    calling.cancel()
    await asyncio.wait({calling})
    engine.pausing.set()
    async with asyncio.timeout(1):
        await served.wait_for(2)
    assert (engine.policy_version, engine.paused) == (2, False)


async def test_the_served_folder_may_be_dropped_before_the_next_load(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    shutil.rmtree(served.now.folder)
    await load(served, published(tmp_path / "w", 2))
    assert engine.policy_version == 2


async def test_a_second_load_at_once_is_put_off(served: ServedWeights, engine: ScriptedEngine, tmp_path: Path) -> None:
    engine.pausing.clear()
    first = asyncio.create_task(load(served, published(tmp_path / "w", 2)))
    while not engine.paused:
        await asyncio.sleep(0.01)
    with pytest.raises(UnavailableError, match="another checkpoint"):
        await load(served, published(tmp_path / "w", 3))
    engine.pausing.set()
    await first
