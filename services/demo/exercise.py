"""What the two kinds of exercise share: a chain of steps, each answered by one habit."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from services.demo.arithmetic import evaluate_expression
from services.demo.operations import PLAIN_OPERATIONS, TEMPTING_OPERATIONS, Habit, Operation

Domain = Literal["math", "code"]

STEPS_PER_EXERCISE: Final = 4

# Few numbers, because the policy has to learn every sum and product of a digit with each of them.
NUMBERS: Final = range(2, 7)

# With k tempting steps sampling is right about 0.46^k of the time, so few exercises have three.  Still fewer have them
# in the end: exercises whose answer does not tell all habits apart are dropped.
TEMPTING_STEP_WEIGHTS: Final = {1: 0.5, 2: 0.4, 3: 0.1}


@dataclass(frozen=True)
class Step:
    """One operation with the number it names (ignored by operations that name none)."""

    operation: Operation
    number: int

    @property
    def instruction(self) -> str:
        """The step as a problem states it."""
        return self.operation.instruction.format(number=self.number)

    def written(self, habit: Habit, value: str) -> str:
        """Return the expression that `habit` writes for an operand such as ``7`` or ``a``."""
        return habit.expression.replace("value", value).replace("number", str(self.number))

    def result(self, habit: Habit, value: int) -> int:
        """Return what that expression is worth."""
        return evaluate_expression(habit.expression, {"value": value, "number": self.number})


class Exercise(Protocol):
    """A problem before it is written down, able to show any combination of habits."""

    @property
    def domain(self) -> Domain:
        """How the answer is graded."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The operations, in order."""

    @property
    def prompt(self) -> str:
        """What the policy reads."""

    def response(self, habits: Sequence[Habit]) -> str:
        """Return the worked answer that follows `habits`, one a step."""

    def outcome(self, habits: Sequence[Habit]) -> tuple[int, ...]:
        """Return the numbers a grader sees when `habits` are followed."""


def right_habits(exercise: Exercise) -> tuple[Habit, ...]:
    """Return the habits that solve the exercise."""
    return tuple(step.operation.right for step in exercise.steps)


def habit_combinations(exercise: Exercise) -> Iterator[tuple[Habit, ...]]:
    """Yield every choice of one habit a step; the first one solves the exercise, the others do not."""
    return itertools.product(*(step.operation.habits for step in exercise.steps))


def tells_habits_apart(exercise: Exercise) -> bool:
    """Whether the grader can see every wrong habit: no wrong combination reaches the right outcome by luck."""
    right, *wrong = map(exercise.outcome, habit_combinations(exercise))
    return right not in wrong


def draw_habits(exercise: Exercise, randomness: random.Random) -> tuple[Habit, ...]:
    """Draw one habit for each step with the probabilities that demonstrations show."""
    return tuple(
        randomness.choices(habits, weights=[habit.probability for habit in habits])[0]
        for habits in (step.operation.habits for step in exercise.steps)
    )


def draw_steps(randomness: random.Random) -> tuple[Step, ...]:
    """Draw the steps of an exercise, at least one of them tempting."""
    [tempting_count] = randomness.choices(list(TEMPTING_STEP_WEIGHTS), weights=list(TEMPTING_STEP_WEIGHTS.values()))
    operations = [
        *randomness.choices(TEMPTING_OPERATIONS, k=tempting_count),
        *randomness.choices(PLAIN_OPERATIONS, k=STEPS_PER_EXERCISE - tempting_count),
    ]
    randomness.shuffle(operations)
    return tuple(
        Step(operation, randomness.choice(NUMBERS) if operation.takes_number else 0) for operation in operations
    )
