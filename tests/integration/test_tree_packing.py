"""Packed trees against single responses on real models: the same gradient, whatever the family, tree and advantage."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from services.trainer.advantages import CHAIN_ADVANTAGES, AdvantageName, WeightedTree, weigh_tree
from services.trainer.language_model import TargetLogits, recompute_layers, target_logits
from services.trainer.loss import token_logprobs, token_scores
from services.trainer.objective import Objective
from services.trainer.packing import LossMean, Microbatch, pack
from services.trainer.packing_check import prepare_for_trees
from services.trainer.rows import Packing, tree_rows
from tests.builders import random_tree

CPU = torch.device("cpu")
VOCABULARY, TEMPERATURE = 24, 1.2
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen2, windows": (Qwen2Config, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": (Qwen3Config, {}),
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "mistral, windows": (MistralConfig, {"sliding_window": 4}),
}


class Model:
    """A random model that computes both packings; the same for the same spread of its weights."""

    def __init__(self, family: str, dtype: torch.dtype = torch.float32, spread: float = 0.2) -> None:
        torch.manual_seed(0)
        config_type, changes = FAMILIES[family]
        config = config_type(**SIZES | changes, initializer_range=spread)
        self.model = AutoModelForCausalLM.from_config(config).bfloat16().to(dtype).eval()
        self._plain = self.model.config._attn_implementation
        with torch.no_grad():
            assert prepare_for_trees(self.model, self.logits) is None
        self._of_trees = self.model.config._attn_implementation

    def logits(self, batch: Microbatch) -> torch.Tensor:
        return target_logits(TargetLogits(self.model), batch, CPU)

    def gradient(
        self,
        step: Sequence[WeightedTree],
        packing: Packing,
        objective: Objective,
        mean: LossMean,
        budget: int,
        moved: float = 0.02,
    ) -> torch.Tensor:
        """Of an update on a step, after weights have moved so far since its scores, so that ratios are not 1."""
        self.model.set_attn_implementation(self._of_trees if packing == "tree" else self._plain)
        batches = pack([row for t in step for row in tree_rows(t, packing)], packing, budget, mean)
        targets = [torch.from_numpy(batch.target_n) for batch in batches]
        with torch.no_grad():
            before = {name: p.clone() for name, p in self.model.named_parameters()}
            scores = [token_scores(self.logits(b), t, TEMPERATURE) for b, t in zip(batches, targets, strict=True)]
            if objective.kl_coefficient:  # to the model itself, before its weights move
                scores = [replace(score, reference_logprob_n=score.policy_logprob_n) for score in scores]
            torch.manual_seed(1)
            for parameter in self.model.parameters():
                parameter += moved * torch.randn_like(parameter)
        self.model.zero_grad()
        for batch, target_n, score in zip(batches, targets, scores, strict=True):
            new_logprob_n = token_logprobs(self.logits(batch), target_n, TEMPERATURE)
            objective.loss(new_logprob_n, batch, score).total.backward()
        gradient = torch.cat([p.grad.flatten().double() for p in self.model.parameters()])
        self.model.load_state_dict(before, strict=False)
        return gradient


def random_step(seed: int, advantage: AdvantageName) -> list[WeightedTree]:
    rng = random.Random(seed)
    forks = 0 if advantage in CHAIN_ADVANTAGES else 2 + 2 * (seed % 3)
    return [weigh_tree(random_tree(rng, VOCABULARY, forks), advantage) for _ in range(3)]


OBJECTIVES = (
    Objective(0.8, 1.26),
    Objective(0.8, 1.2, 0.1, "token", 2.0, TEMPERATURE),
    Objective(0.8, 1.28, 0.1, "sequence", 1e3, TEMPERATURE),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_single_responses(family: str) -> None:
    model = Model(family)
    for seed, advantage in enumerate(get_args(AdvantageName)):
        objective = OBJECTIVES[seed % len(OBJECTIVES)]
        mean: LossMean = "token" if seed % 2 else "sequence"
        step = random_step(seed, advantage)
        expected = model.gradient(step, "flat", objective, mean, budget=64)

        for budget in (1, 60):
            found = model.gradient(step, "tree", objective, mean, budget)
            assert (found - expected).norm() <= 1e-5 * expected.norm(), (advantage, objective, budget)
        assert expected.norm() > 1e-3


@pytest.mark.parametrize("packing", ["tree", "flat"])
def test_the_gradient_is_the_same_where_layers_are_computed_again(packing: Packing) -> None:
    model, objective = Model("qwen2, windows"), Objective(0.8, 1.26)
    step = random_step(0, "treerl")
    expected = model.gradient(step, packing, objective, "token", budget=64)

    recompute_layers(model.model)
    found = model.gradient(step, packing, objective, "token", budget=64)

    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_in_bf16_points_the_same_way(family: str) -> None:
    # weights as wide as fresh models have them; that they have not moved keeps rounding from deciding what is clipped
    model, exact = Model(family, torch.bfloat16, spread=0.02), Model(family, spread=0.02)
    step, objective = random_step(0, "treerl"), Objective(0.8, 1.26)

    flat, packed = (model.gradient(step, packing, objective, "token", 10_000, moved=0) for packing in ("flat", "tree"))
    single = exact.gradient(step, "flat", objective, "token", 10_000, moved=0)

    assert torch.cosine_similarity(packed, flat, dim=0) >= 0.9999
    assert (packed - single).norm() <= 1.5 * (flat - single).norm()


@pytest.mark.parametrize(
    ("config", "because"),
    [
        (BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4), "its attention cannot be replaced"),
        (Gemma2Config(**SIZES, sliding_window=4), "its attention has soft caps or sinks"),
        (MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4), "linear_attention"),
    ],
)
def test_a_model_that_cannot_pack_is_found_out_and_left_as_it_was(config: PreTrainedConfig, because: str) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    before = model.config._attn_implementation

    reason = prepare_for_trees(model, lambda batch: target_logits(TargetLogits(model), batch, CPU))

    assert because in str(reason)
    assert model.config._attn_implementation == before


def test_a_model_whose_attention_ignores_the_tree_is_found_out() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, initializer_range=0.2)).eval()

    def forgetful(batch: Microbatch) -> torch.Tensor:
        """Packed trees under plain causal attention."""
        model.set_attn_implementation("sdpa")
        return target_logits(TargetLogits(model), replace(batch, layout=None), CPU)

    assert "its logits differ" in str(prepare_for_trees(model, forgetful))
