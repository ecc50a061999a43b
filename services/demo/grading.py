"""Local grading of sampled answers, strict and small: what the warm start needs to know when to stop."""

import re
from typing import Final

from services.demo.arithmetic import NotArithmeticError, call_function
from services.demo.problems import Problem, Tests

BOXED_INTEGER: Final = re.compile(r"\\boxed\{(-?\d+)\}")
FENCED_PROGRAM: Final = re.compile(r"```python\n(.*?)\n```", re.DOTALL)


def is_correct(problem: Problem, response: str) -> bool:
    """Whether a response solves a problem: its last boxed integer is the answer, or its program passes the tests."""
    if "tests" in problem:
        programs = FENCED_PROGRAM.findall(response)
        return bool(programs) and _passes(programs[-1], problem["tests"])
    boxed = BOXED_INTEGER.findall(response)
    return bool(boxed) and int(boxed[-1]) == int(problem["answer"])


def _passes(program: str, tests: Tests) -> bool:
    try:
        return all(call_function(program, tests["fn_name"], case["args"]) == case["result"] for case in tests["cases"])
    except NotArithmeticError:
        return False
