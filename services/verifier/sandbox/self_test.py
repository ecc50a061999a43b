"""Proof, in a real child, that each layer holds: asked before the first program is run, and refused if one does not."""

import json
from typing import Final

from services.common.verdict import Limits
from services.verifier.sandbox.execution import Execution
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.zygote import ChildLostError, IsolationRefusedError, Zygote

_LIMITS: Final = Limits(wall_s=10.0, memory_bytes=256 << 20, output_bytes=1 << 16)

# Tries what each layer forbids and says what it could do. It also imports modules with C libraries behind them:
# a sandbox that keeps good programs from running is broken as well.
_PROBE: Final = """
import os, resource, socket, zlib, ctypes, fractions

def attempt(action):
    try:
        action()
    except (OSError, ValueError):
        return False
    return True

def probe():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    able = {
        "read the environment": bool(os.environ),
        "be root": os.getuid() == 0,
        "use unlimited memory": hard == resource.RLIM_INFINITY,
        "dump core": resource.getrlimit(resource.RLIMIT_CORE)[1] != 0,
        "raise its limits": attempt(lambda: resource.setrlimit(resource.RLIMIT_AS, (soft, hard + 1))),
    }
    files = {
        "list the root directory": attempt(lambda: os.listdir("/")),
        "read a system file": attempt(lambda: open("/etc/passwd").close()),
        "write a file": attempt(lambda: open("/tmp/treerl-probe", "w").close()),
    }
    calls = {
        "fork": attempt(lambda: os.fork() or os._exit(0)),
        "open a socket": attempt(lambda: socket.socket(socket.AF_UNIX).close()),
        "make a file in memory": attempt(lambda: os.close(os.memfd_create("x"))),
        "signal its parent": attempt(lambda: os.kill(os.getppid(), 0)),
    }
    spaces = {"see processes of others": os.getppid() != 1, "see the system's files": os.path.exists("/etc")}
    return [able, files, calls, spaces]
"""


async def check_isolation(zygote: Zygote, level: IsolationLevel) -> None:
    """Make sure that a zygote's children are locked down as far as its level says.

    Raises:
        IsolationRefusedError: naming what a child could do.
        ExecutionLostError: the zygote died.
    """
    request = {"mode": "call", "program": _PROBE, "fn_name": "probe", "args": []}
    try:
        ended = await zygote.run(Execution(json.dumps(request).encode(), _LIMITS), lambda: None)
    except ChildLostError as error:
        raise IsolationRefusedError(str(error)) from error
    report = json.loads(ended.report or b"{}")
    if "result" not in report:
        raise IsolationRefusedError(f"a harmless program does not run: {report.get('error', ended)}")
    layers = json.loads(report["result"])
    holes = [name for layer in layers[: int(level)] for name, possible in layer.items() if possible]
    if holes:
        raise IsolationRefusedError(f"a program could {' and '.join(holes)}")
