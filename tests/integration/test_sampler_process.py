"""The sampler as a process: killed in the middle of a load, and started again where its newest weights are damaged."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import torch
from grpc import aio
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from services.common import codec, problem_codec
from services.common.published_weights import Canary, PublishedWeights, publish
from services.demo.tokenizer import build_tokenizer
from tests.builders import PROBLEM, SAMPLING
from tests.conftest import REPOSITORY
from tests.integration.test_trainer_process import free_port
from treerl.sampler.v1 import sampler_service_pb2 as pb
from treerl.sampler.v1 import sampler_service_pb2_grpc as rpc

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

START_S = 400.0
"""Patience for a process to start vLLM on a busy machine, in seconds."""

CANARY_TOKENS = (5, 6, 7, 8, 9)


def write_policy(folder: Path, seed: int) -> None:
    """A policy of 100 MB: loading it takes long enough to be caught at it."""
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=4096,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def published(root: Path, version: int) -> PublishedWeights:
    write_policy(root / f"policy-{version}", version)
    model = AutoModelForCausalLM.from_pretrained(root / f"policy-{version}")
    tokens = torch.tensor([CANARY_TOKENS])
    known = model(tokens).logits[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
    canary = Canary(CANARY_TOKENS, tuple(known.tolist()))
    return publish(root / "weights", version, [canary], lambda folder: write_policy(folder, version))


class Sampler:
    """A sampler's process and a stub that calls it."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        port = free_port()
        words = {
            "run": uuid.uuid4().hex,
            "redis-url": redis_url,
            "port": str(port),
            "model": str(folder / "policy-1"),
            "weights-dir": str(folder / "weights"),
            "max-model-tokens": "128",
        }
        command = [sys.executable, "-m", "services.sampler", *(f"--{k}={v}" for k, v in words.items())]
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}"}
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment)
        self._channel = aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub: rpc.SamplerServiceAsyncStub = rpc.SamplerServiceStub(self._channel)

    async def serves(self) -> pb.GetStatusResponse:
        """Its status, once it has one."""
        async with asyncio.timeout(START_S):
            while self.process.poll() is None:
                try:
                    return await self.stub.GetStatus(pb.GetStatusRequest(), wait_for_ready=True)
                except aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.5)
        raise AssertionError("the sampler ended")

    async def ended(self) -> tuple[int, str]:
        """Exit code and the line that says why, if there is one."""
        code = await asyncio.to_thread(self.process.wait, timeout=60)
        await self._channel.close()
        return code, "".join(line for line in self._log.read_text().splitlines() if line.startswith("error: "))


def load(weights: PublishedWeights) -> pb.LoadCheckpointRequest:
    return pb.LoadCheckpointRequest(
        policy_version=weights.policy_version, location=str(weights.folder), checksum=weights.checksum
    )


def stopped_while_reading(process: psutil.Process, file: Path) -> bool:
    """Stop a process if it has a file mapped; it runs for a millisecond between two looks, so that none is too late."""
    process.suspend()
    reading = str(file) in Path(f"/proc/{process.pid}/maps").read_text()
    if not reading:
        process.resume()
    return reading


@pytest.fixture
def start(tmp_path: Path, redis_server: str) -> Iterator[Callable[[], Sampler]]:
    """Starts samplers on the weights in `tmp_path`."""
    samplers: list[Sampler] = []

    def start() -> Sampler:
        samplers.append(Sampler(tmp_path, redis_server))
        return samplers[-1]

    yield start
    for sampler in samplers:
        sampler.process.kill()
        sampler.process.wait()


async def test_a_kill_in_the_middle_of_a_load_leads_back_to_the_last_good_weights(
    tmp_path: Path, start: Callable[[], Sampler]
) -> None:
    first = published(tmp_path, 1)
    sampler = start()
    assert (await sampler.serves()).policy_version == 1
    children = psutil.Process(sampler.process.pid).children(recursive=True)
    [engine] = [child for child in children if child.name() == "VLLM::EngineCore"]

    second = published(tmp_path, 2)
    loading = sampler.stub.LoadCheckpoint(load(second))
    while not stopped_while_reading(engine, second.folder / "model.safetensors"):
        assert not loading.done(), "the load was not caught in the middle"
        await asyncio.sleep(0.001)
    engine.kill()
    with pytest.raises(aio.AioRpcError) as raised:
        await loading
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    code, reason = await sampler.ended()
    assert code == 1
    assert reason in (
        "error: vLLM's engine process died; see its messages above",
        "error: a load failed and the weights before it could not be brought back",
    )

    shard = second.folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    sampler = start()
    status = await sampler.serves()
    assert (status.policy_version, status.checksum) == (1, first.checksum)
    with pytest.raises(aio.AioRpcError, match="model.safetensors has checksum") as raised:
        await sampler.stub.LoadCheckpoint(load(second))
    assert raised.value.code() is grpc.StatusCode.DATA_LOSS
    started = await sampler.stub.Generate(
        pb.GenerateRequest(
            problem=problem_codec.encode_problem(PROBLEM), sampling=codec.encode_sampling(SAMPLING), num_chains=1
        )
    )
    assert {span.policy_version for branch in started.tree.branches for span in branch.versions} == {1}
    sampler.process.terminate()
    assert await sampler.ended() == (0, "")
