"""What a service exposes: what it measures itself, and nothing that another kind of service does."""

import re
from urllib.request import urlopen

import pytest
from prometheus_client import REGISTRY

from services.common import metrics

MEASURED = {
    "sampler": metrics.SAMPLED_TREES,
    "verifier": metrics.ISOLATION_LEVEL,
    "trainer": metrics.PASS_RATE,
}


def exposed_by(service: str) -> set[str]:
    port = metrics.serve_metrics("127.0.0.1", 0, service)
    with urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        return set(re.findall(r"^# TYPE (\w+) ", response.read().decode(), re.MULTILINE))


@pytest.mark.parametrize("service", metrics.OF_SERVICE)
def test_a_service_exposes_its_own_metrics_and_those_of_all_but_no_others(service: str) -> None:
    exposed = exposed_by(service)
    assert "treerl_rpcs_total" in exposed
    for other, metric in MEASURED.items():
        assert (next(iter(metric.collect())).name in {name.removesuffix("_total") for name in exposed}) is (
            other == service
        )


def test_every_metric_says_what_it_measures_and_begins_with_the_system_s_name() -> None:
    own = [metric for registry in metrics.OF_SERVICE.values() for metric in registry.collect()]
    shared = [metric for metric in REGISTRY.collect() if metric.name.startswith("treerl")]
    assert len(shared) >= 4
    for metric in [*own, *shared]:
        assert metric.name.startswith("treerl_")
        assert metric.documentation
