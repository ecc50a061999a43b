"""A few updates of a tiny policy, in as many processes as there are."""

import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from services.common.settings import load_settings
from services.common.verdict import Outcome, Verdict
from services.trainer.advantages import WeightedTree, weigh_tree
from services.trainer.packing import LossMean, pack
from services.trainer.policy import Policy, UpdateResult
from services.trainer.rows import tree_rows
from services.trainer.settings import TrainerSettings
from tests.builders import random_tree
from tests.integration.fake_sampler import VOCABULARY
from tests.integration.sent_weights import layout_of

LEARNING_RATE = 1e-2


def two_minibatches() -> list[list[WeightedTree]]:
    """Two minibatches; one tree of each teaches nothing, because all its leaves are right."""
    rng = random.Random(0)
    step = [random_tree(rng, VOCABULARY, forks) for forks in (0, 2, 3, 0, 2, 3)]
    for silent in (1, 4):
        step[silent] = step[silent].with_verdicts([Verdict(Outcome.CORRECT, "", 0.0)] * len(step[silent].branches))
    weighted = [weigh_tree(tree, "treerl") for tree in step]
    return [weighted[:3], weighted[3:]]


def make_policy(model: Path, **changes: Any) -> Policy:
    values: dict[str, Any] = {
        "model": model,
        "output_dir": model,
        "train_data": model,
        "samplers": ["a:1"],
        "steps": 1,
        "threads": 1,
    }
    return Policy(load_settings(TrainerSettings, **values | changes))


def train(
    policy: Policy, minibatches: list[list[WeightedTree]], token_budget: int, mean: LossMean = "token"
) -> list[UpdateResult]:
    rows = [[row for tree in trees for row in tree_rows(tree, policy.packing)] for trees in minibatches]
    packed = [pack(of_minibatch, policy.packing, token_budget, mean) for of_minibatch in rows]
    scores = [policy.score(batches) for batches in packed]
    return [policy.update(batches, old, LEARNING_RATE) for batches, old in zip(packed, scores, strict=True)]


def weights(policy: Policy, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    policy.write_model(folder)
    return load_file(folder / "model.safetensors")


def sent(policy: Policy) -> dict[str, torch.Tensor]:
    """What the policy gives away to be sent, all of it as announced."""
    tensors: dict[str, torch.Tensor] = {}

    def take(name: str, tensor: torch.Tensor) -> None:
        tensors[name] = tensor.clone()

    policy.send(take)
    assert list(layout_of(tensors).items()) == list(policy.layout().items())
    return tensors
