"""JSON messages over a stream socket, each after its length in 4 bytes; used between the verifier and its workers."""

import json
import struct
from typing import Any

HEADER = struct.Struct("!I")


def frame(message: dict[str, Any]) -> bytes:
    """The bytes of one message."""
    body = json.dumps(message).encode()
    return HEADER.pack(len(body)) + body
