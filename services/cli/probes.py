"""Whether a Redis is ready for work."""

import asyncio

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.common.streams import connect

_PATIENCE_S = 2.0


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
