"""The Helm chart, rendered: valid for every Kubernetes that it supports, safe, and right for the services.

Not covered: what a cluster makes of it; no cluster is started here.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from services.common.settings import ServiceSettings, load_settings
from services.sampler.settings import SamplerSettings
from services.trainer.settings import TrainerSettings
from services.verifier.settings import VerifierSettings
from tests.deploy.helm import CHART, CONFIG, NAMESPACE, RELEASE, ROOT, VALUES, flags, objects, rendered, run

KUBERNETES = ("1.28", "1.31", "1.34", "1.37")
REQUIRED = {"model": "/inputs/model", "trainData": "/inputs/train.jsonl"}
EXTERNAL = {
    "externalRedis__existingSecret": "my-redis",
    "networkPolicy__externalRedis": [{"ipBlock": {"cidr": "10.0.0.0/24"}}],
}
MATRIX: dict[str, list[str]] = {
    "cpu": flags(VALUES / "cpu.yaml"),
    "gpu-single": flags(VALUES / "gpu-single.yaml"),
    "gpu-multi": flags(VALUES / "gpu-multi.yaml"),
    "defaults": flags(**REQUIRED),
    "external redis": flags(**REQUIRED, **EXTERNAL),
    "keda and external redis": flags(
        **REQUIRED,
        **EXTERNAL,
        verifier__autoscaling__kind="keda",
        verifier__autoscaling__redisAddress="redis.example.com:6379",
        verifier__autoscaling__authenticationRef="my-redis",
    ),
    "hpa": flags(**REQUIRED, verifier__autoscaling__kind="hpa"),
    "service monitor": flags(
        **REQUIRED,
        monitoring={
            "scrape": "serviceMonitor",
            "labels": {"release": "prometheus"},
            "rules": {"enabled": True, "labels": {"release": "prometheus"}},
            "dashboards": {"enabled": True, "annotations": {"grafana_folder": "TreeRL"}},
        },
    ),
    "one node, two processes": flags(**REQUIRED, trainer__processesPerNode=2, trainer__gpus=2),
    "own claims and classes": flags(
        **REQUIRED,
        storage__existingClaim="runs",
        inputs__existingClaim="inputs",
        fullnameOverride="rl",
        image={"registry": "registry.example.com/", "tag": "1.2.3", "pullSecrets": [{"name": "pull"}]},
        verifier__runtimeClassName="gvisor",
        verifier__priorityClassName="high",
        sampler__tolerations=[{"key": "a", "operator": "Exists"}],
        sampler__extraEnv=[{"name": "TREERL_SAMPLER_MAX_SEQUENCES", "value": "64"}],
    ),
    "nothing optional": flags(**REQUIRED, networkPolicy__enabled=False, podDisruptionBudget__enabled=False),
}
CRDS = {
    schema["properties"]["kind"]["const"]: schema
    for schema in (json.loads(path.read_text()) for path in (Path(__file__).parent / "crds").glob("*.json"))
}
SETTINGS: dict[str, type[ServiceSettings]] = {
    "sampler": SamplerSettings,
    "verifier": VerifierSettings,
    "trainer": TrainerSettings,
}


def kinds(documents: list[dict[str, Any]], *wanted: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] in wanted]


def component(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in kinds(documents, kind) if d["metadata"]["labels"]["app.kubernetes.io/component"] == name]
    return found


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and template of every pod."""
    for document in documents:
        if document["kind"] == "Pod":
            yield document["metadata"]["name"], document
        elif "template" in document.get("spec", {}):
            yield document["metadata"]["name"], document["spec"]["template"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def environment(documents: list[dict[str, Any]], service: str) -> dict[str, str]:
    (container,) = next(pod for name, pod in pods(documents) if name.endswith(f"-{service}"))["spec"]["containers"]
    # a value from a secret is any
    return {variable["name"]: variable.get("value", "redis://x:6379/0") for variable in container["env"]}


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return wanted and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))


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
def test_every_pod_is_restricted(arguments: list[str]) -> None:
    found = list(pods(objects(arguments)))
    assert len(found) >= 4
    for name, pod in found:
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name  # else the services take them for unknown settings
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] == 10001, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert all({"hostPath"}.isdisjoint(volume) for volume in spec.get("volumes", [])), name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
            assert ":" in container["image"].rpartition("/")[2], name


@pytest.mark.parametrize("service", SETTINGS)
@pytest.mark.parametrize("arguments", MATRIX.values(), ids=MATRIX)
def test_a_service_accepts_what_the_chart_sets(
    arguments: list[str], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment(objects(arguments), service).items():
        monkeypatch.setenv(key, value)
    settings = load_settings(SETTINGS[service], CONFIG)
    assert (settings.host, settings.port, settings.metrics_port) == ("0.0.0.0", 50051, 9100)


@pytest.mark.parametrize("arguments", MATRIX.values(), ids=MATRIX)
def test_the_trainer_publishes_where_samplers_look_and_calls_each_of_them(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = objects(arguments)
    for service in ("sampler", "trainer"):
        for key, value in environment(documents, service).items():
            monkeypatch.setenv(key, value)
    sampler, trainer = load_settings(SamplerSettings, CONFIG), load_settings(TrainerSettings, CONFIG)
    assert sampler.weights_dir == trainer.output_dir / "weights"
    assert sampler.model == trainer.model
    stateful = component(documents, "StatefulSet", "sampler")
    name, subdomain = stateful["metadata"]["name"], stateful["spec"]["serviceName"]
    assert trainer.samplers == tuple(f"{name}-{i}.{subdomain}:50051" for i in range(stateful["spec"]["replicas"]))
    assert component(documents, "Service", "sampler")["metadata"]["name"] == subdomain


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


@pytest.mark.parametrize("arguments", [MATRIX["gpu-multi"], MATRIX["external redis"]], ids=["own", "external"])
def test_pods_may_talk_along_the_edges_of_a_run_and_no_others(arguments: list[str]) -> None:
    documents = objects(arguments)
    labels = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["metadata"]["labels"]
        for _, pod in pods(documents)
    }
    policies = [d["spec"] for d in kinds(documents, "NetworkPolicy")]

    def allowed(direction: str, side: str, of: str, other: str, port: int) -> bool:
        rules = [
            rule
            for policy in policies
            if matches(policy["podSelector"], labels[of])
            for rule in policy.get(direction, [])
        ]
        return any(
            any(
                "podSelector" in p and "namespaceSelector" not in p and matches(p["podSelector"], labels[other])
                for p in r[side]
            )
            and ("ports" not in r or any(p["port"] == port for p in r["ports"]))
            for r in rules
        )

    def may(source: str, target: str, port: int) -> bool:
        return allowed("egress", "to", source, target, port) and allowed("ingress", "from", target, source, port)

    everyone = ("redis", "sampler", "verifier", "trainer", "test")
    present = [name for name in everyone if name in labels]
    edges = {(a, b, port) for a in present for b in present for port in (6379, 50051, 29500) if may(a, b, port)}
    expected = {
        *((worker, "redis", 6379) for worker in ("sampler", "verifier", "trainer") if "redis" in labels),
        ("trainer", "sampler", 50051),
        ("test", "sampler", 50051),
        ("test", "verifier", 50051),
        *(("trainer", "trainer", port) for port in (6379, 50051, 29500)),
    }
    assert edges == expected


def test_a_trainer_of_several_nodes_meets_at_its_first_pod() -> None:
    job = component(objects(MATRIX["gpu-multi"]), "Job", "trainer")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    name = job["metadata"]["name"]
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    assert job["spec"]["template"]["spec"]["subdomain"] == name
    assert container["command"] == ["python", "-m", "torch.distributed.run"]
    assert {
        "--nnodes=2",
        "--nproc-per-node=8",
        "--node-rank=$(JOB_COMPLETION_INDEX)",
        f"--master-addr={name}-0.{name}",
    } <= set(container["args"])
    assert component(objects(MATRIX["gpu-multi"]), "Service", "trainer")["spec"]["publishNotReadyAddresses"] is True


def test_gpus_are_limits_and_choose_the_image() -> None:
    documents = objects(MATRIX["gpu-multi"])
    (sampler,) = component(documents, "StatefulSet", "sampler")["spec"]["template"]["spec"]["containers"]
    (verifier,) = component(documents, "Deployment", "verifier")["spec"]["template"]["spec"]["containers"]
    assert sampler["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert sampler["image"] == "treerl/sampler:0.1.0-gpu"
    assert verifier["image"] == "treerl/verifier:0.1.0"
    assert "nvidia.com/gpu" not in verifier["resources"]["limits"]


def test_health_is_asked_by_a_process_where_the_kubelet_cannot() -> None:
    def probe(kubernetes: str) -> dict[str, Any]:
        stateful = component(objects(MATRIX["defaults"], kubernetes), "StatefulSet", "sampler")
        probe: dict[str, Any] = stateful["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
        return probe

    assert probe("1.31.0")["grpc"] == {"port": 50051}
    assert probe("1.23.0")["exec"]["command"][-1] == "127.0.0.1:50051"


@pytest.mark.parametrize("name", ["cpu", "gpu-single"])
def test_services_are_probed_while_they_start_serve_and_live(name: str) -> None:
    for pod_name, pod in pods(objects(MATRIX[name])):
        if not pod_name.endswith(("-demo", "-test")):
            (container,) = pod["spec"]["containers"]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), pod_name


def test_a_model_may_take_as_long_to_load_as_the_values_say() -> None:
    stateful = component(objects(MATRIX["gpu-multi"]), "StatefulSet", "sampler")
    probe = stateful["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600
    patience = float(environment(objects(MATRIX["gpu-multi"]), "trainer")["TREERL_TRAINER_RELOAD_PATIENCE_S"])
    assert patience > 3600


def test_grace_periods_leave_room_for_the_drain() -> None:
    for name, pod in pods(objects(MATRIX["cpu"])):
        if name.endswith(("-sampler", "-verifier")):
            # preStop 5 s, entries under way 10 s, calls under way 10 s
            assert pod["spec"]["terminationGracePeriodSeconds"] > 25


def test_verifiers_follow_the_stream_that_they_read() -> None:
    scaled = component(objects(MATRIX["gpu-multi"]), "ScaledObject", "verifier")
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["stream"] == "treerl:default:trees"
    assert trigger["metadata"]["consumerGroup"] == "workers"
    assert trigger["metadata"]["address"] == f"{RELEASE}-redis.{NAMESPACE}:6379"
    assert "replicas" not in component(objects(MATRIX["gpu-multi"]), "Deployment", "verifier")["spec"]


def test_the_monitor_sets_the_labels_that_dashboards_choose_by() -> None:
    for name, endpoints in (("gpu-single", "podMetricsEndpoints"), ("service monitor", "endpoints")):
        (monitor,) = kinds(objects(MATRIX[name]), "PodMonitor", "ServiceMonitor")
        relabelings = {r["targetLabel"]: r for r in monitor["spec"][endpoints][0]["relabelings"]}
        assert relabelings["run"]["replacement"] == "default"
        assert relabelings["instance"]["sourceLabels"] == ["__meta_kubernetes_pod_name"]


def test_rules_and_dashboards_are_those_of_compose() -> None:
    documents = objects(MATRIX["service monitor"])
    (rules,) = kinds(documents, "PrometheusRule")
    assert rules["spec"] == yaml.safe_load((ROOT / "docker/prometheus/rules/treerl.yaml").read_text())
    assert rules["metadata"]["labels"]["release"] == "prometheus"
    shown = {
        key: json.loads(text)
        for d in kinds(documents, "ConfigMap")
        for key, text in d["data"].items()
        if ".json" in key
    }
    assert shown == {path.name: json.loads(path.read_text()) for path in (ROOT / "docker/grafana/dashboards").iterdir()}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({**REQUIRED, "sampler__replica": 2}, "replica"),
        ({**REQUIRED, "sampler__replicas": 0}, "minimum"),
        ({**REQUIRED, "verifier__autoscaling__kind": "auto"}, "must be one of"),
        ({"trainData": "/inputs/train.jsonl"}, "model is the folder"),
        ({"model": "/inputs/model"}, "trainData is a file"),
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


@pytest.mark.skipif(shutil.which("checkov") is None, reason="no checkov on the path: pipx install checkov")
@pytest.mark.parametrize("name", ["cpu", "gpu-multi"])
def test_checkov_finds_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "rendered.yaml").write_text(rendered(MATRIX[name]))
    command = ["checkov", "--config-file", str(Path(__file__).parent / "checkov.yaml"), "--directory", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "Passed checks" in result.stdout
