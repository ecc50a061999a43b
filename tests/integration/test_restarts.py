"""A client with gRPC's retry policy, and a service that is away for a moment."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.grpc_server import GrpcServer
from services.common.restarts import RETRY_OPTIONS
from services.common.settings import load_settings
from services.verifier.settings import VerifierSettings

ALONE = ("grpc.use_local_subchannel_pool", 1)


def service(port: int) -> GrpcServer:
    return GrpcServer(load_settings(VerifierSettings, port=port, metrics_port=0), "any.v1.Service")


async def test_a_call_outlives_a_restart(unused_tcp_port: int) -> None:
    async with aio.insecure_channel(f"127.0.0.1:{unused_tcp_port}", options=(*RETRY_OPTIONS, ALONE)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def check() -> None:
            await stub.Check(health_pb2.HealthCheckRequest())

        async with service(unused_tcp_port):
            await check()
        away = asyncio.create_task(check())
        await asyncio.sleep(0.5)
        assert not away.done()
        async with service(unused_tcp_port):
            await away


async def test_without_the_policy_it_does_not(unused_tcp_port: int) -> None:
    async with aio.insecure_channel(f"127.0.0.1:{unused_tcp_port}", options=(ALONE,)) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_call_that_a_service_cancels_at_its_end_is_made_again() -> None:
    answers = iter([grpc.StatusCode.CANCELLED, None])

    async def answer(request: bytes, context: Any) -> bytes:
        if status := next(answers):
            await context.abort(status, "as gRPC does to a call that arrives in the moment in which a server ends")
        return request

    server = aio.server()
    method = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("any.v1.Service", {"Call": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=(*RETRY_OPTIONS, ALONE)) as channel:
        assert await channel.unary_unary("/any.v1.Service/Call")(b"asked") == b"asked"
    await server.stop(None)
