"""All processes of a local run: started in order, supervised, and ended in the opposite order."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from services.cli.plan import Plan
from services.cli.process import Command, RestartPolicy, SupervisedProcess

DEFAULT_POLICY = RestartPolicy()


class Supervisor:
    """Runs a plan as long as its context is open; on exit, however it comes, no process remains.

    A service that fails for good ends the wait of whoever is inside `start`, `finished` or `watch`.
    """

    def __init__(
        self,
        plan: Plan,
        run_folder: Path,
        on_change: Callable[[SupervisedProcess], None],
        policy: RestartPolicy = DEFAULT_POLICY,
    ) -> None:
        """
        Args:
            plan: what to run.
            run_folder: gets `logs/`, one file a service, and `endpoints.json` where something is trained.
            on_change: called when a service changes its state.
            policy: how processes are restarted.
        """
        self.plan = plan
        self.processes: list[SupervisedProcess] = []
        self._run_folder = run_folder
        self._on_change = on_change
        self._policy = policy
        self._runs: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        (self._run_folder / "logs").mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # whoever feeds on another goes first: the trainer, then the workers, then the streams they stand on
        store = [p for p in self.processes if p.command is self.plan.store]
        trainer = [p for p in self.processes if p.command is self.plan.trainer]
        workers = [p for p in self.processes if p not in (*store, *trainer)]
        for group in (trainer, workers, store):
            await asyncio.gather(*(process.stop() for process in group))
        await asyncio.gather(*self._runs.values(), return_exceptions=True)

    async def start(self) -> None:
        """Start everything; returns once all but the trainer are ready, and the trainer, if any, was started.

        Raises:
            ServiceFailedError: a service cannot start.
        """
        if self.plan.trainer is not None:
            self.plan.endpoints.write(self._run_folder)
        if self.plan.store is not None:
            await self._until_ready([self._launch(self.plan.store)])
        await self._until_ready([self._launch(command) for command in self.plan.workers])
        if self.plan.trainer is not None:
            self._launch(self.plan.trainer)

    async def finished(self) -> None:
        """Wait until the trainer has finished.

        Raises:
            ServiceFailedError: a service was given up.
        """
        assert self.plan.trainer is not None
        await self._while_all_run(asyncio.wait([self._runs[self.plan.trainer.name]]))

    async def watch(self) -> None:
        """Wait for ever.

        Raises:
            ServiceFailedError: a service was given up.
        """
        await self._while_all_run(asyncio.Event().wait())

    def _launch(self, command: Command) -> SupervisedProcess:
        log = self._run_folder / "logs" / f"{command.name}.log"
        process = SupervisedProcess(command, log, self._policy, self._on_change)
        self.processes.append(process)
        self._runs[command.name] = asyncio.create_task(process.run(), name=command.name)
        return process

    async def _until_ready(self, processes: list[SupervisedProcess]) -> None:
        await self._while_all_run(asyncio.gather(*(process.ready.wait() for process in processes)))

    async def _while_all_run(self, goal: Awaitable[object]) -> None:
        """Wait for a goal, but no longer than until some service has failed for good."""
        reached = asyncio.ensure_future(goal)
        waiting: set[asyncio.Future[Any]] = {reached, *self._runs.values()}
        try:
            while not reached.done():
                ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in ended:
                    future.result()
        finally:
            reached.cancel()
