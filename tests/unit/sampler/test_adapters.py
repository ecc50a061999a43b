"""LoRA adapters as the settings name them."""

import json
from pathlib import Path

import pytest

from services.common.errors import ConfigurationError
from services.sampler.adapters import Adapter, engine_rank, read_adapters


def folder_with(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(text)
    return path


def test_an_adapters_rank_is_the_largest_of_its_matrices(tmp_path: Path) -> None:
    plain = folder_with(tmp_path / "plain", json.dumps({"r": 4}))
    patterned = folder_with(tmp_path / "patterned", json.dumps({"r": 4, "rank_pattern": {"q_proj": 12}}))
    assert read_adapters({"a": plain, "b": patterned}) == [Adapter("a", plain, 4), Adapter("b", patterned, 12)]


@pytest.mark.parametrize(("ranks", "expected"), [((), 1), ((1,), 1), ((4, 9), 16), ((512,), 512)])
def test_the_engine_reserves_the_next_rank_that_it_knows(ranks: tuple[int, ...], expected: int) -> None:
    assert engine_rank([Adapter("a", Path("a"), rank) for rank in ranks]) == expected


def test_too_large_an_adapter_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rank 513: expected at most 512"):
        engine_rank([Adapter("a", Path("a"), 513)])


def test_a_folder_without_an_adapter_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="adapter 'terse': cannot read .*nowhere"):
        read_adapters({"terse": tmp_path / "nowhere"})


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"r": null}'])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no LoRA configuration of peft"):
        read_adapters({"terse": folder_with(tmp_path / "terse", text)})
