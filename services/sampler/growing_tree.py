"""A tree while branches are added to it: what EPTree grows, and what a client grows by hand."""

import hashlib
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.common import metrics
from services.common.errors import InvalidRequestError
from services.common.tree import (
    Branch,
    ForkSelection,
    SamplingParameters,
    Tree,
    TreeRequest,
    owner_of,
    path_tokens,
)
from services.sampler.engine import CompletionRequest, Engine
from services.sampler.prompts import PromptCodec
from services.sampler.siblings import together
from services.sampler.stop_strings import StopStrings

FORKS_FIRST, CHAINS_LAST = 0, 2**30
"""Priorities where not all trees in flight may fit the prefix cache: forks begin while their prefix is still there."""


class GrowingTree:
    """Samples branches and hands out their ids in the order in which they end.

    Forks may run at once. A branch that has ended stays, whatever becomes of the fork that sampled it: others may have
    been forked from it by then, and an id never changes its meaning.
    """

    def __init__(
        self,
        engine: Engine,
        codec: PromptCodec,
        request: TreeRequest,
        on_branch: Callable[[Branch], None] | None = None,
    ) -> None:
        """
        Args:
            engine: samples continuations.
            codec: turns prompts into tokens and responses into text.
            request: what to sample, and how.
            on_branch: called with each branch as it ends.

        Raises:
            InvalidRequestError: the prompt cannot be encoded, or made to fit.
        """
        self._engine = engine
        self._codec = codec
        self._request = request
        self._on_branch = on_branch
        self._prompt = codec.encode(request.problem.prompt, request.sampling.max_tokens)
        self._affinity = zlib.crc32(request.tree_id.encode())
        self._branches: list[Branch] = []
        self._seeds: list[int | None] = []
        self._forks: Counter[tuple[int, int]] = Counter()
        self._under_way = 0
        self.num_tokens = len(self._prompt)
        """Tokens of the prompt and of all branches."""
        self._longest_first = False
        self._started = time.perf_counter()
        self._ended = self._started

    @property
    def branches(self) -> tuple[Branch, ...]:
        """What was sampled so far."""
        return tuple(self._branches)

    @property
    def tree_id(self) -> str:
        """Names the tree."""
        return self._request.tree_id

    @property
    def sampling(self) -> SamplingParameters:
        """How its tokens are drawn."""
        return self._request.sampling

    @property
    def leaves(self) -> int:
        """Leaves that the tree has, and may yet get from forks under way; exact while there are none."""
        return len(self._branches) + self._under_way

    def tree(self) -> Tree:
        """What was sampled so far, as a tree."""
        request = self._request
        return Tree(
            request.tree_id,
            request.problem,
            request.search,
            request.sampling,
            self._prompt,
            self.branches,
            self._ended - self._started,
        )

    def chain_tree(self, chain_id: int) -> list[Branch]:
        """A chain and everything forked from it so far, parents first."""
        members: dict[int, Branch] = {}
        for branch in self._branches:
            if branch.id == chain_id or branch.parent_id in members:
                members[branch.id] = branch
        return list(members.values())

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count the tree, with all leaves of its search, among those in flight.

        If all of them fit the prefix cache, its requests that may run longest begin first, so that the engine's batch
        stays full to the end: chains, then forks by their position. Else forks begin before chains.
        """
        most_tokens = self.num_tokens + self._request.search.max_leaves * self._request.sampling.max_tokens
        with self._engine.cache.take(most_tokens) as fits:
            self._longest_first = fits
            try:
                yield
            finally:
                self._longest_first = False

    async def sample_chain(self, number: int) -> Branch:
        """Sample a chain from the prompt; its number sets it apart from its siblings."""
        return await self._sample(None, 0, derive_seed(self._request.sampling.seed, "chain", number))

    def fork_parent(self, branch_id: int, position: int) -> int:
        """Id of the branch that is forked when the path of `branch_id` is forked at `position`.

        Raises:
            InvalidRequestError: no such branch, or no such position after the first on its path.
        """
        if not 0 <= branch_id < len(self._branches):
            raise InvalidRequestError(f"branch {branch_id} does not exist: the tree has {len(self._branches)} branches")
        parent_id = owner_of(self._branches, branch_id, position)
        if position == self._branches[parent_id].fork_index:
            raise InvalidRequestError(
                f"token {position} is the first of branch {parent_id}: forking there would repeat the fork that made it"
            )
        return parent_id

    async def fork(self, branch_id: int, position: int, count: int) -> list[Branch]:
        """Sample branches that keep the tokens of a path before `position` and draw anew from there.

        Returns:
            The branches in the order of their ids.

        Raises:
            InvalidRequestError: as `fork_parent`.
        """
        parent_id = self.fork_parent(branch_id, position)
        first = self._forks[parent_id, position]
        self._forks[parent_id, position] += count
        seeds = [derive_seed(self._seeds[parent_id], position, number) for number in range(first, first + count)]
        self._under_way += count
        try:
            branches = await together(self._sample(parent_id, position, seed) for seed in seeds)
        finally:
            self._under_way -= count
        return sorted(branches, key=lambda branch: branch.id)

    async def _sample(self, parent_id: int | None, position: int, seed: int | None) -> Branch:
        sampling = self._request.sampling
        kept = () if parent_id is None else path_tokens(self._branches, parent_id)[:position]
        min_tokens = max(0, sampling.min_tokens - position)
        stop = StopStrings(sampling.stop, kept, min_tokens, self._codec.decode) if sampling.stop else None
        completion = await self._engine.complete(
            CompletionRequest(
                token_ids=self._prompt + kept,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens - position,
                seed=seed,
                stop=stop,
                stop_token_ids=sampling.stop_token_ids,
                min_tokens=min_tokens,
                logprobs=sampling.logprobs,
                adapter=sampling.adapter,
                with_entropies=self._request.search.selection is ForkSelection.ENTROPY,
                affinity=self._affinity,
                priority=self._priority(parent_id, position),
            )
        )
        branch = Branch(
            id=len(self._branches),
            parent_id=parent_id,
            fork_index=position,
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            entropies=completion.entropies,
            versions=completion.versions,
            finish_reason=completion.finish_reason,
            response_text=self._codec.decode(kept + completion.token_ids),
            prefilled_tokens=completion.prefilled_tokens,
            sampling_logprobs=completion.sampling_logprobs,
            stop_reason=completion.stop_reason,
        )
        self._branches.append(branch)
        self._seeds.append(seed)
        self.num_tokens += len(branch.token_ids)
        self._ended = time.perf_counter()
        self._count(branch)
        if self._on_branch is not None:
            self._on_branch(branch)
        return branch

    def _priority(self, parent_id: int | None, position: int) -> int:
        if self._longest_first:
            return position
        return CHAINS_LAST if parent_id is None else FORKS_FIRST

    @staticmethod
    def _count(branch: Branch) -> None:
        metrics.SAMPLED_LEAVES.inc()
        metrics.DECODED_TOKENS.inc(len(branch.token_ids))
        if branch.parent_id is not None:
            metrics.FORK_INDEX.observe(branch.fork_index)
            metrics.FORK_PREFILLED.observe(branch.prefilled_tokens)


def derive_seed(seed: int | None, *place: object) -> int | None:
    """Seed of a place in the tree, the same whatever else runs; None from None.

    With it every branch draws the same random numbers again. The tree is the same again as far as the engine computes
    the same logits: the same weights throughout, and no rounding that depends on what else is in the batch. What is and
    is not guaranteed is in docs/sampling.md.
    """
    if seed is None:
        return None
    text = ":".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
