"""Where a run stands, and what it was asked to do between two steps."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

from services.common import metrics
from services.common.checkpoint import Checkpoint
from services.common.errors import PreconditionError


class RunState(Enum):
    """Phase of a run; the values are the protobuf numbers."""

    STARTING = 1
    RUNNING = 2
    PAUSED = 3
    FINISHED = 4
    FAILED = 5


class RunControl:
    """Joins the loop, which passes between two steps, and the clients who ask for something there."""

    def __init__(self) -> None:
        self.state = RunState.STARTING
        self.step = 0
        self.policy_version = 0
        self.checkpoint_step = 0
        self.failure = ""
        self._changed = asyncio.Condition()
        self._pausing = False
        self._saves: list[asyncio.Future[Checkpoint]] = []
        metrics.RUN_STATE.set(self.state.value)

    async def between_steps(self, save: Callable[[], Awaitable[Checkpoint]]) -> None:
        """Called by the loop before each step: saves if asked to, and returns unless or until the run may go on.

        Args:
            save: writes a checkpoint of the last step done.
        """
        while True:
            if self._saves:
                checkpoint = await save()
                for waiting in self._saves:
                    if not waiting.done():
                        waiting.set_result(checkpoint)
                self._saves = []
            await self._enter(RunState.PAUSED if self._pausing else RunState.RUNNING)
            if not self._pausing:
                return
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._saves) or not self._pausing)

    async def pause(self) -> int:
        """Stop the run before its next step.

        Returns:
            Steps done, once stopped.

        Raises:
            PreconditionError: the run has ended, or ends before it can stop.
        """
        self._check_alive()
        async with self._changed:
            self._pausing = True
            await self._changed.wait_for(lambda: self.state is RunState.PAUSED or self._ended or not self._pausing)
        self._check_alive()
        return self.step

    async def resume(self) -> None:
        """Let a paused run go on.

        Raises:
            PreconditionError: the run has ended.
        """
        self._check_alive()
        async with self._changed:
            self._pausing = False
            self._changed.notify_all()

    async def save_checkpoint(self) -> Checkpoint:
        """Have a checkpoint written before the next step.

        Raises:
            PreconditionError: the run has ended, or ends before that; its end has a checkpoint of its own.
        """
        self._check_alive()
        saved: asyncio.Future[Checkpoint] = asyncio.get_running_loop().create_future()
        async with self._changed:
            self._saves.append(saved)
            self._changed.notify_all()
        return await saved

    async def finish(self) -> None:
        """All steps are done."""
        await self._enter(RunState.FINISHED)
        self._refuse_saves()

    async def fail(self, failure: str) -> None:
        """The run stopped by an error."""
        self.failure = failure
        await self._enter(RunState.FAILED)
        self._refuse_saves()

    async def _enter(self, state: RunState) -> None:
        async with self._changed:
            self.state = state
            metrics.RUN_STATE.set(state.value)
            self._changed.notify_all()

    @property
    def _ended(self) -> bool:
        return self.state in (RunState.FINISHED, RunState.FAILED)

    def _check_alive(self) -> None:
        if self._ended:
            raise PreconditionError(f"the run has ended at step {self.step}: {self.failure or 'all steps are done'}")

    def _refuse_saves(self) -> None:
        for waiting in self._saves:
            if not waiting.done():
                waiting.set_exception(PreconditionError(f"the run ended at step {self.step} before it could save"))
        self._saves = []
