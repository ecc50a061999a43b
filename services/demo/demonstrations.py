"""Supervised batches of demonstrations, drawn without end from the training split."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from transformers import Qwen2Tokenizer

from services.demo.exercise import draw_habits
from services.demo.problems import Split, draw_exercises

IGNORED_LABEL: Final = -100


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids, and as labels the response tokens only: the policy is not taught to pose problems."""

    tokens: torch.Tensor
    labels: torch.Tensor


def demonstration_batches(tokenizer: Qwen2Tokenizer, batch_size: int, seed: int) -> Iterator[Batch]:
    """Yield batches of demonstrations, each following habits drawn anew."""
    randomness = random.Random(seed)
    exercises = draw_exercises(Split.TRAIN, randomness)
    while True:
        prompts, responses = [], []
        for _ in range(batch_size):
            exercise = next(exercises)
            prompts.append(tokenizer.encode(exercise.prompt))
            response = exercise.response(draw_habits(exercise, randomness))
            responses.append([*tokenizer.encode(response), tokenizer.eos_token_id])
        yield _padded(prompts, responses, tokenizer.pad_token_id)


def _padded(prompts: list[list[int]], responses: list[list[int]], padding: int) -> Batch:
    longest = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    tokens = torch.full((len(prompts), longest), padding)
    labels = torch.full((len(prompts), longest), IGNORED_LABEL)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        tokens[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) : end] = torch.tensor(response)
    return Batch(tokens, labels)
