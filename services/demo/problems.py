"""Seeded problem sets whose splits cannot share a problem."""

import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, NotRequired, TypedDict

from services.demo.code_exercise import FUNCTION_NAME, TEST_ARGUMENTS, CodeExercise
from services.demo.exercise import Domain, Exercise, right_habits, tells_habits_apart
from services.demo.math_exercise import MathExercise

# Three problems of math to one of code.
KINDS: Final[Sequence[type[MathExercise] | type[CodeExercise]]] = (
    MathExercise,
    MathExercise,
    MathExercise,
    CodeExercise,
)

# Results cross JSON and protobuf, where integers beyond 2^53 would be rounded.
LARGEST_RESULT: Final = 10**9


class Split(StrEnum):
    """Which use a problem is reserved for."""

    TRAIN = "train"
    """Demonstrations and reinforcement learning."""
    DEV = "dev"
    """Stops the warm start and guides every choice about the task."""
    HELDOUT = "heldout"
    """Only ever reported, never used to choose anything."""


class Case(TypedDict):
    """One call and what it must return."""

    args: list[int]
    result: int


class Tests(TypedDict):
    """The tests of a code problem."""

    kind: Literal["call"]
    fn_name: str
    cases: list[Case]


class Problem(TypedDict):
    """A problem as a line of JSONL; `category` names its domain and its tempting operations, joined by ``+``."""

    id: str
    domain: Domain
    prompt: str
    category: str
    answer: NotRequired[str]
    tests: NotRequired[Tests]


def split_of(prompt: str) -> Split:
    """Return the one split a prompt belongs to: a hash decides, so no two splits can share a problem."""
    match int(_digest(prompt), 16) % 10:
        case 0:
            return Split.HELDOUT
        case 1:
            return Split.DEV
        case _:
            return Split.TRAIN


def draw_exercises(split: Split, randomness: random.Random) -> Iterator[Exercise]:
    """Yield exercises of one split without end: three of math, then one of code, and so on.

    Whole exercises are drawn until one belongs to the split, so that all splits have the same distribution.
    """
    for kind in itertools.cycle(KINDS):
        exercise = kind.draw(randomness)
        while not _belongs(exercise, split):
            exercise = kind.draw(randomness)
        yield exercise


def generate_problems(split: Split, count: int, seed: int) -> list[Problem]:
    """Return `count` different problems of a split, three of math to one of code."""
    problems: dict[str, Problem] = {}
    for exercise in draw_exercises(split, random.Random(f"{split}-{seed}")):
        if len(problems) == count:
            break
        problem = problem_of(exercise)
        problems.setdefault(problem["id"], problem)
    return list(problems.values())


def write_problems(folder: Path, seed: int, train_count: int = 2048, heldout_count: int = 480) -> tuple[Path, Path]:
    """Write ``train.jsonl`` and ``heldout.jsonl`` into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for split, count in ((Split.TRAIN, train_count), (Split.HELDOUT, heldout_count)):
        path = folder / f"{split}.jsonl"
        lines = (json.dumps(problem) + "\n" for problem in generate_problems(split, count, seed))
        path.write_text("".join(lines), encoding="utf-8")
        paths.append(path)
    train_path, heldout_path = paths
    return train_path, heldout_path


def problem_of(exercise: Exercise) -> Problem:
    """Return the problem that poses an exercise."""
    tempting = {step.operation.name for step in exercise.steps if step.operation.is_tempting}
    outcome = exercise.outcome(right_habits(exercise))
    problem = Problem(
        id=f"demo-{_digest(exercise.prompt)[:16]}",
        domain=exercise.domain,
        prompt=exercise.prompt,
        category="+".join([exercise.domain, *sorted(tempting)]),
    )
    if exercise.domain == "math":
        problem["answer"] = str(outcome[0])
    else:
        cases = [Case(args=[argument], result=result) for argument, result in zip(TEST_ARGUMENTS, outcome, strict=True)]
        problem["tests"] = Tests(kind="call", fn_name=FUNCTION_NAME, cases=cases)
    return problem


def _belongs(exercise: Exercise, split: Split) -> bool:
    return (
        split_of(exercise.prompt) is split
        and max(exercise.outcome(right_habits(exercise))) <= LARGEST_RESULT
        and tells_habits_apart(exercise)
    )


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()
