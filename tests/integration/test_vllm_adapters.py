"""LoRA adapters on real vLLM: requests draw from the one that they name, and nothing of one serves another.

One engine serves all tests; it takes about 30 s to start.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from services.common.errors import ConfigurationError, InvalidRequestError
from services.common.published_weights import unpublished
from services.common.tree import SamplingParameters, SearchParameters, TreeRequest, path_tokens
from services.sampler.adapters import Adapter
from services.sampler.engine import CompletionRequest, InFlight
from services.sampler.eptree import search
from services.sampler.settings import SamplerSettings
from services.sampler.vllm_arguments import CPU_BLOCK_TOKENS
from services.sampler.vllm_engine import VllmEngine
from services.sampler.weights import ServedWeights
from tests.builders import PROBLEM
from tests.integration.tiny_policy import CANARY_TOKENS, published, trainer_logprobs, write_policy
from tests.scripted_engine import DigitCodec

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.vllm]

RANK = 4
SCALE = 2.0
"""lora_alpha / r, by which peft multiplies an adapter."""


def adapter_tensors(seed: int) -> dict[str, torch.Tensor]:
    """A random adapter of two projections of each layer, under peft's names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{matrix}.weight": 0.3
        * torch.randn((RANK, 64) if matrix == "A" else (64, RANK), generator=generator)
        for layer in range(2)
        for module in ("q_proj", "v_proj")
        for matrix in "AB"
    }


def write_adapter(folder: Path, seed: int) -> None:
    folder.mkdir()
    save_file(adapter_tensors(seed), folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": SCALE * RANK, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def merged_logprobs(policy: Path, seed: int, token_ids: tuple[int, ...], scratch: Path) -> tuple[float, ...]:
    """What the trainer's model gives once an adapter is added to its matrices: W + (alpha / r) · B · A."""
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    tensors = adapter_tensors(seed)
    for name in [name for name in tensors if name.endswith("lora_A.weight")]:
        matrix = model.get_parameter(name.removeprefix("base_model.model.").replace("lora_A.", ""))
        matrix.data += SCALE * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    model.save_pretrained(scratch)
    return trainer_logprobs(scratch, [token_ids])[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters")
    write_policy(path / "policy", seed=0)
    write_adapter(path / "terse", seed=1)
    write_adapter(path / "chatty", seed=2)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder: Path) -> AsyncIterator[VllmEngine]:
    settings = SamplerSettings(
        model=folder / "policy",
        adapters={"terse": folder / "terse", "chatty": folder / "chatty"},
        max_model_tokens=256,
        max_sequences=16,
        instance="test",
    )
    started = await VllmEngine.start(settings, settings.model, policy_version=0)
    yield started
    started.close()


# all at once: vLLM's CPU kernels must not give the policy's own tokens the last adapter
async def test_each_request_draws_from_the_adapter_that_it_names(
    engine: VllmEngine, folder: Path, tmp_path: Path
) -> None:
    names = ["", "terse", "chatty"]
    asked = [CompletionRequest(CANARY_TOKENS, 1.0, 1.0, 40, seed=7, min_tokens=40, adapter=name) for name in names]
    drawn = await asyncio.gather(*map(engine.complete, asked))
    for seed, (name, completion) in enumerate(zip(names, drawn, strict=True)):
        tokens = CANARY_TOKENS + completion.token_ids
        if name:
            expected = merged_logprobs(folder / "policy", seed, tokens, tmp_path / name)
        else:
            expected = trainer_logprobs(folder / "policy", [tokens])[0]
        assert completion.logprobs == pytest.approx(expected[len(CANARY_TOKENS) - 1 :], abs=1e-3), name


async def test_no_prefix_serves_another_adapter(engine: VllmEngine) -> None:
    prompt = tuple(4 + i % 40 for i in range(4 * CPU_BLOCK_TOKENS))
    prefilled = {}
    for name in ("", "terse", "chatty"):
        asked = CompletionRequest(prompt, 0.0, 1.0, 1, adapter=name)
        prefilled[name] = [(await engine.complete(asked)).prefilled_tokens for _ in range(2)]
    assert all(cold == len(prompt) and warm == 1 for cold, warm in prefilled.values())


async def test_a_tree_and_its_forks_come_from_one_adapter(engine: VllmEngine, folder: Path, tmp_path: Path) -> None:
    sampling = SamplingParameters(1.0, 1.0, 40, seed=1, min_tokens=10, adapter="terse")
    tree = await search(engine, DigitCodec(), TreeRequest("t", PROBLEM, SearchParameters(1, 1, 1, 1), sampling))
    fork = tree.branches[1]
    tokens = tree.prompt_token_ids + path_tokens(tree.branches, fork.id)
    expected = merged_logprobs(folder / "policy", 1, tokens, tmp_path / "merged")
    assert fork.logprobs == pytest.approx(expected[-len(fork.token_ids) :], abs=1e-3)


async def test_an_unknown_adapter_is_refused_with_the_known_ones(engine: VllmEngine) -> None:
    with pytest.raises(InvalidRequestError, match="no adapter 'tense': known are terse, chatty"):
        await engine.complete(CompletionRequest((5, 6), 1.0, 1.0, 4, adapter="tense"))


async def test_an_adapter_that_vllm_cannot_load_is_a_configuration_error(engine: VllmEngine, tmp_path: Path) -> None:
    write_adapter(tmp_path / "broken", seed=3)
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="vLLM cannot load adapter 'broken'"):
        await engine._load_adapters([Adapter("broken", tmp_path / "broken", RANK)])
    await engine.complete(CompletionRequest((5, 6), 1.0, 1.0, 4, adapter="terse"))


async def test_a_reload_replaces_the_policy_below_an_adapter(engine: VllmEngine, folder: Path, tmp_path: Path) -> None:
    weights = published(folder, 1, seed=5)
    served = ServedWeights(engine, unpublished(folder / "policy"), tolerance_nats=1e-3)
    await served.load(weights.folder, 1, weights.checksum, InFlight.WAIT)
    completion = await engine.complete(CompletionRequest(CANARY_TOKENS, 1.0, 1.0, 20, seed=1, adapter="terse"))
    expected = merged_logprobs(weights.folder, 1, CANARY_TOKENS + completion.token_ids, tmp_path / "merged")
    assert completion.logprobs == pytest.approx(expected[len(CANARY_TOKENS) - 1 :], abs=1e-3)
    assert [span.policy_version for span in completion.versions] == [1]
