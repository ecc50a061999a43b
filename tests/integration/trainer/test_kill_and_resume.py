"""A trainer that is killed again and again trains what an uninterrupted one does: no tree lost, none twice.

Real trainer processes (forked from `zygote`), real Valkey, real gRPC; only what samples and grades is a stand-in, whose
trees depend on the request and the weights alone. The kills come where something becomes visible from outside, or
moments later, or at a call in the trainer itself: no hook in the product says when.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pytest

from services.trainer.rollouts import batch_of, state_of
from tests.conftest import REPOSITORY
from tests.integration.fake_sampler import FakeSampler, serving
from tests.integration.trainer.training import rows, trained_tree_ids

STEPS = 24
CHECKPOINT_EVERY = 3
KILLS = int(os.environ.get("TREERL_TEST_KILLS", "20"))
"""Kills of one run; more take longer."""

LONGEST_DELAY_S = 0.03
"""Kills come up to so many seconds after what they wait for."""

Condition = Callable[[], bool]

KillAt = tuple[str, Literal["before", "after"], int]
"""A call in the trainer: what is called, and which time it is called."""

OPTIMIZER, STREAMS = "torch.optim:AdamW.step", "services.common.streams:Streams"
LOG, POLICY = "services.trainer.run_log:RunLog", "services.trainer.policy:Policy"
CALLS: tuple[KillAt, ...] = (
    # an optimizer step: its gradients are there, half of a life's third update is done, all of it is
    (f"{POLICY}._step", "before", 1),
    (OPTIMIZER, "before", 3),
    (OPTIMIZER, "after", 2),
    (f"{POLICY}._step", "after", 3),
    # a checkpoint: written in part, whole without its name, named but not covered, covered but not acknowledged
    (f"{POLICY}.save", "before", 1),
    (f"{POLICY}.save", "after", 1),
    ("services.common.checkpoint:write_folder", "before", 1),
    ("services.common.checkpoint:write_folder", "after", 1),
    (f"{STREAMS}.set_covered", "before", 2),
    (f"{STREAMS}.set_covered", "after", 2),
    (f"{STREAMS}.commit", "before", 1),
    (f"{STREAMS}.commit", "after", 1),
    (f"{STREAMS}.commit", "after", 2),
    # weights: written in part, without their name, with it, loaded
    ("services.trainer.weights:WeightsFolder.write", "before", 2),
    ("services.trainer.weights:WeightsFolder.write", "after", 3),
    ("pathlib:Path.rename", "before", 3),
    ("pathlib:Path.rename", "after", 3),
    ("services.trainer.samplers:Samplers.load", "before", 3),
    ("services.trainer.samplers:Samplers.load", "after", 3),
    # the record: a step's trees without its metrics, a step that is there twice once it is trained again
    (f"{LOG}._append", "after", 1),
    (f"{LOG}._append", "after", 2),
    (f"{LOG}.append_evaluation", "after", 1),
    (f"{LOG}.sync", "after", 1),
    # requests, and taking up what an earlier life left
    (f"{STREAMS}.enqueue", "before", 2),
    (f"{STREAMS}.enqueue", "after", 2),
    (f"{POLICY}.load", "after", 1),
    ("services.trainer.rollouts:Rollouts.go_on", "after", 1),
    ("services.trainer.weights:WeightsFolder.discard_after", "after", 1),
)
"""Where one trainer after the other is killed."""


class Zygote:
    """A process that forks trainers."""

    def __init__(self, log: Path) -> None:
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}"}
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.trainer.zygote"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
                cwd=REPOSITORY,
            )

    async def start(self, words: list[str], kill: KillAt | None) -> int:
        """Start a trainer that kills itself at a call, if one is given; returns its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([words, kill]) + "\n")
        self._process.stdin.flush()
        return await self._answer()

    async def exit_code(self) -> int:
        """Wait until the trainer has ended."""
        return await self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    async def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(await asyncio.to_thread(self._process.stdout.readline))


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    started = Zygote(tmp_path_factory.mktemp("zygote") / "trainers.log")
    yield started
    started.close()


class Run:
    """A run's folder, its stand-in for samplers, and the trainer processes that are started on it."""

    def __init__(
        self,
        zygote: Zygote,
        folder: Path,
        model: Path,
        redis_url: str,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self.sampler = FakeSampler(model)
        self.sampler.uniform = lambda tree_id: sum(tree_id.encode()) % 4 == 0  # so that steps are refilled
        self.name, self.redis_url = f"run-{uuid.uuid4().hex[:8]}", redis_url
        self._zygote = zygote
        data = folder / "problems.jsonl"
        folder.mkdir()
        problems = [{"id": f"p{i}", "domain": "math", "prompt": f"{i}+1=", "answer": "1"} for i in range(5)]
        data.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
        self._settings = {
            "run": self.name,
            "redis-url": redis_url,
            "model": model,
            "output-dir": folder,
            "train-data": data,
            "heldout-data": data,
            "heldout-overlap": "keep",
            "heldout-samples": 2,
            "steps": STEPS,
            "prompts-per-step": 2,
            "search": json.dumps({"chains": 2, "forks": 1, "rounds": 1, "branches": 2}),
            "learning-rate": 1e-2,
            "checkpoint-every": CHECKPOINT_EVERY,
            "evaluate-every": 4,
            "uniform-trees": "replace",
            "threads": 1,
            **changes,
        }

    async def start(self, address: str, kill: KillAt | None = None) -> int:
        words = self._settings | {"samplers": json.dumps([address])}
        return await self._zygote.start([f"--{key}={value}" for key, value in words.items()], kill)

    async def to_the_end(self) -> None:
        """Train without interruption."""
        async with serving(self.sampler, self.redis_url, self.name) as address:
            await self.start(address)
            assert await self._zygote.exit_code() == 0

    async def killed(self, kills: int, seed: int) -> list[str]:
        """Train, killing the trainer so many times; returns what each kill waited for."""
        rng = random.Random(seed)
        waited: list[str] = []
        async with serving(self.sampler, self.redis_url, self.name) as address:
            for number in range(kills):
                moments = self._moments()
                moment = list(moments)[number % len(moments)]
                pid = await self.start(address)
                exit_code = asyncio.create_task(self._zygote.exit_code())
                while not moments[moment]() and not exit_code.done():
                    await asyncio.sleep(0.001)
                await asyncio.sleep(rng.choice([0, rng.uniform(0, LONGEST_DELAY_S)]))
                if not exit_code.done():
                    os.kill(pid, signal.SIGKILL)
                if await exit_code == -signal.SIGKILL:
                    waited.append(moment)
            await self.start(address)
            assert await self._zygote.exit_code() == 0
        return waited

    async def killed_at(self, calls: Iterable[KillAt]) -> None:
        """Train, with one trainer after the other killed at its call."""
        async with serving(self.sampler, self.redis_url, self.name) as address:
            for kill in calls:
                await self.start(address, kill)
                assert await self._zygote.exit_code() == -signal.SIGKILL, f"the run was over before {kill}"
            await self.start(address)
            assert await self._zygote.exit_code() == 0

    def last_step_sampled_twice(self) -> int:
        """Of the trees that were sampled more than once; all but those of steps before a checkpoint must be kept."""
        times = Counter(self.sampler.served)
        return max((state_of(batch_of(tree_id)) for tree_id in times if times[tree_id] > 1), default=0)

    def _moments(self) -> dict[str, Condition]:
        """What a kill waits for, from now on."""
        began, sampler = time.time_ns(), self.sampler
        served, loads = len(sampler.served), len(sampler.in_flight)

        def changed(pattern: str) -> bool:
            try:
                return any(path.stat().st_ctime_ns > began for path in self.folder.glob(pattern))
            except FileNotFoundError:  # a file or its folder was renamed or removed meanwhile; asked again at once
                return False

        return {
            "a checkpoint is being written": lambda: changed("checkpoints/.step-*"),
            "a checkpoint is there, its trees are not yet acknowledged": lambda: changed("checkpoints/step-*"),
            "a batch is asked and partly graded": lambda: len(sampler.served) > served + 2,
            "weights are being written": lambda: len(sampler.in_flight) > loads and changed("weights/.v*"),
            "a step is being recorded": lambda: len(sampler.in_flight) > loads + 1 and changed("trees.jsonl.zst"),
            "the run has just begun": lambda: len(sampler.in_flight) > loads,
            "weights are being loaded": lambda: len(sampler.in_flight) > loads + 3,
        }


@pytest.mark.timeout(600)
async def test_a_run_that_is_killed_many_times_trains_the_same_trees_to_the_same_losses(
    zygote: Zygote, model: Path, redis_server: str, tmp_path: Path
) -> None:
    reference, run = (Run(zygote, tmp_path / name, model, redis_server) for name in ("reference", "killed"))
    await reference.to_the_end()

    waited = await run.killed(KILLS, seed=0)

    assert len(waited) == KILLS, "the run was over before all kills"
    assert_alike(run, reference)


@pytest.mark.timeout(600)
async def test_a_run_that_is_killed_within_each_call_that_matters_trains_the_same(
    zygote: Zygote, model: Path, redis_server: str, tmp_path: Path
) -> None:
    reference, run = (Run(zygote, tmp_path / name, model, redis_server) for name in ("reference", "killed"))
    await reference.to_the_end()

    await run.killed_at(CALLS)

    assert_alike(run, reference)


def assert_alike(run: Run, reference: Run) -> None:
    """The killed run trained the trees of the other, in its order and to its losses; nothing is recorded twice."""
    assert trained_tree_ids(run.folder) == trained_tree_ids(reference.folder)
    ours, theirs = (rows(r.folder / "metrics.jsonl") for r in (run, reference))
    assert [step["step"] for step in ours] == list(range(1, STEPS + 1))
    for name in ("loss", "grad_norm", "entropy", "pass_rate", "uniform_trees", "refills"):
        assert [step[name] for step in ours] == pytest.approx([step[name] for step in theirs]), name
    ours, theirs = (rows(r.folder / "evaluations.jsonl") for r in (run, reference))
    assert [e["policy_version"] for e in ours] == [e["policy_version"] for e in theirs] == [0, *range(4, STEPS + 1, 4)]
    assert run.last_step_sampled_twice() <= CHECKPOINT_EVERY


@pytest.mark.timeout(600)
async def test_a_run_that_samples_ahead_loses_and_repeats_no_tree_when_it_is_killed(
    zygote: Zygote, model: Path, redis_server: str, tmp_path: Path
) -> None:
    changes = {"max-policy-lag": 2, "mismatch-correction": "token"}
    reference, run = (Run(zygote, tmp_path / name, model, redis_server, changes) for name in ("reference", "killed"))
    await reference.to_the_end()

    waited = await run.killed(KILLS // 2, seed=1)

    assert len(waited) == KILLS // 2, "the run was over before all kills"
    assert trained_tree_ids(run.folder) == trained_tree_ids(reference.folder)
    steps = rows(run.folder / "metrics.jsonl")
    assert [(step["step"], step["stale_trees"]) for step in steps] == [(step, 0) for step in range(1, STEPS + 1)]
    assert run.last_step_sampled_twice() <= CHECKPOINT_EVERY + 2
