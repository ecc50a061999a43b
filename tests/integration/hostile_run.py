"""Grades the hostile programs of a manifest and tells what was wrong with the verdicts, and what the programs left.

A process of its own, so that it can be run as any user: `python hostile_run.py MANIFEST [ISOLATION]`, the latter to
grade at a level below the highest that the machine allows. Prints {"level", "wrong": […], "left": […]}.
"""

import asyncio
import gc
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from services.common import codec
from services.common.problem import Domain, Problem, parse_tests
from services.common.verdict import Limits, Outcome
from services.verifier import compilation
from services.verifier.grading import Grader
from services.verifier.math_pool import MathPool
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.zygote import IsolationRefusedError, Zygote
from services.verifier.settings import VerifierSettings

NAMES = {"tle": "TIMEOUT", "mle": "MEMORY", "re": "RUNTIME_ERROR", "ole": "OUTPUT_LIMIT", "wa": "WRONG"}
PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", ".", os.path.expanduser("~"))
PATTERNS = ("fill*.bin", "verifier_*", "treerl-climb*")
ALLOWED_GROWTH = {"bytes of memory": 16 << 20}  # an allocator's; one copy of what the programs write is more


async def main(folder: Path, rows: list[dict[str, Any]], strongest: IsolationLevel) -> dict[str, Any]:
    os.environ["VERIFIER_CANARY"] = "secret"
    allow_no_more_than(strongest)
    compilation.COMPILER_LIMITS = replace(compilation.COMPILER_LIMITS, wall_s=4.0)  # type: ignore[misc]
    MathPool.start = no_math  # type: ignore[method-assign]
    grader = Grader(VerifierSettings())
    await grader.start()
    try:
        for row in rows:  # what is loaded late is loaded by an honest program
            if row["expect"] == "pass":
                await unexpected(grader, folder, row)
        before = state(grader)
        found = await asyncio.gather(*(unexpected(grader, folder, row) for row in rows))
        after = state(grader)
    finally:
        await grader.close()
    left = [
        f"{what}: {before[what]} before, {after[what]} after"
        for what in before
        if after[what] > before[what] + ALLOWED_GROWTH.get(what, 0)
    ]
    wrong = [wrong for wrong in found if wrong]
    return {"level": grader.isolation_level.name, "wrong": wrong, "left": left + left_files()}


def allow_no_more_than(strongest: IsolationLevel) -> None:
    """Make this machine one that has no stronger isolation."""
    start = Zygote.start

    async def start_if_allowed(level: IsolationLevel, grader: str = "") -> Zygote:
        if level > strongest:
            raise IsolationRefusedError("not on this machine")
        return await start(level, grader)

    Zygote.start = start_if_allowed  # type: ignore[method-assign]


async def no_math(pool: MathPool, level: IsolationLevel) -> None:
    """No program needs it, and a borrowed interpreter may lack its libraries."""


async def unexpected(grader: Grader, folder: Path, row: dict[str, Any]) -> str | None:
    """What is wrong with the verdict on a program; None if nothing is."""
    cases = [
        {"input": case["input"] + case.get("pad_with", "") * case.get("pad_bytes", 0), "output": case["output"]}
        if row["mode"] == "stdin"
        else {"args": case["args"], "result": case["expected"]}
        for case in row["tests"]
    ]
    language = "cpp" if row["file"].endswith(".cpp") else "python"
    special = {"fn_name": row["fn_name"]} if row["mode"] == "call" else {"language": language}
    problem = Problem("p", Domain.CODE, "?", tests=parse_tests({"kind": row["mode"], **special, "cases": cases}))
    program = (folder / row["file"]).read_bytes().decode()
    limits = Limits(8.0 if row["expect"] == "pass" else 2.0, 0, 0)
    for _ in range(2 if row.get("run_twice") else 1):
        verdict = await grader.grade(problem, f"```{language}\n{program}\n```", limits)
        codec.encode_verdict(verdict).SerializeToString()
        passed = verdict.outcome is Outcome.CORRECT
        allowed = [NAMES[status] for status in row["status"].split("|") if status in NAMES]
        if (
            verdict.outcome is Outcome.INFRA_ERROR
            or (row["expect"] != "any" and passed is not (row["expect"] == "pass"))
            or (allowed and verdict.outcome.name not in allowed)
            or not verdict.reason.isprintable()
            or len(verdict.reason) > 1000
        ):
            return f"{row['file']}: {verdict}"
    return None


def state(grader: Grader) -> dict[str, int]:
    """How much there is of everything that a program could leave behind."""
    gc.collect()
    own, *graders = (psutil.Process(process) for process in (os.getpid(), *grader.process_ids))
    # Who comes from one of them has its command line, also after it got away from its parents.
    lines = [process.cmdline() for process in graders]
    alive = [process.info for process in psutil.process_iter(["cmdline", "create_time"])]
    return {
        "processes": sum(info["cmdline"] in lines and info["create_time"] >= own.create_time() for info in alive),
        "descriptors": sum(process.num_fds() for process in (own, *graders)),
        "System V objects": sum(len(path.read_text().splitlines()) for path in Path("/proc/sysvipc").iterdir()),
        "bytes of memory": sum(process.memory_info().rss for process in (own, *graders)),
    }


def left_files() -> list[str]:
    """Files under the names that the programs give theirs."""
    return [str(path) for place in PLACES for pattern in PATTERNS for path in Path(place).glob(pattern)]


if __name__ == "__main__":
    manifest = Path(sys.argv[1])
    programs = [json.loads(line) for line in manifest.read_text().splitlines()]
    if not any(map(shutil.which, ("g++", "clang++"))):
        programs = [row for row in programs if not row["file"].endswith(".cpp")]
    level = IsolationLevel[sys.argv[2].upper()] if len(sys.argv) > 2 else max(IsolationLevel)
    print(json.dumps(asyncio.run(main(manifest.parent, programs, level))))
