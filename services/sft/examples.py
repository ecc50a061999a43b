"""Demonstrations as tokens: read from data files, and padded to batches."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from services.common.data_rows import read_rows
from services.common.errors import ConfigurationError, InvalidRequestError

IGNORED_LABEL: Final = -100
"""Label of tokens that count nothing in the loss."""

_PROMPT_COLUMNS = ("prompt", "problem", "question")
_RESPONSE_COLUMNS = ("response", "completion", "solution")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt and a response that shows how to answer it."""

    prompt: str
    response: str


@dataclass(frozen=True, slots=True)
class Example:
    """A demonstration as token ids; the response's end with the token that ends a text."""

    prompt: Sequence[int]
    response: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids (b, s), padded on the right, and as labels (b, s) the response tokens only.

    The policy is not taught to pose problems.
    """

    tokens: torch.Tensor
    labels: torch.Tensor


def read_demonstrations(path: Path, prompt_column: str = "", response_column: str = "") -> list[Demonstration]:
    """Read the rows of a file: JSONL, Parquet, or a saved Hugging Face data set.

    Args:
        path: of the file.
        prompt_column: empty for the first there is of `prompt`, `problem`, `question`.
        response_column: empty for the first there is of `response`, `completion`, `solution`.

    Raises:
        ConfigurationError: it cannot be read or is empty, or a row is wrong: where, and what is wrong.
    """
    prompts = (prompt_column,) if prompt_column else _PROMPT_COLUMNS
    responses = (response_column,) if response_column else _RESPONSE_COLUMNS
    demonstrations = []
    for row in read_rows(path):
        try:
            values = row.values()
            demonstrations.append(Demonstration(_text(values, prompts), _text(values, responses)))
        except InvalidRequestError as error:
            raise ConfigurationError(f"{row.place}: {error}") from error
    if not demonstrations:
        raise ConfigurationError(f"data file {path} holds no demonstration")
    return demonstrations


def pad(examples: Sequence[Example], padding: int) -> Batch:
    """Put examples into one batch, as long as the longest."""
    longest = max(map(len, examples))
    tokens = torch.full((len(examples), longest), padding)
    labels = torch.full((len(examples), longest), IGNORED_LABEL)
    for row, example in enumerate(examples):
        tokens[row, : len(example)] = torch.tensor([*example.prompt, *example.response])
        labels[row, len(example.prompt) : len(example)] = torch.tensor(example.response)
    return Batch(tokens, labels)


def shuffled_batches(examples: Sequence[Example], batch_size: int, epochs: int, seed: int) -> Iterator[list[Example]]:
    """All examples in a new seeded order every epoch, so many at a time; the last of an epoch may be fewer."""
    for epoch in range(epochs):
        order = list(examples)
        random.Random(f"order of epoch {epoch} under seed {seed}").shuffle(order)
        yield from (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def encoder(tokenizer: Any, prompt_format: str, system_prompt: str) -> Callable[[Demonstration], Example]:
    """What turns a demonstration into tokens, as the sampler will turn the prompt.

    Args:
        tokenizer: of the policy.
        prompt_format: `plain`, or `chat` for the user's turn of the tokenizer's chat template.
        system_prompt: system turn of the chat template; empty for none.

    Raises:
        ConfigurationError: there is no chat template, or no token that ends a text.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigurationError("the tokenizer has no end token (eos_token): a policy would never learn to stop")
    if prompt_format == "chat" and tokenizer.chat_template is None:
        raise ConfigurationError("the tokenizer has no chat template; set the prompt format to plain")
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []

    def encode(demonstration: Demonstration) -> Example:
        if prompt_format == "plain":
            prompt = tokenizer.encode(demonstration.prompt)
        else:
            turns = [*system, {"role": "user", "content": demonstration.prompt}]
            prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        response = tokenizer.encode(demonstration.response, add_special_tokens=False)
        return Example(prompt, [*response, tokenizer.eos_token_id])

    return encode


def _text(values: Mapping[str, Any], columns: Sequence[str]) -> str:
    column = next((column for column in columns if column in values), None)
    if column is None:
        raise InvalidRequestError(f"no column {' or '.join(columns)}; the row has {', '.join(map(str, values))}")
    text = values[column]
    if not isinstance(text, str) or not text:
        raise InvalidRequestError(f"column {column} is {text!r}: expected text")
    return text
