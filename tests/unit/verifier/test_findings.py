"""What children left behind, read without any child."""

from dataclasses import replace

import pytest

from services.common.verdict import Limits, Outcome
from services.verifier.findings import (
    compare_output,
    compare_result,
    find_check,
    find_compilation,
    find_failure,
    find_result,
    read_assertions,
)
from services.verifier.sandbox.execution import Ended, Stop

LIMITS = Limits(wall_s=2.0, memory_bytes=100, output_bytes=10)
WELL = Ended(status=0, output=b"", report=b"{}", stop=None, wall_s=0.1, cpu_s=0.1)


@pytest.mark.parametrize(
    ("stop", "outcome"),
    [
        (Stop.TIME, Outcome.TIMEOUT),
        (Stop.MEMORY, Outcome.MEMORY),
        (Stop.OUTPUT, Outcome.OUTPUT_LIMIT),
        (Stop.THREADS, Outcome.RUNTIME_ERROR),
        (Stop.STARVED, Outcome.INFRA_ERROR),
    ],
)
def test_why_it_was_killed_is_why_it_failed(stop: Stop, outcome: Outcome) -> None:
    found = find_failure(replace(WELL, status=-9, report=b'{"error": {"type": "Lie"}}', stop=stop), LIMITS)
    assert found is not None
    assert found[0] is outcome


@pytest.mark.parametrize(
    ("status", "report", "outcome", "reason"),
    [
        (-11, b"", Outcome.RUNTIME_ERROR, "the program was killed by signal 11"),
        (3, b"", Outcome.RUNTIME_ERROR, "the program exited with status 3"),
        (1, b'{"error": {"type": "KeyError", "line": 4, "detail": "k"}}', Outcome.RUNTIME_ERROR,
         "KeyError in line 4: 'k'"),
        (1, b'{"error": {"type": "MemoryError"}}', Outcome.MEMORY, "ran out of memory (100 bytes)"),
        (1, b'{"error": 7}', Outcome.RUNTIME_ERROR, "the program exited with status 1"),
        (1, b"{" * 100_000, Outcome.RUNTIME_ERROR, "the program exited with status 1"),
    ],
)  # fmt: skip
def test_how_it_ended_is_why_it_failed(status: int, report: bytes, outcome: Outcome, reason: str) -> None:
    assert find_failure(replace(WELL, status=status, report=report), LIMITS) == (outcome, reason)


def test_a_compiled_program_reports_in_its_own_words() -> None:
    threw = replace(WELL, status=-6, report=b"terminate called\n  what():  boo\n")
    reason = "the program was killed by signal 6: '  what():  boo'"
    assert find_failure(threw, LIMITS) == (Outcome.RUNTIME_ERROR, reason)
    full = replace(threw, report=b"terminate called\n  what():  std::bad_alloc\n")
    assert find_failure(full, LIMITS) == (Outcome.MEMORY, "ran out of memory (100 bytes)")


@pytest.mark.parametrize(
    ("ended", "outcome", "reason"),
    [
        (replace(WELL, status=1, output=b"<stdin>: In main:\n<stdin>:1:3: error: no\nx\n"), Outcome.RUNTIME_ERROR,
         "it does not compile: <stdin>:1:3: error: no"),
        (replace(WELL, status=1, output=b"ld: x.o: undefined reference to `f'\ncollect2: error: ld failed\n"),
         Outcome.RUNTIME_ERROR, "it does not compile: ld: x.o: undefined reference to `f'"),
        (replace(WELL, status=1, output=b"cc1plus: out of memory allocating 65536 bytes\n"), Outcome.MEMORY,
         "compiling it ran out of memory (100 bytes)"),
        (replace(WELL, stop=Stop.TIME), Outcome.TIMEOUT, "compiling it ran longer than 2 s"),
        (replace(WELL, stop=Stop.STARVED), Outcome.INFRA_ERROR, None),
        (replace(WELL, stop=Stop.OUTPUT, output=b"a: error: b\n" * 9), Outcome.RUNTIME_ERROR,
         "it does not compile: a: error: b"),
        (replace(WELL, status=-9), Outcome.RUNTIME_ERROR, "it does not compile: status -9"),
    ],
)  # fmt: skip
def test_why_it_does_not_compile(ended: Ended, outcome: Outcome, reason: str | None) -> None:
    found = find_compilation(ended, LIMITS)
    assert found is not None
    assert found[0] is outcome
    assert reason in (None, found[1])


def test_a_report_of_failure_with_a_good_end_is_no_failure() -> None:
    assert find_failure(replace(WELL, report=b'{"error": {"type": "KeyError"}}'), LIMITS) is None


def test_outputs_and_results_are_compared() -> None:
    assert compare_output(b"5\n", "5") == (Outcome.CORRECT, "output as expected")
    assert compare_output(b"6", "5") == (Outcome.WRONG, "expected output '5', got '6'")
    assert compare_result([5], [5]) == (Outcome.CORRECT, "result as expected")
    assert compare_result(True, 1) == (Outcome.WRONG, "expected 1, got True")


def test_a_result_is_text_of_json_in_the_report() -> None:
    assert find_result(replace(WELL, report=b'{"result": "[5]"}'), LIMITS) == (None, [5])
    assert find_result(replace(WELL, report=b'{"result": "["}'), LIMITS)[0] == (
        Outcome.WRONG,
        "the result is no readable JSON: '['",
    )
    assert find_result(replace(WELL, status=1, report=b'{"result": "5"}'), LIMITS)[0] is not None


@pytest.mark.parametrize("report", [b"", b"[]", b"5", b'{"passed": true}', b'{"result": 5}', b'{"result": null}'])
def test_what_is_no_result_is_none(report: bytes) -> None:
    assert find_result(replace(WELL, report=report), LIMITS)[0] == (Outcome.RUNTIME_ERROR, "ended without a result")


@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        (b'{"result": "true"}', Outcome.CORRECT),
        (b'{"result": "false"}', Outcome.WRONG),
        (b'{"result": "1"}', Outcome.INFRA_ERROR),
        (b"{}", Outcome.INFRA_ERROR),
    ],
)
def test_a_checker_says_true_or_false_or_has_failed(report: bytes, outcome: Outcome) -> None:
    assert find_check(replace(WELL, report=report), "got", LIMITS)[0] is outcome
    assert find_check(replace(WELL, report=report, stop=Stop.TIME), "got", LIMITS)[0] is Outcome.INFRA_ERROR


CODE = "x = 1\nassert f(x) == 2"


def test_only_the_word_of_the_assertions_counts() -> None:
    passed = b'{"passed": true}'
    assert read_assertions(CODE, WELL, replace(WELL, report=passed), LIMITS)[0] is Outcome.CORRECT
    assert read_assertions(CODE, replace(WELL, report=passed), WELL, LIMITS)[0] is Outcome.RUNTIME_ERROR
    assert read_assertions(CODE, WELL, replace(WELL, status=1, report=passed), LIMITS)[0] is Outcome.RUNTIME_ERROR
    failed = replace(WELL, status=1, report=b'{"error": {"type": "AssertionError", "line": 2, "detail": "x"}}')
    assert read_assertions(CODE, WELL, failed, LIMITS) == (Outcome.WRONG, "assertion failed in line 2 of the tests: x")
    bare = replace(WELL, status=1, report=b'{"error": {"type": "AssertionError", "line": 2, "detail": ""}}')
    assert read_assertions(CODE, WELL, bare, LIMITS)[1] == "assertion failed in line 2 of the tests: assert f(x) == 2"
    broken = replace(WELL, status=1, report=b'{"error": {"type": "NameError", "line": 1, "detail": "n"}}')
    assert read_assertions(CODE, broken, failed, LIMITS) == (Outcome.RUNTIME_ERROR, "NameError in line 1: 'n'")
