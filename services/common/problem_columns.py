"""Which columns of a data file hold what of a problem.

Besides this project's own form, the columns of these data sets are found by themselves, as their files are published:

- MATH-500: `problem`, `answer`, `subject`, `unique_id`
- GSM8K: `question`, `answer`, whose last line is `#### 18`
- HumanEval: `task_id`, `prompt`, `test`, `entry_point`
- OlympiadBench: `id`, `question`, `final_answer` (a list), `subfield`

Any other needs a mapping. Not covered: OlympiadBench's units and tolerances (`unit`, `error`), problems with images.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from services.common.errors import InvalidRequestError
from services.common.problem import Problem, parse_problem

_PUBLISHED = {
    "id": ("id", "unique_id", "task_id"),
    "domain": ("domain",),
    "prompt": ("prompt", "problem", "question"),
    "answer": ("answer", "final_answer"),
    "tests": ("tests",),
    "category": ("category", "subfield", "subject"),
    "pass_rate": ("pass_rate",),
}
"""Names of columns in published files, the first that a row has counts."""

_FINAL_ANSWER = "#### "
"""Announces the answer at the end of a GSM8K solution."""

Values = Mapping[str, Any]


class Columns(BaseModel):
    """Columns that are called otherwise than in published files; empty for those that are not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(default="", description="what names a problem; without such a column the row's number does")
    domain: str = Field(default="", description="math or code; without such a column, code where there are tests")
    prompt: str = Field(default="", description="what the policy reads")
    answer: str = Field(default="", description="right answer of a math problem")
    tests: str = Field(default="", description="tests of a code problem, as an object or its JSON text")
    category: str = Field(default="", description="what accuracies are grouped by")
    pass_rate: str = Field(default="", description="share of right answers that some policy gave, from 0 to 1")


@dataclass(frozen=True, slots=True)
class RatedProblem:
    """A problem, and the share of right answers that some policy gave to it; None where nobody measured it."""

    problem: Problem
    pass_rate: float | None = None


def read_problem(row: Values, columns: Columns, number: int) -> RatedProblem:
    """Read a row; columns that nobody asks for are passed over.

    Args:
        row: values by column.
        columns: where the file deviates from what is published.
        number: of the row: the id where no column has one.

    Raises:
        InvalidRequestError: a named column is missing, or the row is no problem.
    """
    found = {field: _value(row, field, getattr(columns, field)) for field in _PUBLISHED}
    found["tests"] = _tests(row, found["tests"])
    found["answer"] = _answer(found["answer"])
    found["domain"] = found["domain"] or ("math" if found["tests"] is None else "code")
    found["id"] = str(number) if found["id"] is None else str(found["id"])
    pass_rate = found.pop("pass_rate")
    problem = parse_problem({name: value for name, value in found.items() if value is not None})
    return RatedProblem(problem, None if pass_rate is None else _share(pass_rate))


def _value(row: Values, field: str, column: str) -> Any:
    if column:
        if column not in row:
            raise InvalidRequestError(f"no column {column!r} for {field}; the row has {', '.join(map(str, row))}")
        return row[column]
    return next((row[name] for name in _PUBLISHED[field] if row.get(name) is not None), None)


def _answer(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value.rpartition(_FINAL_ANSWER)[2].strip() if isinstance(value, str) and _FINAL_ANSWER in value else value


def _tests(row: Values, value: Any) -> Any:
    if value is None and "test" in row and "entry_point" in row:
        return {"kind": "assert", "code": f"{row['test']}\n\ncheck({row['entry_point']})\n"}
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"tests: not JSON: {error}") from error
    return value


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidRequestError(f"pass_rate is {value!r}: expected a number from 0 to 1")
    return float(value)
