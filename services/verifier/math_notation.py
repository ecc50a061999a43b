r"""One notation for each thing: what is typeset or written in several ways is put in one. Pure, linear."""

import re
from collections.abc import Callable

_BELOW_TWENTY = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]

_UNITS = ["", *(f"-{word}" for word in _BELOW_TWENTY[1:10])]

NUMBER_WORDS = {
    word: str(number) for number, word in enumerate([*_BELOW_TWENTY, *(ten + unit for ten in _TENS for unit in _UNITS)])
}
"""Numbers below a hundred that are written as words, also where they name a base."""

_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}

DEGREE_SIGN = r"(?:\^\s{0,4}(?:\{\s{0,4}\\circ\s{0,4}\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])|°)"
IN_DEGREES = r"(\d{1,20}(?:\.\d{1,20})?)\s{0,4}" + DEGREE_SIGN

_CIS = r"(?:\\text\s?\{\s?cis\s?\}|\\cis(?![a-zA-Z])|(?<![a-zA-Z\\])cis(?![a-zA-Z]))"
_NUMERAL = r"(?:[0-9][0-9A-Za-z]{0,200}|[A-Fa-f][0-9A-Fa-f]{1,200})"
_BASE = rf"\d{{1,2}}|{'|'.join(NUMBER_WORDS)}"

_Rules = list[tuple[re.Pattern[str], str | Callable[["re.Match[str]"], str]]]

# In order: each may count on those before it.
_ANYWHERE: _Rules = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|displaystyle|textstyle|limits|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
        (r",\\!\s{0,8}|\{,\}", ","),
        (r"(?<=\d)\s{0,4}\\[,;:!]\s{0,4}(?=\d{3}(?!\d))", ""),
        (r"(?<!\\)\\[!,;:]|\\q?quad(?![a-zA-Z])", " "),
        (r"(?<!\\)\\ |~|[\u00a0\u2009\u202f]", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:text|math)(?:bf|it|rm|sf|tt|normal)(?![a-zA-Z])|\\(?:mbox|operatorname\*?)(?![a-zA-Z])", r"\\text"),
        (
            rf"(?<=\d)\s{{0,4}}(\\text\s?\{{\s{{0,4}})?({'|'.join(_SCALES)})(?![a-zA-Z])",
            lambda m: rf"\times 10^{{{_SCALES[m[2]]}}}{m[1] or ''}",
        ),
        (
            rf"((?:\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])|{_CIS})\s{{0,4}}[({{]?\s{{0,4}})" + IN_DEGREES,
            r"\1\\frac{\2\\pi}{180}",
        ),
        (_CIS + r"\s{0,4}([^,;]{1,200})", r"e^{i(\1)}"),
        (DEGREE_SIGN + r"\s{0,4}(?:[CFK](?![a-zA-Z])|\\text\s?\{\s?[CFK]\s?\})", ""),
        (DEGREE_SIGN, ""),
        (r"\\(?:leq|leqslant)(?![a-zA-Z])|≤|<=", r"\\le "),
        (r"\\(?:geq|geqslant)(?![a-zA-Z])|≥|>=", r"\\ge "),
        (r"\\(?:varnothing)(?![a-zA-Z])|\\\{\s{0,8}\\\}|∅", r"\\emptyset"),
        (r"\.\.\.|…|\\dots(?![a-zA-Z])", r"\\ldots "),
        (r"\\colon(?![a-zA-Z])", ":"),
        (r"(?<=[\d.])\\bar(?![a-zA-Z])", r"\\overline"),
        (r"\\mathbb\s?\{?\s?R\s?\}?\s?(?:\^\s?\{?\+\}?|_\s?\{?\+\}?|_\s?\{\s?>\s?0\s?\})", r"(0,\\infty)"),
        (r"−|–", "-"),
        (r"±", r"\\pm "),
        (r"∓", r"\\mp "),
        (r"×", r"\\times "),
        (r"π", r"\\pi "),
        (r"√", r"\\sqrt "),
        (r"∞|\\infin(?![a-zA-Z])", r"\\infty "),
        (r"\\?[$€£¥]|\\(?:pounds|euro)(?![a-zA-Z])|(?<![a-zA-Z\\])(?:USD|EUR|GBP)\s{0,4}(?=\d)", ""),
        (r"\\?%|(?<=[\d}])\s{0,4}per\s?cent(?![a-zA-Z])", "%"),
        (r"\\binom\s{0,4}(\d)\s{0,4}(\d)", r"\\binom{\1}{\2}"),
        (r"(?<=\d)\s{0,4}([aApP])\.\s?[mM]\.?(?![a-zA-Z])", r" \1m"),
        (r"(?<![a-zA-Z\\])(?:sqrt)\((\w{1,40})\)", r"\\sqrt{\1}"),
    )
]

_WHOLE: _Rules = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # `option B`, `**B**`
        (r"\*\*([^*]{1,200})\*\*", r"\1"),
        (r"(?:[oO]ption|[cC]hoice)\s{1,4}(\(?[A-J]\)?)\.?", r"\1"),
        # `(1011)_2`, `1011_{(2)}`
        (rf"\(\s?({_NUMERAL})\s?\)\s?_(.{{1,60}})", r"\1_\2"),
        (r"(.{1,400}_)\s?\{\s?\((\w{1,20})\)\s?\}", r"\1{\2}"),
        # `34 base 5`, `34 \text{ (base five)}`
        (
            rf"({_NUMERAL})\s{{0,4}}(?:\\text\s?\{{)?\s?\(?\s?(?:in )?base\s{{0,4}}\}}?\s{{0,4}}({_BASE})\s?\)?\s?\}}?",
            r"\1_{\2}",
        ),
        (rf"({_NUMERAL})\s?_\s?\{{?\s?({'|'.join(NUMBER_WORDS)})\s?\}}?", lambda m: f"{m[1]}_{{{NUMBER_WORDS[m[2]]}}}"),
        # `34_{10}`
        (r"(\d{1,400}(?:\.\d{1,400})?)\s?_\s?(?:10|\{\s?10\s?\})", r"\1"),
        # `3 to 4`
        (r"(\d{1,30})\s{0,4}(?:to|\\text\s?\{\s?to\s?\})\s{0,4}(\d{1,30})", r"\1:\2"),
        # `{10 \choose 3}`
        (r"\{?\s?(\w{1,20})\s?\\choose(?![a-zA-Z])\s?(\w{1,20})\s?\}?", r"\\binom{\1}{\2}"),
        # `]1,2[`, `]1,2]`
        (r"\]([^\[\]]{1,200}[,;][^\[\]]{1,200})\[", r"(\1)"),
        (r"\]([^\[\]]{1,200}[,;][^\[\]]{1,200})\]", r"(\1]"),
        (r"\[([^\[\]]{1,200}[,;][^\[\]]{1,200})\[", r"[\1)"),
    )
]

_BOUND = r"(\\[lg]e(?![a-z])|[<>])\s?([^<>,;]{1,100}?)"
_TWO_BOUNDS = re.compile(rf"([a-zA-Z])\s?{_BOUND}\s{{1,4}}and\s{{1,4}}\1\s?{_BOUND}")


def one_notation(text: str) -> str:
    """An answer without wrapping, with everything typeset in one way."""
    for pattern, replacement in _ANYWHERE:
        text = pattern.sub(replacement, text)
    text = text.strip()
    for pattern, rewritten in _WHOLE:
        if match := pattern.fullmatch(text):
            text = rewritten(match) if callable(rewritten) else match.expand(rewritten)
    return text


def as_chain(text: str) -> str:
    r"""`0 \le x < 4` for `x < 4 and x \ge 0`; other text as it is."""
    match = _TWO_BOUNDS.fullmatch(text)
    if match is None:
        return text
    name, *bounds = match.groups()
    (first, one), (second, other) = sorted(
        ((sign, value.strip()) for sign, value in (bounds[:2], bounds[2:])), key=lambda bound: _is_upper(bound[0])
    )
    if _is_upper(first) or not _is_upper(second):
        return text
    below = {">": "<", "\\ge": "\\le "}[first]
    return f"{one} {below} {name} {second} {other}"


def _is_upper(sign: str) -> bool:
    return sign in ("<", "\\le")
