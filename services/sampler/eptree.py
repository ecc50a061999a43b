"""EPTree: grow a tree by forking where the policy was least sure (TreeRL, section 3.1, Algorithm 1)."""

from collections.abc import Callable

from services.common import metrics
from services.common.tree import Branch, ForkSelection, Tree, TreeRequest
from services.sampler.engine import Engine
from services.sampler.growing_tree import GrowingTree, derive_seed
from services.sampler.prompts import PromptCodec
from services.sampler.siblings import together
from services.sampler.uncertainty import choose_forks


async def search(
    engine: Engine, codec: PromptCodec, request: TreeRequest, on_branch: Callable[[Branch], None] | None = None
) -> Tree:
    """Sample M chains, and L times fork each chain's tree at its N least sure tokens with T branches each.

    Chains never wait for each other: a chain's forks start when it ends, and its next round when its last round ends.

    Args:
        engine: samples continuations.
        codec: turns prompts into tokens and responses into text.
        request: (M, N, L, T) and how tokens are drawn.
        on_branch: called with each branch as it ends.

    Raises:
        InvalidRequestError: the prompt is empty or does not fit the model.
    """
    growing = GrowingTree(engine, codec, request, on_branch)

    async def grow(number: int) -> None:
        chain = await growing.sample_chain(number)
        for round_number in range(request.search.rounds):
            forks = choose_forks(
                growing.branches,
                growing.chain_tree(chain.id),
                request.search,
                codec,
                derive_seed(request.sampling.seed, "forks", number, round_number),
            )
            for branch_id, position in forks:
                _count_fork(growing.branches[branch_id], position, request.search.selection, codec)
            await together(growing.fork(branch_id, position, request.search.branches) for branch_id, position in forks)

    with growing.in_flight(), metrics.TREES_IN_FLIGHT.track_inprogress(), metrics.TREE_SECONDS.time():
        await together(grow(number) for number in range(request.search.chains))
    metrics.SAMPLED_TREES.inc()
    return growing.tree()


def _count_fork(branch: Branch, position: int, selection: ForkSelection, codec: PromptCodec) -> None:
    index = position - branch.fork_index
    kind = codec.token_class(branch.token_ids[index])
    metrics.FORK_TOKENS.labels(kind.value, selection.name.lower()).inc()
    metrics.FORK_SURPRISAL.observe(-branch.logprobs[index])
