"""Standard output holds a command's own lines alone."""

import subprocess
import sys

PROGRAM = """
import os, subprocess, sys
from services.cli.clean_stdout import clean_stdout

print("before")
with clean_stdout() as ours:
    print("a library")
    os.write(1, b"a kernel\\n")
    subprocess.run(["echo", "a child"], check=True)
    print("the command", file=ours)
print("after")
"""


def test_what_libraries_and_children_print_goes_to_standard_error() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["before", "the command", "after"]
    assert sorted(done.stderr.splitlines()) == ["a child", "a kernel", "a library"]
