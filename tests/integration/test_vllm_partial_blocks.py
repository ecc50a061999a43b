"""Copied parts of cache blocks, on real vLLM: they hold what computing them would give, however crowded the cache is.

The cache has room for six sequences of the longest kind while two dozen want to run: blocks are evicted, given to
others, and requests preempted all the time.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from services.sampler import vllm_engine
from services.sampler.engine import Completion, CompletionRequest, InFlight
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_arguments import CPU_BLOCK_TOKENS
from services.sampler.vllm_engine import VllmEngine
from tests.integration.tiny_policy import trainer_logprobs, write_policy

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.vllm]

LONGEST_TOKENS = 128
BLOCKS = 6 * LONGEST_TOKENS // CPU_BLOCK_TOKENS + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    write_policy(path / "start", seed=0)
    write_policy(path / "next", seed=1)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder: Path) -> AsyncIterator[VllmEngine]:
    settings = SamplerSettings(
        model=folder / "start", max_model_tokens=LONGEST_TOKENS, max_sequences=24, instance="test"
    )
    ample = vllm_engine.engine_arguments

    def crowded(*arguments: Any) -> dict[str, Any]:
        return {**ample(*arguments), "num_gpu_blocks_override": BLOCKS}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_engine, "engine_arguments", crowded)
        started = await VllmEngine.start(settings, folder / "start", policy_version=0)
    yield started
    started.close()


async def test_a_fork_computes_one_token_again_wherever_it_begins(engine: VllmEngine) -> None:
    prompt = tuple(range(10, 31))
    chain = await engine.complete(CompletionRequest(prompt, 1.0, 1.0, 80, seed=1, min_tokens=80))
    for index in range(1, 80):
        fork = await engine.complete(CompletionRequest(prompt + chain.token_ids[:index], 1.0, 1.0, 1, seed=index))
        assert fork.prefilled_tokens == 1, index


async def test_what_is_sampled_after_copies_is_what_a_fresh_computation_gives(engine: VllmEngine) -> None:
    random = Random(3)
    paths = [tuple(random.randrange(2, 32) for _ in range(random.randrange(1, 70))) for _ in range(8)]
    copied = 0

    async def fork(number: int) -> None:
        nonlocal copied
        path = random.choice(paths)
        prefix = path[: random.randrange(1, len(path) + 1)]
        room = LONGEST_TOKENS - 1 - len(prefix)  # vLLM samples a token when it scores, too
        asked = CompletionRequest(prefix, 1.0, 1.0, random.randrange(1, min(60, room) + 1), seed=number)
        completion = await engine.complete(asked)
        copied += (len(prefix) - completion.prefilled_tokens) % CPU_BLOCK_TOKENS > 0
        assert completion.logprobs == pytest.approx(await _fresh(engine, prefix, completion), abs=1e-3)
        if len(prefix) + len(completion.token_ids) < LONGEST_TOKENS - 1:
            paths[random.randrange(len(paths))] = prefix + completion.token_ids

    async def forks(first: int) -> None:
        for number in range(first, 600, 24):
            await fork(number)

    await asyncio.gather(*(forks(first) for first in range(24)))
    assert copied > 100


async def test_what_was_taken_back_to_the_queue_is_not_finished_by_other_weights(
    engine: VllmEngine, folder: Path
) -> None:
    asked = [CompletionRequest((number, 40, 41), 1.0, 1.0, 120, seed=number, min_tokens=120) for number in range(3, 27)]
    under_way = [asyncio.create_task(engine.complete(one)) for one in asked]
    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)  # there was no room for all of them till then
    await engine.pause(InFlight.WAIT)
    await engine.replace_weights(folder / "next", 1)
    await engine.resume()
    for request, completion in zip(asked, await asyncio.gather(*under_way), strict=True):
        (span,) = completion.versions
        sampler = folder / ("start", "next")[span.policy_version]
        expected = trainer_logprobs(sampler, [request.token_ids + completion.token_ids])[0]
        assert completion.logprobs == pytest.approx(expected[len(request.token_ids) - 1 :], abs=1e-3)


async def _fresh(engine: VllmEngine, prefix: tuple[int, ...], completion: Completion) -> tuple[float, ...]:
    """Log-probabilities of what was sampled; vLLM reads no cache for them."""
    return (await engine.score(prefix + completion.token_ids))[len(prefix) - 1 :]
