"""Several samplers on one stream of prompts, on a real server, with scripted engines."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.common import codec
from services.common.errors import CanaryError
from services.common.published_weights import Canary, PublishedWeights, publish
from services.common.streams import PROMPTS, TREES, Streams, connect
from services.common.tree import SearchParameters, Tree
from services.sampler.engine import InFlight
from services.sampler.settings import SamplerSettings
from services.sampler.weights import ServedWeights
from services.sampler.worker import SamplerWorker
from tests.builders import request
from tests.scripted_engine import DigitCodec, ScriptedEngine
from treerl.common.v1 import tree_pb2


@pytest.fixture
async def run(redis_server: str) -> AsyncIterator[Callable[[str], Streams]]:
    """Makes consumers of one run that no other test has."""
    redis = await connect(redis_server)
    name = f"test-{uuid.uuid4().hex}"
    await Streams(redis, name, "setup").create()
    yield lambda consumer: Streams(redis, name, consumer)
    await redis.aclose()


def published(root: Path, version: int) -> PublishedWeights:
    return publish(root, version, [Canary((1, 2), (-1.0,))], lambda folder: (folder / "config.json").write_text("{}"))


class Sampler:
    """A sampler at work on a run's streams; leave it to stop it."""

    def __init__(self, streams: Streams, weights: PublishedWeights, instance: str = "test") -> None:
        self.engine = ScriptedEngine(latency_s=0.01)
        self.engine.policy_version = weights.policy_version
        self.weights = ServedWeights(self.engine, weights, tolerance_nats=1e-3)
        settings = SamplerSettings(model=Path("model"), instance=instance, trees_in_flight=4)
        self._worker = SamplerWorker(self.engine, DigitCodec(), self.weights, settings)
        self._streams = streams
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> "Sampler":
        self._working = asyncio.create_task(self._worker.run(self._streams, self._stopping))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        await self._working

    async def load(self, weights: PublishedWeights) -> None:
        await self.weights.load(weights.folder, weights.policy_version, weights.checksum, InFlight.WAIT)


async def ask(trainer: Streams, step: int, min_policy_version: int) -> list[str]:
    """Put 20 prompts on the stream; gives their ids."""
    asked = [
        replace(request(SearchParameters(2), i), tree_id=f"{step}/{i}", min_policy_version=min_policy_version)
        for i in range(20)
    ]
    payloads = [(one.tree_id, codec.encode_request(one).SerializeToString()) for one in asked]
    await trainer.enqueue(f"step-{step}", payloads)
    return [one.tree_id for one in asked]


async def collect(trainer: Streams, count: int) -> list[Tree]:
    trees: list[Tree] = []
    async with asyncio.timeout(20):
        while len(trees) < count:
            trees += [
                codec.decode_tree(codec.parse(tree_pb2.Tree, entry.payload)) for entry in await trainer.read(TREES, 99)
            ]
    return trees


def versions(trees: list[Tree]) -> set[int]:
    return {span.policy_version for tree in trees for branch in tree.branches for span in branch.versions}


async def test_a_sampler_that_lags_leaves_prompts_to_the_others_until_it_has_loaded(
    run: Callable[[str], Streams], tmp_path: Path
) -> None:
    old, new = published(tmp_path, 3), published(tmp_path, 4)
    trainer = run("trainer")
    async with Sampler(run("lagging"), old) as lagging:
        asked = await ask(trainer, 5, min_policy_version=4)
        await asyncio.sleep(0.3)
        assert await trainer.waiting(PROMPTS) == 20, "it holds prompts that it cannot serve"
        async with Sampler(run("new"), new, instance="new"):
            trees = await collect(trainer, 20)
        assert sorted(tree.tree_id for tree in trees) == sorted(asked)
        assert versions(trees) == {4}
        assert {tree.sampler for tree in trees} == {"new"}
        assert lagging.engine.requests == []

        asked = await ask(trainer, 6, min_policy_version=4)
        await lagging.load(new)
        trees = await collect(trainer, 20)
        assert sorted(tree.tree_id for tree in trees) == sorted(asked)
        assert versions(trees) == {4}


async def test_a_sampler_that_lagged_goes_on_when_the_run_itself_goes_back(
    run: Callable[[str], Streams], tmp_path: Path
) -> None:
    trainer = run("trainer")
    async with Sampler(run("sampler"), published(tmp_path, 3)) as sampler:
        await ask(trainer, 9, min_policy_version=8)
        await asyncio.sleep(0.1)
        await trainer.reset()  # the trainer took up an earlier checkpoint
        await sampler.load(published(tmp_path / "again", 2))
        asked = await ask(trainer, 3, min_policy_version=2)
        assert sorted(tree.tree_id for tree in await collect(trainer, 20)) == sorted(asked)


async def test_a_sampler_with_a_wrong_canary_takes_no_prompt_until_a_good_load(
    run: Callable[[str], Streams], tmp_path: Path
) -> None:
    trainer = run("trainer")
    async with Sampler(run("sampler"), published(tmp_path, 3)) as sampler:
        wrong = published(tmp_path, 4)
        sampler.engine.canary_errors[4] = 0.2
        with pytest.raises(CanaryError):
            await sampler.load(wrong)
        await ask(trainer, 4, min_policy_version=0)
        await asyncio.sleep(0.7)  # a read that began before may take as many as there are slots
        assert await trainer.waiting(PROMPTS) >= 16

        sampler.engine.canary_errors.clear()
        await sampler.load(wrong)
        assert versions(await collect(trainer, 20)) <= {3, 4}
