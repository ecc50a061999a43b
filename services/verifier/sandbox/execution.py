"""One run of one child process: what goes in and what comes out."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from services.common.verdict import Limits
from services.verifier.sandbox.inside.profile import Profile

Json = Any


class ExecutionLostError(Exception):
    """The sandbox failed, so nothing is known about what it ran."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What a child is to do.

    Attributes:
        request: the JSON object that `inside.runner` reads; holds no expected result, but for a checker's.
        limits: bounds of this run.
        stdin: bytes on descriptor 0.
        profile: how the child is locked down.
        extra: a descriptor handed over as it is: a compiler's folder, a compiled program, a socket to another child.
    """

    request: bytes
    limits: Limits
    stdin: bytes = b""
    profile: Profile = Profile.PYTHON
    extra: int | None = None


class Stop(Enum):
    """Why the verifier killed a child."""

    TIME = auto()
    MEMORY = auto()
    OUTPUT = auto()
    THREADS = auto()
    STARVED = auto()
    """It says nothing about the child: others left it no core for too long."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a child left behind; all of it is hostile material.

    Attributes:
        status: exit code, or minus the number of the signal that ended it.
        output: what it wrote to descriptor 1, up to the limit.
        report: what it wrote as its report, up to the limit.
        stop: why it was killed; None if it ended by itself.
        wall_s: from its start to its end.
        cpu_s: CPU time.
    """

    status: int
    output: bytes
    report: bytes
    stop: Stop | None
    wall_s: float
    cpu_s: float
