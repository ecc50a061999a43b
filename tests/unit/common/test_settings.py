"""Settings: what wins over what, and what is refused."""

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

from services.common.errors import ConfigurationError
from services.common.settings import ServiceSettings, load_settings


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    chains: int = Field(default=6, ge=1)
    forks: int = 2


class ExampleSettings(ServiceSettings):
    """An example."""

    table: ClassVar[str] = "sampler"

    size: int = Field(default=1, ge=1, le=10)
    shape: Shape = Shape()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text('run = "r"\n[sampler]\nsize = 2\nshape = { chains = 3 }\n[trainer]\nsteps = 3\n')
    return path


def test_the_file_wins_over_defaults(config: Path) -> None:
    settings = load_settings(ExampleSettings, config)
    assert (settings.run, settings.size, settings.shape) == ("r", 2, Shape(chains=3))


def test_the_environment_wins_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREERL_SAMPLER_SIZE", "3")
    monkeypatch.setenv("TREERL_SAMPLER_SHAPE__FORKS", "9")
    monkeypatch.setenv("TREERL_RUN", "from-environment")
    settings = load_settings(ExampleSettings, config)
    assert (settings.run, settings.size, settings.shape) == ("from-environment", 3, Shape(chains=3, forks=9))


def test_flags_win_over_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREERL_SAMPLER_SIZE", "3")
    settings = load_settings(ExampleSettings, config, ["--size", "4", "--shape.chains", "5"])
    assert (settings.size, settings.shape.chains) == (4, 5)


def test_another_services_port_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREERL_PORT", "1234")
    assert load_settings(ExampleSettings).port == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[sampler]\nsise = 2\n", r"unknown key 'sise' in \[sampler\]"),
        ("sise = 2\n", "unknown key 'sise'"),
        ("[samplr]\nsize = 2\n", "unknown key 'samplr'"),
        ("[sampler]\nsize = 20\n", "size: Input should be less than or equal to 10"),
        ("[sampler]\nshape = { chain = 2 }\n", "shape.chain: Extra inputs are not permitted"),
        ("[sampler\n", "is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=complaint):
        load_settings(ExampleSettings, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read config .*nowhere.toml"):
        load_settings(ExampleSettings, tmp_path / "nowhere.toml")


def test_a_misspelt_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREERL_SAMPLER_SISE", "2")
    with pytest.raises(ConfigurationError, match="TREERL_SAMPLER_SISE names no setting"):
        load_settings(ExampleSettings)
