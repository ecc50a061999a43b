"""What a process has used so far, as the kernel tells it in /proc."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

# Fields of /proc/PID/stat, counted from the state, which follows the name in parentheses.
_STATE, _USER_TICKS, _SYSTEM_TICKS, _THREADS, _RESIDENT_PAGES = 0, 11, 12, 17, 21

_MOST_THREADS_READ = 256  # who has more is stopped for that, not measured


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process.

    Attributes:
        threads: those alive.
        resident_bytes: memory.
        cpu_s: of all threads, ended ones included; in steps of 10 ms.
        waits_s: how long each live thread was ready to run and had no core. Empty where the kernel keeps no scheduler
            statistics: there a wait looks like a sleep.
    """

    threads: int
    resident_bytes: int
    cpu_s: float
    waits_s: dict[int, float]


def read_usage(process: int) -> Usage | None:
    """What a process has used; None when it has ended."""
    try:
        fields = _stat(Path(f"/proc/{process}"))
        threads = int(fields[_THREADS])
        if fields[_STATE] in (b"Z", b"X") and threads <= 1:
            return None
    except (FileNotFoundError, ProcessLookupError):
        return None
    cpu_s = (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) * _TICK_S
    waits_s = _waits_s(process) if threads <= _MOST_THREADS_READ else {}
    return Usage(threads, int(fields[_RESIDENT_PAGES]) * _PAGE_BYTES, cpu_s, waits_s)


def is_runnable(process: int) -> bool:
    """Whether any thread of a process is running or would if it had a core."""
    for thread in _threads(process):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if _stat(thread)[_STATE] == b"R":
                return True
    return False


def _stat(folder: Path) -> list[bytes]:
    # As bytes: a process chooses its name, which stands there as it is.
    return (folder / "stat").read_bytes().rpartition(b")")[2].split()


def _waits_s(process: int) -> dict[int, float]:
    waits = {}
    for thread in _threads(process):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended just now, the process need not have
            waits[int(thread.name)] = int((thread / "schedstat").read_bytes().split()[1]) / 1e9
    return waits


def _threads(process: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{process}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []
