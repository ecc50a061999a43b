"""Programs of the system in a child's place: a compiler, or what one made.

Neither has any descriptor of ours but input and output; what goes to standard error comes back as well.
"""

import os
import signal
from typing import Any, Final, NoReturn

from services.verifier.sandbox.inside import descriptors

_COMPILER_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "TMPDIR": ".", "LC_ALL": "C"}


def run_compiler(request: dict[str, Any]) -> NoReturn:
    """Become the compiler; its errors go where its output goes."""
    os.dup2(descriptors.OUTPUT, descriptors.ERRORS)
    _prepare()
    os.execve(request["command"][0], request["command"], _COMPILER_ENVIRONMENT)


def run_binary(request: dict[str, Any]) -> NoReturn:
    """Become the program; its errors go where reports go."""
    os.dup2(descriptors.REPORT, descriptors.ERRORS)
    _prepare()
    os.execve(descriptors.PROGRAM, ["program"], {})


def _prepare() -> None:
    for descriptor in (descriptors.REPORT, descriptors.PROGRAM):
        os.set_inheritable(descriptor, False)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the interpreter ignores them, and that would be inherited
        signal.signal(number, signal.SIG_DFL)
