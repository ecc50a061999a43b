"""The trainer's settings."""

from pathlib import Path
from typing import Any

import pytest

from services.common.errors import ConfigurationError
from services.common.settings import load_settings
from services.trainer.settings import TrainerSettings

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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": "rloo"}, "set search.forks to 0"),
        ({"advantage": "best"}, "advantage: Input should be 'treerl'"),
        ({"search": {"chain": 3}}, "search.chain: Extra inputs"),
        ({"samplers": []}, "samplers: "),
        ({"clip_high": 0.9}, "clip_high: .* greater than or equal to 1"),
        ({"kl_coefficient": -0.1}, "kl_coefficient: .* greater than or equal to 0"),
        ({"mismatch_ratio_cap": 1.0}, "mismatch_ratio_cap: .* greater than 1"),
        ({"mismatch_correction": "both"}, "mismatch_correction: Input should be 'off', 'token' or 'sequence'"),
        ({"packing": "dense"}, "packing: Input should be 'tree' or 'flat'"),
        ({"loss_mean": "prompt"}, "loss_mean: Input should be 'token' or 'sequence'"),
        ({"advantage_normalization": "std"}, "advantage_normalization: Input should be 'none' or 'batch_std'"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_settings(TrainerSettings, **NEEDED | changes)
