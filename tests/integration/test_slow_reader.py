"""A client that does not read what is streamed to it, over real gRPC."""

import asyncio
import gc
from collections.abc import Sequence

import grpc
import pytest
from grpc import aio

from services.common.tree import Branch, SearchParameters
from tests.scripted_engine import DigitCodec, ScriptedEngine
from tests.served_sampler import generate_request, search_request, served_sampler

LEAVES = 100
RESPONSE_BYTES = 10_000
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))
"""Otherwise a client on the same machine takes many MiB before it is read from. The tree is far larger than this."""


class WordyCodec(DigitCodec):
    """Decodes every response to a long text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The same letter, again and again."""
        return "x" * RESPONSE_BYTES


def branches_alive() -> int:
    gc.collect()
    # not isinstance, which wakes lazy objects of other libraries
    return sum(type(thing) is Branch for thing in gc.get_objects())


async def test_a_client_that_never_reads_is_cut_off_and_its_tree_freed_while_others_are_served() -> None:
    async with served_sampler(
        ScriptedEngine(), WordyCodec(), stalled_reader_s=2.0, max_running_leaves=LEAVES + 1
    ) as service:
        before = branches_alive()
        async with service.another_client(*SMALL_WINDOW) as stub:
            unread = stub.SearchTree(search_request(SearchParameters(LEAVES)))
            async with asyncio.timeout(20):
                while len(service.engine.requests) < LEAVES:
                    await asyncio.sleep(0.01)
            assert branches_alive() == before + LEAVES
            served = await service.stub.Generate(generate_request(1))
            assert len(served.tree.branches) == 1
            async with asyncio.timeout(20):
                while branches_alive() > before + len(served.tree.branches):
                    await asyncio.sleep(0.1)
            with pytest.raises(aio.AioRpcError, match="the client read nothing for 2 s") as raised:
                async for _ in unread:
                    pass
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_slow_client_that_does_read_gets_the_whole_tree() -> None:
    async with (
        served_sampler(ScriptedEngine(), WordyCodec(), stalled_reader_s=2.0, max_running_leaves=LEAVES) as service,
        service.another_client(*SMALL_WINDOW) as stub,
    ):
        events = []
        async for event in stub.SearchTree(search_request(SearchParameters(LEAVES))):
            if len(events) % 20 == 0:
                await asyncio.sleep(0.3)
            events.append(event)
        assert len(events) == LEAVES + 1
        assert len(events[-1].tree.branches) == LEAVES


async def test_a_call_whose_reader_stalls_frees_its_room() -> None:
    async with (
        served_sampler(ScriptedEngine(), WordyCodec(), stalled_reader_s=0.5, max_running_leaves=LEAVES) as service,
        service.another_client(*SMALL_WINDOW) as stub,
    ):
        unread = stub.SearchTree(search_request(SearchParameters(LEAVES)))
        async with asyncio.timeout(20):
            while len(service.engine.requests) < LEAVES:
                await asyncio.sleep(0.01)
        served = await service.stub.Generate(generate_request(LEAVES), timeout=20)
        assert len(served.tree.branches) == LEAVES
        unread.cancel()
