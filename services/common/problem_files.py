"""Problems read from data files, and what becomes of rows that are none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import structlog

from services.common.data_rows import Row, read_rows
from services.common.errors import ConfigurationError, InvalidRequestError
from services.common.problem_columns import Columns, RatedProblem, read_problem

BadRows: TypeAlias = Literal["refuse", "skip"]
"""What a row that is no problem does: it ends the run, or it is logged, counted and left out."""

_STANDARD = Columns()

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProblemFile:
    """What a file holds: problems in its order, and how many rows were left out."""

    problems: tuple[RatedProblem, ...]
    skipped: int


def read_problem_file(
    path: Path, columns: Columns = _STANDARD, split: str = "", bad_rows: BadRows = "refuse"
) -> ProblemFile:
    """Read the problems of a file or of a saved Hugging Face data set.

    Raises:
        ConfigurationError: it cannot be read or holds no problem, or a row is wrong: where, and what is wrong.
    """
    place_of: dict[str, str] = {}
    problems: list[RatedProblem] = []
    skipped = 0
    for row in read_rows(path, split):
        try:
            rated = _read(row, columns, place_of)
        except InvalidRequestError as error:
            if bad_rows == "refuse":
                raise ConfigurationError(f"{row.place}: {error}") from error
            skipped += 1
            log.warning("row left out", place=row.place, reason=str(error))
        else:
            place_of[rated.problem.id] = row.place
            problems.append(rated)
    if not problems:
        raise ConfigurationError(f"data file {path} holds no problem" + (f"; {skipped} bad rows" if skipped else ""))
    return ProblemFile(tuple(problems), skipped)


def _read(row: Row, columns: Columns, place_of: dict[str, str]) -> RatedProblem:
    rated = read_problem(row.values(), columns, row.number)
    if rated.problem.id in place_of:
        raise InvalidRequestError(f"id {rated.problem.id!r} was taken by {place_of[rated.problem.id]}")
    return rated
