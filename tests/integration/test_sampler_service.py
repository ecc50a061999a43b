"""SamplerService over real gRPC, with a scripted engine behind it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common import codec
from services.common.errors import ConfigurationError
from services.common.grpc_server import GrpcServer
from services.common.published_weights import Canary, publish, unpublished
from services.common.tree import SearchParameters, Tree
from services.sampler.servicer import SERVICE_NAME, SamplerServicer
from services.sampler.settings import SamplerSettings
from services.sampler.weights import ServedWeights
from tests.builders import PROBLEM, SAMPLING, request
from tests.scripted_engine import DigitCodec, ScriptedEngine
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc

SETTINGS = SamplerSettings(model=Path("model"), instance="test")


class Service:
    """A served sampler and a stub that calls it."""

    def __init__(self, server: GrpcServer, channel: aio.Channel, engine: ScriptedEngine) -> None:
        self.server = server
        self.engine = engine
        self.stub: rpc.SamplerServiceAsyncStub = rpc.SamplerServiceStub(channel)
        self.health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    engine = ScriptedEngine()
    servicer = SamplerServicer(SETTINGS)
    server = GrpcServer(SETTINGS, SERVICE_NAME)
    weights = ServedWeights(engine, unpublished(Path("model")), 1e-3, server.set_serving)
    servicer.attach(engine, DigitCodec(), weights)
    rpc.add_SamplerServiceServicer_to_server(servicer, server.server)
    async with server, aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        await server.set_serving(True)
        yield Service(server, channel, engine)


def search_request(search: SearchParameters) -> pb.SearchTreeRequest:
    return pb.SearchTreeRequest(request=codec.encode_request(request(search, max_tokens=64)))


async def test_search_streams_every_branch_and_then_the_tree(service: Service) -> None:
    events = [event async for event in service.stub.SearchTree(search_request(SearchParameters(3, 1, 1, 2)))]
    branches = tuple(codec.decode_branch(event.branch) for event in events[:-1])
    tree: Tree = codec.decode_tree(events[-1].tree)
    assert branches == tree.branches


async def test_a_client_grows_a_tree_by_hand(service: Service) -> None:
    started = await service.stub.Generate(
        pb.GenerateRequest(
            problem=codec.encode_problem(PROBLEM), sampling=codec.encode_sampling(SAMPLING), num_chains=2
        )
    )
    chain = max(started.tree.branches, key=lambda b: len(b.token_ids))
    forked = await service.stub.Fork(
        pb.ForkRequest(tree_id=started.tree.tree_id, branch_id=chain.id, token_index=1, num_branches=3)
    )
    assert [(b.id, b.parent_id, b.fork_index) for b in forked.branches] == [(i, chain.id, 1) for i in (2, 3, 4)]
    await service.stub.ReleaseTree(pb.ReleaseTreeRequest(tree_id=started.tree.tree_id))
    assert (await service.stub.GetStatus(pb.GetStatusRequest())).trees_held == 0


async def test_cancelling_a_search_stops_the_engine(service: Service) -> None:
    service.engine._latency_s = 60
    call = service.stub.SearchTree(search_request(SearchParameters(5)))
    reading = asyncio.create_task(call.read())
    while service.engine.running < 5:
        await asyncio.sleep(0.01)
    call.cancel()
    while service.engine.running > 0:
        await asyncio.sleep(0.01)
    await asyncio.wait([reading])
    assert service.engine.cancelled == 5


async def test_a_deadline_stops_the_engine(service: Service) -> None:
    service.engine._latency_s = 60
    with pytest.raises(aio.AioRpcError) as raised:
        async for _ in service.stub.SearchTree(search_request(SearchParameters(2)), timeout=0.2):
            pass
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    while service.engine.running > 0:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "message", "status", "complaint"),
    [
        ("Fork", pb.ForkRequest(tree_id="x", num_branches=1), grpc.StatusCode.NOT_FOUND, "no tree 'x' is held"),
        ("ReleaseTree", pb.ReleaseTreeRequest(tree_id="x"), grpc.StatusCode.NOT_FOUND, "no tree 'x' is held"),
        ("Generate", pb.GenerateRequest(), grpc.StatusCode.INVALID_ARGUMENT, "num_chains is 0"),
        (
            "LoadCheckpoint",
            pb.LoadCheckpointRequest(location="/nowhere", policy_version=1),
            grpc.StatusCode.DATA_LOSS,
            "/nowhere does not exist",
        ),
        (
            "LoadCheckpoint",
            pb.LoadCheckpointRequest(in_flight=pb.InFlightMode.ValueType(77)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "in_flight is 77",
        ),
    ],
)
async def test_errors_carry_their_status_and_say_what_is_wrong(
    service: Service, method: str, message: Message, status: grpc.StatusCode, complaint: str
) -> None:
    call: Callable[[Message], aio.UnaryUnaryCall[Message, Message]] = getattr(service.stub, method)
    with pytest.raises(aio.AioRpcError, match=complaint) as raised:
        await call(message)
    assert raised.value.code() is status


async def test_health_follows_serving(service: Service) -> None:
    asked = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
    assert (await service.health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING
    await service.server.set_serving(False)
    assert (await service.health.Check(asked)).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_wrong_canary_is_data_loss_and_not_serving_until_a_good_load(service: Service, tmp_path: Path) -> None:
    weights = publish(tmp_path, 1, [Canary((1, 2), (-1.0,))], lambda folder: (folder / "config.json").write_text("{}"))
    asked = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
    load = pb.LoadCheckpointRequest(policy_version=1, location=str(weights.folder), checksum=weights.checksum)

    service.engine.canary_errors[1] = 0.2
    with pytest.raises(aio.AioRpcError, match="differ from the trainer's by 2.00e-01 nats") as raised:
        await service.stub.LoadCheckpoint(load)
    assert raised.value.code() is grpc.StatusCode.DATA_LOSS
    assert (await service.health.Check(asked)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await service.stub.GetStatus(pb.GetStatusRequest())).policy_version == 0

    service.engine.canary_errors.clear()
    assert (await service.stub.LoadCheckpoint(load)).policy_version == 1
    assert (await service.health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING


async def test_before_the_model_is_loaded_calls_are_unavailable() -> None:
    server = GrpcServer(SETTINGS, SERVICE_NAME)
    rpc.add_SamplerServiceServicer_to_server(SamplerServicer(SETTINGS), server.server)
    async with server, aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: rpc.SamplerServiceAsyncStub = rpc.SamplerServiceStub(channel)
        with pytest.raises(aio.AioRpcError, match="still loading") as raised:
            await stub.GetStatus(pb.GetStatusRequest())
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_busy_port_is_one_clear_error(service: Service) -> None:
    second = GrpcServer(SETTINGS.model_copy(update={"port": service.server.port}), SERVICE_NAME)
    with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{service.server.port}"):
        async with second:
            pass
