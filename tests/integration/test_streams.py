"""Streams on a real server: nothing lost, nothing twice."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.common import metrics
from services.common import streams as streams_module
from services.common.errors import InvalidRequestError, NotReadyError, TreerlError, UnavailableError
from services.common.stage import Stage
from services.common.streams import GRADED, PROMPTS, TREES, Streams, connect


@pytest.fixture
async def run(redis_server: str) -> AsyncIterator[Callable[[str], Streams]]:
    """Makes consumers of one run that no other test has."""
    redis = await connect(redis_server)
    name = f"test-{random.getrandbits(48):x}"
    await Streams(redis, name, "setup").create()
    yield lambda consumer: Streams(redis, name, consumer)
    await redis.aclose()


def batch(count: int) -> list[tuple[str, bytes]]:
    return [(f"tree-{i}", f"payload-{i}".encode()) for i in range(count)]


async def take_all(streams: Streams, stream: str) -> list[str]:
    taken: list[str] = []
    while entries := await streams.read(stream, 100):
        taken += [entry.tree_id for entry in entries]
    return taken


async def work(stage: Stage, handle: Callable[[bytes], Awaitable[bytes]], until: Callable[[], Awaitable[bool]]) -> None:
    stopping = asyncio.Event()
    running = asyncio.create_task(stage.run(handle, stopping))
    async with asyncio.timeout(20):
        while not await until():
            await asyncio.sleep(0.02)
            if running.done():
                break
    stopping.set()
    await running


async def upper(payload: bytes) -> bytes:
    return payload.upper()


async def test_a_batch_is_written_once_however_often_it_is_asked_for(run: Callable[[str], Streams]) -> None:
    trainer = run("trainer")
    assert await trainer.enqueue("step-1", batch(3))
    assert not await trainer.enqueue("step-1", batch(3))
    assert await take_all(trainer, PROMPTS) == ["tree-0", "tree-1", "tree-2"]


async def test_a_stage_passes_every_entry_on_once(run: Callable[[str], Streams]) -> None:
    await run("trainer").enqueue("step-1", batch(50))
    reader = run("reader")

    async def all_passed() -> bool:
        return await reader.waiting(TREES) == 50

    await work(Stage(run("worker"), PROMPTS, TREES, slots=8, sink_bound=1000), upper, all_passed)
    assert sorted(await take_all(reader, TREES)) == sorted(tree_id for tree_id, _ in batch(50))
    assert await reader.waiting(PROMPTS) == 0


async def test_hundreds_of_entries_may_end_at_one_time(run: Callable[[str], Streams]) -> None:
    await run("trainer").enqueue("step-1", batch(300))
    reader = run("reader")
    all_there = asyncio.Barrier(300)

    async def together(payload: bytes) -> bytes:
        await all_there.wait()
        return payload

    async def all_passed() -> bool:
        return await reader.waiting(TREES) == 300

    await work(Stage(run("worker"), PROMPTS, TREES, slots=300, sink_bound=1000), together, all_passed)


async def test_only_the_first_of_two_workers_on_one_entry_is_heard(run: Callable[[str], Streams]) -> None:
    first, second = run("first"), run("second")
    await first.enqueue("step-1", batch(1))
    (entry,) = await first.read(PROMPTS, 1)
    assert await second.complete(PROMPTS, entry, TREES, b"from second")
    assert not await first.complete(PROMPTS, entry, TREES, b"from first")
    assert [e.payload for e in await first.read(TREES, 10)] == [b"from second"]


async def test_a_worker_finds_its_unfinished_work_after_a_restart(run: Callable[[str], Streams]) -> None:
    before = run("worker")
    await before.enqueue("step-1", batch(4))
    assert len(await before.read(PROMPTS, 3)) == 3  # and then it is killed

    reader = run("reader")

    async def all_passed() -> bool:
        return await reader.waiting(TREES) == 4

    await work(Stage(run("worker"), PROMPTS, TREES, slots=2, sink_bound=1000), upper, all_passed)
    assert sorted(await take_all(reader, TREES)) == [f"tree-{i}" for i in range(4)]


async def test_another_worker_takes_over_from_a_dead_one(
    run: Callable[[str], Streams], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "IDLE_MS", 300)
    dead, reader = run("dead"), run("reader")
    await dead.enqueue("step-1", batch(3))
    await dead.read(PROMPTS, 3)

    async def all_passed() -> bool:
        return await reader.waiting(TREES) == 3

    await work(Stage(run("alive"), PROMPTS, TREES, slots=4, sink_bound=1000), upper, all_passed)


async def test_long_work_is_not_taken_over_while_its_worker_lives(
    run: Callable[[str], Streams], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "IDLE_MS", 300)
    monkeypatch.setattr(streams_module, "BLOCK_MS", 50)
    await run("trainer").enqueue("step-1", batch(1))
    handled: list[str] = []

    def slow(worker: str) -> Callable[[bytes], Awaitable[bytes]]:
        async def handle(payload: bytes) -> bytes:
            handled.append(worker)
            await asyncio.sleep(1.5)
            return payload

        return handle

    reader = run("reader")

    async def passed() -> bool:
        return await reader.waiting(TREES) == 1

    await asyncio.gather(
        *(work(Stage(run(name), PROMPTS, TREES, 4, 1000), slow(name), passed) for name in ("one", "two"))
    )
    assert len(handled) == 1


# Redis' client now and then leaves a connection unclosed that is cancelled while it is being opened or closed.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore:loop is closed:ResourceWarning")
async def test_a_worker_ends_when_it_is_told_to_whatever_its_connection_does(
    run: Callable[[str], Streams], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "IDLE_MS", 3)  # so that the moment often comes in which Redis' client is deaf
    monkeypatch.setattr(streams_module, "BLOCK_MS", 5)
    for number in range(100):
        stopping = asyncio.Event()
        worker = Stage(run(f"worker-{number}"), PROMPTS, TREES, slots=4, sink_bound=1000)
        running = asyncio.create_task(worker.run(upper, stopping))
        await asyncio.sleep(0.01)
        stopping.set()
        async with asyncio.timeout(20):
            await running
    gc.collect()  # here, where such connections are no error


async def test_what_can_never_succeed_goes_to_the_dead_letters(run: Callable[[str], Streams]) -> None:
    await run("trainer").enqueue("step-1", batch(1))
    reader = run("reader")

    async def refuse(payload: bytes) -> bytes:
        raise InvalidRequestError("no such domain")

    async def buried() -> bool:
        return bool(await reader.dead_letters())

    await work(Stage(run("worker"), PROMPTS, TREES, 1, 1000), refuse, buried)
    (letter,) = await reader.dead_letters()
    assert (letter.tree_id, letter.stream, letter.reason) == ("tree-0", PROMPTS, "no such domain")


async def test_what_fails_again_and_again_is_poisoned(
    run: Callable[[str], Streams], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "IDLE_MS", 60)
    monkeypatch.setattr(streams_module, "BLOCK_MS", 20)
    await run("trainer").enqueue("step-1", batch(1))
    reader = run("reader")
    attempts = 0

    async def fail(payload: bytes) -> bytes:
        nonlocal attempts
        attempts += 1
        raise TreerlError("not today")

    async def buried() -> bool:
        return bool(await reader.dead_letters())

    await work(Stage(run("worker"), PROMPTS, TREES, 1, 1000), fail, buried)
    assert attempts == streams_module.MAX_DELIVERIES


async def test_a_full_sink_holds_the_source_back(run: Callable[[str], Streams]) -> None:
    await run("trainer").enqueue("step-1", batch(20))
    reader = run("reader")
    stopping = asyncio.Event()
    running = asyncio.create_task(Stage(run("worker"), PROMPTS, TREES, slots=2, sink_bound=5).run(upper, stopping))
    await asyncio.sleep(0.6)
    assert await reader.waiting(TREES) <= 6  # the bound, and the slots that were filled when it was reached
    taken: list[str] = []
    while len(taken) < 20:
        taken += [entry.tree_id for entry in await reader.read(TREES, 3)]
    assert sorted(taken) == sorted(tree_id for tree_id, _ in batch(20))
    stopping.set()
    await running


async def test_graded_trees_stay_until_the_checkpoint_that_covers_them(run: Callable[[str], Streams]) -> None:
    trainer = run("trainer")
    await trainer.enqueue("step-1", batch(2))
    for entry in await run("worker").read(PROMPTS, 2):
        await run("worker").complete(PROMPTS, entry, GRADED, entry.payload)
    assert len(await trainer.read(GRADED, 10)) == 2
    again = await run("trainer").unfinished(GRADED)  # the trainer was killed before its checkpoint
    assert [entry.tree_id for entry in again] == ["tree-0", "tree-1"]
    await trainer.commit("step-1", [entry.position for entry in again])
    assert await run("trainer").unfinished(GRADED) == []
    assert await trainer.enqueue("step-1", batch(2)), "a committed batch's name is free again"


async def test_what_one_worker_is_not_ready_for_is_done_by_another(run: Callable[[str], Streams]) -> None:
    await run("trainer").enqueue("step-1", batch(50))
    reader, handed_back = run("reader"), 0
    ready = True

    async def lag(payload: bytes) -> bytes:
        nonlocal ready, handed_back
        ready, handed_back = False, handed_back + 1
        raise NotReadyError("weights are too old")

    stopping = asyncio.Event()
    lagging = Stage(run("lagging"), PROMPTS, TREES, slots=8, sink_bound=1000)
    waiting = asyncio.create_task(lagging.run(lag, stopping, lambda: ready))
    async with asyncio.timeout(20):
        while not handed_back:
            await asyncio.sleep(0.01)

    async def all_passed() -> bool:
        return await reader.waiting(TREES) == 50

    await work(Stage(run("worker"), PROMPTS, TREES, slots=8, sink_bound=1000), upper, all_passed)
    stopping.set()
    await waiting
    assert handed_back <= 8
    assert sorted(await take_all(reader, TREES)) == sorted(tree_id for tree_id, _ in batch(50))
    assert await reader.waiting(PROMPTS) == 0


async def test_only_an_entry_that_no_other_worker_finished_can_be_handed_back(run: Callable[[str], Streams]) -> None:
    first, second = run("first"), run("second")
    await first.enqueue("step-1", batch(1))
    (entry,) = await first.read(PROMPTS, 1)
    assert await second.complete(PROMPTS, entry, TREES, b"from second")
    await first.hand_back(PROMPTS, entry)
    assert await first.read(PROMPTS, 1) == []


async def test_random_kills_lose_and_double_nothing(
    run: Callable[[str], Streams], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "IDLE_MS", 150)
    monkeypatch.setattr(streams_module, "BLOCK_MS", 20)
    monkeypatch.setattr(streams_module, "MAX_DELIVERIES", 1000)
    chance = random.Random(0)
    await run("trainer").enqueue("step-1", batch(200))
    reader = run("reader")

    async def slow(payload: bytes) -> bytes:
        await asyncio.sleep(chance.random() * 0.05)
        if chance.random() < 0.2:
            raise NotReadyError("not now")
        return payload

    async def live_and_die(name: str) -> None:
        while True:
            life = asyncio.create_task(Stage(run(name), PROMPTS, TREES, 8, 1000).run(slow, asyncio.Event()))
            await asyncio.sleep(chance.random() * 0.3)
            life.cancel()
            await asyncio.wait([life])

    workers = [asyncio.create_task(live_and_die(f"worker-{i}")) for i in range(3)]
    async with asyncio.timeout(60):
        while await reader.waiting(TREES) < 200:
            await asyncio.sleep(0.05)
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)
    assert sorted(await take_all(reader, TREES)) == sorted(tree_id for tree_id, _ in batch(200))


async def test_a_reset_forgets_an_earlier_run_and_its_workers_carry_on(run: Callable[[str], Streams]) -> None:
    trainer, worker = run("trainer"), run("worker")
    await trainer.enqueue("step-1", batch(2))
    (entry,) = await worker.read(PROMPTS, 1)
    await trainer.reset()
    assert not await worker.complete(PROMPTS, entry, TREES, b"too late")
    assert await trainer.enqueue("step-1", batch(1))
    assert [e.tree_id for e in await worker.read(PROMPTS, 5)] == ["tree-0"]


async def test_no_server_is_one_clear_error() -> None:
    with pytest.raises(UnavailableError, match="no Redis answers at redis://127.0.0.1:1/0"):
        await connect("redis://127.0.0.1:1/0")


async def test_the_oldest_entry_ages_until_it_is_done(run: Callable[[str], Streams]) -> None:
    worker = run("worker")
    await worker.measure(PROMPTS)
    assert metrics.STREAM_OLDEST_SECONDS.labels(PROMPTS)._value.get() == 0
    await run("trainer").enqueue("step-1", batch(1))
    (entry,) = await worker.read(PROMPTS, 1)
    await asyncio.sleep(0.01)
    await worker.measure(PROMPTS)
    assert metrics.STREAM_OLDEST_SECONDS.labels(PROMPTS)._value.get() >= 0.01
    await worker.complete(PROMPTS, entry, TREES, b"tree")
    await worker.measure(PROMPTS)
    assert metrics.STREAM_OLDEST_SECONDS.labels(PROMPTS)._value.get() == 0


async def test_entries_that_were_given_up_are_counted(run: Callable[[str], Streams]) -> None:
    worker = run("worker")
    await run("trainer").enqueue("step-1", batch(2))
    for entry in await worker.read(PROMPTS, 2):
        await worker.bury(PROMPTS, entry, "no reason")
    await worker.measure(PROMPTS)
    assert metrics.DEAD_LETTERS._value.get() == 2


async def test_the_lag_by_which_autoscalers_go_is_what_waits(run: Callable[[str], Streams], redis_server: str) -> None:
    worker, redis = run("worker"), await connect(redis_server)

    async def lag() -> int:
        (group,) = await redis.xinfo_groups(worker.key(PROMPTS))
        return int(group["lag"])

    await run("trainer").enqueue("step-1", batch(6))
    assert await lag() == 6
    done, back, dead = await worker.read(PROMPTS, 3)
    await worker.complete(PROMPTS, done, TREES, b"tree")
    await worker.hand_back(PROMPTS, back)
    await worker.bury(PROMPTS, dead, "no reason")
    assert await lag() == await worker.waiting(PROMPTS) == 4
    await redis.aclose()
