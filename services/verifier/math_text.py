r"""Normal form of an answer's text: one spelling for the many ways to typeset the same thing. Pure, linear.

Policies that live here: units are taken off, and currencies dropped; degree signs are dropped, but mean degrees in a
sine; `\text{or}` and `\text{and}` separate answers; a condition such as `, k \in \mathbb{Z}` is dropped.
"""

import re
from typing import NamedTuple

from services.verifier.math_notation import IN_DEGREES, NUMBER_WORDS, as_chain, one_notation
from services.verifier.math_units import MATH_WORDS, take_units

_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
_DEGREES = re.compile(IN_DEGREES)
_WHOLE_TEXT = re.compile(r"\\text\s?\{([^{}]{0,200})\}\.?")
_CONDITION = re.compile(
    r"(?:,\s{0,8}|\s|\\text\s?\{\s{0,8}(?:for|where)[^{}]{0,60}\})\s{0,8}[a-zA-Z]\s{0,4}\\in\b.{0,60}$"
)
_CONDITION_IN_WORDS = re.compile(r",?\s{0,8}(?:\\text\s?\{\s{0,8})?(?:for|where)\s.{0,20}?\binteger.{0,30}$")
_LINKS = ("and", "or")
_BETWEEN_ANSWERS = re.compile(r"\s(?:or|and)\s")


def plain_text(answer: str) -> str | None:
    r"""The words of an answer that is nothing but text, lower case; None if it is a formula.

    Text is what stands in `\text{…}`, or three or more letters that name no function and no number. Letters between
    `and` and `or` are answers, not text.
    """
    notation = one_notation(_strip_wrappers(answer))
    whole = _WHOLE_TEXT.fullmatch(notation)
    text = one_notation(whole.group(1)) if whole else notation
    letters = text.replace(" ", "").replace("-", "").replace("'", "").strip("().")
    if not letters.isalpha() or not letters.isascii():
        return None
    words = text.lower().strip("(). ").split()
    if not whole and (len(letters) < 3 or not MATH_WORDS.isdisjoint(words)):
        return None
    if " ".join(words) in NUMBER_WORDS or (len(words) > 1 and all(len(word) == 1 or word in _LINKS for word in words)):
        return None
    return " ".join(words)


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
    text = one_notation(_strip_wrappers(answer))
    text = _CONDITION.sub("", _CONDITION_IN_WORDS.sub("", text))
    whole = _WHOLE_TEXT.fullmatch(text)
    text, units = take_units(one_notation(whole.group(1)) if whole else text)
    text = _BETWEEN_ANSWERS.sub(",", as_chain(text)).strip().rstrip(".,;").strip()
    return Normal(NUMBER_WORDS.get(text.lower(), text), units)


def _strip_wrappers(text: str) -> str:
    text = text.strip()
    for opening, closing in _WRAPPERS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inside = text[len(opening) : -len(closing)]
            if opening not in inside:
                return inside.strip()
    return text
