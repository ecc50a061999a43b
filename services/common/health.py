"""Whether a gRPC server reports SERVING. `python -m services.common.health HOST:PORT` is a container's health check.

Ends with status 0 if it does and with 1 if it does not or nothing answers. Says nothing about why: that is in its logs.
"""

import asyncio
import sys

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_PATIENCE_S = 2.0
_CHANNEL_OPTIONS = (("grpc.max_reconnect_backoff_ms", 500),)


async def serves(address: str) -> bool:
    """Whether the gRPC server at an address reports SERVING."""
    async with aio.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_S)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(not asyncio.run(serves(sys.argv[1])))
