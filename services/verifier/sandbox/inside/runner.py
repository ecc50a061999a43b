"""Runs one request in a locked-down child and reports how it went.

From the first line of the program on, nothing in this process can be trusted: what it reports is only ever material
that the verifier compares with what it expects, and no report says "passed". The one exception is a process that runs
assertions, a checker or a user's own grader: it runs no submitted code (see `asserter`).
"""

import atexit
import builtins
import json
import os
import sys
import types
from typing import Any, NoReturn

from services.verifier.sandbox.inside import asserter, custom_grader, descriptors, native, program_host
from services.verifier.sandbox.inside.source import PROGRAM_NAME, execute

_DETAIL_LENGTH = 300


def run() -> NoReturn:
    """Read the request, do it, report, and end this process."""
    request = json.loads(descriptors.read_request())
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # set by `site`, which is not loaded
    try:
        report = _MODES[request["mode"]](request)
        status = 0
    except SystemExit as leaving:
        report, status = {}, _exit_status(leaving.code)
    except BaseException as error:  # noqa: BLE001 - whatever the program raises is its result
        report, status = {"error": describe_error(error)}, 1
    status = _shut_down() or status
    _write_all(descriptors.REPORT, json.dumps(report).encode())
    os._exit(status)


def describe_error(error: BaseException) -> dict[str, str | int]:
    """What a person needs to find the fault: type, message, and the last line of the program it went through."""
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == PROGRAM_NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno is not None:
        line = error.lineno
    return {"type": type(error).__name__, "detail": str(error)[:_DETAIL_LENGTH], "line": line}


def _run_program(request: dict[str, Any]) -> dict[str, Any]:
    _open_standard_streams()
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = [PROGRAM_NAME]
    execute(request["program"], module.__dict__)
    return {}


def _call_function(request: dict[str, Any]) -> dict[str, Any]:
    name = request["fn_name"]
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    execute(request["program"], module.__dict__)
    if name in module.__dict__:
        function = module.__dict__[name]
    elif "Solution" in module.__dict__:
        function = getattr(module.__dict__["Solution"](), name)
    else:
        raise NameError(f"the program defines neither {name!r} nor a class Solution")
    # Encoded here so that a value that is no JSON (a set, a generator) is this program's error.
    return {"result": json.dumps(function(*request["args"]))}


def _host_program(request: dict[str, Any]) -> dict[str, Any]:
    program_host.serve(request["program"])
    return {}


def _run_assertions(request: dict[str, Any]) -> dict[str, Any]:
    asserter.run_assertions(request["code"])
    return {"passed": True}


_MODES = {
    "stdin": _run_program,
    "call": _call_function,
    "host": _host_program,
    "assert": _run_assertions,
    "compiler": native.run_compiler,
    "binary": native.run_binary,
    "grader": custom_grader.grade,
}


def _open_standard_streams() -> None:
    """Make fresh text streams on descriptors 0 and 1: those of the zygote were made for /dev/null."""
    sys.stdin = sys.__stdin__ = open(descriptors.INPUT, encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(  # type: ignore[misc]  # noqa: SIM115
        descriptors.OUTPUT, "w", encoding="utf-8", errors="surrogateescape", closefd=False
    )


def _shut_down() -> int:
    """Do what the interpreter does at its end: wait for threads, run exit handlers, flush. Non-zero if that fails."""
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - a program may have put anything in these places
        return 1
    return 0


def _exit_status(code: object) -> int:
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
