"""Programs in the real sandbox: hostile ones get nothing, honest ones run as they would anywhere."""

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from services.common.errors import ConfigurationError
from services.common.problem import CallTests, CodeTests, StdinTests, parse_tests
from services.common.verdict import Cases, Limits, Outcome
from services.verifier.code_grader import CodeGrader
from services.verifier.judgement import Judgement
from services.verifier.sandbox import self_test
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.pool import SandboxPool
from tests.integration.cheats import CHEATS

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = Limits(wall_s=8.0, memory_bytes=512 << 20, output_bytes=1 << 18)
SHORT = Limits(wall_s=1.0, memory_bytes=512 << 20, output_bytes=1 << 18)
LONG = Limits(wall_s=60.0, memory_bytes=512 << 20, output_bytes=1 << 18)
SUM = "a, b = map(int, input().split())\nprint(a + b)\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[SandboxPool]:
    os.environ["TREERL_TEST_CANARY"] = "canary"
    pool = SandboxPool(2, 4, 512 << 20, IsolationLevel.SECCOMP)
    await pool.start()
    yield pool
    await pool.close()
    del os.environ["TREERL_TEST_CANARY"]


@pytest.fixture
def grader(pool: SandboxPool) -> CodeGrader:
    return CodeGrader(pool)


def stdin_tests(given: str, expected: str) -> CodeTests:
    return parse_tests({"kind": "stdin", "cases": [{"input": given, "output": expected}]})


def call_tests(*cases: tuple[list[object], object]) -> CodeTests:
    rows = [{"args": args, "result": result} for args, result in cases]
    return parse_tests({"kind": "call", "fn_name": "add", "cases": rows})


ADD_TESTS = call_tests(([2, 3], 5), ([40, 2], 42), ([-7, 7], 0))


async def shown(grader: CodeGrader, program: str, limits: Limits = LIMITS) -> str:
    """What a program prints, as the verdict's reason quotes it."""
    outcome, reason, _ = await grader.judge(program, stdin_tests("", "nothing prints this"), limits)
    assert outcome is Outcome.WRONG, reason
    return reason.partition("got ")[2]


HONEST = {
    "plain": SUM,
    "exits": SUM + "import sys; sys.exit(0)",
    "exit": SUM + "exit()",
    "descriptors": "import os\na, b = open(0).read().split()\nos.write(1, b'%d' % (int(a) + int(b)))",
    "buffers": "import sys\na, b = sys.stdin.buffer.read().split()\nsys.stdout.buffer.write(b'%d' % (int(a) + int(b)))",
    "main": "if __name__ == '__main__':\n    print(sum(map(int, input().split())))",
    "thread": "import threading\nthreading.Thread(target=lambda: print(sum(map(int, input().split())))).start()",
    "deep thread": "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(32 << 20)\n"
    "def d(n): return n and 1 + d(n - 1)\n"
    "def main(): assert d(10000) == 10000; print(sum(map(int, input().split())))\n"
    "t = threading.Thread(target=main); t.start(); t.join()",
    "asyncio": "import asyncio\nasync def main():\n    await asyncio.sleep(0)\n"
    "    print(sum(map(int, input().split())))\nasyncio.run(main())",
    "atexit": "import atexit\natexit.register(lambda: print(sum(map(int, input().split()))))",
    "library": "import collections, decimal, fractions, heapq, itertools, json, math, random, re, statistics, string\n"
    "import dataclasses, datetime, functools, hashlib, operator, typing, zlib, bz2\n" + SUM,
    "memory": "x = bytearray(200 << 20)\n" + SUM,
    "null device": "print('x', file=open('/dev/null', 'w'))\n" + SUM,
}


@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST.keys())
async def test_honest_programs_pass(grader: CodeGrader, program: str) -> None:
    assert (await grader.judge(program, stdin_tests("20 22\n", "42\n"), LIMITS))[0] is Outcome.CORRECT


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("while True: pass", Outcome.TIMEOUT),
        ("import time; time.sleep(60)", Outcome.TIMEOUT),
        ("x = 7 ** (7 ** 8)", Outcome.TIMEOUT),
        ("import os; os.closerange(0, 100)\nwhile True: pass", Outcome.TIMEOUT),
        ("import signal\nfor s in (1, 2, 3, 14, 15, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
         Outcome.TIMEOUT),
        ("import os; os.kill(os.getpid(), 19)", Outcome.TIMEOUT),
        ("import ctypes; ctypes.CDLL(None).prctl(15, b'\\xff)\\n R 1', 0, 0, 0)\nwhile True: pass", Outcome.TIMEOUT),
        ("import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
         "ctypes.CDLL(None).pthread_exit(None)", Outcome.TIMEOUT),
        ("import threading\nwhile True: threading.Thread(target=int).start()", Outcome.TIMEOUT),
        ("x = bytearray(600 << 20)", Outcome.MEMORY),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", Outcome.MEMORY),
        ("import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 1 << 24))", Outcome.MEMORY),
        ("while True: print('x' * 10000)", Outcome.OUTPUT_LIMIT),
        ("1 / 0", Outcome.RUNTIME_ERROR),
        ("def f(:", Outcome.RUNTIME_ERROR),
        ("x = '\\0'\n\0", Outcome.RUNTIME_ERROR),
        ("print(42); raise SystemExit(3)", Outcome.RUNTIME_ERROR),
        ("import ctypes; ctypes.string_at(0)", Outcome.RUNTIME_ERROR),
        ("def f(): f()\nf()", Outcome.RUNTIME_ERROR),
        ("import os; os.kill(os.getpid(), 9)", Outcome.RUNTIME_ERROR),
        ("import os; os.write(1, b'\\xff\\x00')", Outcome.WRONG),
    ],
)  # fmt: skip
async def test_failures_are_told_apart(grader: CodeGrader, program: str, outcome: Outcome) -> None:
    limits = SHORT if outcome is Outcome.TIMEOUT else LIMITS
    found, reason, _ = await grader.judge(program, stdin_tests("", "42"), limits)
    assert found is outcome, reason


# Each prints "hole" if it gets what it wants.
ATTACKS = {
    "fork": "import os\nos.fork()\nhole()",
    "exec": "import os\nos.execv('/bin/sh', ['sh'])\nhole()",
    "spawn": "import subprocess\nsubprocess.run(['/bin/true'])\nhole()",
    "socket": "import socket\nsocket.socket().connect(('127.0.0.1', PORT))\nhole()",
    "abstract socket": "import socket\ns = socket.socket(socket.AF_UNIX); s.connect('\\0treerl-test-PORT')\nhole()",
    "memfd": "import os\nos.memfd_create('x')\nhole()",
    "shared memory": "from multiprocessing.shared_memory import SharedMemory\nSharedMemory('x', True, 9)\nhole()",
    "read": "open('TARGET').read()\nhole()",
    "write": "open('TARGET', 'a').write('x')\nhole()",
    "delete": "import os\nos.unlink('TARGET')\nhole()",
    "chmod": "import os\nos.chmod('TARGET', 0)\nhole()",
    "create": "import tempfile\ntempfile.NamedTemporaryFile()\nhole()",
    "passwd": "open('/etc/passwd').read()\nhole()",
    "environment": "import os\nif 'canary' in repr(os.environ): hole()",
    "environment of others": "import os\nfor p in os.listdir('/proc'):\n  if p.isdigit() and b'canary' in "
    "open(f'/proc/{p}/environ', 'rb').read(): hole()",
    "source": "import services.verifier.sandbox.inside.zygote as z\nopen(z.__file__).read()\nhole()",
    "kill parent": "import os\nos.kill(os.getppid(), 0)\nhole()",
    "kill init": "import os\nos.kill(1, 0)\nhole()",
    "kill group": "import os\nos.kill(-1, 0)\nhole()",
    "ptrace": "import ctypes, os\nif ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0: hole()",
    "limits": "import resource\ns, h = resource.getrlimit(resource.RLIMIT_AS)\n"
    "resource.setrlimit(resource.RLIMIT_AS, (h + 1, h + 1))\nhole()",
    "root": "import os\nos.setuid(0)\nhole()",
    "new namespace": "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0: hole()",
    "chroot": "import os\nos.chroot('/')\nhole()",
    "own memory": "open('/proc/self/mem', 'rb').read(1)\nhole()",
    "descriptors": "import os\nfor d in range(4, 300):\n  try: os.fstat(d)\n  except OSError: continue\n  hole()",
    "threads": "import threading, time\n"
    "for _ in range(1000): threading.Thread(target=time.sleep, args=(2,), daemon=True).start()\nhole()",
    "many descriptors": "import os\nfor _ in range(500): os.pipe()\nhole()",
    "past of the zygote": "import builtins\nif hasattr(builtins, 'left'): hole()\nbuiltins.left = True",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_attacks_get_nothing(grader: CodeGrader, tmp_path: Path, attack: str) -> None:
    target = tmp_path / "victim"
    target.write_text("victim")
    for folder in (tmp_path, *tmp_path.parents[:3]):  # the sandbox has to hold by itself
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o755)
    target.chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        port = listener.getsockname()[1]
        abstract.bind(f"\0treerl-test-{port}")
        abstract.listen()
        program = "def hole(): print('hole', flush=True)\n" + attack.replace("PORT", str(port)).replace(
            "TARGET", str(target)
        )
        for _ in range(2):
            outcome, reason, _ = await grader.judge(program, stdin_tests("", "hole"), LIMITS)
            assert outcome is not Outcome.CORRECT, reason
    assert target.read_text() == "victim"


@pytest.mark.parametrize("program", CHEATS.values(), ids=CHEATS.keys())
async def test_cheats_do_not_pass_calls(grader: CodeGrader, program: str) -> None:
    outcome, reason, _ = await grader.judge(program, ADD_TESTS, SHORT)
    assert outcome not in (Outcome.CORRECT, Outcome.INFRA_ERROR), reason


async def test_the_expected_result_is_not_in_the_childs_memory(grader: CodeGrader) -> None:
    # Searches every page that holds an object; the pattern does not match itself.
    program = """
import ctypes, gc, re
def add(a, b):
    for page in {id(thing) >> 12 for thing in gc.get_objects()}:
        found = re.search(rb"canary-[0-9]{20}", ctypes.string_at(page << 12, 4096))
        if found:
            return found.group().decode()
    return "found nothing"
"""
    canary = f"canary-{random.randrange(10**19, 10**20)}"
    _, reason, _ = await grader.judge(program, call_tests(([1, 2], canary)), LIMITS)
    assert reason == f"case 1 of 1: expected {canary!r}, got 'found nothing'"
    held = program.replace("import ctypes", f"held = [{canary!r}]\nimport ctypes")
    assert (await grader.judge(held, call_tests(([1, 2], canary)), LIMITS))[0] is Outcome.CORRECT  # the search works


async def test_calls_reach_functions_and_methods(grader: CodeGrader) -> None:
    for program in ("def add(a, b): return a + b", "class Solution:\n  def add(self, a, b): return a + b"):
        assert (await grader.judge(program, ADD_TESTS, LIMITS))[0] is Outcome.CORRECT


async def test_results_are_compared_strictly(grader: CodeGrader) -> None:
    async def judge(program: str, result: object) -> Judgement:
        return await grader.judge(program, call_tests(([1, 2], result)), LIMITS)

    assert (await judge("def add(a, b): return (a, [b])", [1, [2]]))[0] is Outcome.CORRECT
    assert (await judge("def add(a, b): return 3.0", 3))[0] is Outcome.CORRECT
    assert (await judge("def add(a, b): return 4", 3))[:2] == (Outcome.WRONG, "case 1 of 1: expected 3, got 4")
    outcome, reason, _ = await judge("def add(a, b): return {a, b}", [1, 2])
    assert (outcome, "not JSON serializable" in reason) == (Outcome.RUNTIME_ERROR, True)


async def test_the_first_failing_case_decides(grader: CodeGrader) -> None:
    outcome, reason, _ = await grader.judge("def add(a, b): return a + b if a < 40 else 0", ADD_TESTS, LIMITS)
    assert (outcome, reason) == (Outcome.WRONG, "case 2 of 3: expected 42, got 0")


async def test_all_cases_are_run_where_that_is_asked_for(grader: CodeGrader) -> None:
    program = "def add(a, b):\n  while a == 40: pass\n  return a + b if a > 0 else 1 / 0"
    outcome, reason, cases = await grader.judge(program, ADD_TESTS, replace(SHORT, cases=Cases.ALL))
    assert (outcome, reason) == (Outcome.TIMEOUT, "case 2 of 3: ran longer than 1 s; 1 of 3 pass")
    assert [case.outcome for case in cases] == [Outcome.CORRECT, Outcome.TIMEOUT, Outcome.RUNTIME_ERROR]
    assert cases[2].reason == "ZeroDivisionError in line 3: 'division by zero'"
    assert cases[1].cpu_ms > cases[0].cpu_ms > 0


async def test_cases_after_the_first_failure_are_not_run(grader: CodeGrader) -> None:
    _, _, cases = await grader.judge("def add(a, b): return 42", ADD_TESTS, replace(LIMITS, cases=Cases.UNTIL_FAILURE))
    assert [case.outcome for case in cases] == [Outcome.WRONG]


async def test_programs_that_loop_or_sleep_hold_up_nobody(grader: CodeGrader) -> None:
    endless = ["while True: pass", "import time; time.sleep(60)"]
    hostile = [
        asyncio.create_task(grader.judge(program, stdin_tests("", ""), LONG)) for program in endless for _ in range(3)
    ]
    for _ in range(5):
        assert (await grader.judge(SUM, stdin_tests("20 22", "42"), LIMITS))[0] is Outcome.CORRECT
    assert not any(task.done() for task in hostile)
    for task in hostile:
        task.cancel()
    await asyncio.gather(*hostile, return_exceptions=True)


async def test_neighbours_cannot_make_a_program_run_into_its_time_limit(grader: CodeGrader) -> None:
    # With six loops beside it on a few cores, the clock shows a multiple of its CPU time.
    slow = "import time\nwhile time.process_time() < 0.25: pass\nprint(42)"
    limits = replace(LIMITS, wall_s=0.4)
    hostile = [asyncio.create_task(grader.judge("while True: pass", stdin_tests("", ""), LONG)) for _ in range(6)]
    try:
        for _ in range(3):
            outcome, reason, _ = await grader.judge(slow, stdin_tests("", "42"), limits)
            assert outcome is Outcome.CORRECT, reason
    finally:
        for task in hostile:
            task.cancel()
        await asyncio.gather(*hostile, return_exceptions=True)


async def test_nothing_survives(grader: CodeGrader, pool: SandboxPool) -> None:
    before = {process.pid for parent in pool.process_ids for process in psutil.Process(parent).children(recursive=True)}
    open_before = len(os.listdir("/proc/self/fd"))
    for program in ("while True: pass", "print('x' * 10**7)", "import os; os._exit(1)", SUM):
        await grader.judge(program, stdin_tests("1 2", "3"), SHORT)
    after = {process.pid for parent in pool.process_ids for process in psutil.Process(parent).children(recursive=True)}
    assert after <= before
    assert len(os.listdir("/proc/self/fd")) <= open_before


async def test_a_killed_zygote_costs_no_verdict(grader: CodeGrader, pool: SandboxPool) -> None:
    slow = StdinTests(cases=({"input": "1 2", "output": "3"},))
    judging = [
        asyncio.create_task(grader.judge("import time; time.sleep(0.3)\n" + SUM, slow, LIMITS)) for _ in range(4)
    ]
    await asyncio.sleep(0.15)
    os.kill(pool.process_ids[0], signal.SIGKILL)
    assert [outcome for outcome, *_ in await asyncio.gather(*judging)] == [Outcome.CORRECT] * 4
    assert len(pool.process_ids) == 2


async def test_a_cancelled_judgement_frees_its_child(grader: CodeGrader) -> None:
    judging = asyncio.create_task(grader.judge("import time; time.sleep(60)", stdin_tests("", ""), LIMITS))
    await asyncio.sleep(0.1)
    judging.cancel()
    started = time.monotonic()
    tests = CallTests(fn_name="add", cases=({"args": [1, 2], "result": 3},))
    verdicts = await asyncio.gather(*(grader.judge("def add(a, b): return a + b", tests, LIMITS) for _ in range(4)))
    assert {outcome for outcome, *_ in verdicts} == {Outcome.CORRECT}
    assert time.monotonic() - started < 5


async def test_a_sandbox_with_a_hole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    leaky = self_test._PROBE.replace('"be root": os.getuid() == 0', '"do anything": True')
    monkeypatch.setattr(self_test, "_PROBE", leaky)
    with pytest.raises(ConfigurationError, match=r"isolated at level seccomp.*a program could do anything"):
        await SandboxPool(1, 4, 512 << 20, IsolationLevel.SECCOMP).start()
