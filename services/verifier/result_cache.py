"""Judgements that are known already, and those that are being found: equal questions are answered once."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from services.common import metrics
from services.common.problem import Problem, problem_row
from services.common.verdict import Limits, Outcome
from services.verifier.judgement import Judgement

GRADER_VERSION: Final = 2
"""Part of every key; raised when the same question may get another answer than before."""

_NOT_KEPT: Final = frozenset({Outcome.TIMEOUT, Outcome.MEMORY, Outcome.INFRA_ERROR})
"""What also depends on the machine, and may be otherwise the next time."""

_ENTRY_BYTES: Final = 500
_CASE_BYTES: Final = 200
"""Memory that an entry and a test's result take besides their text, roughly."""


def question_key(problem: Problem, answer: str, limits: Limits) -> bytes:
    """What a judgement depends on: the version of the graders, the gold or the tests, the answer and the limits."""
    judged_by = {
        name: value for name, value in problem_row(problem).items() if name not in ("id", "prompt", "category")
    }
    question = repr((GRADER_VERSION, judged_by, limits, answer))
    return hashlib.sha256(question.encode("utf-8", errors="surrogatepass")).digest()


@dataclass(slots=True)
class _Grading:
    task: asyncio.Task[Judgement]
    askers: int = 0


class ResultCache:
    """Keeps judgements up to a bound of memory; the one that was not asked for longest goes first."""

    def __init__(self, max_bytes: int) -> None:
        """
        Args:
            max_bytes: memory that the judgements may take, roughly; with 0 none is kept.
        """
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, Judgement] = OrderedDict()
        self._under_way: dict[bytes, _Grading] = {}

    async def get(self, key: bytes, judge: Callable[[], Awaitable[Judgement]]) -> Judgement:
        """The judgement of a question; `judge` finds it if nobody did before or does at this moment.

        It is cancelled when all who asked are.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            metrics.CACHED_JUDGEMENTS.labels("hit").inc()
            return self._kept[key]
        metrics.CACHED_JUDGEMENTS.labels("shared" if key in self._under_way else "miss").inc()
        if key not in self._under_way:
            self._under_way[key] = _Grading(asyncio.create_task(self._find(key, judge)))
        grading = self._under_way[key]
        grading.askers += 1
        try:
            return await asyncio.shield(grading.task)
        finally:
            grading.askers -= 1
            if grading.askers == 0 and not grading.task.done():
                del self._under_way[key]
                grading.task.cancel()

    async def _find(self, key: bytes, judge: Callable[[], Awaitable[Judgement]]) -> Judgement:
        this = asyncio.current_task()
        try:
            judgement = await judge()
        finally:
            if key in self._under_way and self._under_way[key].task is this:  # else it was given up
                del self._under_way[key]
        if _NOT_KEPT.isdisjoint([judgement.outcome, *(case.outcome for case in judgement.cases)]):
            self._keep(key, judgement)
        return judgement

    def _keep(self, key: bytes, judgement: Judgement) -> None:
        self._kept[key] = judgement
        self._bytes += _size(judgement)
        while self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(judgement: Judgement) -> int:
    cases = sum(_CASE_BYTES + len(case.reason) for case in judgement.cases)
    return _ENTRY_BYTES + len(judgement.reason) + cases
