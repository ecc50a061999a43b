"""What /proc tells about real processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from time import sleep

from services.verifier.sandbox.usage import Usage, is_runnable, read_usage


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        sleep(0.01)


def used(process: int) -> Usage:
    usage = read_usage(process)
    assert usage is not None
    return usage


def test_this_process_has_used_something() -> None:
    usage = used(os.getpid())
    assert usage.resident_bytes > 1 << 20
    assert usage.cpu_s > 0
    assert os.getpid() in usage.waits_s
    assert is_runnable(os.getpid())


def test_descendants_count() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "sleep 60 & (sleep 60; true) & wait"], process_group=0) as shell:
        wait_until(lambda: used(shell.pid).threads == 4)
        assert len(used(shell.pid).waits_s) == 4
        wait_until(lambda: not is_runnable(shell.pid))
        os.killpg(shell.pid, 9)


def test_cpu_time_of_ended_children_counts() -> None:
    code = "import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', sys.argv[1]])\ntime.sleep(60)"
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code, busy]) as process:
        wait_until(lambda: used(process.pid).cpu_s >= 0.3 and used(process.pid).threads == 1)
        process.kill()


def test_the_dead_have_no_usage() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        wait_until(lambda: read_usage(process.pid) is None)  # a zombie
    assert read_usage(process.pid) is None
    assert not is_runnable(process.pid)


def test_a_name_cannot_hide_a_process() -> None:
    code = (
        "import ctypes, time\nctypes.CDLL(None).prctl(15, b'\\xff) R 1\\n', 0, 0, 0)\nprint(flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert used(process.pid).threads == 1
        process.kill()
