"""Where to fork: the tokens the policy was least sure of (TreeRL, section 3.1)."""

import random
from collections.abc import Sequence

from services.common.fork_masks import ResponseTokenizer, forkable_positions
from services.common.tree import Branch, ForkSelection, SearchParameters


def choose_forks(
    branches: Sequence[Branch],
    chain_tree: Sequence[Branch],
    search: SearchParameters,
    tokenizer: ResponseTokenizer,
    seed: int | None,
) -> list[tuple[int, int]]:
    """Choose the tokens to fork at in one chain's tree.

    Args:
        branches: everything sampled so far.
        chain_tree: of these, a chain and everything forked from it.
        search: N, tokens to choose (fewer come back where fewer may be forked); how; and what is masked.
        tokenizer: of the policy.
        seed: seeds the random selection.

    Returns:
        (branch id, position in the response) of each chosen token, least sure first; see `forkable_positions`. Never
        a token that was forked at before.
    """
    taken = {(branch.parent_id, branch.fork_index) for branch in chain_tree}
    candidates = [
        (_uncertainty(branch, position, search.selection), branch.id, position)
        for branch in chain_tree
        for position in forkable_positions(branches, branch.id, search, tokenizer)
        if (branch.id, position) not in taken
    ]
    if search.selection is ForkSelection.RANDOM:
        random.Random(seed).shuffle(candidates)
    else:
        candidates.sort(key=lambda candidate: (-candidate[0], candidate[2], candidate[1]))
    return [(branch_id, position) for _, branch_id, position in candidates[: search.forks]]


def _uncertainty(branch: Branch, position: int, selection: ForkSelection) -> float:
    """Of the token at a position, in nats."""
    index = position - branch.fork_index
    return branch.entropies[index] if selection is ForkSelection.ENTROPY else -branch.logprobs[index]
