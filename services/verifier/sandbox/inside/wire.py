"""How values cross between the process that holds a program and the process that runs the assertions on it.

Frames are a 4-byte length and a JSON text. A value that JSON has goes as it is; others as {tag: …}; an object that is
not data goes as {"object": handle} and stays where it is.
"""

import json
import os
import struct
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from services.verifier.sandbox.inside.descriptors import PEER

Json = Any
_LENGTH = struct.Struct("!I")
_MAX_FRAME_BYTES = 16 << 20
_EXACT_IN_DECIMAL = 10**15  # larger integers go as hexadecimal, which has no limit on its digits


class PeerError(Exception):
    """The other process ended, or sent what no honest one sends."""


def send_frame(value: Json) -> None:
    """Write one frame to the peer."""
    try:
        text = json.dumps(value).encode()
        data = _LENGTH.pack(len(text)) + text
        while data:
            data = data[os.write(PEER, data) :]
    except BrokenPipeError as error:
        raise PeerError("the program ended early") from error


def receive_frame() -> Json:
    """Read one frame from the peer.

    Raises:
        PeerError: the peer is gone, or the frame is too long or no JSON.
    """
    (length,) = _LENGTH.unpack(_read_exactly(_LENGTH.size))
    if length > _MAX_FRAME_BYTES:
        raise PeerError(f"the program sent a value of {length} bytes: at most {_MAX_FRAME_BYTES} are read")
    try:
        return json.loads(_read_exactly(length))
    except (ValueError, RecursionError) as error:
        raise PeerError("the program sent a value that cannot be read") from error


def _read_exactly(count: int) -> bytes:
    chunks = []
    while count:
        chunk = os.read(PEER, count)
        if not chunk:
            raise PeerError("the program ended early")
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def encode(value: object, keep: Callable[[object], int]) -> Json:
    """Turn a value into JSON; `keep` gives the handle of an object that is not data."""
    match value:
        case None | bool() | str() | float():
            return value
        case int():
            return int(value) if abs(value) < _EXACT_IN_DECIMAL else {"int": hex(value)}
        case list():
            return [encode(item, keep) for item in value]
        case tuple() | set() | frozenset():
            tag = next(base.__name__ for base in (tuple, set, frozenset) if isinstance(value, base))
            return {tag: [encode(item, keep) for item in value]}
        case dict():
            return {"dict": [[encode(key, keep), encode(item, keep)] for key, item in value.items()]}
        case bytes():
            return {"bytes": value.hex()}
        case complex():
            return {"complex": [value.real, value.imag]}
        case Fraction():
            return {"fraction": [hex(value.numerator), hex(value.denominator)]}
        case Decimal():
            return {"decimal": str(value)}
    return {"object": keep(value)}


def decode(value: Json, find: Callable[[int], object]) -> Any:
    """Turn JSON back into a value; `find` gives the object of a handle.

    Raises:
        PeerError: no honest process encodes a value so.
    """
    if isinstance(value, list):
        return [decode(item, find) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        ((tag, content),) = value.items()
        return _DECODERS[tag](content, find)
    except (KeyError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise PeerError("the program sent a value that cannot be read") from error


_DECODERS: dict[str, Callable[[Json, Callable[[int], object]], object]] = {
    "int": lambda content, find: int(content, 16),
    "tuple": lambda content, find: tuple(decode(content, find)),
    "set": lambda content, find: set(decode(content, find)),
    "frozenset": lambda content, find: frozenset(decode(content, find)),
    "dict": lambda content, find: {decode(key, find): decode(item, find) for key, item in content},
    "bytes": lambda content, find: bytes.fromhex(content),
    "complex": lambda content, find: complex(*content),
    "fraction": lambda content, find: Fraction(int(content[0], 16), int(content[1], 16)),
    "decimal": lambda content, find: Decimal(content),
    "object": lambda content, find: find(content),
}
