"""A task that loses a cancellation is ended all the same."""

import asyncio

from services.common.cancellation import cancel


async def test_a_task_that_loses_its_first_cancellation_ends() -> None:
    lost = 0

    async def work() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
                if lost == 2:
                    raise

    task = asyncio.create_task(work())
    await asyncio.sleep(0)

    await cancel(task)

    assert task.cancelled()
