"""What the children of one test left behind, in a verdict's words. Pure; nearly all it reads is hostile material."""

from errno import ENOMEM

from services.common.problem import Json
from services.common.verdict import Limits, Outcome
from services.verifier.result_comparison import UnreadableResultError, read_result, same_output, same_value, shorten
from services.verifier.sandbox.execution import Ended, Stop

Finding = tuple[Outcome, str]
"""What was found in one test, and why."""

_STOPS = {
    Stop.TIME: (Outcome.TIMEOUT, "ran longer than {limits.wall_s:g} s"),
    Stop.MEMORY: (Outcome.MEMORY, "used more than {limits.memory_bytes} bytes of memory"),
    Stop.OUTPUT: (Outcome.OUTPUT_LIMIT, "wrote more than it may ({limits.output_bytes} bytes of output)"),
    Stop.THREADS: (Outcome.RUNTIME_ERROR, "started too many threads"),
    Stop.STARVED: (Outcome.INFRA_ERROR, "the machine is too busy: the program waited for a core for minutes"),
}

_GRADES = {
    True: (Outcome.CORRECT, "accepted"),
    False: (Outcome.WRONG, "not accepted"),
    None: (Outcome.UNPARSED, "no answer found in the response"),
}

_COMPILER_ERRORS = ("error: ", "undefined reference", "cannot find")


def find_failure(ended: Ended, limits: Limits) -> Finding | None:
    """What went wrong; None if the child ended as a program does that has done its work."""
    if ended.stop is not None:
        outcome, reason = _STOPS[ended.stop]
        return outcome, reason.format(limits=limits)
    if ended.status == 0:
        return None
    error = _reported_error(ended)
    if error.get("type") == "MemoryError" or str(error.get("detail")).startswith(f"[Errno {ENOMEM}]"):
        return Outcome.MEMORY, f"ran out of memory ({limits.memory_bytes} bytes)"
    if error:
        detail = shorten(str(error.get("detail", "")))
        where = f" in line {error['line']}" if error.get("line") else ""
        return Outcome.RUNTIME_ERROR, f"{error.get('type')}{where}: {detail}"
    last_words = _last_words(ended)
    if "std::bad_alloc" in last_words:
        return Outcome.MEMORY, f"ran out of memory ({limits.memory_bytes} bytes)"
    how = f"was killed by signal {-ended.status}" if ended.status < 0 else f"exited with status {ended.status}"
    return Outcome.RUNTIME_ERROR, f"the program {how}" + (f": {shorten(last_words)}" if last_words else "")


def find_compilation(ended: Ended, limits: Limits) -> Finding | None:
    """What went wrong when a program was compiled; None if nothing did."""
    if ended.stop not in (None, Stop.OUTPUT):  # with endless errors it just does not compile
        outcome, reason = _STOPS[ended.stop]
        return outcome, f"compiling it {reason.format(limits=limits)}"
    if ended.stop is None and ended.status == 0:
        return None
    lines = ended.output.decode(errors="replace").splitlines()
    if any("out of memory" in line or "memory exhausted" in line for line in lines):
        return Outcome.MEMORY, f"compiling it ran out of memory ({limits.memory_bytes} bytes)"
    errors = [line for line in lines if any(sign in line for sign in _COMPILER_ERRORS) and "collect2" not in line]
    return Outcome.RUNTIME_ERROR, f"it does not compile: {[*errors, *lines, f'status {ended.status}'][0]}"


def find_result(ended: Ended, limits: Limits) -> tuple[Finding | None, Json]:
    """What a function returned, or else what went wrong."""
    failure = find_failure(ended, limits)
    if failure is not None:
        return failure, None
    try:
        told = read_result(ended.report) if ended.report else None
        if not isinstance(told, dict) or not isinstance(told.get("result"), str):
            return (Outcome.RUNTIME_ERROR, "ended without a result"), None
        return None, read_result(told["result"])
    except UnreadableResultError as error:
        return (Outcome.WRONG, str(error)), None


def find_check(ended: Ended, got: Json, limits: Limits) -> Finding:
    """What a checker decided; when it failed nothing is known about what it was to check."""
    failure, decision = find_result(ended, limits)
    if failure is not None:
        return Outcome.INFRA_ERROR, f"the checker failed: {failure[1]}"
    if not isinstance(decision, bool):
        return Outcome.INFRA_ERROR, f"the checker failed: it returned {shorten(decision)}, expected True or False"
    return (Outcome.CORRECT, "accepted") if decision else (Outcome.WRONG, f"the checker does not accept {shorten(got)}")


def find_grade(ended: Ended, limits: Limits) -> Finding:
    """What a grader of the user's own decided; when it failed nothing is known about the response."""
    failure, decision = find_result(ended, limits)
    if failure is not None and ended.stop in (Stop.TIME, Stop.MEMORY):
        return failure[0], f"the grader {failure[1]}"
    if failure is not None:
        return Outcome.INFRA_ERROR, f"the grader failed: {failure[1]}"
    accepts, reason = decision if isinstance(decision, list) and len(decision) == 2 else (decision, None)
    if not (isinstance(accepts, bool | None) and isinstance(reason, str | None)):
        wanted = "True, False or None, or one of them and a reason"
        return Outcome.INFRA_ERROR, f"the grader failed: it returned {shorten(decision)}, expected {wanted}"
    outcome, default = _GRADES[accepts]
    return outcome, reason or default


def compare_output(output: bytes, expected: str) -> Finding:
    """Whether a program wrote what a test expects."""
    if same_output(output, expected):
        return Outcome.CORRECT, "output as expected"
    return Outcome.WRONG, f"expected output {shorten(expected)}, got {shorten(output)}"


def compare_result(got: Json, expected: Json) -> Finding:
    """Whether a function returned what a test expects."""
    if same_value(got, expected):
        return Outcome.CORRECT, "result as expected"
    return Outcome.WRONG, f"expected {shorten(expected)}, got {shorten(got)}"


def read_assertions(code: str, hosted: Ended, asserted: Ended, limits: Limits) -> Finding:
    """What came of the assertions in `code`, run in the second child on the program in the first."""
    # The second child runs no submitted code, so its word counts.
    if asserted.status == 0 and asserted.report == b'{"passed": true}':
        return Outcome.CORRECT, "every assertion holds"
    error = _reported_error(asserted)
    if error.get("type") == "UnusableTestsError":
        return Outcome.INFRA_ERROR, f"the tests cannot be run: {error.get('detail')}"
    # Where the program broke by itself it says more than the assertions that it cut off.
    hosting = find_failure(hosted, limits)
    if hosting is not None and (hosted.stop is not None or _reported_error(hosted)):
        return hosting
    if error.get("type") == "AssertionError":
        lines, number = code.splitlines(), error.get("line")
        failed = lines[number - 1].strip() if isinstance(number, int) and 0 < number <= len(lines) else ""
        return Outcome.WRONG, f"assertion failed in line {number} of the tests: {error.get('detail') or failed}"
    return find_failure(asserted, limits) or (Outcome.RUNTIME_ERROR, "the assertions ended without a result")


def _last_words(ended: Ended) -> str:
    """The last line that a compiled program wrote to standard error; other children report JSON."""
    lines = ended.report.decode(errors="replace").rstrip().splitlines()
    return "" if ended.report.startswith(b"{") or not lines else lines[-1]


def _reported_error(ended: Ended) -> dict[str, Json]:
    """The error that a child says it ended with; empty if it says none."""
    try:
        report = read_result(ended.report)
    except UnreadableResultError:
        return {}
    error = report.get("error") if isinstance(report, dict) else None
    return error if isinstance(error, dict) else {}
