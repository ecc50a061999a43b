"""Whether two math answers are the same. Pure, but without a bound on its time: run it in a worker that can be killed.

Exact forms (numbers, based numerals, times, ratios, choices, text) are decided by value. Everything else goes through
math-verify's comparison of SymPy expressions, on text normalised here.

Policies: decimals are exact (0.33 is not 1/3); a base is part of a number; a tuple is not a set; text compares without
case; and those of `MathPolicy`. docs/math_grading.md explains them.
"""

import logging
import re

from latex2sympy2_extended import (  # type: ignore[import-untyped]
    NormalizationConfig,
    latex2sympy,
    normalize_latex,
)
from latex2sympy2_extended.latex2sympy2 import ConversionConfig  # type: ignore[import-untyped]
from math_verify import verify  # type: ignore[import-untyped]
from sympy import (  # type: ignore[import-untyped]
    Basic,
    Derivative,
    Equality,
    Ge,
    Gt,
    I,
    Le,
    Lt,
    MatrixBase,
    Symbol,
    simplify,
    solve,
)
from sympy.core.relational import Relational  # type: ignore[import-untyped]

from services.verifier.answer_extraction import unwrap
from services.verifier.math_numbers import read_chosen, read_number, read_special, without_separators
from services.verifier.math_policy import DEFAULT_POLICY, MathPolicy
from services.verifier.math_structure import Kind, Structure, as_tuple, read_structure, read_union, without_name
from services.verifier.math_text import in_radians, normalise, plain_text
from services.verifier.math_units import without_unit_letter

# math-verify warns at each call that its own time limits are off; ours kill the process.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_LATEX = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
_CASE_COUNTS = ConversionConfig(lowercase_symbols=False)
_IN_RADIANS = re.compile(r"\\pi(?![a-zA-Z])|π|(?<![a-zA-Z])rad(?:ians?)?(?![a-zA-Z])")
_IMAGINARY = re.compile(r"(?<![a-zA-Z\\_])i(?![a-zA-Z])|\\imath(?![a-zA-Z])")
_SIDE_BY_SIDE = re.compile(r"(?<!frac )(?<!binom )(?<![\d._])[\d.]{1,400} [\d.]")
_IMAGINARY_UNIT = r"{\\iota}"  # a letter that nobody else uses: of what the parser knows as I it drops the exponent
_IMAGINARY_SYMBOL = Symbol("iota", real=True)
_DECIMAL = re.compile(r"(?<![\d_.])(\d{0,400})\.(\d{1,400})(?![\d.])")
_STRICT = (Gt, Lt)
_INEQUALITIES = (*_STRICT, Ge, Le)
_DIGITS = 30  # more make sums slow
_SHORT_SCRIPT = re.compile(r"([_^])\s?(\d)(?!\d)")
_INDEX_I = re.compile(r"_\s?\{?\s?i\b")
_TEXT = re.compile(r"\\text\s?\{([^{}]{0,200})\}")
_LONE_LETTER = re.compile(r"\{\s?([a-zA-Z])\s?\}")
_IDLE_SPACE = re.compile(r"(?<![\w.])\s{1,200}|\s{1,200}(?![\w.])")
_SET_OPERATION = re.compile(r"[<>]|\\(?:le|ge|ne|cup|cap|setminus|in|emptyset|mathbb)(?![a-zA-Z])")


def equivalent(gold: str, answer: str, policy: MathPolicy = DEFAULT_POLICY) -> bool:
    """Whether an extracted answer means the same as the gold answer, which may be bare, in `$…$` or boxed.

    Raises:
        MemoryError: the comparison needs more memory than there is.
    """
    gold = unwrap(gold)
    gold_words, words = plain_text(gold), plain_text(answer)
    if any(text is not None and len(text) > 1 for text in (gold_words, words)):
        return (gold_words or _as_words(gold)) == (words or _as_words(answer))
    if _IN_RADIANS.search(gold) or _IN_RADIANS.search(answer):  # else a bare number may be meant in degrees
        gold, answer = in_radians(gold), in_radians(answer)
    expected, got = normalise(gold), normalise(answer)
    if policy.units == "compared" and expected.unit and expected.unit != got.unit:
        return False
    try:
        return _Comparison(policy).same(expected.formula, got.formula)
    except RecursionError:  # nested deeper than any answer a person would write
        return False


def _as_words(answer: str) -> str:
    """An answer as `plain_text` would give it, where it cannot know that it is text: `No`."""
    return answer.strip().rstrip(".").lower()


class _Comparison:
    """Compares normalised texts, part by part."""

    def __init__(self, policy: MathPolicy) -> None:
        self._percent_may_be_unit = policy.percent == "either"
        self._vectors_are_tuples = policy.vectors == "tuples"

    def same(self, gold: str, answer: str) -> bool:
        if not gold or not answer:
            return False
        gold_special, special = read_special(gold), read_special(answer)
        # A gold that is a lone small letter is a variable.
        if gold_special is None and len(gold) > 1 and special == ("choice", read_chosen(gold)):
            return True
        if gold_special is not None or (special is not None and special[0] != "choice"):
            return gold_special == special or (special is None and gold_special == ("choice", read_chosen(answer)))
        if "=" not in gold or "=" not in answer:
            gold, answer = without_name(gold), without_name(answer)
        gold_number, number = read_number(gold), read_number(answer)
        if gold_number is not None and number is None:
            number = read_number(without_unit_letter(answer))
        if gold_number is not None and number is not None:
            return gold_number.same_as(number, percent_may_be_unit=self._percent_may_be_unit)
        if self._vectors_are_tuples:
            gold, answer = as_tuple(gold), as_tuple(answer)
        # A number's commas are no list's.
        expected = None if gold_number else read_structure(gold)
        got = None if number else read_structure(answer)
        if expected is None and got is None:
            return _same_expression(
                *(without_separators(text) if read else text for text, read in ((gold, gold_number), (answer, number)))
            )
        if expected is not None and got is not None:
            return self._same_structure(expected, got)
        return self._same_as_expression(gold, expected, answer, got)

    def _same_as_expression(self, gold: str, expected: Structure | None, answer: str, got: Structure | None) -> bool:
        """Compare a structure with what is none: an interval may be written as an inequality, a number is no list."""
        structure, expression = (expected, answer) if expected else (got, gold)
        assert structure is not None
        if structure.kind is Kind.UNORDERED and (union := read_union(expression)):
            return self._same_structure(union, structure)
        if _SET_OPERATION.search(expression):
            return _same_expression(gold, answer)
        if structure.kind is Kind.UNORDERED and len(structure.parts) == 1:
            return self.same(*((structure.parts[0], answer) if expected else (gold, structure.parts[0])))
        return False

    def _same_structure(self, expected: Structure, got: Structure) -> bool:
        if expected.kind is not got.kind or expected.brackets != got.brackets:
            return False
        if expected.kind is Kind.UNORDERED:
            return self._all_among(expected.parts, got.parts) and self._all_among(got.parts, expected.parts)
        if expected.names and got.names:
            expected, got = expected.by_name(), got.by_name()
            if expected.names != got.names:
                return False
        return len(expected.parts) == len(got.parts) and all(map(self.same, expected.parts, got.parts))

    def _all_among(self, some: tuple[str, ...], others: tuple[str, ...]) -> bool:
        return all(any(self.same(other, one) for other in others) for one in some)


def _same_expression(gold: str, answer: str) -> bool:
    formulas = [gold, answer]
    if any(_IMAGINARY.search(text) for text in formulas) and not _INDEX_I.search(gold + answer):
        formulas = [_IMAGINARY.sub(_IMAGINARY_UNIT, text) for text in formulas]
    expected, got = map(_parse, formulas)
    if expected is None or got is None:
        return _spelling(gold) == _spelling(answer)
    same = verify(
        expected, got, numeric_precision=_DIGITS, strict=True, allow_set_relation_comp=True, timeout_seconds=None
    )
    if same and isinstance(expected, Equality) and isinstance(got, Equality):
        return _have_one_solution_set(expected, got)
    if isinstance(expected, _INEQUALITIES) and isinstance(got, _INEQUALITIES):
        return bool(same) or _are_one_inequality(expected, got)
    return bool(same)


def _spelling(text: str) -> str:
    r"""A text without what only typesets it: `\text`, braces around one letter, spaces that part no two words."""
    return _IDLE_SPACE.sub("", _LONE_LETTER.sub(r" \1", _TEXT.sub(r"\1", text)))


def _have_one_solution_set(expected: Equality, got: Equality) -> bool:
    """Whether two equations that math-verify takes for the same are: to it all that it finds no solution of are one."""
    if _constant_ratio(expected.lhs - expected.rhs, got.lhs - got.rhs) is not None:
        return True
    try:
        return bool(solve(expected, expected.free_symbols))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - SymPy raises anything from deep inside
        return False


def _are_one_inequality(expected: Relational, got: Relational) -> bool:
    """Whether two inequalities differ by a positive factor at most."""
    ratio = _constant_ratio(expected.gts - expected.lts, got.gts - got.lts)
    same_bound = isinstance(expected, _STRICT) is isinstance(got, _STRICT)
    return same_bound and ratio is not None and bool(ratio.is_positive)


def _constant_ratio(one: Basic, other: Basic) -> Basic | None:
    """The finite number by which one expression is a multiple of another; None if it is none."""
    try:
        ratio = simplify(one / other)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - SymPy raises anything from deep inside
        return None
    return ratio if ratio.is_number and ratio.is_finite else None


def _as_fraction(decimal: "re.Match[str]") -> str:
    """A decimal as a fraction: of what has a decimal in it, math-verify compares six digits."""
    whole, decimals = decimal.groups()
    return rf"{{\frac{{{whole}{decimals}}}{{1{'0' * len(decimals)}}}}}"


def _unknown_derivatives(parsed: Basic | MatrixBase) -> dict[Derivative, Symbol]:
    """Symbols for derivatives of names, such as dy/dx: to SymPy they are all zero, for no name depends on another."""
    return {
        derivative: Symbol(str(derivative))
        for derivative in parsed.atoms(Derivative)
        if derivative.expr.free_symbols and derivative.expr.free_symbols.isdisjoint(derivative.variables)
    }


def _parse(text: str) -> Basic | MatrixBase | None:
    """The SymPy expression of a normalised text; None if it is no mathematics that the parser knows."""
    text = _SHORT_SCRIPT.sub(r"\1{\2}", text)
    if _SIDE_BY_SIDE.search(text):  # the parser would add them
        return None
    try:
        latex = normalize_latex(_DECIMAL.sub(_as_fraction, text), _LATEX)
        parsed = latex2sympy(
            latex, is_real=True, convert_degrees=False, normalization_config=None, conversion_config=_CASE_COUNTS
        )
        return parsed.xreplace({_IMAGINARY_SYMBOL: I} | _unknown_derivatives(parsed))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the parser raises bare Exception for bad syntax, and others from deep inside SymPy
        return None
