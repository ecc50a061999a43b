"""The trainer's side of publishing weights: the files, and the canary that proves a reload."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from services.common import published_weights
from services.common.errors import CheckpointError, ConfigurationError
from services.common.problem import Problem
from services.common.published_weights import Canary, PublishedWeights
from services.common.tree import Tree, path_tokens
from services.common.weight_broadcast import Broadcast, announced
from services.trainer.policy import Policy

_CANARIES = 4
"""Sequences of a canary: a wrong layer shows in any, and computing them must cost next to nothing."""

_SENT_CANARY_TOKENS = 4096
"""Tokens of a canary that is sent with a call, which samplers bound."""

_COPIED_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".txt")
"""Tokenizer and generation files of a model folder; its weights and config are written anew."""


def prompt_sequences(model: Path, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
    """Canary sequences where nothing has been sampled yet: prompts.

    Raises:
        ConfigurationError: the model folder has no usable tokenizer.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigurationError(f"cannot load the tokenizer in {model}: {first_line}") from error
    sequences = [tuple(tokenizer(problem.prompt).input_ids) for problem in problems[:_CANARIES]]
    # a canary has no logprob for its first token: a prompt of one token is said twice
    return [sequence * 2 if len(sequence) == 1 else sequence for sequence in sequences if sequence]


def path_sequences(trees: Sequence[Tree]) -> list[tuple[int, ...]]:
    """Canary sequences out of a step: the longest path, prompt included, of a few trees."""
    sequences = []
    for tree in trees[:_CANARIES]:
        longest = max(tree.branches, key=lambda branch: branch.end)
        sequences.append((*tree.prompt_token_ids, *path_tokens(tree.branches, longest.id)))
    return sequences


def canaries_of(policy: Policy, version: int, sequences: Sequence[Sequence[int]]) -> list[Canary]:
    """What the policy computes for canary sequences. Blocks.

    Raises:
        CheckpointError: it computes something that is not a number.
    """
    logprobs = policy.sequence_logprobs(sequences)
    if not all(math.isfinite(logprob) for known in logprobs for logprob in known):
        raise CheckpointError(
            f"the policy of version {version} gives logprobs that are no numbers: training has diverged; start "
            "again from the last checkpoint with a lower learning_rate"
        )
    return [Canary(tuple(ids), known) for ids, known in zip(sequences, logprobs, strict=True)]


def to_broadcast(policy: Policy, version: int, sequences: Sequence[Sequence[int]]) -> Broadcast:
    """The policy's weights, as they are announced to samplers that receive them by broadcast. Blocks.

    Raises:
        CheckpointError: the policy computes something that is not a number.
    """
    shortened = [sequence[:_SENT_CANARY_TOKENS] for sequence in sequences]
    return announced(version, policy.layout(), canaries_of(policy, version, shortened))


class WeightsFolder:
    """Where a run's weights are published."""

    def __init__(self, root: Path, model: Path) -> None:
        """
        Args:
            root: folder of all versions.
            model: folder that the run started from; tokenizer files are copied out of it.
        """
        self._root = root
        self._model = model

    def discard_after(self, version: int) -> None:
        """Remove versions that the run is about to publish again: a sampler that restarts must not load them."""
        for folder in self._root.glob("v*"):
            if folder > published_weights.version_folder(self._root, version):
                shutil.rmtree(folder)

    def publish(self, policy: Policy, version: int, sequences: Sequence[Sequence[int]]) -> PublishedWeights:
        """Write the policy's weights and what it computes for the canary sequences. Blocks.

        Raises:
            CheckpointError: it computes something that is not a number.
        """
        canaries = canaries_of(policy, version, sequences)
        return published_weights.publish(self._root, version, canaries, lambda folder: self.write(policy, folder))

    def write(self, policy: Policy, folder: Path) -> None:
        """Write the policy as a Hugging Face folder: weights, config, tokenizer. Blocks."""
        for file in self._model.iterdir():
            if file.suffix in _COPIED_SUFFIXES and not file.name.endswith(".index.json"):
                shutil.copyfile(file, folder / file.name)
        policy.write_model(folder)
