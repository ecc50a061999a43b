"""Who may work, who waits, and who is refused."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.admission import HINT_MEMORY, Admission
from services.common.errors import OverloadedError


class Calls:
    """Calls by name: which were admitted, in which order, and a way to end each."""

    def __init__(self, admission: Admission) -> None:
        self.admitted: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.admission = admission
        self._ends: dict[str, asyncio.Event] = {}

    async def begin(self, name: str, size: int, client: str = "client") -> None:
        """Make a call and let it come as far as it can."""
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._call(name, size, client))
        await settle()

    async def end(self, name: str) -> None:
        """Let an admitted call end."""
        self._ends[name].set()
        await self.tasks[name]
        await settle()

    async def _call(self, name: str, size: int, client: str) -> None:
        async with self.admission.admit(client, size):
            self.admitted.append(name)
            await self._ends[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def calls(max_running: int, max_waiting_calls: int = 100) -> AsyncIterator[Calls]:
    begun = Calls(Admission(max_running, max_waiting_calls))
    yield begun
    for task in begun.tasks.values():
        task.cancel()
    await asyncio.gather(*begun.tasks.values(), return_exceptions=True)


async def test_calls_run_while_they_fit_and_wait_in_their_order_after_that() -> None:
    async with calls(4) as made:
        for name, size in (("a", 2), ("b", 2), ("c", 1), ("d", 1)):
            await made.begin(name, size)
        assert made.admitted == ["a", "b"]
        await made.end("a")
        assert made.admitted == ["a", "b", "c", "d"]


async def test_a_large_call_is_not_overtaken_by_small_ones() -> None:
    async with calls(4) as made:
        for name, size in (("a", 3), ("large", 4), ("small", 1)):
            await made.begin(name, size)
        assert made.admitted == ["a"]
        await made.end("a")
        assert made.admitted == ["a", "large"]
        await made.end("large")
        assert made.admitted == ["a", "large", "small"]


async def test_clients_take_turns() -> None:
    async with calls(1) as made:
        await made.begin("first", 1)
        for name in ("a1", "a2", "a3"):
            await made.begin(name, 1, client="a")
        await made.begin("b1", 1, client="b")
        for name in ("first", "a1", "b1", "a2"):
            await made.end(name)
        assert made.admitted == ["first", "a1", "b1", "a2", "a3"]


async def test_a_call_larger_than_all_room_runs_alone() -> None:
    async with calls(4) as made:
        await made.begin("a", 1)
        await made.begin("huge", 1000)
        assert made.admitted == ["a"]
        await made.end("a")
        await made.begin("after", 1)
        assert made.admitted == ["a", "huge"]
        await made.end("huge")
        assert made.admitted == ["a", "huge", "after"]


async def test_a_waiting_call_that_is_cancelled_makes_way() -> None:
    async with calls(4) as made:
        for name, size in (("a", 3), ("large", 4), ("small", 1)):
            await made.begin(name, size)
        made.tasks["large"].cancel()
        await settle()
        assert made.admitted == ["a", "small"]


async def test_a_call_that_is_cancelled_as_its_turn_comes_gives_its_room_back() -> None:
    async with calls(1) as made:
        for name in ("a", "b", "c"):
            await made.begin(name, 1)
        made.tasks["a"].cancel()
        await asyncio.sleep(0)  # "a" has left and given its turn to "b", which has not run yet
        made.tasks["b"].cancel()
        await settle()
        assert made.admitted == ["a", "c"]


async def test_when_too_many_wait_a_call_is_refused() -> None:
    async with calls(1, max_waiting_calls=2) as made:
        for name in ("a", "b", "c", "d"):
            await made.begin(name, 1)
        with pytest.raises(OverloadedError, match="2 calls wait, as many as may: try again in"):
            await made.tasks["d"]
        assert made.admitted == ["a"]


async def test_a_call_that_may_not_be_refused_waits_however_many_do() -> None:
    async with calls(1, max_waiting_calls=0) as made:
        await made.begin("a", 1)
        waits = asyncio.create_task(made.admission.take("client", 1, refusable=False))
        await settle()
        assert not waits.done()
        await made.end("a")
        (await waits).leave()


async def test_a_place_that_is_left_twice_makes_room_once() -> None:
    admission = Admission(1, 1)
    place = await admission.take("a", 1)
    place.leave()
    place.leave()
    await admission.take("b", 1)
    late = asyncio.create_task(admission.take("c", 1))
    await settle()
    assert not late.done()
    late.cancel()


async def test_the_hint_is_the_time_in_which_all_that_wait_will_have_started(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    async with calls(4, max_waiting_calls=2) as made:
        await made.begin("twenty-one seconds", 1)
        now += 21
        await made.end("twenty-one seconds")
        call_s = 1 + HINT_MEMORY * (21 - 1)  # from one second, assumed at the start
        for name, size in (("a", 4), ("b", 3), ("c", 1), ("refused", 2)):
            await made.begin(name, size)
        with pytest.raises(OverloadedError) as raised:
            await made.tasks["refused"]
        assert raised.value.retry_after_s == pytest.approx(call_s * (3 + 1 + 2) / 4)


@given(
    room=st.integers(1, 8),
    asked=st.lists(st.tuples(st.integers(1, 12), st.sampled_from("abc"), st.booleans()), max_size=30),
)
def test_never_more_runs_than_there_is_room_for_and_every_call_gets_its_turn(
    room: int, asked: list[tuple[int, str, bool]]
) -> None:
    running = most = finished = 0

    async def call(admission: Admission, size: int, client: str) -> None:
        nonlocal running, most, finished
        async with admission.admit(client, size):
            running += min(size, room)
            most = max(most, running)
            try:
                await asyncio.sleep(0)
            finally:
                running -= min(size, room)
        finished += 1

    async def everything() -> None:
        admission = Admission(room, len(asked))
        tasks = [asyncio.create_task(call(admission, size, client)) for size, client, _ in asked]
        await asyncio.sleep(0)
        for task, (_, _, cancelled) in zip(tasks, asked, strict=True):
            if cancelled:
                task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

    asyncio.run(everything())
    assert most <= room
    assert finished >= sum(not cancelled for *_, cancelled in asked)
