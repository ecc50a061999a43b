"""The process that holds a submitted program while another process runs the assertions on it.

It does what its peer asks: gives values of the program's names, calls functions, reads attributes. Nothing here is
trusted by the peer.
"""

import json
import sys
import types
from collections.abc import Callable
from typing import Any

from services.verifier.sandbox.inside import wire
from services.verifier.sandbox.inside.source import execute

_DETAIL_LENGTH = 300


class _Objects:
    """The objects that the peer holds handles to; they live as long as the process."""

    def __init__(self) -> None:
        self._kept: list[object] = []

    def keep(self, value: object) -> int:
        self._kept.append(value)
        return len(self._kept) - 1

    def find(self, handle: int) -> object:
        return self._kept[handle]


_OPERATIONS: dict[str, Callable[..., object]] = {
    "getattr": getattr,
    "setattr": setattr,
    "getitem": lambda holder, key: holder[key],
    "setitem": lambda holder, key, value: holder.__setitem__(key, value),
    "contains": lambda holder, value: value in holder,
    "len": len,
    "iter": iter,
    "next": next,
    "bool": bool,
    "str": str,
    "repr": repr,
    "eq": lambda left, right: left == right,
}


def serve(program: str) -> None:
    """Run the program, tell the peer the names it defined, and answer until the peer closes."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    execute(program, module.__dict__)
    objects = _Objects()
    public = {name: value for name, value in module.__dict__.items() if not name.startswith("__")}
    wire.send_frame({name: wire.encode(value, objects.keep) for name, value in public.items()})
    while True:
        try:
            request = wire.receive_frame()
        except wire.PeerError:  # the assertions are over
            return
        wire.send_frame(_answer(request, objects))


def _answer(request: list[Any], objects: _Objects) -> dict[str, Any]:
    operation, *encoded = request
    try:
        if operation == "call":
            return _call(encoded, objects)
        result = _OPERATIONS[operation](*wire.decode(encoded, objects.find))
        return {"value": wire.encode(result, objects.keep)}
    except Exception as error:  # noqa: BLE001 - the program's exceptions are results, for the assertions to judge
        return {"raised": type(error).__name__, "detail": str(error)[:_DETAIL_LENGTH]}


def _call(encoded: list[Any], objects: _Objects) -> dict[str, Any]:
    """Call encoded[0] with the arguments encoded[1] and the keywords encoded[2]."""
    function, arguments, keywords = wire.decode(encoded, objects.find)
    result = function(*arguments, **keywords)
    answer = {"value": wire.encode(result, objects.keep)}
    # A function may change its arguments, and assertions may look at that.
    after = wire.encode(arguments, objects.keep)
    if json.dumps(after) != json.dumps(encoded[1]):
        answer["arguments"] = after
    return answer
