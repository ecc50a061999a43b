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
class Verdict:
    """An outcome, one line that says why, and the time the grading took."""

    outcome: Outcome
    reason: str
    wall_ms: float

    @property
    def reward(self) -> float | None:
        """1 for a correct response, 0 for any other; None where the grader failed and nothing is known."""
        if self.outcome is Outcome.INFRA_ERROR:
            return None
        return 1.0 if self.outcome is Outcome.CORRECT else 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one grading: seconds (for code, without those in which a program waits for a core), bytes of memory,
    bytes of output.
    """

    wall_s: float
    memory_bytes: int
    output_bytes: int
