"""Reading what a hostile process writes, without ever holding more than a limit."""

import asyncio
import os
from collections.abc import Callable

_CHUNK_BYTES = 65536


class BoundedReader:
    """Collects what comes through a pipe; calls back once if it is more than the limit.

    It owns the descriptor and closes it.
    """

    def __init__(self, descriptor: int, limit: int, on_excess: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._on_excess = on_excess
        self._data = bytearray()
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def finish(self) -> bytes:
        """Read what is left, close the descriptor, and return everything; the writers must be dead."""
        while self._descriptor >= 0 and self._read():
            pass
        self._close()
        return bytes(self._data)

    def _read(self) -> bool:
        """Read once; False when there is nothing more to read for now."""
        try:
            chunk = os.read(self._descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        room = self._limit - len(self._data)
        self._data += chunk[:room]
        if not chunk or len(chunk) > room:
            self._close()
        if len(chunk) > room:
            self._on_excess()
        return bool(chunk)

    def _close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
