"""A prompt whose answer can be checked.

The JSON form, one object a line in a data file, is
`{"id", "domain": "math" | "code" | "custom", "prompt", "answer"?, "tests"?, "grader"?, "gold"?, "category"?}`: an
`answer` for math; a `grader` and any `gold` for custom; for code, `tests`, which are one of
`{"kind": "stdin", "cases": [{"input", "output"}], "checker"?, "language"?: "python" | "cpp"}`,
`{"kind": "call", "fn_name", "cases": [{"args", "result"}], "checker"?}` and `{"kind": "assert", "code"}`.

A checker is Python source that defines `check(given, expected, got)`, for problems with more than one right answer. It
gets the input or the arguments, what the test expects, and what the program gave, and returns True or False.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from services.common.errors import InvalidRequestError

Json: TypeAlias = Any  # a JSON value: its shape is the test author's business


class Domain(Enum):
    """Which grader judges the answer; the values are those of the JSON form."""

    MATH = "math"
    CODE = "code"
    CUSTOM = "custom"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StdinCase(_Strict):
    """Standard input, and the standard output expected of it."""

    input: str
    output: str


class StdinTests(_Strict):
    """Runs of the whole program, in a language that the verifier knows."""

    kind: Literal["stdin"] = "stdin"
    cases: tuple[StdinCase, ...] = Field(min_length=1)
    checker: str = ""
    language: str = Field(default="python", min_length=1)


class CallCase(_Strict):
    """Positional arguments, and the result expected of them."""

    args: tuple[Json, ...]
    result: Json


class CallTests(_Strict):
    """Calls of one function, or of a method of class `Solution`."""

    kind: Literal["call"] = "call"
    fn_name: str = Field(min_length=1)
    cases: tuple[CallCase, ...] = Field(min_length=1)
    checker: str = ""


class AssertTests(_Strict):
    """Python source that runs in the program's namespace and raises if the program is wrong."""

    kind: Literal["assert"] = "assert"
    code: str = Field(min_length=1)


CodeTests: TypeAlias = StdinTests | CallTests | AssertTests


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt and what its answer is checked against.

    Attributes:
        id: unique within a data set.
        domain: which grader judges.
        prompt: the text shown to the policy.
        answer: the right one, of a math problem.
        tests: of a code problem.
        grader: name of the grader of a custom problem: an entry point of the group `treerl.graders`, or
            `module:function`.
        gold: what that grader is given.
        category: label that tables of accuracy group by.
    """

    id: str
    domain: Domain
    prompt: str
    answer: str | None = None
    tests: CodeTests | None = None
    grader: str = ""
    gold: Json = None
    category: str = ""


class _ProblemRow(_Strict):
    """The JSON form of a problem."""

    id: str = Field(min_length=1)
    domain: Domain
    prompt: str = Field(min_length=1)
    answer: str | None = None
    tests: CodeTests | None = Field(default=None, discriminator="kind")
    grader: str = ""
    gold: Json = None
    category: str = ""

    @model_validator(mode="after")
    def _has_the_gold_of_its_domain(self) -> "_ProblemRow":
        if self.domain is Domain.MATH and self.answer is None:
            raise ValueError("a math problem needs 'answer'")
        if self.domain is Domain.CODE and self.tests is None:
            raise ValueError("a code problem needs 'tests'")
        if self.domain is Domain.CUSTOM and not self.grader:
            raise ValueError("a custom problem needs 'grader'")
        return self


_TESTS: TypeAdapter[CodeTests] = TypeAdapter(CodeTests)


def parse_problem(row: Mapping[str, Json]) -> Problem:
    """Read the JSON form of a problem.

    Raises:
        InvalidRequestError: naming each missing, unknown or mistyped key.
    """
    try:
        checked = _ProblemRow.model_validate(row)
    except ValidationError as error:
        raise InvalidRequestError(f"not a problem: {describe(error)}") from error
    return Problem(**{name: getattr(checked, name) for name in _ProblemRow.model_fields})


def parse_tests(tests: Mapping[str, Json]) -> CodeTests:
    """Read the JSON form of tests.

    Raises:
        InvalidRequestError: naming each missing, unknown or mistyped key.
    """
    try:
        return _TESTS.validate_python(tests)
    except ValidationError as error:
        raise InvalidRequestError(f"not tests: {describe(error)}") from error


def problem_row(problem: Problem) -> dict[str, Json]:
    """The JSON form of a problem; `parse_problem` reads it back."""
    row: dict[str, Json] = {"id": problem.id, "domain": problem.domain.value, "prompt": problem.prompt}
    if problem.answer is not None:
        row["answer"] = problem.answer
    if problem.tests is not None:
        row["tests"] = {name: value for name, value in problem.tests.model_dump(mode="json").items() if value != ""}
    if problem.grader:
        row |= {"grader": problem.grader, "gold": problem.gold}
    if problem.category:
        row["category"] = problem.category
    return row


def describe(error: ValidationError) -> str:
    """One line out of a validation error: each place and what is wrong there."""
    lines = []
    for detail in error.errors():
        place, message = ".".join(map(str, detail["loc"])), detail["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {message}" if place else message)
    return "; ".join(lines)
