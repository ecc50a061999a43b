"""`treerl train --dry-run`: the configurations that come with the project, and files that do not fit together."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from services.cli.dry_run import dry_run, model_size
from services.common.errors import ConfigurationError

CONFIGS = Path(__file__).parents[2] / "configs"

QWEN_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
"""As Qwen2.5-7B is published; it has 7.6 billion parameters."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a config.json alone."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN_7B))
    return folder


def told(config: Path) -> str:
    console = Console(width=160, record=True)
    dry_run(config, console)
    return console.export_text()


def with_model(config: str, model: Path, **changes: str) -> Path:
    """A copy of a configuration with another model, and other texts in place of some."""
    text = (CONFIGS / config).read_text()
    for line in {line for line in text.splitlines() if line.startswith("model = ")}:
        text = text.replace(line, f'model = "{model}"')
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = model.parent / config
    path.write_text(text)
    return path


@pytest.mark.parametrize("config", ["qwen2.5-7b-math.toml", "qwen2.5-14b-treerl.toml"])
def test_the_project_s_configurations_are_valid_and_what_is_missing_is_told(config: str) -> None:
    text = told(CONFIGS / config)
    assert "settings of sampler, verifier and trainer are valid and agree" in text
    assert "Missing on this machine: the model, models/Qwen2.5" in text
    assert "of heldout_data" in text
    assert "1.00 billion parameters" in text


def test_the_paper_s_run_has_its_sizes(model: Path) -> None:
    text = told(CONFIGS / "qwen2.5-14b-treerl.toml")
    assert "30  (M, N, L, T) = (6, 2, 1, 2)" in text
    assert f"{16 * 30 * 8192:,}" in text


def test_memory_follows_from_the_model_s_config_alone(model: Path) -> None:
    size = model_size(model)
    assert size is not None
    assert size.parameters == 7_615_616_512
    text = told(with_model("qwen2.5-7b-math.toml", model))
    assert "7.62 billion parameters, bf16" in text
    assert "Missing on this machine: the model" not in text
    # on four processes: 18 · 7.6156e9 / 4 bytes, and 6,144 tokens of 3584 · (28 · 2 + 34) + 16 · 152,064 bytes
    assert "31.9 GiB" in text
    assert f"{31.917 + 6144 * (3584 * (28 * 2 + 34) + 16 * 152064) / 2**30:.1f} GiB" in text
    # a sampler keeps 2 · 28 · 4 · 128 numbers of 2 bytes for each of 3,072 tokens
    assert f"takes {3072 * 2 * 28 * 4 * 128 * 2 / 2**30:.1f} GiB for 3,072 tokens" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_model_tokens = 3072", "max_model_tokens = 2048", "raise max_model_tokens"),
        ('precision = "bfloat16"', 'precision = "float32"', r"precision is float32 in \[sampler\] but bf16"),
        ("math_workers = 8", "math_worker = 8", r"unknown key 'math_worker' in \[verifier\]"),
        ("weight = 3", "weight = -3", "weight"),
    ],
)
def test_what_does_not_fit_is_an_error(model: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        dry_run(with_model("qwen2.5-7b-math.toml", model, **{old: new}), Console(record=True))
