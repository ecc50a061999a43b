"""The compose file's stack on a real Docker engine, as the tests of the deployment see it."""

import json
import os
import subprocess
import tarfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
import zstandard

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PROJECT = "treerl-deploy-test"
RUN = "deploy-test"
VERSION = "deploy-test"
"""Tag of the images that are tested."""

PATIENCE_S = 600.0
"""Longest wait for anything: a supervised start on busy cores takes minutes."""

_TREE_IDS = """
local ids = {}
for number, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do ids[number] = entry[2][2] end
return ids
"""


class CallingClient:
    """A running `calling_client.py`."""

    def __init__(self, container: str) -> None:
        self.container = container

    def log(self) -> str:
        """What it has printed."""
        return subprocess.run(["docker", "logs", self.container], capture_output=True, text=True, check=True).stdout

    def stop(self) -> dict[str, dict[str, int]]:
        """Let its calls end, and see what became of them: see `calling_client.py`."""
        subprocess.run(["docker", "stop", "--time", "300", self.container], capture_output=True, check=True)
        told: dict[str, dict[str, int]] = json.loads(self.log().splitlines()[-1])
        return told


class Stack:
    """The compose file's services under a project name of their own."""

    def __init__(self, ports: dict[str, int]) -> None:
        """
        Args:
            ports: where to publish, by the variable of the compose file.
        """
        files = [ROOT / "docker" / "compose.yaml", HERE / "short-run.yaml"]
        published = {name: str(port) for name, port in ports.items()}
        chosen = {"COMPOSE_PROFILES": "", "TREERL_RUN": RUN, "VERSION": VERSION}
        self._environment = {**os.environ, **chosen, **published}
        self.has_grafana = self._can_have_grafana()
        if not self.has_grafana:
            files.append(HERE / "without-grafana.yaml")
        self._command = ["docker", "compose", "--project-name", PROJECT]
        self._command += [word for file in files for word in ("--file", str(file))]
        self._prometheus = f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}"

    def compose(self, *arguments: str) -> bytes:
        """Run `docker compose` and return its output; what it complains of is the failure."""
        ended = subprocess.run([*self._command, *arguments], env=self._environment, capture_output=True, check=False)
        assert ended.returncode == 0, f"docker compose {' '.join(arguments)}: {ended.stderr.decode()}"
        return ended.stdout

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers, those included that do not run."""
        return self.compose("ps", "--all", "--quiet", service).decode().split()

    @contextmanager
    def calling_client(self) -> Iterator["CallingClient"]:
        """A client that calls all services in a container beside them."""
        image, network = f"treerl/trainer:{VERSION}-cpu", f"{PROJECT}_inside"
        script = f"{HERE / 'calling_client.py'}:/calling_client.py:ro"
        options = ["--detach", "--network", network, "--volume", script, "--env", "PYTHONPATH=/app"]
        started = subprocess.run(
            ["docker", "run", *options, "--entrypoint", "python", image, "/calling_client.py"],
            capture_output=True,
            text=True,
            check=True,
        )
        client = CallingClient(started.stdout.strip())
        try:
            self.wait_until(lambda: client.log().count(" answers") == 3, "answer of each service")
            yield client
        finally:
            subprocess.run(["docker", "rm", "--force", client.container], check=True, capture_output=True)

    def kill(self, service: str) -> None:
        """Kill one container of a service, and start it again as its supervisor would."""
        container = self.containers(service)[0]
        for verb in ("kill", "start"):
            subprocess.run(["docker", verb, container], check=True, capture_output=True)

    def read(self, file: str) -> bytes:
        """A file of the run's folder; empty where it is not there yet."""
        source = f"{self.containers('trainer')[0]}:/data/runs/{RUN}/{file}"
        copied = subprocess.run(["docker", "cp", source, "-"], capture_output=True, check=False)
        if copied.returncode != 0:
            return b""
        with tarfile.open(fileobj=BytesIO(copied.stdout)) as archive:
            content = archive.extractfile(file)
            assert content is not None
            return content.read()

    def steps(self) -> list[int]:
        """Steps that the run has recorded, in the order of the record."""
        return [json.loads(line)["step"] for line in self.read("metrics.jsonl").splitlines()]

    def trees(self) -> list[tuple[int, str]]:
        """Step and id of every tree that was trained on, in the order of the record."""
        recorded = BytesIO(self.read("trees.jsonl.zst"))
        with zstandard.ZstdDecompressor().stream_reader(recorded, read_across_frames=True) as lines:
            records = [json.loads(line) for line in lines.read().splitlines()]
        return [(record["step"], record["tree"]["tree_id"]) for record in records]

    def waiting(self, stream: str) -> list[str]:
        """Ids of the trees in a stream of the run."""
        command = ["exec", "-T", "redis", "redis-cli", "eval", _TREE_IDS, "1", f"treerl:{RUN}:{stream}"]
        return self.compose(*command).decode().split()

    def query(self, expression: str) -> list[Any]:
        """Series that the stack's Prometheus returns for an expression."""
        address = f"{self._prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            result = json.load(answer)["data"]
        series: list[Any] = result["result"] if result["resultType"] == "vector" else [result["result"]]
        return series

    def trains_on(self, steps: int) -> None:
        """Wait until so many more steps are recorded."""
        goal = (self.steps() or [0])[-1] + steps
        self.wait_until(lambda: (self.steps() or [0])[-1] >= goal, f"step {goal}")

    def wait_until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait for something; fails with the end of the services' logs if it does not come."""
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} in {PATIENCE_S} s:\n{self.compose('logs', '--tail', '20').decode()}")
            time.sleep(2.0)

    @staticmethod
    def _can_have_grafana() -> bool:
        image = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["grafana"]["image"]
        inspected = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
        return (
            inspected.returncode == 0
            or not subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, check=False).returncode
        )
