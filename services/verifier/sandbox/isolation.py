"""How far the sandbox is locked down."""

from enum import IntEnum


class IsolationLevel(IntEnum):
    """Layers that hold for every program; each level holds those before it. The values are the protobuf numbers."""

    RLIMITS = 1
    """Clean environment, closed descriptors, resource limits."""
    LANDLOCK = 2
    """Files closed by Landlock: only the standard library can be read, nothing written."""
    SECCOMP = 3
    """System calls filtered: no processes, sockets or anonymous files."""
    NAMESPACES = 4
    """Private root, network, processes and users as well."""
