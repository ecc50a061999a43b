"""LoRA (Hu et al. 2021, arXiv 2106.09685, Eq. 3): low-rank adapters are trained, the model below them stays as it is.

    y = W x + (alpha / rank) B A x

The layers are peft's, in linear layers alone and without dropout. B begins at 0: a run begins with the model itself.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from services.common.errors import ConfigurationError
from services.trainer.settings import LoraSettings

_ADAPTER = "default"


class Adapters:
    """The adapters in a model."""

    def __init__(self, model: PreTrainedModel, settings: LoraSettings, seed: int, base: Path) -> None:
        """Put them into a model, whose own weights are frozen.

        Args:
            model: gets other modules in place of its linear layers.
            settings: their shape and place.
            seed: decides A.
            base: folder of the model.

        Raises:
            ConfigurationError: the model has no linear layers of the names asked for.
        """
        self._config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=list(settings.target_modules) or "all-linear",
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
            base_model_name_or_path=str(base),
        )
        wanted = ", ".join(settings.target_modules)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                inject_adapter_in_model(self._config, model, adapter_name=_ADAPTER)
        except ValueError as error:
            raise ConfigurationError(f"lora.target_modules {wanted}: {str(error).partition('. ')[0]}") from error
        modules = [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]
        self._layers = {name: module for name, module in modules if isinstance(module, Linear)}
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        tied = model.config.tie_word_embeddings and head in self._layers.values()
        if tied or len(self._layers) < len(modules):
            raise ConfigurationError(
                f"lora.target_modules {wanted}: expected linear layers that share no weights with others"
            )

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model computes what it did without adapters."""
        # not disabled, because that would change which modules run, and by their order ZeRO-3 gathers ahead
        for layer in self._layers.values():
            layer.set_scale(_ADAPTER, 0.0)
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.set_scale(_ADAPTER, 1.0)

    def merged(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's weights with the adapters added to them, under the names of a model without any.

        Args:
            tensors: of the model with adapters, on the CPU.
        """
        plain = {name.replace(".base_layer.", "."): tensor for name, tensor in tensors.items() if ".lora_" not in name}
        for name, layer in self._layers.items():
            a, b = (tensors[f"{name}.lora_{part}.{_ADAPTER}.weight"].float() for part in "AB")
            added = layer.scaling[_ADAPTER] * (b @ a)
            weight = plain[f"{name}.weight"]
            plain[f"{name}.weight"] = (weight.float() + (added.T if layer.fan_in_fan_out else added)).to(weight.dtype)
        return plain

    def write(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write the adapters alone, in the format of peft.

        Args:
            folder: gets `adapter_config.json` and `adapter_model.safetensors`.
            tensors: of the model with adapters, on the CPU.
        """
        self._config.save_pretrained(str(folder))
        named = {
            f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}": tensor
            for name, tensor in tensors.items()
            if ".lora_" in name
        }
        save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
