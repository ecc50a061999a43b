"""Which answers mean the same."""

import pytest

from services.verifier.math_equivalence import equivalent
from services.verifier.math_policy import MathPolicy

SAME = [
    ("2500000", r"2.5 \text{ million}"),
    ("$1.2 billion", "1,200,000,000"),
    ("3 thousand meters", "3000"),
    ("21", "twenty-one"),
    (r"\text{forty}", "40"),
    ("(A) 12", "A"),
    (r"\vec{i}+2\vec{j}", r"\vec i + 2\vec j"),
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
    ("1,000,000", "10^6"),
    ("10^6", "1,000,000"),
    (r"(-\infty,1)\cup(3,\infty)", r"x<1 \text{ or } x>3"),
    (r"x<1 \text{ or } x>3", r"(3,\infty)\cup(-\infty,1)"),
    (r"(1,\infty)", r"\{x \mid x > 1\}"),
    (r"\{x \in \mathbb{R} : x \le 2\}", r"(-\infty, 2]"),
    (r"\frac13", r"0.333\ldots"),
    (r"\frac13", "0.333..."),
    (r"\frac13", r"0.\dot{3}"),
    (r"\frac13", "0.(3)"),
    (r"\frac{1}{7}", r"0.\dot{1}4285\dot{7}"),
    (r"\frac16", r"0.1666\ldots"),
    (r"8\text{ m}", "8"),
    ("8", r"8\text{ m}^2"),
    (r"12\text{ hours}", r"12\text{ h}"),
    ("A", r"\text{(A) } 5"),
    ("A", "A. five"),
    ("(A)", "A: 5"),
    ("5/2", "2 1/2"),
    (r"\frac12", r"\sin 30^\circ"),
    (r"\frac12", r"\cos(60^{\circ})"),
    (r"90^\circ", r"\frac{\pi}{2}"),
    (r"(2, \pi)", r"(2, 180^{\circ})"),
    ("x=1, y=2", "y=2, x=1"),
    (r"\langle 1,2 \rangle", r"\langle 1, 2\rangle"),
    (r"\frac 1 2", "0.5"),
    (r"\log_2 8", "3"),
    (r"\triangle ABC", r"$\triangle ABC$"),
]
DIFFERENT = [
    ("2.5 million", "2.5"),
    ("(B) 12", "A"),
    ("a", "A"),
    (r"\vec{i}+2\vec{j}", r"2\vec i + \vec j"),
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
    ("1,000,000", "10^5"),
    ("1,000", "1, 0"),
    (r"(-\infty,1)\cup(3,\infty)", "x<1, x<3"),
    (r"(-\infty,1)\cup(3,\infty)", r"x \le 1 \text{ or } x>3"),
    (r"(-\infty,1)\cup(3,\infty)", "x<1"),
    ("x<1", r"(-\infty,1)\cup(3,\infty)"),
    (r"(1,\infty)", r"\{x \mid x > 2\}"),
    (r"\frac13", "0.33..."),
    (r"\frac13", r"0.34\ldots"),
    (r"\frac13", r"0.\dot{3}4"),
    (r"0.\overline{3}", "0.(4)"),
    (r"\pi", r"3.14159\ldots"),
    ("A", "B. A"),
    ("A", r"\text{(B) } A"),
    ("5/2", "2 3/2"),
    ("5/2", "21/2"),
    (r"\frac12", r"\sin 30"),
    (r"\frac{\pi}{2}", "90"),
    (r"90^\circ", r"\pi"),
    (r"\frac12", r"\sin 60^\circ"),
    ("x=1, y=2", "y=1, x=2"),
    ("x=1, y=2", "a=1, b=2"),
    ("(1,2)", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ("(1,2)", r"\langle 1,2\rangle"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
    (r"\{1,2,3\}", r"\{1,2\}"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("1:2", r"\frac12"),
    ("5", "2 3"),
    ("1", "1 1/2"),
    ("6", "2 3"),
    (r"\frac{dy}{dx}", r"\frac{dx}{dy}"),
    (r"2\frac{dy}{dx}+1", "1"),
]
POLICIES = [
    (MathPolicy(units="compared"), r"8\text{ cm}", r"8\text{ cm}", True),
    (MathPolicy(units="compared"), r"8\text{ cm}", r"8\text{ kg}", False),
    (MathPolicy(units="compared"), r"8\text{ cm}", "8", False),
    (MathPolicy(units="compared"), r"8\text{ cm}", "8 cm", True),
    (MathPolicy(units="compared"), r"8\text{ cm}^2", r"8\text{ cm}", False),
    (MathPolicy(units="compared"), r"8\text{ cm}^2", r"8\text{ cm}^{2}", True),
    (MathPolicy(units="compared"), "8", r"8\text{ cm}", True),
    (MathPolicy(units="compared"), "1 hour", "1 hours", True),
    (MathPolicy(percent="hundredths"), r"50\%", "0.5", True),
    (MathPolicy(percent="hundredths"), r"50\%", r"\frac12", True),
    (MathPolicy(percent="hundredths"), r"50\%", "50", False),
    (MathPolicy(percent="hundredths"), "50", r"50\%", False),
    (MathPolicy(percent="hundredths"), r"50\%", r"50.0\%", True),
    (MathPolicy(vectors="tuples"), "(1,2)", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (MathPolicy(vectors="tuples"), r"\begin{bmatrix}1&2\end{bmatrix}", r"\langle 1,2\rangle", True),
    (MathPolicy(vectors="tuples"), "(1,2)", r"\begin{pmatrix}2\\1\end{pmatrix}", False),
    (MathPolicy(vectors="tuples"), "(1,2,3,4)", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", False),
    (
        MathPolicy(vectors="tuples"),
        r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        r"\begin{bmatrix}1&2\\3&4\end{bmatrix}",
        True,
    ),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_same(gold: str, answer: str) -> None:
    assert equivalent(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str) -> None:
    assert not equivalent(gold, answer)


@pytest.mark.parametrize(("policy", "gold", "answer", "same"), POLICIES)
def test_where_people_disagree_the_policy_decides(policy: MathPolicy, gold: str, answer: str, same: bool) -> None:
    assert equivalent(gold, answer, policy) is same


@pytest.mark.parametrize("gold", ["$12$", r"\(12\)", r"\boxed{12}", r"$\boxed{12}$", "12."])
def test_a_gold_answer_may_come_wrapped(gold: str) -> None:
    assert equivalent(gold, "12")


@pytest.mark.parametrize(
    "answer", ["", "{", "}", r"\frac{", "(" * 500 + "," * 500, r"\text{", "\\", "_", "^", "=", ",", "x" * 3000]
)
def test_text_that_is_no_answer_is_different_and_raises_nothing(answer: str) -> None:
    assert not equivalent("12", answer)
