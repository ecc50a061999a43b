"""Weights to send by broadcast, without the policy that they would come from."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from services.common.tensor_layout import Layout, TensorKind
from services.trainer.whole_weights import Take

_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def layout_of(weights: Mapping[str, Tensor]) -> Layout:
    """The layout of tensors, in their order."""
    return {name: TensorKind(_TYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in weights.items()}


def giving(weights: Mapping[str, Tensor]) -> Callable[[Take], None]:
    """What `WeightSender.send` sends."""

    def give(take: Take) -> None:
        for name, tensor in weights.items():
            take(name, tensor)

    return give
