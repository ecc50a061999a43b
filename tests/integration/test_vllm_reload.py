"""Replacing weights on real vLLM, under load: nothing old is served, whatever becomes of requests in flight.

The property that would catch a stale prefix: the logprobs of what was sampled are those that a trainer computes for the
whole path, prompt included, with the weights that the tokens claim. One engine serves all tests.
"""

import asyncio
import itertools
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from safetensors.torch import load_file, save_file

from services.common import codec, metrics
from services.common.errors import CanaryError, CheckpointError
from services.common.published_weights import Canary, PublishedWeights, publish, unpublished
from services.common.streams import PROMPTS, TREES, Streams, connect
from services.common.tree import ForkSelection, SearchParameters, Tree, TreeRequest, check_tree, path_tokens
from services.sampler.engine import CompletionRequest, InFlight
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_arguments import CPU_BLOCK_TOKENS
from services.sampler.vllm_engine import VllmEngine
from services.sampler.weights import ServedWeights
from services.sampler.worker import SamplerWorker
from tests.builders import request
from tests.integration.tiny_policy import (
    CANARY_TOKENS,
    MODEL_TOKENS,
    published,
    trainer_logprobs,
    write_policy,
)
from tests.scripted_engine import DigitCodec
from treerl.common.v1 import tree_pb2

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.vllm, pytest.mark.timeout(900)]

TOLERANCE_NATS = 1e-3
"""Engine and trainer both compute in fp32; they were seen to differ by less than 1e-5."""

RELOADS = int(os.environ.get("TREERL_TEST_RELOADS", "60"))
"""Of the soak, in each mode."""

SEARCH = SearchParameters(chains=2, forks=1, rounds=1, branches=2, selection=ForkSelection.RANDOM)

PROMPT_TOKENS = [tuple((i * (j + 3)) % 10 for i in range(3 * CPU_BLOCK_TOKENS)) for j in range(3)]
"""Few and long, so that nearly every request finds its prefix in the cache."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    write_policy(path / "start", seed=0)
    return path


@pytest.fixture(scope="module")
def versions(folder: Path) -> list[PublishedWeights]:
    """Versions 1 to 4; that of version v has seed v."""
    return [published(folder, version, seed=version) for version in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def settings(folder: Path) -> SamplerSettings:
    return SamplerSettings(
        model=folder / "start",
        max_model_tokens=MODEL_TOKENS,
        max_sequences=64,
        max_waiting_trees=10**6,  # nobody grades them
        instance="test",
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(settings: SamplerSettings) -> AsyncIterator[VllmEngine]:
    started = await VllmEngine.start(settings, settings.model, policy_version=0)
    yield started
    started.close()


@pytest_asyncio.fixture(loop_scope="module")
async def served(engine: VllmEngine, folder: Path, versions: list[PublishedWeights]) -> ServedWeights:
    """The engine with version 1 loaded."""
    served = ServedWeights(engine, unpublished(folder / "start"), TOLERANCE_NATS)
    await load(served, versions[0])
    return served


async def load(served: ServedWeights, weights: PublishedWeights, in_flight: InFlight = InFlight.WAIT) -> None:
    loaded = await served.load(weights.folder, weights.policy_version, weights.checksum, in_flight)
    assert loaded.canary_max_abs_logprob_diff <= TOLERANCE_NATS


@dataclass(frozen=True)
class Sampled:
    """Tokens that were sampled in one go after a context."""

    context: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    version: int


def of_one_version(context: tuple[int, ...], completion: Any) -> Sampled:
    """A completion or branch up to where it was kept over a reload, if it was: from there on the cache holds what the
    old weights computed, and no trainer can say what the new ones make of it."""
    span = completion.versions[0]
    return Sampled(
        context, completion.token_ids[: span.num_tokens], completion.logprobs[: span.num_tokens], span.policy_version
    )


def trees_sampled(trees: Sequence[Tree]) -> list[Sampled]:
    """Every branch of trees, after its prompt and the path that it was forked from."""
    return [
        of_one_version((*tree.prompt_token_ids, *path_tokens(tree.branches, branch.id)[: branch.fork_index]), branch)
        for tree in trees
        for branch in tree.branches
    ]


def largest_difference(folder: Path, sampled: Sequence[Sampled]) -> float:
    """Largest |engine - trainer| logprob of sampled tokens, in nats, by the weights that they claim."""
    largest = 0.0
    for version in {one.version for one in sampled}:
        claims = [one for one in sampled if one.version == version]
        scored = trainer_logprobs(folder / f"policy-{version}", [one.context + one.token_ids for one in claims])
        for one, known in zip(claims, scored, strict=True):
            theirs = known[len(one.context) - 1 :]
            largest = max(largest, *(abs(a - b) for a, b in zip(one.logprobs, theirs, strict=True)))
    return largest


async def test_a_reload_of_tied_weights_reaches_the_output_layer(
    engine: VllmEngine, served: ServedWeights, folder: Path, versions: list[PublishedWeights]
) -> None:
    await load(served, versions[1])
    completion = await engine.complete(CompletionRequest((5, 6, 7), 1.0, 1.0, 8))
    assert [span.policy_version for span in completion.versions] == [2]
    assert largest_difference(folder, [of_one_version((5, 6, 7), completion)]) <= TOLERANCE_NATS


async def test_the_canary_catches_weights_that_are_not_the_announced_ones(
    engine: VllmEngine, served: ServedWeights, folder: Path, versions: list[PublishedWeights]
) -> None:
    forged = publish(folder / "forged", 3, versions[0].canaries, lambda target: write_policy(target, seed=9))
    with pytest.raises(CanaryError, match="after loading version 3"):
        await served.load(forged.folder, 3, forged.checksum, InFlight.WAIT)
    assert served.policy_version == 1
    assert await engine.score(CANARY_TOKENS) == pytest.approx(versions[0].canaries[0].logprobs, abs=TOLERANCE_NATS)


async def test_a_canary_longer_than_the_model_proves_what_the_model_holds(
    engine: VllmEngine, served: ServedWeights, folder: Path, versions: list[PublishedWeights]
) -> None:
    tokens = tuple(i % 50 for i in range(MODEL_TOKENS))
    canary = Canary(tokens, trainer_logprobs(folder / "policy-1", [tokens])[0])
    long = publish(folder / "long", 1, [canary], lambda target: write_policy(target, seed=1))
    await load(served, long)


async def test_no_prefix_outlives_its_weights(
    engine: VllmEngine, served: ServedWeights, versions: list[PublishedWeights]
) -> None:
    asked = CompletionRequest(PROMPT_TOKENS[0], 0.0, 1.0, 4)
    await engine.complete(asked)
    warm = await engine.complete(asked)
    assert warm.prefilled_tokens <= CPU_BLOCK_TOKENS
    await load(served, versions[3], InFlight.KEEP)
    cold = await engine.complete(asked)
    assert cold.prefilled_tokens == len(asked.token_ids)


async def test_a_version_that_comes_again_with_other_weights_meets_no_block_of_the_first(
    engine: VllmEngine, served: ServedWeights, folder: Path, versions: list[PublishedWeights]
) -> None:
    asked = CompletionRequest(PROMPT_TOKENS[0], 0.0, 1.0, 4)
    await engine.complete(asked)
    canary = replace(versions[2].canaries[0])
    again = publish(folder / "resumed", 1, [canary], lambda target: write_policy(target, seed=3))
    await load(served, again, InFlight.KEEP)
    cold = await engine.complete(asked)
    assert cold.prefilled_tokens == len(asked.token_ids)


@pytest.mark.parametrize("in_flight", list(InFlight))
async def test_requests_in_flight_and_those_that_come_in_the_pause_say_who_sampled_them(
    engine: VllmEngine, served: ServedWeights, folder: Path, versions: list[PublishedWeights], in_flight: InFlight
) -> None:
    def ask(number: int) -> CompletionRequest:
        return CompletionRequest((5, 6, 7 + number), 1.0, 1.0, 240, seed=number)

    running = [asyncio.create_task(engine.complete(ask(i))) for i in range(16)]
    await asyncio.sleep(0.15)
    loading = asyncio.create_task(load(served, versions[1], in_flight))
    while engine._open.is_set():
        await asyncio.sleep(0.001)
    coming = [asyncio.create_task(engine.complete(ask(i))) for i in range(16)]
    await loading

    before, after = await asyncio.gather(*running), await asyncio.gather(*coming)
    by_before = {tuple(span.policy_version for span in completion.versions) for completion in before}
    expected = {InFlight.WAIT: (1,), InFlight.KEEP: (1, 2), InFlight.ABORT: (2,)}[in_flight]
    assert expected in by_before
    assert by_before <= {(1,), expected, (2,)}  # some may have ended before the load began, or come too late for it
    assert {tuple(span.policy_version for span in completion.versions) for completion in after} == {(2,)}
    for completion in (*before, *after):
        assert sum(span.num_tokens for span in completion.versions) == len(completion.token_ids)
    sampled = [of_one_version((5, 6, 7 + i % 16), completion) for i, completion in enumerate((*before, *after))]
    assert largest_difference(folder, sampled) <= TOLERANCE_NATS


async def test_nothing_that_refused_weights_sampled_is_ever_seen(
    engine: VllmEngine, served: ServedWeights, folder: Path, versions: list[PublishedWeights]
) -> None:
    canary = Canary(CANARY_TOKENS, versions[0].canaries[0].logprobs)
    forged = publish(folder / "refused", 8, [canary] * 64, lambda target: write_policy(target, seed=9))
    running = [
        asyncio.create_task(engine.complete(CompletionRequest((5, 6, 7), 1.0, 1.0, 20 + 5 * i, seed=i)))
        for i in range(32)
    ]
    await asyncio.sleep(0.02)
    with pytest.raises(CanaryError):
        await served.load(forged.folder, 8, forged.checksum, InFlight.KEEP)
    completions = await asyncio.gather(*running)
    assert {tuple(span.policy_version for span in completion.versions) for completion in completions} == {(1,)}
    sampled = [of_one_version((5, 6, 7), completion) for completion in completions]
    assert largest_difference(folder, sampled) <= TOLERANCE_NATS


async def test_a_load_that_breaks_off_in_the_middle_leaves_no_mixture(
    engine: VllmEngine, served: ServedWeights, folder: Path, versions: list[PublishedWeights], tmp_path: Path
) -> None:
    write_policy(tmp_path, seed=9)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].repeat(2)  # the last tensor that vLLM reads
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    await engine.pause(InFlight.WAIT)
    with pytest.raises(CheckpointError, match="vLLM cannot read the weights in"):
        await engine.replace_weights(tmp_path, 9)
    await engine.replace_weights(versions[1].folder, 2)
    await engine.resume()
    assert await engine.score(CANARY_TOKENS) == pytest.approx(versions[1].canaries[0].logprobs, abs=TOLERANCE_NATS)


def tree_request(number: int) -> TreeRequest:
    """A request of its own, for one of a few prompts."""
    prompt = "".join(map(str, PROMPT_TOKENS[number % len(PROMPT_TOKENS)]))
    asked = request(SEARCH, seed=number)
    return replace(asked, tree_id=f"tree-{number}", problem=replace(asked.problem, prompt=prompt))


@asynccontextmanager
async def trees_from_streams(
    engine: VllmEngine, served: ServedWeights, settings: SamplerSettings, redis_url: str
) -> AsyncIterator[list[Tree]]:
    """A sampler's worker that never runs out of prompts; on leaving, the list holds all trees that were asked for."""
    redis = await connect(redis_url)
    run = f"soak-{uuid.uuid4().hex}"
    client = Streams(redis, run, "client")
    await client.create()
    stopping, enough = asyncio.Event(), asyncio.Event()
    asked: list[str] = []

    async def ask() -> None:
        while not enough.is_set():
            while await client.waiting(PROMPTS) > 16:
                await asyncio.sleep(0.02)
            batch = [tree_request(len(asked) + i) for i in range(32)]
            payloads = [(one.tree_id, codec.encode_request(one).SerializeToString()) for one in batch]
            await client.enqueue(batch[0].tree_id, payloads)
            asked.extend(one.tree_id for one in batch)

    worker = SamplerWorker(engine, DigitCodec(), served, settings)
    working = asyncio.create_task(worker.run(Streams(redis, run, "worker"), stopping))
    asking = asyncio.create_task(ask())
    trees: list[Tree] = []
    try:
        yield trees
        enough.set()
        await asking
        while await client.waiting(TREES) < len(asked):
            await asyncio.sleep(0.05)
        while entries := await client.read(TREES, 1000):
            trees += [codec.decode_tree(codec.parse(tree_pb2.Tree, entry.payload)) for entry in entries]
        assert sorted(tree.tree_id for tree in trees) == sorted(asked)
        assert await client.dead_letters() == []
    finally:
        asking.cancel()
        stopping.set()
        await working
        await redis.aclose()


async def responses_ended(count: int) -> None:
    """Wait for so many more responses."""
    responses = metrics.SAMPLED_LEAVES._value
    before = responses.get()
    while responses.get() < before + count:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("in_flight", list(InFlight))
async def test_many_reloads_under_load_serve_nothing_stale_and_lose_no_tree(
    engine: VllmEngine,
    served: ServedWeights,
    settings: SamplerSettings,
    folder: Path,
    versions: list[PublishedWeights],
    redis_server: str,
    in_flight: InFlight,
) -> None:
    async with trees_from_streams(engine, served, settings, redis_server) as trees:
        for weights in itertools.islice(itertools.cycle(versions), RELOADS):
            await load(served, weights, in_flight)
            await responses_ended(4)
    for tree in trees:
        check_tree(tree.branches)
        assert len(tree.branches) in (2, 4, 6)  # a chain of a single token cannot be forked
    sampled = trees_sampled(trees)
    assert {one.version for one in sampled} == {1, 2, 3, 4}
    assert largest_difference(folder, sampled) <= TOLERANCE_NATS


class OneSalt:
    """An AsyncLLM in which every request has the same salt, whatever weights there are."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def generate(self, prompt: dict[str, Any], *rest: Any, **named: Any) -> Any:
        return self._llm.generate(prompt | {"cache_salt": "always the same"}, *rest, **named)


async def test_without_a_salt_the_same_property_fails(
    engine: VllmEngine,
    served: ServedWeights,
    settings: SamplerSettings,
    folder: Path,
    versions: list[PublishedWeights],
    redis_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "_llm", OneSalt(engine._llm))
    async with trees_from_streams(engine, served, settings, redis_server) as trees:
        for weights in (*versions, *versions):
            await load(served, weights, InFlight.KEEP)
            await responses_ended(16)
    assert largest_difference(folder, trees_sampled(trees)) > 100 * TOLERANCE_NATS
