"""Weights to send by broadcast, without the policy that they would come from."""

import asyncio
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from services.common.published_weights import Canary
from services.common.tensor_layout import Layout, TensorKind
from services.common.weight_broadcast import Broadcast, announced
from services.sampler.engine import InFlight
from services.sampler.weights import ServedWeights
from services.trainer.weight_sender import WeightSender
from services.trainer.whole_weights import Take
from tests.integration.tiny_policy import CANARY_TOKENS, trainer_logprobs

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


def to_send(folder: Path, version: int) -> Broadcast:
    """What a trainer tells of a folder's weights before it sends them."""
    canary = Canary(CANARY_TOKENS, trainer_logprobs(folder, [CANARY_TOKENS])[0])
    return announced(version, layout_of(load_file(folder / "model.safetensors")), [canary])


async def send(
    served: ServedWeights, folder: Path, version: int, in_flight: InFlight = InFlight.WAIT, receivers: int = 1
) -> None:
    """Send a folder's weights as a trainer does, and have all of a sampler's workers receive them."""
    sender = WeightSender("127.0.0.1", 0, receivers, patience_s=60)
    sending = asyncio.create_task(asyncio.to_thread(sender.send, giving(load_file(folder / "model.safetensors"))))
    await served.receive(to_send(folder, version), sender.rendezvous(1), in_flight)
    await sending


def die_in_the_middle(folder: Path, tensors: int, told: Connection) -> None:
    """As a process of its own: send so many of a folder's weights to one receiver, and be gone.

    Args:
        folder: holds model.safetensors.
        tensors: how many are sent.
        told: gets the receiver's place.
    """
    left = tensors

    def give(take: Take) -> None:
        nonlocal left
        for name, tensor in load_file(folder / "model.safetensors").items():
            if left == 0:
                os._exit(9)
            left -= 1
            take(name, tensor)

    sender = WeightSender("127.0.0.1", 0, receivers=1, patience_s=60)
    told.send(sender.rendezvous(1))
    sender.send(give)
