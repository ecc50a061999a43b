"""A fixed number of zygotes that share the executions among them; a lost one is replaced."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from math import ceil
from typing import TypeVar

from services.common import metrics
from services.common.errors import ConfigurationError
from services.common.verdict import Limits
from services.verifier.sandbox.execution import Ended, Execution, ExecutionLostError, Json
from services.verifier.sandbox.inside.profile import Profile
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.self_test import check_isolation
from services.verifier.sandbox.turns import Turn, Turns
from services.verifier.sandbox.zygote import (
    GraderUnloadableError,
    IsolationRefusedError,
    Zygote,
    ZygoteLostError,
)

_ATTEMPTS = 20  # zygotes may be killed from outside, many times in a row; a program that kills them must end
_STARTS = 3

ResultT = TypeVar("ResultT")


class SandboxPool:
    """Runs programs in isolation, as strong as the machine allows and never weaker than asked for."""

    def __init__(
        self, size: int, children_per_zygote: int, place_bytes: int, min_level: IsolationLevel, grader: str = ""
    ) -> None:
        """
        Args:
            size: zygotes, and tests that run at full priority.
            children_per_zygote: how many tests there may be for each zygote, those included that have run for long.
            place_bytes: memory that is reckoned for a test; one with a higher limit takes the place of several.
            min_level: weakest isolation that will do.
            grader: `module:function` of the user's own grader, which requests of mode "grader" call.
        """
        self._size = size
        self._place_bytes = place_bytes
        self._min_level = min_level
        self._level = min_level
        self._grader = grader
        self._turns = Turns(size, size * children_per_zygote)
        self._zygotes: set[Zygote] = set()
        self._replacing = asyncio.Lock()

    @property
    def level(self) -> IsolationLevel:
        """Layers that hold for every program."""
        return self._level

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the live zygotes."""
        return [zygote.process_id for zygote in self._zygotes]

    async def start(self) -> None:
        """Find the strongest level that holds here and start the zygotes.

        Raises:
            ConfigurationError: the machine does not allow the level asked for, and says which layer failed and how;
                or the grader cannot be imported.
        """
        refusals = []
        for level in sorted(IsolationLevel, reverse=True):
            if level < self._min_level:
                break
            self._level = level
            try:
                for _ in range(self._size):
                    await self._start_first_zygote()
            except (IsolationRefusedError, ExecutionLostError) as error:
                refusals.append(f"{level.name.lower()}: {error}")
                await self.close()
                continue
            except GraderUnloadableError as error:
                raise ConfigurationError(f"the grader {self._grader} cannot be imported: {error}") from error
            return
        raise ConfigurationError(
            f"the sandbox cannot be isolated at level {self._min_level.name.lower()} here ({'; '.join(refusals)}); "
            "allow what failed, or lower min_isolation if you trust what is graded"
        )

    async def close(self) -> None:
        """Kill every zygote and child."""
        for zygote in list(self._zygotes):
            await zygote.close()
        self._zygotes.clear()

    async def run(self, request: dict[str, Json], limits: Limits, stdin: bytes = b"") -> Ended:
        """Run Python code in a child.

        Raises:
            ExecutionLostError: its zygote was lost, or it could not be locked down, and that again and again.
            RecursionError: the request is nested too deeply.
        """
        return await self._run(Execution(_encode(request), limits, stdin))

    async def run_compiler(self, command: Sequence[str], scratch: int, limits: Limits, source: bytes) -> Ended:
        """Run a compiler on a source on its standard input, in the folder of a descriptor.

        Raises:
            ExecutionLostError: as for `run`.
        """
        request = _encode({"mode": "compiler", "command": list(command)})
        return await self._run(Execution(request, limits, source, Profile.COMPILER, scratch))

    async def run_binary(self, program: int, limits: Limits, stdin: bytes) -> Ended:
        """Run the statically linked program of a descriptor; what it writes to standard error is its report.

        Raises:
            ExecutionLostError: as for `run`.
        """
        return await self._run(Execution(_encode({"mode": "binary"}), limits, stdin, Profile.BINARY, program))

    async def run_pair(
        self, hosting: dict[str, Json], asserting: dict[str, Json], limits: Limits
    ) -> tuple[Ended, Ended]:
        """Run a child that holds a program and one that questions it; the first is killed when the second is done.

        Raises:
            ExecutionLostError: as for `run`.
        """
        pair = Execution(_encode(hosting), limits), Execution(_encode(asserting), limits)
        return await self._on_a_zygote(limits, 2, lambda zygote, turn: zygote.run_pair(*pair, turn.give_back))

    async def _run(self, execution: Execution) -> Ended:
        return await self._on_a_zygote(execution.limits, 1, lambda zygote, turn: zygote.run(execution, turn.give_back))

    async def _on_a_zygote(
        self, limits: Limits, children: int, use: Callable[[Zygote, Turn], Awaitable[ResultT]]
    ) -> ResultT:
        async with self._turns.take(children * ceil(limits.memory_bytes / self._place_bytes)) as turn:
            lost: list[ExecutionLostError] = []
            while len(lost) < _ATTEMPTS:
                try:
                    return await self._attempt(use, turn)
                except ExecutionLostError as error:
                    lost.append(error)
            raise ExecutionLostError(f"{lost[-1]}, {_ATTEMPTS} times in a row") from lost[-1]

    async def _attempt(self, use: Callable[[Zygote, Turn], Awaitable[ResultT]], turn: Turn) -> ResultT:
        async with self._replacing:
            for zygote in [zygote for zygote in self._zygotes if not zygote.alive]:  # it died while it idled
                await self._discard(zygote)
            while len(self._zygotes) < self._size:
                try:
                    await self._start_zygote()
                except (IsolationRefusedError, GraderUnloadableError) as error:
                    raise ZygoteLostError(str(error)) from error
        zygote = min(self._zygotes, key=lambda zygote: zygote.children)
        try:
            return await use(zygote, turn)
        except ZygoteLostError:
            await self._discard(zygote)
            raise

    async def _discard(self, zygote: Zygote) -> None:
        if zygote in self._zygotes:  # else another test that was lost with it has done this
            self._zygotes.discard(zygote)
            metrics.GRADER_RESTARTS.labels("sandbox", "lost").inc()
            await zygote.close()

    async def _start_first_zygote(self) -> None:
        for _ in range(_STARTS - 1):
            with contextlib.suppress(ZygoteLostError):  # perhaps it was killed from outside
                return await self._start_zygote()
        return await self._start_zygote()

    async def _start_zygote(self) -> None:
        zygote = await Zygote.start(self._level, self._grader)
        try:
            await check_isolation(zygote, self._level)
        except (IsolationRefusedError, ExecutionLostError):
            await zygote.close()
            raise
        self._zygotes.add(zygote)


def _encode(request: dict[str, Json]) -> bytes:
    return json.dumps(request).encode()
