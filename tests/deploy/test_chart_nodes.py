"""A trainer of several nodes, by the very command of the chart's pods; here both nodes are this machine.

Not covered: names and networks of a cluster, GPUs.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from services.cli.documents import to_toml
from services.cli.ports import PortPool
from tests.deploy.chart import REQUIRED, component
from tests.deploy.helm import ROOT, flags, objects
from tests.integration.fake_sampler import FakeSampler, serving, write_tiny_model

NODES = 2


def node_command(node: int, port: int, config: Path) -> list[str]:
    """Command of a pod, where the cluster's part is put in: its index, the first pod's address, the mounted file."""
    job = component(objects(flags(**REQUIRED, trainer__nodes=NODES)), "Job", "trainer")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    name = job["metadata"]["name"]
    replaced = {"$(JOB_COMPLETION_INDEX)": str(node), f"{name}-0.{name}": "127.0.0.1", "29500": str(port)}
    words = [sys.executable, *container["command"][1:], *container["args"]]
    for placeholder, value in {**replaced, "/etc/treerl/config.toml": str(config)}.items():
        assert any(placeholder in word for word in words)
        words = [word.replace(placeholder, value) for word in words]
    return words


def write_config(folder: Path, redis_url: str, sampler: str) -> Path:
    problems = [{"id": f"p{i}", "domain": "math", "prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(4)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    trainer: dict[str, Any] = {
        "model": str(folder / "model"),
        "output_dir": str(folder / "run"),
        "train_data": str(folder / "problems.jsonl"),
        "samplers": [sampler],
        "steps": 2,
        "prompts_per_step": 2,
        "zero_stage": 2,
        "threads": 1,
        "search": {"chains": 2, "forks": 1, "rounds": 1, "branches": 2},
    }
    config = folder / "config.toml"
    config.write_text(to_toml({"run": "nodes", "redis_url": redis_url, "trainer": trainer}))
    return config


async def test_two_nodes_train_one_run(redis_server: str, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    sampler = FakeSampler(tmp_path / "model")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", "OMP_NUM_THREADS": "1"}
    port = PortPool("127.0.0.1").take(0, "the nodes' meeting")
    async with serving(sampler, redis_server, "nodes") as address:
        config = write_config(tmp_path, redis_server, address)
        nodes = [
            await asyncio.create_subprocess_exec(
                *node_command(node, port, config), cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
            )
            for node in range(NODES)
        ]
        said = await asyncio.gather(*(node.communicate() for node in nodes))
    logs = "\n".join(stderr.decode() for _, stderr in said)
    assert [node.returncode for node in nodes] == [0, 0], logs
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert sampler.versions == [0, 1, 2]
