"""What the chart tells the services, and how it starts, probes, scales and watches them."""

import json
from typing import Any

import pytest
import yaml

from services.common.settings import ServiceSettings, load_settings
from services.common.streams import GROUP, PROMPTS, TREES
from services.sampler.settings import SamplerSettings
from services.trainer.settings import TrainerSettings
from services.verifier.settings import VerifierSettings
from tests.deploy.chart import MATRIX, component, environment, kinds, pods
from tests.deploy.helm import CONFIG, NAMESPACE, RELEASE, ROOT, objects

SETTINGS: dict[str, type[ServiceSettings]] = {
    "sampler": SamplerSettings,
    "verifier": VerifierSettings,
    "trainer": TrainerSettings,
}


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
    assert component(documents, "Service", "sampler")["metadata"]["name"] == subdomain
    if "replicas" in stateful["spec"]:
        assert trainer.samplers == tuple(f"{name}-{i}.{subdomain}:50051" for i in range(stateful["spec"]["replicas"]))
    else:
        ready = component(documents, "Service", "sampler-ready")
        assert trainer.samplers == (f"dns:{ready['metadata']['name']}:50051",)
        assert not ready["spec"].get("publishNotReadyAddresses")


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


def test_the_processes_of_one_node_are_a_setting() -> None:
    documents = objects(MATRIX["one node, two processes"])
    (container,) = component(documents, "Job", "trainer")["spec"]["template"]["spec"]["containers"]
    assert environment(documents, "trainer")["TREERL_TRAINER_PROCESSES"] == "2"
    assert "command" not in container


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


@pytest.mark.parametrize(
    ("name", "kind", "service", "stream"),
    [
        ("gpu-multi", "Deployment", "verifier", TREES),
        ("keda for samplers", "StatefulSet", "sampler", PROMPTS),
    ],
)
def test_workers_follow_the_stream_that_they_read(name: str, kind: str, service: str, stream: str) -> None:
    documents = objects(MATRIX[name])
    scaled, target = component(documents, "ScaledObject", service), component(documents, kind, service)
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["metadata"]["stream"] == f"treerl:default:{stream}"
    assert trigger["metadata"]["consumerGroup"] == GROUP
    assert trigger["metadata"]["address"] == f"{RELEASE}-redis.{NAMESPACE}:6379"
    assert scaled["spec"]["scaleTargetRef"] == {"kind": kind, "name": target["metadata"]["name"]}
    assert "replicas" not in target["spec"]


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
