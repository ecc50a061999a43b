"""Answers that are the same in another notation, and look-alikes that are not."""

import pytest

from services.verifier.math_equivalence import equivalent

SAME = [
    # numbers
    ("12,345", "12 345"),
    ("1,234,567.89", "1 234 567.89"),
    ("7", r"\text{seven}"),
    (r"1.\bar{3}", r"\frac43"),
    (r"33\frac{1}{3}\%", r"\frac13"),
    ("0.05", "5 percent"),
    ("3 × 10^8", "3e8"),
    (r"\sqrt{0.25}", "0.5"),
    ("e^{0.5}", r"\sqrt{e}"),
    ("10 \\choose 3", "120"),
    (r"\binom52", "10"),
    # names and words
    ("f(2)=5", "5"),
    ("No", r"\text{No}"),
    # units
    ("5", "5cm"),
    ("9.8", "9.8 m/s^2"),
    ("9.8", r"9.8\,\mathrm{m/s^2}"),
    (r"5\,\mathrm{m/s}", r"5 \mathrm{~m} / \mathrm{s}"),
    ("60", r"60\frac{\text{km}}{\text{h}}"),
    ("100", r"100\text{ N}\cdot\text{m}"),
    ("6", "6 m^2"),
    ("72", r"72^\circ F"),
    ("20", "USD 20"),
    # bases
    ("1011_2", "(1011)_2"),
    ("1011_2", "1011_{(2)}"),
    ("34_5", "34 base 5"),
    ("0.101_2", "0.1010_{2}"),
    ("FF_{16}", "ff_{16}"),
    ("34_5", r"34\text{ (base five)}"),
    ("34_5", r"(34)_{\text{five}}"),
    # complex numbers
    ("i^3", "-i"),
    ("-1", "e^{i(\\pi)}"),
    (r"2\,\text{cis}\,60^\circ", r"1+i\sqrt3"),
    (r"\frac1i", "-i"),
    # sets, lists and intervals
    (r"\{1,2,3\}", "{3,2,1}"),
    ("{5}", "5"),
    (r"\mathbb{R}^+", r"(0,\infty)"),
    ("]1,2[", "(1,2)"),
    ("[0,4]", r"x \le 4 \text{ and } x \ge 0"),
    (r"x \ge 5", "x>=5"),
    (r"\pm\frac{1}{2}", "±0.5"),
    (r"\frac{-1\pm\sqrt5}{2}", r"\frac{-1\mp\sqrt5}{2}"),
    ("x=1,y=2,z=3", "(x,y,z)=(1,2,3)"),
    # choices, times, ratios
    ("B", "b"),
    ("B", "Option B"),
    ("B", r"\text{choice (B)}"),
    ("B", "**B**"),
    ("B", "(B) 1, 2"),
    ("B", r"\text{(B) the area A of the square}"),
    ("D", r"\text{D. } 24"),
    ("A, C", r"\text{C and A}"),
    (r"12:30 \text{ PM}", "12:30 p.m."),
    ("3:4", "3 to 4"),
    ("3:4", r"3\colon4"),
    # expressions
    (r"\int_0^1 2x\,dx", "1"),
]
DIFFERENT = [
    ("12345", "12 346"),
    ("123", "1 23"),
    (r"\sqrt{2}", "1.4142135623730951"),
    (r"\pi", "3.14159265358979"),
    (r"(\sqrt2,1)", "(1.41421356,1)"),
    (r"\begin{pmatrix}\frac13\\1\end{pmatrix}", r"\begin{pmatrix}0.333333\\1\end{pmatrix}"),
    (r"\frac{\pi}{10^{20}}", r"\frac{2\pi}{10^{20}}"),
    ("0", "10^{-9}"),
    ("5", r"5 \text{ or 6}"),
    ("5", r"5 \text{ but not 6}"),
    ("5", "5 or 6"),
    ("5", "{5,6}"),
    ("3", "3mn"),
    ("3m", "3"),
    ("2", "2 pi^2"),
    ("2", "2 pi"),
    ("1011_2", "(1011)_3"),
    ("34_5", "34 base 6"),
    ("5_2", "5_{99}"),
    ("5_2", "5"),
    ("3+4i", "3-4i"),
    ("i^2", "1"),
    ("t^2", "T^2"),
    ("f(2)=5", "f(3)=5"),
    (r"1\text{ radian}", r"1^\circ"),
    ("No", r"\text{Not}"),
    ("0.101_2", "0.101_3"),
    (r"\mathbb{R}^+", r"[0,\infty)"),
    ("]1,2]", "(1,2)"),
    ("[0,4]", r"x < 4 \text{ and } x \ge 0"),
    (r"(-\infty,0)\cup(4,\infty)", r"x>4 \text{ and } x<0"),
    ("B", "c"),
    ("B", "Option C"),
    ("B", "A or B"),
    ("A", "A or B"),
    ("A", "(A), (B)"),
    ("A", "(A) (B)"),
    ("A", r"\text{(A)} \text{ or } \text{(B)}"),
    ("A", "A: 5, B: 6"),
    ("A", "(A) 5, B"),
    ("A", "(A), 5"),
    ("A", "(A)+1"),
    (r"\text{(A)}", r"\text{(A)},5"),
    ("3:4", "4 to 3"),
    (r"12:30 \text{ PM}", "12:30 a.m."),
    # Neither has a real solution.
    ("x^2=-1", "x^2=-4"),
    ("e^x=-1", "e^x=-2"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_same(gold: str, answer: str) -> None:
    assert equivalent(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str) -> None:
    assert not equivalent(gold, answer)
