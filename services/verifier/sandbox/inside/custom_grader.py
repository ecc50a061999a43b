"""A grader of the user's own, imported by the zygote and called by its children.

The zygote imports it before anything hostile is there. A child calls it once, after it was locked down: from then on
nothing but the standard library can be read.
"""

import functools
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

_DETAIL_LENGTH = 300

_loaded: list[Callable[..., Any]] = []


class UnloadableError(Exception):
    """There is no such grader, or it cannot be imported."""


def load(name: str, paths: Sequence[str]) -> None:
    """Import `module:function`; the function may be an attribute of an attribute.

    Raises:
        UnloadableError: it cannot be imported, or is no function.
    """
    sys.path += [path for path in paths if path not in sys.path]
    module, _, attributes = name.partition(":")
    try:
        function = functools.reduce(getattr, attributes.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:
        raise UnloadableError(f"{type(error).__name__}: {error}"[:_DETAIL_LENGTH]) from error
    if not callable(function):
        raise UnloadableError(f"{name} is a {type(function).__name__}, expected a function")
    _loaded.append(function)


def grade(request: dict[str, Any]) -> dict[str, Any]:
    """What the grader says about a response."""
    return {"result": json.dumps(_loaded[0](request["response"], request["gold"]))}
