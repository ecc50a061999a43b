"""Watches one child from outside: clock, memory, threads, output. Nothing here believes what the child says."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from services.common.verdict import Limits
from services.verifier.sandbox.bounded_reader import BoundedReader
from services.verifier.sandbox.execution import Ended, Stop

REPORT_BYTES = 1 << 20
_FIRST_LOOK_S = 0.02
_LATER_LOOKS_S = 0.05
_MAX_THREADS = 128
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# Fields of /proc/PID/stat, counted from the state, which follows the name in parentheses.
_THREADS_FIELD = 17
_RESIDENT_FIELD = 21


class Supervisor:
    """Reads a child's pipes and kills it when it goes over a limit; made when the child is asked for."""

    def __init__(self, limits: Limits, output: int, report: int) -> None:
        self.limits = limits
        self._stop: Stop | None = None
        self._pidfd = -1
        self._output = BoundedReader(output, limits.output_bytes, lambda: self.kill(Stop.OUTPUT))
        self._report = BoundedReader(report, REPORT_BYTES, lambda: self.kill(Stop.OUTPUT))
        loop = asyncio.get_running_loop()
        self._clock = loop.call_later(limits.wall_s, self.kill, Stop.TIME)
        self._look: asyncio.TimerHandle | None = None

    def started(self, pidfd: int) -> None:
        """Take charge of the process; owns the descriptor."""
        self._pidfd = pidfd
        self._look = asyncio.get_running_loop().call_later(_FIRST_LOOK_S, self._look_at_usage)
        if self._stop is not None:  # its time ran out before it began
            self._send_kill()

    def kill(self, stop: Stop | None) -> None:
        """Kill the child; the first reason given counts."""
        self._stop = self._stop or stop
        if self._pidfd >= 0:
            self._send_kill()

    def ended(self, status: int) -> Ended:
        """Collect what is left of a child that is dead."""
        output, report = self._output.finish(), self._report.finish()
        self.close()
        return Ended(status, output, report, self._stop)

    def close(self) -> None:
        """Let go of everything; may be called again."""
        self._clock.cancel()
        if self._look is not None:
            self._look.cancel()
        self._output.finish()
        self._report.finish()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _send_kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # already dead
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _look_at_usage(self) -> None:
        usage = _usage(self._pidfd)
        if usage is None:
            return
        threads, resident_bytes = usage
        if resident_bytes > self.limits.memory_bytes:
            self.kill(Stop.MEMORY)
        elif threads > _MAX_THREADS:
            self.kill(Stop.THREADS)
        else:
            self._look = asyncio.get_running_loop().call_later(_LATER_LOOKS_S, self._look_at_usage)


def _usage(pidfd: int) -> tuple[int, int] | None:
    """Threads and resident bytes of a process; None when it is gone."""
    try:
        info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        process = next(line.split()[1] for line in info.splitlines() if line.startswith("Pid:"))
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return int(fields[_THREADS_FIELD]), int(fields[_RESIDENT_FIELD]) * _PAGE_BYTES
