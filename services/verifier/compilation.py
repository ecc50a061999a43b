"""Makes programs out of sources, with the system's compilers, in the sandbox.

A compiler is an attack surface of its own, and headers can be any file: it runs as confined as what it compiles, but
that it may run the system's programs and write in one folder, which is empty before and gone afterwards.
"""

import asyncio
import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from services.common.verdict import Limits, Outcome
from services.verifier.findings import Finding, find_compilation, find_failure
from services.verifier.languages import LANGUAGES, Compiler
from services.verifier.sandbox.inside.confinement import COMPILED_BYTES, NOBODY
from services.verifier.sandbox.pool import SandboxPool
from services.verifier.sandbox.sealed_file import sealed_program

COMPILER_LIMITS: Final = Limits(wall_s=10.0, memory_bytes=1 << 30, output_bytes=1 << 18)
_PROBE_LIMITS: Final = Limits(wall_s=10.0, memory_bytes=256 << 20, output_bytes=1 << 12)
_COMMAND_PATH: Final = "/usr/bin:/bin"


class CompilationError(Exception):
    """There is no program; `finding` says what that means for the verdict."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding[1])
        self.finding = finding


class Compilers:
    """The compilers of all languages; each proves that it works and is confined before its word counts."""

    def __init__(self, sandbox: SandboxPool) -> None:
        self._sandbox = sandbox
        self._proven: set[str] = set()
        self._proving = asyncio.Lock()

    @asynccontextmanager
    async def program(self, language: str, source: str) -> AsyncIterator[int]:
        """Compile a source; gives a descriptor of the program, to be used in the body.

        Raises:
            CompilationError: the source is no program, or the compiler failed, or there is none.
            ExecutionLostError: the sandbox failed.
        """
        compiler = LANGUAGES[language].compiler
        assert compiler is not None
        async with self._proving:
            if language not in self._proven:
                await self._prove(language, compiler)
                self._proven.add(language)
        program = await self._compile(compiler, source)
        try:
            yield program
        finally:
            os.close(program)

    async def _prove(self, language: str, compiler: Compiler) -> None:
        """Have the compiler compile a program that looks for holes in the sandbox."""
        try:
            program = await self._compile(compiler, compiler.probe)
        except CompilationError as error:
            raise _unusable(language, error.finding[1]) from error
        try:
            ended = await self._sandbox.run_binary(program, _PROBE_LIMITS, b"")
        finally:
            os.close(program)
        done = dict(line.split(" ", 1)[::-1] for line in ended.output.decode(errors="replace").splitlines())
        if "come to its end" not in done:
            raise _unusable(language, f"a harmless program does not run: {find_failure(ended, _PROBE_LIMITS)}")
        holes = [deed for deed, level in done.items() if 0 < int(level) <= self._sandbox.level]
        if holes:
            raise _unusable(language, f"a program could {' and '.join(holes)}")

    async def _compile(self, compiler: Compiler, source: str) -> int:
        commands = [found for name in compiler.names if (found := shutil.which(name, path=_COMMAND_PATH))]
        if not commands:
            reason = f"there is no compiler: install {' or '.join(compiler.names)} on the verifier's machine"
            raise CompilationError((Outcome.INFRA_ERROR, reason))
        with _empty_folder() as folder:
            command = [commands[0], *compiler.arguments]
            ended = await self._sandbox.run_compiler(command, folder, COMPILER_LIMITS, source.encode(errors="replace"))
            finding = find_compilation(ended, COMPILER_LIMITS)
            if finding is not None:
                raise CompilationError(finding)
            program = await asyncio.to_thread(_read_program, folder)
        if program is None:
            raise CompilationError((Outcome.INFRA_ERROR, "the compiler succeeded and made no program"))
        return sealed_program(program)


def _unusable(language: str, reason: str) -> CompilationError:
    return CompilationError((Outcome.INFRA_ERROR, f"the compiler for {language} cannot be used: {reason}"))


@contextlib.contextmanager
def _empty_folder() -> Iterator[int]:
    """A descriptor of a new folder that the sandbox's user may write in."""
    path = tempfile.mkdtemp(prefix="treerl-compile-")
    try:
        if os.getuid() == 0:
            os.chown(path, NOBODY, NOBODY)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield folder
        finally:
            os.close(folder)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _read_program(folder: int) -> bytes | None:
    """What the compiler left as its result, which need not be a program."""
    try:
        descriptor = os.open("program", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        return file.read(COMPILED_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
