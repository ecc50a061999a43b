"""Whether what a program gave is what a test expects. Pure; both sides may be long, the program's side is hostile."""

import json
import math
from typing import Any

from services.common.problem import Json

_SHOWN = 80


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
    """Strict structural equality of JSON values.

    Integers equal floats of the same value, as in Python; booleans equal only booleans; NaN equals nothing.
    """
    if isinstance(got, bool) or isinstance(expected, bool):
        return got is expected
    if isinstance(got, int | float) and isinstance(expected, int | float):
        return got == expected and not math.isnan(got)
    if isinstance(got, list) and isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(map(same_value, got, expected))
    if isinstance(got, dict) and isinstance(expected, dict):
        return got.keys() == expected.keys() and all(same_value(got[key], expected[key]) for key in got)
    return type(got) is type(expected) and bool(got == expected)


def same_output(got: bytes, expected: str) -> bool:
    """Equality of texts line by line; white space at the end of a line and empty lines at the end do not count."""
    return _lines(got.decode("utf-8", errors="surrogateescape")) == _lines(expected)


def shorten(value: Any) -> str:
    """A value as a person reads it in a verdict's reason."""
    text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
    text = repr(text[: _SHOWN + 1] if isinstance(text, str) else text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
