"""Runs assertions in a process where no submitted code runs.

The program lives in a second sandbox (`program_host`). The assertions see its functions as remote ones: arguments and
results cross as data, and every comparison happens here. So the program cannot see the assertions, cannot patch what
they use, and cannot end this process with success; it can only answer calls.

What that promises: a pass means that each value the assertions looked at came as data that satisfies them. What it does
not: comparisons of two of the program's own objects, whether such an object is true or contains something, and what
helper functions of the program say, are the program's word. What it costs: tested names that are Python's own (`sum`,
`math`) mean Python's here; `isinstance` with the program's classes, identity, operators between its objects, and
passing functions to it do not work.
"""

import builtins
import importlib
import sys
from typing import Any

from services.verifier.sandbox.inside import wire
from services.verifier.sandbox.inside.source import PROGRAM_NAME, execute

_raised_by_program: list[Exception] = []


class RemoteError(Exception):
    """The program raised an exception that is not one of Python's own."""


class UnusableTestsError(Exception):
    """The assertions are no Python, or import what is not here: that says nothing about the program."""


class RemoteObject:
    """Something in the program that is not data: a function, a class, an instance, an iterator."""

    def __init__(self, handle: int) -> None:
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        answer = _ask("call", self, list(arguments), keywords)
        if "arguments" in answer:
            _update(arguments, wire.decode(answer["arguments"], RemoteObject))
        return _value(answer)

    def __getattr__(self, name: str) -> Any:
        return _value(_ask("getattr", self, name))

    def __setattr__(self, name: str, value: Any) -> None:
        _ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return _value(_ask("getitem", self, key))

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask("setitem", self, key, value)

    def __contains__(self, value: Any) -> bool:
        return _value(_ask("contains", self, value)) is True

    def __len__(self) -> int:
        return int(_value(_ask("len", self)))

    def __iter__(self) -> Any:
        return _value(_ask("iter", self))

    def __next__(self) -> Any:
        return _value(_ask("next", self))

    def __bool__(self) -> bool:
        return _value(_ask("bool", self)) is True

    def __str__(self) -> str:
        return str(_value(_ask("str", self)))

    def __repr__(self) -> str:
        return str(_value(_ask("repr", self)))

    def __eq__(self, other: object) -> bool:
        # Never equal to data: else an object that equals everything would satisfy every assertion.
        return isinstance(other, RemoteObject) and _value(_ask("eq", self, other)) is True

    __hash__ = None  # type: ignore[assignment]  # equality is the program's word, a hash would hide it


def run_assertions(code: str) -> None:
    """Run the assertions on the program of the peer.

    Raises:
        PeerError: the program ended.
        UnusableTestsError: the assertions cannot be run on any program.
        Exception: whatever an assertion or the program's function raised.
    """
    try:
        compile(code, PROGRAM_NAME, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise UnusableTestsError(f"{type(error).__name__}: {error}") from error
    values = wire.receive_frame()
    if not isinstance(values, dict):
        raise wire.PeerError("the program sent a value that cannot be read")
    namespace: dict[str, Any] = {"__name__": "assertions"}
    for name, value in values.items():
        if name.startswith("__") or hasattr(builtins, name):
            continue  # what the assertions rely on is Python's own
        if name in sys.stdlib_module_names:
            namespace[name] = importlib.import_module(name)
        else:
            namespace[name] = wire.decode(value, RemoteObject)
    try:
        execute(code, namespace)
    except ImportError as error:
        if error in _raised_by_program:
            raise
        raise UnusableTestsError(f"{type(error).__name__}: {error}") from error


def _ask(operation: str, *operands: Any) -> dict[str, Any]:
    wire.send_frame([operation, *(wire.encode(operand, _handle_of) for operand in operands)])
    answer = wire.receive_frame()
    if not isinstance(answer, dict):
        raise wire.PeerError("the program sent a value that cannot be read")
    if "raised" in answer:
        _raise(operation, str(answer["raised"]), str(answer.get("detail", "")))
    return answer


def _value(answer: dict[str, Any]) -> Any:
    return wire.decode(answer.get("value"), RemoteObject)


def _raise(operation: str, name: str, detail: str) -> None:
    known = getattr(builtins, name, None)
    # A StopIteration out of a function would end a `map` of the assertions, and with it what they still had to look at.
    ends_a_loop = name == "StopIteration" and operation != "next"
    if isinstance(known, type) and issubclass(known, Exception) and not ends_a_loop:
        try:
            error = known(detail)
        except TypeError:  # some take more than a message (UnicodeDecodeError)
            error = RemoteError(f"{name}: {detail}")
        _raised_by_program.append(error)
        raise error
    raise RemoteError(f"{name}: {detail}")


def _handle_of(value: object) -> int:
    if isinstance(value, RemoteObject):
        handle: int = object.__getattribute__(value, "_handle")
        return handle
    raise TypeError(f"the assertions pass a {type(value).__name__} to the program: only data can be passed")


def _update(arguments: tuple[Any, ...], after: Any) -> None:
    """Repeat here what the program did to its arguments."""
    for before, now in zip(arguments, after, strict=False):
        if isinstance(before, list) and isinstance(now, list):
            before[:] = now
        elif (isinstance(before, dict) and isinstance(now, dict)) or (isinstance(before, set) and isinstance(now, set)):
            before.clear()
            before.update(now)
