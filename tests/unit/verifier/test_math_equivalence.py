"""Which answers mean the same."""

import pytest

from services.verifier.math_equivalence import equivalent

SAME = [
    ("2500", "2,500"),
    ("2500", r"2\,500"),
    ("2500", "2500.0"),
    (r"\frac{3}{8}", "3/8"),
    (r"\frac{3}{8}", "0.375"),
    (r"\frac38", r"\dfrac{3}{8}"),
    (r"-\frac{2}{5}", r"\frac{2}{-5}"),
    (r"2\frac{1}{4}", "2.25"),
    (r"40\%", "40"),
    (r"40\%", "0.4"),
    (r"\$7.50", "7.5"),
    (r"8\text{ km}", "8"),
    ("8", "8 square feet"),
    (r"45^\circ", r"45\text{ degrees}"),
    (r"6\sqrt{2}", r"\sqrt{72}"),
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt3}{3}"),
    ("[2,5)", r"2 \le x < 5"),
    (r"(-\infty,0)\cup(0,\infty)", r"(0,\infty)\cup(-\infty,0)"),
    (r"\{4,9\}", r"\{9,4\}"),
    ("3,-5", r"x=-5 \text{ or } x=3"),
    (r"\pm 4", "4,-4"),
    (r"2 \pm \sqrt{5}", r"2-\sqrt{5}, 2+\sqrt{5}"),
    ("(4,7)", "(4, 7)"),
    ("(4,7)", "x=4, y=7"),
    (r"\text{odd}", "Odd"),
    (r"\text{(D)}", "D"),
    (r"\begin{pmatrix}5\\6\end{pmatrix}", r"\begin{bmatrix} 5 \\ 6 \end{bmatrix}"),
    ("y=4x-1", "4x-y-1=0"),
    ("x=9", "9"),
    ("g(x)=x^3", "x^3"),
    ("(x+2)^2", "x^2+4x+4"),
    (r"\cos^2 t", r"1-\sin^2 t"),
    (r"\ln 9", r"2\ln 3"),
    (r"3.2\times 10^{4}", "32000"),
    (r"0.\overline{6}", r"\frac23"),
    ("217_8", "217_{8}"),
    ("2-7i", "-7i+2"),
    (r"e^{i\pi/2}", "i"),
    ("2:45", r"2\!:\!45"),
    (r"\emptyset", r"\{\}"),
]
DIFFERENT = [
    ("2,500", "500"),
    (r"\frac{1}{3}", "0.333"),
    (r"\frac{3}{8}", r"\frac{8}{3}"),
    (r"40\%", r"4\%"),
    ("8", "8m"),
    (r"6\sqrt{2}", r"2\sqrt{6}"),
    ("[2,5)", "(2,5)"),
    ("(4,7)", "[4,7]"),
    ("(4,7)", "(7,4)"),
    ("(7,4)", "(9,2)"),
    ("(4,7)", "7,4"),
    ("(4,7)", r"\{4,7\}"),
    (r"\{4,9\}", r"\{4\}"),
    ("3,-5", "3"),
    ("3", "3,4,5"),
    ("3", r"\pm 3"),
    ("3", r"(-\infty,\infty)"),
    ("3", "x > 3"),
    (r"\text{odd}", "doo"),
    (r"\text{(D)}", r"\text{(C)}"),
    ("x=9", "y=9"),
    ("y=4x-1", "x=4y-1"),
    ("3a+b", "a+3b"),
    ("2.71828", "e"),
    ("217_8", "217_9"),
    ("217_8", "217"),
    ("2-7i", "2+7i"),
    ("2:45", "245"),
    (r"\infty", r"-\infty"),
    ("5", r"\text{any number}"),
    ("5", "nan"),
    (r"\frac{1}{0}", r"\frac{2}{0}"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_same(gold: str, answer: str) -> None:
    assert equivalent(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str) -> None:
    assert not equivalent(gold, answer)


@pytest.mark.parametrize("gold", ["$12$", r"\(12\)", r"\boxed{12}", r"$\boxed{12}$", "12."])
def test_a_gold_answer_may_come_wrapped(gold: str) -> None:
    assert equivalent(gold, "12")


@pytest.mark.parametrize(
    "answer", ["", "{", "}", r"\frac{", "(" * 500 + "," * 500, r"\text{", "\\", "_", "^", "=", ",", "x" * 3000]
)
def test_text_that_is_no_answer_is_different_and_raises_nothing(answer: str) -> None:
    assert not equivalent("12", answer)
