"""The trainer as a process: how it ends, and how it comes back after a kill."""

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil
import pytest
import zstandard
from grpc import aio

from tests.conftest import REPOSITORY
from tests.integration.fake_sampler import FakeSampler, serving, write_tiny_model
from treerl.trainer.v1 import trainer_service_pb2 as pb
from treerl.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub

START_S = 120.0
"""Patience for a process to load torch on a busy machine, in seconds."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Trainer:
    """A run's configuration, and the trainer processes that are started on it."""

    def __init__(self, folder: Path, redis_url: str, run: str) -> None:
        self.output_dir = folder / "out"
        self.port = free_port()
        self._model = folder / "model"
        write_tiny_model(self._model)
        self._data = folder / "problems.jsonl"
        problems = [{"id": f"p{i}", "domain": "math", "prompt": f"{i}+1=", "answer": "1"} for i in range(5)]
        self._data.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
        self._redis_url = redis_url
        self.run = run
        self.fake = FakeSampler(self._model)

    def start(self, sampler: str, *flags: str) -> subprocess.Popen[str]:
        words = {
            "run": self.run,
            "redis-url": self._redis_url,
            "port": str(self.port),
            "model": str(self._model),
            "output-dir": str(self.output_dir),
            "train-data": str(self._data),
            "samplers": json.dumps([sampler]),
            "steps": "6",
            "prompts-per-step": "2",
            "search": json.dumps({"chains": 2, "forks": 1, "rounds": 1, "branches": 2}),
            "checkpoint-every": "2",
            "threads": "1",
        }
        command = [sys.executable, "-m", "services.trainer", *(f"--{k}={v}" for k, v in words.items()), *flags]
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}"}
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    async def watch(self, from_step: int) -> AsyncIterator[pb.WatchStepsResponse]:
        async with aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            stub = TrainerServiceStub(channel)
            request = pb.WatchStepsRequest(from_step=from_step)
            async for response in stub.WatchSteps(request, wait_for_ready=True, timeout=START_S):
                yield response

    def trained_trees(self) -> list[str]:
        with (self.output_dir / "trees.jsonl.zst").open("rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            lines = io.TextIOWrapper(reader, encoding="utf-8")
            return [json.loads(line)["tree"]["tree_id"] for line in lines]


@pytest.fixture
def trainer(tmp_path: Path, redis_server: str) -> Trainer:
    return Trainer(tmp_path, redis_server, f"run-{uuid.uuid4().hex[:8]}")


@pytest.fixture
async def sampler(trainer: Trainer, redis_server: str) -> AsyncIterator[str]:
    async with serving(trainer.fake, redis_server, trainer.run) as address:
        yield address


async def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and standard error."""
    _, stderr = await asyncio.to_thread(process.communicate, timeout=START_S)
    return process.returncode, stderr


async def test_a_killed_trainer_comes_back_and_finishes(trainer: Trainer, sampler: str) -> None:
    first = trainer.start(sampler)
    async for response in trainer.watch(from_step=1):
        if response.step.step == 3:
            break
    first.kill()
    await ended(first)

    second = trainer.start(sampler)
    steps = [response.step.step async for response in trainer.watch(from_step=1)]
    code, stderr = await ended(second)

    assert code == 0, stderr
    assert steps == [1, 2, 3, 4, 5, 6]
    assert trainer.trained_trees() == [f"step-{step:05d}/{index}" for step in range(1, 7) for index in (0, 1)]
    assert len(set(trainer.fake.served)) == len(trainer.fake.served)


def worker(process: subprocess.Popen[str], rank: int) -> psutil.Process:
    """One of the processes that torchrun started."""
    (found,) = (child for child in psutil.Process(process.pid).children() if child.environ()["RANK"] == str(rank))
    return found


async def test_a_trainer_that_lost_one_of_its_processes_ends_and_comes_back(trainer: Trainer, sampler: str) -> None:
    flags = ("--processes=2", "--zero-stage=3", "--steps=20")
    first = trainer.start(sampler, *flags)
    async for response in trainer.watch(from_step=1):
        if response.step.step == 3:
            break
    leader, lost = worker(first, 0), worker(first, 1)
    lost.kill()
    code, stderr = await ended(first)
    assert code == 1
    assert "process 0 of 2 of the trainer broke off in" in stderr
    assert not leader.is_running()

    second = trainer.start(sampler, *flags)
    steps = [response.step.step async for response in trainer.watch(from_step=1)]
    code, stderr = await ended(second)

    assert code == 0, stderr
    assert steps == list(range(1, 21))
    assert trainer.trained_trees() == [f"step-{step:05d}/{index}" for step in steps for index in (0, 1)]
    assert len(set(trainer.fake.served)) == len(trainer.fake.served)


async def test_what_stops_the_leader_ends_all_processes(trainer: Trainer, sampler: str) -> None:
    trainer.fake.forged_checksum = "0" * 64
    process = trainer.start(sampler, "--processes=2")
    with pytest.raises(aio.AioRpcError):
        async for _ in trainer.watch(from_step=1):
            pass
    code, stderr = await ended(process)

    assert code == 1
    assert re.search("^error: sampler 127.0.0.1:.* serves version 0", stderr, re.MULTILINE)


async def test_sigterm_abandons_the_step_and_exits_with_0(trainer: Trainer, sampler: str) -> None:
    trainer.fake.held_back = {"step-00002/0"}
    process = trainer.start(sampler)
    async for response in trainer.watch(from_step=1):
        if response.step.step == 1:
            break

    process.send_signal(signal.SIGTERM)
    code, stderr = await ended(process)

    assert code == 0, stderr
    assert "Traceback" not in stderr


async def test_a_failing_run_says_why_to_watchers_and_in_one_line(trainer: Trainer, sampler: str) -> None:
    trainer.fake.forged_checksum = "0" * 64
    process = trainer.start(sampler)

    with pytest.raises(aio.AioRpcError) as caught:
        async for _ in trainer.watch(from_step=1):
            pass
    code, stderr = await ended(process)

    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "serves version 0 (000000000000…)" in (caught.value.details() or "")
    assert code == 1
    assert one_line_of_error(stderr).startswith("error: sampler 127.0.0.1:")


async def test_what_is_missing_is_one_clear_line(trainer: Trainer) -> None:
    messages = {
        "--model=/nothing": "error: model folder /nothing has no config.json",
        "--redis-url=redis://127.0.0.1:1/0": "error: no Redis answers at redis://127.0.0.1:1/0",
    }
    processes = [trainer.start("127.0.0.1:1", "--port=0", flag) for flag in messages]

    endings = await asyncio.gather(*(ended(process) for process in processes))

    for (code, stderr), message in zip(endings, messages.values(), strict=True):
        assert code == 1
        assert one_line_of_error(stderr).startswith(message)


async def test_a_busy_port_is_one_clear_line(trainer: Trainer) -> None:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        code, stderr = await ended(trainer.start("127.0.0.1:1", f"--port={occupant.getsockname()[1]}"))

    assert code == 1
    assert one_line_of_error(stderr).startswith("error: cannot listen on 127.0.0.1:")


def one_line_of_error(stderr: str) -> str:
    """The one line on standard error that is no log line, neither of ours (JSON) nor of gRPC's core (E1123 …)."""
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if not re.match(r"\{|E\d{4} ", line)]
    return line
