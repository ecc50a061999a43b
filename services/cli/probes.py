"""Whether a service is ready for work: gRPC health, or Redis PING."""

import asyncio

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.common.streams import connect

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


async def answers_ping(redis_url: str) -> bool:
    """Whether the Redis at a URL answers."""
    redis = Redis.from_url(redis_url, socket_timeout=_PATIENCE_S, retry=Retry(NoBackoff(), 0))
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return bool(await redis.ping())
    except (RedisError, OSError, TimeoutError):
        return False
    finally:
        await redis.aclose()


async def require_redis(redis_url: str) -> None:
    """Check that a server of the user's is there.

    Raises:
        UnavailableError: nothing answers at that URL.
    """
    redis = await connect(redis_url)
    await redis.aclose()
