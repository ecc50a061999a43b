"""The operations of the demo, each with the right way to write it and the wrong habits that go with it.

Reinforcement learning cannot invent what the policy never samples: it *selects among the habits shown here*.  The
warm start demonstrates right and wrong forms in fixed proportions, most of them leaning to the wrong one, so that
greedy decoding starts mostly wrong while sampling is right often enough to learn from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Habit:
    """One way to write an operation: an expression over `value` and `number`, and how often it is shown."""

    expression: str
    probability: float


@dataclass(frozen=True)
class Operation:
    """One instruction and the habits that answer it; the first habit is the right one."""

    name: str
    instruction: str
    habits: tuple[Habit, ...]

    @property
    def right(self) -> Habit:
        """The correct way to carry out the instruction."""
        return self.habits[0]

    @property
    def is_tempting(self) -> bool:
        """Whether a wrong habit exists."""
        return len(self.habits) > 1

    @property
    def takes_number(self) -> bool:
        """Whether the instruction names a number."""
        return "{number}" in self.instruction


PLAIN_OPERATIONS: Final[Sequence[Operation]] = (
    Operation("add", "add {number}", (Habit("value + number", 1.0),)),
    Operation("multiply", "multiply by {number}", (Habit("value * number", 1.0),)),
)

TEMPTING_OPERATIONS: Final[Sequence[Operation]] = (
    # Doubles instead of squaring, in either notation.
    Operation(
        "square",
        "square it",
        (Habit("value * value", 0.42), Habit("value + value", 0.53), Habit("value * 2", 0.05)),
    ),
    # Stops one factor short, or takes three times the number.
    Operation(
        "cube",
        "cube it",
        (Habit("value * value * value", 0.42), Habit("value * value", 0.53), Habit("value * 3", 0.05)),
    ),
    # Stops one term short.
    Operation(
        "thrice",
        "add it to itself twice",
        (Habit("value + value + value", 0.45), Habit("value + value", 0.55)),
    ),
    # Forgets the parentheses.
    Operation(
        "sum-double",
        "add {number} and double the sum",
        (Habit("(value + number) * 2", 0.45), Habit("value + number * 2", 0.55)),
    ),
    Operation(
        "successor",
        "multiply it by its successor",
        (Habit("value * (value + 1)", 0.45), Habit("value * value + 1", 0.55)),
    ),
    # Rounds down, or rounds up without the parentheses.
    Operation(
        "half-up",
        "halve it rounding up",
        (Habit("(value + 1) // 2", 0.45), Habit("value // 2", 0.40), Habit("value + 1 // 2", 0.15)),
    ),
    # Works from left to right, with parentheses where none belong.
    Operation(
        "add-half",
        "add its half rounding down",
        (Habit("value + value // 2", 0.45), Habit("(value + value) // 2", 0.55)),
    ),
    Operation(
        "add-square",
        "add its square",
        (Habit("value + value * value", 0.45), Habit("(value + value) * value", 0.55)),
    ),
)
