"""The whole grader on real workers and sandboxes, and on recorded data."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.common.errors import InvalidRequestError
from services.common.problem import CallTests, Domain, Problem, StdinTests, parse_tests
from services.common.tree import Branch, FinishReason, SamplingParameters, SearchParameters, Tree, VersionSpan
from services.common.verdict import Cases, Limits, Outcome
from services.verifier import math_equivalence
from services.verifier.answer_extraction import extract_answer
from services.verifier.grading import MIN_LIMITS, Grader
from services.verifier.judgement import Judgement
from services.verifier.math_equivalence import equivalent
from services.verifier.settings import VerifierSettings
from tests.latex_texts import PIECES

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEVEN = Problem("seven", Domain.MATH, "3 + 4?", answer="7")
DOUBLE = Problem("double", Domain.CODE, "Double x.", tests=CallTests(fn_name="f", cases=({"args": [4], "result": 8},)))
NO_ANSWER = "no answer, in \\boxed{…}, after 'the answer is' or as the last formula or number, found in the response"
NO_PROGRAM = "no program, in a block fenced as python, found in the response"
NEIGHBOURS = int(os.environ.get("TREERL_TEST_NEIGHBOURS", "2"))
TWICE, THRICE = "def f(x): return 2 * x\n", "def f(x): return 3 * x\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grader() -> AsyncIterator[Grader]:
    grader = Grader(VerifierSettings())
    await grader.start()
    yield grader
    await grader.close()


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tree_of(problem: Problem, responses: list[str]) -> Tree:
    branches = [
        Branch(i, None, 0, (1,), (-0.5,), (), (VersionSpan(0, 1),), FinishReason.STOP, response)
        for i, response in enumerate(responses)
    ]
    search, sampling = SearchParameters(chains=len(branches)), SamplingParameters(1.0, 1.0, 8)
    return Tree("tree", problem, search, sampling, (1,), tuple(branches))


@pytest.mark.parametrize(
    ("problem", "response", "outcome", "reason", "answer"),
    [
        (SEVEN, r"so \boxed{7}", Outcome.CORRECT, "'7' equals '7'", "7"),
        (SEVEN, r"so \boxed{8}", Outcome.WRONG, "expected '7', got '8'", "8"),
        (SEVEN, "no idea", Outcome.UNPARSED, NO_ANSWER, ""),
        (DOUBLE, f"```python\n{TWICE}```", Outcome.CORRECT, "passed 1 cases", TWICE),
        (DOUBLE, f"```python\n{THRICE}```", Outcome.WRONG, "case 1 of 1: expected 8, got 12", THRICE),
        (DOUBLE, "no idea", Outcome.UNPARSED, NO_PROGRAM, ""),
    ],
)
async def test_verdicts(
    grader: Grader, problem: Problem, response: str, outcome: Outcome, reason: str, answer: str
) -> None:
    verdict = await grader.grade(problem, response)
    assert (verdict.outcome, verdict.reason, verdict.answer) == (outcome, reason, answer)
    assert 0 < verdict.wall_ms < 10_000


@pytest.mark.parametrize(
    "answer",
    ["9^{9^{9^{9}}}", "(10^9)!", "2^{2^{2^{2^{2^2}}}}", "(" * 3000 + "1" + ")" * 3000, r"\sum_{k=1}^{10^{9}} k"],
)
async def test_no_math_answer_takes_longer_than_its_limit(grader: Grader, answer: str) -> None:
    verdict = await grader.grade(SEVEN, rf"\boxed{{{answer}}}", Limits(1.0, 0, 0))
    assert verdict.outcome in (Outcome.TIMEOUT, Outcome.MEMORY, Outcome.WRONG, Outcome.UNPARSED)
    assert verdict.wall_ms < 30_000  # far above what a busy machine adds, far below what these take without a limit


async def test_any_text_gets_a_verdict_from_the_workers(grader: Grader) -> None:
    """`TREERL_FUZZ` sets how many texts, as in the tests of the parts."""
    rng = random.Random(0)
    count = int(os.environ.get("TREERL_FUZZ", "300")) // 10
    answers = ["".join(rng.choices(PIECES, k=rng.randrange(1, 30))) for _ in range(count)]
    judged = asyncio.gather(*(grader.grade(SEVEN, rf"\boxed{{{answer}}}", Limits(0.5, 0, 0)) for answer in answers))
    found = {verdict.outcome for verdict in await judged}
    assert found <= {Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSED, Outcome.TIMEOUT, Outcome.MEMORY}


async def test_a_timeout_costs_its_neighbours_nothing(grader: Grader) -> None:
    hostile = [grader.grade(SEVEN, r"\boxed{9^{9^{9^{9}}}}", Limits(0.5, 0, 0)) for _ in range(2)]
    benign = [grader.grade(SEVEN, rf"{i} \boxed{{7}}") for i in range(50)]
    verdicts = await asyncio.gather(*hostile, *benign)
    assert verdicts[0].answer == "9^{9^{9^{9}}}"
    assert [verdict.outcome for verdict in verdicts] == [Outcome.TIMEOUT] * 2 + [Outcome.CORRECT] * 50


MANY_THREADS = """
import _thread, threading, time
def f(x):
    threading.stack_size(32768)
    end = time.time() + 0.2  # after that the verifier looks less often
    while time.time() < end: pass
    while True:
        try: _thread.start_new_thread(time.sleep, (9,))
        except Exception: pass
# {number}
"""
SOME_THREADS = """
import threading
def f(x):
    got = []
    for _ in range(40):
        thread = threading.Thread(target=got.append, args=(x,))
        thread.start()
        thread.join()
    return got[0] + got[39]
# {number}
"""


async def test_a_neighbour_with_many_threads_costs_a_program_none_of_its_own(grader: Grader) -> None:
    programs = [text.format(number=number) for number in range(10) for text in (MANY_THREADS, SOME_THREADS)]
    graded = await asyncio.gather(*(grader.grade(DOUBLE, f"```python\n{program}```") for program in programs))
    assert {verdict.outcome for verdict in graded[::2]} == {Outcome.RUNTIME_ERROR}
    assert {verdict.outcome for verdict in graded[1::2]} == {Outcome.CORRECT}


async def test_killed_workers_change_no_verdict(grader: Grader) -> None:
    # No two alike: each is judged.
    answers = [
        (SEVEN, rf"\boxed{{7 + {i} - {i}}}") if i % 2 else (DOUBLE, f"def f(x): return x + x  # {i}") for i in range(60)
    ]
    grading = [asyncio.create_task(grader.grade(*answer)) for answer in answers]
    for _ in range(4):
        await asyncio.sleep(0.1)
        os.kill(random.choice(grader.process_ids), signal.SIGKILL)
    assert {verdict.outcome for verdict in await asyncio.gather(*grading)} == {Outcome.CORRECT}


async def test_workers_that_died_while_idle_cost_no_verdict(grader: Grader) -> None:
    for process_id in grader.process_ids:
        os.kill(process_id, signal.SIGKILL)
    await asyncio.sleep(0.1)  # until the kernel has done it
    for problem, response in ((SEVEN, r"\boxed{7}"), (DOUBLE, TWICE)):
        verdict = await grader.grade(problem, response)
        assert verdict.outcome is Outcome.CORRECT, verdict.reason


async def test_the_same_answer_is_judged_once(grader: Grader, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    judge = grader._judge

    async def counting(problem: Problem, answer: str, limits: Limits) -> Judgement:
        judged.append(answer)
        return await judge(problem, answer, limits)

    monkeypatch.setattr(grader, "_judge", counting)
    responses = [r"a \boxed{7}", r"b \boxed{7}", r"c \boxed{8}", "none", r"d \boxed{8}"]
    fresh = replace(SEVEN, answer="7.0")  # no other test asks for it
    graded = await grader.grade_tree(tree_of(fresh, responses))
    await grader.grade(fresh, r"later \boxed{7}")
    assert sorted(judged) == ["7", "8"]
    rewards = [branch.verdict and branch.verdict.reward for branch in graded.branches]
    assert rewards == [1, 1, 0, 0, 0]


async def test_the_setting_says_which_tests_are_run_unless_a_request_does(grader: Grader) -> None:
    tests = CallTests(fn_name="f", cases=({"args": [1], "result": 0}, {"args": [4], "result": 8}))
    problem, program = replace(DOUBLE, tests=tests), "def f(x): return 2 * x"
    assert len((await grader.grade(problem, program)).cases) == 1
    assert len((await grader.grade(problem, program, Limits(0, 0, 0, Cases.ALL))).cases) == 2
    thorough = Grader(VerifierSettings(code_cases="all", math_workers=1))
    try:
        await thorough.start()
        assert len((await thorough.grade(problem, program)).cases) == 2
    finally:
        await thorough.close()


async def test_trees_do_not_carry_the_results_of_tests(grader: Grader) -> None:
    program = "def f(x): return 2 * x"
    assert [case.outcome for case in (await grader.grade(DOUBLE, program)).cases] == [Outcome.CORRECT]
    graded = await grader.grade_tree(tree_of(DOUBLE, [program]))
    assert [branch.verdict and branch.verdict.cases for branch in graded.branches] == [()]


async def test_a_problem_without_gold_and_limits_out_of_range_are_refused(grader: Grader) -> None:
    with pytest.raises(InvalidRequestError, match="nothing to grade by"):
        await grader.grade(Problem("p", Domain.MATH, "?"), "7")
    tests = StdinTests(cases=({"input": "", "output": ""},), language="cobol")
    with pytest.raises(InvalidRequestError, match="problem 'p' has language 'cobol': expected python, cpp"):
        await grader.grade(Problem("p", Domain.CODE, "?", tests=tests), "7")
    with pytest.raises(InvalidRequestError, match=r"limits.wall_s is 1000000000"):
        await grader.grade(SEVEN, "7", Limits(1e9, 0, 0))
    with pytest.raises(InvalidRequestError, match="limits.wall_s is nan"):
        await grader.grade(SEVEN, "7", Limits(float("nan"), 0, 0))
    with pytest.raises(InvalidRequestError, match=r"limits.memory_bytes is 1: expected 67108864 to"):
        await grader.grade(SEVEN, "7", Limits(0, 1, 0))


async def test_the_smallest_limits_are_enough_to_run(grader: Grader) -> None:
    verdict = await grader.grade(DOUBLE, "def f(x): return 2 * x", Limits(0, MIN_LIMITS.memory_bytes, 8))
    assert verdict.outcome is Outcome.CORRECT, verdict.reason


async def test_simple_answers_are_graded_fast(grader: Grader) -> None:
    started = time.perf_counter()
    await asyncio.gather(*(grader.grade(SEVEN, rf"line {i} \boxed{{{i % 10}}}") for i in range(1000)))
    assert 1000 / (time.perf_counter() - started) > 300  # 2,700 on two free cores


async def test_recorded_pairs_agree(shared_data: Path) -> None:
    def found(row: dict[str, Any]) -> bool:
        whole = row["kind"] == "extract" or "boxed" in row["pred"]
        answer = extract_answer(row["pred"]) if whole else row["pred"]
        return answer is not None and equivalent(row["gold"], answer)

    pairs = rows(shared_data / "math_pairs.jsonl")
    wrong = [row for row in pairs if found(row) != row["equivalent"]]
    assert len(wrong) <= 0.01 * len(pairs), wrong
    assert not [row for row in wrong if not row["equivalent"]]


@pytest.mark.parametrize("name", ["math500", "gsm8k_test"])
async def test_recorded_golds_equal_themselves_by_value(
    shared_data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = math_equivalence._parse

    def parsed(text: str) -> Any:
        expression = parse(text)
        assert expression is not None, f"{text!r} is compared as text"
        return expression

    monkeypatch.setattr(math_equivalence, "_parse", parsed)
    golds = [row["answer"] for row in rows(shared_data / f"{name}.jsonl")]
    different = [gold for gold in golds if not equivalent(gold, extract_answer(rf"So \boxed{{{gold}}}.") or "")]
    assert different == []


async def test_recorded_golds_equal_no_others(shared_data: Path) -> None:
    golds = list(dict.fromkeys(row["answer"] for row in rows(shared_data / "math500.jsonl")))
    pairs = [(gold, other) for at, gold in enumerate(golds) for other in golds[at + 1 : at + 1 + NEIGHBOURS]]
    equal = {pair for pair in pairs if equivalent(*pair)}
    assert equal <= {("5", "x=5"), (r"30^\circ", "30"), (r"36^\circ", "36"), (r"2 \sqrt{5}", r"2\sqrt{5}")}


async def test_recorded_programs_pass_and_empty_ones_fail(grader: Grader, shared_data: Path) -> None:
    problems = rows(shared_data / "humaneval_first82.jsonl")

    async def grade(row: dict[str, Any], program: str) -> bool:
        problem = Problem(row["id"], Domain.CODE, row["prompt"], tests=parse_tests(row["tests"]))
        return (await grader.grade(problem, f"```python\n{program}\n```")).outcome is Outcome.CORRECT

    references = await asyncio.gather(*(grade(row, row["reference"]) for row in problems))
    empty = await asyncio.gather(*(grade(row, row["prompt"] + "    pass\n") for row in problems))
    assert [row["id"] for row, passed in zip(problems, references, strict=True) if not passed] == []
    assert [row["id"] for row, passed in zip(problems, empty, strict=True) if passed] == []


async def test_the_service_imports_no_deep_learning_library() -> None:
    heavy = "{'torch', 'transformers', 'vllm', 'deepspeed'}"
    code = f"import sys, services.verifier.__main__; sys.exit(bool({heavy} & sys.modules.keys()))"
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": f"{root}:{root / 'gen'}", "PATH": os.environ["PATH"]}
    run = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], env=environment, check=False)
    assert run.returncode == 0
