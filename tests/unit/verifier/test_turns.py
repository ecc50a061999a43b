"""Who may run now, without any process."""

import asyncio
from contextlib import AsyncExitStack

from hypothesis import given
from hypothesis import strategies as st

from services.verifier.sandbox.turns import Turn, Turns


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Client:
    """Takes a turn in a task and keeps it until told to end."""

    def __init__(self, turns: Turns, places: int = 1) -> None:
        self.turn: Turn | None = None
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._run(turns, places))

    async def _run(self, turns: Turns, places: int) -> None:
        async with turns.take(places) as self.turn:
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task


async def test_one_who_gave_its_turn_back_lets_the_next_start() -> None:
    turns = Turns(turns=1, places=2)
    first, second, third = (Client(turns) for _ in range(3))
    await settle()
    assert (first.turn is not None, second.turn, third.turn) == (True, None, None)
    assert first.turn is not None
    first.turn.give_back()
    first.turn.give_back()
    await settle()
    assert second.turn is not None
    second.turn.give_back()
    await settle()
    assert third.turn is None  # both places are taken
    await first.end()
    await settle()
    assert third.turn is not None
    await asyncio.gather(second.end(), third.end())


async def test_nobody_overtakes_one_that_needs_many_places() -> None:
    turns = Turns(turns=3, places=3)
    small, large, late = Client(turns, 1), Client(turns, 3), Client(turns, 1)
    await settle()
    assert (large.turn, late.turn) == (None, None)
    await small.end()
    await settle()
    assert (large.turn is not None, late.turn) == (True, None)
    await large.end()
    await late.end()


async def test_one_that_needs_more_places_than_there_are_gets_all() -> None:
    async with Turns(turns=1, places=2).take(5):
        pass


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["end", "cancel", "give back and end"])), max_size=12))
def test_everything_comes_back_however_it_ends(script: list[tuple[int, str]]) -> None:
    async def play() -> None:
        turns = Turns(turns=2, places=4)
        clients = [Client(turns, places) for places, _ in script]
        for client, (_, fate) in zip(clients, script, strict=True):
            await settle()
            if fate == "cancel":
                client.task.cancel()
                await asyncio.gather(client.task, return_exceptions=True)
                continue
            async with asyncio.timeout(5):
                while client.turn is None:
                    await asyncio.sleep(0)
            if fate == "give back and end":
                client.turn.give_back()
            await client.end()
        async with asyncio.timeout(5), AsyncExitStack() as all_of_it:
            await all_of_it.enter_async_context(turns.take(2))
            await all_of_it.enter_async_context(turns.take(2))

    asyncio.run(play())
