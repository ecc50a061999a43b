"""Watches one child from outside: time, memory, threads, output. Nothing here believes what the child says."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from services.common import metrics
from services.common.verdict import Limits
from services.verifier.sandbox.bounded_reader import BoundedReader
from services.verifier.sandbox.execution import Ended, Stop
from services.verifier.sandbox.own_time import OwnTime
from services.verifier.sandbox.usage import is_runnable, read_usage

REPORT_BYTES: Final = 1 << 20
PATIENCE_S: Final = 300.0
"""So long a child may have waited for a core."""

_NICENESS: Final = ((0.015, 10), (0.5, 19))
"""After so many seconds of its own, a test yields to newer ones so much."""

_NEW_S: Final = 0.1
_LOOK_AT_NEW_S: Final = 0.01
_LOOK_S: Final = 0.05
_LOOKS_SHARE: Final = 0.025
"""Looking at one child takes no more of a core than this: many threads take long to look at."""
_MAX_THREADS: Final = 128


class Supervisor:
    """Reads a child's pipes and kills it when it goes over a limit; made when the child is asked for."""

    def __init__(
        self, limits: Limits, own_time: OwnTime, set_niceness: Callable[[int], None], output: int, report: int
    ) -> None:
        """
        Args:
            limits: of the child.
            own_time: of the test; counted together for children that work on the same one.
            set_niceness: lowers the child's priority, to 19 at the lowest.
            output: descriptor from which its output is read; owned from now on.
            report: the same for its report.
        """
        self.limits = limits
        self._own_time = own_time
        self._set_niceness = set_niceness
        self._lower = list(_NICENESS)
        self._stop: Stop | None = None
        self._pidfd = -1
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self._output = BoundedReader(output, limits.output_bytes, lambda: self.kill(Stop.OUTPUT))
        self._report = BoundedReader(report, REPORT_BYTES, lambda: self.kill(Stop.OUTPUT))
        self._next_look: asyncio.TimerHandle | None = None

    def started(self, pidfd: int) -> None:
        """Take charge of the process; owns the descriptor."""
        self._pidfd = pidfd
        self._started_s = self._loop.time()
        self._own_time.start(_process_id(pidfd), self._started_s)
        self._next_look = self._loop.call_later(_LOOK_AT_NEW_S, self._look)
        if self._stop is not None:  # given up before it began
            self._send_kill()

    def kill(self, stop: Stop | None) -> None:
        """Kill the child; the first reason given counts."""
        self._stop = self._stop or stop
        if self._pidfd >= 0:
            self._send_kill()

    def ended(self, status: int, cpu_s: float) -> Ended:
        """Collect what is left of a child that is dead."""
        output, report = self._output.finish(), self._report.finish()
        self.close()
        if cpu_s > self.limits.wall_s:  # the kernel's own limit, or its end, came before a look
            self._stop = self._stop or Stop.TIME
        if self._stop is not None:
            metrics.CHILD_KILLS.labels(self._stop.name.lower()).inc()
        return Ended(status, output, report, self._stop, self._loop.time() - self._started_s, cpu_s)

    def close(self) -> None:
        """Let go of everything; may be called again."""
        if self._next_look is not None:
            self._next_look.cancel()
        self._output.finish()
        self._report.finish()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _send_kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # already dead
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _look(self) -> None:
        began_s = time.thread_time()
        process = _process_id(self._pidfd)
        usage = read_usage(process)
        if usage is None:
            return
        now_s = self._loop.time()
        own_s, in_doubt_s = self._own_time.charge(process, usage, now_s)
        if usage.resident_bytes > self.limits.memory_bytes:
            self.kill(Stop.MEMORY)
        elif usage.threads > _MAX_THREADS:
            self.kill(Stop.THREADS)
        elif own_s - in_doubt_s > self.limits.wall_s or (own_s > self.limits.wall_s and not is_runnable(process)):
            self.kill(Stop.TIME)
        elif now_s - self._started_s > self.limits.wall_s + PATIENCE_S:
            self.kill(Stop.STARVED)
        else:
            while self._lower and own_s > self._lower[0][0]:
                self._set_niceness(self._lower.pop(0)[1])
            pause_s = max(_LOOK_AT_NEW_S if own_s < _NEW_S else _LOOK_S, (time.thread_time() - began_s) / _LOOKS_SHARE)
            self._next_look = self._loop.call_later(pause_s, self._look)


def _process_id(pidfd: int) -> int:
    """-1 when the process is gone."""
    info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    return next(int(line.split()[1]) for line in info.splitlines() if line.startswith("Pid:"))
