"""Weights that a trainer sends to all its samplers at once, and what it tells each of them beforehand."""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal, TypeAlias

from services.common.errors import CheckpointError, InvalidRequestError
from services.common.published_weights import Canary
from services.common.tensor_layout import TORCH_TYPES, Layout, TensorKind
from treerl.sampler.v1 import sampler_service_pb2 as pb

Backend: TypeAlias = Literal["nccl", "gloo"]
"""What the processes talk through: NCCL from GPU to GPU, gloo where there are none."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Weights that are to be sent.

    Attributes:
        policy_version: optimizer steps behind them.
        checksum: digest of all that is told about them; the weights themselves are proven by the canaries alone.
        layout: the tensors, in the order in which they are sent.
        canaries: what an engine with these weights must compute.
    """

    policy_version: int
    checksum: str
    layout: Layout
    canaries: tuple[Canary, ...]


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """A sampler's place in the group that receives one broadcast.

    Attributes:
        host: where the members meet: the sender's.
        port: port there.
        first_rank: first place of this sampler; the sender has place 0.
        world_size: places in the group.
        backend: what they talk through.
        patience_s: time after which the group, or what it should bring, is given up, in seconds.
    """

    host: str
    port: int
    first_rank: int
    world_size: int
    backend: Backend
    patience_s: float


def announced(policy_version: int, layout: Layout, canaries: Sequence[Canary]) -> Broadcast:
    """The broadcast of some weights."""
    told = repr(
        (policy_version, [(name, astuple(kind)) for name, kind in layout.items()], list(map(astuple, canaries)))
    )
    return Broadcast(policy_version, hashlib.sha256(told.encode()).hexdigest(), layout, tuple(canaries))


def encode_broadcast(broadcast: Broadcast, rendezvous: Rendezvous) -> pb.LoadCheckpointRequest:
    """As the request that has a sampler receive it."""
    return pb.LoadCheckpointRequest(
        policy_version=broadcast.policy_version,
        checksum=broadcast.checksum,
        broadcast=pb.WeightBroadcast(
            host=rendezvous.host,
            port=rendezvous.port,
            first_rank=rendezvous.first_rank,
            world_size=rendezvous.world_size,
            backend=rendezvous.backend,
            patience_s=rendezvous.patience_s,
            tensors=[
                pb.TensorKind(name=name, dtype=kind.dtype, shape=kind.shape) for name, kind in broadcast.layout.items()
            ],
            canaries=[pb.Canary(token_ids=c.token_ids, logprobs=c.logprobs) for c in broadcast.canaries],
        ),
    )


def decode_broadcast(request: pb.LoadCheckpointRequest, ranks: int, backend: Backend) -> tuple[Broadcast, Rendezvous]:
    """The other way round.

    Args:
        request: has a broadcast.
        ranks: places that the receiver takes.
        backend: what it talks through.

    Raises:
        InvalidRequestError: it has no such places in the group, or talks through something else.
        CheckpointError: the weights could not be loaded, or by nothing be proven.
    """
    message = request.broadcast
    if not 1 <= message.first_rank <= message.world_size - ranks or not message.patience_s > 0:
        raise InvalidRequestError(
            f"first_rank {message.first_rank} of world_size {message.world_size} for {message.patience_s} s: expected "
            f"room for {ranks} ranks behind rank 0, and a time above 0"
        )
    if message.backend != backend:
        raise InvalidRequestError(
            f"weights are sent by {message.backend!r}, this sampler receives by {backend}: run trainer and samplers "
            "both on GPUs, or both on CPUs"
        )
    if not (request.checksum and message.canaries):
        raise CheckpointError("the broadcast has no checksum or no canary: nothing could prove that it was loaded")
    if unknown := [tensor for tensor in message.tensors if tensor.dtype not in TORCH_TYPES]:
        raise CheckpointError(
            f"tensor {unknown[0].name} is of type {unknown[0].dtype!r}: expected {', '.join(TORCH_TYPES)}"
        )
    try:
        canaries = tuple(Canary(tuple(c.token_ids), tuple(c.logprobs)) for c in message.canaries)
    except ValueError as error:
        raise CheckpointError(f"the broadcast is announced wrongly: {error}") from error
    layout = {tensor.name: TensorKind(tensor.dtype, tuple(tensor.shape)) for tensor in message.tensors}
    place = Rendezvous(message.host, message.port, message.first_rank, message.world_size, backend, message.patience_s)
    return Broadcast(request.policy_version, request.checksum, layout, canaries), place
