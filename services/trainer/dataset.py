"""The problems of a run, and which of them a step asks: decided by seed and step, so that resuming needs no state."""

import json
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from services.common.errors import ConfigurationError, InvalidRequestError
from services.common.problem import Problem, parse_problem


@dataclass(frozen=True, slots=True)
class Dataset:
    """Problems in the order of their file, visited in a new seeded order every epoch."""

    problems: tuple[Problem, ...]
    seed: int

    def problems_for_step(self, step: int, count: int) -> list[Problem]:
        """The problems of one step.

        Args:
            step: the first is 1.
            count: problems a step; the same for every step of a run.
        """
        first = (step - 1) * count
        return [self._visited(position) for position in range(first, first + count)]

    def _visited(self, position: int) -> Problem:
        epoch, place = divmod(position, len(self.problems))
        return self.problems[_order(self.seed, epoch, len(self.problems))[place]]


@lru_cache(maxsize=2)  # a step spans two epochs at most, unless the data are few
def _order(seed: int, epoch: int, size: int) -> list[int]:
    order = list(range(size))
    random.Random(f"order of epoch {epoch} under seed {seed}").shuffle(order)
    return order


def read_problems(path: Path) -> tuple[Problem, ...]:
    """Read a JSONL file of problems; blank lines do not count.

    Raises:
        ConfigurationError: the file cannot be read or is empty, or a row is wrong: its line and what is wrong with it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read data file {path}: {error}") from error
    line_of: dict[str, int] = {}
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        problem = _read_row(f"{path}:{number}", line)
        if problem.id in line_of:
            raise ConfigurationError(f"{path}:{number}: id {problem.id!r} was taken by line {line_of[problem.id]}")
        line_of[problem.id] = number
        problems.append(problem)
    if not problems:
        raise ConfigurationError(f"data file {path} holds no problem")
    return tuple(problems)


def _read_row(place: str, line: str) -> Problem:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{place}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ConfigurationError(f"{place}: expected a JSON object, got {type(row).__name__}")
    try:
        return parse_problem(row)
    except InvalidRequestError as error:
        raise ConfigurationError(f"{place}: {error}") from error
