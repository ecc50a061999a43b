"""Code exercises: a Python function whose lines carry out the steps."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

from services.demo.exercise import Domain, Step, draw_steps
from services.demo.operations import Habit

FUNCTION_NAME: Final = "f"
VARIABLES: Final = "xabcd"
TEST_ARGUMENTS: Final = (0, 1, 2, 3, 6, 9)


@dataclass(frozen=True)
class CodeExercise:
    """A function of x that carries out the steps, one variable a line."""

    steps: tuple[Step, ...]

    @classmethod
    def draw(cls, randomness: random.Random) -> Self:
        """Draw an exercise."""
        return cls(draw_steps(randomness))

    @property
    def domain(self) -> Domain:
        """How the answer is graded."""
        return "code"

    @property
    def prompt(self) -> str:
        """What the policy reads."""
        numbered = "".join(f"\n{index}. {step.instruction}" for index, step in enumerate(self.steps, start=1))
        return f"Write def {FUNCTION_NAME}(x) in Python:{numbered}\n"

    def response(self, habits: Sequence[Habit]) -> str:
        """Return the function that follows `habits`, in a fenced block."""
        lines = [f"def {FUNCTION_NAME}(x):"]
        for (value, result), step, habit in zip(pairwise(VARIABLES), self.steps, habits, strict=True):
            lines.append(f"    {result} = {step.written(habit, value)}")
        lines.append(f"    return {VARIABLES[-1]}")
        return "\n".join(["```python", *lines, "```"])

    def outcome(self, habits: Sequence[Habit]) -> tuple[int, ...]:
        """Return what the function gives for every test argument."""
        return tuple(self._call(habits, argument) for argument in TEST_ARGUMENTS)

    def _call(self, habits: Sequence[Habit], argument: int) -> int:
        value = argument
        for step, habit in zip(self.steps, habits, strict=True):
            value = step.result(habit, value)
        return value
