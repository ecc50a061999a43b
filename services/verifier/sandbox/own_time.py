"""How long a test has run, whatever its neighbours did meanwhile. Pure."""

from services.verifier.sandbox.usage import Usage


class OwnTime:
    """What the clock would show if the processes of one test had been alone on the machine.

    That is the time since their start, less what they waited for a core, and never less than their CPU time: threads on
    several cores count each. A program that sleeps is charged for it; one that was not let run is not.
    """

    def __init__(self) -> None:
        self._started_s: float | None = None
        self._charged_s: dict[int, float] = {}
        self._in_doubt_s: dict[int, float] = {}
        self._cpu_s: dict[int, float] = {}
        self._thread_waits_s: dict[int, float] = {}
        self._waited_s = 0.0

    def start(self, process: int, now_s: float) -> None:
        """Begin to count when the first of the processes starts; `now_s` is of any clock that does not jump."""
        if self._started_s is None:
            self._started_s = now_s
        self._charged_s[process] = now_s

    def charge(self, process: int, usage: Usage, now_s: float) -> tuple[float, float]:
        """Take note of what one of the processes has used by now.

        Returns:
            The test's own time so far, and how much of it is in doubt: the time since the process last ran. It may have
            slept, or be waiting for a core still, which the kernel tells only afterwards. Seconds.
        """
        waits = [wait - self._thread_waits_s.get(thread, 0.0) for thread, wait in usage.waits_s.items()]
        # While the longest wait lasted, the others waited too or used the CPU time that is counted below.
        waited_s = max([0.0, *waits])
        ran_s = usage.cpu_s - self._cpu_s.get(process, 0.0)
        unexplained_s = max(0.0, now_s - self._charged_s[process] - waited_s - ran_s)
        self._in_doubt_s[process] = unexplained_s + (0.0 if ran_s or waited_s else self._in_doubt_s.get(process, 0.0))
        self._waited_s += waited_s
        self._thread_waits_s |= usage.waits_s
        self._cpu_s[process] = usage.cpu_s
        self._charged_s[process] = now_s
        elapsed_s = now_s - (self._started_s or 0.0)
        return max(sum(self._cpu_s.values()), elapsed_s - self._waited_s), self._in_doubt_s[process]
