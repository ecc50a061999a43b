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
            The test's own time so far, and how much of it is in doubt: the part since the last charge in which the
            process neither ran nor came to the end of a wait, so that it slept, or has been waiting till now. Seconds.
        """
        waits = [wait - self._thread_waits_s.get(thread, 0.0) for thread, wait in usage.waits_s.items()]
        # While the longest wait lasted, the others waited too or used the CPU time that is counted below.
        waited_s = max([0.0, *waits])
        in_doubt_s = now_s - self._charged_s[process] - waited_s - (usage.cpu_s - self._cpu_s.get(process, 0.0))
        self._waited_s += waited_s
        self._thread_waits_s |= usage.waits_s
        self._cpu_s[process] = usage.cpu_s
        self._charged_s[process] = now_s
        elapsed_s = now_s - (self._started_s or 0.0)
        return max(sum(self._cpu_s.values()), elapsed_s - self._waited_s), max(0.0, in_doubt_s)
