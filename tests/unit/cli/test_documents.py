import tomllib
from pathlib import Path

import pytest

from services.cli.documents import merged, read_document, to_toml
from services.common.errors import ConfigurationError

DOCUMENT = {
    "run": 'a "quoted" name',
    "trainer": {"steps": 3, "learning_rate": 3e-4, "samplers": ["127.0.0.1:1"], "search": {"chains": 6, "forks": 2}},
    "sampler": {"model": "/tmp/ä model", "stop": []},
}


def test_what_is_written_reads_back_the_same() -> None:
    assert tomllib.loads(to_toml(DOCUMENT)) == DOCUMENT


def test_changes_reach_into_tables_and_leave_the_original_alone() -> None:
    changed = merged(DOCUMENT, {"trainer": {"search": {"forks": 0}}, "host": "::1"})
    assert changed["trainer"]["search"] == {"chains": 6, "forks": 0}
    assert changed["trainer"]["steps"] == 3
    assert changed["host"] == "::1"
    assert DOCUMENT["trainer"] == {**changed["trainer"], "search": {"chains": 6, "forks": 2}}


def test_a_missing_file_and_a_broken_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read config .*: No such file"):
        read_document(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("steps = = 3")
    with pytest.raises(ConfigurationError, match=r"broken\.toml is not TOML: "):
        read_document(tmp_path / "broken.toml")
