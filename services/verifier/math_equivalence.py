"""Whether two math answers are the same. Pure, but without a bound on its time: run it in a worker that can be killed.

Exact forms (numbers, based numerals, times, ratios, choices, text) are decided by value. Everything else goes through
math-verify's comparison of SymPy expressions, on text normalised here.

Policies: units and currencies are not compared; 50% equals 50 and 0.5; decimals are exact (0.33 is not 1/3); a base is
part of a number; a tuple is not a set; text compares without case.
"""

import logging
import re

from latex2sympy2_extended import (  # type: ignore[import-untyped]
    NormalizationConfig,
    latex2sympy,
    normalize_latex,
)
from math_verify import verify  # type: ignore[import-untyped]
from sympy import Basic, MatrixBase  # type: ignore[import-untyped]

from services.verifier.answer_extraction import unwrap
from services.verifier.math_numbers import read_number, read_special
from services.verifier.math_structure import Kind, Structure, read_structure, without_name
from services.verifier.math_text import normalise, plain_text

# math-verify warns at each call that its own time limits are off; ours kill the process.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_LATEX = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
_IMAGINARY = re.compile(r"(?<![a-zA-Z\\_])i(?![a-zA-Z])|\\imath(?![a-zA-Z])")
_INDEX_I = re.compile(r"_\s?\{?\s?i\b")
_SET_OPERATION = re.compile(r"[<>]|\\(?:le|ge|ne|cup|cap|setminus|in|emptyset|mathbb)(?![a-zA-Z])")


def equivalent(gold: str, answer: str) -> bool:
    """Whether an extracted answer means the same as the gold answer, which may be bare, in `$…$` or boxed.

    Raises:
        MemoryError: the comparison needs more memory than there is.
    """
    gold = unwrap(gold)
    gold_words, words = plain_text(gold), plain_text(answer)
    if gold_words is not None and len(gold_words) > 1:
        return gold_words == words
    if words is not None and len(words) > 1:
        return False
    try:
        return _same(normalise(gold), normalise(answer))
    except RecursionError:  # nested deeper than any answer a person would write
        return False


def _same(gold: str, answer: str) -> bool:
    if not gold or not answer:
        return False
    gold_special, special = read_special(gold), read_special(answer)
    if gold_special is not None or (special is not None and special[0] != "choice"):
        return gold_special == special
    if "=" not in gold or "=" not in answer:
        gold, answer = without_name(gold), without_name(answer)
    gold_number, number = read_number(gold), read_number(answer)
    if gold_number is not None and number is not None:
        return gold_number.same_as(number)
    expected, got = read_structure(gold), read_structure(answer)
    if expected is None and got is None:
        return _same_expression(gold, answer)
    if expected is not None and got is not None:
        return _same_structure(expected, got)
    # An interval may be written as an inequality, and a set as what is left of another; a number is no list.
    expression = gold if expected is None else answer
    if _SET_OPERATION.search(expression):
        return _same_expression(gold, answer)
    structure = expected or got
    if structure is not None and structure.kind is Kind.UNORDERED and len(structure.parts) == 1:
        return _same(*((structure.parts[0], answer) if expected else (gold, structure.parts[0])))
    return False


def _same_structure(expected: Structure, got: Structure) -> bool:
    if expected.kind is not got.kind or expected.brackets != got.brackets:
        return False
    if expected.kind is Kind.ORDERED:
        return len(expected.parts) == len(got.parts) and all(map(_same, expected.parts, got.parts))
    return _all_among(expected.parts, got.parts) and _all_among(got.parts, expected.parts)


def _all_among(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return all(any(_same(other, one) for other in others) for one in some)


def _same_expression(gold: str, answer: str) -> bool:
    if any(_IMAGINARY.search(text) for text in (gold, answer)) and not _INDEX_I.search(gold + answer):
        gold, answer = _IMAGINARY.sub("I", gold), _IMAGINARY.sub("I", answer)
    expected, got = _parse(gold), _parse(answer)
    if expected is None or got is None:
        return False
    return bool(verify(expected, got, strict=True, allow_set_relation_comp=True, timeout_seconds=None))


def _parse(text: str) -> Basic | MatrixBase | None:
    """The SymPy expression of a normalised text; None if it is no mathematics that the parser knows."""
    try:
        latex = normalize_latex(text, _LATEX)
        return latex2sympy(latex, is_real=True, convert_degrees=False, normalization_config=None)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the parser raises bare Exception for bad syntax, and others from deep inside SymPy
        return None
