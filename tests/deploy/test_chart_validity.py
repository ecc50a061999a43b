"""The chart, rendered in every way: well formed, and valid for every Kubernetes that it supports.

Not covered: what a cluster makes of it; none is started here.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from tests.deploy.chart import MATRIX, REQUIRED, kinds, matches, pods
from tests.deploy.helm import CHART, RELEASE, flags, objects, rendered, run

KUBERNETES = ("1.28", "1.31", "1.34", "1.37")
CRDS = {
    schema["properties"]["kind"]["const"]: schema
    for schema in (json.loads(path.read_text()) for path in (Path(__file__).parent / "crds").glob("*.json"))
}


@pytest.mark.parametrize("arguments", MATRIX.values(), ids=MATRIX)
def test_lint_finds_nothing(arguments: list[str]) -> None:
    result = run("lint", "--strict", str(CHART), *arguments)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("arguments", MATRIX.values(), ids=MATRIX)
def test_every_object_fits_the_schema_of_its_kind(arguments: list[str], kubernetes: str) -> None:
    for document in objects(arguments, f"{kubernetes}.0"):
        if document["kind"] in CRDS:
            jsonschema.validate(document, CRDS[document["kind"]])
        else:
            kubernetes_validate.validate(document, kubernetes, strict=True)


@pytest.mark.parametrize("arguments", MATRIX.values(), ids=MATRIX)
def test_the_rendered_text_is_clean(arguments: list[str]) -> None:
    # Helm writes one document after another with their sources as comments; dashboards are one long line each
    rules = {
        "extends": "default",
        "rules": {"line-length": "disable", "indentation": {"indent-sequences": "whatever"}},
    }
    problems = linter.run(rendered(arguments), YamlLintConfig(yaml.safe_dump(rules)))
    assert [str(problem) for problem in problems] == []


@pytest.mark.parametrize("arguments", MATRIX.values(), ids=MATRIX)
def test_every_selector_finds_a_pod(arguments: list[str]) -> None:
    documents = objects(arguments)
    labels = [pod["metadata"]["labels"] for _, pod in pods(documents)]
    selectors = [{"matchLabels": d["spec"]["selector"]} for d in kinds(documents, "Service")]
    selectors += [
        d["spec"]["selector"] for d in kinds(documents, "PodDisruptionBudget", "PodMonitor", "ServiceMonitor")
    ]
    selectors += [d["spec"]["podSelector"] for d in kinds(documents, "NetworkPolicy")]
    selectors += [
        peer["podSelector"]
        for d in kinds(documents, "NetworkPolicy")
        for rule in (*d["spec"].get("ingress", []), *d["spec"].get("egress", []))
        for peer in (*rule.get("from", []), *rule.get("to", []))
        if "podSelector" in peer and "namespaceSelector" not in peer
    ]
    assert len(selectors) >= 4
    for selector in selectors:
        assert any(matches(selector, found) for found in labels), selector


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({**REQUIRED, "sampler__replica": 2}, "replica"),
        ({**REQUIRED, "sampler__replicas": 0}, "minimum"),
        ({**REQUIRED, "verifier__autoscaling__kind": "auto"}, "must be one of"),
        ({"trainData": "/inputs/train.jsonl"}, "model is the folder"),
        ({**REQUIRED, "externalRedis__existingSecret": "my-redis"}, "networkPolicy.externalRedis is empty"),
    ],
)
def test_wrong_values_are_refused_with_a_reason(values: dict[str, Any], complaint: str) -> None:
    result = run("template", RELEASE, str(CHART), *flags(**values))
    assert result.returncode != 0
    assert complaint in result.stderr


def test_the_notes_say_how_to_look_and_how_to_upgrade() -> None:
    result = run("install", RELEASE, str(CHART), "--dry-run=client", *MATRIX["cpu"])
    assert result.returncode == 0, result.stderr
    assert "helm test treerl" in result.stdout
    assert re.search(r"kubectl delete job .* treerl-trainer", result.stdout)
