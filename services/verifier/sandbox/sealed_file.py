"""Files in memory that nobody can change any more: how anything is handed to a child."""

import contextlib
import fcntl
import os

_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_EXEC = 0x10


def sealed_file(data: bytes) -> int:
    """A descriptor of a new one, at its beginning."""
    return _fill(os.memfd_create("treerl", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), data)


def sealed_program(data: bytes) -> int:
    """A descriptor of a new one that can be executed."""
    with contextlib.suppress(OSError):  # kernels before 6.3 do not know the flag, and need none
        return _fill(os.memfd_create("treerl", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | _MFD_EXEC), data)
    return sealed_file(data)


def _fill(descriptor: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _ALL_SEALS)
    return descriptor
