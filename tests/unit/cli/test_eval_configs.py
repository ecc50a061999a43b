"""The configurations of published data sets: their tables, and the commands that they name."""

import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from services.cli.main import app
from services.common.settings import load_settings
from services.sampler.settings import SamplerSettings
from services.verifier.settings import VerifierSettings

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "eval").glob("*.toml"))


def test_there_is_one_for_each_data_set() -> None:
    assert [path.stem for path in CONFIGS] == ["gsm8k", "humaneval", "math500", "olympiadbench"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_its_tables_are_valid(config: Path) -> None:
    assert load_settings(SamplerSettings, config, model=Path("m")).prompt_format == "chat"
    load_settings(VerifierSettings, config)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_command_that_it_names_is_one(config: Path) -> None:
    comment = "\n".join(line.removeprefix("#") for line in config.read_text().splitlines() if line.startswith("#"))
    words = shlex.split(comment[comment.index("treerl eval") :].replace("\\\n", ""))[1:]

    _, command, rest = get_command(app).resolve_command(None, words)  # type: ignore[attr-defined]
    asked = command.make_context("eval", rest).params

    assert asked["config"].stem == config.stem
    assert asked["samples"] > 0
