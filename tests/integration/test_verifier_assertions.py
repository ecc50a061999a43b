"""Assertions on programs in the real sandbox: they see honest ones, and no other satisfies them."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.common.problem import AssertTests
from services.common.verdict import Limits, Outcome
from services.verifier.code_grader import CodeGrader
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.pool import SandboxPool
from tests.integration.cheats import CHEATS

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = Limits(wall_s=8.0, memory_bytes=512 << 20, output_bytes=1 << 18)
SHORT = Limits(wall_s=1.0, memory_bytes=512 << 20, output_bytes=1 << 18)
ASSERTIONS = AssertTests(code="assert add(2, 3) == 5\nassert add(40, 2) == 42\nassert add(-7, 7) == 0\n")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grader() -> AsyncIterator[CodeGrader]:
    pool = SandboxPool(1, 4, 512 << 20, IsolationLevel.SECCOMP)
    await pool.start()
    yield CodeGrader(pool)
    await pool.close()


@pytest.mark.parametrize(
    "program",
    [
        *CHEATS.values(),
        "import builtins\nbuiltins.AssertionError = Exception\ndef add(a, b): return 0",
        "class Any:\n  __eq__ = lambda s, o: True\n  __bool__ = lambda s: True\ndef add(a, b): return Any()",
        "def add(a, b): raise SystemExit(0)",
        "import os\nos.write(5, b'\\0\\0\\0\\x02{}')\ndef add(a, b): return 0",
        "import os, threading\nthreading.Thread(target=lambda: os._exit(0)).start()\ndef add(a, b): return 0",
        "import sys\nsys.settrace(lambda *a: None)\nsys.excepthook = lambda *a: None\ndef add(a, b): return 0",
    ],
)
async def test_cheats_do_not_pass_assertions(grader: CodeGrader, program: str) -> None:
    outcome, reason, _ = await grader.judge(program, ASSERTIONS, SHORT)
    assert outcome not in (Outcome.CORRECT, Outcome.INFRA_ERROR), reason


@pytest.mark.parametrize(
    "code",
    [
        "assert all(map(lambda case: add(*case[0]) == case[1], [((2, 3), 5), ((40, 2), 42)]))",
        "assert not list(filter(lambda case: add(*case[0]) != case[1], [((2, 3), 5)]))",
        "for got, expected in zip(map(add, [2], [3]), [5]): assert got == expected",
    ],
)
async def test_a_program_cannot_end_a_loop_of_the_assertions(grader: CodeGrader, code: str) -> None:
    program = "def add(a, b): raise StopIteration"
    outcome, reason, _ = await grader.judge(program, AssertTests(code=code), SHORT)
    assert outcome is Outcome.RUNTIME_ERROR, reason


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("def add(a, b): return a + b", ASSERTIONS.code),
        ("def f(n): return iter(range(n))", "i = f(1)\nassert next(i) == 0\ntry:\n  next(i)\n  assert False\n"
         "except StopIteration:\n  pass"),
        ("def swap(x): x[0], x[1] = x[1], x[0]", "x = [1, 2]\nswap(x)\nassert x == [2, 1]"),
        ("def f(): raise KeyError('k')", "try:\n  f()\nexcept KeyError as e:\n  pass\nelse:\n  assert False"),
        ("def f(n):\n  for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]"),
        ("class Stack:\n  def __init__(self): self.items = []\n  def push(self, x): self.items.append(x)\n"
         "  def __len__(self): return len(self.items)",
         "s = Stack()\ns.push(4)\nassert len(s) == 1 and s.items == [4]"),
        ("import math\nLIMIT = (1, 2)\ndef f(x): return {x: {1}}", "assert math.sqrt(4) == 2 and LIMIT == (1, 2)\n"
         "assert f((1,)) == {(1,): {1}}"),
        ("def abs(x): return 0\ndef f(x): return x", "assert abs(f(-3)) == 3"),
        ("def f(*, key): return 10 ** key", "assert f(key=5000) == 10 ** 5000"),
    ],
)  # fmt: skip
async def test_assertions_see_the_program(grader: CodeGrader, program: str, code: str) -> None:
    outcome, reason, _ = await grader.judge(program, AssertTests(code=code), LIMITS)
    assert outcome is Outcome.CORRECT, reason


@pytest.mark.parametrize("code", ["assert (", "import no_such_module\nassert add(1, 2) == 3", "x = '\0'"])
async def test_tests_that_cannot_be_run_say_nothing_about_the_program(grader: CodeGrader, code: str) -> None:
    outcome, reason, _ = await grader.judge("def add(a, b): return a + b", AssertTests(code=code), LIMITS)
    assert (outcome, reason[:24]) == (Outcome.INFRA_ERROR, "the tests cannot be run:")


@pytest.mark.parametrize("error", ["SyntaxError", "ImportError", "ModuleNotFoundError"])
async def test_a_program_cannot_blame_the_tests(grader: CodeGrader, error: str) -> None:
    outcome, reason, _ = await grader.judge(f"def add(a, b): raise {error}('x')", ASSERTIONS, LIMITS)
    assert outcome is Outcome.RUNTIME_ERROR, reason


async def test_a_failed_assertion_says_where(grader: CodeGrader) -> None:
    outcome, reason, _ = await grader.judge("def add(a, b): return 5", ASSERTIONS, LIMITS)
    assert (outcome, "line 2 of the tests" in reason) == (Outcome.WRONG, True)
