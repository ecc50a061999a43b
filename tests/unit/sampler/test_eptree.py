"""EPTree over a scripted engine."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import metrics
from services.common.errors import InvalidRequestError
from services.common.tree import ForkSelection, SearchParameters, Tree, check_tree, in_canonical_order, path_tokens
from services.sampler.cache_room import CacheRoom
from services.sampler.engine import Completion, CompletionRequest
from services.sampler.eptree import search
from services.sampler.growing_tree import GrowingTree
from tests.builders import request
from tests.scripted_engine import END, DigitCodec, ScriptedEngine

searches = st.builds(
    SearchParameters,
    chains=st.integers(1, 4),
    forks=st.integers(0, 3),
    rounds=st.integers(0, 3),
    branches=st.integers(1, 3),
    selection=st.sampled_from(ForkSelection),
)


def grow(search_parameters: SearchParameters, seed: int = 0, max_tokens: int = 16) -> Tree:
    asked = request(search_parameters, seed, max_tokens)
    return asyncio.run(search(ScriptedEngine(), DigitCodec(), asked))


@given(searches, st.integers(0, 1000))
def test_every_search_gives_a_tree_within_its_token_budget(parameters: SearchParameters, seed: int) -> None:
    tree = grow(parameters, seed, max_tokens=12)
    check_tree(tree.branches)
    assert all(branch.end <= 12 for branch in tree.branches)
    assert parameters.chains <= len(tree.branches) <= parameters.max_leaves


@given(searches, st.integers(0, 1000))
def test_a_chain_with_enough_tokens_gets_all_its_forks(parameters: SearchParameters, seed: int) -> None:
    tree = grow(parameters, seed, max_tokens=64)
    chains = [branch for branch in tree.branches if branch.parent_id is None]
    needed = parameters.forks * parameters.rounds + 2
    if all(len(chain.token_ids) >= needed for chain in chains):
        assert len(tree.branches) == parameters.max_leaves


@given(searches, st.integers(0, 1000))
def test_no_token_is_forked_twice_and_never_a_branchs_first(parameters: SearchParameters, seed: int) -> None:
    tree = grow(parameters, seed)
    forks = {(b.parent_id, b.fork_index) for b in tree.branches if b.parent_id is not None}
    assert len(tree.branches) == parameters.chains + len(forks) * parameters.branches
    assert all(fork_index > tree.branches[parent_id].fork_index for parent_id, fork_index in forks)


@given(searches, st.integers(0, 1000))
def test_nothing_is_forked_at_an_end_token_or_once_the_answer_marker_is_complete(
    parameters: SearchParameters, seed: int
) -> None:
    tree = grow(replace(parameters, answer_markers=("7", "35")), seed)
    for branch in tree.branches:
        if branch.parent_id is not None:
            replaced = path_tokens(tree.branches, branch.parent_id)[: branch.fork_index + 1]
            assert replaced[-1] != END
            text = DigitCodec().decode(replaced)
            assert "7" not in text
            assert "35" not in text


@given(searches, st.integers(0, 1000))
def test_the_same_seed_gives_the_same_tree(parameters: SearchParameters, seed: int) -> None:
    first, second = (in_canonical_order(grow(parameters, seed)) for _ in range(2))
    assert first.branches == second.branches


def test_forks_go_to_the_highest_surprisal_of_the_chain() -> None:
    tree = grow(SearchParameters(chains=1, forks=1, rounds=1, branches=2), seed=0, max_tokens=64)
    chain, fork = tree.branches[0], tree.branches[1]
    inner = chain.logprobs[1:]
    assert chain.logprobs[fork.fork_index] == min(inner)


def test_a_fork_keeps_its_parents_prefix_and_asks_for_the_rest_of_the_budget() -> None:
    engine = ScriptedEngine()
    asked = request(SearchParameters(2, 2, 2, 2), max_tokens=20)
    tree = asyncio.run(search(engine, DigitCodec(), asked))
    prompt = tree.prompt_token_ids
    expected = {(prompt + path_tokens(tree.branches, b.id)[: b.fork_index], 20 - b.fork_index) for b in tree.branches}
    assert {(r.token_ids, r.max_tokens) for r in engine.requests} == expected


def test_response_texts_hold_the_whole_path() -> None:
    tree = grow(SearchParameters(2, 2, 1, 2))
    assert all(b.response_text == DigitCodec().decode(path_tokens(tree.branches, b.id)) for b in tree.branches)


class SlowFirstChain(ScriptedEngine):
    """Holds the first request back until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()

    async def complete(self, asked: CompletionRequest) -> Completion:
        first = not self.requests
        if first:
            self.requests.append(asked)
            await self.let_go.wait()
        return await super().complete(asked)


async def test_a_chains_forks_do_not_wait_for_other_chains() -> None:
    engine = SlowFirstChain()
    searching = asyncio.create_task(search(engine, DigitCodec(), request(SearchParameters(2, 1, 1, 2), max_tokens=64)))
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(engine.requests) == 4  # the held chain, the other chain, and the other chain's two branches
    engine.let_go.set()
    assert len((await searching).branches) == 6


def test_what_may_run_longest_begins_first_where_the_tree_fits_the_cache() -> None:
    engine = ScriptedEngine()
    tree = asyncio.run(search(engine, DigitCodec(), request(SearchParameters(2, 2, 1, 1), max_tokens=20)))
    prompt_tokens = len(tree.prompt_token_ids)
    assert [asked.priority for asked in engine.requests] == [len(a.token_ids) - prompt_tokens for a in engine.requests]
    assert len(engine.requests) == 6


def test_forks_begin_before_chains_where_the_tree_may_not_fit_the_cache() -> None:
    engine = ScriptedEngine()
    engine.cache = CacheRoom(100)
    tree = asyncio.run(search(engine, DigitCodec(), request(SearchParameters(2, 2, 1, 1), max_tokens=20)))
    forks = [asked.priority for asked in engine.requests if len(asked.token_ids) > len(tree.prompt_token_ids)]
    chains = [asked.priority for asked in engine.requests if asked.token_ids == tree.prompt_token_ids]
    assert max(forks) < min(chains)
    assert (len(chains), len(forks)) == (2, 4)


async def test_cancelling_a_search_cancels_its_requests() -> None:
    engine = ScriptedEngine(latency_s=60)
    searching = asyncio.create_task(search(engine, DigitCodec(), request(SearchParameters(3))))
    await asyncio.sleep(0.01)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    assert (engine.cancelled, engine.running) == (3, 0)


async def test_an_error_of_the_engine_comes_out_bare() -> None:
    class Refusing(ScriptedEngine):
        async def complete(self, asked: CompletionRequest) -> Completion:
            raise InvalidRequestError("too long")

    with pytest.raises(InvalidRequestError, match="too long"):
        await search(Refusing(), DigitCodec(), request(SearchParameters(2)))


async def test_forking_by_hand_reaches_the_segment_that_holds_the_token() -> None:
    growing = GrowingTree(ScriptedEngine(), DigitCodec(), request(SearchParameters(1), seed=0, max_tokens=64))
    chain = await growing.sample_chain(0)
    (child,) = await growing.fork(chain.id, 4, 1)
    (grandchild,) = await growing.fork(child.id, 2, 1)
    assert (child.parent_id, grandchild.parent_id) == (chain.id, chain.id)
    assert growing.tree().branches[2].fork_index == 2


@pytest.mark.parametrize(
    ("branch_id", "position", "complaint"),
    [(5, 1, "branch 5 does not exist"), (0, 999, "token index 999 is outside"), (0, 0, "is the first of branch 0")],
)
async def test_an_impossible_fork_is_refused_with_the_reason(branch_id: int, position: int, complaint: str) -> None:
    growing = GrowingTree(ScriptedEngine(), DigitCodec(), request(SearchParameters(1)))
    await growing.sample_chain(0)
    with pytest.raises(InvalidRequestError, match=complaint):
        await growing.fork(branch_id, position, 1)


def test_every_fork_is_counted_by_class_and_selection_with_its_surprisal() -> None:
    def counted(name: str, **labels: str) -> float:
        return metrics.SAMPLER.get_sample_value(name, labels) or 0.0

    labels = {"token_class": "digit", "selection": "random"}
    forks = counted("treerl_fork_tokens_total", **labels)
    observed, nats = counted("treerl_fork_surprisal_nats_count"), counted("treerl_fork_surprisal_nats_sum")
    tree = grow(SearchParameters(2, 2, 1, 3, ForkSelection.RANDOM), seed=1, max_tokens=64)
    made = {(b.parent_id, b.fork_index) for b in tree.branches if b.parent_id is not None}
    assert len(made) == 3  # nine branches; the second chain has but one token to fork at
    assert counted("treerl_fork_tokens_total", **labels) - forks == 3
    assert counted("treerl_fork_surprisal_nats_count") - observed == 3
    surprisals = [-tree.branches[parent].logprobs[index - tree.branches[parent].fork_index] for parent, index in made]
    assert counted("treerl_fork_surprisal_nats_sum") - nats == pytest.approx(sum(surprisals))
