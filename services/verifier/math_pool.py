"""Math workers that are killed at their deadline and replaced; one request at a time on each."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.common import metrics
from services.common.errors import ConfigurationError
from services.common.verdict import Outcome
from services.verifier.frames import HEADER, frame
from services.verifier.math_policy import DEFAULT_POLICY, MathPolicy
from services.verifier.sandbox.isolation import IsolationLevel

_START_S = 60.0
_STARTS = 3
_ATTEMPTS = 10  # workers may be killed from outside, many times in a row; an answer that kills them must end
_READ_BYTES = 65536
_SOURCE_ROOT = Path(__file__).parents[2]


class MathFailedError(Exception):
    """The workers gave no answer; says why, as a verdict's reason does."""

    outcome = Outcome.INFRA_ERROR


class MathTimeoutError(MathFailedError):
    """The deadline passed; the worker was killed."""

    outcome = Outcome.TIMEOUT


class MathMemoryError(MathFailedError):
    """The worker reached its memory limit."""

    outcome = Outcome.MEMORY


class MathWorkerLostError(MathFailedError):
    """Each worker that tried crashed: nothing is known about the answer."""


class MathPool:
    """A fixed number of math workers."""

    def __init__(self, size: int, memory_bytes: int, policy: MathPolicy = DEFAULT_POLICY) -> None:
        self._size = size
        self._memory_bytes = memory_bytes
        self._policy = policy
        self._level = IsolationLevel.RLIMITS
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._workers: set[_Worker] = set()
        self._replacing: set[asyncio.Task[None]] = set()

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the live workers."""
        return [worker.process_id for worker in self._workers if worker.alive]

    async def start(self, level: IsolationLevel) -> None:
        """Start the workers, locked down at a level; they have no namespaces of their own.

        Raises:
            ConfigurationError: they do not run, most likely for lack of memory.
        """
        self._level = level
        try:
            await asyncio.gather(*(self._add_first_worker() for _ in range(self._size)))
        except _CrashError as error:
            await self.close()
            raise ConfigurationError(
                f"a math worker does not start within {_START_S:g} s and {self._memory_bytes} bytes of address space"
            ) from error

    async def close(self) -> None:
        """Kill the workers."""
        for task in self._replacing:
            task.cancel()
        await asyncio.gather(*self._replacing, return_exceptions=True)
        for worker in list(self._workers):
            await worker.kill()
        self._workers.clear()

    async def call(self, request: dict[str, str], wall_s: float) -> dict[str, Any]:
        """Have a worker answer a request; the clock starts when a worker is free. `took_s` of the reply is its time.

        Raises:
            MathTimeoutError: it took longer than `wall_s`.
            MathMemoryError: it needed more memory than a worker has.
            MathWorkerLostError: so many workers crashed on it that it is likely the cause.
        """
        for _ in range(_ATTEMPTS):
            worker = await self._take()
            cause = "cancelled"
            started_s = time.monotonic()
            try:
                reply = await worker.call(request, wall_s)
                cause = str(reply.get("failed", ""))
            except TimeoutError as error:
                cause = "timeout"
                raise MathTimeoutError(f"comparing the answer took longer than {wall_s:.3g} s") from error
            except _CrashError:
                cause = "crash"
                continue
            finally:
                if cause:
                    self._replace(worker, cause)
                else:
                    self._idle.put_nowait(worker)
            if cause:
                raise MathMemoryError(f"comparing the answer needs more than {self._memory_bytes} bytes of memory")
            return reply | {"took_s": time.monotonic() - started_s}
        raise MathWorkerLostError(f"the grader failed: its worker died, {_ATTEMPTS} times in a row")

    async def _take(self) -> "_Worker":
        """An idle worker; one that died while it idled is replaced, and no request answers for it."""
        while not (worker := await self._idle.get()).alive:
            self._replace(worker, "crash")
        return worker

    def _replace(self, worker: "_Worker", cause: str) -> None:
        metrics.GRADER_RESTARTS.labels("math", cause).inc()
        task = asyncio.create_task(self._kill_and_add(worker))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _kill_and_add(self, worker: "_Worker") -> None:
        await worker.kill()
        self._workers.discard(worker)  # not before: where this is cancelled, `close` finishes it
        while True:
            try:
                return await self._add_worker()
            except _CrashError:  # killed from outside while it started: it started before, so it will again
                await asyncio.sleep(0.1)

    async def _add_first_worker(self) -> None:
        for _ in range(_STARTS - 1):
            with contextlib.suppress(_CrashError):  # perhaps it was killed from outside
                return await self._add_worker()
        return await self._add_worker()

    async def _add_worker(self) -> None:
        worker = _Worker([str(self._memory_bytes), str(int(self._level)), json.dumps(asdict(self._policy))])
        self._workers.add(worker)
        try:
            await worker.ready()
        except (_CrashError, TimeoutError) as error:
            self._workers.discard(worker)
            await worker.kill()
            raise _CrashError from error
        self._idle.put_nowait(worker)


class _CrashError(Exception):
    """The worker closed its socket."""


class _Worker:
    """One process, and the socket to it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-m", "services.verifier.math_worker", *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONPATH": str(_SOURCE_ROOT)},
                cwd="/",
                start_new_session=True,
            )

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    async def ready(self) -> None:
        """Wait until it has loaded its libraries."""
        async with asyncio.timeout(_START_S):
            await self._receive()

    async def call(self, request: dict[str, str], wall_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(wall_s):
                await asyncio.get_running_loop().sock_sendall(self._socket, frame(request))
                return await self._receive()
        except ConnectionError as error:
            raise _CrashError from error

    async def kill(self) -> None:
        """Kill the process; may be called again."""
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._socket.close()

    async def _receive(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        data = b""
        while len(data) < HEADER.size or len(data) < HEADER.size + HEADER.unpack_from(data)[0]:
            chunk = await loop.sock_recv(self._socket, _READ_BYTES)
            if not chunk:
                raise _CrashError
            data += chunk
        reply: dict[str, Any] = json.loads(data[HEADER.size :])
        return reply
