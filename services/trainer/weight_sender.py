"""The sending end of one broadcast of weights.

Tested over gloo. NCCL has not been run: nothing of this project has been on a GPU. What differs there is `_NcclGroup`,
which wraps vLLM's communicator.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from services.common.broadcast_group import GlooGroup, MeetingPoint
from services.common.errors import ConfigurationError, UnavailableError
from services.common.weight_broadcast import Backend, Rendezvous
from services.trainer.whole_weights import Take

_POLL_S = 0.05
"""Time between two looks at who has come."""


class _Group(Protocol):
    def broadcast(self, tensor: Tensor) -> None: ...

    def destroy(self) -> None: ...


class WeightSender:
    """Sends weights to a group that forms anew for it."""

    def __init__(self, host: str, port: int, receivers: int, patience_s: float) -> None:
        """Open the place where the group meets.

        Args:
            host: address of this machine.
            port: port to meet at; 0 for a free one.
            receivers: processes that are to receive.
            patience_s: longest wait for another member of the group, in seconds.

        Raises:
            ConfigurationError: it cannot listen there.
        """
        self._receivers = receivers
        self._backend: Backend = "nccl" if torch.cuda.is_available() else "gloo"
        self._given_up = threading.Event()
        self._group: _Group | None = None
        self._failure: RuntimeError | None = None
        self._patience_s = patience_s
        try:
            self._point: MeetingPoint | None = MeetingPoint(host, port, patience_s)
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port} for a broadcast of weights: {error.strerror}; set broadcast_host to "
                "an address of this machine, and broadcast_port to a free port"
            ) from error

    def rendezvous(self, first_rank: int) -> Rendezvous:
        """The place of a sampler whose first rank is this."""
        point, world_size = self._meeting_point(), 1 + self._receivers
        return Rendezvous(point.host, point.port, first_rank, world_size, self._backend, self._patience_s)

    def send(self, give: Callable[[Take], None]) -> None:
        """Wait until all receivers have come, and send all weights. Blocks.

        Args:
            give: calls what it is given with each weight, as `Policy.send` does.

        Raises:
            UnavailableError: one did not come, or is gone.
        """
        try:
            self._wait_for_receivers()
            self._group = self._form_group()
            give(self._take)
        except RuntimeError as error:
            self._failure = self._failure or error
        finally:
            if self._group is not None:
                self._group.destroy()
            self._group = self._point = None
        if self._failure is not None:
            first_line = str(self._failure).partition("\n")[0]
            raise UnavailableError(f"sending weights broke off: {first_line}") from self._failure

    def give_up(self) -> None:
        """From any thread: a receiver is lost. Those that have come learn it."""
        self._given_up.set()
        if isinstance(group := self._group, _NcclGroup):  # gloo notices by itself who is gone
            group.destroy()

    def _wait_for_receivers(self) -> None:
        deadline = time.monotonic() + self._patience_s
        while (joined := self._meeting_point().joined()) < self._receivers:
            if self._given_up.wait(_POLL_S) or time.monotonic() > deadline:
                raise UnavailableError(f"{joined} of {self._receivers} processes came to receive weights")

    def _form_group(self) -> _Group:
        point, world_size = self._meeting_point(), 1 + self._receivers
        if self._backend == "nccl":
            return _NcclGroup(point.store, world_size)
        return GlooGroup(point.store, 0, world_size, point.host, self._patience_s)

    def _meeting_point(self) -> MeetingPoint:
        assert self._point is not None, "weights are sent once"
        return self._point

    def _take(self, name: str, tensor: Tensor) -> None:
        if self._group is None or self._failure is not None:
            return
        try:
            self._group.broadcast(tensor.contiguous())
        except RuntimeError as error:  # that is what torch and vLLM raise, whatever goes wrong
            self._failure = error


class _NcclGroup:
    """vLLM's own communicator, as the group of its NCCL engine has it."""

    def __init__(self, store: Any, world_size: int) -> None:
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup
        from vllm.utils.nccl import unpinned_nccl_env

        self._device = torch.device("cuda", torch.cuda.current_device())
        with unpinned_nccl_env():
            self._communicator = PyNcclCommunicator(StatelessProcessGroup(0, world_size, store), self._device)
        if self._communicator.disabled:
            raise ConfigurationError("vLLM finds no NCCL library to send weights by; set weights_transport to folder")

    def broadcast(self, tensor: Tensor) -> None:
        if self._communicator.disabled:  # it would send nothing, and say nothing
            raise RuntimeError("the group was given up")
        stream = torch.cuda.current_stream()
        self._communicator.broadcast(tensor.to(self._device), src=0, stream=stream)
        stream.synchronize()  # the tensor lasts no longer

    def destroy(self) -> None:
        self._communicator.destroy()  # type: ignore[no-untyped-call]
