"""System calls that the standard library does not offer, as functions that raise OSError."""

import ctypes
import os
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
_M_ARENA_MAX: Final = -8
_CAPABILITY_VERSION_3: Final = 0x20080522

_library = ctypes.CDLL(None, use_errno=True)
_library.syscall.restype = ctypes.c_long


def prctl(option: int, argument: int, pointer: object = 0) -> None:
    """Change a property of this process."""
    words = [ctypes.c_ulong(argument), ctypes.c_ulong(pointer) if isinstance(pointer, int) else pointer]
    _check("prctl", _library.prctl(option, *words, ctypes.c_ulong(0), ctypes.c_ulong(0)))


def syscall(number: int, *arguments: object) -> int:
    """Make a raw system call; integers are passed as 64-bit words."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return _check(f"system call {number}", _library.syscall(ctypes.c_long(number), *words))


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` name for new ones."""
    _check("unshare", _library.unshare(flags))


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """Attach a file system."""
    words = [text.encode() for text in (source, target, kind)]
    _check(f"mount {target}", _library.mount(*words, ctypes.c_ulong(flags), data.encode()))


def unmount_lazily(target: str) -> None:
    """Detach a file system now, and free it when nobody uses it."""
    mnt_detach = 2
    _check(f"umount {target}", _library.umount2(target.encode(), mnt_detach))


def drop_capabilities() -> None:
    """Give up every capability of this process, for good where no new privileges can be gained."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    empty = (ctypes.c_uint32 * 6)()
    _check("capset", _library.capset(ctypes.byref(header), ctypes.byref(empty)))


def limit_malloc_arenas(count: int) -> None:
    """Keep threads from reserving 64 MiB of address space each for their own heap; musl has no such heaps."""
    if hasattr(_library, "mallopt"):
        _library.mallopt(_M_ARENA_MAX, count)


def _check(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
