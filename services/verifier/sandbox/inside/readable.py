"""Which files there are to read.

An interpreter needs the standard library, the C libraries it links, time zones and null devices; a compiler needs the
folders in which systems keep their compilers, headers and libraries.
"""

import os
import sys
from typing import Final

STANDARD_LIBRARY: Final = os.path.dirname(os.__file__)

# Installed packages lie inside the standard library's folder but are no part of it.
_NOT_STANDARD: Final = ("site-packages", "dist-packages")
_MULTIARCH: Final = getattr(sys.implementation, "_multiarch", "")  # sysconfig would load a thousand variables for it
_LIBRARY_FOLDERS: Final = (
    *(os.path.join(folder, _MULTIARCH) for folder in ("/lib", "/usr/lib") if _MULTIARCH),
    "/lib64",
    "/usr/lib64",
)
TOOLCHAIN: Final = ("/usr/bin", "/usr/include", "/usr/lib", "/usr/lib64", "/usr/libexec", "/bin", "/lib", "/lib64")
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_ZONES: Final = "/usr/share/zoneinfo"


def mounted_paths() -> list[str]:
    """What a private root must hold."""
    found = [*TOOLCHAIN, STANDARD_LIBRARY, *_LIBRARY_FOLDERS, _ZONES, *DEVICES]
    return [path for path in found if os.path.exists(path)]


def readable_paths() -> list[str]:
    """What a program may read."""
    standard = [entry.path for entry in os.scandir(STANDARD_LIBRARY) if entry.name not in _NOT_STANDARD]
    return [*standard, *_LIBRARY_FOLDERS, _ZONES, *DEVICES]


def package_folders() -> list[str]:
    """Where installed packages lie, which a program may not read."""
    return [path for path in sys.path if os.path.basename(path) in _NOT_STANDARD]
