"""The sampler on real vLLM: forks reuse the prefix cache, and log-probabilities are the model's own.

One engine serves all tests; it takes about 30 s to start.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM

from services.common.errors import InvalidRequestError
from services.common.tree import (
    FinishReason,
    ForkSelection,
    Logprobs,
    SamplingParameters,
    SearchParameters,
    TreeRequest,
    check_tree,
    in_canonical_order,
)
from services.sampler.engine import CompletionRequest
from services.sampler.eptree import search
from services.sampler.growing_tree import CHAINS_LAST, FORKS_FIRST
from services.sampler.settings import SamplerSettings
from services.sampler.stop_strings import StopStrings
from services.sampler.vllm_engine import VllmEngine
from tests.builders import PROBLEM, request
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


async def test_forks_compute_one_token_again(engine: VllmEngine) -> None:
    asked = request(SearchParameters(3, 2, 1, 2), max_tokens=100)
    tree = await search(engine, DigitCodec(), asked)
    check_tree(tree.branches)
    forks = [branch for branch in tree.branches if branch.parent_id is not None]
    assert len(forks) == 12
    assert {branch.prefilled_tokens for branch in forks} == {1}


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


def stopped_by(*strings: str, kept: tuple[int, ...] = ()) -> StopStrings:
    return StopStrings(strings, kept, 0, DigitCodec().decode)


async def test_a_stop_string_ends_a_response_with_the_token_that_completes_it(engine: VllmEngine) -> None:
    asked = CompletionRequest(CANARY_TOKENS, 1.0, 1.0, 100, seed=8, min_tokens=100)
    unstopped = await engine.complete(asked)
    string = DigitCodec().decode(unstopped.token_ids[40:43])
    stopped = await engine.complete(replace(asked, stop=stopped_by("never", string)))
    length = len(stopped.token_ids)
    assert (stopped.finish_reason, stopped.stop_reason) == (FinishReason.STOP, string)
    assert stopped.token_ids == unstopped.token_ids[:length]
    assert string in DigitCodec().decode(stopped.token_ids)
    assert string not in DigitCodec().decode(stopped.token_ids[:-1])
    assert stopped.logprobs == pytest.approx(unstopped.logprobs[:length], abs=1e-4)
    assert [(span.policy_version, span.num_tokens) for span in stopped.versions] == [(0, length)]


async def test_a_stop_string_that_began_in_the_kept_prefix_ends_a_fork(engine: VllmEngine) -> None:
    asked = CompletionRequest(CANARY_TOKENS, 1.0, 1.0, 100, seed=8, min_tokens=100)
    first = (await engine.complete(asked)).token_ids[0]
    string = DigitCodec().decode((51, first))
    stop = stopped_by(string, kept=(50, 51))
    fork = await engine.complete(replace(asked, stop=stop))
    assert (fork.token_ids, fork.stop_reason) == ((first,), string)


async def test_a_stop_token_ends_a_response_but_not_before_min_tokens(engine: VllmEngine) -> None:
    asked = CompletionRequest(CANARY_TOKENS, 1.0, 1.0, 100, seed=8)
    unstopped = await engine.complete(asked)
    stop_token = unstopped.token_ids[len(unstopped.token_ids) // 2]
    position = unstopped.token_ids.index(stop_token)
    stopped = await engine.complete(replace(asked, stop_token_ids=(stop_token,)))
    assert stopped.token_ids == unstopped.token_ids[: position + 1]
    assert (stopped.finish_reason, stopped.stop_reason) == (FinishReason.STOP, stop_token)
    later = await engine.complete(replace(asked, min_tokens=30, stop_token_ids=(stop_token,)))
    assert not {0, stop_token} & set(later.token_ids[:30])


async def test_an_end_token_of_the_model_is_no_stop_reason(engine: VllmEngine) -> None:
    completions = await asyncio.gather(
        *(engine.complete(CompletionRequest((5, 6, 7), 2.0, 1.0, 200, seed=i)) for i in range(16))
    )
    ended = [completion for completion in completions if completion.finish_reason is FinishReason.STOP]
    assert ended
    assert all((c.token_ids[-1], c.stop_reason) == (0, None) for c in ended)
    assert all(len(c.token_ids) == 200 for c in completions if c.finish_reason is FinishReason.LENGTH)


async def test_min_tokens_counts_the_whole_path_of_a_fork(engine: VllmEngine) -> None:
    sampling = SamplingParameters(2.0, 1.0, 80, seed=3, min_tokens=40, stop_token_ids=tuple(range(1, 30)))
    tree = await search(engine, DigitCodec(), TreeRequest("t", PROBLEM, SearchParameters(4, 2, 2, 2), sampling))
    assert all(branch.end > 40 for branch in tree.branches)
    assert any(branch.stop_reason is not None for branch in tree.branches)
    for branch in tree.branches:
        assert not set(range(30)) & set(branch.token_ids[: max(0, 40 - branch.fork_index)])


def sampling_logprobs(
    folder: Path, prompt: tuple[int, ...], response: tuple[int, ...], temperature: float, top_p: float, min_tokens: int
) -> list[float]:
    """What the engine should return, written out with the trainer's model."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
    logits[:min_tokens, 0] = -math.inf
    expected = []
    for row, token in zip(logits / temperature, response, strict=True):
        probabilities, order = row.softmax(-1).sort(descending=True)
        nucleus = order[: int((probabilities.cumsum(0) < top_p).sum()) + 1]
        expected.append(float(row[token] - row[nucleus].logsumexp(0)))
    return expected


async def test_sampling_logprobs_are_those_of_the_distribution_drawn_from(engine: VllmEngine, folder: Path) -> None:
    both = Logprobs.RAW_AND_SAMPLING
    kinds = {
        "raw": CompletionRequest((5, 6, 7), 1.3, 0.9, 40, seed=1),
        "both": CompletionRequest((5, 6, 8), 1.3, 0.9, 40, seed=2, min_tokens=20, logprobs=both),
        "entropies": CompletionRequest((5, 6, 9), 1.3, 0.9, 40, seed=3, with_entropies=True),
        "all": CompletionRequest((5, 6, 10), 0.7, 0.8, 40, seed=4, with_entropies=True, logprobs=both),
        "greedy": CompletionRequest((5, 6, 11), 0.0, 1.0, 40, logprobs=both),
    }
    together = dict(zip(kinds, await asyncio.gather(*map(engine.complete, kinds.values())), strict=True))
    for name, asked in kinds.items():
        completion = together[name]
        scored = await engine.score(asked.token_ids + completion.token_ids)
        assert completion.logprobs == pytest.approx(scored[len(asked.token_ids) - 1 :], abs=1e-3), name
        assert len(completion.entropies) == (len(completion.token_ids) if asked.with_entropies else 0)
        if asked.logprobs is Logprobs.RAW:
            assert completion.sampling_logprobs == ()
        elif asked.temperature == 0:
            assert completion.sampling_logprobs == (0.0,) * len(completion.token_ids)
        else:
            expected = sampling_logprobs(
                folder / "start",
                asked.token_ids,
                completion.token_ids,
                asked.temperature,
                asked.top_p,
                asked.min_tokens,
            )
            assert completion.sampling_logprobs == pytest.approx(expected, abs=1e-3), name


async def test_what_log_probabilities_are_asked_for_changes_neither_tokens_nor_entropies(engine: VllmEngine) -> None:
    asked = CompletionRequest(CANARY_TOKENS, 1.3, 0.9, 40, seed=1, with_entropies=True)
    alone = await engine.complete(asked)
    both = await engine.complete(replace(asked, logprobs=Logprobs.RAW_AND_SAMPLING))
    assert (both.token_ids, both.logprobs, both.entropies) == (alone.token_ids, alone.logprobs, alone.entropies)


async def test_seeded_prompts_beyond_one_engine_step_are_sampled(engine: VllmEngine) -> None:
    prompts = [tuple(3 + (i * j) % 50 for j in range(240)) for i in range(1, 49)]  # 11,520 tokens; a step takes 8,192
    completions = await asyncio.gather(
        *(engine.complete(CompletionRequest(prompt, 1.0, 1.0, 4, seed=0)) for prompt in prompts)
    )
    assert all(completion.token_ids for completion in completions)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (CompletionRequest((5,), 1.0, 1.0, 4, stop_token_ids=(64,)), "stop_token_ids"),
        (CompletionRequest((5,), 3.0, 1.0, 4), "temperature must be in"),
        (CompletionRequest((5,), 1.0, 1.0, 4, adapter="x"), "no adapter 'x': known are none"),
    ],
)
async def test_what_the_engine_cannot_do_is_refused_with_the_reason(
    engine: VllmEngine, asked: CompletionRequest, complaint: str
) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        await engine.complete(asked)


async def test_waiting_forks_are_begun_before_waiting_chains(engine: VllmEngine) -> None:
    order: list[str] = []

    async def run(name: str, priority: int) -> None:
        await engine.complete(CompletionRequest((5, 6, 7), 1.0, 1.0, 40, min_tokens=40, priority=priority))
        order.append(name)

    chains = [asyncio.create_task(run("chain", CHAINS_LAST)) for _ in range(320)]  # the engine decodes 64 at once
    await asyncio.sleep(0)
    await asyncio.gather(run("fork", FORKS_FIRST), *chains)
    assert order.index("fork") < 192
