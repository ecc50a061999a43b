"""The verifier's end of one zygote: starts it, asks it for children, notices its death."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from services.verifier.sandbox.execution import Ended, Execution, ExecutionLostError, Json
from services.verifier.sandbox.inside.descriptors import READY
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.own_time import OwnTime
from services.verifier.sandbox.sealed_file import sealed_file
from services.verifier.sandbox.supervisor import PATIENCE_S, Supervisor

_START_S = 60.0
_GRACE_S = 5.0  # a zygote that has not answered so long after a child's last moment is taken for dead
_MESSAGE_BYTES = 4096
_PIPE_BYTES = 1 << 20  # the most that a user without privileges may ask for
_ENVIRONMENT = {"LD_BIND_NOW": "1"}  # each child would look the same symbols up again
_GRADER_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}  # no threads before the fork; some libraries lack symbols they never use
_SOURCE_ROOT = Path(__file__).parents[3]
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop()); from services.verifier.sandbox.inside import zygote; "
    "del sys.path[0]; zygote.main()"
)


class ZygoteLostError(ExecutionLostError):
    """The zygote died or fell silent, and with it its children."""


class ChildLostError(ExecutionLostError):
    """The child died before it was locked down, so the program never ran."""


class IsolationRefusedError(Exception):
    """The machine does not allow the isolation asked for; says which layer failed."""


class GraderUnloadableError(Exception):
    """The user's own grader cannot be imported; says why."""


class Zygote:
    """A clean interpreter that forks a child for each execution."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._running: dict[int, tuple[Supervisor, asyncio.Future[Ended]]] = {}
        self._next_id = 0

    @classmethod
    async def start(cls, level: IsolationLevel, grader: str = "") -> "Zygote":
        """Start one that confines its children at a level.

        Args:
            level: how far.
            grader: `module:function` of the user's own grader, which children then can call; none if empty.

        Raises:
            IsolationRefusedError: a layer cannot be had here.
            GraderUnloadableError: the grader cannot be imported.
            ZygoteLostError: it died before it was ready.
        """
        loop = asyncio.get_running_loop()
        zygote = cls(*_spawn(level, grader))
        try:
            hello = await asyncio.wait_for(loop.sock_recv(zygote._control, _MESSAGE_BYTES), _START_S)
            answer = json.loads(hello) if hello else {}
        except (TimeoutError, ConnectionError) as error:
            await zygote.close()
            raise ZygoteLostError("the sandbox's interpreter did not start") from error
        if "ready" not in answer:
            await zygote.close()
            if "refused" in answer:
                raise IsolationRefusedError(answer["refused"])
            if "unloadable" in answer:
                raise GraderUnloadableError(answer["unloadable"])
            raise ZygoteLostError("the sandbox's interpreter died at its start")
        loop.add_reader(zygote._control, zygote._receive)
        return zygote

    @property
    def process_id(self) -> int:
        """Process id of the interpreter."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the interpreter runs, as far as the kernel has said."""
        return self._process.poll() is None

    @property
    def children(self) -> int:
        """Children that are alive, or asked for."""
        return len(self._running)

    async def run(self, execution: Execution, yield_turn: Callable[[], None]) -> Ended:
        """Run one child to its end.

        Args:
            execution: what it does.
            yield_turn: called when it has run for long and will go on at a low priority.

        Raises:
            ZygoteLostError: the zygote died meanwhile.
            ChildLostError: the child could not be locked down.
        """
        return await self._finish(self._begin(execution, OwnTime(), yield_turn))

    async def run_pair(
        self, hosting: Execution, asserting: Execution, yield_turn: Callable[[], None]
    ) -> tuple[Ended, Ended]:
        """Run two children joined by a socket; the first is killed once the second has ended.

        Raises:
            ZygoteLostError: the zygote died meanwhile.
            ChildLostError: a child could not be locked down.
        """
        own_time = OwnTime()  # one works while the other waits for it
        left, right = socket.socketpair()
        with left, right:
            host = self._begin(replace(hosting, extra=left.fileno()), own_time, yield_turn)
            asserter = self._begin(replace(asserting, extra=right.fileno()), own_time, yield_turn)

        async def finish_asserter() -> Ended:
            try:
                return await self._finish(asserter)
            finally:
                if host in self._running:
                    self._running[host][0].kill(None)

        return await asyncio.gather(self._finish(host), finish_asserter())

    def _begin(self, execution: Execution, own_time: OwnTime, yield_turn: Callable[[], None]) -> int:
        """Ask for a child and return its number."""
        test_id, self._next_id = self._next_id, self._next_id + 1
        limits = execution.limits

        def set_niceness(niceness: int) -> None:
            self._send({"renice": test_id, "niceness": niceness})
            yield_turn()

        output, output_end = _wide_pipe()
        report, report_end = _wide_pipe()
        supervisor = Supervisor(limits, own_time, set_niceness, output, report)
        self._running[test_id] = (supervisor, asyncio.get_running_loop().create_future())
        order = {
            "start": test_id,
            "profile": execution.profile.value,
            "wall_s": limits.wall_s,
            "memory_bytes": limits.memory_bytes,
        }
        own = [sealed_file(execution.stdin), output_end, report_end, sealed_file(execution.request)]
        try:
            self._send(order, own if execution.extra is None else [*own, execution.extra])
        finally:
            for descriptor in own:  # the child has its own copies; with ours open the pipes would never end
                os.close(descriptor)
        return test_id

    def _send(self, message: dict[str, Json], descriptors: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
        except OSError:
            self._lose()

    async def _finish(self, test_id: int) -> Ended:
        """Wait for a child to end."""
        supervisor, future = self._running[test_id]
        try:
            return await asyncio.wait_for(future, supervisor.limits.wall_s + PATIENCE_S + _GRACE_S)
        except TimeoutError as error:
            raise ZygoteLostError("the sandbox's interpreter fell silent") from error
        finally:
            supervisor.kill(None)  # where this call was cancelled
            supervisor.close()
            self._running.pop(test_id, None)

    async def close(self) -> None:
        """Kill the zygote, and with it its children."""
        asyncio.get_running_loop().remove_reader(self._control)
        self._lose()
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)

    def _receive(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 1)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._control)
            self._lose()
            return
        message = json.loads(data)
        if "started" in message:
            (pidfd,) = descriptors
            self._take_over(message["started"], pidfd)
        elif message["ended"] in self._running:
            supervisor, future = self._running[message["ended"]]
            ended = supervisor.ended(message["status"], message["cpu_s"])
            if future.done():
                return
            if ended.report.startswith(READY):
                future.set_result(replace(ended, report=ended.report.removeprefix(READY)))
            else:
                future.set_exception(ChildLostError("the child could not be locked down"))

    def _take_over(self, test_id: int, pidfd: int) -> None:
        if test_id in self._running:
            self._running[test_id][0].started(pidfd)
            return
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)  # its call was cancelled before it began
        os.close(pidfd)

    def _lose(self) -> None:
        for _, future in self._running.values():
            if not future.done():
                future.set_exception(ZygoteLostError("the sandbox's interpreter died"))


def _wide_pipe() -> tuple[int, int]:
    """A pipe that holds much: who writes must not wait for us to read, which would count as the test's own time."""
    pipe = os.pipe()
    with contextlib.suppress(PermissionError):  # the user has many of them
        fcntl.fcntl(pipe[0], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return pipe


def _spawn(level: IsolationLevel, grader: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the interpreter and return it with our end of its control socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # A virtual environment's interpreter is only a link to this one, and would look for the environment.
    interpreter = getattr(sys, "_base_executable", sys.executable)
    preload = [grader, *map(os.path.abspath, sys.path)] if grader else []
    arguments = [str(theirs.fileno()), str(int(level)), *preload, str(_SOURCE_ROOT)]
    with theirs:
        process = subprocess.Popen(
            [interpreter, "-I", "-S", "-E", "-X", "utf8", "-c", _BOOT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=_GRADER_ENVIRONMENT if grader else _ENVIRONMENT,
            cwd="/",
            process_group=0,  # no session of its own: the kernel may share cores out by session first, then by niceness
        )
    ours.setblocking(False)
    return process, ours
