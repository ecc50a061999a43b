"""What kind of text a token is: the classes by which fork tokens are counted.

The first line that fits decides:

| class       | the token                                                                                    |
|-------------|----------------------------------------------------------------------------------------------|
| operator    | is a LaTeX operator, white space aside: `\\times`, ` \\leq`                                    |
| word        | holds a letter of any script: `So`, ` the`, `x`, `2x`, `\\frac`                               |
| digit       | holds a digit or another numeral: `7`, ` 12`, `3.`, `½`                                      |
| operator    | holds a mathematical symbol, or one of `- * / % ^ ·`: ` +`, `=`, `->`, `(-`, `≤`             |
| punctuation | holds a bracket, stop, quote, backslash, currency sign or the like: `.`, `).`, ` $`, `{`     |
| newline     | is white space with a line break in it: `\\n`, `\\n\\n    `                                     |
| other       | is anything else: spaces, a special token (its text is empty), part of a character, an emoji |
"""

import unicodedata
from enum import Enum


class TokenClass(Enum):
    """A kind of text; the values label metrics and rows."""

    DIGIT = "digit"
    OPERATOR = "operator"
    WORD = "word"
    PUNCTUATION = "punctuation"
    NEWLINE = "newline"
    OTHER = "other"


_LATEX_NAMES = ("times", "cdot", "div", "pm", "mp", "le", "leq", "ge", "geq", "ne", "neq", "approx", "equiv")
_LATEX_OPERATORS = frozenset("\\" + name for name in _LATEX_NAMES)
_OPERATORS = "-*/%^·"
"""Operators that Unicode counts as punctuation or modifiers."""

_BY_CATEGORY = (
    (TokenClass.WORD, ("L", "M")),
    (TokenClass.DIGIT, ("N",)),
    (TokenClass.OPERATOR, ("Sm",)),
    (TokenClass.PUNCTUATION, ("P", "Sc", "Sk")),
)
"""Unicode's general categories, as they begin, of the characters that decide."""


def token_class(text: str) -> TokenClass:
    """The class of a token by its text."""
    if text.strip() in _LATEX_OPERATORS:
        return TokenClass.OPERATOR
    categories = ["Sm" if character in _OPERATORS else unicodedata.category(character) for character in text]
    for kind, beginnings in _BY_CATEGORY:
        if any(category.startswith(beginnings) for category in categories):
            return kind
    return TokenClass.NEWLINE if "\n" in text or "\r" in text else TokenClass.OTHER
