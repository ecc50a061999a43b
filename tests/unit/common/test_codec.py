"""Messages and back."""

from dataclasses import replace

import pytest

from services.common import codec
from services.common.errors import InvalidRequestError
from services.common.problem import (
    AssertTests,
    CallCase,
    CallTests,
    Domain,
    Problem,
    StdinCase,
    StdinTests,
    parse_problem,
    problem_row,
)
from services.common.tree import ForkSelection, SearchParameters
from services.common.verdict import CaseResult, Cases, Limits, Outcome, Verdict
from tests.builders import branch, request, tree
from treerl.common.v1 import problem_pb2, tree_pb2, verdict_pb2

PROBLEMS = [
    Problem("m", Domain.MATH, "1+1=", answer="2", category="sum"),
    Problem("s", Domain.CODE, "echo", tests=StdinTests(cases=(StdinCase(input="a\n", output="a\n"),))),
    Problem(
        "c",
        Domain.CODE,
        "f",
        tests=CallTests(fn_name="f", cases=(CallCase(args=(1, [2.5, None]), result={"a": [True]}),)),
    ),
    Problem(
        "k",
        Domain.CODE,
        "f",
        tests=CallTests(fn_name="f", cases=(CallCase(args=(), result=None),), checker="def check(a, b, c): return c"),
    ),
    Problem(
        "w", Domain.CODE, "echo", tests=StdinTests(cases=(StdinCase(input="", output=""),), checker="x", language="cpp")
    ),
    Problem("a", Domain.CODE, "f", tests=AssertTests(code="assert f(1) == 2")),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.id)
def test_a_problem_survives_protobuf_and_json(problem: Problem) -> None:
    wire = codec.encode_problem(problem).SerializeToString()
    assert codec.decode_problem(codec.parse(problem_pb2.Problem, wire)) == problem
    assert parse_problem(problem_row(problem)) == problem


def test_a_tree_with_verdicts_survives_protobuf() -> None:
    graded = tree(branch(0, None, 0, 4), branch(1, 0, 2, 3)).with_verdicts(
        [Verdict(Outcome.CORRECT, "equal", 1.5), Verdict(Outcome.INFRA_ERROR, "lost", 2.5)]
    )
    wire = codec.encode_tree(graded).SerializeToString()
    assert codec.decode_tree(codec.parse(tree_pb2.Tree, wire)) == graded


def test_a_verdict_with_results_of_tests_survives_protobuf() -> None:
    cases = (CaseResult(Outcome.CORRECT, "as expected", 3.5, 2.5), CaseResult(Outcome.MEMORY, "too much", 4.5, 0.5))
    verdict = Verdict(Outcome.MEMORY, "too much", 9.5, cases)
    assert codec.decode_verdict(codec.encode_verdict(verdict)) == verdict


@pytest.mark.parametrize("cases", [None, *Cases])
def test_limits_survive_protobuf(cases: Cases | None) -> None:
    limits = Limits(1.5, 1 << 30, 1 << 20, cases)
    assert codec.decode_limits(codec.encode_limits(limits)) == limits


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="limits have cases 7: expected 0 to 2"):
        codec.decode_limits(verdict_pb2.Limits(cases=7))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="verdict has outcome 0"):
        codec.decode_verdict(verdict_pb2.Verdict(outcome=1, cases=[verdict_pb2.CaseResult()]))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [None, 0, 2**64 - 1])
def test_a_request_survives_protobuf(seed: int | None) -> None:
    asked = request(SearchParameters(6, 2, 1, 2, ForkSelection.ENTROPY), seed)
    wire = codec.encode_request(asked).SerializeToString()
    assert codec.decode_request(codec.parse(tree_pb2.TreeRequest, wire)) == asked


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"3 bytes are not a treerl\.common\.v1\.Tree"):
        codec.parse(tree_pb2.Tree, b"\xff\xff\xff")


def test_a_tree_that_is_none_is_refused() -> None:
    wire = codec.encode_tree(replace(tree(branch(0, None, 0, 4)), branches=(branch(1, None, 0, 4),)))
    with pytest.raises(InvalidRequestError, match="ids must equal positions"):
        codec.decode_tree(wire)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (tree_pb2.SamplingParameters(temperature=1, top_p=0.0, max_tokens=1), "top_p is 0.0"),
        (tree_pb2.SamplingParameters(temperature=1, top_p=float("nan"), max_tokens=1), "top_p is nan"),
        (tree_pb2.SamplingParameters(temperature=-1, top_p=1, max_tokens=1), "temperature is -1.0"),
        (tree_pb2.SamplingParameters(temperature=1, top_p=1), "max_tokens is 0"),
    ],
)
def test_sampling_out_of_range_is_refused(message: tree_pb2.SamplingParameters, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        codec.decode_sampling(message)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"id": "x", "domain": "math", "prompt": "p"}, "a math problem needs 'answer'"),
        ({"id": "x", "domain": "code", "prompt": "p"}, "a code problem needs 'tests'"),
        ({"id": "x", "domain": "maths", "prompt": "p", "answer": "1"}, "domain"),
        ({"id": "x", "domain": "math", "prompt": "p", "anwser": "1"}, "anwser"),
        ({"id": "x", "domain": "code", "prompt": "p", "tests": {"kind": "call", "cases": []}}, "fn_name"),
    ],
)
def test_a_bad_row_is_refused_with_the_key(row: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        parse_problem(row)
