"""One supervised process: started, watched, restarted with backoff, and ended with everything it started."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from services.cli.sessions import kill_session
from services.common.errors import TreerlError

LAUNCHER = Path(__file__).with_name("launch.py")
ERROR_PREFIX = "error: "
_POLL_S = 0.2


class ServiceFailedError(TreerlError):
    """A service ended, and starting it again would not help."""


class Ending(Enum):
    """What exit status 0 means."""

    EARLY = "early"
    """The service should have gone on: it is started again."""

    FINISHED = "finished"
    """The work is done."""


class State(Enum):
    """Where a supervised process is in its life; the values are what users read."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Command:
    """What to run.

    Attributes:
        name: of the service, for logs and messages.
        words: program, as an absolute path, and arguments.
        is_ready: asks whether the service answers; called until it does.
        ending: what exit status 0 means.
    """

    name: str
    words: tuple[str, ...]
    is_ready: Callable[[], Awaitable[bool]]
    ending: Ending = Ending.EARLY


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When and how often a process is started again.

    Attributes:
        first_delay_s: pause after the first failure; doubles with each one that follows.
        longest_delay_s: bound of that pause.
        steady_s: a process that was ready for this long had recovered: failures are counted afresh.
        attempts: failures in a row after which it is given up.
        grace_s: time to end after SIGTERM before SIGKILL.
    """

    first_delay_s: float = 0.5
    longest_delay_s: float = 10.0
    steady_s: float = 30.0
    attempts: int = 5
    grace_s: float = 20.0

    def delay_s(self, failures: int) -> float:
        """Pause before the next start."""
        return min(self.longest_delay_s, self.first_delay_s * 2.0 ** (failures - 1))


class SupervisedProcess:
    """Keeps one command running until it finishes, is given up, or is stopped."""

    def __init__(
        self,
        command: Command,
        log: Path,
        policy: RestartPolicy,
        on_change: Callable[["SupervisedProcess"], None],
    ) -> None:
        """
        Args:
            command: what to run.
            log: file that gets its output; appended to.
            policy: how it is restarted.
            on_change: called after each change of `state`.
        """
        self.command = command
        self.log = log
        self.state = State.STARTING
        self.restarts = 0
        self.pid: int | None = None
        self.ready = asyncio.Event()
        self._policy = policy
        self._on_change = on_change
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ready_since: float | None = None
        self._was_ever_ready = False

    async def run(self) -> None:
        """Run the command, again and again where needed; returns once it finished or was stopped.

        Raises:
            ServiceFailedError: it was given up; names its last error and its log.
        """
        failures = 0
        try:
            while not self._stopping.is_set():
                started_at = self.log.stat().st_size if self.log.exists() else 0
                status = await self._live_once()
                if self._stopping.is_set():
                    break
                if status == 0 and self.command.ending is Ending.FINISHED:
                    self._change(State.FINISHED)
                    return
                failures = 1 if self._was_steady() else failures + 1
                self._give_up_if_hopeless(status, failures, last_error(self.log, started_at))
                self.restarts += 1
                self._change(State.RESTARTING)
                await self._pause(self._policy.delay_s(failures))
            self._change(State.STOPPED)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """End the command: SIGTERM, a time of grace, then SIGKILL to all that is left; returns once nothing runs."""
        self._stopping.set()
        await self._ended.wait()

    async def _live_once(self) -> int:
        """Start the command, wait for its end or a stop request, and end whatever it left behind."""
        self._ready_since = None
        with self.log.open("ab") as output:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())),
                *self.command.words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = child.pid
        tasks = [asyncio.create_task(wait) for wait in (self._wait_until_ready(), self._end_when_asked(child))]
        try:
            return await child.wait()
        finally:
            for task in tasks:
                task.cancel()
            self.ready.clear()
            await kill_session(child.pid)
            await child.wait()
            self.pid = None

    async def _end_when_asked(self, child: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        if child.returncode is None:  # else it ended by itself a moment ago
            child.terminate()
        await asyncio.sleep(self._policy.grace_s)
        await kill_session(child.pid)

    async def _wait_until_ready(self) -> None:
        self._change(State.STARTING)
        while not await self.command.is_ready():  # noqa: ASYNC110  # another process cannot set an event of ours
            await asyncio.sleep(_POLL_S)
        self._change(State.READY)
        self._ready_since = time.monotonic()
        self._was_ever_ready = True
        self.ready.set()

    def _change(self, state: State) -> None:
        self.state = state
        self._on_change(self)

    def _was_steady(self) -> bool:
        return self._ready_since is not None and time.monotonic() - self._ready_since >= self._policy.steady_s

    def _give_up_if_hopeless(self, status: int, failures: int, said: str | None) -> None:
        # a service that refuses to start, and a job that says why it cannot go on, would only say it again
        refused = status > 0 and said is not None
        final = refused and (self.command.ending is Ending.FINISHED or not self._was_ever_ready)
        if not final and failures < self._policy.attempts:
            return
        self._change(State.FAILED)
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        times = "" if final else f" {failures} times in a row"
        raise ServiceFailedError(f"{self.command.name}: {said or how + times} (log: {self.log})")

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def last_error(log: Path, start: int) -> str | None:
    """The last line of a log that begins with "error: ", from a byte position on; without that beginning."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.decode(errors="replace").rstrip() for line in file if line.startswith(ERROR_PREFIX.encode())]
    return lines[-1].removeprefix(ERROR_PREFIX) if lines else None
