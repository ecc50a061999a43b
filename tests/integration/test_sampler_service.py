"""SamplerService over real gRPC, with a scripted engine behind it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from grpc import aio
from grpc_health.v1 import health_pb2

from services.common import codec
from services.common.errors import ConfigurationError
from services.common.grpc_server import GrpcServer
from services.common.published_weights import Canary, publish
from services.common.tree import SearchParameters, Tree
from services.sampler.servicer import SERVICE_NAME, SamplerServicer
from tests.scripted_engine import ScriptedEngine
from tests.served_sampler import SETTINGS, Service, generate_request, search_request, served_sampler
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with served_sampler(ScriptedEngine()) as service:
        yield service


async def test_search_streams_every_branch_and_then_the_tree(service: Service) -> None:
    events = [event async for event in service.stub.SearchTree(search_request(SearchParameters(3, 1, 1, 2)))]
    branches = tuple(codec.decode_branch(event.branch) for event in events[:-1])
    tree: Tree = codec.decode_tree(events[-1].tree)
    assert branches == tree.branches


async def test_a_client_grows_a_tree_by_hand(service: Service) -> None:
    started = await service.stub.Generate(generate_request(2))
    chain = max(started.tree.branches, key=lambda b: len(b.token_ids))
    forked = await service.stub.Fork(
        pb.ForkRequest(tree_id=started.tree.tree_id, branch_id=chain.id, token_index=1, num_branches=3)
    )
    assert [(b.id, b.parent_id, b.fork_index) for b in forked.branches] == [(i, chain.id, 1) for i in (2, 3, 4)]
    await service.stub.ReleaseTree(pb.ReleaseTreeRequest(tree_id=started.tree.tree_id))
    assert (await service.stub.GetStatus(pb.GetStatusRequest())).trees_held == 0


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
