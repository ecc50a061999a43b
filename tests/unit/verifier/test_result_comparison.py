"""Strict comparison of results and outputs."""

import math
from typing import Any

import pytest

from services.verifier.result_comparison import (
    UnreadableResultError,
    one_line,
    read_result,
    same_output,
    same_value,
    shorten,
)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (1, 1),
        (12, 12.0),
        ([1, [2]], (1, (2,))),
        ({"a": [True]}, {"a": [True]}),
        (None, None),
        ("x", "x"),
        (1e400, 1e999),
    ],
)
def test_same_values(got: Any, expected: Any) -> None:
    assert same_value(got, expected)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (True, 1),
        (1, True),
        (False, 0),
        (math.nan, math.nan),
        ("1", 1),
        (None, False),
        ([1], [1, 2]),
        ([1], 1),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, ["a"]),
        (0.1 + 0.2, 0.3),
    ],
)
def test_different_values(got: Any, expected: Any) -> None:
    assert not same_value(got, expected)


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe", "[" * 100_000, "1" * 5000, "'a'"])
def test_what_is_no_json_is_unreadable(text: str | bytes) -> None:
    with pytest.raises(UnreadableResultError):
        read_result(text)


@pytest.mark.parametrize("got", [b"5\n", b"5", b"5  \n\n", b"5\r\n"])
def test_trailing_white_space_of_outputs_does_not_count(got: bytes) -> None:
    assert same_output(got, "5\n")


@pytest.mark.parametrize("got", [b"", b" 5", b"5\n6", b"\n5", b"5\x00", b"\xff\xfe"])
def test_different_outputs(got: bytes) -> None:
    assert not same_output(got, "5\n")


def test_what_a_person_reads_is_short() -> None:
    assert shorten("x" * 1000).endswith("…")
    assert len(shorten([0] * 1000)) <= 80


def test_values_of_any_depth_are_compared() -> None:
    deep, deeper = "[" * 900 + "1" + "]" * 900, "[" * 900 + "2" + "]" * 900
    assert same_value(read_result(deep), read_result(deep))
    assert not same_value(read_result(deep), read_result(deeper))


def test_a_reason_can_be_sent_and_shown_whatever_it_quotes() -> None:
    line = one_line("\ud800\nx\0\x1b[2J\u2028é" + "y" * 100_000)
    assert line.startswith("\\ud800\\nx\\x00\\x1b[2J\\u2028éy")
    assert line.encode().decode() == line
    assert len(line) == len(one_line("\0" * 1000)) == 400
