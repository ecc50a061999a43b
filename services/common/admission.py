"""Which calls may work now, which wait, and which are told to come back later."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.common import metrics
from services.common.errors import OverloadedError

SHORTEST_HINT_S = 0.1
LONGEST_HINT_S = 60.0

HINT_MEMORY = 0.1
"""Weight of the last call in the running mean of how long a call takes."""


@dataclass(frozen=True, eq=False, slots=True)
class _Waiting:
    size: int
    turn: asyncio.Event


class Place:
    """The room that a call has; left once, however often that is said."""

    def __init__(self, admission: "Admission", size: int) -> None:
        self._admission: Admission | None = admission
        self._size = size
        self._taken_s = time.monotonic()

    def leave(self) -> None:
        """Make room for the next."""
        if self._admission is not None:
            self._admission._leave(self._size, time.monotonic() - self._taken_s)
            self._admission = None


class Admission:
    """Lets calls of so much size work at once; the rest wait. A call's size is what the service counts: leaves, say.

    Clients take turns, and the calls of one client start in the order in which they came. A call that does not fit yet
    is not overtaken by smaller ones. A call that is larger than all room works alone.
    """

    def __init__(self, max_running: int, max_waiting_calls: int) -> None:
        """
        Args:
            max_running: size of the calls that may work at once, together.
            max_waiting_calls: calls that may wait; more are refused.
        """
        self._max_running = max_running
        self._max_waiting = max_waiting_calls
        self._running = 0
        self._waiting: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._call_s = 1.0

    @asynccontextmanager
    async def admit(self, client: str, size: int) -> AsyncIterator[None]:
        """Wait for this call's turn, and hold its place while the body runs; see `take`."""
        place = await self.take(client, size)
        try:
            yield
        finally:
            place.leave()

    async def take(self, client: str, size: int, *, refusable: bool = True) -> Place:
        """Wait for this call's turn; the place that it gets has to be left.

        Args:
            client: who calls; clients take turns.
            size: of the call.
            refusable: False for a call that has to wait, however many do.

        Raises:
            OverloadedError: too many calls wait already.
        """
        size = min(size, self._max_running)
        if self._waiting or not self._fits(size):
            if refusable:
                self._refuse_if_full(size)
            await self._wait(client, size)
        else:
            self._running += size
        return Place(self, size)

    def _refuse_if_full(self, size: int) -> None:
        waiting = self._num_waiting()
        if waiting >= self._max_waiting:
            metrics.CALLS_REFUSED.inc()
            hint = self._retry_after_s(size)
            raise OverloadedError(f"{waiting} calls wait, as many as may: try again in {hint:.1f} s", hint)

    async def _wait(self, client: str, size: int) -> None:
        waiting = _Waiting(size, asyncio.Event())
        self._waiting.setdefault(client, deque()).append(waiting)
        self._count()
        try:
            await waiting.turn.wait()
        except asyncio.CancelledError:
            if waiting.turn.is_set():  # in the same moment
                self._free(size)
            else:
                self._forget(client, waiting)
            raise

    def _fits(self, size: int) -> bool:
        return self._running + size <= self._max_running

    def _leave(self, size: int, took_s: float) -> None:
        self._call_s += HINT_MEMORY * (took_s - self._call_s)
        self._free(size)

    def _free(self, size: int) -> None:
        self._running -= size
        self._start_next()

    def _forget(self, client: str, waiting: _Waiting) -> None:
        self._waiting[client].remove(waiting)
        if not self._waiting[client]:
            del self._waiting[client]
        self._start_next()  # it may have been the one that did not fit

    def _start_next(self) -> None:
        while self._waiting:
            client, calls = next(iter(self._waiting.items()))
            if not self._fits(calls[0].size):
                break
            waiting = calls.popleft()
            self._running += waiting.size
            waiting.turn.set()
            if calls:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
        self._count()

    def _num_waiting(self) -> int:
        return sum(len(calls) for calls in self._waiting.values())

    def _count(self) -> None:
        metrics.CALLS_WAITING.set(self._num_waiting())

    def _retry_after_s(self, size: int) -> float:
        """Time until all that wait and this call have started, if calls take as long as the recent ones did."""
        ahead = size + sum(waiting.size for calls in self._waiting.values() for waiting in calls)
        return min(max(self._call_s * ahead / self._max_running, SHORTEST_HINT_S), LONGEST_HINT_S)
