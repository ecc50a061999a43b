"""A tree of responses to one prompt, and its segments.

A *branch* is what was sampled in one go: from a fork point, or from the prompt, to its end. Branches never change,
every branch ends in exactly one leaf, and the leaf bears the branch's id. *Segments* are what lies between fork points;
they follow from the branches and are never stored, so a fork cannot make an id stale.

Positions are counted in response tokens from the end of the prompt: a branch with fork index f holds positions
f, f+1, … of its leaf's path.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

from services.common.errors import InvalidRequestError
from services.common.problem import Problem
from services.common.verdict import Verdict

MAX_ANSWER_MARKERS = 32
"""The most answer markers of a search: each is looked for in many prefixes of every chain."""


class ForkSelection(Enum):
    """How the tokens to fork at are chosen; the values are the protobuf numbers."""

    SURPRISAL = 1
    ENTROPY = 2
    RANDOM = 3


class SpecialTokens(Enum):
    """Whether special tokens, such as end tokens, are forked; the values are the protobuf numbers."""

    MASKED = 1
    FORKABLE = 2


class FinishReason(Enum):
    """Why a branch ended; the values are the protobuf numbers."""

    STOP = 1
    LENGTH = 2


class Logprobs(Enum):
    """Which log-probabilities of the sampled tokens come back; the values are the protobuf numbers."""

    RAW = 1
    RAW_AND_SAMPLING = 2


@dataclass(frozen=True, slots=True)
class SearchParameters:
    """EPTree's (M, N, L, T) (TreeRL, section 3.1), and where not to fork.

    Attributes:
        chains: M, independent chains from the prompt.
        forks: N, tokens chosen in each chain's tree in each round.
        rounds: L, rounds of forking.
        branches: T, branches sampled from each chosen token.
        selection: how tokens are chosen.
        special_tokens: whether special tokens are forked.
        answer_markers: texts that announce the final answer; no token is forked from the one on with which the first
            of them is complete.
    """

    chains: int
    forks: int = 0
    rounds: int = 0
    branches: int = 0
    selection: ForkSelection = ForkSelection.SURPRISAL
    special_tokens: SpecialTokens = SpecialTokens.MASKED
    answer_markers: tuple[str, ...] = ()

    @property
    def max_leaves(self) -> int:
        """Leaves of a tree in which every chain has enough tokens to fork: M + M·N·L·T."""
        return self.chains * (1 + self.forks * self.rounds * self.branches)


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How tokens are drawn.

    Attributes:
        temperature: softmax temperature; 0 is greedy.
        top_p: nucleus mass in (0, 1].
        max_tokens: bound on the whole response, forked prefix included.
        seed: makes a tree repeatable at the same weights; None draws one.
        stop: strings that end a response and stay part of it; one may begin in a forked prefix, but must end after it.
        stop_token_ids: tokens that end a response and stay part of it, beside the end tokens of the model.
        min_tokens: tokens of the whole response, forked prefix included, before which nothing but `max_tokens` ends it.
        logprobs: which log-probabilities come back.
        adapter: LoRA adapter of the sampler to draw from; empty for the policy itself.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    logprobs: Logprobs = Logprobs.RAW
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """A run of consecutive tokens sampled by one policy version."""

    policy_version: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens sampled in one go, and the leaf they end in.

    Attributes:
        id: position in `Tree.branches`.
        parent_id: the branch it was forked from; None for a chain.
        fork_index: response tokens kept from the parent's path; 0 for a chain.
        token_ids: the sampled tokens, at positions fork_index, fork_index + 1, ….
        logprobs: log pi(token | prefix) of each at temperature 1, in nats.
        entropies: Shannon entropy at each, in nats; empty unless the selection needs it.
        versions: which weights sampled which tokens.
        finish_reason: why it ended.
        response_text: the whole response decoded, forked prefix included, end token excluded.
        prefilled_tokens: tokens of prompt and prefix that the engine computed again.
        verdict: judgement of the whole response; None until graded.
        sampling_logprobs: log-probability of each token under the distribution that it was drawn from, after
            `min_tokens`, temperature and top-p, in nats; 0 where the draw was greedy; empty unless asked for.
        stop_reason: the stop string or stop token id that ended it; None where an end token of the model or the token
            budget did.
    """

    id: int
    parent_id: int | None
    fork_index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    versions: tuple[VersionSpan, ...]
    finish_reason: FinishReason
    response_text: str
    prefilled_tokens: int = 0
    verdict: Verdict | None = None
    sampling_logprobs: tuple[float, ...] = ()
    stop_reason: str | int | None = None

    @property
    def end(self) -> int:
        """Length of the whole response, in tokens."""
        return self.fork_index + len(self.token_ids)

    @property
    def oldest_version(self) -> int:
        """Policy version of the oldest weights that sampled any of its tokens."""
        return min(span.policy_version for span in self.versions)


@dataclass(frozen=True, slots=True)
class TreeRequest:
    """Asks for one tree; a second request with the same `tree_id` is the same request."""

    tree_id: str
    problem: Problem
    search: SearchParameters
    sampling: SamplingParameters
    min_policy_version: int = 0


@dataclass(frozen=True, slots=True)
class Tree:
    """All responses sampled for one prompt; branch i has id i and a parent comes before its children.

    Attributes:
        sample_s: time from the first request to the last token, in seconds.
        sampler: name of the sampler that took the request from the stream; empty where a client asked it itself.
    """

    tree_id: str
    problem: Problem
    search: SearchParameters
    sampling: SamplingParameters
    prompt_token_ids: tuple[int, ...]
    branches: tuple[Branch, ...]
    sample_s: float = 0.0
    sampler: str = ""

    @property
    def oldest_version(self) -> int:
        """Policy version of the oldest weights that sampled any of its tokens."""
        return min(branch.oldest_version for branch in self.branches)

    def with_verdicts(self, verdicts: Sequence[Verdict]) -> "Tree":
        """The same tree with verdict i on branch i."""
        graded = tuple(replace(b, verdict=v) for b, v in zip(self.branches, verdicts, strict=True))
        return replace(self, branches=graded)


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens between two fork points: positions [start, end) of a branch.

    Attributes:
        id: position in the list returned by `segments`; the root, which is the prompt, has none.
        parent_id: the segment before it; None where that is the prompt.
        branch_id: the branch that sampled its tokens.
        start: first position.
        end: position after the last.
        leaf_ids: branches whose leaves lie below, itself included, in rising order; L(s) of the paper.
    """

    id: int
    parent_id: int | None
    branch_id: int
    start: int
    end: int
    leaf_ids: tuple[int, ...]


def check_tree(branches: Sequence[Branch]) -> None:
    """Check that branches form a tree as `Tree` describes it.

    Raises:
        InvalidRequestError: naming the first branch that does not fit, and why.
    """
    for position, branch in enumerate(branches):
        if branch.id != position:
            raise InvalidRequestError(f"branch at position {position} has id {branch.id}: ids must equal positions")
        if not branch.token_ids or len(branch.logprobs) != len(branch.token_ids):
            raise InvalidRequestError(
                f"branch {branch.id} has {len(branch.token_ids)} tokens and {len(branch.logprobs)} logprobs: "
                "needs at least one token and one logprob for each"
            )
        if len(branch.sampling_logprobs) not in (0, len(branch.token_ids)):
            raise InvalidRequestError(
                f"branch {branch.id} has {len(branch.token_ids)} tokens and {len(branch.sampling_logprobs)} sampling "
                "logprobs: needs one for each, or none"
            )
        if sum(span.num_tokens for span in branch.versions) != len(branch.token_ids):
            raise InvalidRequestError(f"branch {branch.id}: its version spans do not cover its tokens exactly")
        if branch.parent_id is None:
            if branch.fork_index != 0:
                raise InvalidRequestError(f"branch {branch.id} is a chain but has fork index {branch.fork_index}")
        elif not 0 <= branch.parent_id < position:
            raise InvalidRequestError(f"branch {branch.id} has parent {branch.parent_id}: parents must come before")
        else:
            parent = branches[branch.parent_id]
            if not parent.fork_index < branch.fork_index < parent.end:
                raise InvalidRequestError(
                    f"branch {branch.id} forks branch {parent.id} at {branch.fork_index}: "
                    f"must lie in ({parent.fork_index}, {parent.end})"
                )


def path(branches: Sequence[Branch], branch_id: int) -> list[tuple[Branch, int]]:
    """The branches a leaf's response runs through, in order: each with the position where the response leaves it."""
    steps: list[tuple[Branch, int]] = []
    branch = branches[branch_id]
    end = branch.end
    while True:
        steps.append((branch, end))
        if branch.parent_id is None:
            return steps[::-1]
        end, branch = branch.fork_index, branches[branch.parent_id]


def path_tokens(branches: Sequence[Branch], branch_id: int) -> tuple[int, ...]:
    """The whole response that ends in a leaf, as token ids."""
    return tuple(
        token for branch, end in path(branches, branch_id) for token in branch.token_ids[: end - branch.fork_index]
    )


def chain_of(branches: Sequence[Branch], branch_id: int) -> int:
    """Id of the chain that a branch descends from."""
    return path(branches, branch_id)[0][0].id


def owner_of(branches: Sequence[Branch], branch_id: int, position: int) -> int:
    """Id of the branch on a leaf's path that sampled the token at a position.

    Raises:
        InvalidRequestError: the path has no such position.
    """
    for branch, end in path(branches, branch_id):
        if branch.fork_index <= position < end:
            return branch.id
    raise InvalidRequestError(
        f"token index {position} is outside the path of branch {branch_id}, which has {branches[branch_id].end} tokens"
    )


def segments(branches: Sequence[Branch]) -> list[Segment]:
    """Cut branches at their fork points; a parent comes before its children."""
    forked: list[list[Branch]] = [[] for _ in branches]
    for branch in branches:
        if branch.parent_id is not None:
            forked[branch.parent_id].append(branch)
    leaves_from: list[set[int]] = [{branch.id} for branch in branches]
    for branch in reversed(branches):
        for child in forked[branch.id]:
            leaves_from[branch.id] |= leaves_from[child.id]

    found: list[Segment] = []
    ending_at: dict[tuple[int, int], int] = {}
    for branch in branches:
        parent_id = None if branch.parent_id is None else ending_at[branch.parent_id, branch.fork_index]
        cuts = sorted({child.fork_index for child in forked[branch.id]})
        for start, end in pairwise([branch.fork_index, *cuts, branch.end]):
            later = (leaves_from[child.id] for child in forked[branch.id] if child.fork_index >= end)
            leaf_ids = tuple(sorted({branch.id}.union(*later)))
            segment = Segment(len(found), parent_id, branch.id, start, end, leaf_ids)
            found.append(segment)
            ending_at[branch.id, end] = parent_id = segment.id
    return found


def in_canonical_order(tree: Tree) -> Tree:
    """The same tree with ids that depend on its tokens alone, not on which branch ended first.

    Chains come first, ordered by their tokens; then, generation by generation, what was forked from them, ordered by
    parent, fork index and tokens.
    """
    new_ids: dict[int | None, int] = {None: -1}
    ordered: list[Branch] = []
    generation = [branch for branch in tree.branches if branch.parent_id is None]
    while generation:
        generation.sort(key=lambda b: (new_ids[b.parent_id], b.fork_index, b.token_ids))
        for branch in generation:
            new_ids[branch.id] = len(ordered)
            parent_id = None if branch.parent_id is None else new_ids[branch.parent_id]
            ordered.append(replace(branch, id=len(ordered), parent_id=parent_id))
        parents = {branch.id for branch in generation}
        generation = [branch for branch in tree.branches if branch.parent_id in parents]
    return replace(tree, branches=tuple(ordered))
