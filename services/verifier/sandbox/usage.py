"""What a process and those it started have used so far, as the kernel tells it in /proc."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

# Fields of /proc/PID/stat, counted from the state, which follows the name in parentheses. Ticks, in user mode and in
# the kernel, are those of the process, then those of the children that it has seen end.
_STATE, _TICKS, _THREADS, _RESIDENT_PAGES = 0, slice(11, 15), 17, 21

_ENDED = (FileNotFoundError, ProcessLookupError)  # a thread or process that was there just now
_MOST_READ = 256  # who has more threads or processes is stopped for that, not measured


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process with its descendants.

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
    own = _stat(Path(f"/proc/{process}"))
    if own is None or (own[_STATE] in (b"Z", b"X") and int(own[_THREADS]) <= 1):
        return None
    family = [process, *_descendants(process)]
    stats = [own, *filter(None, (_stat(Path(f"/proc/{member}")) for member in family[1:]))]
    threads = sum(int(fields[_THREADS]) for fields in stats)
    resident_pages = sum(int(fields[_RESIDENT_PAGES]) for fields in stats)
    cpu_ticks = sum(sum(map(int, fields[_TICKS])) for fields in stats)
    waits_s = _waits_s(family) if threads <= _MOST_READ else {}
    return Usage(threads, resident_pages * _PAGE_BYTES, cpu_ticks * _TICK_S, waits_s)


def is_runnable(process: int) -> bool:
    """Whether any thread of a process or of a descendant is running or would if it had a core."""
    threads = (thread for member in (process, *_descendants(process)) for thread in _threads(member))
    return any(fields is not None and fields[_STATE] == b"R" for fields in map(_stat, threads))


def _descendants(process: int) -> list[int]:
    found: list[int] = []
    generation = [process]
    while generation and len(found) <= _MOST_READ:
        threads = [thread for member in generation for thread in _threads(member)]
        generation = []
        for thread in threads:
            with contextlib.suppress(*_ENDED):
                generation += map(int, (thread / "children").read_bytes().split())
        found += generation
    return found


def _waits_s(family: list[int]) -> dict[int, float]:
    waits = {}
    for thread in (thread for member in family for thread in _threads(member)):
        with contextlib.suppress(*_ENDED):
            waits[int(thread.name)] = int((thread / "schedstat").read_bytes().split()[1]) / 1e9
    return waits


def _threads(process: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{process}/task").iterdir())
    except _ENDED:
        return []


def _stat(folder: Path) -> list[bytes] | None:
    try:
        # As bytes: a process chooses its name, which stands there as it is.
        return (folder / "stat").read_bytes().rpartition(b")")[2].split()
    except _ENDED:
        return None
