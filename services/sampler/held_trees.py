"""Trees that clients grow by hand, held between their calls."""

import time
from collections import OrderedDict

from services.common import metrics
from services.common.errors import NotFoundError
from services.sampler.growing_tree import GrowingTree


class HeldTrees:
    """Trees by id; the least recently used goes when there are too many, and each goes when it is unused for long."""

    def __init__(self, capacity: int, ttl_s: float) -> None:
        """
        Args:
            capacity: most trees held.
            ttl_s: seconds after its last use when a tree goes.
        """
        self._capacity = capacity
        self._ttl_s = ttl_s
        self._trees: OrderedDict[str, tuple[float, GrowingTree]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._trees)

    def hold(self, tree_id: str, tree: GrowingTree) -> None:
        """Keep a tree, or keep it longer."""
        self._trees[tree_id] = (time.monotonic(), tree)
        self._trees.move_to_end(tree_id)
        self._drop_old()

    def get(self, tree_id: str) -> GrowingTree:
        """A held tree; using it keeps it longer.

        Raises:
            NotFoundError: it was released, has expired, or never was.
        """
        self._drop_old()
        if tree_id not in self._trees:
            raise NotFoundError(
                f"no tree {tree_id!r} is held: it was released, went unused for {self._ttl_s:.0f} s, "
                f"was pushed out by newer ones (at most {self._capacity}), or never existed"
            )
        tree = self._trees[tree_id][1]
        self.hold(tree_id, tree)
        return tree

    def release(self, tree_id: str) -> None:
        """Forget a tree.

        Raises:
            NotFoundError: as `get`.
        """
        self.get(tree_id)
        del self._trees[tree_id]
        metrics.TREES_HELD.set(len(self._trees))

    def _drop_old(self) -> None:
        expired_before = time.monotonic() - self._ttl_s
        while self._trees:
            oldest_use = next(iter(self._trees.values()))[0]
            if len(self._trees) <= self._capacity and oldest_use >= expired_before:
                break
            self._trees.popitem(last=False)
        metrics.TREES_HELD.set(len(self._trees))
