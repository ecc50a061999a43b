"""The verifier against math-verify and a bare interpreter, and what hostile programs cost their neighbours.

Every round takes each of these in turn:

* math: answers a second of the grader (all in flight, two workers) and of math-verify, called in this process without
  its timeouts, on the same texts. No pair comes twice, so no cache knows it; libraries are loaded before that;
* code: a trivial program through the sandbox pool, one at a time, next to `python3 -I -S -c pass`; many in flight;
* hostile load: gradings fall due at random, at a fixed mean rate, however late those before them are. One in ten is
  hostile, with short limits; then the same again with benign ones in their place. Latencies, of the others only, count
  from when a grading fell due: the wait for its turn is in them.

All on the default settings; no answer comes twice, so none is known already. Not measured: gRPC and streams, the
verifier's own start, tests of several cases, math under hostile load, memory, accuracy (but a wrong verdict of ours
ends the benchmark).
"""

import asyncio
import itertools
import logging
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack

from math_verify import parse, verify  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import track

from services.common.errors import TreerlError
from services.common.problem import Domain, Problem, StdinCase, StdinTests
from services.common.verdict import Limits, Outcome
from services.verifier.grading import Grader
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.sandbox.pool import SandboxPool
from services.verifier.settings import VerifierSettings

ROUNDS = 5
PAIRS_A_ROUND = 120
WARM_UP_PAIRS = 24  # load what either judge loads late
CHILDREN_A_ROUND = 40
IN_FLIGHT = 64
THROUGHPUT_S = 2.0
ARRIVALS_A_ROUND = 150
ARRIVALS_PER_S = 50.0
HOSTILE_SHARE = 0.1
HOSTILE_LIMITS = Limits(wall_s=0.25, memory_bytes=128 << 20, output_bytes=64 << 10)

_SETTINGS = VerifierSettings()
_CODE_LIMITS = Limits(_SETTINGS.code_timeout_s, _SETTINGS.code_memory_bytes, _SETTINGS.code_output_bytes)
_CASE = StdinCase(input="20\n", output="21\n")
_PROBLEM = Problem("code", Domain.CODE, "Add one.", tests=StdinTests(cases=(_CASE,)))
_BENIGN = "print(int(input()) + 1)"
_numbers = itertools.count()
_HOSTILE = (
    "while True: pass",
    "blocks = []\nwhile True: blocks.append(b'x' * (1 << 20))",
    "while True: print('x' * 4096)",
)

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns at each call that its timeouts are off


async def measure() -> dict[str, float]:
    """Run the benchmark, about a minute on two cores.

    Returns:
        Rates, times in ms, and ratios; rates and ratios (of the same round) are medians over rounds.

    Raises:
        TreerlError: a verdict was wrong, so its speed means nothing.
    """
    samples: defaultdict[str, list[float]] = defaultdict(list)
    medians: defaultdict[str, list[float]] = defaultdict(list)
    pairs = generate_pairs(random.Random(0))
    console = Console(stderr=True)
    grader = Grader(_SETTINGS)
    sandbox = SandboxPool(1, 1, _SETTINGS.code_memory_bytes, IsolationLevel[_SETTINGS.min_isolation.upper()])
    async with AsyncExitStack() as cleanup:
        for service in (grader, sandbox):
            cleanup.push_async_callback(service.close)
            await service.start()
        await _math_rates(grader, list(itertools.islice(pairs, WARM_UP_PAIRS)))
        for number in track(range(ROUNDS), "verifier", console=console, disable=not console.is_terminal):
            ours, theirs = await _math_rates(grader, list(itertools.islice(pairs, PAIRS_A_ROUND)))
            medians["math_answers_per_s"].append(ours)
            medians["math_verify_answers_per_s"].append(theirs)
            medians["math_over_math_verify"].append(ours / theirs)  # the grader's two workers against one process
            for _ in range(CHILDREN_A_ROUND):
                samples["child_overhead_ms"].append(await _child_ms(sandbox))
                samples["bare_python_ms"].append(_bare_python_ms())
            medians["code_gradings_per_min"].append(await _gradings_per_min(grader))
            medians["benign_p99_under_hostile_over_none"].append(await _hostile_ratio(grader, random.Random(number)))
    figures = {name: statistics.median(values) for name, values in medians.items()}
    times = {f"{name}_p{p}": percentile(values, p) for name, values in samples.items() for p in (50, 95)}
    return figures | times | {"child_over_bare_python": times["child_overhead_ms_p50"] / times["bare_python_ms_p50"]}


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of two or more values, by linear interpolation between them."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def generate_pairs(rng: random.Random) -> Iterator[tuple[str, str, bool]]:
    """Distinct golds without end, each with a response and whether that is right, as half of them are."""
    seen: set[str] = set()
    for kind in itertools.cycle(range(4)):
        (a, b), factor, error = rng.sample(range(2, 1000), 2), rng.randint(2, 9), rng.randint(0, 1)
        fraction, other = rf"\frac{{{a}}}{{{b}}}", rf"\frac{{{a * factor + error}}}{{{b * factor}}}"
        expressions = (
            (f"x^2+{a + b}x+{a * b}", f"(x+{a})(x+{b + error})"),
            (f"{a}x+{b}y", f"{b + error}y+{a}x"),
            (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b + error}}}"),
        )
        gold, answer = (
            (fraction, other),
            (f"{a}.{b:03}", rf"\frac{{{a * 1000 + b + error}}}{{1000}}"),
            (f"({factor}, {fraction})", f"({factor}, {other})"),
            rng.choice(expressions),
        )[kind]
        if gold not in seen:
            seen.add(gold)
            yield f"${gold}$", rf"So the answer is $\boxed{{{answer}}}$.", not error


async def _math_rates(grader: Grader, pairs: Sequence[tuple[str, str, bool]]) -> tuple[float, float]:
    """Answers a second of the grader and of math-verify."""
    asked = [(Problem("math", Domain.MATH, "Compute.", answer=gold), response) for gold, response, _ in pairs]
    started = time.perf_counter()
    verdicts = await asyncio.gather(*(grader.grade(problem, response) for problem, response in asked))
    graded = time.perf_counter()
    for gold, response, _ in pairs:
        verify(parse(gold, parsing_timeout=None), parse(response, parsing_timeout=None), timeout_seconds=None)
    ended = time.perf_counter()
    for (gold, response, right), verdict in zip(pairs, verdicts, strict=True):
        if verdict.outcome is not (Outcome.CORRECT if right else Outcome.WRONG):
            raise TreerlError(f"{response!r} for {gold!r} was graded {verdict.outcome.name}: {verdict.reason}")
    return len(pairs) / (graded - started), len(pairs) / (ended - graded)


async def _child_ms(sandbox: SandboxPool) -> float:
    """Time of a trivial program in the sandbox, from the request to its end."""
    started = time.perf_counter()
    ended = await sandbox.run({"mode": "stdin", "program": _BENIGN}, _CODE_LIMITS, _CASE.input.encode())
    elapsed_ms = (time.perf_counter() - started) * 1000
    if ended.output != _CASE.output.encode():
        raise TreerlError(f"the trivial program wrote {ended.output!r} in the sandbox, expected {_CASE.output!r}")
    return elapsed_ms


def _bare_python_ms() -> float:
    """Time of an interpreter that does nothing."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    return (time.perf_counter() - started) * 1000


async def _gradings_per_min(grader: Grader) -> float:
    """Trivial programs a minute, from clients that each send the next when their last is graded."""
    started = time.perf_counter()
    graded = 0

    async def client() -> None:
        nonlocal graded
        while time.perf_counter() < started + THROUGHPUT_S:
            await _grade(grader, None)
            graded += 1

    await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))
    return 60 * graded / (time.perf_counter() - started)


async def _hostile_ratio(grader: Grader, rng: random.Random) -> float:
    """p99 latency of benign gradings with hostile ones among them, over that with benign ones in their place."""
    due = list(itertools.accumulate(rng.expovariate(ARRIVALS_PER_S) for _ in range(ARRIVALS_A_ROUND)))
    chosen = rng.sample(range(ARRIVALS_A_ROUND), round(HOSTILE_SHARE * ARRIVALS_A_ROUND))
    hostile = dict(zip(chosen, itertools.cycle(_HOSTILE), strict=False))

    async def p99(programs: Mapping[int, str]) -> float:
        started = time.perf_counter()

        async def latency(number: int) -> float:
            await asyncio.sleep(started + due[number] - time.perf_counter())
            await _grade(grader, programs.get(number))
            return time.perf_counter() - started - due[number]

        latencies = await asyncio.gather(*map(latency, range(ARRIVALS_A_ROUND)))
        return percentile([seconds for number, seconds in enumerate(latencies) if number not in hostile], 99)

    return await p99(hostile) / await p99({})


async def _grade(grader: Grader, hostile: str | None) -> None:
    """Grade a hostile program with short limits, or the benign one with the default ones."""
    limits = HOSTILE_LIMITS if hostile else None
    program = f"{hostile or _BENIGN}\n# {next(_numbers)}"
    verdict = await grader.grade(_PROBLEM, f"```python\n{program}\n```", limits)
    stopped = verdict.outcome in (Outcome.TIMEOUT, Outcome.MEMORY, Outcome.OUTPUT_LIMIT)
    if not (stopped if hostile else verdict.outcome is Outcome.CORRECT):
        raise TreerlError(f"{hostile or _BENIGN!r} was graded {verdict.outcome.name}: {verdict.reason}")
