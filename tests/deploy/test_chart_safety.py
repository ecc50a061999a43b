"""The chart's pods are restricted, and talk along the edges of a run and no others.

Not covered: whether the cluster's network plugin enforces the policies.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.chart import MATRIX, containers, environment, kinds, matches, pods
from tests.deploy.helm import objects, rendered


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
    if environment(documents, "trainer")["TREERL_TRAINER_WEIGHTS_TRANSPORT"] == "broadcast":
        group = ("sampler", "trainer")
        expected |= {(a, b, port) for a in group for b in group for port in (6379, 50051, 29500)}
    assert edges == expected


@pytest.mark.skipif(shutil.which("checkov") is None, reason="no checkov on the path: make deploy-tools")
@pytest.mark.parametrize("name", ["cpu", "gpu-multi"])
def test_checkov_finds_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "rendered.yaml").write_text(rendered(MATRIX[name]))
    command = ["checkov", "--config-file", str(Path(__file__).parent / "checkov.yaml"), "--directory", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "Passed checks" in result.stdout
