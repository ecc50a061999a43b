"""Programs that have to be compiled, in the real sandbox with a real compiler."""

import asyncio
import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace

import psutil
import pytest
import pytest_asyncio

from services.common.problem import StdinCase, StdinTests
from services.common.verdict import Limits, Outcome
from services.verifier import languages
from services.verifier.code_grader import CodeGrader
from services.verifier.languages import Compiler
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.pool import SandboxPool

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler: install g++"),
]

LIMITS = Limits(wall_s=4.0, memory_bytes=256 << 20, output_bytes=1 << 16)
TESTS = StdinTests(
    cases=(StdinCase(input="20 22\n", output="42\n"), StdinCase(input="-7 7\n", output="0\n")), language="cpp"
)
SUM = "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b << '\\n'; }"
SLOW_TO_COMPILE = """
template <int N, long M> struct Grow { enum : long { v = Grow<N - 1, 2 * M>::v + Grow<N - 1, 2 * M + 1>::v }; };
template <long M> struct Grow<0, M> { enum : long { v = M }; };
int main() { return Grow<30, 1>::v; }
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[SandboxPool]:
    pool = SandboxPool(1, 4, 512 << 20, IsolationLevel.SECCOMP)
    await pool.start()
    yield pool
    await pool.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grader(pool: SandboxPool) -> CodeGrader:
    return CodeGrader(pool)


@pytest.mark.parametrize(
    ("program", "outcome", "reason"),
    [
        (SUM, Outcome.CORRECT, "passed 2 cases"),
        (SUM.replace("a + b", "a - b"), Outcome.WRONG, "case 1 of 2: expected output '42\\n', got '-2\\n'"),
        (SUM.replace("std::cin", "for (;;); std::cin"), Outcome.TIMEOUT, "case 1 of 2: ran longer than 4 s"),
        ("int main() { return 3; }", Outcome.RUNTIME_ERROR, "case 1 of 2: the program exited with status 3"),
        ("int main() { *(volatile int *)0 = 1; }", Outcome.RUNTIME_ERROR,
         "case 1 of 2: the program was killed by signal 11"),
        ("#include <vector>\nint main() { std::vector<char> v; for (;;) v.push_back(1); }", Outcome.MEMORY,
         "case 1 of 2: ran out of memory (268435456 bytes)"),
    ],
)  # fmt: skip
async def test_compiled_programs_are_judged_as_others(
    grader: CodeGrader, program: str, outcome: Outcome, reason: str
) -> None:
    assert (await grader.judge(program, TESTS, LIMITS))[:2] == (outcome, reason)


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("int main() { return x; }", "'x' was not declared"),
        ("def main(): pass", "error"),
        ("", "main"),
        ("#include \"/etc/passwd\"\nint main() {}", "/etc/passwd"),
        ("#include <no_such_header>\nint main() {}", "no_such_header"),
    ],
)  # fmt: skip
async def test_what_does_not_compile_says_why(grader: CodeGrader, program: str, complaint: str) -> None:
    outcome, reason, _ = await grader.judge(program, TESTS, LIMITS)
    assert outcome is Outcome.RUNTIME_ERROR
    assert reason.startswith("it does not compile: ")
    assert complaint in reason


async def test_no_file_of_others_comes_back_in_an_error(grader: CodeGrader) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".h") as secret:
        secret.write("canary canary;")
        secret.flush()
        os.chmod(secret.name, 0o644)
        for source in (f'#include "{secret.name}"', f'asm(".include \\"{secret.name}\\"");'):
            _, reason, _ = await grader.judge(f"{source}\nint main() {{}}", TESTS, LIMITS)
            assert reason.startswith("it does not compile: ")
            assert "canary" not in reason


async def test_a_compiler_that_nobody_waits_for_is_gone(grader: CodeGrader, pool: SandboxPool) -> None:
    def compilers() -> list[int]:
        with contextlib.suppress(psutil.NoSuchProcess):  # one ended meanwhile: look again
            children = [child for pid in pool.process_ids for child in psutil.Process(pid).children(recursive=True)]
            return [child.pid for child in children if child.name() in ("cc1plus", "clang++")]
        return compilers()

    await grader.judge(SUM, TESTS, LIMITS)  # the compiler is proven
    judging = asyncio.create_task(grader.judge(SLOW_TO_COMPILE, TESTS, LIMITS))
    async with asyncio.timeout(30):
        while not compilers():
            await asyncio.sleep(0.01)
        judging.cancel()
        await asyncio.gather(judging, return_exceptions=True)
        while compilers():
            await asyncio.sleep(0.01)
    assert glob.glob(f"{tempfile.gettempdir()}/treerl-compile-*") == []


def with_compiler(monkeypatch: pytest.MonkeyPatch, compiler: Compiler) -> None:
    cpp = replace(languages.LANGUAGES["cpp"], compiler=compiler)
    monkeypatch.setitem(languages.LANGUAGES, "cpp", cpp)


async def test_without_a_compiler_nothing_is_known_about_the_answer(
    pool: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_compiler(monkeypatch, Compiler(names=("no-such-compiler",), arguments=(), probe=""))
    outcome, reason, _ = await CodeGrader(pool).judge(SUM, TESTS, LIMITS)
    assert outcome is Outcome.INFRA_ERROR
    assert "install no-such-compiler on the verifier's machine" in reason


async def test_a_compiler_that_does_not_work_is_no_fault_of_the_answer(
    pool: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = languages.LANGUAGES["cpp"].compiler
    assert working is not None
    with_compiler(monkeypatch, replace(working, arguments=(*working.arguments, "-lno-such-library")))
    outcome, reason, _ = await CodeGrader(pool).judge(SUM, TESTS, LIMITS)
    assert outcome is Outcome.INFRA_ERROR
    assert "cannot find -lno-such-library" in reason


async def test_a_sandbox_with_a_hole_compiles_nothing(pool: SandboxPool, monkeypatch: pytest.MonkeyPatch) -> None:
    working = languages.LANGUAGES["cpp"].compiler
    assert working is not None
    probe = '#include <cstdio>\nint main() { std::puts("3 do anything\\n4 see everything\\n0 come to its end"); }'
    with_compiler(monkeypatch, replace(working, probe=probe))
    outcome, reason, _ = await CodeGrader(pool).judge(SUM, TESTS, LIMITS)
    assert outcome is Outcome.INFRA_ERROR
    assert "a program could do anything" in reason
