"""Runs a command that is told to end when its parent dies: `launch.py PARENT_PID COMMAND [ARGUMENT …]`.

Run as a script and without site-packages, so that it costs a few milliseconds. It is a program of its own because code
between fork and exec (`preexec_fn`) can deadlock in a process that has threads, and gRPC has threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for SIGTERM on the parent's death, then become the command."""
    parent, *command = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent):
        raise SystemExit(f"error: process {parent}, which started {command[0]}, is already dead")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
