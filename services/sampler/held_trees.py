"""Trees that clients grow by hand, held between their calls."""

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.common import metrics
from services.common.errors import NotFoundError
from services.sampler.growing_tree import GrowingTree

GONE_REMEMBERED = 4096
"""Trees of which it is remembered why they are gone."""


@dataclass(slots=True)
class _Held:
    tree: GrowingTree
    last_used: float
    calls: int = 0


class HeldTrees:
    """Trees by id, the least recently used first.

    A tree goes when it is unused for long, and the least recently used goes when there are too many trees or tokens. A
    tree that a call uses stays, and so does the last one that was used, however large.
    """

    def __init__(self, max_trees: int, max_tokens: int, ttl_s: float) -> None:
        """
        Args:
            max_trees: most trees held.
            max_tokens: most tokens in them, prompts included; what calls under way add comes on top.
            ttl_s: seconds after its last use when a tree goes.
        """
        self._max_trees = max_trees
        self._max_tokens = max_tokens
        self._ttl_s = ttl_s
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._gone: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        self._drop_old()
        return len(self._held)

    def hold(self, tree: GrowingTree) -> None:
        """Hold a new tree."""
        self._held[tree.tree_id] = _Held(tree, time.monotonic())
        metrics.TREES_HELD.set(len(self._held))
        self._drop_old()

    @contextmanager
    def using(self, tree_id: str) -> Iterator[GrowingTree]:
        """A held tree, which does not go while the body runs, unless it is released.

        Raises:
            NotFoundError: it was released, has expired, was pushed out, or never was.
        """
        held = self._find(tree_id)
        held.calls += 1
        try:
            yield held.tree
        finally:
            held.calls -= 1
            held.last_used = time.monotonic()
            if tree_id in self._held:
                self._held.move_to_end(tree_id)
            self._drop_old()

    def release(self, tree_id: str) -> None:
        """Forget a tree; calls that use it go on to their end.

        Raises:
            NotFoundError: as `using`.
        """
        self._find(tree_id)
        self._drop(tree_id, "was released")

    def _find(self, tree_id: str) -> _Held:
        self._drop_old()
        if tree_id in self._held:
            return self._held[tree_id]
        if tree_id in self._gone:
            raise NotFoundError(f"tree {tree_id!r} {self._gone[tree_id]}: start another with Generate")
        raise NotFoundError(f"no tree {tree_id!r} is held: it was never started on this sampler, or is long gone")

    def _drop_old(self) -> None:
        expired_before = time.monotonic() - self._ttl_s
        for tree_id, held in self._unused():
            if held.last_used < expired_before:
                self._drop(tree_id, f"went unused for {self._ttl_s:g} s")
        tokens = sum(held.tree.num_tokens for held in self._held.values())
        for tree_id, held in self._unused()[:-1]:
            if len(self._held) <= self._max_trees and tokens <= self._max_tokens:
                break
            tokens -= held.tree.num_tokens
            self._drop(
                tree_id,
                "was the least recently used one and was pushed out: "
                f"at most {self._max_trees} trees and {self._max_tokens} tokens are held",
            )

    def _unused(self) -> list[tuple[str, _Held]]:
        return [(tree_id, held) for tree_id, held in self._held.items() if not held.calls]

    def _drop(self, tree_id: str, reason: str) -> None:
        del self._held[tree_id]
        metrics.TREES_HELD.set(len(self._held))
        self._gone[tree_id] = reason
        if len(self._gone) > GONE_REMEMBERED:
            self._gone.popitem(last=False)
