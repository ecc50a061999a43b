"""Weights by broadcast: what is refused before the engine sees it, and what becomes of one that breaks off."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from services.common.errors import (
    BroadcastError,
    CanaryError,
    CheckpointError,
    InvalidRequestError,
    NotJoinedError,
    UnavailableError,
)
from services.common.published_weights import Canary, unpublished
from services.common.tensor_layout import Layout, TensorKind
from services.common.weight_broadcast import Broadcast, Rendezvous, announced, decode_broadcast, encode_broadcast
from services.sampler.engine import InFlight
from services.sampler.weights import Loaded, ServedWeights
from tests.scripted_engine import ScriptedEngine
from treerl.sampler.v1 import sampler_service_pb2 as pb

CANARY = Canary(token_ids=(1, 2, 3), logprobs=(-1.0, -1.0))
LAYOUT = {"embed": TensorKind("F32", (8, 4)), "head": TensorKind("F32", (8, 4))}
PLACE = Rendezvous("127.0.0.1", 1, first_rank=1, world_size=3, backend="gloo", patience_s=1.0)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def served(engine: ScriptedEngine, tmp_path: Path) -> ServedWeights:
    """Serves version 0, out of a folder."""
    save_file({name: np.ones((8, 4), np.float32) for name in LAYOUT}, tmp_path / "model.safetensors")
    return ServedWeights(engine, unpublished(tmp_path), tolerance_nats=1e-3)


def broadcast(version: int, layout: Layout = LAYOUT) -> Broadcast:
    return announced(version, layout, [CANARY])


async def receive(served: ServedWeights, weights: Broadcast) -> Loaded:
    return await served.receive(weights, PLACE, InFlight.WAIT)


async def test_what_is_received_is_served_under_its_announced_name(
    served: ServedWeights, engine: ScriptedEngine
) -> None:
    weights = broadcast(1)
    loaded = await receive(served, weights)
    assert (loaded.policy_version, loaded.checksum) == (1, weights.checksum)
    assert (served.policy_version, engine.policy_version, engine.paused) == (1, 1, False)


@pytest.mark.parametrize(
    ("layout", "complaint"),
    [
        ({"embed": LAYOUT["embed"]}, r"head is missing, expected F32 \[8, 4\]"),
        (LAYOUT | {"bias": TensorKind("F32", (4,))}, r"bias is F32 \[4\], expected no such tensor"),
        (LAYOUT | {"head": TensorKind("F32", (4, 8))}, r"head is F32 \[4, 8\]"),
        (LAYOUT | {"head": TensorKind("BF16", (8, 4))}, r"head is BF16 \[8, 4\]"),
    ],
)
async def test_tensors_of_another_model_never_reach_the_engine(
    served: ServedWeights, engine: ScriptedEngine, layout: Layout, complaint: str
) -> None:
    await receive(served, broadcast(1))
    pauses = list(engine.pauses)
    with pytest.raises(CheckpointError, match=f"tensors announced are not those of the model .*{complaint}"):
        await receive(served, broadcast(2, layout))
    assert (served.policy_version, engine.policy_version, engine.pauses) == (1, 1, pauses)


async def test_a_group_that_does_not_form_costs_nothing(served: ServedWeights, engine: ScriptedEngine) -> None:
    await receive(served, broadcast(1))
    engine.broadcast_failure = NotJoinedError("nobody is there")
    with pytest.raises(NotJoinedError):
        await receive(served, broadcast(2))
    assert (served.policy_version, served.intact, served.trusted, engine.paused) == (1, True, True, False)
    assert engine.loaded == []


async def test_one_that_breaks_off_brings_back_weights_that_are_in_a_folder(
    served: ServedWeights, engine: ScriptedEngine, tmp_path: Path
) -> None:
    engine.broadcast_failure = BroadcastError("broke off")
    with pytest.raises(BroadcastError):
        await receive(served, broadcast(1))
    assert (served.policy_version, served.intact, engine.paused, engine.loaded) == (0, True, False, [tmp_path])


async def test_one_that_breaks_off_over_weights_that_were_broadcast_ends_the_sampler(
    served: ServedWeights, engine: ScriptedEngine
) -> None:
    await receive(served, broadcast(1))
    engine.broadcast_failure = BroadcastError("broke off")
    with pytest.raises(UnavailableError, match="broke off; .* lost too: version 1 was broadcast and is in no folder"):
        await receive(served, broadcast(2))
    assert (served.intact, engine.paused) == (False, True)


async def test_a_wrong_canary_over_weights_that_were_broadcast_ends_the_sampler_and_stops_the_trainer(
    served: ServedWeights, engine: ScriptedEngine
) -> None:
    await receive(served, broadcast(1))
    engine.canary_errors[2] = 0.2
    with pytest.raises(CanaryError, match=r"by 2\.00e-01 .* lost too"):
        await receive(served, broadcast(2))
    assert (served.intact, served.trusted, engine.paused) == (False, False, True)


async def test_an_engine_that_hangs_is_lost(served: ServedWeights, engine: ScriptedEngine) -> None:
    engine.broadcast_failure = UnavailableError("hangs")
    with pytest.raises(UnavailableError, match="hangs"):
        await receive(served, broadcast(1))
    assert (served.intact, engine.paused, engine.loaded) == (False, True, [])


def test_what_is_announced_arrives_as_it_was() -> None:
    weights = announced(7, LAYOUT, [Canary((1, 2, 3), (-0.5, -1.25))])
    assert decode_broadcast(encode_broadcast(weights, PLACE), ranks=2, backend="gloo") == (weights, PLACE)


def test_other_weights_have_another_checksum() -> None:
    others = [
        announced(2, LAYOUT, [CANARY]),
        announced(1, {"embed": LAYOUT["embed"]}, [CANARY]),
        announced(1, LAYOUT, [replace(CANARY, logprobs=(-1.0, -1.0000001))]),
    ]
    assert len({weights.checksum for weights in (broadcast(1), *others)}) == 4


def changed(**changes: object) -> pb.LoadCheckpointRequest:
    """A request whose broadcast differs from the right one."""
    request = encode_broadcast(broadcast(1), PLACE)
    for name, value in changes.items():
        setattr(request.broadcast, name, value)
    return request


@pytest.mark.parametrize(
    "changes", [{"first_rank": 0}, {"first_rank": 2}, {"patience_s": 0.0}, {"world_size": 0}, {"backend": "nccl"}]
)
def test_a_place_that_there_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        decode_broadcast(changed(**changes), ranks=2, backend="gloo")


def test_what_nothing_could_prove_is_refused() -> None:
    request = changed()
    del request.broadcast.canaries[:]
    with pytest.raises(CheckpointError, match="no canary"):
        decode_broadcast(request, ranks=2, backend="gloo")


def test_a_type_that_no_weights_have_is_refused() -> None:
    with pytest.raises(CheckpointError, match="head is of type 'I64'"):
        decode_broadcast(
            encode_broadcast(broadcast(1, LAYOUT | {"head": TensorKind("I64", (8, 4))}), PLACE), ranks=2, backend="gloo"
        )
