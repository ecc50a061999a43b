r"""Normal form of an answer's text: one spelling for the many ways to typeset the same thing. Pure, linear.

Policies that live here: units are taken off, and currencies dropped; degree signs are dropped, but mean degrees in a
sine; `\text{or}` and `\text{and}` separate answers; a condition such as `, k \in \mathbb{Z}` is dropped.
"""

import re
from functools import partial
from typing import NamedTuple

_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))

_DEGREE_SIGN = r"(?:\^\s{0,4}(?:\{\s{0,4}\\circ\s{0,4}\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])|°)"
_IN_DEGREES = r"(\d{1,20}(?:\.\d{1,20})?)\s{0,4}" + _DEGREE_SIGN
_DEGREES = re.compile(_IN_DEGREES)

_REPLACEMENTS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|displaystyle|textstyle|limits|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
        (r",\\!\s{0,8}|\{,\}", ","),
        (r"(?<=\d)\s{0,4}\\[,;:!]\s{0,4}(?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\\[!,;:]|\\q?quad(?![a-zA-Z])", " "),
        (r"(?<!\\)\\ |~|\u00a0", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:text|math)(?:bf|it|rm|sf|tt|normal)(?![a-zA-Z])|\\(?:mbox|operatorname\*?)(?![a-zA-Z])", r"\\text"),
        (
            r"(\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])\s{0,4}[({]?\s{0,4})" + _IN_DEGREES,
            r"\1\\frac{\2\\pi}{180}",
        ),
        (_DEGREE_SIGN, ""),
        (r"\\(?:leq|leqslant)(?![a-zA-Z])|≤", r"\\le "),
        (r"\\(?:geq|geqslant)(?![a-zA-Z])|≥", r"\\ge "),
        (r"\\(?:varnothing)(?![a-zA-Z])|\\\{\s{0,8}\\\}|∅", r"\\emptyset"),
        (r"\.\.\.|…|\\dots(?![a-zA-Z])", r"\\ldots "),
        (r"−|–", "-"),
        (r"×", r"\\times "),
        (r"π", r"\\pi "),
        (r"√", r"\\sqrt "),
        (r"∞|\\infin(?![a-zA-Z])", r"\\infty "),
        (r"\\?[$€£¥]", ""),
        (r"\\?%", "%"),
        (r"(?<![a-zA-Z\\])(?:sqrt)\((\w{1,40})\)", r"\\sqrt{\1}"),
    )
]

_TEXT = re.compile(r"\\text\s?\{([^{}]{0,200})\}(\s{0,4}\^\s{0,4}(?:\{\d\}|\d))?")
_WHOLE_TEXT = re.compile(r"\\text\s?\{([^{}]{0,200})\}\.?")
_CONDITION = re.compile(
    r"(?:,\s{0,8}|\s|\\text\s?\{\s{0,8}(?:for|where)[^{}]{0,60}\})\s{0,8}[a-zA-Z]\s{0,4}\\in\b.{0,60}$"
)
_CONDITION_IN_WORDS = re.compile(r",?\s{0,8}(?:\\text\s?\{\s{0,8})?(?:for|where)\s.{0,20}?\binteger.{0,30}$")
_TRAILING_WORDS = re.compile(r"(?<=[\d})])\s{1,8}(?P<words>[a-zA-Z]{2,30}\.?(?:[ /][a-zA-Z]{1,30}\.?){0,4})(?:\^\d)?$")
_MATH_WORDS = {
    "pi", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "log", "ln", "exp", "or", "and", "choose", "mod", "infty", "am", "pm",
}  # fmt: skip
_UNIT_LETTERS = frozenset("mgshLNJWVK")
_NO_BRACES = str.maketrans("", "", "{}^")
_NUMBER_WORDS = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16",
}  # fmt: skip


def plain_text(answer: str) -> str | None:
    r"""The words of an answer that is nothing but text, lower case; None if it is a formula.

    Text is what stands in `\text{…}`, or three or more letters that name no function.
    """
    stripped = _strip_wrappers(answer)
    for pattern, replacement in _REPLACEMENTS:
        stripped = pattern.sub(replacement, stripped)
    whole = _WHOLE_TEXT.fullmatch(stripped.strip())
    words = whole.group(1) if whole else stripped
    letters = words.replace(" ", "").replace("-", "").replace("'", "").strip("().")
    if not letters.isalpha() or not letters.isascii():
        return None
    if not whole and (len(letters) < 3 or not _MATH_WORDS.isdisjoint(words.lower().split())):
        return None
    return " ".join(words.lower().strip("(). ").split())


def in_radians(answer: str) -> str:
    """An answer with its angles in radians, where it has a degree sign."""
    return _DEGREES.sub(r"\\frac{\1\\pi}{180}", answer)


class Normal(NamedTuple):
    """An answer in its normal spelling.

    Attributes:
        formula: without units.
        unit: what was taken off as units, in lower case and singular; empty for none.
    """

    formula: str
    unit: str


def normalise(answer: str) -> Normal:
    """The normal spelling of an answer."""
    text = _strip_wrappers(answer)
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    text = _CONDITION.sub("", _CONDITION_IN_WORDS.sub("", text))
    units: list[str] = []
    whole = _WHOLE_TEXT.fullmatch(text)
    text = whole.group(1) if whole else _TEXT.sub(partial(_without_text, units), text)
    text = _join_words(" ".join(text.split()))
    trailing = _TRAILING_WORDS.search(text)
    if trailing and _MATH_WORDS.isdisjoint(trailing.group("words").lower().split()):
        units.append(trailing.group())
        text = text[: trailing.start()]
    return Normal(text.strip().rstrip(".,;").strip(), " ".join(map(_unit, units)))


def _unit(words: str) -> str:
    return " ".join(word.strip(".").removesuffix("s") or word for word in words.lower().translate(_NO_BRACES).split())


def _strip_wrappers(text: str) -> str:
    text = text.strip()
    for opening, closing in _WRAPPERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inside = text[len(opening) : -len(closing)]
            if opening not in inside:
                return inside.strip()
    return text


def _without_text(units: list[str], match: re.Match[str]) -> str:
    """What a `\\text{…}` stands for; units are noted and left out."""
    words = match.group(1).strip().lower().strip(".")
    if words in ("or", "and"):
        return ","
    if words in ("percent", "per cent"):
        return "%"
    if words in ("am", "pm", "a.m", "p.m"):
        return " " + words.replace(".", "")
    if words in _NUMBER_WORDS:
        return _NUMBER_WORDS[words]
    before = match.string[: match.start()].rstrip()
    follows = bool(before) and (before[-1].isalnum() or before[-1] in "})%")
    if words.isdigit() or (len(words) == 1 and not (follows and match.group(1).strip() in _UNIT_LETTERS)):
        return words
    if not follows:
        return match.group(0)
    units.append(words + (match.group(2) or ""))
    return " "


def _join_words(text: str) -> str:
    """Words between answers, written without `\\text`."""
    return re.sub(r"\s(?:or|and)\s", ",", text)
