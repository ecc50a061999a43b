"""Who may run now: short tests first, by feedback.

Nobody can tell how long a program takes, so each is taken for short and gets one of a few turns, about one a core. When
it has run for longer than a short one does, it gives its turn back and goes on at a low priority. From then on it holds
its places only, which stand for memory. A program that loops or sleeps keeps no other from starting until there are as
many of its kind as there are places.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turn:
    """The right to run beside few others; may be given back early, and more than once."""

    def __init__(self, turns: "Turns") -> None:
        self._turns: Turns | None = turns

    def give_back(self) -> None:
        """Let the next one start."""
        if self._turns is not None:
            self._turns.free(turns=1, places=0)
            self._turns = None


class Turns:
    """Gives turns and places in the order in which they are asked for."""

    def __init__(self, turns: int, places: int) -> None:
        self._turns = turns
        self._all_places = self._places = places
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def take(self, places: int) -> AsyncIterator[Turn]:
        """Wait for a turn and for places, all of them if more than that are asked for; hold the places in the body."""
        places = min(places, self._all_places)
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append((places, admitted))
        self.free(0, 0)
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                self.free(0, 0)  # it may have been the one that the others waited behind
            else:
                self.free(1, places)
            raise
        turn = Turn(self)
        try:
            yield turn
        finally:
            turn.give_back()
            self.free(0, places)

    def free(self, turns: int, places: int) -> None:
        """Take back what was given, and admit those whose time has come."""
        self._turns += turns
        self._places += places
        while self._waiting:
            places, admitted = self._waiting[0]
            if not admitted.cancelled():
                if self._turns < 1 or self._places < places:
                    return
                self._turns -= 1
                self._places -= places
                admitted.set_result(None)
            self._waiting.popleft()
