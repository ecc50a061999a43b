"""Math exercises: arithmetic on one digit, worked step by step."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from services.demo.exercise import Domain, Step, draw_steps
from services.demo.operations import Habit


@dataclass(frozen=True)
class MathExercise:
    """A digit that goes through the steps; only the last digit is kept after each, so facts stay few."""

    start: int
    steps: tuple[Step, ...]

    @classmethod
    def draw(cls, randomness: random.Random) -> Self:
        """Draw an exercise."""
        return cls(randomness.randint(0, 9), draw_steps(randomness))

    @property
    def domain(self) -> Domain:
        """How the answer is graded."""
        return "math"

    @property
    def prompt(self) -> str:
        """What the policy reads."""
        numbered = "".join(f"\n{index}. {step.instruction}" for index, step in enumerate(self.steps, start=1))
        return f"Start with {self.start} and keep the last digit:{numbered}\n"

    def response(self, habits: Sequence[Habit]) -> str:
        """Return the worked answer that follows `habits`, ending in a boxed digit."""
        lines = []
        digit = self.start
        for index, (step, habit) in enumerate(zip(self.steps, habits, strict=True), start=1):
            value = step.result(habit, digit)
            lines.append(f"{index}. {step.written(habit, str(digit))} = {value} -> {value % 10}\n")
            digit = value % 10
        return "".join(lines) + f"\\boxed{{{digit}}}"

    def outcome(self, habits: Sequence[Habit]) -> tuple[int, ...]:
        """Return the final digit when `habits` are followed."""
        digit = self.start
        for step, habit in zip(self.steps, habits, strict=True):
            digit = step.result(habit, digit) % 10
        return (digit,)
