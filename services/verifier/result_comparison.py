"""Whether what a program gave is what a test expects. Pure; both sides may be long, the program's side is hostile."""

import json
import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from services.common.problem import Json

_SHOWN = 80
_LINE = 400


class UnreadableResultError(Exception):
    """The program's result is no JSON value, or one too deep to read."""


def read_result(text: str | bytes) -> Json:
    """Read a JSON value that a hostile process wrote.

    Raises:
        UnreadableResultError: it is not one.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableResultError(f"the result is no readable JSON: {shorten(text)}") from error


def same_value(got: Json, expected: Json) -> bool:
    """Strict structural equality of JSON values, as deep as they may be.

    Integers equal floats of the same value, as in Python; booleans equal only booleans; NaN equals nothing.
    """
    pairs = [(got, expected)]
    while pairs:
        got, expected = pairs.pop()
        if isinstance(got, list) and isinstance(expected, list | tuple) and len(got) == len(expected):
            pairs += zip(got, expected, strict=True)
        elif isinstance(got, dict) and isinstance(expected, dict) and got.keys() == expected.keys():
            pairs += [(value, expected[key]) for key, value in got.items()]
        elif not _same_scalar(got, expected):
            return False
    return True


def same_output(got: bytes, expected: str) -> bool:
    """Equality of texts line by line; white space at the end of a line and empty lines at the end do not count."""
    lines = zip_longest(_lines(got.decode("utf-8", errors="surrogateescape")), _lines(expected))
    return all(ours == theirs for ours, theirs in lines)


def shorten(value: Any) -> str:
    """A value as a person reads it in a verdict's reason."""
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
    text = repr(text[: _SHOWN + 1] if isinstance(text, str) else text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def one_line(text: str) -> str:
    """Text that may come from a hostile process, as it can be sent, stored and shown."""
    letters = text[: _LINE + 1]
    line = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in letters)
    return line if len(line) <= _LINE else line[: _LINE - 1] + "…"


def _same_scalar(got: Json, expected: Json) -> bool:
    if isinstance(got, bool) or isinstance(expected, bool):
        return got is expected
    if isinstance(got, int | float) and isinstance(expected, int | float):
        return got == expected and not math.isnan(got)
    return isinstance(got, str | None) and type(got) is type(expected) and got == expected


def _lines(text: str) -> Iterator[str]:
    """Lines one by one: of an output that is all wrong no more than the first is looked at."""
    text = text.rstrip()
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end].rstrip()
        start = end + 1
    yield text[start:].rstrip()
