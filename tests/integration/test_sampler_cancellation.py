"""Calls that are cancelled, run out of time or lose their client free the engine, over real gRPC."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest
from grpc import aio
from prometheus_client import REGISTRY

from services.common.errors import InvalidRequestError
from services.common.tree import SearchParameters
from services.sampler.engine import Completion, CompletionRequest
from tests.served_sampler import GatedEngine, Service, generate_request, search_request, served_sampler
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc

SIBLINGS = 5

Call: TypeAlias = Any  # a UnaryUnaryCall or a UnaryStreamCall
Caller: TypeAlias = "Callable[[rpc.SamplerServiceAsyncStub, str, float | None], Call]"

ROOT = Path(__file__).parents[2]


def generate(stub: rpc.SamplerServiceAsyncStub, tree_id: str, timeout_s: float | None = None) -> Call:
    return stub.Generate(generate_request(SIBLINGS), timeout=timeout_s)


def fork(stub: rpc.SamplerServiceAsyncStub, tree_id: str, timeout_s: float | None = None) -> Call:
    message = pb.ForkRequest(tree_id=tree_id, branch_id=0, token_index=1, num_branches=SIBLINGS)
    return stub.Fork(message, timeout=timeout_s)


def search(stub: rpc.SamplerServiceAsyncStub, tree_id: str, timeout_s: float | None = None) -> Call:
    return stub.SearchTree(search_request(SearchParameters(SIBLINGS)), timeout=timeout_s)


callers = pytest.mark.parametrize("caller", [generate, fork, search])


@pytest.fixture
async def engine() -> GatedEngine:
    return GatedEngine()


@pytest.fixture
async def service(engine: GatedEngine) -> AsyncIterator[Service]:
    async with served_sampler(engine, max_running_leaves=SIBLINGS) as service:
        yield service


async def held_tree(service: Service, engine: GatedEngine) -> str:
    """Id of a tree with a chain of several tokens."""
    engine.gate.set()
    tree = (await service.stub.Generate(generate_request(1))).tree
    engine.gate.clear()
    assert len(tree.branches[0].token_ids) > 1
    return tree.tree_id


async def ended(call: Call) -> grpc.StatusCode:
    """Status of a call that fails."""
    return await call.code()


@callers
async def test_cancelling_ends_every_engine_request(service: Service, engine: GatedEngine, caller: Caller) -> None:
    call = caller(service.stub, await held_tree(service, engine), None)
    await engine.reached(SIBLINGS)
    call.cancel()
    await engine.reached(0)
    assert engine.cancelled == SIBLINGS


@callers
async def test_a_deadline_ends_every_engine_request(service: Service, engine: GatedEngine, caller: Caller) -> None:
    call = caller(service.stub, await held_tree(service, engine), 0.3)
    await engine.reached(SIBLINGS)
    assert await ended(call) is grpc.StatusCode.DEADLINE_EXCEEDED
    await engine.reached(0)
    assert engine.cancelled == SIBLINGS


@callers
async def test_closing_the_channel_ends_every_engine_request(
    service: Service, engine: GatedEngine, caller: Caller
) -> None:
    tree_id = await held_tree(service, engine)
    async with service.another_client() as stub:
        call = caller(stub, tree_id, None)
        await engine.reached(SIBLINGS)
    await engine.reached(0)
    assert call.done()


KILLED_CLIENT = """
import asyncio, sys
import grpc
async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        call = channel.unary_stream(sys.argv[2])(bytes.fromhex(sys.argv[3]))
        async for _ in call:
            pass
asyncio.run(main())
"""


async def test_killing_the_client_ends_every_engine_request(service: Service, engine: GatedEngine) -> None:
    message = search_request(SearchParameters(SIBLINGS)).SerializeToString().hex()
    method = "/treerl.sampler.v1.SamplerService/SearchTree"
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED_CLIENT, service.address, method, message, env=dict(os.environ)
    )
    await engine.reached(SIBLINGS)
    client.kill()
    await client.wait()
    await engine.reached(0)


async def waiting(calls: int) -> None:
    async with asyncio.timeout(20):
        while REGISTRY.get_sample_value("treerl_calls_waiting") != calls:
            await asyncio.sleep(0.005)


@callers
async def test_a_call_that_is_cancelled_while_it_waits_leaves_the_queue(
    service: Service, engine: GatedEngine, caller: Caller
) -> None:
    tree_id = await held_tree(service, engine)
    before = generate(service.stub, tree_id)
    await engine.reached(SIBLINGS)
    call, after = caller(service.stub, tree_id, None), generate(service.stub, tree_id)
    await waiting(2)
    call.cancel()
    await waiting(1)
    engine.gate.set()
    assert [len((await call).tree.branches) for call in (before, after)] == [SIBLINGS, SIBLINGS]
    assert len(engine.requests) == 1 + 2 * SIBLINGS


class FailingEngine(GatedEngine):
    """Refuses the request that comes after so many others."""

    def __init__(self, fails_after: int) -> None:
        super().__init__()
        self._left = fails_after

    async def complete(self, request: CompletionRequest) -> Completion:
        self._left -= 1
        if self._left < 0 and not self.gate.is_set():
            await self.reached(SIBLINGS - 1)
            raise InvalidRequestError("the prompt does not fit")
        return await super().complete(request)


async def test_a_chain_that_fails_ends_its_siblings() -> None:
    engine = FailingEngine(SIBLINGS - 1)
    async with served_sampler(engine) as service:
        with pytest.raises(aio.AioRpcError, match="the prompt does not fit") as raised:
            await generate(service.stub, "")
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (engine.running, engine.cancelled) == (0, SIBLINGS - 1)
        assert (await service.stub.GetStatus(pb.GetStatusRequest())).trees_held == 0


async def test_branches_that_ended_before_a_fork_was_cancelled_stay_in_the_tree() -> None:
    class TwoOfFive(GatedEngine):
        async def complete(self, request: CompletionRequest) -> Completion:
            if len(self.requests) in (1, 2):
                return await super(GatedEngine, self).complete(request)
            return await super().complete(request)

    engine = TwoOfFive()
    async with served_sampler(engine) as service:
        tree_id = await held_tree(service, engine)
        call = fork(service.stub, tree_id)
        await engine.reached(SIBLINGS - 2)
        call.cancel()
        await engine.reached(0)
        tree = (await service.stub.GetTree(pb.GetTreeRequest(tree_id=tree_id))).tree
        assert [(b.id, b.fork_index) for b in tree.branches] == [(0, 0), (1, 1), (2, 1)]
        engine.gate.set()
        again = await fork(service.stub, tree_id)
        assert [b.id for b in again.branches] == [3, 4, 5, 6, 7]
