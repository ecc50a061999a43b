"""Fixtures of tests that run a trainer against a stand-in for samplers and verifiers."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from services.common.settings import load_settings
from services.trainer.settings import TrainerSettings
from tests.integration.fake_sampler import FakeSampler, serving, write_tiny_model
from tests.integration.trainer.training import MakeSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    return folder


@pytest.fixture
async def sampler(model: Path) -> FakeSampler:
    return FakeSampler(model)


@pytest.fixture
async def make_settings(
    model: Path, sampler: FakeSampler, redis_server: str, tmp_path: Path
) -> AsyncIterator[MakeSettings]:
    """Makes settings of one run, whose sampler is serving."""
    run = f"run-{uuid.uuid4().hex[:8]}"
    problems = [{"id": f"p{i}", "domain": "math", "prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(5)]
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(sampler, redis_server, run))

        def make(**changes: Any) -> TrainerSettings:
            values: dict[str, Any] = {
                "run": run,
                "redis_url": redis_server,
                "model": model,
                "output_dir": tmp_path / "run",
                "train_data": data,
                "heldout_data": data,
                "heldout_overlap": "keep",
                "samplers": [address],
                "steps": 3,
                "prompts_per_step": 2,
                "minibatches": 2,
                "learning_rate": 1e-2,
                "search": {"chains": 2, "forks": 1, "rounds": 1, "branches": 2},
                "checkpoint_every": 2,
                "evaluate_every": 2,
                "threads": 1,
                "sample_timeout_s": 30,
            }
            return load_settings(TrainerSettings, **values | changes)

        yield make
