"""A fixed number of zygotes, one execution at a time on each; a lost one is replaced."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.common import metrics
from services.common.errors import ConfigurationError
from services.common.verdict import Limits
from services.verifier.sandbox.execution import Ended, Execution, Json
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.self_test import check_isolation
from services.verifier.sandbox.zygote import IsolationRefusedError, Zygote, ZygoteLostError

_ATTEMPTS = 2

ResultT = TypeVar("ResultT")


class SandboxPool:
    """Runs programs in isolation, as strong as the machine allows and never weaker than asked for."""

    def __init__(self, size: int, min_level: IsolationLevel) -> None:
        """Prepare `size` zygotes that hold at least `min_level`."""
        self._size = size
        self._min_level = min_level
        self._level = min_level
        self._slots: asyncio.Queue[Zygote | None] = asyncio.Queue()  # None: a zygote to be started
        self._zygotes: set[Zygote] = set()

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
            ConfigurationError: the machine does not allow the level asked for; says which layer failed and how.
        """
        refusals = []
        for level in sorted(IsolationLevel, reverse=True):
            if level < self._min_level:
                break
            self._level = level
            try:
                for _ in range(self._size):
                    await self._start_zygote()
            except (IsolationRefusedError, ZygoteLostError) as error:
                refusals.append(f"{level.name.lower()}: {error}")
                await self.close()
                continue
            for zygote in self._zygotes:
                self._slots.put_nowait(zygote)
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
        """Run one child.

        Raises:
            ZygoteLostError: its zygote was lost, and so was a second one.
        """
        return await self._on_a_zygote(lambda zygote: zygote.run(Execution(request, limits, stdin)))

    async def run_pair(
        self, hosting: dict[str, Json], asserting: dict[str, Json], limits: Limits
    ) -> tuple[Ended, Ended]:
        """Run a child that holds a program and one that questions it; the first is killed when the second is done.

        Raises:
            ZygoteLostError: their zygote was lost, and so was a second one.
        """
        pair = Execution(hosting, limits), Execution(asserting, limits)
        return await self._on_a_zygote(lambda zygote: zygote.run_pair(*pair))

    async def _on_a_zygote(self, use: Callable[[Zygote], Awaitable[ResultT]]) -> ResultT:
        for attempt in range(_ATTEMPTS):
            zygote = await self._slots.get()
            try:
                if zygote is None:
                    zygote = await self._start_zygote()
                return await use(zygote)
            except (ZygoteLostError, IsolationRefusedError) as error:
                metrics.GRADER_RESTARTS.labels("sandbox", "lost").inc()
                if zygote is not None:
                    self._zygotes.discard(zygote)
                    await zygote.close()
                    zygote = None
                if attempt == _ATTEMPTS - 1:
                    raise ZygoteLostError(str(error)) from error
            finally:
                self._slots.put_nowait(zygote)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _start_zygote(self) -> Zygote:
        zygote = await Zygote.start(self._level)
        try:
            await check_isolation(zygote, self._level)
        except IsolationRefusedError:
            await zygote.close()
            raise
        self._zygotes.add(zygote)
        return zygote
