"""Judges a program by its tests, run in the sandbox one child at a time; the first failure decides.

Whether a test passed is found here, by comparison with the expected result. The sandbox never receives that result, and
no exit code or message of a child means "passed". Assertions are the exception that `sandbox.inside.asserter` explains.
"""

from services.common.problem import AssertTests, CallCase, CallTests, CodeTests, Json, StdinCase, StdinTests
from services.common.verdict import Limits, Outcome
from services.verifier.result_comparison import (
    UnreadableResultError,
    read_result,
    same_output,
    same_value,
    shorten,
)
from services.verifier.sandbox.execution import Ended, Stop
from services.verifier.sandbox.pool import SandboxPool

Judgement = tuple[Outcome, str]
"""What was found, and one line that says why."""

_STOPS = {
    Stop.TIME: (Outcome.TIMEOUT, "ran longer than {limits.wall_s:g} s"),
    Stop.MEMORY: (Outcome.MEMORY, "used more than {limits.memory_bytes} bytes of memory"),
    Stop.OUTPUT: (Outcome.OUTPUT_LIMIT, "wrote more than it may ({limits.output_bytes} bytes of output)"),
    Stop.THREADS: (Outcome.RUNTIME_ERROR, "started too many threads"),
    Stop.STARVED: (Outcome.INFRA_ERROR, "the machine is too busy: the program waited for a core for minutes"),
}


class CodeGrader:
    """Runs tests on a sandbox."""

    def __init__(self, sandbox: SandboxPool) -> None:
        self._sandbox = sandbox

    async def judge(self, program: str, tests: CodeTests, limits: Limits) -> Judgement:
        """Judge a program; the limits hold for each test.

        Raises:
            ExecutionLostError: the sandbox failed twice.
        """
        if isinstance(tests, AssertTests):
            return await self._assert(program, tests, limits)
        for number, case in enumerate(tests.cases, start=1):
            if isinstance(tests, StdinTests) and isinstance(case, StdinCase):
                outcome, reason = await self._feed(program, case, limits)
            elif isinstance(tests, CallTests) and isinstance(case, CallCase):
                outcome, reason = await self._call(program, tests.fn_name, case, limits)
            else:
                raise TypeError(f"tests of unknown kind {type(tests).__name__}")
            if outcome is not Outcome.CORRECT:
                return outcome, f"case {number} of {len(tests.cases)}: {reason}"
        return Outcome.CORRECT, f"passed {len(tests.cases)} cases"

    async def _feed(self, program: str, case: StdinCase, limits: Limits) -> Judgement:
        stdin = case.input.encode("utf-8", errors="surrogateescape")
        ended = await self._sandbox.run({"mode": "stdin", "program": program}, limits, stdin)
        failure = _failure(ended, limits)
        if failure is not None:
            return failure
        if same_output(ended.output, case.output):
            return Outcome.CORRECT, "output as expected"
        return Outcome.WRONG, f"expected output {shorten(case.output)}, got {shorten(ended.output)}"

    async def _call(self, program: str, fn_name: str, case: CallCase, limits: Limits) -> Judgement:
        request = {"mode": "call", "program": program, "fn_name": fn_name, "args": case.args}
        ended = await self._sandbox.run(request, limits)
        failure = _failure(ended, limits)
        if failure is not None:
            return failure
        try:
            report = read_result(ended.report) if ended.report else None
            if not isinstance(report, dict) or not isinstance(report.get("result"), str):
                return Outcome.RUNTIME_ERROR, "ended without a result"
            got = read_result(report["result"])
        except UnreadableResultError as error:
            return Outcome.WRONG, str(error)
        if same_value(got, case.result):
            return Outcome.CORRECT, "result as expected"
        return Outcome.WRONG, f"expected {shorten(case.result)}, got {shorten(got)}"

    async def _assert(self, program: str, tests: AssertTests, limits: Limits) -> Judgement:
        hosted, asserted = await self._sandbox.run_pair(
            {"mode": "host", "program": program}, {"mode": "assert", "code": tests.code}, limits
        )
        # The second child runs no submitted code, so its word counts.
        if asserted.status == 0 and asserted.report == b'{"passed": true}':
            return Outcome.CORRECT, "every assertion holds"
        # Where the program broke by itself it says more than the assertions that it cut off.
        hosting = _failure(hosted, limits)
        if hosting is not None and (hosted.stop is not None or _reported_error(hosted)):
            return hosting
        error = _reported_error(asserted)
        if error.get("type") == "AssertionError":
            return Outcome.WRONG, f"assertion failed in line {error.get('line')} of the tests: {error.get('detail')}"
        return _failure(asserted, limits) or (Outcome.RUNTIME_ERROR, "the assertions ended without a result")


def _failure(ended: Ended, limits: Limits) -> Judgement | None:
    """What went wrong with a child; None if it ended as a program does that has done its work."""
    if ended.stop is not None:
        outcome, reason = _STOPS[ended.stop]
        return outcome, reason.format(limits=limits)
    if ended.status == 0:
        return None
    error = _reported_error(ended)
    if error.get("type") == "MemoryError":
        return Outcome.MEMORY, f"ran out of memory ({limits.memory_bytes} bytes)"
    if error:
        detail = shorten(str(error.get("detail", "")))
        return Outcome.RUNTIME_ERROR, f"{error.get('type')} in line {error.get('line')}: {detail}"
    how = f"was killed by signal {-ended.status}" if ended.status < 0 else f"exited with status {ended.status}"
    return Outcome.RUNTIME_ERROR, f"the program {how}"


def _reported_error(ended: Ended) -> dict[str, Json]:
    try:
        report = read_result(ended.report)
    except UnreadableResultError:
        return {}
    error = report.get("error") if isinstance(report, dict) else None
    return error if isinstance(error, dict) else {}
