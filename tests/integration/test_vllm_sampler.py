"""The sampler on real vLLM: forks reuse the prefix cache, and log-probabilities are the model's own.

One engine serves all tests; it takes about 30 s to start.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.common.errors import InvalidRequestError
from services.common.tree import ForkSelection, SearchParameters, check_tree, in_canonical_order
from services.sampler.engine import CompletionRequest
from services.sampler.eptree import search
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_engine import CPU_BLOCK_TOKENS, VllmEngine
from tests.builders import request
from tests.integration.tiny_policy import CANARY_TOKENS, trainer_logprobs, write_policy
from tests.scripted_engine import DigitCodec

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.vllm]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    write_policy(path / "start", seed=0)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder: Path) -> AsyncIterator[VllmEngine]:
    settings = SamplerSettings(model=folder / "start", max_model_tokens=256, max_sequences=64, instance="test")
    started = await VllmEngine.start(settings, folder / "start", policy_version=0)
    yield started
    started.close()


async def test_scores_are_the_trainers(engine: VllmEngine, folder: Path) -> None:
    expected = trainer_logprobs(folder / "start", [CANARY_TOKENS])[0]
    assert await engine.score(CANARY_TOKENS) == pytest.approx(expected, abs=1e-3)


async def test_sampled_logprobs_are_raw_whatever_the_temperature(engine: VllmEngine) -> None:
    completion = await engine.complete(CompletionRequest(CANARY_TOKENS, 1.7, 0.9, 20, seed=3))
    scored = await engine.score(CANARY_TOKENS + completion.token_ids)
    assert completion.logprobs == pytest.approx(scored[len(CANARY_TOKENS) - 1 :], abs=1e-3)


async def test_forks_compute_at_most_one_block_again(engine: VllmEngine) -> None:
    asked = request(SearchParameters(3, 2, 1, 2), max_tokens=100)
    tree = await search(engine, DigitCodec(), asked)
    check_tree(tree.branches)
    forks = [branch for branch in tree.branches if branch.parent_id is not None]
    assert len(forks) == 12
    assert max(branch.prefilled_tokens for branch in forks) <= CPU_BLOCK_TOKENS


async def test_the_same_seed_gives_the_same_tree(engine: VllmEngine) -> None:
    asked = request(SearchParameters(2, 2, 1, 2), seed=5, max_tokens=60)
    first, second = [in_canonical_order(await search(engine, DigitCodec(), asked)) for _ in range(2)]
    assert [b.token_ids for b in first.branches] == [b.token_ids for b in second.branches]


async def test_entropies_are_there_when_the_selection_needs_them(engine: VllmEngine) -> None:
    tree = await search(engine, DigitCodec(), request(SearchParameters(1, 1, 1, 1, ForkSelection.ENTROPY)))
    chain = tree.branches[0]
    assert len(chain.entropies) == len(chain.token_ids)
    assert all(0 <= entropy <= 4.2 for entropy in chain.entropies)  # log of the vocabulary's size


async def test_a_prompt_beyond_the_model_is_refused_with_the_numbers(engine: VllmEngine) -> None:
    with pytest.raises(InvalidRequestError, match="250 tokens of prompt and prefix plus at most 10 new ones"):
        await engine.complete(CompletionRequest((5,) * 250, 1.0, 1.0, 10))


async def test_a_cancelled_request_frees_the_engine(engine: VllmEngine) -> None:
    doomed = [asyncio.create_task(engine.complete(CompletionRequest((5, 6, 7), 1.0, 1.0, 240))) for _ in range(32)]
    await asyncio.sleep(0.05)
    for task in doomed:
        task.cancel()
    await asyncio.wait(doomed)
    async with asyncio.timeout(5):
        await engine.complete(CompletionRequest((5, 6, 7), 1.0, 1.0, 4))
