"""Short ways to build trees in tests."""

import random
from dataclasses import replace

from services.common.problem import Domain, Problem
from services.common.tree import (
    Branch,
    FinishReason,
    SamplingParameters,
    SearchParameters,
    Tree,
    TreeRequest,
    VersionSpan,
)
from services.common.verdict import Outcome, Verdict

PROBLEM = Problem(id="p1", domain=Domain.MATH, prompt="1+1=", answer="2")
SAMPLING = SamplingParameters(temperature=1.2, top_p=0.95, max_tokens=16)


def branch(
    branch_id: int, parent_id: int | None, fork_index: int, num_tokens: int, outcome: Outcome | None = None
) -> Branch:
    """A branch whose tokens are 100·id, 100·id + 1, …, each with logprob -1."""
    return Branch(
        id=branch_id,
        parent_id=parent_id,
        fork_index=fork_index,
        token_ids=tuple(100 * branch_id + i for i in range(num_tokens)),
        logprobs=(-1.0,) * num_tokens,
        entropies=(),
        versions=(VersionSpan(0, num_tokens),),
        finish_reason=FinishReason.STOP,
        response_text=f"response {branch_id}",
        verdict=None if outcome is None else Verdict(outcome, "", 0.0),
    )


def request(search: SearchParameters, seed: int | None = 0, max_tokens: int = 16) -> TreeRequest:
    """A request for a tree on a fixed problem."""
    sampling = SamplingParameters(temperature=1.2, top_p=0.95, max_tokens=max_tokens, seed=seed)
    return TreeRequest("tree-1", PROBLEM, search, sampling)


def tree(*branches: Branch) -> Tree:
    """A tree of branches on a fixed problem with a prompt of three tokens."""
    chains = sum(b.parent_id is None for b in branches)
    return Tree("tree-1", PROBLEM, SearchParameters(chains), SAMPLING, (7, 8, 9), branches)


def random_tree(rng: random.Random, vocabulary: int, forks: int) -> Tree:
    """Three chains, each forked so many times anywhere in its tree; leaves are right, wrong or, rarely, unknown."""
    branches: list[Branch] = []

    def grow(parent: Branch | None) -> None:
        fork_index = 0 if parent is None else rng.randint(parent.fork_index + 1, parent.end - 1)
        outcome = rng.choices([Outcome.CORRECT, Outcome.WRONG, Outcome.INFRA_ERROR], [4, 4, 1])[0]
        grown = branch(len(branches), None if parent is None else parent.id, fork_index, rng.randint(2, 9), outcome)
        tokens = tuple(rng.randrange(vocabulary) for _ in grown.token_ids)
        logprobs = tuple(rng.uniform(-4, 0) for _ in grown.token_ids)
        branches.append(replace(grown, token_ids=tokens, logprobs=logprobs))

    for _ in range(3):
        first = len(branches)
        grow(None)
        for _ in range(forks):
            grow(rng.choice(branches[first:]))
    prompt = tuple(rng.randrange(vocabulary) for _ in range(rng.randint(1, 6)))
    return replace(tree(*branches), tree_id=str(rng.random()), prompt_token_ids=prompt)
