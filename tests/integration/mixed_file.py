"""Grades a long file of honest and hostile rows with `treerl verify --file` while the graders' processes are killed.

`python tests/integration/mixed_file.py ROWS SECONDS` takes the recorded data too, kills a zygote or a math worker every
so many seconds on average (0: none), and prints what was wrong. The small version is a test.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests" / "fixtures" / "hostile"
COMMAND = [sys.executable, "-c", "from services.cli.main import main; main()", "verify", "--json", "--file"]
STATUSES = {"tle": "TIMEOUT", "mle": "MEMORY", "re": "RUNTIME_ERROR", "ole": "OUTPUT_LIMIT", "wa": "WRONG"}
KNOWN = frozenset({*STATUSES.values(), "CORRECT", "UNPARSED"})
SLOW_TO_COMPILE = ("compile_time_bomb.cpp", "compile_size_bomb.cpp")  # ten seconds each; another test has them

HONEST: list[tuple[dict[str, Any], str]] = [
    ({"gold": r"\frac12", "pred": "0.5"}, "CORRECT"),
    ({"gold": "(x+1)^2", "pred": "x^2+2x+1"}, "CORRECT"),
    ({"gold": "7", "pred": r"\boxed{8}"}, "WRONG"),
    ({"gold": "7", "pred": r"\boxed{}"}, "UNPARSED"),
]
PROGRAMS = [
    ("def f(x): return x * x", "CORRECT"),
    ("def f(x): return x", "WRONG"),
    ("def f(x): return 1 / 0", "RUNTIME_ERROR"),
]


@dataclass(frozen=True)
class Row:
    """A line of the file and the verdicts that are right for it."""

    line: str
    verdicts: frozenset[str]
    reason: str = ""


@dataclass(frozen=True)
class Run:
    """What became of a file."""

    status: int
    wrong: list[str]
    verdicts: Counter[str]
    kills: int
    wall_s: float


def honest_rows() -> Iterator[Row]:
    """Without end."""
    tests = {"kind": "call", "fn_name": "f", "cases": [{"args": [3], "result": 9}]}
    for number in itertools.count():
        pair, verdict = HONEST[number % len(HONEST)]
        yield Row(json.dumps(pair), frozenset({verdict}))
        program, verdict = PROGRAMS[number % len(PROGRAMS)]
        yield Row(
            json.dumps({"domain": "code", "tests": tests, "response": f"{program}  # {number}"}), frozenset({verdict})
        )


def recorded_rows(data: Path) -> Iterator[Row]:
    """Pairs and programs of public sets in turn, without end."""
    pairs = [json.loads(line) for line in (data / "math_pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [row for row in pairs if row["kind"] != "extract" and "boxed" not in row["pred"]]
    solved = [json.loads(line) for line in (data / "humaneval_first82.jsonl").read_text(encoding="utf-8").splitlines()]
    for number in itertools.count():
        pair, row = pairs[number % len(pairs)], solved[number % len(solved)]
        right = "CORRECT" if pair["equivalent"] else "WRONG"
        yield Row(json.dumps(pair), frozenset({right}))
        response = f"```python\n{row['reference']}\n# {number}\n```"
        yield Row(json.dumps({"domain": "code", "tests": row["tests"], "response": response}), frozenset({"CORRECT"}))


def hostile_rows(folders: list[Path], wall_s: float) -> Iterator[Row]:
    """The programs of manifests in turn, without end; those that are to pass have time enough."""
    kept = [
        (folder, row)
        for folder in folders
        for row in map(json.loads, (folder / "MANIFEST.jsonl").read_text(encoding="utf-8").splitlines())
        if row["file"] not in SLOW_TO_COMPILE
    ]
    for number, (folder, row) in enumerate(itertools.cycle(kept)):
        language, comment = ("cpp", "//") if row["file"].endswith(".cpp") else ("python", "#")
        cases = [
            {"input": case["input"] + case.get("pad_with", "") * case.get("pad_bytes", 0), "output": case["output"]}
            if row["mode"] == "stdin"
            else {"args": case["args"], "result": case["expected"]}
            for case in row["tests"]
        ]
        special = {"fn_name": row["fn_name"]} if row["mode"] == "call" else {"language": language}
        program = (folder / row["file"]).read_bytes().decode()
        asked = {
            "domain": "code",
            "tests": {"kind": row["mode"], **special, "cases": cases},
            "response": f"```{language}\n{program}\n{comment} {number}\n```",
            "limits": {"wall_s": 8.0 if row["expect"] == "pass" else wall_s},
        }
        named = frozenset(STATUSES[name] for name in row["status"].split("|") if name in STATUSES)
        failed = named or KNOWN - {"CORRECT"}
        yield Row(json.dumps(asked), {"pass": frozenset({"CORRECT"}), "fail": failed, "any": KNOWN}[row["expect"]])


def mixed(count: int, honest: Iterator[Row], hostile: Iterator[Row]) -> list[Row]:
    """One row in ten is hostile, and one in a thousand no row at all."""
    broken = Row('{"gold": "7", ', frozenset({"INFRA_ERROR"}), "not JSON text")
    rng = random.Random(0)
    return [
        broken if number % 1000 == 7 else next(hostile if rng.random() < 0.1 else honest) for number in range(count)
    ]


def run(rows: list[Row], kill_every_s: float, environment: dict[str, str]) -> Run:
    """Grade the rows, killing a zygote or a math worker so often on average; 0 for never."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("\n".join(row.line for row in rows), encoding="utf-8")
        started = time.monotonic()
        environment = {**os.environ, **environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}
        process = subprocess.Popen([*COMMAND, str(file)], env=environment, stdout=subprocess.PIPE, text=True)
        kills: list[int] = []
        ended = threading.Event()
        killer = threading.Thread(target=kill_graders, args=(process.pid, kill_every_s, ended, kills))
        assert process.stdout is not None
        found = []
        for line in process.stdout:
            found.append(json.loads(line))
            if len(found) == 1 and kill_every_s:  # not before: a grader that never starts is another error
                killer.start()
        process.wait()
        ended.set()
        if killer.is_alive():
            killer.join()
        process.stdout.close()
    wrong = [f"{len(found)} verdicts of {len(rows)} rows"] if len(found) != len(rows) else []
    for number, (row, verdict) in enumerate(zip(rows, found, strict=False), start=1):
        shape = {"verdict", "reason", "wall_ms"} == verdict.keys()
        if not shape or verdict["verdict"] not in row.verdicts or row.reason not in verdict["reason"]:
            wrong.append(f"row {number}: {verdict}, expected {sorted(row.verdicts)}: {row.line[-300:]}")
    counts = Counter(verdict["verdict"] for verdict in found)
    return Run(process.returncode, wrong, counts, len(kills), time.monotonic() - started)


def kill_graders(process_id: int, every_s: float, ended: threading.Event, kills: list[int]) -> None:
    """Kill one of a process's zygotes and math workers at random times until it ends."""
    rng = random.Random(0)
    while not ended.wait(rng.expovariate(1 / every_s)):
        try:
            children = psutil.Process(process_id).children()
            victims = [child for child in children if "services.verifier" in " ".join(child.cmdline())]
            if victims:
                victim = rng.choice(victims)
                victim.kill()
                kills.append(victim.pid)
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    data = Path(os.environ.get("TREERL_SHARED_DATA", ROOT.parent / "shared" / "data"))
    made = mixed(int(sys.argv[1]), recorded_rows(data), hostile_rows([data / "hostile", OWN], wall_s=0.5))
    result = run(made, float(sys.argv[2]), {"TREERL_VERIFIER_CACHE_BYTES": "0"})  # every row is graded
    print(*result.wrong, sep="\n")
    print(f"status {result.status}, {len(result.wrong)} wrong, {result.kills} killed, {result.wall_s:.0f} s")
    print(dict(result.verdicts))
