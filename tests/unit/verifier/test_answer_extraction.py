"""Which part of a response is its answer."""

import time

import pytest

from services.verifier.answer_extraction import extract_answer, unwrap


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{12}", "12"),
        (r"first \boxed{1}, no: \boxed{2}", "2"),
        (r"\boxed{\frac{a}{\sqrt{b}}} done", r"\frac{a}{\sqrt{b}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"\fbox{7}", "7"),
        (r"\boxed 9.", "9."),
        (r"<think>perhaps \boxed{3}</think>The answer is 4.", "4"),
        ("1 + 1 = 2\n#### 2", "2"),
        ("The answer is 3.5.", "3.5"),
        ("the answer is $x = 3$ as shown", "x = 3"),
        ("**Answer:** 17", "17"),
        ("**Answer: 17**", "17"),
        (r"Final answer: \(\pi\)", r"\pi"),
        ("The correct option is C", "C"),
        ("The answer is 5, because 2 + 3 = 5.", "5"),
        ("The answer is $5$ or $6$.", "5 or 6"),
        ("The answer is $5$, and we checked that $2 + 3 = 5$.", "5"),
        ("we meet at 12:30", "12:30"),
        (r"we get $y=1$ and then $z=2$, fine", "z=2"),
        ("it costs 1,250 dollars", "1,250"),
        ("half of it, 1/2", "1/2"),
        ("a loss of -12.5%", "-12.5%"),
    ],
)
def test_the_answer_is_found(response: str, answer: str) -> None:
    assert extract_answer(response) == answer


@pytest.mark.parametrize("response", ["", "I do not know.", r"\boxed{}", r"\boxed{  }", r"\boxed{" + "9" * 5000 + "}"])
def test_no_answer_is_none(response: str) -> None:
    assert extract_answer(response) is None


def test_a_box_that_never_closes_is_no_box() -> None:
    assert extract_answer(r"\boxed{1} and \boxed{2") == "1"


def test_unwrap_takes_a_gold_answer_out_of_its_box() -> None:
    assert (unwrap(r" $\boxed{5}$ "), unwrap(" 5 ")) == ("5", "5")


@pytest.mark.parametrize(
    "response",
    [
        " " * 200_000,
        "prose without end " * 600_000,
        r"\boxed{" * 100_000,
        "{" * 500_000 + r"\boxed{1",
        "$" * 300_000,
        "answer" * 100_000,
        "answer is " * 100_000,
        "answer is " + "$1$ or " * 100_000,
        "1," * 300_000,
        "\\" * 500_000,
    ],
    ids=["spaces", "prose", "boxes", "braces", "dollars", "answer", "answers", "formulas", "numbers", "backslashes"],
)
def test_hostile_responses_take_linear_time(response: str) -> None:
    started = time.process_time()
    extract_answer(response)
    assert time.process_time() - started < 1.0
