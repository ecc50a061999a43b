"""Execution of program text."""

from typing import Any

PROGRAM_NAME = "program.py"


def execute(text: str, namespace: dict[str, Any]) -> None:
    """Run text in a namespace, under the file name that errors are traced to."""
    exec(compile(text, PROGRAM_NAME, "exec", dont_inherit=True), namespace)
