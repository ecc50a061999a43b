"""The verifier's settings and the names they use."""

from pathlib import Path
from typing import get_args

import pytest

from services.common.errors import ConfigurationError
from services.common.settings import load_settings
from services.common.verdict import Cases
from services.verifier.sandbox.isolation import IsolationLevel
from services.verifier.settings import VerifierSettings
from treerl.common.v1 import verdict_pb2
from treerl.verifier.v1 import verifier_service_pb2 as pb


def test_the_table_is_read_and_checked(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[verifier]\nmath_workers = 3\nmin_isolation = 'namespaces'\n")
    settings = load_settings(VerifierSettings, config)
    assert (settings.math_workers, settings.min_isolation) == (3, "namespaces")
    config.write_text("[verifier]\nmath_timeout_s = 0\n")
    with pytest.raises(ConfigurationError, match="math_timeout_s"):
        load_settings(VerifierSettings, config)


def test_choices_of_cases_have_one_name_and_number_everywhere() -> None:
    choices = get_args(VerifierSettings.model_fields["code_cases"].annotation)
    assert [choice.name.lower() for choice in Cases] == list(choices)
    numbers = {f"CASES_{choice.name}": choice.value for choice in Cases}
    assert numbers == {name: number for name, number in verdict_pb2.Cases.items() if number}


def test_isolation_levels_have_one_name_and_number_everywhere() -> None:
    choices = get_args(VerifierSettings.model_fields["min_isolation"].annotation)
    assert [level.name.lower() for level in IsolationLevel] == list(choices)
    numbers = {f"ISOLATION_LEVEL_{level.name}": int(level) for level in IsolationLevel}
    assert numbers == {name: number for name, number in pb.IsolationLevel.items() if number}
