"""Which block of a cache begins with given tokens.

A prefix cache of whole blocks finds the blocks that a prefix fills. A fork's prefix mostly ends inside a block, and
this index finds what that block can be copied from. Pure: it knows blocks by number and by what their owner says of
them.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeAlias

Tokens: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    parent: Hashable
    tokens: Tokens
    content: object


class BlockIndex:
    """Blocks by what lies before them and by the tokens that they hold.

    A block that is given to other tokens is not taken out when that happens: it is left out when it is come across, so
    that a cache need not tell. What names a content is compared by identity: a block that is given to the same tokens
    once more has an equal name before anything is computed in it. There is one entry a block at most.
    """

    def __init__(self, content_of: Callable[[int], object | None]) -> None:
        """An empty index.

        Args:
            content_of: what names the present content of a block, an object of its own each time that the block is
                given away; None where it has none that may be read.
        """
        self._content_of = content_of
        self._entries: dict[int, _Entry] = {}
        self._children: dict[Hashable, list[tuple[Tokens, int]]] = {}  # sorted: neighbours have most in common

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, block: int, parent: Hashable, tokens: Tokens) -> bool:
        """Enter a block with its present content.

        Args:
            block: its number.
            parent: what names all that lies before its first token.
            tokens: the tokens that it holds, from its first on.

        Returns:
            False if it was in the index already, with that content.

        Raises:
            ValueError: it has no content that may be read.
        """
        content = self._content_of(block)
        if content is None:
            raise ValueError(f"block {block} has no content that may be read")
        if block in self._entries:
            if self._entries[block].content is content:
                return False
            self._remove(block)
        self._entries[block] = _Entry(parent, tokens, content)
        insort(self._children.setdefault(parent, []), (tokens, block))
        return True

    def longest_match(self, parent: Hashable, tokens: Tokens) -> tuple[int, int] | None:
        """The block that has most first tokens in common with these.

        Args:
            parent: what names all that lies before the tokens.
            tokens: what a block should begin with.

        Returns:
            The block and how many tokens they have in common, at least one; None if no block has any.
        """
        while siblings := self._children.get(parent):
            place = bisect_left(siblings, (tokens,))
            near = siblings[max(0, place - 1) : place + 1]
            common, block = max((_common(tokens, held), block) for held, block in near)
            if common == 0:
                return None
            if self._entries[block].content is self._content_of(block):
                return block, common
            self._remove(block)
        return None

    def _remove(self, block: int) -> None:
        entry = self._entries.pop(block)
        siblings = self._children[entry.parent]
        del siblings[bisect_left(siblings, (entry.tokens, block))]
        if not siblings:
            del self._children[entry.parent]


def _common(left: Tokens, right: Tokens) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
