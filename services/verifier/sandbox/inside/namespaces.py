"""The namespace layer: a private root with nothing but Python in it, no network, no other process in sight.

It needs no privilege where the kernel lets users create user namespaces; Docker's default profile forbids that.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from services.verifier.sandbox.inside import libc

_NEW_MOUNTS, _NEW_UTS, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PIDS, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
_ALL_NAMESPACES: Final = _NEW_MOUNTS | _NEW_UTS | _NEW_IPC | _NEW_USER | _NEW_PIDS | _NEW_NETWORK

_READ_ONLY, _NO_SETUID, _NO_DEVICES, _REMOUNT = 1, 2, 4, 32
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_NEW_ROOT: Final = "/tmp"  # any folder that every system has: only this process sees what is mounted on it


def enter(kept_paths: Sequence[str], drop_privileges: Callable[[], None]) -> None:
    """Move this process into namespaces of its own; it returns as process 1 of them, with other privileges dropped.

    Args:
        kept_paths: folders and devices that the private root holds, under their usual names.
        drop_privileges: makes root somebody else.

    Raises:
        OSError: the system forbids namespaces.
    """
    by_root = os.getuid() == 0
    if by_root:  # it may look into folders that the sandbox's user may not, such as its own home
        libc.unshare(_NEW_MOUNTS)
        _build_root(kept_paths)
    drop_privileges()
    libc.prctl(libc.PR_SET_DUMPABLE, 1)  # a process that changed its user could not write its own maps
    user, group = os.getuid(), os.getgid()
    libc.unshare(_ALL_NAMESPACES)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    if not by_root:
        _build_root(kept_paths)
    _change_root()
    _become_process_one()


def _build_root(kept_paths: Sequence[str]) -> None:
    libc.mount("none", "/", "", _RECURSIVE | _PRIVATE, "")
    opened = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in kept_paths}
    libc.mount("none", _NEW_ROOT, "tmpfs", _NO_SETUID | _NO_DEVICES, "size=1m,mode=755")
    for path, descriptor in opened.items():
        source, target = f"/proc/self/fd/{descriptor}", _NEW_ROOT + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        else:
            open(target, "x").close()
        libc.mount(source, target, "", _BIND | _RECURSIVE, "")
        os.close(descriptor)
    libc.mount("none", _NEW_ROOT, "", _REMOUNT | _READ_ONLY | _NO_SETUID | _NO_DEVICES, "")


def _change_root() -> None:
    # Mounts that were made outside this namespace are locked, and a locked one cannot become the root: mount it again.
    libc.mount("none", "/", "", _RECURSIVE | _PRIVATE, "")
    libc.mount(_NEW_ROOT, _NEW_ROOT, "", _BIND | _RECURSIVE, "")
    os.chdir(_NEW_ROOT)
    here = b"."
    libc.syscall(_PIVOT_ROOT[os.uname().machine], here, here)
    libc.unmount_lazily(".")
    os.chdir("/")


def _become_process_one() -> None:
    """Go on in a child, which the kernel makes process 1; this process only waits for it."""
    child = os.fork()
    if child == 0:
        return
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
