"""Which tokens of a tree may be forked. Pure: tokens are turned into text by whoever holds a tokenizer.

A branch's first token is never forked, whatever the masks: the fork would keep the same prefix as the fork that made
the branch, or for a chain as the prompt, and so repeat it. A search masks special tokens unless it says otherwise, and
everything from its answer marker on if it names one.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

from services.common.tree import Branch, SearchParameters, SpecialTokens, path_tokens


class ResponseTokenizer(Protocol):
    """What finding the tokens that may be forked needs of a tokenizer."""

    special_token_ids: frozenset[int]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a response, special tokens left out."""


def forkable_positions(
    branches: Sequence[Branch], branch_id: int, search: SearchParameters, tokenizer: ResponseTokenizer
) -> list[int]:
    """Positions of the tokens of a branch that the search may fork, in rising order.

    Args:
        branches: the branches of the tree so far.
        branch_id: the branch to look at.
        search: its masks.
        tokenizer: of the policy.
    """
    branch = branches[branch_id]
    masked = tokenizer.special_token_ids if search.special_tokens is SpecialTokens.MASKED else frozenset()
    end = answer_position(path_tokens(branches, branch_id), search.answer_markers, tokenizer.decode)
    return [
        position
        for position, token in enumerate(branch.token_ids, start=branch.fork_index)
        if branch.fork_index < position < end and token not in masked
    ]


def answer_position(token_ids: Sequence[int], markers: Sequence[str], decode: Callable[[Sequence[int]], str]) -> int:
    """Position of the token with which the first marker is complete in a response; its length where none is.

    A marker is found as exact text, however tokens and branches cut it. Prefixes of the response are decoded by
    bisection, so a response of a thousand tokens costs ten decodings, and none where there are no markers.

    Args:
        token_ids: the whole response.
        markers: texts to look for.
        decode: text of a prefix; a longer prefix must not take back a marker.
    """
    if not markers:
        return len(token_ids)

    def holds_marker(position: int) -> bool:
        text = decode(token_ids[: position + 1])
        return any(marker in text for marker in markers)

    return bisect_left(range(len(token_ids)), True, key=holds_marker)
