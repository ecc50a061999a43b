r"""Lists, sets, tuples and intervals: how an answer is put together from parts. Pure, linear.

A tuple `(a, b)` and an open interval look alike; both are two parts in order between the same brackets, and compare so.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto

_TOKEN = re.compile(r"\\[{}]|\\.|[()\[\]{},;]", re.DOTALL)
_OPENING = frozenset({"(", "[", "{", "\\{"})
_CLOSING = frozenset({")", "]", "}", "\\}"})
_SET_BUILDER = re.compile(
    r"\\\{\s?([a-zA-Z])\s?(?:\\in\s?\\mathbb\s?\{?\s?R\s?\}?)?\s?(?:\||:|\\mid|\\colon|\\vert)\s?([^{}]{1,200})\\\}"
)
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-z])")
_BOTH_SIGNS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_ANGLED = re.compile(r"\\langle(.*)\\rangle", re.DOTALL)
_MATRIX = re.compile(r"\\begin\s?\{[pbB]?matrix\}(.*)\\end\s?\{[pbB]?matrix\}", re.DOTALL)
_NAMED_TUPLE = re.compile(r"\(\s?([a-zA-Z](?:\s?,\s?[a-zA-Z]){1,5})\s?\)\s?=\s?\((.*)\)", re.DOTALL)
_ASSIGNMENT = re.compile(r"([a-zA-Z]\w{0,10}|\\[a-z]{2,10})\s?=\s?([^=<>]+)")


class Kind(Enum):
    """Whether order and repetition count."""

    ORDERED = auto()
    UNORDERED = auto()


@dataclass(frozen=True)
class Structure:
    """Parts of an answer.

    Attributes:
        kind: ordered for tuples and intervals, unordered for lists of answers and sets.
        parts: their texts.
        brackets: the opening and closing bracket of an ordered structure.
        names: of the parts, where each has its own, as in `x = 1, y = 2`.
    """

    kind: Kind
    parts: tuple[str, ...]
    brackets: str = ""
    names: tuple[str, ...] = ()

    def by_name(self) -> "Structure":
        """The same with its parts in the order of their names."""
        named = sorted(zip(self.names, self.parts, strict=True))
        return replace(self, names=tuple(name for name, _ in named), parts=tuple(part for _, part in named))


def read_structure(text: str) -> Structure | None:
    r"""The parts of a normalised text; None if it is one expression.

    `x = 1, x = 2` and `1 \pm 2` list two answers; `x = 1, y = 2` is the tuple (1, 2).
    """
    if angled := _ANGLED.fullmatch(text):
        return Structure(Kind.ORDERED, tuple(_split(angled.group(1))), "<>")
    if named := _NAMED_TUPLE.fullmatch(text):
        names_of_parts, values_of_parts = (tuple(_split(inside)) for inside in named.groups())
        known = len(names_of_parts) == len(values_of_parts)
        return Structure(Kind.ORDERED, values_of_parts, "()", names_of_parts if known else ())
    opening, inside, closing = _split_brackets(text)
    if opening in ("\\{", "{"):  # bare braces cannot be seen, but show where somebody meant others
        return Structure(Kind.UNORDERED, tuple(_all_answers(_split(inside))))
    if opening:
        parts = _split(inside)
        return Structure(Kind.ORDERED, tuple(parts), opening + closing) if len(parts) > 1 else None
    parts = _split(text)
    assignments = [_ASSIGNMENT.fullmatch(part) for part in parts]
    if len(parts) > 1 and all(assignments):
        names = [match.group(1) for match in assignments if match]
        values = tuple(match.group(2).strip() for match in assignments if match)
        if len(set(names)) == len(names):
            return Structure(Kind.ORDERED, values, "()", tuple(names))
        if len(set(names)) == 1:
            parts = list(values)
    answers = list(_all_answers(parts))
    return Structure(Kind.UNORDERED, tuple(answers)) if len(answers) > 1 else None


def read_union(text: str) -> Structure | None:
    r"""The sets that are joined in `A \cup B`; None if there is only one."""
    parts = tuple(part.strip() for part in text.split("\\cup"))
    return Structure(Kind.UNORDERED, parts) if len(parts) > 1 and all(parts) else None


def as_tuple(text: str) -> str:
    r"""`(a, b)` for a row, a column or `\langle a, b \rangle`; other text as it is."""
    angled = _ANGLED.fullmatch(text)
    if angled:
        return f"({angled.group(1).strip()})"
    matrix = _MATRIX.fullmatch(text)
    if matrix is None:
        return text
    rows = [[entry.strip() for entry in row.split("&")] for row in matrix.group(1).split("\\\\") if row.strip()]
    if len(rows) == 1 or all(len(row) == 1 for row in rows):
        return f"({','.join(entry for row in rows for entry in row)})"
    return text


def without_name(text: str) -> str:
    r"""The value in `x = value`, `f(x) = value`, `(x, y) = value`, `x \in value`, `\{x : value\}`; or the whole."""
    builder = _SET_BUILDER.fullmatch(text)
    if builder and _RELATION.search(builder.group(2)):
        return builder.group(2).strip()
    named = re.fullmatch(
        r"(?:\\angle\s?)?(?:[a-zA-Z]{1,4}|\\[a-z]{2,10})(?:\([^()=<>]{1,20}\))?\s?(?:=|\\in\b)\s?([^=<>]+)"
        r"|\([a-zA-Z](?:\s?,\s?[a-zA-Z]){1,3}\)\s?(?:=|\\in\b)\s?([^=<>]+)",
        text,
    )
    return (named.group(1) or named.group(2)).strip() if named else text


def _split_brackets(text: str) -> tuple[str, str, str]:
    """Opening bracket, inside and closing bracket, if one pair encloses the whole text; else empty brackets."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if depth == 0 and (match.start() > 0 or token not in _OPENING):
            return "", text, ""
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0:
            opening = "\\{" if text.startswith("\\{") else text[0]
            if match.end() == len(text):
                return opening, text[len(opening) : match.start()], token
            return "", text, ""
    return "", text, ""


def _split(text: str) -> list[str]:
    """Parts between the commas and semicolons that lie in no bracket; blank ones are left out."""
    parts, start, depth = [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0 and token in ",;":
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def _all_answers(parts: list[str]) -> Iterator[str]:
    r"""The parts, with the two that each `\pm` stands for."""
    for part in parts:
        signs = _BOTH_SIGNS.split(part)
        if len(signs) == 2:
            before, after = signs
            name = re.fullmatch(r"\s?[a-zA-Z]\s?=\s?(.*)", before)
            before = name.group(1) if name else before
            yield f"{before}+{after}".lstrip("+ ").strip()
            yield f"{before}-{after}".strip()
        else:
            yield part
