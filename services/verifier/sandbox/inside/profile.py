"""What a child is for, which decides how it is locked down."""

from enum import Enum


class Profile(Enum):
    """Kinds of children; the values stand in messages."""

    PYTHON = "python"
    """Runs Python code in this interpreter."""
    COMPILER = "compiler"
    """Becomes a compiler: may start other programs of the system, and write in a folder of its own."""
    BINARY = "binary"
    """Becomes a compiled program: may read nothing but its input."""
