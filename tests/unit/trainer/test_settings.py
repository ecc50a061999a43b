"""The trainer's settings."""

from pathlib import Path
from typing import Any

import pytest

from services.common.errors import ConfigurationError
from services.common.settings import load_settings
from services.common.tree import Logprobs, SamplingParameters, SpecialTokens
from services.trainer.settings import LoraSettings, SamplingSettings, TrainerSettings

NEEDED: dict[str, Any] = {
    "model": Path("m"),
    "output_dir": Path("o"),
    "train_data": Path("d"),
    "samplers": ["h:1"],
    "steps": 1,
}


def test_defaults_are_the_papers() -> None:
    settings = load_settings(TrainerSettings, **NEEDED)

    assert settings.search.parameters().max_leaves == 30
    assert (settings.sampling.temperature, settings.sampling.top_p) == (1.2, 0.95)
    assert (settings.prompts_per_step, settings.learning_rate) == (16, 1.5e-6)
    assert (settings.clip_low, settings.clip_high) == (0.8, 1.26)
    assert (settings.kl_coefficient, settings.mismatch_correction, settings.loss_mean) == (0.0, "off", "token")


def test_a_table_changes_single_keys_of_a_nested_one(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[trainer]\nsearch = { chains = 30, forks = 0 }\nadvantage = 'rloo'\n")

    settings = load_settings(TrainerSettings, config, **NEEDED)

    assert settings.search.parameters().max_leaves == 30
    assert settings.search.selection == "surprisal"


def test_masks_reach_the_search(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[trainer.search]\nspecial_tokens = 'forkable'\nanswer_markers = ['\\boxed{', '####']\n")

    search = load_settings(TrainerSettings, config, **NEEDED).search.parameters()

    assert (search.special_tokens, search.answer_markers) == (SpecialTokens.FORKABLE, ("\\boxed{", "####"))


def test_an_empty_table_asks_for_adapters(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[trainer.lora]\n")

    assert load_settings(TrainerSettings, config, **NEEDED).lora == LoraSettings(rank=16, alpha=32)
    assert load_settings(TrainerSettings, **NEEDED).lora is None


def test_evaluation_differs_from_training_in_the_draw_alone() -> None:
    sampling = SamplingSettings(
        temperature=0.7, max_tokens=9, min_tokens=2, stop=("x",), stop_token_ids=(3,), logprobs="raw_and_sampling"
    )
    assert sampling.parameters(seed=4) == SamplingParameters(
        0.7, 0.95, 9, 4, ("x",), (3,), 2, Logprobs.RAW_AND_SAMPLING
    )
    assert sampling.greedy_parameters() == SamplingParameters(0.0, 1.0, 9, None, ("x",), (3,), 2, Logprobs.RAW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": "rloo"}, "set search.forks to 0"),
        ({"advantage": "best"}, "advantage: Input should be 'treerl'"),
        ({"search": {"chain": 3}}, "search.chain: Extra inputs"),
        ({"search": {"answer_markers": [""]}}, "search.answer_markers.0: .* at least 1 character"),
        ({"samplers": []}, "samplers: "),
        ({"sampling": {"min_tokens": 9, "max_tokens": 8}}, "min_tokens is 9: expected at most max_tokens, 8"),
        ({"sampling": {"logprobs": "both"}}, "sampling.logprobs: Input should be 'raw' or 'raw_and_sampling'"),
        ({"clip_high": 0.9}, "clip_high: .* greater than or equal to 1"),
        ({"kl_coefficient": -0.1}, "kl_coefficient: .* greater than or equal to 0"),
        ({"mismatch_ratio_cap": 1.0}, "mismatch_ratio_cap: .* greater than 1"),
        ({"mismatch_correction": "both"}, "mismatch_correction: Input should be 'off', 'token' or 'sequence'"),
        ({"max_policy_lag": 1}, "max_policy_lag is 1 but mismatch_correction is off"),
        ({"max_policy_lag": -1}, "max_policy_lag: .* greater than or equal to 0"),
        ({"uniform_trees": "drop"}, "uniform_trees: Input should be 'train' or 'replace'"),
        ({"offload": "optimizer"}, "offload 'optimizer' needs zero_stage 1 or more, set is 0"),
        ({"offload": "optimizer_and_weights", "zero_stage": 2}, "needs zero_stage 3 or more, set is 2"),
        ({"lora": {"rank": 0}}, "lora.rank: .* greater than or equal to 1"),
        ({"warmup_steps": 2}, "warmup_steps is 2: expected at most steps, 1"),
        ({"min_learning_rate": 2e-6}, "min_learning_rate is 2e-06: expected at most learning_rate, 1.5e-06"),
        ({"packing": "dense"}, "packing: Input should be 'tree' or 'flat'"),
        ({"loss_mean": "prompt"}, "loss_mean: Input should be 'token' or 'sequence'"),
        ({"advantage_normalization": "std"}, "advantage_normalization: Input should be 'none' or 'batch_std'"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_settings(TrainerSettings, **NEEDED | changes)
