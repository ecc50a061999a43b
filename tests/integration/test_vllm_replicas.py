"""Two replicas of a policy behind one sampler: both reload, and a tree stays where its prefixes are cached."""

import asyncio
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from services.common.published_weights import unpublished
from services.common.tree import SearchParameters, Tree, TreeRequest
from services.sampler.engine import InFlight
from services.sampler.eptree import search
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_engine import VllmEngine
from services.sampler.weights import ServedWeights
from tests.builders import request
from tests.integration.sent_weights import send
from tests.integration.tiny_policy import CANARY_TOKENS, MODEL_TOKENS, published, trainer_logprobs, write_policy
from tests.scripted_engine import DigitCodec

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def tree_request(name: str) -> TreeRequest:
    return replace(request(SearchParameters(2, 2, 1, 2), seed=zlib.crc32(name.encode()), max_tokens=100), tree_id=name)


def most_prefilled(trees: list[Tree]) -> int:
    """Tokens of a fork's prefix that were computed again, at most."""
    return max(branch.prefilled_tokens for tree in trees for branch in tree.branches if branch.parent_id is not None)


async def test_replicas_reload_together_and_trees_fork_where_their_prefix_is(tmp_path: Path) -> None:
    write_policy(tmp_path / "start", seed=0)
    settings = SamplerSettings(
        model=tmp_path / "start",
        weights_transport="broadcast",
        max_model_tokens=MODEL_TOKENS,
        max_sequences=64,
        data_parallel=2,
        instance="test",
    )
    engine = await VllmEngine.start(settings, settings.model, policy_version=0)
    try:
        served = ServedWeights(engine, unpublished(settings.model), tolerance_nats=1e-3)
        searching = asyncio.gather(*(search(engine, DigitCodec(), tree_request(f"before-{i}")) for i in range(8)))
        for version, in_flight in enumerate(InFlight, start=1):
            weights = published(tmp_path, version, seed=version)
            loaded = await served.load(weights.folder, version, weights.checksum, in_flight)
            assert loaded.canary_max_abs_logprob_diff <= 1e-3
        await searching
        known = trainer_logprobs(tmp_path / "policy-3", [weights.canaries[0].token_ids])[0]
        for replica in range(2):
            assert await engine.score(weights.canaries[0].token_ids, replica) == pytest.approx(known, abs=1e-3)
        await send(served, tmp_path / "policy-1", 4, receivers=2)
        known = trainer_logprobs(tmp_path / "policy-1", [CANARY_TOKENS])[0]
        for replica in range(2):
            assert await engine.score(CANARY_TOKENS, replica) == pytest.approx(known, abs=1e-3)
        after = await asyncio.gather(*(search(engine, DigitCodec(), tree_request(f"after-{i}")) for i in range(8)))
        assert {s.policy_version for tree in after for branch in tree.branches for s in branch.versions} == {4}
        assert most_prefilled(after) == 1
    finally:
        engine.close()
