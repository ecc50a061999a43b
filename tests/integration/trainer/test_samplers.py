"""Samplers behind a name: all that it has at a publication load the weights, and those that leave are not waited for.

Real gRPC servers on two loopback addresses; only the look-up of the name is the test's.
"""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from services.common.errors import UnavailableError
from services.common.published_weights import PublishedWeights
from services.trainer.samplers import Samplers
from services.trainer.settings import TrainerSettings
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1.sampler_service_pb2_grpc import SamplerServiceServicer, add_SamplerServiceServicer_to_server

FIRST, SECOND = "127.0.0.1", "127.0.0.2"
WEIGHTS = PublishedWeights(Path("/nowhere"), 1, "checksum", {}, ())


class Recorder(SamplerServiceServicer):
    """Notes what it is asked to load; `leaves` is a list of addresses from which it goes, refusing."""

    def __init__(self) -> None:
        self.loads = 0
        self.leaves: list[str] = []

    async def LoadCheckpoint(self, request: pb.LoadCheckpointRequest, context: Any) -> pb.LoadCheckpointResponse:
        if self.leaves:
            self.leaves.remove(SECOND)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
        self.loads += 1
        return pb.LoadCheckpointResponse(policy_version=request.policy_version, checksum=request.checksum)


@pytest.fixture
async def served() -> AsyncIterator[tuple[Recorder, Recorder, int]]:
    """Two samplers at one port of two addresses."""
    recorders, servers, port = (Recorder(), Recorder()), [], 0
    for recorder, host in zip(recorders, (FIRST, SECOND), strict=True):
        server = aio.server()
        add_SamplerServiceServicer_to_server(recorder, server)
        port = server.add_insecure_port(f"{host}:{port}")
        await server.start()
        servers.append(server)
    yield *recorders, port
    for server in servers:
        await server.stop(None)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses of the name `samplers.test`, to be changed at will."""
    known: list[str] = []
    truly = socket.getaddrinfo

    def look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != "samplers.test":
            return truly(host, port, *arguments, **options)
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port))) for address in known]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@pytest.fixture
async def samplers(served: tuple[Recorder, Recorder, int]) -> AsyncIterator[Samplers]:
    settings = TrainerSettings(
        model=Path("m"),
        output_dir=Path("o"),
        train_data=Path("t"),
        steps=1,
        samplers=(f"dns:samplers.test:{served[2]}",),
        reload_patience_s=1.0,
    )
    samplers = Samplers(settings)
    yield samplers
    await samplers.close()


async def test_every_sampler_behind_a_name_loads_and_one_that_came_is_not_forgotten(
    samplers: Samplers, served: tuple[Recorder, Recorder, int], hosts: list[str]
) -> None:
    first, second, _ = served
    hosts += [FIRST]
    await samplers.load(WEIGHTS)
    hosts += [SECOND]
    await samplers.load(WEIGHTS)
    assert (first.loads, second.loads) == (2, 1)


async def test_a_sampler_that_left_is_not_called(
    samplers: Samplers, served: tuple[Recorder, Recorder, int], hosts: list[str]
) -> None:
    first, second, _ = served
    hosts += [FIRST, SECOND]
    await samplers.load(WEIGHTS)
    hosts.remove(SECOND)
    await samplers.load(WEIGHTS)
    assert (first.loads, second.loads) == (2, 1)


async def test_a_sampler_that_leaves_instead_of_loading_is_not_waited_for(
    samplers: Samplers, served: tuple[Recorder, Recorder, int], hosts: list[str]
) -> None:
    first, second, _ = served
    hosts += [FIRST, SECOND]
    second.leaves = hosts
    await samplers.load(WEIGHTS)
    assert (first.loads, second.loads) == (1, 0)


async def test_a_name_without_a_sampler_ends_the_run_after_the_patience(samplers: Samplers, hosts: list[str]) -> None:
    with pytest.raises(UnavailableError, match=r"no sampler is at dns:samplers\.test"):
        await samplers.load(WEIGHTS)
