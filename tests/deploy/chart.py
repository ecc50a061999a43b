"""The chart as tests look at it: the ways in which it is rendered, and its objects."""

from collections.abc import Iterator
from typing import Any

from tests.deploy.helm import VALUES, flags

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
    "keda for samplers": flags(**REQUIRED, sampler__autoscaling__kind="keda"),
    "broadcast": flags(**REQUIRED, weightsTransport="broadcast"),
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


def kinds(documents: list[dict[str, Any]], *wanted: str) -> list[dict[str, Any]]:
    """Objects of some kinds."""
    return [document for document in documents if document["kind"] in wanted]


def component(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The one object of a kind that belongs to a component."""
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
    """Containers of a pod, those that run first included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def environment(documents: list[dict[str, Any]], service: str) -> dict[str, str]:
    """What the chart sets in a service's environment."""
    (container,) = next(pod for name, pod in pods(documents) if name.endswith(f"-{service}"))["spec"]["containers"]
    # a value from a secret is any
    return {variable["name"]: variable.get("value", "redis://x:6379/0") for variable in container["env"]}


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector finds these labels."""
    wanted = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return wanted and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))
