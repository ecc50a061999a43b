"""Rows of a file of answers to judge: `{"gold", "pred"}`, or a problem with a response."""

import json
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.common.errors import InvalidRequestError
from services.common.problem import Domain, Problem, describe, parse_problem
from services.common.problem_codec import parse_json
from services.common.verdict import Limits
from services.verifier.answer_extraction import is_response

_PROBLEM_KEYS = ("domain", "answer", "tests", "grader", "gold")


class _Limits(BaseModel):
    """Bounds of one grading; a zero means the grader's default."""

    model_config = ConfigDict(extra="forbid")

    wall_s: float = Field(default=0.0, ge=0)
    memory_bytes: int = Field(default=0, ge=0)
    output_bytes: int = Field(default=0, ge=0)


class _Pair(BaseModel):
    """Two answers; other keys, such as labels, are the author's business."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    gold: str
    pred: str
    limits: _Limits | None = None


class _Answered(BaseModel):
    """What a row with a problem holds besides the problem."""

    prompt: str = ""
    response: str
    limits: _Limits | None = None


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """A response and what it is judged by."""

    problem: Problem
    response: str
    limits: Limits | None


def parse_row(line: bytes, number: int) -> AnswerRow:
    """Read one line.

    Raises:
        InvalidRequestError: it is no such row; says what is wrong.
    """
    try:
        row = parse_json(line)
        json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text that can be sent
        if not isinstance(row, dict):
            raise InvalidRequestError(f"expected a JSON object, got {type(row).__name__}")
        if "pred" in row or ("domain" not in row and "gold" in row):
            pair = _Pair.model_validate(row)
            return AnswerRow(gold_problem(pair.gold, number), as_response(pair.pred), _limits(pair.limits))
        answered = _Answered.model_validate(row)
    except ValidationError as error:
        raise InvalidRequestError(describe(error)) from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"not JSON text: {error}") from error
    known = {key: row[key] for key in _PROBLEM_KEYS if key in row}
    problem = parse_problem({"id": f"row-{number}", "prompt": answered.prompt or "?", **known})
    return AnswerRow(problem, answered.response, _limits(answered.limits))


def gold_problem(gold: str, number: int = 1) -> Problem:
    """A problem of which only the answer is known."""
    return Problem(id=f"row-{number}", domain=Domain.MATH, prompt="", answer=gold)


def as_response(answer: str) -> str:
    """A response whose final answer is this; what reads like a response already stays as it is."""
    return answer if is_response(answer) else f"\\boxed{{{answer}}}"


def _limits(limits: _Limits | None) -> Limits | None:
    return None if limits is None else Limits(limits.wall_s, limits.memory_bytes, limits.output_bytes)
