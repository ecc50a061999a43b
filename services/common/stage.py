"""A worker's place between two streams: it takes an entry, has it handled, and passes the result on."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import RedisError

from services.common import metrics, streams
from services.common.cancellation import cancelled
from services.common.errors import InvalidRequestError, NotReadyError, TreerlError, UnavailableError
from services.common.streams import Entry, Streams

DRAIN_S = 10.0
"""Seconds that entries under way get to end when a worker stops."""

log = structlog.get_logger()


class Stage:
    """Takes entries from one stream, several at once, and writes what becomes of each to the next stream."""

    def __init__(self, run: Streams, source: str, sink: str, slots: int, sink_bound: int) -> None:
        """
        Args:
            run: the run's streams.
            source: stream to take from.
            sink: stream to write to.
            slots: entries handled at once.
            sink_bound: entries waiting in the sink above which no new entry is taken.
        """
        self._streams = run
        self._source = source
        self._sink = sink
        self._slots = slots
        self._sink_bound = sink_bound
        self._busy: dict[bytes, Entry] = {}

    async def run(
        self,
        handle: Callable[[bytes], Awaitable[bytes]],
        stopping: asyncio.Event,
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Work until asked to stop; entries under way then get `DRAIN_S` to end, and are left for redelivery if not.

        Args:
            handle: makes an entry's output from its payload. InvalidRequestError buries the entry, NotReadyError hands
                it back for any worker to take; any other TreerlError leaves it to be delivered again.
            stopping: set once no new entry should be taken.
            ready: whether a new entry may be taken now.

        Raises:
            UnavailableError: Redis stopped answering.
        """
        lost: ExceptionGroup[RedisError] | None = None
        try:
            await self._run(handle, stopping, ready)
        except* RedisError as group:
            lost = group
        if lost is not None:  # raised out here, because Python 3.11.2 makes a group of what is raised in an except*
            raise UnavailableError(f"Redis stopped answering: {lost.exceptions[0]}") from lost

    async def _run(
        self, handle: Callable[[bytes], Awaitable[bytes]], stopping: asyncio.Event, ready: Callable[[], bool]
    ) -> None:
        await self._streams.create()
        async with asyncio.TaskGroup() as tasks:
            touching = tasks.create_task(self._touch_and_measure())
            handling: set[asyncio.Task[None]] = set()
            entries = await self._unfinished()
            reclaimed_at = time.monotonic()
            while not stopping.is_set() and not cancelled():
                for entry in entries:
                    if entry.position not in self._busy:
                        self._busy[entry.position] = entry
                        task = tasks.create_task(self._work(entry, handle))
                        handling.add(task)
                        task.add_done_callback(handling.discard)
                if not ready():
                    entries = []
                    await asyncio.sleep(0.02)
                elif time.monotonic() - reclaimed_at > streams.IDLE_MS / 3000:
                    reclaimed_at = time.monotonic()
                    entries = await self._streams.reclaim(self._source, self._slots)
                else:
                    entries = await self._take()
            if handling:
                await asyncio.wait(handling, timeout=DRAIN_S)
            for task in (touching, *handling):
                task.cancel()

    async def _unfinished(self) -> list[Entry]:
        left = await self._streams.unfinished(self._source)
        return [entry for entry in left if not await self._streams.buried(self._source, entry)]

    async def _take(self) -> list[Entry]:
        free = self._slots - len(self._busy)
        if free <= 0 or await self._streams.waiting(self._sink) >= self._sink_bound:
            await asyncio.sleep(0.02)
            return []
        return await self._streams.read(self._source, free)

    async def _work(self, entry: Entry, handle: Callable[[bytes], Awaitable[bytes]]) -> None:
        with structlog.contextvars.bound_contextvars(tree_id=entry.tree_id):
            try:
                payload = await handle(entry.payload)
                done = await self._streams.complete(self._source, entry, self._sink, payload)
                metrics.STREAM_ENTRIES.labels(self._source, "done" if done else "duplicate").inc()
            except InvalidRequestError as error:
                await self._streams.bury(self._source, entry, str(error))
            except NotReadyError as error:
                await self._streams.hand_back(self._source, entry)
                metrics.STREAM_ENTRIES.labels(self._source, "handed back").inc()
                log.info("entry handed back", reason=str(error))
            except TreerlError as error:
                metrics.STREAM_ENTRIES.labels(self._source, "failed").inc()
                log.warning("entry failed; it will be delivered again", error=str(error))
            finally:
                del self._busy[entry.position]

    async def _touch_and_measure(self) -> None:
        while not cancelled():
            await asyncio.sleep(streams.IDLE_MS / 3000)
            await self._streams.touch(self._source, list(self._busy.values()))
            await self._streams.measure(self._source, self._sink)
