"""Supervised fine-tuning of a Hugging Face model on demonstrations, from one folder to another."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from services.common.durable_folder import digest, digests, write_folder
from services.common.errors import ConfigurationError, PreconditionError
from services.sft.examples import encoder, pad, read_demonstrations, shuffled_batches
from services.sft.saved_steps import Resume, SavedSteps
from services.sft.supervision import Supervision, warmup_and_decay

REPORT_FILE = "sft.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the fine-tuned model.

    Attributes:
        model: Hugging Face folder to start from.
        data: demonstrations, as `read_demonstrations` reads them.
        prompt_column: of the data; empty to find it.
        response_column: of the data; empty to find it.
        prompt_format: how the sampler will be set: `plain`, or `chat`.
        system_prompt: system turn of the chat template; empty for none.
        epochs: times that every demonstration is seen.
        batch_size: demonstrations of one optimizer step.
        microbatch: of those, how many are computed at once: fewer need less memory and change nothing else.
        learning_rate: AdamW's, at its highest.
        max_tokens: a longer demonstration, prompt included, is left out.
        precision: that of activations; weights and optimizer stay in fp32.
        seed: decides the order.
    """

    model: Path
    data: Path
    prompt_column: str = ""
    response_column: str = ""
    prompt_format: Literal["plain", "chat"] = "plain"
    system_prompt: str = ""
    epochs: int = 3
    batch_size: int = 32
    microbatch: int = 8
    learning_rate: float = 1e-5
    max_tokens: int = 2048
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where it stands after a step; the loss is that before the step, in nats a response token."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished fine-tuning.

    Attributes:
        examples: demonstrations that were learned from.
        too_long: those left out.
        steps: optimizer steps.
        losses: before each step.
    """

    examples: int
    too_long: int
    steps: int
    losses: tuple[float, ...]


def fine_tune(
    recipe: Recipe,
    output: Path,
    on_progress: Callable[[Progress], None],
    *,
    checkpoint_every: int = 200,
    resume: Resume = "auto",
) -> Outcome:
    """Fine-tune, and save model and tokenizer; `output` appears only when it is complete.

    A fine-tuning that was killed goes on from its newest checkpoint, and ends with the weights of one that was not.

    Args:
        recipe: what decides the model.
        output: new folder; until it is complete, checkpoints are beside it.
        on_progress: told after each step, and where it goes on from.
        checkpoint_every: steps between checkpoints.
        resume: whether to go on from checkpoints.

    Raises:
        PreconditionError: `output` exists, or checkpoints of another recipe do.
        CheckpointError: there are checkpoints but none is intact.
        ConfigurationError: the data or the model cannot be used.
    """
    if output.exists():
        raise PreconditionError(f"{output} exists already: choose another output folder, or delete it")
    if not (recipe.model / "config.json").is_file():
        raise ConfigurationError(f"no model in {recipe.model}: expected a Hugging Face folder with config.json")
    demonstrations = read_demonstrations(recipe.data, recipe.prompt_column, recipe.response_column)
    saved = SavedSteps(output, _identity(recipe), resume)
    model, tokenizer = _load(recipe.model)
    encoded = list(map(encoder(tokenizer, recipe.prompt_format, recipe.system_prompt), demonstrations))
    examples = [example for example in encoded if len(example) <= recipe.max_tokens]
    if not examples:
        raise ConfigurationError(
            f"all {len(encoded)} demonstrations have more than {recipe.max_tokens} tokens; raise max_tokens"
        )
    steps = recipe.epochs * math.ceil(len(examples) / recipe.batch_size)
    supervision = Supervision(model, recipe.learning_rate, warmup_and_decay(steps), autocast=recipe.precision == "bf16")
    losses = saved.restore(supervision)
    if losses:
        on_progress(Progress(len(losses), steps, losses[-1]))
    batches = shuffled_batches(examples, recipe.batch_size, recipe.epochs, recipe.seed)
    for step, batch in enumerate(islice(batches, len(losses), None), start=len(losses) + 1):
        parts = (batch[start : start + recipe.microbatch] for start in range(0, len(batch), recipe.microbatch))
        losses.append(supervision.step([pad(part, tokenizer.eos_token_id) for part in parts]))
        on_progress(Progress(step, steps, losses[-1]))
        if step % checkpoint_every == 0:
            saved.save(supervision, losses)
    outcome = Outcome(len(examples), len(encoded) - len(examples), steps, tuple(losses))

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        report = {"recipe": asdict(recipe), **asdict(outcome)}
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")

    write_folder(output, write)
    saved.discard()
    return outcome


def _load(folder: Path) -> tuple[PreTrainedModel, Any]:
    """The model in fp32 on the GPU, if there is one, and its tokenizer."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigurationError(f"cannot load a model with its tokenizer from {folder}: {first_line}") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)  # type: ignore[arg-type]  # mypy takes it for a method of the class
    model.eval()  # type: ignore[no-untyped-call]  # without dropout, as it will be reinforced
    return model, tokenizer


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What decides the model, as JSON has it: model and data by what they hold, wherever they are."""
    described = asdict(recipe)
    del described["microbatch"]
    data = digests(recipe.data) if recipe.data.is_dir() else digest(recipe.data)
    return {**described, "model": digests(recipe.model), "data": data}
