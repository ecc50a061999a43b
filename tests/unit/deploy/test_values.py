"""The chart's values: each described in the schema, and listed in the README."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import jsonschema
import yaml

from monitoring.__main__ import ROOT

CHART = ROOT / "k8s" / "treerl"
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def described(schema: dict[str, Any], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for key, value in schema.get("properties", {}).items():
        names |= described(value, f"{prefix}{key}.") if "properties" in value else {f"{prefix}{key}"}
    return names


def given(values: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for key, value in values.items():
        inner = schema.get("properties", {}).get(key, {})
        names |= given(value, inner, f"{prefix}{key}.") if "properties" in inner else {f"{prefix}{key}"}
    return names


def test_schema_and_defaults_name_the_same_values() -> None:
    assert described(SCHEMA) - {"global"} == given(DEFAULTS, SCHEMA)


def test_the_defaults_and_every_values_file_fit_the_schema() -> None:
    jsonschema.validate(DEFAULTS, SCHEMA)
    files = sorted((ROOT / "k8s" / "values").glob("*.yaml"))
    assert len(files) == 3
    for path in files:
        jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), SCHEMA)


def test_yamllint_finds_nothing() -> None:
    paths = [CHART / "values.yaml", CHART / "Chart.yaml", ROOT / "k8s" / "values", ROOT / "docker" / "prometheus"]
    command = [sys.executable, "-m", "yamllint", "--strict", "--config-file", ROOT / ".yamllint", *paths]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_table_of_values_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("values_table", ROOT / "k8s" / "values_table.py")
    assert spec is not None
    assert spec.loader is not None
    values_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(values_table)
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    assert readme == values_table.with_table(readme), "run python k8s/values_table.py and commit"
