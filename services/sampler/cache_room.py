"""Whether all trees in flight fit the engine's prefix cache. Pure."""

from collections.abc import Iterator
from contextlib import contextmanager


class CacheRoom:
    """Counts what trees in flight may need of the cache; that of several replicas counts as one."""

    def __init__(self, tokens: int) -> None:
        """
        Args:
            tokens: that the cache holds.
        """
        self._tokens = tokens
        self._needed = 0

    @contextmanager
    def take(self, tokens: int) -> Iterator[bool]:
        """Count a tree while it is in flight.

        Args:
            tokens: the most that it may have, its prompt included.

        Yields:
            Whether all that are in flight fit, this one included.
        """
        self._needed += tokens
        try:
            yield self._needed <= self._tokens
        finally:
            self._needed -= tokens
