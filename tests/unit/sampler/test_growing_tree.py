"""What a growing tree asks of its engine, and what its branches say about their end."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.common.tree import FinishReason, Logprobs, SearchParameters, TreeRequest, path_tokens
from services.sampler.eptree import search
from services.sampler.growing_tree import GrowingTree
from tests.builders import request
from tests.scripted_engine import END, DigitCodec, ScriptedEngine


def asked(max_tokens: int = 64, **sampling: object) -> TreeRequest:
    plain = request(SearchParameters(2, 2, 2, 2), seed=1, max_tokens=max_tokens)
    return replace(plain, sampling=replace(plain.sampling, **sampling))


@given(min_tokens=st.integers(0, 30), seed=st.integers(0, 50))
async def test_nothing_but_the_budget_ends_a_path_before_min_tokens(min_tokens: int, seed: int) -> None:
    wanted = asked(30, min_tokens=min_tokens, seed=seed, stop_token_ids=(3,), stop=("4", "56"))
    tree = await search(ScriptedEngine(), DigitCodec(), wanted)
    assert all(branch.end > min_tokens or branch.end == 30 for branch in tree.branches)
    for branch in tree.branches:
        assert not {END, 3} & set(path_tokens(tree.branches, branch.id)[:min_tokens])


async def test_a_fork_asks_for_what_is_left_of_min_tokens() -> None:
    engine = ScriptedEngine()
    growing = GrowingTree(engine, DigitCodec(), asked(min_tokens=10))
    chain = await growing.sample_chain(0)
    await growing.fork(chain.id, 4, 1)
    await growing.fork(chain.id, 10, 1)
    assert [sent.min_tokens for sent in engine.requests] == [10, 6, 0]


@given(seed=st.integers(0, 200))
async def test_a_stop_string_ends_every_path_that_completes_it(seed: int) -> None:
    tree = await search(ScriptedEngine(), DigitCodec(), asked(seed=seed, stop=("12", "345", "7")))
    for branch in tree.branches:
        text = DigitCodec().decode(path_tokens(tree.branches, branch.id))
        found = [string for string in ("12", "345", "7") if string in text]
        assert all(text.endswith(string) and string not in text[:-1] for string in found)
        assert found == ([] if branch.stop_reason is None else [branch.stop_reason])
        assert branch.finish_reason is FinishReason.STOP or not found


async def test_a_stop_string_in_the_kept_prefix_does_not_end_a_fork() -> None:
    engine = ScriptedEngine()
    growing = GrowingTree(engine, DigitCodec(), asked(seed=5, min_tokens=20, stop=("1", "2", "3", "4", "5", "6", "7")))
    chain = await growing.sample_chain(0)
    assert set("1234567") & set(DigitCodec().decode(chain.token_ids[:15]))
    (fork,) = await growing.fork(chain.id, 15, 1)
    assert fork.end > 20


async def test_a_stop_token_says_that_it_ended_the_branch_and_an_end_token_does_not() -> None:
    tree = await search(ScriptedEngine(), DigitCodec(), asked(stop_token_ids=(3,)))
    reasons = {branch.token_ids[-1]: branch.stop_reason for branch in tree.branches}
    assert reasons == {END: None, 3: 3}


async def test_what_a_request_asks_for_reaches_the_engine_and_the_tree() -> None:
    engine = ScriptedEngine()
    wanted = asked(logprobs=Logprobs.RAW_AND_SAMPLING, adapter="terse")
    tree = await search(engine, DigitCodec(), wanted)
    assert {(sent.logprobs, sent.adapter) for sent in engine.requests} == {(Logprobs.RAW_AND_SAMPLING, "terse")}
    assert all(len(branch.sampling_logprobs) == len(branch.token_ids) for branch in tree.branches)
    assert tree.sampling == wanted.sampling
