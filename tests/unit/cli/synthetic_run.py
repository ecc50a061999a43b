"""A run's folder made up from nothing: what the trainer would leave, small and the same every time."""

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import zstandard
from google.protobuf.json_format import MessageToDict
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel

from services.common import codec
from services.common.problem import Domain, Problem
from services.common.tree import (
    Branch,
    FinishReason,
    SamplingParameters,
    SearchParameters,
    Tree,
    VersionSpan,
    segments,
)
from services.common.verdict import Outcome, Verdict

PROMPT = "Start with 7 and keep the last digit:\n1. square it\n2. add 5 and double the sum\n3. cube it\n"
RIGHT = "1. 7 * 7 = 49 -> 9\n2. (9 + 5) * 2 = 28 -> 8\n3. 8 * 8 * 8 = 512 -> 2\n\\boxed{2}"
WRONG_FIRST = "1. 7 + 7 = 14 -> 4\n2. (4 + 5) * 2 = 18 -> 8\n3. 8 * 8 * 8 = 512 -> 2\n\\boxed{2}"
WRONG_SECOND = "1. 7 * 7 = 49 -> 9\n2. 9 + 5 * 2 = 19 -> 9\n3. 9 * 9 * 9 = 729 -> 9\n\\boxed{9}"
WRONG_THIRD = "1. 7 * 7 = 49 -> 9\n2. (9 + 5) * 2 = 28 -> 8\n3. 8 * 8 = 64 -> 4\n\\boxed{4}"
RESPONSES = (RIGHT, WRONG_FIRST, WRONG_SECOND, WRONG_THIRD)


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\\boxed\{|->|\d|\s+|\S", text)


VOCABULARY = {token: number for number, token in enumerate(sorted({t for r in RESPONSES for t in tokens_of(r)}))}


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer whose tokens join without spaces."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="\n"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def make_branch(number: int, parent: tuple[int, int] | None, text: str, randomness: random.Random) -> Branch:
    start = 0 if parent is None else parent[1]
    ids = tuple(VOCABULARY[token] for token in tokens_of(text))[start:]
    outcome = Outcome.CORRECT if text == RIGHT else Outcome.WRONG
    return Branch(
        id=number,
        parent_id=None if parent is None else parent[0],
        fork_index=start,
        token_ids=ids,
        logprobs=tuple(-abs(randomness.gauss(0, 0.6)) for _ in ids),
        entropies=(),
        versions=(VersionSpan(0, len(ids)),),
        finish_reason=FinishReason.STOP,
        response_text=text,
        verdict=Verdict(outcome, "2 equals 2" if outcome is Outcome.CORRECT else "expected 2", 1.5, text[-2]),
    )


def make_tree(name: str, chains: int = 3, seed: int = 0) -> Tree:
    """Chains of random responses, each forked twice where another response parts from it."""
    randomness = random.Random(seed)
    branches: list[Branch] = []
    for _ in range(chains):
        chain = make_branch(len(branches), None, randomness.choice(RESPONSES), randomness)
        branches.append(chain)
        for other in randomness.sample([r for r in RESPONSES if r != chain.response_text], k=2):
            shared = parting(tokens_of(chain.response_text), tokens_of(other))
            branches.append(make_branch(len(branches), (chain.id, shared), other, randomness))
    problem = Problem("demo-1", Domain.MATH, PROMPT, answer="2", category="cube+square")
    search, sampling = SearchParameters(chains, 2, 1, 1), SamplingParameters(1.2, 0.95, 96)
    return Tree(name, problem, search, sampling, (1, 2, 3), tuple(branches), 0.4)


def parting(first: list[str], second: list[str]) -> int:
    return next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)


def tree_row(step: int, tree: Tree) -> dict[str, Any]:
    """A line of trees.jsonl, with V and R as the paper defines them."""
    reward = {branch.id: branch.verdict.reward for branch in tree.branches if branch.verdict is not None}
    values: dict[int | None, float] = {None: sum(reward.values()) / len(reward)}
    rows = []
    for segment in segments(tree.branches):
        values[segment.id] = value = sum(reward[leaf] for leaf in segment.leaf_ids) / len(segment.leaf_ids)
        gain = (value - values[None]) + (value - values[segment.parent_id])
        rows.append({
            "id": segment.id, "parent_id": segment.parent_id, "branch_id": segment.branch_id,
            "start": segment.start, "end": segment.end, "leaves": len(segment.leaf_ids),
            "value": value, "weight": gain / math.sqrt(len(segment.leaf_ids)),
        })  # fmt: skip
    return {
        "step": step,
        "tree": MessageToDict(codec.encode_tree(tree), preserving_proto_field_name=True),
        "segments": rows,
    }


def step_row(step: int, **changes: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    row: dict[str, Any] = {
        "step": step, "policy_version": step, "pass_rate": 0.3 + 0.05 * step, "zero_variance_share": 0.1,
        "loss": 0.01, "grad_norm": 0.4, "clip_fraction": 0.02, "entropy": 0.5 / step, "mismatch_kl": 1e-4 * step,
        "mismatch_mean_abs_logprob_diff": 0.003, "staleness": 0, "prompts": 16, "leaves": 480,
        "decoded_tokens": 10_000, "verdict_counts": {"CORRECT": 200, "WRONG": 270, "UNPARSED": 10}, "step_s": 4.0,
        "sample_wait_s": 2.5, "train_s": 1.2, "publish_s": 0.3, "reload_s": 0.05 * step,
        "reload_canary_max_abs_logprob_diff": 1e-5 * step, "queue_prompts": 3, "queue_trees": 1,
        "unix_time_s": 1_700_000_000.0 + 4 * step,
    }  # fmt: skip
    return row | changes


def evaluation_row(version: int, counts: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """A line of evaluations.jsonl from (correct, problems) by category."""
    correct, problems = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    categories = [{"category": name, "problems": n, "correct": k} for name, (k, n) in counts.items()]
    return {
        "policy_version": version, "problems": problems, "accuracy": correct / problems, "categories": categories,
        "wall_s": 3.0, "decoded_tokens": 9_000,
    }  # fmt: skip


BEFORE = {"cube": (30, 100), "cube+square": (20, 200), "square": (50, 100)}
AFTER = {"cube": (80, 100), "cube+square": (120, 200), "square": (90, 100)}


def write_run(folder: Path, steps: int = 4) -> Path:
    """A finished run of so many steps; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text('run = "made-up"\n[trainer]\nseed = 7\n[trainer.search]\nforks = 2\n')
    _write_lines(folder / "metrics.jsonl", [step_row(step) for step in range(1, steps + 1)])
    evaluations = [evaluation_row(0, BEFORE), evaluation_row(steps, AFTER)]
    _write_lines(folder / "evaluations.jsonl", evaluations)
    write_tokenizer(folder / "weights" / f"v{steps:08d}")
    with (folder / "trees.jsonl.zst").open("wb") as file:
        for step in range(1, steps + 1):  # a frame a step, as the trainer writes them
            rows = [tree_row(step, make_tree(f"step-{step}-{n}", seed=10 * step + n)) for n in range(2)]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            file.write(zstandard.ZstdCompressor().compress(lines.encode()))
    return folder


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
