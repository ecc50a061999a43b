"""The data plane: `treerl:{run}:prompts → :trees → :graded`, Redis streams on which nothing is lost or doubled.

How that holds:

* An entry that no one has acknowledged stays in its stream. A worker that dies leaves its entries pending; it takes
  them up again after a restart under the same name, or another worker does once they have been idle.
* A worker writes its output and acknowledges its input in one script, and only if the input was still pending:
  acknowledging can succeed once, so output can appear once, however often an entry was delivered.
* An entry that a worker hands back moves to the end of its stream, by the same script.
* A batch of requests is written together with its name, in one script, and only if the name is new: a trainer that
  resumes asks again and changes nothing.
* The trainer acknowledges graded trees when a durable checkpoint covers them.
* An entry that fails for good, or was delivered too often, moves to `treerl:{run}:dead` with the reason.

Not covered: a server that loses its data. Run it with an append-only file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.common import metrics
from services.common.addresses import without_credentials
from services.common.errors import UnavailableError

PROMPTS, TREES, GRADED = "prompts", "trees", "graded"
"""The streams, in the order in which work flows."""

GROUP = "workers"
"""The one consumer group of every stream."""

IDLE_MS = 15_000
"""An entry untouched for this long belongs to a dead worker; live ones touch theirs three times as often."""

MAX_DELIVERIES = 5
"""An entry delivered more often than this is poisoned."""

CONNECTIONS = 16
"""Connections that one process opens to the server."""

FIRST_ANSWER_S = 2.0
"""Longest wait for a server's first answer, in seconds; a silent one is asked three times more."""

BLOCK_MS = 500
"""Longest wait of one read, so that a worker notices a stop request."""

_COMPLETE = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
"""

_ENQUEUE = """
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 0 then return 0 end
for i = 3, #ARGV, 2 do redis.call('XADD', KEYS[1], '*', 'id', ARGV[i], 'payload', ARGV[i + 1]) end
return 1
"""

_COMMIT = """
for i = 3, #ARGV do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
redis.call('HDEL', KEYS[2], ARGV[2])
return 1
"""

_OLDEST_AGE_MS = """
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not first then return 0 end
local now = redis.call('TIME')
return now[1] * 1000 + math.floor(now[2] / 1000) - string.match(first[1], '^%d+')
"""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream: its position there, the id of the tree it is about, and the serialized message."""

    position: bytes
    tree_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry that was given up: which tree, in which stream, and why."""

    tree_id: str
    stream: str
    reason: str


async def connect(url: str, patience_s: float = 60.0) -> Redis:
    """Connect to Redis; commands that meet a lost connection are tried again for `patience_s` seconds.

    Raises:
        UnavailableError: nothing answers at that address, or not as Redis does.
    """
    first = Redis.from_url(url, retry=Retry(ConstantBackoff(0.5), 3), socket_timeout=FIRST_ANSWER_S)
    try:
        await first.ping()
    except (RedisError, OSError) as error:
        raise UnavailableError(
            f"no Redis answers at {without_credentials(url)}: {error}; start one, or set redis_url"
        ) from error
    finally:
        await first.aclose()
    lost = [RedisConnectionError, RedisTimeoutError, ConnectionError]
    patient = Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=int(patience_s) + 5, supported_errors=tuple(lost))
    # Commands wait for one of few connections: the default pool would refuse them once many entries end at one time.
    pool = BlockingConnectionPool.from_url(
        url, max_connections=CONNECTIONS, timeout=None, retry=patient, retry_on_error=lost
    )
    return Redis.from_pool(pool)


class Streams:
    """The streams of one run, as one consumer sees them."""

    def __init__(self, redis: Redis, run: str, consumer: str) -> None:
        """
        Args:
            redis: a connection made by `connect`.
            run: name of the run.
            consumer: name of this process, the same after a restart.
        """
        self._redis = redis
        self._run = run
        self._consumer = consumer
        self._complete = redis.register_script(_COMPLETE)
        self._enqueue = redis.register_script(_ENQUEUE)
        self._commit = redis.register_script(_COMMIT)
        self._oldest_age_ms = redis.register_script(_OLDEST_AGE_MS)

    def key(self, name: str) -> str:
        """Redis key of a stream or table of this run."""
        return f"treerl:{self._run}:{name}"

    async def create(self) -> None:
        """Create the streams and their groups where they are missing."""
        for name in (PROMPTS, TREES, GRADED):
            try:
                await self._redis.xgroup_create(self.key(name), GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def reset(self) -> None:
        """Forget everything that an earlier run of this name left."""
        await self._redis.delete(*(self.key(name) for name in (PROMPTS, TREES, GRADED, "batches", "covered", "dead")))
        await self.create()

    async def enqueue(self, batch: str, requests: Sequence[tuple[str, bytes]]) -> bool:
        """Write a batch of (tree id, message) to the prompts stream, unless a batch of that name is there.

        Returns:
            Whether it was written now.
        """
        arguments: list[str | bytes] = [batch, str(len(requests))]
        for tree_id, payload in requests:
            arguments += [tree_id, payload]
        return bool(await self._enqueue(keys=[self.key(PROMPTS), self.key("batches")], args=arguments))

    async def commit(self, batch: str, positions: Sequence[bytes]) -> None:
        """Acknowledge and delete the graded trees of a batch, and forget its name."""
        await self._commit(keys=[self.key(GRADED), self.key("batches")], args=[GROUP, batch, *positions])

    async def set_covered(self, step: int) -> None:
        """Note the step up to which checkpoints cover the trees of the run, before those are acknowledged."""
        await self._redis.set(self.key("covered"), step)

    async def covered(self) -> int:
        """The step that was noted last; 0 if none was."""
        return int(await self._redis.get(self.key("covered")) or 0)

    async def read(self, stream: str, count: int) -> list[Entry]:
        """Take up to `count` new entries, waiting at most `BLOCK_MS`."""
        return await self._read_group(stream, ">", count)

    async def unfinished(self, stream: str, after: bytes | str = "0", count: int = 1000) -> list[Entry]:
        """Entries that this consumer took and never finished, from a position on: work of its earlier life."""
        return await self._read_group(stream, after, count)

    async def _read_group(self, stream: str, start: bytes | str, count: int) -> list[Entry]:
        key = self.key(stream)
        try:
            reply: Any = await self._redis.xreadgroup(GROUP, self._consumer, {key: start}, count=count, block=BLOCK_MS)
        except ResponseError as error:
            # told to who asks, and by Redis 7.0 to who waits when the stream goes
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            await self.create()  # the trainer reset the run, or the server is new
            return []
        rows = reply.get(key.encode(), [[]])[0] if isinstance(reply, dict) else (reply[0][1] if reply else [])
        return [_entry(row) for row in rows if row[1]]

    async def reclaim(self, stream: str, count: int) -> list[Entry]:
        """Take over entries that a dead worker left; poisoned ones go to the dead letters."""
        key = self.key(stream)
        try:
            reply: Any = await self._redis.xautoclaim(key, GROUP, self._consumer, IDLE_MS, count=count)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return []
        entries = [_entry(row) for row in reply[1] if row[1]]
        return [entry for entry in entries if not await self.buried(stream, entry)]

    async def buried(self, stream: str, entry: Entry) -> bool:
        """Move an entry that was delivered too often to the dead letters; says whether it was."""
        pending: Any = await self._redis.xpending_range(self.key(stream), GROUP, entry.position, entry.position, 1)
        deliveries = pending[0]["times_delivered"] if pending else 0
        if deliveries <= MAX_DELIVERIES:
            return False
        await self.bury(stream, entry, f"delivered {deliveries} times, never finished")
        return True

    async def touch(self, stream: str, entries: Sequence[Entry]) -> None:
        """Say that this worker is alive and still at work on these entries."""
        positions: list[Any] = [entry.position for entry in entries]
        if positions:
            await self._redis.xclaim(self.key(stream), GROUP, self._consumer, 0, positions, justid=True)

    async def complete(self, source: str, entry: Entry, sink: str, payload: bytes) -> bool:
        """Write the output of an entry and acknowledge it, in one step.

        Returns:
            False if another worker finished the entry first; nothing was written then.
        """
        arguments: list[str | bytes] = [GROUP, entry.position, "id", entry.tree_id, "payload", payload]
        return bool(await self._complete(keys=[self.key(source), self.key(sink)], args=arguments))

    async def hand_back(self, stream: str, entry: Entry) -> None:
        """Put an entry at the end of its stream, for any worker to take, unless another one finished it."""
        await self.complete(stream, entry, stream, entry.payload)

    async def bury(self, stream: str, entry: Entry, reason: str) -> None:
        """Move an entry to the dead letters."""
        fields: list[str | bytes] = ["id", entry.tree_id, "stream", stream, "reason", reason, "payload", entry.payload]
        await self._complete(keys=[self.key(stream), self.key("dead")], args=[GROUP, entry.position, *fields])
        metrics.STREAM_ENTRIES.labels(stream, "dead").inc()
        log.error("dead letter", stream=stream, tree_id=entry.tree_id, reason=reason)

    async def dead_letters(self) -> list[DeadLetter]:
        """Everything that was given up in this run."""
        rows: Any = await self._redis.xrange(self.key("dead"))
        return [
            DeadLetter(fields[b"id"].decode(), fields[b"stream"].decode(), fields[b"reason"].decode())
            for _, fields in rows
        ]

    async def waiting(self, stream: str) -> int:
        """Entries that no worker has taken yet."""
        key = self.key(stream)
        async with self._redis.pipeline(transaction=True) as both:  # else entries could be finished in between
            both.xlen(key)
            both.xpending(key, GROUP)
            try:
                length, pending = await both.execute()
            except ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                return 0
        waiting = int(length) - int(pending["pending"])
        metrics.STREAM_WAITING.labels(stream).set(waiting)
        return waiting

    async def measure(self, *names: str) -> None:
        """Show the depth and age of streams, and how many entries were given up, in the metrics."""
        for name in names:
            await self.waiting(name)
            age_ms: Any = await self._oldest_age_ms(keys=[self.key(name)])
            metrics.STREAM_OLDEST_SECONDS.labels(name).set(max(0, age_ms) / 1000)
        metrics.DEAD_LETTERS.set(await self._redis.xlen(self.key("dead")))


def _entry(row: Any) -> Entry:
    position, fields = row
    return Entry(position, fields[b"id"].decode(), fields[b"payload"])
