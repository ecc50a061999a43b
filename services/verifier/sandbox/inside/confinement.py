"""Everything a child gives up before it sees the program it is to run."""

import os
import resource
import signal
from collections.abc import Mapping
from math import ceil
from typing import Final, NamedTuple

from services.verifier.sandbox.inside import landlock, libc, readable, seccomp
from services.verifier.sandbox.inside.profile import Profile

NOBODY: Final = 65534
"""Who root becomes."""

LANDLOCK_LEVEL: Final = 2
SECCOMP_LEVEL: Final = 3
NAMESPACES_LEVEL: Final = 4

COMPILED_BYTES: Final = 64 << 20
"""The largest file that a compiler may write."""

_OPEN_FILES: Final = 64
_TASKS: Final = 8192
"""Far above what one program may have, which the verifier watches: all children of a zygote share this."""
_STACK_BYTES: Final = 64 << 20


class Confinement(NamedTuple):
    """How children of one zygote are locked down.

    Attributes:
        level: `IsolationLevel` as a number.
        ruleset: descriptor of the Landlock rules for Python; -1 below that level.
        filters: of system calls; empty below that level.
        zygote: process id of the parent.
    """

    level: int
    ruleset: int
    filters: Mapping[Profile, seccomp.Filter]
    zygote: int


def drop_privileges() -> None:
    """Stop being root.

    Raises:
        OSError: root lacks the capabilities to become somebody else.
    """
    if os.getuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except PermissionError as error:
        raise PermissionError("root cannot change its user here: run the verifier as another user") from error


def forbid_new_privileges() -> None:
    """Give up every capability and the ways to gain any."""
    libc.drop_capabilities()
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)


def confine(confinement: Confinement, profile: Profile, wall_s: float, memory_bytes: int, scratch: int) -> None:
    """Lock this process down for good.

    Args:
        confinement: what holds for all children.
        profile: what this one is for.
        wall_s: time that it may use.
        memory_bytes: address space that it may use.
        scratch: descriptor of a compiler's folder.

    Raises:
        OSError: a layer failed; the process must not go on.
    """
    os.setpgid(0, 0)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != confinement.zygote:  # it died before the kernel knew that we want to follow it
        raise ProcessLookupError("the zygote is gone")
    _set_limits(confinement, profile, wall_s, memory_bytes)
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    if profile is Profile.COMPILER:
        os.fchdir(scratch)
    if confinement.level >= LANDLOCK_LEVEL:
        landlock.restrict(confinement.ruleset if profile is Profile.PYTHON else _create_ruleset(profile, scratch))
    if confinement.level >= SECCOMP_LEVEL:
        confinement.filters[profile].install(os.getpid())


def confine_worker(level: int) -> None:
    """Lock a process of our own down for good, which reads hostile text; it has to be this process's only thread.

    It keeps its user and its memory limit, may read installed packages, and goes on to use the descriptors it has.

    Raises:
        OSError: a layer failed; the process must not go on.
    """
    forbid_new_privileges()
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    for kind, value in {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: _OPEN_FILES}.items():
        resource.setrlimit(kind, (value, value))
    if level >= LANDLOCK_LEVEL:
        paths = [*readable.readable_paths(), *readable.package_folders()]  # SymPy imports some of itself late
        landlock.restrict(landlock.create_ruleset([(path, landlock.READ) for path in paths]))
    if level >= SECCOMP_LEVEL:
        seccomp.Filter(Profile.PYTHON).install(os.getpid())


def _create_ruleset(profile: Profile, scratch: int) -> int:
    if profile is Profile.BINARY:
        return landlock.create_ruleset([(path, landlock.READ) for path in readable.DEVICES])
    toolchain = [(path, landlock.RUN) for path in readable.TOOLCHAIN]
    # No devices that never end: a source may include them.
    return landlock.create_ruleset([*toolchain, (scratch, landlock.WORK), (os.devnull, landlock.READ)])


def _set_limits(confinement: Confinement, profile: Profile, wall_s: float, memory_bytes: int) -> None:
    limits = {
        resource.RLIMIT_CPU: ceil(wall_s) + 1,  # a net below the limit that the verifier watches
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_STACK: _STACK_BYTES,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_FSIZE: COMPILED_BYTES if profile is Profile.COMPILER else 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if confinement.level >= NAMESPACES_LEVEL:
        # Counted per user: elsewhere the tasks of others under the same user would count too, and fail good programs.
        limits[resource.RLIMIT_NPROC] = _TASKS
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))
