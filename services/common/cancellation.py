"""Ending a task for certain.

Once is not enough for tasks that talk to Redis: the client sends through `asyncio.wait_for`, which before Python 3.12
loses a cancellation that comes in the moment when what it waits for completes (python/cpython#86296).
"""

import asyncio
from typing import Any

_AGAIN_S = 0.5
"""Pause before a task that goes on is cancelled again, in seconds."""


async def cancel(task: "asyncio.Task[Any]") -> None:
    """Cancel a task, again and again, and wait until it has ended."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_AGAIN_S)


def cancelled() -> bool:
    """Whether the running task was cancelled, also where it never heard of it: loops that others cancel must ask."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
