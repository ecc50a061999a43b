"""Publishing by broadcast, over gloo: runs, samplers that die or hang in it, and those that start anew."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.common.errors import ConfigurationError, MismatchError, UnavailableError
from services.trainer.policy import Policy
from services.trainer.samplers import Samplers
from services.trainer.settings import TrainerSettings
from services.trainer.weight_broadcaster import WeightBroadcaster
from services.trainer.weights import to_broadcast
from services.trainer.worker_thread import WorkerThread
from tests.integration.fake_sampler import FakeSampler, serving
from tests.integration.test_trainer_process import free_port
from tests.integration.trainer.training import MakeSettings, rows, run_to_end

# DeepSpeed and torch.distributed use parts of torch that torch has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
]

SEQUENCES = [(1, 2, 3, 4), (5, 6, 7)]


async def test_a_run_without_a_folder_for_weights_whose_sampler_starts_anew_between_publications(
    make_settings: MakeSettings, sampler: FakeSampler
) -> None:
    sampler.restarts_from = {1}
    settings = make_settings(weights_transport="broadcast", heldout_data=None)
    await run_to_end(settings)
    steps = rows(settings.output_dir / "metrics.jsonl")
    assert sampler.versions == [0, 1, 1, 2, 3]
    assert max(step["reload_canary_max_abs_logprob_diff"] for step in steps) <= 1e-4
    assert steps[0]["grad_norm"] > 0
    assert not (settings.output_dir / "weights").exists()


@asynccontextmanager
async def broadcaster(settings: TrainerSettings) -> AsyncIterator[WeightBroadcaster]:
    """Sends the weights of the model that the settings name, and has sent none yet."""
    thread, samplers = WorkerThread(), Samplers(settings)
    policy = await thread.run(Policy, settings)
    try:
        yield WeightBroadcaster(settings, samplers, policy, thread)
    finally:
        await samplers.close()
        await thread.close()


async def publish(broadcaster: WeightBroadcaster, version: int = 1) -> None:
    told = await broadcaster._thread.run(to_broadcast, broadcaster._policy, version, SEQUENCES)
    await broadcaster.publish(told)


@pytest.fixture
async def two(model: Path, redis_server: str) -> AsyncIterator[tuple[FakeSampler, FakeSampler, list[str]]]:
    """Two samplers and their addresses."""
    first, second = FakeSampler(model, "first"), FakeSampler(model, "second")
    async with serving(first, redis_server, "two-1") as one, serving(second, redis_server, "two-2") as other:
        yield first, second, [one, other]


Two = tuple[FakeSampler, FakeSampler, list[str]]


async def test_one_group_of_several_samplers(make_settings: MakeSettings, two: Two) -> None:
    first, second, addresses = two
    async with broadcaster(make_settings(samplers=addresses, weights_transport="broadcast")) as sending:
        await publish(sending)
    assert (first.versions, second.versions) == ([1], [1])


@pytest.mark.parametrize("tensors", [0, 5])
async def test_a_sampler_that_dies_in_the_middle_breaks_it_off_for_all_and_all_are_sent_it_again(
    make_settings: MakeSettings, two: Two, tensors: int
) -> None:
    first, second, addresses = two
    first.breaks_off = tensors
    async with broadcaster(make_settings(samplers=addresses, weights_transport="broadcast")) as sending:
        await publish(sending)
    assert first.breaks_off is None
    assert (first.versions[-1], second.versions[-1]) == (1, 1)


async def test_a_sampler_that_refuses_ends_it_before_anything_is_sent(make_settings: MakeSettings, two: Two) -> None:
    first, second, addresses = two
    second.complaint = "the tensors announced are not those of the model being served"
    async with broadcaster(make_settings(samplers=addresses, weights_transport="broadcast")) as sending:
        with pytest.raises(MismatchError, match=f"{addresses[1]} did not load version 1: DATA_LOSS: the tensors"):
            await publish(sending)
    assert first.versions == []


async def test_a_sampler_that_hangs_holds_the_trainer_for_its_patience_and_is_named(
    make_settings: MakeSettings, two: Two
) -> None:
    first, second, addresses = two
    second.hangs = True
    settings = make_settings(samplers=addresses, weights_transport="broadcast", reload_patience_s=2.0)
    async with broadcaster(settings) as sending:
        with pytest.raises(UnavailableError, match=f"sampler {addresses[1]} did not load version 1: DEADLINE_EXCEEDED"):
            await publish(sending)
    assert first.versions == []


async def test_a_sampler_that_is_not_there_is_named_and_keeps_the_weights_from_no_other(
    make_settings: MakeSettings, two: Two
) -> None:
    first, _, addresses = two
    absent = f"127.0.0.1:{free_port()}"
    settings = make_settings(samplers=[addresses[0], absent], weights_transport="broadcast", reload_patience_s=1.0)
    async with broadcaster(settings) as sending:
        with pytest.raises(UnavailableError, match=f"^sampler {absent} does not answer: 1 s have passed"):
            await publish(sending)
    assert first.versions == [1]


async def test_a_sampler_that_takes_folders_alone_is_a_wrong_setting(make_settings: MakeSettings, two: Two) -> None:
    first, _, addresses = two
    first.broadcast_ranks = 0
    async with broadcaster(make_settings(samplers=addresses, weights_transport="broadcast")) as sending:
        with pytest.raises(ConfigurationError, match=f"{addresses[0]} takes no weights by broadcast"):
            await publish(sending)


async def test_an_address_of_another_machine_is_a_wrong_setting(make_settings: MakeSettings) -> None:
    settings = make_settings(weights_transport="broadcast", broadcast_host="192.0.2.1")
    async with broadcaster(settings) as sending:
        with pytest.raises(ConfigurationError, match="cannot listen on 192.0.2.1:0"):
            await publish(sending)


async def test_who_waits_while_weights_are_sent_again_may_be_cancelled(
    make_settings: MakeSettings, sampler: FakeSampler
) -> None:
    sampler.restarts_from = {1}
    async with broadcaster(make_settings(weights_transport="broadcast")) as sending:
        await publish(sending)
        waiting = asyncio.create_task(sending.meanwhile(asyncio.Event().wait()))
        began = time.monotonic()
        while sampler.versions != [1, 1] and time.monotonic() < began + 20:
            await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert sampler.versions == [1, 1]
