"""Problems and their tests to and from protobuf."""

import json

from services.common.errors import InvalidRequestError
from services.common.problem import (
    AssertTests,
    CallCase,
    CallTests,
    CodeTests,
    Domain,
    Json,
    Problem,
    StdinCase,
    StdinTests,
)
from treerl.common.v1 import problem_pb2

_DOMAINS = {domain: problem_pb2.Domain.Value(f"DOMAIN_{domain.name}") for domain in Domain}
_DOMAINS_BACK = {number: domain for domain, number in _DOMAINS.items()}

MAX_JSON_DEPTH = 100
"""Deepest nesting of a test's JSON; what is parsed here is written again by the next service, on another stack."""


def encode_problem(problem: Problem) -> problem_pb2.Problem:
    """`Problem` as a message."""
    message = problem_pb2.Problem(
        id=problem.id, domain=_DOMAINS[problem.domain], prompt=problem.prompt, category=problem.category
    )
    if problem.answer is not None:
        message.answer = problem.answer
    elif problem.tests is not None:
        message.tests.CopyFrom(_encode_tests(problem.tests))
    elif problem.grader:
        message.custom.CopyFrom(problem_pb2.CustomGold(grader=problem.grader, gold_json=json.dumps(problem.gold)))
    return message


def decode_problem(message: problem_pb2.Problem) -> Problem:
    """`Problem` out of a message.

    Raises:
        InvalidRequestError: naming what is wrong in it.
    """
    if message.domain not in _DOMAINS_BACK:
        raise InvalidRequestError(f"problem {message.id!r} has domain {message.domain}: expected MATH, CODE or CUSTOM")
    gold = message.WhichOneof("gold")
    try:
        custom_gold = parse_json(message.custom.gold_json) if gold == "custom" else None
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the gold of problem {message.id!r} cannot be read: {error}") from error
    return Problem(
        id=message.id,
        domain=_DOMAINS_BACK[message.domain],
        prompt=message.prompt,
        answer=message.answer if gold == "answer" else None,
        tests=_decode_tests(message.tests) if gold == "tests" else None,
        grader=message.custom.grader,
        gold=custom_gold,
        category=message.category,
    )


def _encode_tests(tests: CodeTests) -> problem_pb2.CodeTests:
    match tests:
        case StdinTests():
            runs = [problem_pb2.StdinTests.Case(input=c.input, output=c.output) for c in tests.cases]
            return problem_pb2.CodeTests(
                stdin=problem_pb2.StdinTests(cases=runs, checker=tests.checker, language=tests.language)
            )
        case CallTests():
            calls = [
                problem_pb2.CallTests.Case(args_json=json.dumps(c.args), result_json=json.dumps(c.result))
                for c in tests.cases
            ]
            return problem_pb2.CodeTests(
                call=problem_pb2.CallTests(fn_name=tests.fn_name, cases=calls, checker=tests.checker)
            )
        case AssertTests(code=code):
            return problem_pb2.CodeTests(assertions=problem_pb2.AssertTests(code=code))


def _decode_tests(message: problem_pb2.CodeTests) -> CodeTests:
    kind = message.WhichOneof("kind")
    try:
        if kind == "stdin":
            runs = tuple(StdinCase(input=c.input, output=c.output) for c in message.stdin.cases)
            return StdinTests(cases=runs, checker=message.stdin.checker, language=message.stdin.language or "python")
        if kind == "call":
            cases = tuple(
                CallCase(args=tuple(parse_json(c.args_json)), result=parse_json(c.result_json))
                for c in message.call.cases
            )
            return CallTests(fn_name=message.call.fn_name, cases=cases, checker=message.call.checker)
        if kind == "assertions":
            return AssertTests(code=message.assertions.code)
    except (ValueError, TypeError, RecursionError) as error:  # malformed or too deep JSON, no cases, or empty text
        raise InvalidRequestError(f"tests of kind {kind!r} cannot be read: {error}") from error
    raise InvalidRequestError("tests name no kind: expected stdin, call or assertions")


def parse_json(text: str | bytes) -> Json:
    """Read a JSON value that others can write again.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
        RecursionError: it is nested far too deeply.
    """
    value: Json = json.loads(text)
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError(f"JSON nested more than {MAX_JSON_DEPTH} deep")
    return value
