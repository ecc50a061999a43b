"""How the processes of a broadcast meet, and the group that they form where there are no GPUs.

They meet at a store in the sender's process. Whoever receives says that it has come before it begins to form the
group, and the sender begins only once all have: forming a group blocks, under NCCL without an end, so until then each
may leave again and nothing is lost. On GPUs the group is vLLM's, which meets at the same store.
"""

import socket
from datetime import timedelta
from typing import Any, Self

from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]

_JOINED = "treerl/joined"
_PATIENCE = "treerl/patience_s"

_CONNECT_S = 30.0
"""Longest wait for a store that does not answer, in seconds."""


_RECONNECT_S = 2.0
"""Wait for one that has just answered, in seconds."""


class MeetingPoint:
    """The sender's end of the store; it exists as long as the object."""

    def __init__(self, host: str, port: int, patience_s: float) -> None:
        """
        Args:
            host: address of this machine.
            port: port to listen on; 0 for a free one.
            patience_s: longest that a member of the group waits for another, in seconds.

        Raises:
            OSError: it cannot listen there.
        """
        listener = socket.create_server((host, port))  # the store's own would listen on every interface
        self.host, self.port = host, listener.getsockname()[1]
        self.store = TCPStore(
            host,
            self.port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
            timeout=timedelta(seconds=patience_s),
            use_libuv=False,  # as vLLM's
        )
        self.store.set(_PATIENCE, str(patience_s))

    def joined(self) -> int:
        """Processes that have come."""
        return int(self.store.add(_JOINED, 0))


def join(host: str, port: int) -> None:
    """Say that one more process has come to a meeting point.

    Raises:
        OSError: nobody is there.
        RuntimeError: the sender has just gone.
    """
    store, _ = _connect(host, port)
    store.add(_JOINED, 1)


class GlooGroup:
    """A group whose first member sends tensors to all others, from CPU to CPU."""

    def __init__(self, store: Any, rank: int, world_size: int, address: str, patience_s: float) -> None:
        """Form it; blocks until all members are there.

        Args:
            store: where they meet.
            rank: this process's place.
            world_size: places.
            address: of this machine, to listen on.
            patience_s: longest wait for another member, in seconds.

        Raises:
            RuntimeError: a member is gone.
        """
        options: Any = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [ProcessGroupGloo.create_device(hostname=address)]
        options._timeout = timedelta(seconds=patience_s)
        self._group: Any = ProcessGroupGloo(PrefixStore("treerl/gloo", store), rank, world_size, options)

    @classmethod
    def receiving(cls, host: str, port: int, rank: int, world_size: int) -> Self:
        """As a process that receives, at somebody's meeting point.

        Raises:
            OSError: nobody is there.
            RuntimeError: the sender, or another member, is gone.
        """
        store, address = _connect(host, port)
        patience_s = float(store.get(_PATIENCE))
        store.set_timeout(timedelta(seconds=patience_s))
        return cls(store, rank, world_size, address, patience_s)

    def broadcast(self, tensor: Tensor) -> None:
        """Send a tensor, or receive it into one of the same kind.

        Raises:
            RuntimeError: a member is gone.
        """
        self._group.broadcast(tensor, 0).wait()

    def destroy(self) -> None:
        """Leave the group."""
        self._group = None  # closes the connections


def _connect(host: str, port: int) -> tuple[TCPStore, str]:
    """The store, and the address at which its machine sees this one."""
    # where nobody listens, the store would try for a minute
    with socket.create_connection((host, port), timeout=_CONNECT_S) as connection:
        address: str = connection.getsockname()[0]
    # it may have gone since: the store tries for several times its timeout
    timeout = timedelta(seconds=_RECONNECT_S)
    store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout, use_libuv=False)
    store.set_timeout(timedelta(seconds=_CONNECT_S))
    return store, address
