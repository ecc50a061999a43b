"""Judges a program by its tests, each run in a child of the sandbox, one after the other.

Whether a test passed is found here, by comparison with the expected result. The sandbox never receives that result, and
no exit code or message of a child means "passed". Assertions are the exception that `sandbox.inside.asserter` explains,
and so are checkers: a program of the tests' author that decides in a child of its own.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from services.common.problem import AssertTests, CallCase, CallTests, CodeTests, Json, StdinCase, StdinTests
from services.common.verdict import CaseResult, Cases, Limits, Outcome
from services.verifier.compilation import CompilationError, Compilers
from services.verifier.findings import (
    Finding,
    compare_output,
    compare_result,
    find_check,
    find_failure,
    find_result,
    read_assertions,
)
from services.verifier.judgement import Judgement, summarize
from services.verifier.languages import LANGUAGES
from services.verifier.result_comparison import one_line, shorten
from services.verifier.sandbox.execution import Ended, ExecutionLostError
from services.verifier.sandbox.pool import SandboxPool

Run = Callable[[], Awaitable[CaseResult]]


class CodeGrader:
    """Runs tests on a sandbox."""

    def __init__(self, sandbox: SandboxPool) -> None:
        self._sandbox = sandbox
        self._compilers = Compilers(sandbox)

    async def judge(self, program: str, tests: CodeTests, limits: Limits) -> Judgement:
        """Judge a program; the limits hold for each test."""
        try:
            async with self._runs(program, tests, limits) as runs:
                results = await _results(runs, limits)
        except CompilationError as error:
            return Judgement(*error.finding)
        except ExecutionLostError as error:
            return Judgement(Outcome.INFRA_ERROR, f"the grader failed: {error}")
        if isinstance(tests, AssertTests):
            return Judgement(results[0].outcome, results[0].reason, tuple(results))
        return summarize(results, len(runs))

    @asynccontextmanager
    async def _runs(self, program: str, tests: CodeTests, limits: Limits) -> AsyncIterator[list[Run]]:
        """One for each test."""
        match tests:
            case StdinTests():
                async with self._runnable(program, tests.language, limits) as run:
                    yield [partial(self._feed, run, tests.checker, case, limits) for case in tests.cases]
            case CallTests():
                yield [partial(self._call, program, tests, case, limits) for case in tests.cases]
            case AssertTests():
                yield [partial(self._assert, program, tests, limits)]

    @asynccontextmanager
    async def _runnable(
        self, program: str, language: str, limits: Limits
    ) -> AsyncIterator[Callable[[bytes], Awaitable[Ended]]]:
        """Runs the program on an input; compiled here if it has to be."""
        if LANGUAGES[language].compiler is None:
            yield partial(self._sandbox.run, {"mode": "stdin", "program": program}, limits)
        else:
            async with self._compilers.program(language, program) as binary:
                yield partial(self._sandbox.run_binary, binary, limits)

    async def _feed(
        self, run: Callable[[bytes], Awaitable[Ended]], checker: str, case: StdinCase, limits: Limits
    ) -> CaseResult:
        ended = await run(case.input.encode("utf-8", errors="surrogateescape"))
        finding = find_failure(ended, limits)
        if finding is None and checker:
            try:
                finding = await self._check(checker, case.input, case.output, ended.output.decode(), limits)
            except UnicodeDecodeError:
                finding = Outcome.WRONG, f"the output is no text: {shorten(ended.output)}"
        return _result(finding or compare_output(ended.output, case.output), ended)

    async def _call(self, program: str, tests: CallTests, case: CallCase, limits: Limits) -> CaseResult:
        request = {"mode": "call", "program": program, "fn_name": tests.fn_name, "args": case.args}
        ended = await self._sandbox.run(request, limits)
        finding, got = find_result(ended, limits)
        if finding is None and tests.checker:
            finding = await self._check(tests.checker, case.args, case.result, got, limits)
        return _result(finding or compare_result(got, case.result), ended)

    async def _check(self, checker: str, given: Json, expected: Json, got: Json, limits: Limits) -> Finding:
        """Let the tests' own program decide, in a child where no submitted code has been."""
        request = {"mode": "call", "program": checker, "fn_name": "check", "args": [given, expected, got]}
        try:
            ended = await self._sandbox.run(request, limits)
        except RecursionError:
            return Outcome.WRONG, "the result is nested too deeply for a checker"
        return find_check(ended, got, limits)

    async def _assert(self, program: str, tests: AssertTests, limits: Limits) -> CaseResult:
        hosted, asserted = await self._sandbox.run_pair(
            {"mode": "host", "program": program}, {"mode": "assert", "code": tests.code}, limits
        )
        return _result(read_assertions(tests.code, hosted, asserted, limits), hosted, asserted)


async def _results(runs: Sequence[Run], limits: Limits) -> list[CaseResult]:
    results: list[CaseResult] = []
    for run in runs:
        try:
            results.append(await run())
        except ExecutionLostError as error:
            results.append(CaseResult(Outcome.INFRA_ERROR, f"the grader failed: {error}", 0.0, 0.0))
        if results[-1].outcome is not Outcome.CORRECT and limits.cases is not Cases.ALL:
            break
    return results


def _result(finding: Finding, *ended: Ended) -> CaseResult:
    """What was found in a test, and what its children took, which ran at the same time."""
    outcome, reason = finding
    wall_s, cpu_s = max(child.wall_s for child in ended), sum(child.cpu_s for child in ended)
    return CaseResult(outcome, one_line(reason), wall_s * 1000, cpu_s * 1000)
