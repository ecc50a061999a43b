"""The processes that hold one policy: the leader, rank 0, and those that follow it into each call.

The leader alone knows of streams, clients and files; it tells the others which method of the policy to enter with
which arguments. The calls have a process group of their own, for they may be as far apart as steps are; within a call
nobody waits longer than `_PATIENCE`. gloo notices at once when a process is gone; NCCL does not, but torchrun then ends
all of them.
"""

import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeAlias

import torch
from torch import distributed
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from services.common.errors import ConfigurationError

_PATIENCE = timedelta(minutes=15)
"""Longest that a process may be behind the others within a call."""

_BETWEEN_CALLS = timedelta(days=365)
"""Longest wait for the next call: a paused run makes none."""

Call: TypeAlias = tuple[str, tuple[Any, ...], dict[str, Any]]
"""Name of a method, and its arguments."""


def deal(sizes: Sequence[int], rank: int, processes: int) -> tuple[list[int], int]:
    """Deal things of some sizes out, largest first, one to each process in turn.

    So the sums of two processes differ by the largest size at most, and they work on things of like size at a time.

    Returns:
        Indices of a process's things, and how many it has less than the process that has most.
    """
    order = sorted(range(len(sizes)), key=lambda index: sizes[index], reverse=True)
    mine = order[rank::processes]
    return mine, math.ceil(len(order) / processes) - len(mine)


class ProcessLostError(Exception):
    """A process is gone, or broke off in a call that all make: the trainer must be started again.

    It is no `TreerlError`, because starting it again may well help.
    """


class Processes:
    """This process's place among all of the trainer.

    Attributes:
        rank: its number; 0 leads.
        size: how many there are.
    """

    def __init__(self) -> None:
        """Join the others, if torchrun started any; blocks until all are there.

        Raises:
            ConfigurationError: there are GPUs, but none for this process.
        """
        _join()
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        if self.size > 1:
            self._calls = distributed.new_group(backend="gloo", timeout=_BETWEEN_CALLS)
            self._results = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        self._in_step = True

    @contextmanager
    def together(self, call: Call) -> Iterator[None]:
        """Inside, every process makes a call: the leader announces it, the others were told by `next_call`.

        Raises:
            ProcessLostError: this process broke off, or another is gone.
        """
        self._in_step = False
        if self.rank == 0:
            self._broadcast(call)
        with self._lost_if_broken(call[0]):
            yield
        self._in_step = True

    def next_call(self) -> Call | None:
        """What the leader does next; None once it is done.

        Raises:
            ProcessLostError: the leader is gone.
        """
        return self._broadcast(None)

    def dismiss(self) -> None:
        """As the leader: there is no next call. Those that may be stuck in the last one are left to torchrun.

        Raises:
            ProcessLostError: one of them is gone.
        """
        if self._in_step:
            self._broadcast(None)

    def gather(self, parts: Mapping[int, Any]) -> dict[int, Any]:
        """On the leader, the parts of all processes; on the others, their own."""
        if self.size == 1:
            return dict(parts)
        gathered: list[Any] | None = [None] * self.size if self.rank == 0 else None
        distributed.gather_object(parts, gathered, dst=0, group=self._results)
        return {key: part for of_process in gathered or [parts] for key, part in of_process.items()}

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes."""
        total = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            distributed.all_reduce(total, group=self._results)
        return [float(value) for value in total]

    def wait_for_all(self) -> None:
        """Return once every process is here."""
        if self.size > 1:
            distributed.barrier(group=self._results)

    def _broadcast(self, call: Call | None) -> Call | None:
        message = [call]
        if self.size > 1:
            with self._lost_if_broken("the next call"):
                distributed.broadcast_object_list(message, src=0, group=self._calls)
        return message[0]

    @contextmanager
    def _lost_if_broken(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # that is what torch raises, whatever goes wrong
            if self.size == 1:
                raise
            first_line = str(error).partition("\n")[0]
            raise ProcessLostError(
                f"process {self.rank} of {self.size} of the trainer broke off in {what}: {first_line}; if another one "
                "is gone, its last lines in the log say why"
            ) from error


def _join() -> None:
    if distributed.is_initialized():
        return
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))  # DeepSpeed asks for it too
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    if cuda:
        if local_rank >= torch.cuda.device_count():
            raise ConfigurationError(
                f"process {local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}: start no "
                "more processes than GPUs"
            )
        torch.cuda.set_device(local_rank)
    backend = "nccl" if cuda else "gloo"
    distributed.init_process_group(backend, store=_store(rank, size), rank=rank, world_size=size, timeout=_PATIENCE)


def _store(rank: int, size: int) -> Any:
    """Where the processes find each other; None where torchrun serves it, as on several machines."""
    if "MASTER_ADDR" not in os.environ:
        return HashStore()  # a process alone needs no port
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank > 0:
        return TCPStore(address, port, size, is_master=False, timeout=_PATIENCE)
    listener = socket.create_server((address, port))  # the store's own would listen on every interface
    return TCPStore(address, port, size, is_master=True, timeout=_PATIENCE, master_listen_fd=listener.detach())
