"""The languages that submissions may be in. One more is one more entry in `LANGUAGES`."""

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Compiler:
    """How a language is made into a program.

    Attributes:
        names: commands that will do, the first that the system has is taken; looked for in /usr/bin and /bin.
        arguments: of the command, which reads the source on standard input and writes the statically linked `program`.
        probe: a program that tries what the sandbox forbids. For each thing that it could do it prints a line: the
            number of the isolation level that forbids it, and what it could do.
    """

    names: tuple[str, ...]
    arguments: tuple[str, ...]
    probe: str


@dataclass(frozen=True, slots=True)
class Language:
    """How programs of one language are found in a response and run.

    Attributes:
        fences: names of fenced blocks that hold it.
        line: how lines begin that prose does not have, by which a program without a fence is known.
        compiler: None if the sandbox's interpreter runs it.
    """

    fences: frozenset[str]
    line: re.Pattern[str]
    compiler: Compiler | None = None


_CPP_PROBE: Final = r"""
#include <cstdio>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
int main() {
    if (open("/etc/passwd", O_RDONLY) >= 0 || open("/usr/bin/env", O_RDONLY) >= 0) std::puts("2 read a system file");
    if (open("/tmp/treerl-probe", O_WRONLY | O_CREAT, 0600) >= 0) std::puts("2 write a file");
    if (socket(AF_UNIX, SOCK_STREAM, 0) >= 0) std::puts("3 open a socket");
    if (memfd_create("x", 0) >= 0) std::puts("3 make a file in memory");
    if (kill(getppid(), 0) == 0) std::puts("3 signal its parent");
    int child = fork();
    if (child == 0) _exit(0);
    if (child > 0) std::puts("3 fork");
    std::puts("0 come to its end");
    std::fflush(stdout);
    execl("/bin/echo", "echo", "2 run another program", nullptr);
}
"""

LANGUAGES: Final = {
    "python": Language(
        fences=frozenset({"python", "py", "python3"}),
        # Definitions, imports, assignments, calls, decorators, control flow.
        line=re.compile(
            r"^(?:(?:async )?def \w+\(|class \w+[:(]|import \w|from [\w.]+ import |@\w"
            r"|(?:for|while|if|with|try|else)\b[^\n]{0,200}:(?:$|\s)|(?:raise|assert|return|del|lambda) \w"
            r"|[a-z_A-Z]\w{0,60}(?:\[[^\]\n]{0,60}\])? ?(?:[-+*/%]|//|\*\*)?= ?\S"
            r"|[a-zA-Z_][\w.]{0,60}\([^\n]{0,200}\)\s*$)",
            re.MULTILINE,
        ),
    ),
    "cpp": Language(
        fences=frozenset({"cpp", "c++", "cc", "cxx"}),
        line=re.compile(r"^(?:#include\s*[<\"]|(?:int|auto|signed) main\s*\()", re.MULTILINE),
        compiler=Compiler(
            names=("g++", "clang++"),
            arguments=("-x", "c++", "-std=c++17", "-O2", "-static", "-w", "-o", "program", "-"),
            probe=_CPP_PROBE,
        ),
    ),
}
"""By the name that tests give as their `language`."""
