"""Ending a task for certain."""

import asyncio
from typing import Any

_AGAIN_S = 0.5
"""Pause before a task that goes on is cancelled again, in seconds."""


async def cancel(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait until it has ended.

    Once is not enough for tasks that talk to Redis: the client sends through `asyncio.wait_for`, which before Python
    3.12 loses a cancellation that comes in the moment when what it waits for completes (python/cpython#86296).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN_S)
