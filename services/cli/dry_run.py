"""`treerl train --dry-run`: whether a configuration fits together, and what the run would take; nothing is started.

Not checked: whether Redis, samplers and verifiers answer, whether the weights can be loaded, and free memory.
"""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.cli.memory_estimate import GIB, ModelSize, cache_bytes, longest_pass, pass_bytes, state_bytes
from services.common.errors import ConfigurationError
from services.common.settings import load_settings
from services.sampler.settings import SamplerSettings
from services.trainer.data_settings import DataSource
from services.trainer.settings import TrainerSettings
from services.verifier.settings import VerifierSettings

_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


def dry_run(config: Path, console: Console) -> None:
    """Check a file, and print what was checked, what is missing on this machine, and what the run would take.

    Raises:
        ConfigurationError: the file is wrong, or its tables contradict each other.
    """
    sampler = load_settings(SamplerSettings, config)
    load_settings(VerifierSettings, config)
    trainer = load_settings(TrainerSettings, config)
    _require_agreement(sampler, trainer)
    size = model_size(trainer.model)
    console.print(f"{config}: settings of sampler, verifier and trainer are valid and agree.", soft_wrap=True)
    for missing in _missing(trainer):
        console.print(f"Missing on this machine: {missing}", style="yellow", soft_wrap=True)
    console.print(_step_table(trainer))
    console.print(_memory_table(trainer, size))
    if size is not None:
        console.print(_of_sampler(sampler, size), soft_wrap=True)


def model_size(folder: Path) -> ModelSize | None:
    """Size of the model that a folder's config.json describes; None where there is none.

    Raises:
        ConfigurationError: the file describes no model that transformers knows.
    """
    if not (folder / "config.json").is_file():
        return None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):  # shapes without memory
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise ConfigurationError(f"{folder}/config.json describes no model: {first_line}") from error
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_units = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelSize(
        parameters=model.num_parameters(),
        layers=text.num_hidden_layers,
        hidden_units=text.hidden_size,
        key_value_units=heads * head_units,
        vocabulary=text.vocab_size,
    )


def _require_agreement(sampler: SamplerSettings, trainer: TrainerSettings) -> None:
    if sampler.model != trainer.model:
        raise ConfigurationError(
            f"model is {sampler.model} in [sampler] but {trainer.model} in [trainer]: expected the same folder"
        )
    if trainer.sampling.max_tokens >= sampler.max_model_tokens:
        raise ConfigurationError(
            f"sampling.max_tokens is {trainer.sampling.max_tokens} in [trainer] but [sampler] holds max_model_tokens "
            f"{sampler.max_model_tokens} with the prompt: raise max_model_tokens"
        )
    if _PRECISIONS[sampler.precision] != trainer.precision:
        raise ConfigurationError(
            f"precision is {sampler.precision} in [sampler] but {trainer.precision} in [trainer]: expected the same"
        )


def _missing(trainer: TrainerSettings) -> list[str]:
    missing = []
    if not (trainer.model / "config.json").is_file():
        missing.append(f"the model, {trainer.model}: its size is unknown, so memory is told for a billion parameters")
    for name, data in (("train_data", trainer.train_data), ("heldout_data", trainer.heldout_data)):
        missing += [f"{path}, of {name}" for path in _paths(data) if not path.exists()]
    return missing


def _paths(data: Path | Mapping[str, DataSource] | None) -> list[Path]:
    if data is None:
        return []
    return [data] if isinstance(data, Path) else [source.path for source in data.values()]


def _step_table(trainer: TrainerSettings) -> Table:
    search, sampling = trainer.search, trainer.sampling
    leaves = search.parameters().max_leaves
    table = Table(title="One step", title_justify="left", show_header=False)
    shape = f"(M, N, L, T) = ({search.chains}, {search.forks}, {search.rounds}, {search.branches})"
    table.add_row("prompts", f"{trainer.prompts_per_step}")
    table.add_row("leaves of a prompt, at most", f"{leaves}  {shape}")
    table.add_row("responses, at most", f"{trainer.prompts_per_step * leaves:,}")
    table.add_row("tokens of a response, at most", f"{sampling.max_tokens:,}")
    table.add_row("tokens of responses, at most", f"{trainer.prompts_per_step * leaves * sampling.max_tokens:,}")
    table.add_row("optimizer updates", f"{trainer.minibatches}")
    table.add_row("tokens of one forward pass", f"{trainer.microbatch_tokens:,}")
    table.add_row("steps of the run", f"{trainer.steps:,}")
    return table


def _memory_table(trainer: TrainerSettings, size: ModelSize | None) -> Table:
    parameters = 10**9 if size is None else size.parameters
    table = Table(title="Memory of the trainer, by estimate", title_justify="left", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("model", f"{parameters / 1e9:.2f} billion parameters, {trainer.precision}")
    table.add_row("processes, one a GPU", f"{trainer.processes}, ZeRO-{trainer.zero_stage}")
    states = state_bytes(trainer)
    table.add_row("model states on each", _gib(states.device * parameters))
    if states.cpu:
        table.add_row("model states in the CPU's memory, of all", _gib(states.cpu * parameters * trainer.processes))
    if size is not None:
        for name, tokens in (("full", trainer.microbatch_tokens), ("longest", longest_pass(trainer))):
            in_all = states.device * parameters + pass_bytes(trainer, size, tokens)
            table.add_row(f"in all, in a {name} pass of {tokens:,} tokens", _gib(in_all))
    return table


def _of_sampler(sampler: SamplerSettings, size: ModelSize) -> str:
    number_bytes = 4 if sampler.precision == "float32" else 2
    weights = size.parameters * number_bytes / sampler.tensor_parallel
    cache = cache_bytes(size, sampler.max_model_tokens, number_bytes) / sampler.tensor_parallel
    return (
        f"Each sampler: {sampler.tensor_parallel * sampler.data_parallel} GPUs with {_gib(weights)} of weights; the "
        f"rest of their share is KV cache, which takes {_gib(cache)} for {sampler.max_model_tokens:,} tokens, the "
        "longest prompt with its response."
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
