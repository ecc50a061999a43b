"""A process that extracts and compares math answers, started by `math_pool`.

It reads requests from the socket that is its standard input and answers each before it reads the next:
`{"response"}` gives `{"answer"}` (null if there is none), `{"gold", "answer"}` gives `{"equivalent"}`. It bounds its
memory, locks itself down once its libraries are loaded, and leaves time to the verifier, which kills it at a request's
deadline: no other way stops a computation inside SymPy for sure.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

from services.verifier.answer_extraction import extract_answer
from services.verifier.frames import HEADER, frame
from services.verifier.math_equivalence import equivalent
from services.verifier.math_policy import MathPolicy
from services.verifier.sandbox.inside import libc
from services.verifier.sandbox.inside.confinement import confine_worker

_SOCKET = 0
_WARM_UP = (("x+1", "1+x"), ("y=2x", "2y=4x"), (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n} k"))
"""They load what the libraries load late, before the first deadline runs."""


def main() -> None:
    """Serve until the verifier closes the socket.

    Arguments: the bound of the address space, in bytes; the isolation level; the policy as JSON.
    """
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    memory_bytes, level, policy = int(sys.argv[1]), int(sys.argv[2]), MathPolicy(**json.loads(sys.argv[3]))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for pair in _WARM_UP:
        equivalent(*pair)
    confine_worker(level)
    _send({"ready": True})
    while (header := _read(HEADER.size)) is not None:
        body = _read(*HEADER.unpack(header))
        if body is None:
            return
        _send(_answer(json.loads(body), policy))


def _answer(request: dict[str, str], policy: MathPolicy) -> dict[str, Any]:
    try:
        if "response" in request:
            return {"answer": extract_answer(request["response"])}
        return {"equivalent": equivalent(request["gold"], request["answer"], policy)}
    except MemoryError:
        return {"failed": "memory"}


def _read(count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        chunk = os.read(_SOCKET, min(count - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def _send(message: dict[str, Any]) -> None:
    data = frame(message)
    while data:
        data = data[os.write(_SOCKET, data) :]


if __name__ == "__main__":
    main()
