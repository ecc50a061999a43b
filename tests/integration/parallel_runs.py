"""Updates of a tiny policy under every ZeRO stage, by all processes that torchrun starts: `parallel_runs.py MODEL OUT`.

For each stage the leader leaves in OUT what the updates measured and gave, and what those gave that went on from a
checkpoint.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from services.trainer.advantages import WeightedTree
from services.trainer.policy import Policy, UpdateResult
from tests.integration.small_runs import make_policy, sent, train, two_minibatches, weights

SETTINGS: dict[str, dict[str, Any]] = {
    **{f"stage {stage}": {"zero_stage": stage, "kl_coefficient": 0.1} for stage in (0, 1, 2, 3)},
    "adapters": {"zero_stage": 3, "kl_coefficient": 0.1, "lora": {"rank": 4}, "gradient_checkpointing": "layers"},
    "single responses": {"zero_stage": 2, "packing": "flat"},
    "bf16": {"zero_stage": 0, "precision": "bf16"},
}
"""Runs by name."""

BUDGET, WHOLE = 64, 10_000
"""Tokens of a microbatch: several a minibatch, or a single one."""


def measured_updates(policy: Policy, minibatches: list[list[WeightedTree]]) -> list[UpdateResult]:
    """Updates on many microbatches, on a single one, which leaves nothing for a second process, and on many again."""
    single = [[minibatches[0][2]]]
    return train(policy, minibatches, BUDGET) + train(policy, single, WHOLE) + train(policy, minibatches, BUDGET)


def main(model: Path, out: Path) -> None:
    """Make all runs, one after the other."""
    minibatches = two_minibatches()
    for name, settings in SETTINGS.items():
        folder = out / name
        with_all(make_policy(model, **settings), lambda policy, to=folder: first_life(policy, to, minibatches))
        with_all(make_policy(model, **settings), lambda policy, to=folder: second_life(policy, to, minibatches))


def with_all(policy: Policy, lead: Callable[[Policy], None]) -> None:
    """Lead, or follow the process that does."""
    if policy.processes.rank == 0:
        lead(policy)
        policy.close()
    else:
        policy.follow()


def first_life(policy: Policy, folder: Path, minibatches: list[list[WeightedTree]]) -> None:
    """Updates, a checkpoint, and more updates."""
    results = measured_updates(policy, minibatches)
    (folder / "checkpoint").mkdir(parents=True)
    policy.save(folder / "checkpoint")
    weights(policy, folder / "weights")
    save_file(sent(policy), folder / "sent.safetensors")
    (folder / "results.json").write_text(json.dumps([asdict(result) for result in results]))
    train(policy, minibatches, BUDGET)
    weights(policy, folder / "later")


def second_life(policy: Policy, folder: Path, minibatches: list[list[WeightedTree]]) -> None:
    """The same updates from the checkpoint on."""
    policy.load(folder / "checkpoint")
    train(policy, minibatches, BUDGET)
    weights(policy, folder / "resumed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
