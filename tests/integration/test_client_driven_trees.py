"""Trees that clients grow by Generate and Fork, over real gRPC."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc import aio
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common import codec
from services.common.tree import Branch, SearchParameters, Tree, VersionSpan, check_tree
from services.sampler.engine import Completion, CompletionRequest
from services.sampler.growing_tree import FORKS_FIRST
from tests.scripted_engine import ScriptedEngine
from tests.served_sampler import GatedEngine, Service, generate_request, search_request, served_sampler
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc


class UnevenEngine(ScriptedEngine):
    """Takes a time that depends on the seed, so that siblings end in any order."""

    async def complete(self, request: CompletionRequest) -> Completion:
        """Wait, then draw."""
        await asyncio.sleep(random.Random(request.seed).choice([0, 0.001, 0.003]))
        return await super().complete(request)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with served_sampler(ScriptedEngine()) as service:
        yield service


async def get_tree(stub: rpc.SamplerServiceAsyncStub, tree_id: str) -> Tree:
    return codec.decode_tree((await stub.GetTree(pb.GetTreeRequest(tree_id=tree_id))).tree)


async def fork_at_random(
    stub: rpc.SamplerServiceAsyncStub, tree: Tree, draw: random.Random, calls: int
) -> list[Branch]:
    """Fork known branches at random points, now and then giving up soon; returns the branches that came back."""
    known = {branch.id: branch for branch in tree.branches}
    got: list[Branch] = []
    for _ in range(calls):
        forkable = [(b.id, at) for b in known.values() for at in range(b.fork_index + 1, b.end)]
        branch_id, token_index = draw.choice(forkable)
        message = pb.ForkRequest(
            tree_id=tree.tree_id, branch_id=branch_id, token_index=token_index, num_branches=draw.randint(1, 4)
        )
        try:
            response = await stub.Fork(message, timeout=draw.choice([None, None, 0.001]))
        except aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017
            continue
        branches = [codec.decode_branch(branch) for branch in response.branches]
        ids = [branch.id for branch in branches]
        assert ids == sorted(ids)
        assert {(b.parent_id, b.fork_index) for b in branches} == {(branch_id, token_index)}
        known |= {branch.id: branch for branch in branches}
        got += branches
    return got


def test_clients_that_fork_one_tree_at_once_grow_one_valid_tree() -> None:
    @settings(max_examples=40, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), clients=st.integers(2, 3), calls=st.integers(1, 5))
    def grow(seed: int, clients: int, calls: int) -> None:
        runner.run(grow_one(seed, clients, calls))

    async def grow_one(seed: int, clients: int, calls: int) -> None:
        started = codec.decode_tree((await service.stub.Generate(generate_request(2, seed, max_tokens=128))).tree)
        if not any(len(branch.token_ids) > 1 for branch in started.branches):
            return
        stubs = [service.stub, others[0], others[1]][:clients]
        grown = await asyncio.gather(
            *(fork_at_random(stub, started, random.Random(seed + n), calls) for n, stub in enumerate(stubs))
        )
        while service.engine.running:  # of forks that were given up
            await asyncio.sleep(0.001)
        tree = await get_tree(service.stub, started.tree_id)
        check_tree(tree.branches)
        told = [*started.branches, *(branch for branches in grown for branch in branches)]
        assert len({branch.id for branch in told}) == len(told)
        assert all(tree.branches[branch.id] == branch for branch in told)

    serving = served_sampler(UnevenEngine())
    with asyncio.Runner() as runner:
        service = runner.run(serving.__aenter__())
        clients = [service.another_client(), service.another_client()]
        others = [runner.run(client.__aenter__()) for client in clients]
        grow()
        for context in (*clients, serving):
            runner.run(context.__aexit__(None, None, None))


async def test_siblings_come_in_the_order_of_their_ids_whichever_ended_first() -> None:
    class LastFirst(ScriptedEngine):
        async def complete(self, request: CompletionRequest) -> Completion:
            self.running += 1
            await asyncio.sleep(0.2 / self.running)
            return await super().complete(request)

    async with served_sampler(LastFirst()) as service:
        tree = (await service.stub.Generate(generate_request(1))).tree
        forked = await service.stub.Fork(
            pb.ForkRequest(tree_id=tree.tree_id, branch_id=0, token_index=1, num_branches=8)
        )
    assert [branch.id for branch in forked.branches] == list(range(1, 9))


async def test_a_held_tree_can_be_seen_by_any_client(service: Service) -> None:
    started = (await service.stub.Generate(generate_request(2))).tree
    forked = await service.stub.Fork(
        pb.ForkRequest(tree_id=started.tree_id, branch_id=0, token_index=1, num_branches=2)
    )
    async with service.another_client() as stub:
        seen = (await stub.GetTree(pb.GetTreeRequest(tree_id=started.tree_id))).tree
    assert list(seen.branches) == [*started.branches, *forked.branches]


async def test_a_branch_carries_the_version_that_sampled_it(service: Service) -> None:
    tree_id = (await service.stub.Generate(generate_request(1))).tree.tree_id
    service.engine.policy_version = 7
    await service.stub.Fork(pb.ForkRequest(tree_id=tree_id, branch_id=0, token_index=1, num_branches=1))
    old, new = (await get_tree(service.stub, tree_id)).branches
    assert old.versions == (VersionSpan(0, len(old.token_ids)),)
    assert new.versions == (VersionSpan(7, len(new.token_ids)),)


async def test_why_a_tree_is_gone_is_told() -> None:
    async with served_sampler(ScriptedEngine(), max_held_trees=1) as service:
        first, second = [(await service.stub.Generate(generate_request(1))).tree.tree_id for _ in range(2)]
        with pytest.raises(aio.AioRpcError, match=f"tree '{first}' was the least recently used") as raised:
            await get_tree(service.stub, first)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        await service.stub.ReleaseTree(pb.ReleaseTreeRequest(tree_id=second))
        with pytest.raises(aio.AioRpcError, match=f"tree '{second}' was released") as raised:
            await service.stub.Fork(pb.ForkRequest(tree_id=second, branch_id=0, token_index=1, num_branches=1))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_tree_that_is_forked_is_not_expired_under_the_clients_hands() -> None:
    engine = GatedEngine()
    engine.gate.set()
    async with served_sampler(engine, max_held_trees=1, held_tree_ttl_s=1.0) as service:
        tree_id = (await service.stub.Generate(generate_request(1))).tree.tree_id
        engine.gate.clear()
        forking = service.stub.Fork(pb.ForkRequest(tree_id=tree_id, branch_id=0, token_index=1, num_branches=1))
        await engine.reached(1)
        await asyncio.sleep(1.2)
        assert (await service.stub.GetStatus(pb.GetStatusRequest())).trees_held == 1
        engine.gate.set()
        assert len((await forking).branches) == 1
        async with asyncio.timeout(20):
            while (await service.stub.GetStatus(pb.GetStatusRequest())).trees_held:
                await asyncio.sleep(0.1)


async def test_forks_that_wait_together_cannot_outgrow_the_tree() -> None:
    engine = GatedEngine()
    engine.gate.set()
    async with served_sampler(engine, max_tree_leaves=4, max_running_leaves=1) as service:
        tree_id = (await service.stub.Generate(generate_request(1))).tree.tree_id
        engine.gate.clear()
        message = pb.ForkRequest(tree_id=tree_id, branch_id=0, token_index=1, num_branches=1)
        forks = [service.stub.Fork(message) for _ in range(6)]
        await engine.reached(1)
        engine.gate.set()
        codes = sorted([(await fork.code()).name for fork in forks])
        assert codes == ["FAILED_PRECONDITION"] * 3 + ["OK"] * 3
        assert len((await get_tree(service.stub, tree_id)).branches) == 4


async def test_a_clients_chains_do_not_wait_behind_those_of_searches() -> None:
    engine = ScriptedEngine()
    async with served_sampler(engine) as service:
        tree = (await service.stub.Generate(generate_request(2))).tree
        chain = max(tree.branches, key=lambda branch: len(branch.token_ids))
        await service.stub.Fork(pb.ForkRequest(tree_id=tree.tree_id, branch_id=chain.id, token_index=1, num_branches=1))
        generated = [asked.priority for asked in engine.requests]
        engine.requests.clear()
        _ = [event async for event in service.stub.SearchTree(search_request(SearchParameters(2)))]
    assert generated == [0, 0, FORKS_FIRST]
    assert [asked.priority for asked in engine.requests] == [0, 0]
