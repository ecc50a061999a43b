"""Sampling siblings at once, all or none."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


async def together(siblings: Iterable[Coroutine[Any, Any, ResultT]]) -> list[ResultT]:
    """Results of coroutines that run at once, in their order.

    If one fails, the others are cancelled, and its error comes out bare once they have ended.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(sibling) for sibling in siblings]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]
