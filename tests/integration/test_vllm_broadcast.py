"""Weights by broadcast on real vLLM, over gloo: what requests see of it, and what becomes of one that fails.

That an engine computes the same as one that read a folder is in test_fresh_and_reloaded.py. NCCL is not covered.
"""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from safetensors.torch import load_file

from services.common.errors import BroadcastError, CanaryError, CheckpointError, NotJoinedError, UnavailableError
from services.common.published_weights import unpublished
from services.common.weight_broadcast import announced
from services.sampler.engine import CompletionRequest, InFlight
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_engine import VllmEngine
from services.sampler.weights import ServedWeights
from services.trainer.weight_sender import WeightSender
from tests.integration.sent_weights import die_in_the_middle, giving, send, to_send
from tests.integration.tiny_policy import MODEL_TOKENS, trainer_logprobs, write_policy

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.vllm, pytest.mark.timeout(900)]

TOLERANCE_NATS = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Policies of seeds 0, 1 and 2."""
    path = tmp_path_factory.mktemp("policies")
    for seed in (0, 1, 2):
        write_policy(path / str(seed), seed)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder: Path) -> AsyncIterator[VllmEngine]:
    settings = SamplerSettings(
        model=folder / "0", max_model_tokens=MODEL_TOKENS, weights_transport="broadcast", instance="test"
    )
    started = await VllmEngine.start(settings, settings.model, policy_version=0)
    yield started
    started.close()


@pytest_asyncio.fixture(loop_scope="module")
async def served(engine: VllmEngine, folder: Path) -> ServedWeights:
    """Version 1 by broadcast, whatever state a test before left the engine in."""
    await engine.replace_weights(folder / "0", 0)
    await engine.resume()
    served = ServedWeights(engine, unpublished(folder / "0"), TOLERANCE_NATS)
    await send(served, folder / "1", 1)
    return served


async def serves(engine: VllmEngine, folder: Path, seed: int) -> None:
    """Fail unless the engine samples, and by weights of a seed."""
    completion = await engine.complete(CompletionRequest((5, 6, 7), 1.0, 1.0, 20))
    known = trainer_logprobs(folder / str(seed), [(5, 6, 7, *completion.token_ids)])[0]
    assert completion.logprobs == pytest.approx(known[2:], abs=TOLERANCE_NATS)
    assert [span.policy_version for span in completion.versions] == [seed]


@pytest.mark.parametrize("in_flight", list(InFlight))
async def test_requests_in_flight_are_dealt_with_as_asked(
    engine: VllmEngine, served: ServedWeights, folder: Path, in_flight: InFlight
) -> None:
    running = [
        asyncio.create_task(engine.complete(CompletionRequest((5, 6, 7 + i), 1.0, 1.0, 240, seed=i))) for i in range(8)
    ]
    await asyncio.sleep(0.15)
    await send(served, folder / "2", 2, in_flight)
    versions = {
        tuple(span.policy_version for span in completion.versions) for completion in await asyncio.gather(*running)
    }
    expected = {InFlight.WAIT: (1,), InFlight.KEEP: (1, 2), InFlight.ABORT: (2,)}[in_flight]
    assert expected in versions
    assert versions <= {(1,), expected, (2,)}  # some may have ended before the load began, or come too late for it
    await serves(engine, folder, 2)


async def test_tensors_of_another_model_are_refused_and_no_group_forms(
    engine: VllmEngine, served: ServedWeights, folder: Path
) -> None:
    sender = WeightSender("127.0.0.1", 0, receivers=1, patience_s=60)
    told = to_send(folder / "2", 2)
    layout = dict(list(told.layout.items())[1:])
    sending = asyncio.create_task(asyncio.to_thread(sender.send, giving({})))
    with pytest.raises(CheckpointError, match="is missing, expected F32"):
        await served.receive(announced(2, layout, told.canaries), sender.rendezvous(1), InFlight.WAIT)
    sender.give_up()
    with pytest.raises(UnavailableError, match="0 of 1 processes came"):
        await sending
    await serves(engine, folder, 1)


async def test_a_sender_that_waits_for_another_and_gives_up_costs_nothing(
    engine: VllmEngine, served: ServedWeights, folder: Path
) -> None:
    sender = WeightSender("127.0.0.1", 0, receivers=2, patience_s=2)
    sending = asyncio.create_task(asyncio.to_thread(sender.send, giving({})))
    with pytest.raises(NotJoinedError):
        await served.receive(to_send(folder / "2", 2), sender.rendezvous(1), InFlight.WAIT)
    with pytest.raises(UnavailableError, match="1 of 2 processes came"):
        await sending
    await serves(engine, folder, 1)


async def receive_from_one_that_dies(served: ServedWeights, folder: Path, tensors: int) -> None:
    """Receive version 2 from a process that dies after so many tensors."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=die_in_the_middle, args=(folder / "2", tensors, theirs))
    process.start()
    place = await asyncio.to_thread(ours.recv)
    try:
        await served.receive(to_send(folder / "2", 2), place, InFlight.WAIT)
    finally:
        await asyncio.to_thread(process.join)
        assert process.exitcode == 9


async def test_a_sender_that_dies_in_the_middle_leaves_no_mixture(engine: VllmEngine, folder: Path) -> None:
    of_folder = ServedWeights(engine, unpublished(folder / "0"), TOLERANCE_NATS)
    await engine.replace_weights(folder / "0", 0)
    await engine.resume()
    with pytest.raises(BroadcastError, match="the broadcast of weights broke off: .*Connection (closed|reset) by peer"):
        await receive_from_one_that_dies(of_folder, folder, 20)
    assert of_folder.intact
    await serves(engine, folder, 0)


async def test_where_no_folder_holds_the_weights_before_nothing_is_sampled_any_more(
    engine: VllmEngine, served: ServedWeights, folder: Path
) -> None:
    with pytest.raises(UnavailableError, match="lost too: version 1 was broadcast and is in no folder"):
        await receive_from_one_that_dies(served, folder, 3)
    assert not served.intact
    asked = asyncio.create_task(engine.complete(CompletionRequest((5, 6, 7), 1.0, 1.0, 1)))
    await asyncio.sleep(0.5)
    assert not asked.done()
    asked.cancel()


async def test_the_canary_catches_what_was_not_announced(
    engine: VllmEngine, served: ServedWeights, folder: Path
) -> None:
    sender = WeightSender("127.0.0.1", 0, receivers=1, patience_s=60)
    others = load_file(folder / "0" / "model.safetensors")
    sending = asyncio.create_task(asyncio.to_thread(sender.send, giving(others)))
    with pytest.raises(CanaryError, match="after loading version 2"):
        await served.receive(to_send(folder / "2", 2), sender.rendezvous(1), InFlight.WAIT)
    await sending
    assert (served.intact, served.trusted) == (False, False)
