"""The seccomp layer: a filter over system calls that allows what `system_calls` lists and refuses the rest.

Refused calls fail with EPERM, as they would for lack of a privilege, so a program that only probes goes on.
"""

import ctypes
import os
from collections.abc import Iterable
from errno import ENOSYS, EPERM
from typing import Final

from services.verifier.sandbox.inside import descriptors, libc
from services.verifier.sandbox.inside.profile import Profile
from services.verifier.sandbox.inside.system_calls import MACHINES

_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_FAIL_WITH: Final = 0x00050000

_LOAD_WORD: Final = 0x20
_AND: Final = 0x54
_RETURN: Final = 0x06
_JUMP_IF_EQUAL: Final = 0x15
_JUMP_IF_AT_LEAST: Final = 0x35

_NUMBER_OFFSET: Final = 0
_ARCHITECTURE_OFFSET: Final = 4
_X32_BIT: Final = 0x40000000  # the x32 table on x86_64 has other numbers for the same calls

# What C libraries ask for when they start a thread, and a flag without effect that some of them add.
_THREAD_FLAGS: Final = 0x003D0F00
_DETACHED_FLAG: Final = 0x00400000
# Namespaces, tracing, and a parent of one's choice.
_FORBIDDEN_FLAGS: Final = 0x7E020000 | 0x00002000 | 0x00800000 | 0x00008000
_AT_EMPTY_PATH: Final = 0x1000
_AF_UNIX: Final = 1
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_TCGETS, _TIOCGWINSZ, _FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX = 0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC, _F_GETPIPE_SZ = 0, 1, 2, 3, 4, 1030, 1032
_SECCOMP_MODE_FILTER: Final = 2
_NO_PROCESS: Final = 0xFFFFFFFF  # stands for the process in a filter that is made ahead; no call or value is that large

Instruction = tuple[int, int, int, int]


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jump_true", ctypes.c_uint8),
        ("jump_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


class Filter:
    """The filter of a profile, made ahead of the processes it is for: making it takes longer than forking one.

    Raises:
        OSError: the machine is neither x86_64 nor aarch64.
    """

    def __init__(self, profile: Profile) -> None:
        machine = os.uname().machine
        if machine not in MACHINES:
            raise OSError(ENOSYS, f"no system calls are listed for {machine}, only for {', '.join(MACHINES)}")
        program = filter_program(machine, _NO_PROCESS, profile)
        self._instructions = (_Instruction * len(program))(*(_Instruction(*instruction) for instruction in program))
        self._own_process = [place for place, (*_, operand) in enumerate(program) if operand == _NO_PROCESS]

    def install(self, process_id: int) -> None:
        """Filter this process, which is `process_id`, for good; it must have set no_new_privs.

        Raises:
            OSError: the kernel refuses the filter.
        """
        for place in self._own_process:
            self._instructions[place].operand = process_id
        program = _Program(len(self._instructions), self._instructions)
        libc.prctl(libc.PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def filter_program(machine: str, process_id: int, profile: Profile) -> list[Instruction]:
    """The filter for one process, as (code, jump if true, jump if false, operand)."""
    calls = MACHINES[machine]
    free = [*calls.free.values(), *(calls.compiler.values() if profile is Profile.COMPILER else ())]
    bodies = {calls.conditional[name]: body for name, body in _conditions(process_id).items()}
    if profile is Profile.COMPILER:
        bodies[calls.conditional["clone"]] = _CLONE_PROCESS
    elif profile is Profile.BINARY:
        bodies[calls.execveat] = _EXECUTE_PROGRAM
    program = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_OFFSET),
        (_JUMP_IF_EQUAL, 1, 0, calls.audit_architecture),
        _answer(_KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32_BIT),
        _answer(_KILL_PROCESS),
    ]
    for first, last in _ranges(free):
        program += [(_JUMP_IF_AT_LEAST, 0, 2, first), (_JUMP_IF_AT_LEAST, 1, 0, last + 1), _answer(_ALLOW)]
    for number, body in bodies.items():
        program += [(_JUMP_IF_EQUAL, 0, len(body), number), *body]
    program.append(_answer(_FAIL_WITH | EPERM))
    return program


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, as first and last: the kernel reads every instruction for each child."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def _conditions(process_id: int) -> dict[str, list[Instruction]]:
    """What decides a call that depends on its arguments; every list ends in an answer."""
    return {
        "clone": _CLONE_THREAD,
        # Its flags lie in memory, out of the filter's sight; glibc then falls back to clone.
        "clone3": [_answer(_FAIL_WITH | ENOSYS)],
        "kill": _allow_values(0, process_id),
        "tgkill": _allow_values(0, process_id),
        "prctl": _allow_values(0, _PR_SET_NAME, _PR_GET_NAME),
        "ioctl": _allow_values(1, _TCGETS, _TIOCGWINSZ, _FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX),
        # Not F_SETOWN and F_SETSIG, by which descriptors send signals to other processes.
        "fcntl": _allow_values(1, _F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC, _F_GETPIPE_SZ),
        "prlimit64": _allow_values(0, 0, process_id),
        # asyncio wakes itself through a socket pair; with a destination address one could reach other sockets.
        "socketpair": _allow_values(0, _AF_UNIX),
        "sendto": _allow_null(4),
        "recvfrom": _allow_null(4),
    }


def _allow_values(argument: int, *values: int) -> list[Instruction]:
    body = [(_LOAD_WORD, 0, 0, _argument(argument))]
    for value in values:
        body += [(_JUMP_IF_EQUAL, 0, 1, value), _answer(_ALLOW)]
    return [*body, _answer(_FAIL_WITH | EPERM)]


def _allow_null(argument: int) -> list[Instruction]:
    return [
        (_LOAD_WORD, 0, 0, _argument(argument)),
        (_JUMP_IF_EQUAL, 0, 3, 0),
        (_LOAD_WORD, 0, 0, _argument(argument) + 4),
        (_JUMP_IF_EQUAL, 0, 1, 0),
        _answer(_ALLOW),
        _answer(_FAIL_WITH | EPERM),
    ]


def _argument(index: int) -> int:
    """Offset of the low word of an argument; both machines are little-endian."""
    return 16 + 8 * index


def _answer(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


_CLONE_THREAD: Final = [
    (_LOAD_WORD, 0, 0, _argument(0)),
    (_AND, 0, 0, ~_DETACHED_FLAG & 0xFFFFFFFF),
    (_JUMP_IF_EQUAL, 0, 1, _THREAD_FLAGS),
    _answer(_ALLOW),
    _answer(_FAIL_WITH | EPERM),
]
_CLONE_PROCESS: Final = [
    (_LOAD_WORD, 0, 0, _argument(0)),
    (_AND, 0, 0, _FORBIDDEN_FLAGS),
    (_JUMP_IF_EQUAL, 0, 1, 0),
    _answer(_ALLOW),
    _answer(_FAIL_WITH | EPERM),
]
# The program could do it again: what it can get to be descriptor PROGRAM, Landlock lets it not execute.
_EXECUTE_PROGRAM: Final = [
    (_LOAD_WORD, 0, 0, _argument(0)),
    (_JUMP_IF_EQUAL, 0, 3, descriptors.PROGRAM),
    (_LOAD_WORD, 0, 0, _argument(4)),
    (_JUMP_IF_EQUAL, 0, 1, _AT_EMPTY_PATH),
    _answer(_ALLOW),
    _answer(_FAIL_WITH | EPERM),
]
