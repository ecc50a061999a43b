"""Whole runs through every real service, killed in the middle: nothing lost, nothing twice."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.cli.documents import to_toml
from services.cli.plan import plan_run
from services.cli.run_folder import RunFolder
from services.cli.supervisor import Supervisor
from services.demo.policy import build_policy
from services.demo.tokenizer import build_tokenizer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

STEPS = 12


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """An untrained policy on problems that it sometimes answers by chance: the last digit of what it writes counts."""
    tokenizer = build_tokenizer()
    policy = tmp_path / "policy"
    build_policy(tokenizer, seed=0).save_pretrained(policy)
    tokenizer.save_pretrained(policy)
    rows = [{"id": f"p{i}", "domain": "math", "prompt": f"Start with {i}", "answer": str(i % 10)} for i in range(40)]
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "run": "whole-system",
        "sampler": {"model": str(policy), "max_model_tokens": 128, "max_sequences": 64},
        "verifier": {"math_workers": 1, "code_workers": 1},
        "trainer": {
            "model": str(policy),
            "train_data": str(data),
            "heldout_data": str(data),
            "heldout_overlap": "keep",
            "steps": STEPS,
            "prompts_per_step": 4,
            "checkpoint_every": 2,
            "learning_rate": 1e-4,
            "search": {"chains": 3, "forks": 1, "rounds": 1, "branches": 2},
            "sampling": {"temperature": 1.2, "top_p": 0.95, "max_tokens": 24},
        },
    }


def written(document: dict[str, Any], folder: Path) -> Path:
    path = folder / "run.toml"
    path.write_text(to_toml(document))
    return path


async def until(condition: Callable[[], bool], running: "asyncio.Task[None]") -> None:
    """Wait until something holds, or the run ends."""
    while not condition() and not running.done():  # other processes make it true
        await asyncio.sleep(0.1)


async def test_a_run_survives_kill_9_of_every_service(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    out = tmp_path / "run"
    plan = plan_run(written(document, tmp_path), out, samplers=1, verifiers=1)
    folder = RunFolder(out)
    async with Supervisor(plan, out, lambda process: None) as supervisor:
        await supervisor.start()
        finishing = asyncio.create_task(supervisor.finished())
        pids = {process.command.name: process for process in supervisor.processes}
        children: list[psutil.Process] = []
        for number, victim in enumerate(("verifier-0", "trainer", "valkey", "sampler-0")):
            await until(lambda: len(folder.steps()) > 2 * number, finishing)  # noqa: B023  # awaited in this turn
            pid = pids[victim].pid
            assert pid is not None, f"{victim} is down before it was killed"
            children += psutil.Process(pid).children(recursive=True)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: pids[victim].restarts == 1, finishing)  # noqa: B023
        await finishing

    steps = folder.steps()
    assert [step.step for step in steps] == list(range(1, STEPS + 1))
    assert [evaluation.policy_version for evaluation in folder.evaluations()] == [0, STEPS]
    assert max(step.reload_canary_max_abs_logprob_diff for step in steps) <= 1e-3
    assert max(step.mismatch_mean_abs_logprob_diff for step in steps) <= 1e-3
    assert any(step.grad_norm > 0 for step in steps)
    trained = [tree.tree.tree_id for tree in folder.trees()]
    assert trained == [f"step-{step:05d}/{index}" for step in range(1, STEPS + 1) for index in range(4)]
    assert {name: process.restarts for name, process in pids.items()} == dict.fromkeys(pids, 1)
    commands = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    assert [command for command in commands if str(out) in " ".join(command)] == []
    assert children  # the sampler's engine, the verifier's workers: they end with whom they served
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []


async def test_a_run_by_broadcast_survives_kill_9_of_its_only_sampler(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    document["sampler"]["weights_transport"] = document["trainer"]["weights_transport"] = "broadcast"
    document["trainer"]["steps"] = 3
    del document["trainer"]["heldout_data"]
    out = tmp_path / "run"
    plan = plan_run(written(document, tmp_path), out, samplers=1, verifiers=1)
    folder = RunFolder(out)
    async with Supervisor(plan, out, lambda process: None) as supervisor:
        await supervisor.start()
        finishing = asyncio.create_task(supervisor.finished())
        [sampler] = [process for process in supervisor.processes if process.command.name == "sampler-0"]
        await until(lambda: len(folder.steps()) > 0, finishing)
        assert sampler.pid is not None
        os.kill(sampler.pid, signal.SIGKILL)
        await finishing

    steps = folder.steps()
    assert [step.step for step in steps] == [1, 2, 3]
    assert sampler.restarts == 1
    assert max(step.reload_canary_max_abs_logprob_diff for step in steps) <= 1e-3
    assert max(step.mismatch_mean_abs_logprob_diff for step in steps) <= 1e-3
    assert any(step.grad_norm > 0 for step in steps)
    assert not (out / "weights").exists()
    assert folder.tokenizer_file() is not None
