"""Training steps on packed trees against the same trees as single responses.

Both train a policy of 256 units and four layers in DeepSpeed, on trees of random tokens with the lengths of the demo's:
scoring, loss, backward pass and optimizer. They take turns on the same trees, round after round, in several shapes of
tree. Compared too: the gradient of both on the same weights, and the most memory that an update holds. Whole runs that
sample ahead and that wait are compared by `asynchrony`.

Not measured: long responses (attention dominates those), bf16.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would tell of each start; it reads this when loaded
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer has it: idle threads sleep instead of spin

import torch
from rich.console import Console
from rich.progress import track
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging as transformers_logging

from benchmarks.asynchrony import measure_asynchrony
from services.common.problem import Domain, Problem
from services.common.tree import Branch, FinishReason, SamplingParameters, SearchParameters, Tree, VersionSpan
from services.common.verdict import Outcome, Verdict
from services.trainer.advantages import WeightedTree, weigh_tree
from services.trainer.language_model import TargetLogits, load_model, target_logits
from services.trainer.loss import token_logprobs, token_scores
from services.trainer.objective import Objective
from services.trainer.packing import Microbatch, pack
from services.trainer.packing_check import prepare_for_trees
from services.trainer.policy import Policy
from services.trainer.rows import Packing, tree_rows
from services.trainer.settings import TrainerSettings

ROUNDS = 7
VOCABULARY = 512
MICROBATCH_TOKENS = 8192
LEARNING_RATE = 1.5e-6
ONE_PASS = 10**9
"""Tokens of a microbatch that holds a whole step."""

CPU = torch.device("cpu")
PACKINGS: tuple[Packing, ...] = ("flat", "tree")


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of trees.

    Attributes:
        search: (M, N, L, T).
        trees: of one step.
        shortest: tokens of a response, at least.
        longest: at most.
    """

    search: SearchParameters
    trees: int
    shortest: int = 25
    longest: int = 64


SHAPES = {
    "": Shape(SearchParameters(chains=6, forks=2, rounds=1, branches=2), trees=4),
    "_4_1_1_1": Shape(SearchParameters(chains=4, forks=1, rounds=1, branches=1), trees=8),
    "_6_2_2_2": Shape(SearchParameters(chains=6, forks=2, rounds=2, branches=2), trees=2),
    "_256_tokens": Shape(SearchParameters(chains=6, forks=2, rounds=1, branches=2), trees=1, shortest=128, longest=256),
}
"""By the end of their figures' names; the first is the paper's tree with the demo's lengths."""


async def measure() -> dict[str, float]:
    """Run the benchmark, about seven minutes on two cores.

    Returns:
        For each shape: seconds of a step (medians over rounds) and how many times faster packed trees are (median of
        each round's ratio); tokens of all responses over distinct tokens, prompts included, which is what that speed-up
        would be if a step took as long as it has tokens (single responses are padded besides); the relative error of
        the packed gradient; packed over flat peak memory of an update that computes all its trees in one pass.
        Besides, what `measure_asynchrony` measures.
    """
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_model(folder)
        policies = {packing: Policy(_settings(folder, packing)) for packing in PACKINGS}
        figures: dict[str, float] = {}
        for name, shape in track(SHAPES.items(), "trainer", console=console, disable=not console.is_terminal):
            step = _step(shape)
            figures |= {f"{figure}{name}": value for figure, value in _compare(policies, step, folder).items()}
    return figures | await measure_asynchrony()


def _compare(policies: dict[Packing, Policy], step: Sequence[WeightedTree], folder: Path) -> dict[str, float]:
    batches = {packing: _batches(step, packing, MICROBATCH_TOKENS) for packing in policies}
    memory = {packing: _peak_bytes(policy, _batches(step, packing, ONE_PASS)) for packing, policy in policies.items()}
    seconds: dict[Packing, list[float]] = {packing: [] for packing in policies}
    for _ in range(ROUNDS):
        for packing, policy in policies.items():
            seconds[packing].append(_seconds(policy, batches[packing]))
    path_tokens = sum(len(t.tree.prompt_token_ids) + t.tree.branches[leaf].end for t in step for leaf in t.trained)
    unique_tokens = sum(len(t.tree.prompt_token_ids) + sum(len(b.token_ids) for b in t.tree.branches) for t in step)
    flat, packed = (_gradient(folder, step, packing) for packing in PACKINGS)
    return {
        "flat_step_s": statistics.median(seconds["flat"]),
        "packed_step_s": statistics.median(seconds["tree"]),
        "packed_speedup": statistics.median(f / p for f, p in zip(seconds["flat"], seconds["tree"], strict=True)),
        "packed_speedup_ceiling": path_tokens / unique_tokens,
        "gradient_relative_error": float((packed - flat).norm() / flat.norm()),
        "packed_peak_memory_ratio": memory["tree"] / memory["flat"],
    }


def _batches(step: Sequence[WeightedTree], packing: Packing, token_budget: int) -> list[Microbatch]:
    rows = [row for tree in step for row in tree_rows(tree, packing)]
    return pack(rows, packing, token_budget, "token")


def _gradient(folder: Path, step: Sequence[WeightedTree], packing: Packing) -> torch.Tensor:
    model = load_model(folder, torch.float32)

    def logits(batch: Microbatch) -> torch.Tensor:
        return target_logits(TargetLogits(model), batch, CPU)

    if packing == "tree":
        with torch.no_grad():
            prepare_for_trees(model, logits)
    for batch in _batches(step, packing, MICROBATCH_TOKENS):
        logits_nv, target_n = logits(batch), torch.from_numpy(batch.target_n)
        scores = token_scores(logits_nv.detach(), target_n, 1.2)
        loss = Objective(0.8, 1.26).loss(token_logprobs(logits_nv, target_n, 1.2), batch, scores)
        torch.autograd.backward(loss.total)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _seconds(policy: Policy, batches: Sequence[Microbatch]) -> float:
    started = time.perf_counter()
    policy.update(batches, policy.score(batches), LEARNING_RATE)
    return time.perf_counter() - started


def _peak_bytes(policy: Policy, batches: Sequence[Microbatch]) -> int:
    """The most memory that tensors made by an update take at one time."""
    scores = policy.score(batches)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        policy.update(batches, scores, LEARNING_RATE)
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _write_model(folder: Path) -> None:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]


def _settings(folder: Path, packing: Packing) -> TrainerSettings:
    return TrainerSettings(
        model=folder, output_dir=folder, train_data=folder, samplers=("none:1",), steps=1, packing=packing
    )


def _step(shape: Shape) -> list[WeightedTree]:
    rng = random.Random(0)
    return [weigh_tree(_tree(shape, rng, f"tree-{number}"), "treerl") for number in range(shape.trees)]


def _tree(shape: Shape, rng: random.Random, name: str) -> Tree:
    """EPTree's shape, forked at random tokens; half of the leaves are right."""
    branches: list[Branch] = []

    def grow(parent: Branch | None, fork_index: int) -> None:
        length = rng.randint(max(shape.shortest, fork_index + 1), shape.longest) - fork_index
        verdict = Verdict(rng.choice([Outcome.CORRECT, Outcome.WRONG]), "", 0.0)
        branches.append(
            Branch(
                id=len(branches),
                parent_id=None if parent is None else parent.id,
                fork_index=fork_index,
                token_ids=tuple(rng.randrange(VOCABULARY) for _ in range(length)),
                logprobs=(-1.0,) * length,
                entropies=(),
                versions=(VersionSpan(0, length),),
                finish_reason=FinishReason.STOP,
                response_text="",
                verdict=verdict,
            )
        )

    for _ in range(shape.search.chains):
        first = len(branches)
        grow(None, 0)
        for _ in range(shape.search.rounds):
            forkable = [(b, position) for b in branches[first:] for position in range(b.fork_index + 1, b.end)]
            for branch, position in rng.sample(forkable, shape.search.forks):
                for _ in range(shape.search.branches):
                    grow(branch, position)
    prompt = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(20, 40)))
    problem, sampling = Problem(name, Domain.MATH, "made up"), SamplingParameters(1.2, 0.95, shape.longest)
    return Tree(name, problem, shape.search, sampling, prompt, tuple(branches))
