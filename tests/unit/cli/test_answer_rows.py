import json
from typing import Any

import pytest

from services.cli.answer_rows import parse_row
from services.common.errors import InvalidRequestError
from services.common.problem import CallTests, Domain
from services.common.verdict import Limits


def parse(row: Any) -> Any:
    return parse_row(json.dumps(row).encode(), number=7)


def test_a_pair_is_a_math_problem_with_a_boxed_answer() -> None:
    row = parse({"gold": "1/2", "pred": "0.5", "kind": "a label that is nobody's business"})
    assert (row.problem.domain, row.problem.answer, row.response) == (Domain.MATH, "1/2", "\\boxed{0.5}")
    assert parse({"gold": "1/2", "pred": "so \\boxed{0.5}"}).response == "so \\boxed{0.5}"


def test_a_pair_may_have_numbers_and_say_its_domain() -> None:
    row = parse({"domain": "math", "id": 3, "gold": 7, "pred": 7.5})
    assert (row.problem.domain, row.problem.answer, row.response) == (Domain.MATH, "7", "\\boxed{7.5}")


@pytest.mark.parametrize(
    "pred",
    [
        "#### 42",
        "The answer is 42.",
        "<think>7?</think> 42",
        "**Answer:** $42$",
        "Adding these we get $42$.",
        "All in all that is 42.",
    ],
)
def test_an_answer_that_reads_like_a_response_is_one(pred: str) -> None:
    assert parse({"gold": "42", "pred": pred}).response == pred


@pytest.mark.parametrize(
    "pred",
    ["42", "2 or 3 apples.", "30 miles per hour", r"x = 3 \text{ and } y = 4.", "all real numbers", "no solution."],
)
def test_an_answer_with_words_is_still_an_answer(pred: str) -> None:
    assert parse({"gold": "42", "pred": pred}).response == f"\\boxed{{{pred}}}"


def test_a_problem_keeps_its_tests_and_its_response_as_it_is() -> None:
    tests = {"kind": "call", "fn_name": "f", "cases": [{"args": [1], "result": 2}]}
    row = parse({"domain": "code", "tests": tests, "response": "def f(x): return 2", "limits": {"wall_s": 1.5}})
    assert isinstance(row.problem.tests, CallTests)
    assert row.response == "def f(x): return 2"
    assert row.limits == Limits(1.5, 0, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "expected a JSON object, got list"),
        (b'{"gold": "1"}', "pred: Field required"),
        (b'{"gold": null, "pred": "1"}', "gold: Input should be a valid string"),
        (b'{"response": "x"}', "domain: Field required"),
        (b'{"domain": "math", "response": "x"}', "a math problem needs 'answer'"),
        (b'{"domain": "art", "answer": "1", "response": "x"}', "domain: Input should be 'math', 'code' or 'custom'"),
        (b'{"gold": "1", "pred": "1", "limits": {"wall": 1}}', "limits.wall: Extra inputs are not permitted"),
        (b'{"gold": "1", "pred": "\\ud800"}', "not JSON text: "),
    ],
)
def test_a_row_that_is_none_says_why(line: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        parse_row(line, number=1)
