"""Checker programs in the real sandbox: they decide, and nothing but a program's output reaches them."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.common.problem import parse_tests
from services.common.verdict import Limits, Outcome
from services.verifier.code_grader import CodeGrader
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.pool import SandboxPool

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = Limits(wall_s=2.0, memory_bytes=256 << 20, output_bytes=1 << 20)
# Any two numbers with the given sum, not both the ones that the test's author thought of.
SPLITS = """
def check(given, expected, got):
    assert expected == "20 22"
    numbers = [int(word) for word in got.split() if word.isdigit() and len(word) < 9]
    return len(numbers) == len(got.split()) == 2 and sum(numbers) == int(given)
"""
PERMUTES = (
    "def check(given, expected, got): return isinstance(got, list) and sorted(got) == expected == sorted(given[0])"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grader() -> AsyncIterator[CodeGrader]:
    pool = SandboxPool(1, 4, 256 << 20, IsolationLevel.SECCOMP)
    await pool.start()
    yield CodeGrader(pool)
    await pool.close()


async def written(grader: CodeGrader, program: str, checker: str = SPLITS) -> tuple[Outcome, str]:
    """The finding on a program that has to write two numbers whose sum is 42."""
    cases = [{"input": "42", "output": "20 22"}]
    judgement = await grader.judge(program, parse_tests({"kind": "stdin", "cases": cases, "checker": checker}), LIMITS)
    return judgement.outcome, judgement.reason


async def returned(grader: CodeGrader, program: str, checker: str = PERMUTES) -> tuple[Outcome, str]:
    """The finding on a function that has to return a permutation of its argument."""
    tests = {"kind": "call", "fn_name": "shuffle", "cases": [{"args": [[3, 1, 2]], "result": [1, 2, 3]}]}
    judgement = await grader.judge(program, parse_tests({**tests, "checker": checker}), LIMITS)
    return judgement.outcome, judgement.reason


async def test_a_checker_decides_on_outputs(grader: CodeGrader) -> None:
    assert await written(grader, "print(40, 2)") == (Outcome.CORRECT, "passed 1 cases")
    assert await written(grader, "print(40, 3)") == (
        Outcome.WRONG,
        r"case 1 of 1: the checker does not accept '40 3\n'",
    )


async def test_a_checker_decides_on_results(grader: CodeGrader) -> None:
    assert (await returned(grader, "def shuffle(x): return x[::-1]"))[0] is Outcome.CORRECT
    assert (await returned(grader, "def shuffle(x): return [1, 2]"))[0] is Outcome.WRONG


async def test_a_program_that_fails_is_not_shown_to_the_checker(grader: CodeGrader) -> None:
    accepting = "def check(given, expected, got): return True"
    assert (await written(grader, "print(40, 2); 1 / 0", accepting))[0] is Outcome.RUNTIME_ERROR
    assert (await written(grader, "print(40, 2)\nwhile True: pass", accepting))[0] is Outcome.TIMEOUT
    assert (await returned(grader, "import os; os._exit(0)", accepting))[0] is Outcome.RUNTIME_ERROR


@pytest.mark.parametrize(
    "checker",
    [
        "def check(given, expected, got): return got[5]",
        "def check(given, expected, got): raise SystemExit(0)",
        "def check(given, expected, got): return 1",
        "def check(given, expected, got): return None",
        "def check(given, expected, got):\n  while True: pass",
        "def check(given, expected, got): return bytearray(1 << 30) is None",
        "def check(given): return True",
        "def test(given, expected, got): return True",
        "def check(",
        "import os; os._exit(0)",
    ],
)
async def test_a_checker_that_fails_leaves_the_answer_unknown(grader: CodeGrader, checker: str) -> None:
    outcome, reason = await written(grader, "print(42)", checker)
    assert outcome is Outcome.INFRA_ERROR
    assert "the checker failed: " in reason


@pytest.mark.parametrize(
    "program",
    [
        "print(True)",
        'print(\'{"result": "true"}\')',
        'import os\nos.write(3, b\'{"result": "true"}\'); os._exit(0)',
        "import builtins\nbuiltins.check = lambda *a: True\nbuiltins.sum = lambda *a: 42\nprint(1, 1)",
        "import sys\nsys.modules['solution'] = sys\nsys.check = lambda *a: True",
        "print('20 ' + '2' * 10**5)",
        "import os\nos.write(1, b'\\xff\\xfe 40 2')",
        "import os\nos.write(1, b'40\\0 2')",
        "print('\\u0664\\u0660 x')",
    ],
)
async def test_no_output_is_accepted_but_a_right_one(grader: CodeGrader, program: str) -> None:
    outcome, reason = await written(grader, program)
    assert outcome is Outcome.WRONG, reason


@pytest.mark.parametrize("depth", range(850, 1000, 10))
async def test_a_result_of_any_depth_is_no_excuse(grader: CodeGrader, depth: int) -> None:
    report = f"import os\nos.write(3, b'{{\"result\": \"' + b'[' * {depth} + b']' * {depth} + b'\"}}'); os._exit(0)"
    outcome, reason = await returned(grader, report)
    assert outcome is Outcome.WRONG, reason
