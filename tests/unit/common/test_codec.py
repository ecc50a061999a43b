"""Messages and back."""

from dataclasses import replace

import pytest

from services.common import codec, problem_codec
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
from services.common.tree import ForkSelection, Logprobs, SamplingParameters, SearchParameters, SpecialTokens
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
    Problem("g", Domain.CUSTOM, "As JSON.", grader="module:function", gold={"a": [1, None]}),
    Problem("n", Domain.CUSTOM, "Be polite.", grader="polite"),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.id)
def test_a_problem_survives_protobuf_and_json(problem: Problem) -> None:
    wire = problem_codec.encode_problem(problem).SerializeToString()
    assert problem_codec.decode_problem(codec.parse(problem_pb2.Problem, wire)) == problem
    assert parse_problem(problem_row(problem)) == problem


def test_a_tree_with_verdicts_survives_protobuf() -> None:
    graded = tree(branch(0, None, 0, 4), branch(1, 0, 2, 3)).with_verdicts(
        [Verdict(Outcome.CORRECT, "equal", 1.5, "1/2"), Verdict(Outcome.INFRA_ERROR, "lost", 2.5)]
    )
    graded = replace(graded, sample_s=0.5, sampler="sampler-1")
    wire = codec.encode_tree(graded).SerializeToString()
    assert codec.decode_tree(codec.parse(tree_pb2.Tree, wire)) == graded


@pytest.mark.parametrize("stop_reason", [None, "\n\n", 0, 151643])
def test_what_ended_a_branch_survives_protobuf(stop_reason: str | int | None) -> None:
    ended = replace(branch(0, None, 0, 2), stop_reason=stop_reason, sampling_logprobs=(-0.5, -0.25))
    wire = codec.encode_branch(ended).SerializeToString()
    assert codec.decode_branch(codec.parse(tree_pb2.Branch, wire)) == ended


def test_how_tokens_are_drawn_survives_protobuf() -> None:
    sampling = SamplingParameters(0.5, 0.9, 9, 1, ("a", "b"), (7, 0), 3, Logprobs.RAW_AND_SAMPLING, "terse")
    wire = codec.encode_sampling(sampling).SerializeToString()
    assert codec.decode_sampling(codec.parse(tree_pb2.SamplingParameters, wire)) == sampling


def test_an_older_client_gets_raw_logprobs_of_the_policy() -> None:
    sampling = codec.decode_sampling(tree_pb2.SamplingParameters(temperature=1, top_p=1, max_tokens=1))
    assert (sampling.logprobs, sampling.adapter, sampling.min_tokens) == (Logprobs.RAW, "", 0)


def test_a_verdict_with_results_of_tests_survives_protobuf() -> None:
    cases = (CaseResult(Outcome.CORRECT, "as expected", 3.5, 2.5), CaseResult(Outcome.MEMORY, "too much", 4.5, 0.5))
    verdict = Verdict(Outcome.MEMORY, "too much", 9.5, "42", cases)
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
    masks = (SpecialTokens.FORKABLE, ("\\boxed{", "####"))
    asked = request(SearchParameters(6, 2, 1, 2, ForkSelection.ENTROPY, *masks), seed)
    wire = codec.encode_request(asked).SerializeToString()
    assert codec.decode_request(codec.parse(tree_pb2.TreeRequest, wire)) == asked


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"3 bytes are not a treerl\.common\.v1\.Tree"):
        codec.parse(tree_pb2.Tree, b"\xff\xff\xff")


@pytest.mark.parametrize("depth", [102, 980, 100_000])
def test_tests_that_are_nested_too_deeply_are_refused(depth: int) -> None:
    deep = problem_pb2.CallTests.Case(args_json="[" * depth + "]" * depth, result_json="1")
    tests = problem_pb2.CodeTests(call=problem_pb2.CallTests(fn_name="f", cases=[deep]))
    with pytest.raises(InvalidRequestError, match="nested more than 100 deep|recursion depth"):
        problem_codec.decode_problem(
            problem_pb2.Problem(id="p", domain=problem_pb2.DOMAIN_CODE, prompt="p", tests=tests)
        )


def test_a_tree_that_is_none_is_refused() -> None:
    wire = codec.encode_tree(replace(tree(branch(0, None, 0, 4)), branches=(branch(1, None, 0, 4),)))
    with pytest.raises(InvalidRequestError, match="ids must equal positions"):
        codec.decode_tree(wire)


def test_sampling_logprobs_for_some_tokens_only_are_refused() -> None:
    wire = codec.encode_tree(tree(replace(branch(0, None, 0, 4), sampling_logprobs=(-1.0,))))
    with pytest.raises(InvalidRequestError, match="4 tokens and 1 sampling logprobs"):
        codec.decode_tree(wire)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (tree_pb2.SamplingParameters(temperature=1, top_p=0.0, max_tokens=1), "top_p is 0.0"),
        (tree_pb2.SamplingParameters(temperature=1, top_p=float("nan"), max_tokens=1), "top_p is nan"),
        (tree_pb2.SamplingParameters(temperature=-1, top_p=1, max_tokens=1), "temperature is -1.0"),
        (tree_pb2.SamplingParameters(temperature=2.5, top_p=1, max_tokens=1), "temperature is 2.5: expected 0 to 2"),
        (tree_pb2.SamplingParameters(temperature=1, top_p=1), "max_tokens is 0"),
        (tree_pb2.SamplingParameters(temperature=1, top_p=1, max_tokens=1, stop=["."] * 17), "17 stop strings"),
        (tree_pb2.SamplingParameters(temperature=1, top_p=1, max_tokens=1, stop=[""]), "stop string has 0 characters"),
        (
            tree_pb2.SamplingParameters(temperature=1, top_p=1, max_tokens=4, min_tokens=5),
            "min_tokens is 5: expected at most max_tokens, which is 4",
        ),
        (
            tree_pb2.SamplingParameters(temperature=1, top_p=1, max_tokens=1, stop_token_ids=range(65)),
            "65 stop_token_ids: expected at most 64",
        ),
        (
            tree_pb2.SamplingParameters(temperature=1, top_p=1, max_tokens=1, logprobs=tree_pb2.Logprobs.ValueType(7)),
            "logprobs is 7: expected RAW or RAW_AND_SAMPLING",
        ),
    ],
)
def test_sampling_out_of_range_is_refused(message: tree_pb2.SamplingParameters, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        codec.decode_sampling(message)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (tree_pb2.SearchParameters(), "0 chains"),
        (tree_pb2.SearchParameters(chains=1, selection=tree_pb2.ForkSelection.ValueType(9)), "unknown selection 9"),
        (tree_pb2.SearchParameters(chains=1, special_tokens=tree_pb2.SpecialTokens.ValueType(9)), "special_tokens 9"),
        (tree_pb2.SearchParameters(chains=1, answer_markers=["####", ""]), "an empty text among its answer_markers"),
        (tree_pb2.SearchParameters(chains=1, answer_markers=["#"] * 33), "33 answer_markers: expected at most 32"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(message: tree_pb2.SearchParameters, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        codec.decode_search(message)


def test_a_search_that_says_nothing_of_masks_masks_special_tokens_alone() -> None:
    search = codec.decode_search(tree_pb2.SearchParameters(chains=1))
    assert (search.special_tokens, search.answer_markers) == (SpecialTokens.MASKED, ())


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
