"""The descriptors a child starts with."""

import fcntl
import os
from collections.abc import Sequence
from typing import Final

INPUT: Final = 0
OUTPUT: Final = 1
ERRORS: Final = 2
REPORT: Final = 3
"""Written by the child, read by the verifier: first READY, then one JSON object."""
REQUEST: Final = 4
"""A sealed file that holds the request; read once and closed."""
PEER: Final = 5
"""A socket to the other half of an assertion test."""
PROGRAM: Final = 5
"""The compiled program that a child becomes."""
SCRATCH: Final = 5
"""The folder that a compiler works in. A child has one of the three, or none."""

READY: Final = b"R"
"""Says that the child is locked down and about to run the program."""

_BEYOND: Final = 16
HIGHEST: Final = 256
"""No descriptor of a zygote is higher."""


def arrange(received: Sequence[int]) -> None:
    """Put the received input, output, report, request and perhaps one more in their places, close everything else."""
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _BEYOND) for descriptor in received]
    places = (INPUT, OUTPUT, REPORT, REQUEST, PEER)
    for place, descriptor in zip(places, moved, strict=False):
        os.dup2(descriptor, place)
    os.closerange(places[len(moved) - 1] + 1, HIGHEST)


def read_request() -> bytes:
    """Read and close the request."""
    size = os.fstat(REQUEST).st_size
    data = b""
    while len(data) < size:
        data += os.pread(REQUEST, size - len(data), len(data))
    os.close(REQUEST)
    return data
