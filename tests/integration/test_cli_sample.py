"""`treerl sample` against a real sampler's servicer with a scripted engine."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from services.cli.endpoints import Endpoints
from services.cli.sample import SampleOptions, sample_responses, sample_tree
from services.common.errors import InvalidRequestError
from services.common.grpc_server import GrpcServer
from services.common.published_weights import unpublished
from services.common.tree import SamplingParameters, SearchParameters
from services.sampler.servicer import SERVICE_NAME, SamplerServicer
from services.sampler.settings import SamplerSettings
from services.sampler.weights import ServedWeights
from tests.scripted_engine import DigitCodec, ScriptedEngine
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc

SAMPLING = SamplingParameters(temperature=1.0, top_p=1.0, max_tokens=24, seed=3)


@pytest.fixture
async def sampler() -> AsyncIterator[str]:
    """Address of a sampler."""
    settings = SamplerSettings(model=Path("model"), instance="test")
    engine, servicer = ScriptedEngine(), SamplerServicer(settings)
    servicer.attach(engine, DigitCodec(), ServedWeights(engine, unpublished(Path("model")), 1e-3))
    server = GrpcServer(settings, SERVICE_NAME)
    rpc.add_SamplerServiceServicer_to_server(servicer, server.server)
    async with server:
        await server.set_serving(True)
        yield f"127.0.0.1:{server.port}"


def options(address: str | None, search: SearchParameters) -> SampleOptions:
    return SampleOptions("123", address, search, SAMPLING)


async def test_a_tree_is_printed_with_its_forks_and_ends(sampler: str) -> None:
    console = Console(width=200, record=True)
    await sample_tree(options(sampler, SearchParameters(2, 2, 1, 2)), console)
    text = console.export_text()
    assert text.startswith("123\n")
    assert "├──" in text
    assert "◆" in text
    assert " nats: " in text
    assert text.count("▪ ") == text.count("▪ end") + text.count("▪ cut at the token budget")
    assert f"{text.count('▪ ')} leaves" in text


async def test_a_tree_says_what_ended_its_branches(sampler: str) -> None:
    console = Console(width=200, record=True)
    asked = options(sampler, SearchParameters(6, 2, 1, 2))
    await sample_tree(replace(asked, sampling=replace(SAMPLING, stop=("9",), stop_token_ids=(8,))), console)
    text = console.export_text()
    assert "▪ stop string '9'" in text
    assert "▪ stop token 8" in text
    assert "▪ end" in text


async def test_responses_are_printed_one_after_the_other(sampler: str) -> None:
    console = Console(width=200, record=True)
    await sample_responses(options(sampler, SearchParameters(3)), console)
    text = console.export_text()
    assert [f"response {n}" in text for n in (1, 2, 3)] == [True, True, True]


async def test_the_sampler_of_the_current_run_is_found(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run = tmp_path / "run"
    run.mkdir()
    Endpoints("redis://127.0.0.1:1/0", (sampler,), (), "127.0.0.1:1").write(run)
    console = Console(width=200, record=True)
    await sample_responses(options(None, SearchParameters(1)), console)
    assert console.export_text().strip()


async def test_what_the_sampler_refuses_is_told(sampler: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"the sampler at 127\.0\.0\.1:\d+ refused: "):
        await sample_responses(options(sampler, SearchParameters(0)), Console(record=True))
