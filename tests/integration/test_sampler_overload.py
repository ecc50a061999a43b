"""A sampler with too much to do, over real gRPC: who waits, who is refused, and what a refusal says."""

import asyncio

import grpc
import pytest
from grpc import aio
from prometheus_client import REGISTRY
from rich.console import Console

from services.cli.sample import SampleOptions, sample_responses, sample_tree
from services.common import overload
from services.common.errors import OverloadedError
from services.common.overload import retry_after_s
from services.common.tree import SearchParameters
from tests.builders import SAMPLING
from tests.served_sampler import GatedEngine, generate_request, search_request, served_sampler
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc


def refused() -> float:
    return REGISTRY.get_sample_value("treerl_calls_refused_total") or 0.0


async def test_what_does_not_fit_waits_and_what_cannot_wait_is_refused_with_a_hint() -> None:
    engine = GatedEngine()
    async with served_sampler(engine, max_running_leaves=4, max_waiting_calls=1) as service:
        refused_before = refused()
        running = service.stub.Generate(generate_request(4))
        await engine.reached(4)
        waiting = service.stub.Generate(generate_request(2))
        async with asyncio.timeout(20):
            while REGISTRY.get_sample_value("treerl_calls_waiting") != 1:
                await asyncio.sleep(0.005)
        with pytest.raises(aio.AioRpcError, match="1 calls wait, as many as may: try again in") as raised:
            await service.stub.Generate(generate_request(2))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_after_s(raised.value) == pytest.approx((2 + 2) / 4)  # no call has ended: one second is assumed
        assert refused() == refused_before + 1
        assert engine.most_running == 4
        assert (await service.stub.GetStatus(pb.GetStatusRequest())).policy_version == 0
        engine.gate.set()
        assert [len((await call).tree.branches) for call in (running, waiting)] == [4, 2]
        assert engine.most_running == 4


async def test_one_clients_calls_do_not_keep_another_client_waiting() -> None:
    engine = GatedEngine()
    async with served_sampler(engine, max_running_leaves=1) as service, service.another_client() as other:

        async def ask(stub: "rpc.SamplerServiceAsyncStub", max_tokens: int) -> None:
            await stub.Generate(generate_request(1, max_tokens=max_tokens))

        async with asyncio.TaskGroup() as calls:
            calls.create_task(ask(service.stub, 1))
            await engine.reached(1)
            for _ in range(4):
                calls.create_task(ask(service.stub, 1))
            async with asyncio.timeout(20):
                while REGISTRY.get_sample_value("treerl_calls_waiting") != 4:
                    await asyncio.sleep(0.005)
            calls.create_task(ask(other, 2))
            async with asyncio.timeout(20):
                while REGISTRY.get_sample_value("treerl_calls_waiting") != 5:
                    await asyncio.sleep(0.005)
            engine.gate.set()
    assert [request.max_tokens for request in engine.requests] == [1, 1, 2, 1, 1, 1]


async def test_our_client_waits_as_long_as_it_is_told_and_asks_again() -> None:
    engine = GatedEngine()
    async with served_sampler(engine, max_running_leaves=1, max_waiting_calls=0) as service:
        running = service.stub.Generate(generate_request(1))
        await engine.reached(1)
        refused_before = refused()
        console = Console(record=True)
        options = SampleOptions("123", service.address, SearchParameters(1), SAMPLING)
        asking = [
            asyncio.create_task(sample_responses(options, console)),
            asyncio.create_task(sample_tree(options, console)),
        ]
        async with asyncio.timeout(20):
            while refused() < refused_before + 2:
                await asyncio.sleep(0.005)
        engine.gate.set()
        await running
        await asyncio.gather(*asking)
        assert "1 leaves" in console.export_text()


async def test_our_client_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "PATIENCE_S", 0.0)
    engine = GatedEngine()
    async with served_sampler(engine, max_running_leaves=1, max_waiting_calls=0) as service:
        running = service.stub.SearchTree(search_request(SearchParameters(1)))
        await engine.reached(1)
        options = SampleOptions("123", service.address, SearchParameters(1), SAMPLING)
        with pytest.raises(OverloadedError, match=r"the sampler at .* has too much to do: 0 calls wait"):
            await sample_responses(options, Console(record=True))
        running.cancel()
