"""Where to fork: the tokens the policy was least sure of (TreeRL, section 3.1)."""

import random
from collections.abc import Collection, Iterator, Sequence

from services.common.tree import Branch, ForkSelection


def choose_forks(
    chain_tree: Sequence[Branch],
    count: int,
    selection: ForkSelection,
    never_fork_at: Collection[int],
    seed: int | None,
) -> list[tuple[int, int]]:
    """Choose the tokens to fork at in one chain's tree.

    Args:
        chain_tree: a chain and everything forked from it so far.
        count: N, tokens to choose; fewer come back where fewer can be forked.
        selection: how.
        never_fork_at: token ids that are never forked at, such as end tokens.
        seed: seeds the random selection.

    Returns:
        (branch id, position in the response) of each chosen token, least sure first. Never a branch's first token,
        where the fork would repeat the one that made the branch, and never a token that was forked at before.
    """
    taken = {(branch.parent_id, branch.fork_index) for branch in chain_tree}
    candidates = [
        (uncertainty, branch.id, position)
        for branch in chain_tree
        for position, token, uncertainty in _tokens(branch, selection)
        if position > branch.fork_index and (branch.id, position) not in taken and token not in never_fork_at
    ]
    if selection is ForkSelection.RANDOM:
        random.Random(seed).shuffle(candidates)
    else:
        candidates.sort(key=lambda candidate: (-candidate[0], candidate[2], candidate[1]))
    return [(branch_id, position) for _, branch_id, position in candidates[:count]]


def _tokens(branch: Branch, selection: ForkSelection) -> Iterator[tuple[int, int, float]]:
    """Position, token id and uncertainty in nats of each token of a branch."""
    if selection is ForkSelection.ENTROPY:
        uncertainties: Sequence[float] = branch.entropies
    else:
        uncertainties = [-logprob for logprob in branch.logprobs]
    positions = range(branch.fork_index, branch.end)
    return zip(positions, branch.token_ids, uncertainties, strict=True)
