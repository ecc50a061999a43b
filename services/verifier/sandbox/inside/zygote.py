"""A clean, single-threaded interpreter that forks one locked-down child for each test.

It never sees a program, an input or an expected output: it only passes on descriptors, and the child reads its request
after the fork. A program that searches its own memory therefore finds nothing of other tests.

Messages on the control socket are JSON objects, one a packet. In: {"start": id, "profile", "wall_s", "memory_bytes"}
with the child's descriptors; {"renice": id, "niceness"}. Out: {"ready": true}, {"refused": reason} or
{"unloadable": reason} once; for each
child {"started": id} with a pidfd, unless no process can be had, then {"ended": id, "status": exit code or minus the
signal, "cpu_s"}.
"""

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from services.verifier.sandbox.inside import (
    confinement,
    custom_grader,
    descriptors,
    landlock,
    libc,
    namespaces,
    readable,
    runner,
    seccomp,
)
from services.verifier.sandbox.inside.confinement import Confinement
from services.verifier.sandbox.inside.profile import Profile
from services.verifier.sandbox.inside.source import execute

_MESSAGE_BYTES = 4096
_DESCRIPTORS_PER_TEST = 5
_SETUP_FAILED = 120


def main() -> None:
    """Serve the control socket whose descriptor is the first argument, at the level that is the second.

    The third, if there is one, is a grader of the user's own, and those after it are where Python finds its modules.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        if len(sys.argv) > 3:
            custom_grader.load(sys.argv[3], sys.argv[4:])
    except custom_grader.UnloadableError as error:
        control.send(json.dumps({"unloadable": str(error)}).encode())
        return
    try:
        lockdown = _set_up(int(sys.argv[2]))
    except OSError as error:
        control.send(json.dumps({"refused": str(error)}).encode())
        return
    control.send(b'{"ready": true}')
    _serve(control, lockdown)


def _set_up(level: int) -> Confinement:
    os.environ.clear()  # the interpreter sets LC_CTYPE by itself
    libc.limit_malloc_arenas(1)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors.HIGHEST, descriptors.HIGHEST))
    if level >= confinement.NAMESPACES_LEVEL:
        namespaces.enter(readable.mounted_paths(), confinement.drop_privileges)
    else:
        confinement.drop_privileges()
    confinement.forbid_new_privileges()
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)  # again: changing the user cleared it, and a fork does
    ruleset = -1
    if level >= confinement.LANDLOCK_LEVEL:
        paths = [(path, landlock.READ) for path in readable.readable_paths()]
        ruleset = landlock.create_ruleset([*paths, (readable.STANDARD_LIBRARY, landlock.LIST)])
    filters = {profile: seccomp.Filter(profile) for profile in Profile} if level >= confinement.SECCOMP_LEVEL else {}
    execute("", {})  # an interpreter's first compilation takes two milliseconds more than those after it
    gc.freeze()
    return Confinement(level, ruleset, filters, os.getpid())


def _serve(control: socket.socket, lockdown: Confinement) -> None:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}  # pidfd: process id, test id
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != control.fileno():
                poll.unregister(descriptor)
                _report_end(control, descriptor, *running.pop(descriptor))
                continue
            message, received, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, _DESCRIPTORS_PER_TEST)
            if not message:
                return  # the verifier closed its end: children die with us
            order = json.loads(message)
            if "renice" in order:
                _renice([process for process, test_id in running.values() if test_id == order["renice"]], order)
                continue
            process = _fork(lockdown, order, received)
            for passed_on in received:
                os.close(passed_on)
            if process is None:
                control.send(json.dumps({"ended": order["start"], "status": _SETUP_FAILED, "cpu_s": 0}).encode())
                continue
            pidfd = os.pidfd_open(process)
            running[pidfd] = (process, order["start"])
            poll.register(pidfd, select.POLLIN)
            socket.send_fds(control, [json.dumps({"started": order["start"]}).encode()], [pidfd])


def _fork(lockdown: Confinement, order: dict[str, Any], received: list[int]) -> int | None:
    """Process id of a new child; None if the system has no room for one."""
    try:
        process = os.fork()
    except OSError:
        return None
    if process == 0:
        _be_child(lockdown, order, received)
    return process


def _renice(processes: list[int], order: dict[str, Any]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PGRP, process, order["niceness"])  # the group: all threads


def _report_end(control: socket.socket, pidfd: int, process: int, test_id: int) -> None:
    os.close(pidfd)
    with contextlib.suppress(ProcessLookupError):  # it ended before it had a group
        os.killpg(process, signal.SIGKILL)  # what a compiler may have left running
    _, status, usage = os.wait4(process, 0)
    with contextlib.suppress(ChildProcessError):  # they became our children when their parents died
        while True:
            os.waitpid(-process, 0)
    ended = {"ended": test_id, "status": os.waitstatus_to_exitcode(status), "cpu_s": usage.ru_utime + usage.ru_stime}
    control.send(json.dumps(ended).encode())


def _be_child(lockdown: Confinement, order: dict[str, Any], received: list[int]) -> NoReturn:
    try:
        profile = Profile(order["profile"])
        confinement.confine(lockdown, profile, order["wall_s"], order["memory_bytes"], scratch=received[-1])
        descriptors.arrange(received)
        os.write(descriptors.REPORT, descriptors.READY)
    except (OSError, MemoryError):
        os._exit(_SETUP_FAILED)  # without READY: the verifier sees that the program never ran
    runner.run()
