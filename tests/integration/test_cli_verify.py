"""`treerl verify` against the real grader, here and behind gRPC."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio
from typer.testing import CliRunner

from services.cli.judges import RemoteJudge
from services.cli.main import app
from services.cli.verify import IN_FLIGHT, in_order
from services.common.errors import UnavailableError
from services.common.problem import Problem
from services.common.settings import load_settings
from services.common.verdict import Limits, Outcome, Verdict
from services.verifier.grading import Grader
from services.verifier.servicer import VerifierServicer
from services.verifier.settings import VerifierSettings
from treerl.verifier.v1 import verifier_service_pb2_grpc as verifier_grpc

RIGHT = {"gold": "1/2", "pred": "0.5"}
WRONG = {"gold": "1/2", "pred": "0.6"}
CODE = {
    "domain": "code",
    "tests": {"kind": "call", "fn_name": "f", "cases": [{"args": [2], "result": 4}]},
    "response": "```python\ndef f(x):\n    return x * x\n```",
}


@pytest.mark.parametrize(
    ("answer", "verdict", "status"),
    [("\\boxed{0.5}", "CORRECT", 0), ("0.5", "CORRECT", 0), ("\\boxed{2}", "WRONG", 1), ("\\boxed{}", "UNPARSED", 2)],
)
def test_the_exit_status_tells_the_verdict(answer: str, verdict: str, status: int) -> None:
    result = CliRunner().invoke(app, ["verify", "--gold", "1/2", "--answer", answer])
    assert (result.stdout.strip(), result.exit_code) == (verdict, status)


def test_a_file_is_graded_in_its_order_and_bad_rows_do_not_stop_it(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [json.dumps(RIGHT), "{broken", json.dumps(WRONG), "", json.dumps(CODE), json.dumps(RIGHT)]
    file.write_text("\n".join(rows))
    result = CliRunner().invoke(app, ["verify", "--file", str(file), "--json"])
    assert result.exit_code == 0, result.output
    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [v["verdict"] for v in verdicts] == ["CORRECT", "INFRA_ERROR", "WRONG", "CORRECT", "CORRECT"]
    assert verdicts[1]["reason"].startswith("row 2: not JSON")
    assert all(set(v) == {"verdict", "reason", "wall_ms"} for v in verdicts)


@asynccontextmanager
async def verifier() -> AsyncIterator[str]:
    """Address of a real verifier's servicer."""
    settings = load_settings(VerifierSettings)
    grader = Grader(settings)
    servicer = VerifierServicer(settings)
    server = aio.server()
    verifier_grpc.add_VerifierServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await grader.start()
    try:
        servicer.attach(grader)
        await server.start()
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
        await grader.close()


async def test_a_running_verifier_gives_the_same_verdicts() -> None:
    rows = [json.dumps(row).encode() for row in (RIGHT, WRONG, CODE, {"gold": "1"})]
    async with verifier() as address, aio.insecure_channel(address) as channel:
        verdicts = [v async for v in in_order(RemoteJudge(channel, address), iter(enumerate(rows, start=1)))]
    assert [v.outcome.name for v in verdicts] == ["CORRECT", "WRONG", "CORRECT", "INFRA_ERROR"]


async def test_a_verifier_that_is_not_there_is_named() -> None:
    async with aio.insecure_channel("127.0.0.1:1") as channel:
        verdicts = in_order(RemoteJudge(channel, "127.0.0.1:1"), iter([(1, json.dumps(RIGHT).encode())]))
        with pytest.raises(UnavailableError, match=r"no verifier answers at 127\.0\.0\.1:1"):
            await anext(verdicts)


async def test_a_row_that_is_too_large_to_be_sent_does_not_stop_the_others() -> None:
    large = json.dumps({"gold": "1", "pred": "1" * (65 << 20)}).encode()
    async with verifier() as address, aio.insecure_channel(address) as channel:
        rows = iter([(1, large), (2, json.dumps(RIGHT).encode())])
        verdicts = [v async for v in in_order(RemoteJudge(channel, address), rows)]
    assert [v.outcome.name for v in verdicts] == ["INFRA_ERROR", "CORRECT"]
    assert "bytes are too many for a call" in verdicts[0].reason


class UnevenJudge:
    """Takes longer for some rows than for others, and counts how many it has at once."""

    def __init__(self) -> None:
        self._randomness = random.Random(0)
        self._busy = 0
        self.most = 0

    async def grade(self, problem: Problem, response: str, limits: Limits | None = None) -> Verdict:
        self._busy += 1
        self.most = max(self.most, self._busy)
        await asyncio.sleep(self._randomness.random() / 100)
        self._busy -= 1
        return Verdict(Outcome.CORRECT, response, 0.0)


async def test_many_rows_are_judged_at_once_but_never_more_than_the_bound() -> None:
    read = 0

    def rows() -> Iterator[tuple[int, bytes]]:
        nonlocal read
        for number in range(1, 501):
            read += 1
            yield number, json.dumps({"gold": "1", "pred": f"\\boxed{{{number}}}"}).encode()

    judge = UnevenJudge()
    reasons = []
    async for verdict in in_order(judge, rows()):
        reasons.append(verdict.reason)
        assert read - len(reasons) < IN_FLIGHT
    assert reasons == [f"\\boxed{{{number}}}" for number in range(1, 501)]
    assert judge.most == IN_FLIGHT
