r"""Units after a number: which words and symbols are taken off an answer. Pure, linear.

Words of two letters or more after a number are units, and so is text (`\text{…}`), unless a digit in it says that it is
more than that. Symbols right behind a number (`5kg`, `9.8 m/s^2`) are those of a list: `8m` is eight times m.
"""

import re

from services.verifier.math_notation import NUMBER_WORDS

_POWER = r"(?:\s{0,4}\^\s{0,4}(?:\{\s?-?\d\s?\}|\d)|[²³])"
_SYMBOL = r"(?:[kcm]?m|[km]?g|mi|ft|[m]?s|hr?|min|[m]?L|N|J)"
_LONE_SYMBOL = r"(?:[kcm]m|[km]g|lbs?|oz|ft|yd|hrs?|m[lL]|[kMG]?Hz|[kM]Pa|kWh|k[NJW]|mol|mph|rpm)"
_SYMBOLS = re.compile(
    rf"(?<=[\d}})])\s{{0,4}}((?:{_SYMBOL}{_POWER}?\s?/\s?{_SYMBOL}|{_LONE_SYMBOL}){_POWER}?)(?![a-zA-Z])\.?$"
)
_TRAILING_WORDS = re.compile(r"(?<=[\d})])\s{1,8}([a-zA-Z]{2,30}\.?(?:[ /][a-zA-Z]{1,30}\.?){0,4})(?:\^\d)?$")
_TEXT = re.compile(rf"\\text\s?\{{([^{{}}]{{0,200}})\}}({_POWER}?)")
_FRACTION_OF_UNITS = re.compile(r"\\frac\s?\{\s?\\text\s?\{([^{}]{1,40})\}\s?\}\s?\{\s?\\text\s?\{([^{}]{1,40})\}\s?\}")
_JOINED_UNITS = re.compile(rf"\}}({_POWER}?)\s{{0,4}}(/|\\cdot(?![a-zA-Z]))\s{{0,4}}\\text\s?\{{")
_MORE_THAN_UNITS = re.compile(r"(?<![a-z^{])\d|\bor(?![a-z])")
_LINK_AT_END = re.compile(r"\{\s{0,4}(?:or|and)\s{0,4}\}$")
_UNIT_LETTERS = frozenset("mgshLNJWVK")
_UNIT_LETTER = re.compile(rf"(?<=[\d}})])\s{{1,4}}[{''.join(sorted(_UNIT_LETTERS))}]{_POWER}?$")
_NO_BRACES = str.maketrans("", "", "{}^")
MATH_WORDS = frozenset({
    "pi", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "log", "ln", "exp", "or", "and", "to", "choose", "mod", "infty", "am", "pm",
})  # fmt: skip
"""Words in formulas that are no units."""


def take_units(text: str) -> tuple[str, str]:
    r"""An answer without its units, and the units: lower case and singular.

    Text that is no unit becomes what it stands for: `or`, `and`, a number, a letter; other text stays.
    """
    units: list[str] = []

    def meaning(match: "re.Match[str]") -> str:
        return _meaning(match, units)

    text = _FRACTION_OF_UNITS.sub(r"\\text{\1/\2}", text)
    text = _JOINED_UNITS.sub(r"\1\2", text)
    text = " ".join(_TEXT.sub(meaning, text).split())
    if "\\int" in text:  # it ends in `dx`
        return text, ""
    trailing = _SYMBOLS.search(text) or _TRAILING_WORDS.search(text)
    if trailing and MATH_WORDS.isdisjoint(trailing.group(1).lower().split()):
        units.append(trailing.group().strip())
        text = text[: trailing.start()]
    return text, " ".join(map(_singular, units))


def without_unit_letter(text: str) -> str:
    """An answer without the letter after a space that is a unit where a bare number is expected: `6 m^2`."""
    return _UNIT_LETTER.sub("", text)


def _meaning(match: "re.Match[str]", units: list[str]) -> str:
    """What a `\\text{…}` stands for; units are noted and left out."""
    inside = match.group(1).strip()
    words = inside.lower().strip(".")
    if words in ("or", "and", "to"):
        return f" {words} "
    if words in ("percent", "per cent"):
        return "%"
    if words in ("am", "pm", "a.m", "p.m"):
        return " " + words.replace(".", "")
    if words in NUMBER_WORDS:
        return NUMBER_WORDS[words]
    before = match.string[: match.start()].rstrip()
    follows = bool(before) and (before[-1].isalnum() or before[-1] in "})%") and not _LINK_AT_END.search(before[-20:])
    if words.isdigit() or (len(words) == 1 and not (follows and inside in _UNIT_LETTERS)):
        return inside
    if not follows or _MORE_THAN_UNITS.search(words):
        return match.group(0)
    units.append(words + match.group(2))
    return " "


def _singular(words: str) -> str:
    return " ".join(word.strip(".").removesuffix("s") or word for word in words.lower().translate(_NO_BRACES).split())
