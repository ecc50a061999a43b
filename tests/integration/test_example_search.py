"""examples/best_first_search.py as a user runs it, on a scripted engine and the real verifier."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from services.cli.endpoints import Endpoints
from services.common.grpc_server import GrpcServer
from services.common.settings import load_settings
from services.common.tree import FinishReason, VersionSpan
from services.sampler.engine import Completion, CompletionRequest
from services.verifier.grading import Grader
from services.verifier.servicer import SERVICE_NAME, VerifierServicer
from services.verifier.settings import VerifierSettings
from tests.scripted_engine import END, DigitCodec, ScriptedEngine
from tests.served_sampler import Service, served_sampler
from treerl.sampler.v1 import sampler_service_pb2 as sampler_pb2
from treerl.verifier.v1 import verifier_service_pb2_grpc as verifier_grpc

EXAMPLE = Path(__file__).parents[2] / "examples" / "best_first_search.py"
PROMPT = "123"
LINE = re.compile(r" *(\d+) (chain|fork of (\d+) at (\d+)) +([A-Z]+) +'(.*)'")


class LastDigitCodec(DigitCodec):
    """Decodes a response to its length modulo ten as the answer."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The boxed digit."""
        return f"\\boxed{{{len(token_ids) % 10}}}"


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
async def sampler(engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A sampler and a verifier, which are those of the current run."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "run").mkdir()
    settings = load_settings(VerifierSettings, math_workers=1, code_workers=1)
    grader, servicer = Grader(settings), VerifierServicer(settings)
    server = GrpcServer(settings, SERVICE_NAME)
    verifier_grpc.add_VerifierServiceServicer_to_server(servicer, server.server)
    await grader.start()
    try:
        servicer.attach(grader)
        async with server, served_sampler(engine, LastDigitCodec()) as sampler:
            Endpoints("redis://127.0.0.1:1/0", (sampler.address,), (f"127.0.0.1:{server.port}",), "").write(
                tmp_path / "run"
            )
            yield sampler
    finally:
        await grader.close()


async def run_example(*arguments: str) -> tuple[int | None, str, str]:
    """Exit status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLE), "--prompt", PROMPT, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_the_search_ends_with_the_first_correct_response(sampler: Service) -> None:
    status, output, errors = await run_example("--answer", "7", "--budget", "500")
    assert status == 0, errors
    rows = [LINE.fullmatch(line) for line in output.splitlines()]
    assert all(rows)
    found = [row.groups() for row in rows if row]
    assert [int(number) for number, *_ in found] == list(range(len(found)))
    assert [origin for _, origin, *_ in found[:2]] == ["chain", "chain"]
    assert all(outcome == ("CORRECT" if text == "\\\\boxed{7}" else "WRONG") for *_, outcome, text in found)
    assert "CORRECT" in [outcome for *_, outcome, _ in found[-2:]]
    assert "CORRECT" not in [outcome for *_, outcome, _ in found[:-2]]
    assert (await sampler.stub.GetStatus(sampler_pb2.GetStatusRequest())).trees_held == 0


class SamePath(ScriptedEngine):
    """Every response is 5 3 9 2 and the end token, wherever it is forked; the 9 is its most surprising token."""

    async def complete(self, request: CompletionRequest) -> Completion:
        """The rest of that response."""
        self.requests.append(request)
        tokens = (5, 3, 9, 2, END)[len(request.token_ids) - len(PROMPT) :]
        spans = (VersionSpan(0, len(tokens)),)
        return Completion(tokens, tuple(-0.1 * token for token in tokens), (), spans, FinishReason.STOP, 1)


@pytest.mark.parametrize("engine", [SamePath()])
async def test_forks_go_to_the_most_surprising_token_of_the_response_forked_least(sampler: Service) -> None:
    status, output, _ = await run_example("--answer", "10", "--budget", "6", "--chains", "1")
    assert status == 1
    origins = [LINE.fullmatch(line)[2] for line in output.splitlines()]  # type: ignore[index]
    assert origins == ["chain", *["fork of 0 at 2"] * 2, *["fork of 1 at 3"] * 2, "fork of 2 at 3"]


async def test_what_a_service_refuses_is_one_line(sampler: Service) -> None:
    status, _, errors = await run_example("--answer", "7", "--max-tokens", "99999999")
    assert status == 1
    assert errors.startswith("error: a tree of 2 leaves with max_tokens 99999999: expected a product of at most")
    assert len(errors.splitlines()) == 1
