"""The judgement of one response."""

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """What a grader found; the values are the protobuf numbers."""

    CORRECT = 1
    WRONG = 2
    TIMEOUT = 3
    MEMORY = 4
    RUNTIME_ERROR = 5
    OUTPUT_LIMIT = 6
    UNPARSED = 7
    INFRA_ERROR = 8


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What one test of a program gave: an outcome, one line that says why, and the time the program took.

    Attributes:
        outcome: what was found.
        reason: why.
        wall_ms: from the start to the end of the program, its waits for a core included.
        cpu_ms: CPU time.
    """

    outcome: Outcome
    reason: str
    wall_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one response.

    Attributes:
        outcome: what was found.
        reason: one line that says why.
        wall_ms: time the grading took, in milliseconds.
        answer: what was judged: the final answer, or the program, as it was read; empty where none could be read, and
            where a grader of the user's own judged the whole response.
        cases: of a program, the results of the tests that were run, in order. Not kept in trees.
    """

    outcome: Outcome
    reason: str
    wall_ms: float
    answer: str = ""
    cases: tuple[CaseResult, ...] = ()

    @property
    def reward(self) -> float | None:
        """1 for a correct response, 0 for any other; None where the grader failed and nothing is known."""
        if self.outcome is Outcome.INFRA_ERROR:
            return None
        return 1.0 if self.outcome is Outcome.CORRECT else 0.0


class Cases(Enum):
    """Which tests of a program are run; the values are the protobuf numbers."""

    UNTIL_FAILURE = 1
    ALL = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one grading.

    Attributes:
        wall_s: seconds; for code, of one test, without those in which the program waits for a core.
        memory_bytes: memory.
        output_bytes: output of a program.
        cases: which tests of a program are run; None for the grader's default.
    """

    wall_s: float
    memory_bytes: int
    output_bytes: int
    cases: Cases | None = None
