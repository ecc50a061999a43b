"""What a math worker can still do after it has loaded its libraries."""

import asyncio
import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from services.common.verdict import Limits
from services.verifier.math_grader import MathGrader
from services.verifier.math_policy import MathPolicy
from services.verifier.math_pool import MathPool
from services.verifier.sandbox.isolation import IsolationLevel

ROOT = Path(__file__).parents[2]
PROBE = """
import os, socket, sys
from services.verifier.math_equivalence import equivalent
from services.verifier.sandbox.inside.confinement import confine_worker

DEEDS = {
    "socket": lambda: socket.socket(socket.AF_UNIX),
    "fork": os.fork,
    "exec": lambda: os.execl("/bin/true", "true"),
    "write": lambda: open("/tmp/treerl-probe", "w"),
    "append": lambda: open(sys.argv[1], "a"),
    "remove": lambda: os.remove(sys.argv[1]),
    "read": lambda: open("/etc/passwd"),
    "signal": lambda: os.kill(os.getppid(), 0),
    "memory": lambda: os.memfd_create("x"),
}
equivalent("x+1", "1+x")
confine_worker(int(sys.argv[2]))
print("math" if equivalent(r"\\\\int_0^1 x^2 dx", r"\\\\frac{1}{3}") else "no math")
for name, deed in DEEDS.items():
    try:
        deed()
        print(name)
        if name == "fork":
            break
    except OSError:
        pass
"""


def possible(tmp_path: Path, level: IsolationLevel) -> list[str]:
    """What a process locked down like a worker could do."""
    file = tmp_path / "file"
    file.touch()
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}
    command = [sys.executable, "-c", PROBE, str(file), str(int(level))]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_a_locked_down_worker_compares_answers_and_can_do_nothing_else(tmp_path: Path) -> None:
    assert possible(tmp_path, IsolationLevel.SECCOMP) == ["math"]
    assert possible(tmp_path, IsolationLevel.RLIMITS)[:2] == ["math", "socket"]  # so the probe can tell


async def test_the_workers_of_a_pool_are_locked_down_before_they_read_anything() -> None:
    pool = MathPool(1, 512 << 20)
    try:
        await pool.start(IsolationLevel.SECCOMP)
        (process,) = pool.process_ids
        lines = (Path("/proc") / str(process) / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
        assert int(status["CapEff"], 16) == 0
        assert (await pool.call({"gold": "x+1", "answer": "1+x"}, 10.0))["equivalent"]
    finally:
        await pool.close()


async def test_what_finding_an_answer_takes_is_gone_for_judging_it() -> None:
    pool = MathPool(1, 512 << 20)
    try:
        await pool.start(IsolationLevel.SECCOMP)
        limits = Limits(wall_s=10.0, memory_bytes=512 << 20, output_bytes=0)
        answer, left = await MathGrader(pool).find_answer("so " * 1_000_000 + "\\boxed{7}", limits)
        assert (answer, left) == ("7", replace(limits, wall_s=left.wall_s))
        assert left.wall_s < limits.wall_s
    finally:
        await pool.close()


async def test_the_policy_of_the_settings_reaches_the_workers() -> None:
    pool = MathPool(1, 512 << 20, MathPolicy(units="compared"))
    try:
        await pool.start(IsolationLevel.SECCOMP)
        for answer, same in (("8 cm", True), ("8", False)):
            assert (await pool.call({"gold": "8 cm", "answer": answer}, 10.0))["equivalent"] is same
    finally:
        await pool.close()


async def test_a_pool_that_is_closed_right_after_a_cancelled_call_leaves_nothing_open() -> None:
    pool = MathPool(1, 512 << 20)
    await pool.start(IsolationLevel.SECCOMP)
    (process,) = pool.process_ids
    call = asyncio.create_task(pool.call({"gold": "x+1", "answer": "1+x"}, 10.0))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait({call})
    await pool.close()
    assert not (Path("/proc") / str(process)).exists()
    gc.collect()  # a socket that is still open would warn
