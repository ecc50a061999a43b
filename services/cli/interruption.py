"""Runs a coroutine to its end, or to a clean stop when the user or the system asks for one."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import TypeVar

ResultT = TypeVar("ResultT")


class Interrupted(Exception):  # not an error: somebody asked for it
    """A signal asked to stop, and everything was stopped."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_status = 128 + signal_number


def run_to_end(work: Coroutine[object, object, ResultT]) -> ResultT:
    """Run a coroutine; SIGINT, SIGTERM and SIGHUP cancel it, and its context managers clean up.

    Raises:
        Interrupted: a signal came; the work has been cancelled and has ended.
    """
    received: list[int] = []

    async def cancellable() -> ResultT:
        task = asyncio.ensure_future(work)

        def stop(signal_number: int) -> None:
            received.append(signal_number)
            task.cancel()

        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop, signal_number)
        return await task

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise Interrupted(received[0]) from None
