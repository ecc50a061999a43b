"""A sampler's servicer on a real gRPC server, with a scripted engine behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from grpc import aio
from grpc_health.v1 import health_pb2_grpc

from services.common import codec, problem_codec
from services.common.grpc_server import CHANNEL_OPTIONS, GrpcServer
from services.common.published_weights import unpublished
from services.common.tree import SearchParameters
from services.sampler.engine import Completion, CompletionRequest
from services.sampler.prompts import PromptCodec
from services.sampler.request_limits import MAX_REQUEST_BYTES
from services.sampler.servicer import SERVICE_NAME, SamplerServicer
from services.sampler.settings import SamplerSettings
from services.sampler.weights import ServedWeights
from tests.builders import PROBLEM, request
from tests.scripted_engine import DigitCodec, ScriptedEngine
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc

SETTINGS = SamplerSettings(model=Path("model"), instance="test")

OWN_CONNECTION = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
"""Without it, all channels of a process share one connection."""


class GatedEngine(ScriptedEngine):
    """Completes nothing until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def complete(self, request: CompletionRequest) -> Completion:
        """Wait for the gate, then draw."""
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return await super().complete(request)

    async def reached(self, running: int) -> None:
        """Return once exactly so many completions are under way."""
        async with asyncio.timeout(20):
            while self.running != running:
                await asyncio.sleep(0.005)


class Service:
    """A served sampler and a stub that calls it."""

    def __init__(self, server: GrpcServer, channel: aio.Channel, engine: ScriptedEngine) -> None:
        self.server = server
        self.engine = engine
        self.channel = channel
        self.address = f"127.0.0.1:{server.port}"
        self.stub: rpc.SamplerServiceAsyncStub = rpc.SamplerServiceStub(channel)
        self.health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)

    @asynccontextmanager
    async def another_client(self, *options: tuple[str, int]) -> AsyncIterator[rpc.SamplerServiceAsyncStub]:
        """A stub with a connection of its own."""
        async with aio.insecure_channel(self.address, options=(*OWN_CONNECTION, *options)) as channel:
            yield rpc.SamplerServiceStub(channel)


@asynccontextmanager
async def served_sampler(
    engine: ScriptedEngine, prompts: PromptCodec | None = None, **settings: float
) -> AsyncIterator[Service]:
    """A sampler that serves, under the default settings but for those given."""
    changed = SETTINGS.model_copy(update=settings)
    servicer = SamplerServicer(changed)
    server = GrpcServer(changed, SERVICE_NAME, MAX_REQUEST_BYTES)
    weights = ServedWeights(engine, unpublished(Path("model")), 1e-3, server.set_serving)
    servicer.attach(engine, prompts or DigitCodec(), weights)
    rpc.add_SamplerServiceServicer_to_server(servicer, server.server)
    async with server:
        await server.set_serving(True)
        async with aio.insecure_channel(f"127.0.0.1:{server.port}", options=OWN_CONNECTION) as channel:
            yield Service(server, channel, engine)


def generate_request(num_chains: int, seed: int | None = 0, max_tokens: int = 64) -> pb.GenerateRequest:
    """Asks for chains on the fixed problem."""
    sampling = request(SearchParameters(1), seed, max_tokens).sampling
    return pb.GenerateRequest(
        problem=problem_codec.encode_problem(PROBLEM), sampling=codec.encode_sampling(sampling), num_chains=num_chains
    )


def search_request(search: SearchParameters, max_tokens: int = 64) -> pb.SearchTreeRequest:
    """Asks for a search on the fixed problem."""
    return pb.SearchTreeRequest(request=codec.encode_request(request(search, max_tokens=max_tokens)))
