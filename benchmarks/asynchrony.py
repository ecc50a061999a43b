"""Training that samples ahead against training that waits: steps a second of whole runs on this machine.

One sampler and one verifier stay up, and trainers take turns on them, round after round: `max_policy_lag` 0, then 1.
All share this machine's cores, so what is gained is what the cores were idle for. Where the sampler has a GPU of its
own, the most that can be gained is a factor of two, when sampling takes as long as training.

The policy is the demo's before any training: its responses run to the token budget, so that all steps are alike, and
are all wrong, so that a KL penalty must give the trainer something to compute.
"""

import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from services.cli.documents import to_toml
from services.cli.plan import plan_run
from services.cli.supervisor import Supervisor
from services.common.errors import UnavailableError
from services.demo.policy import build_policy
from services.demo.problems import write_problems
from services.demo.tokenizer import build_tokenizer

ROUNDS = 2
STEPS = 10
FIRST_STEPS = 2
"""Steps until a trainer is in its stride; not counted."""


async def measure_asynchrony() -> dict[str, float]:
    """Run trainers in turn, about four minutes on two cores.

    Returns:
        Steps a second of both (medians over rounds), and how many times faster sampling ahead is (median of each
        round's ratio); of a step that samples ahead, the share spent waiting for trees, and the same without.

    Raises:
        TreerlError: a service failed.
    """
    lags = (0, 1)
    rates: dict[int, list[float]] = {lag: [] for lag in lags}
    waits: dict[int, list[float]] = {lag: [] for lag in lags}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_STATE_HOME"] = scratch  # `treerl sample` must not take this run for the user's
        run = Path(scratch) / "run"
        plan = plan_run(_write_config(Path(scratch)), run, samplers=1, verifiers=1)
        assert plan.trainer is not None
        async with Supervisor(plan, run, lambda process: None) as supervisor:
            await supervisor.start()
            await supervisor.finished()  # a first trainer warms the sampler up
            for _ in range(ROUNDS):
                for lag in lags:
                    rate, wait = await _train(plan.trainer.words, lag, run)
                    rates[lag].append(rate)
                    waits[lag].append(wait)
    return {
        "synchronous_steps_per_s": statistics.median(rates[0]),
        "asynchronous_steps_per_s": statistics.median(rates[1]),
        "asynchronous_speedup": statistics.median(a / s for s, a in zip(rates[0], rates[1], strict=True)),
        "synchronous_wait_share": statistics.median(waits[0]),
        "asynchronous_wait_share": statistics.median(waits[1]),
    }


async def _train(words: Sequence[str], lag: int, run: Path) -> tuple[float, float]:
    """Steps a second of a new run, and the share of its time spent waiting for trees."""
    with (run / "logs" / "trainer-in-turn.log").open("ab") as log:
        flags = (f"--max-policy-lag={lag}", "--mismatch-correction=token", "--resume=never")
        trainer = await asyncio.create_subprocess_exec(*words, *flags, stderr=log)
        if await trainer.wait() != 0:
            raise UnavailableError(f"the trainer ended with exit status {trainer.returncode}")
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    counted = steps[FIRST_STEPS:]
    seconds = steps[-1]["unix_time_s"] - steps[FIRST_STEPS - 1]["unix_time_s"]
    return len(counted) / seconds, sum(step["sample_wait_s"] for step in counted) / seconds


def _write_config(folder: Path) -> Path:
    tokenizer, model = build_tokenizer(), folder / "model"
    tokenizer.save_pretrained(model)
    build_policy(tokenizer, seed=0).save_pretrained(model)
    train_data, _ = write_problems(folder, seed=0, train_count=256, heldout_count=8)
    document = {
        "run": "asynchrony",
        "sampler": {"model": str(model), "max_model_tokens": 256, "kv_cache_gib": 0.5},
        "verifier": {"math_workers": 1, "code_workers": 1},
        "trainer": {
            "model": str(model),
            "train_data": str(train_data),
            "steps": STEPS,
            "prompts_per_step": 8,
            "checkpoint_every": STEPS,
            "kl_coefficient": 0.01,
            "sampling": {"max_tokens": 48},
        },
    }
    path = folder / "run.toml"
    path.write_text(to_toml(document))
    return path
