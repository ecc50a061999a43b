"""A whole run in containers, by `make test-deploy`: needs a Docker engine with Compose, and minutes.

The tests build on one another, in this order: one stack is started, trained, scaled, stopped, and broken.
"""

import socket
import time
from collections.abc import Iterator

import pytest

from services.common.streams import GRADED, PROMPTS, TREES
from tests.deploy.chart import kinds
from tests.deploy.compose_stack import ROOT, RUN, Stack
from tests.deploy.helm import VALUES, flags, objects
from tests.deploy.queries import alert_queries, panel_queries

PROMPTS_PER_STEP = 8
"""As in short-run.yaml."""

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def stack(docker_engine: None) -> Iterator[Stack]:
    names = ["SAMPLER_PORT", "TRAINER_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"]
    stack = Stack(dict(zip(names, free_ports(len(names)), strict=True)))
    stack.compose("down", "--volumes")
    began = time.monotonic()
    stack.compose("build")
    print(f"\nimages built in {time.monotonic() - began:.0f} s")
    print("Grafana takes part" if stack.has_grafana else "Grafana's image cannot be had here: it is left out")
    yield stack
    stack.compose("down", "--volumes")


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.mark.parametrize(
    ("profile", "chosen"),
    [
        ([], {"demo", "sampler", "trainer"}),
        (["--profile", "cpu"], {"demo", "sampler", "trainer"}),
        (["--profile", "gpu"], {"sampler-gpu", "trainer-gpu"}),
    ],
    ids=["no profile", "cpu", "gpu"],
)
def test_a_profile_chooses_the_engine_and_none_chooses_the_cpu(
    stack: Stack, profile: list[str], chosen: set[str]
) -> None:
    services = set(stack.compose(*profile, "config", "--services").decode().split())
    assert services - {"redis", "verifier", "prometheus", "grafana"} == chosen


def test_the_stack_gets_healthy_and_trains(stack: Stack) -> None:
    began = time.monotonic()
    stack.compose("up", "--wait")
    print(f"\nhealthy after {time.monotonic() - began:.0f} s")
    stack.trains_on(3)
    print(f"three steps trained after {time.monotonic() - began:.0f} s")


def test_verifiers_can_be_added_while_it_trains_and_are_scraped(stack: Stack) -> None:
    stack.compose("up", "--wait", "--no-recreate", "--scale", "verifier=3")
    stack.wait_until(lambda: len(stack.query('up{job="verifier"} == 1')) == 3, "three verifiers in Prometheus")
    stack.trains_on(2)


def test_each_query_of_dashboards_and_alerts_returns_a_series(stack: Stack) -> None:
    queries = panel_queries(ROOT / "docker" / "grafana" / "dashboards")
    queries |= alert_queries(ROOT / "docker" / "prometheus" / "rules")
    if not queries:
        pytest.skip("there are neither dashboards nor rules")
    assert [name for name, query in queries.items() if not stack.query(query)] == []


@pytest.mark.parametrize("scaled", ["sampler", "verifier"])
def test_the_queue_that_an_autoscaler_follows_has_a_lag(stack: Stack, scaled: str) -> None:
    values = {f"{scaled}__autoscaling__kind": "keda", "run": RUN}
    (scaler,) = kinds(objects(flags(VALUES / "cpu.yaml", **values)), "ScaledObject")
    (trigger,) = scaler["spec"]["triggers"]
    asked = trigger["metadata"]
    # KEDA asks Redis for the lag of the group, which Redis gives as nil where it has lost count
    groups = stack.compose("exec", "-T", "redis", "redis-cli", "xinfo", "groups", asked["stream"]).decode().split()
    group = dict(zip(groups[::2], groups[1::2], strict=True))
    assert group["name"] == asked["consumerGroup"]
    assert group["lag"].isdigit()


def test_a_stack_that_was_stopped_goes_on_where_it_was(stack: Stack) -> None:
    stack.compose("stop")
    before = stack.steps()
    stack.compose("start")
    stack.trains_on(2)
    assert stack.steps()[: len(before)] == before


def test_a_client_sees_no_failed_call_while_each_service_is_restarted(stack: Stack) -> None:
    with stack.calling_client() as client:
        for service in ("verifier", "sampler", "trainer"):
            stack.compose("restart", service)
            stack.compose("up", "--wait", "--no-recreate", "--scale", "verifier=3")
            stack.trains_on(2)
        told = client.stop()
    print(f"\ncalls of a client during restarts: {told}")
    assert told["failed"] == {}
    assert set(told["succeeded"]) == {"verifier", "sampler", "trainer"}


@pytest.mark.parametrize("service", ["verifier", "sampler", "trainer", "redis"])
def test_the_run_goes_on_after_a_container_is_killed(stack: Stack, service: str) -> None:
    stack.kill(service)
    stack.trains_on(2)


def test_no_tree_was_lost_or_doubled(stack: Stack) -> None:
    stack.compose("stop", "trainer")
    steps = stack.steps()
    assert steps == list(range(1, len(steps) + 1))
    assert sorted(stack.trees()) == [(step, tree_id) for step in steps for tree_id in trees_of(step)]
    stack.wait_until(lambda: stack.waiting(PROMPTS) == stack.waiting(TREES) == [], "grading of what was asked for")
    # the last step, if no checkpoint covers it yet, and the next, if it was asked for
    assert sorted(stack.waiting(GRADED)) in [
        [tree_id for step in left for tree_id in trees_of(step)] for left in ([], steps[-1:], [steps[-1] + 1])
    ]
    assert stack.waiting("dead") == []


def trees_of(step: int) -> list[str]:
    return [f"step-{step:05d}/{number}" for number in range(PROMPTS_PER_STEP)]
