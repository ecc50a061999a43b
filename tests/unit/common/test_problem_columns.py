"""Rows as they are published become problems; columns with other names are mapped."""

import json

import pytest

from services.common.errors import InvalidRequestError
from services.common.problem import AssertTests, Domain
from services.common.problem_columns import Columns, read_problem

STANDARD = Columns()

MATH500 = {
    "problem": "What is $1+1$?",
    "solution": "It is $\\boxed{2}$.",
    "answer": "2",
    "subject": "Prealgebra",
    "level": 1,
    "unique_id": "test/prealgebra/1.json",
}
GSM8K = {"question": "Two ducks and two more?", "answer": "2 + 2 = <<2+2=4>>4 ducks\n#### 4"}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "def two():\n",
    "canonical_solution": "    return 2\n",
    "test": "def check(candidate):\n    assert candidate() == 2\n",
    "entry_point": "two",
}
OLYMPIADBENCH = {
    "id": 1606,
    "question": "Find all $n$.",
    "solution": ["…"],
    "final_answer": ["$1$", "$3$"],
    "subject": "Math",
    "subfield": "Number Theory",
    "is_multiple_answer": True,
    "unit": None,
    "error": None,
}


def test_a_row_of_math_500_is_read_as_published() -> None:
    problem = read_problem(MATH500, STANDARD, 1).problem
    assert (problem.id, problem.domain, problem.prompt) == ("test/prealgebra/1.json", Domain.MATH, "What is $1+1$?")
    assert (problem.answer, problem.category) == ("2", "Prealgebra")


def test_a_row_of_gsm8k_is_named_by_its_number_and_answered_by_its_last_line() -> None:
    problem = read_problem(GSM8K, STANDARD, 7).problem
    assert (problem.id, problem.answer, problem.domain) == ("7", "4", Domain.MATH)


def test_a_row_of_humaneval_is_a_code_problem_that_calls_its_check() -> None:
    problem = read_problem(HUMANEVAL, STANDARD, 1).problem
    assert (problem.id, problem.domain) == ("HumanEval/0", Domain.CODE)
    assert isinstance(problem.tests, AssertTests)
    assert problem.tests.code == "def check(candidate):\n    assert candidate() == 2\n\n\ncheck(two)\n"


def test_a_row_of_olympiadbench_has_its_answers_joined_and_its_subfield_as_category() -> None:
    problem = read_problem(OLYMPIADBENCH, STANDARD, 1).problem
    assert (problem.id, problem.answer, problem.category) == ("1606", "$1$, $3$", "Number Theory")


def test_columns_with_other_names_are_mapped() -> None:
    row = {"Q": "1+1=", "gold": 2, "rate": 0.25, "prompt": "not this one"}
    rated = read_problem(row, Columns(prompt="Q", answer="gold", pass_rate="rate"), 1)
    assert (rated.problem.prompt, rated.problem.answer, rated.pass_rate) == ("1+1=", "2", 0.25)


def test_tests_may_be_json_text() -> None:
    tests = {"kind": "call", "fn_name": "two", "cases": [{"args": [], "result": 2}]}
    row = {"id": "a", "prompt": "Write two().", "tests": json.dumps(tests)}
    assert read_problem(row, STANDARD, 1) == read_problem(row | {"tests": tests}, STANDARD, 1)


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(InvalidRequestError, match=r"no column 'Q' for prompt; the row has question, answer"):
        read_problem(GSM8K, Columns(prompt="Q"), 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, "needs 'answer'"),
        ({"answer": "2"}, "prompt: Field required"),
        ({"question": "?", "answer": "2", "pass_rate": 1.5}, r"pass_rate is 1\.5: expected a number from 0 to 1"),
        ({"prompt": "?", "tests": "{"}, "tests: not JSON"),
    ],
)
def test_a_row_that_is_no_problem_says_why(row: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        read_problem(row, STANDARD, 1)
