"""`treerl verify`: judges one answer, or a file of them in its order."""

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from services.cli.answer_rows import as_response, gold_problem, parse_row
from services.cli.judges import Judge, open_judge
from services.common.errors import InvalidRequestError, NotFoundError
from services.common.verdict import Outcome, Verdict

IN_FLIGHT = 64
"""Rows that are judged at once; also the most that are held in memory."""

_STATUSES = {Outcome.CORRECT: 0, Outcome.WRONG: 1}
_ANYTHING_ELSE = 2


async def verify_one(gold: str, answer: str, address: str | None, *, as_json: bool) -> int:
    """Judge one answer and print the verdict; the reason goes to standard error.

    Returns:
        The exit status: 0 correct, 1 wrong, 2 anything else.
    """
    async with open_judge(address) as judge:
        verdict = await judge.grade(gold_problem(gold), as_response(answer))
    print(_line(verdict) if as_json else verdict.outcome.name)
    if not as_json and verdict.outcome is not Outcome.CORRECT:
        print(verdict.reason, file=sys.stderr)
    return _STATUSES.get(verdict.outcome, _ANYTHING_ELSE)


async def verify_file(path: Path, address: str | None, *, as_json: bool) -> None:
    """Judge every row of a file and print a verdict a line, in the order of the file.

    Raises:
        NotFoundError: the file cannot be read.
        UnavailableError: no verifier answers at the address.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error
    with file:
        async with open_judge(address) as judge:
            async for verdict in in_order(judge, _rows(file)):
                print(_line(verdict) if as_json else f"{verdict.outcome.name}  {verdict.reason}", flush=True)


async def in_order(judge: Judge, rows: Iterator[tuple[int, bytes]]) -> AsyncIterator[Verdict]:
    """Judge rows many at a time; verdicts come in the order of the rows."""
    judging: deque[asyncio.Task[Verdict]] = deque()
    try:
        for number, line in rows:
            judging.append(asyncio.create_task(_judge_row(judge, number, line)))
            if len(judging) >= IN_FLIGHT:
                yield await judging.popleft()
        while judging:
            yield await judging.popleft()
    finally:
        for task in judging:
            task.cancel()


async def _judge_row(judge: Judge, number: int, line: bytes) -> Verdict:
    try:
        row = parse_row(line, number)
        return await judge.grade(row.problem, row.response, row.limits)
    except InvalidRequestError as error:
        return Verdict(Outcome.INFRA_ERROR, f"row {number}: {error}", 0.0)


def _rows(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, the first being 1; blank lines are counted and left out."""
    return ((number, line) for number, line in enumerate(file, start=1) if line.strip())


def _line(verdict: Verdict) -> str:
    return json.dumps({"verdict": verdict.outcome.name, "reason": verdict.reason, "wall_ms": round(verdict.wall_ms, 3)})
