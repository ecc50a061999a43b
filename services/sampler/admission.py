"""Which calls may sample now, which wait, and which are told to come back later."""

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
    leaves: int
    turn: asyncio.Event


class Admission:
    """Lets calls sample so many leaves at once; the rest wait.

    Clients take turns, and the calls of one client start in the order in which they came. A call that does not fit yet
    is not overtaken by smaller ones. A call of more leaves than may be sampled at once runs alone.
    """

    def __init__(self, max_running_leaves: int, max_waiting_calls: int) -> None:
        """
        Args:
            max_running_leaves: leaves that calls may sample at once.
            max_waiting_calls: calls that may wait; more are refused.
        """
        self._max_running = max_running_leaves
        self._max_waiting = max_waiting_calls
        self._running = 0
        self._waiting: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._call_s = 1.0

    @asynccontextmanager
    async def admit(self, client: str, leaves: int) -> AsyncIterator[None]:
        """Wait for this call's turn, and hold its place while the body runs.

        Args:
            client: who calls; clients take turns.
            leaves: how many leaves the call samples.

        Raises:
            OverloadedError: too many calls wait already.
        """
        leaves = min(leaves, self._max_running)
        if self._waiting or not self._fits(leaves):
            await self._wait(client, leaves)
        else:
            self._running += leaves
        started = time.monotonic()
        try:
            yield
        finally:
            self._call_s += HINT_MEMORY * (time.monotonic() - started - self._call_s)
            self._leave(leaves)

    async def _wait(self, client: str, leaves: int) -> None:
        if self._num_waiting() >= self._max_waiting:
            metrics.CALLS_REFUSED.inc()
            hint = self._retry_after_s(leaves)
            raise OverloadedError(
                f"{self._num_waiting()} calls wait to sample, as many as may: try again in {hint:.1f} s", hint
            )
        waiting = _Waiting(leaves, asyncio.Event())
        self._waiting.setdefault(client, deque()).append(waiting)
        self._count()
        try:
            await waiting.turn.wait()
        except asyncio.CancelledError:
            if waiting.turn.is_set():  # in the same moment
                self._leave(leaves)
            else:
                self._forget(client, waiting)
            raise

    def _fits(self, leaves: int) -> bool:
        return self._running + leaves <= self._max_running

    def _leave(self, leaves: int) -> None:
        self._running -= leaves
        self._start_next()

    def _forget(self, client: str, waiting: _Waiting) -> None:
        self._waiting[client].remove(waiting)
        if not self._waiting[client]:
            del self._waiting[client]
        self._start_next()  # it may have been the one that did not fit

    def _start_next(self) -> None:
        while self._waiting:
            client, calls = next(iter(self._waiting.items()))
            if not self._fits(calls[0].leaves):
                break
            waiting = calls.popleft()
            self._running += waiting.leaves
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

    def _retry_after_s(self, leaves: int) -> float:
        """Time until all that wait and this call have started, if calls take as long as the recent ones did."""
        ahead = leaves + sum(waiting.leaves for calls in self._waiting.values() for waiting in calls)
        return min(max(self._call_s * ahead / self._max_running, SHORTEST_HINT_S), LONGEST_HINT_S)
