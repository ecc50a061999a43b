"""A model's weights one after the other, each gathered from the processes that share it and then let go again."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from services.common.tensor_layout import TORCH_TYPES, Layout, TensorKind
from services.trainer.deepspeed_engine import gathered

_SAFETENSORS_TYPES: dict[torch.dtype, str] = {getattr(torch, name): kind for kind, name in TORCH_TYPES.items()}

Take: TypeAlias = Callable[[str, Tensor], None]
"""What takes a weight of a name."""


def whole_weights(model: nn.Module, zero_stage: int) -> Iterator[tuple[str, Tensor]]:
    """Each weight by its name; tied ones come once. All processes must go through all of it.

    A tensor is whole until the next one is asked for, and on the leading process alone.
    """
    for name, tensor in _untied(model):
        with gathered([tensor], zero_stage):
            yield name, tensor.detach()


def layout(model: nn.Module) -> Layout:
    """What `whole_weights` goes through, without adapters: those are merged into the weights that they are for."""
    return {
        name.replace(".base_layer.", "."): TensorKind(
            _SAFETENSORS_TYPES[tensor.dtype],
            tuple(getattr(tensor, "ds_shape", tensor.shape)),  # under ZeRO-3 the tensor itself is empty
        )
        for name, tensor in _untied(model)
        if ".lora_" not in name
    }


def _untied(model: nn.Module) -> Iterator[tuple[str, Any]]:
    names: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if names.setdefault(id(tensor), name) == name:
            yield name, tensor
