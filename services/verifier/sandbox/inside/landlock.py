"""The Landlock layer: which files can be read, written and run, and that signals and sockets stay inside."""

import ctypes
import os
import stat
from collections.abc import Iterable
from typing import Final

from services.verifier.sandbox.inside import libc

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_FILE: Final = 1 << 5
_MAKE_FILE: Final = 1 << 8
_TRUNCATE: Final = 1 << 14

LIST: Final = _READ_DIR
READ: Final = _READ_FILE | _READ_DIR
RUN: Final = READ | _EXECUTE
WORK: Final = READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_FILE | _TRUNCATE
"""What can be allowed beneath a path: to list folders; to read; to read and run; to read and make files."""

# Rights that each ABI knows: 13 at first, then REFER (2), TRUNCATE (3), IOCTL_DEV (5).
_FILE_RIGHTS_BY_ABI: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_NETWORK_ABI: Final = 4
_BIND_AND_CONNECT_TCP: Final = 0b11
_SCOPE_ABI: Final = 6
_ABSTRACT_SOCKETS_AND_SIGNALS: Final = 0b11


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def create_ruleset(rules: Iterable[tuple[str | int, int]]) -> int:
    """Build a ruleset and return its descriptor.

    Everything is forbidden but what a rule allows beneath a path, or beneath the folder of a descriptor; devices that
    can be read (`/dev/null`) can be written too. Kernels before 6.12 (ABI 6) do not confine signals and abstract
    sockets here: the seccomp layer does.

    Raises:
        OSError: the kernel has no Landlock, or it is switched off.
    """
    abi = libc.syscall(_CREATE_RULESET, 0, 0, _ASK_VERSION)
    handled = _FILE_RIGHTS_BY_ABI[max(known for known in _FILE_RIGHTS_BY_ABI if known <= abi)]
    attributes = _RulesetAttributes(
        handled,
        _BIND_AND_CONNECT_TCP if abi >= _NETWORK_ABI else 0,
        _ABSTRACT_SOCKETS_AND_SIGNALS if abi >= _SCOPE_ABI else 0,
    )
    # Older kernels refuse a structure with set fields they do not know, but accept trailing zeros.
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    for place, rights in rules:
        _allow(ruleset, place, rights & handled)
    return ruleset


def restrict(ruleset: int) -> None:
    """Bind this process to the rules for good; it must have set no_new_privs."""
    libc.syscall(_RESTRICT_SELF, ruleset, 0)


def _allow(ruleset: int, place: str | int, rights: int) -> None:
    try:
        descriptor = os.dup(place) if isinstance(place, int) else os.open(place, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:  # not every system has every library directory
        return
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISCHR(mode):
            rights |= _WRITE_FILE
        if not stat.S_ISDIR(mode):
            rights &= ~(_READ_DIR | _REMOVE_FILE | _MAKE_FILE)
        rule = _PathBeneath(rights, descriptor)
        libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)
