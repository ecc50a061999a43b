"""Normal forms of answers: never an exception, never more than linear time."""

import time
from fractions import Fraction

import pytest

from services.verifier.math_numbers import read_number, read_special
from services.verifier.math_structure import Kind, read_structure, without_name
from services.verifier.math_text import normalise, plain_text


@pytest.mark.parametrize(
    "piece",
    [
        " ",
        "\\text{",
        "(",
        "\\{",
        "a,",
        "1,",
        "\\ ",
        "\\,",
        "for x ",
        "x \\in ",
        "\\pm",
        "9",
        "_",
        "=",
        "x=",
        "{}",
        "1 base ",
        "12 ",
        "cis ",
        "]1,",
        "**",
        "x<1 and ",
        "\\text{m}/",
        "m/s",
    ],
)
def test_the_longest_answers_take_linear_time(piece: str) -> None:
    answer = (piece * 4096)[:4096]
    started = time.process_time()
    plain_text(answer)
    text = normalise(answer).formula
    read_number(text)
    read_special(text)
    read_structure(text)
    without_name(text)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-1,250.5", Fraction("-1250.5")),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"1\frac{3}{4}", Fraction(7, 4)),
        (r"-1 \frac34", Fraction(-7, 4)),
        ("-3/4", Fraction(-3, 4)),
        (r"1.5\times 10^{-2}", Fraction("0.015")),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("2e3", 2000),
    ],
)
def test_numbers_are_exact(text: str, value: Fraction) -> None:
    number = read_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize("text", ["", "x", "1,23", "1.2.3", "1/0", r"\frac{1}{0}", "1e99999", "٣²", "--1", "1 2"])
def test_other_text_is_no_number(text: str) -> None:
    assert read_number(text) is None


def test_structures() -> None:
    def read(text: str) -> tuple[Kind, tuple[str, ...], str] | None:
        structure = read_structure(text)
        return structure and (structure.kind, structure.parts, structure.brackets)

    assert read("(1, [2, 3])") == (Kind.ORDERED, ("1", "[2, 3]"), "()")
    assert read("[0,1)") == (Kind.ORDERED, ("0", "1"), "[)")
    assert read(r"\{1,2\}") == (Kind.UNORDERED, ("1", "2"), "")
    assert read(r"1 \pm 2, 5") == (Kind.UNORDERED, ("1 + 2", "1 - 2", "5"), "")
    assert read("x=1, x=2") == (Kind.UNORDERED, ("1", "2"), "")
    assert read("x=1, y=2") == (Kind.ORDERED, ("1", "2"), "()")
    assert read("(1+2)(3+4)") is None
    assert read("x + 1") is None
