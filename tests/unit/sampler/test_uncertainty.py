"""The choice of fork points."""

from collections.abc import Sequence
from dataclasses import replace

from services.common.tree import Branch, ForkSelection, SearchParameters
from services.sampler.uncertainty import choose_forks
from tests.builders import branch
from tests.scripted_engine import DigitCodec

CHAIN = replace(
    branch(0, None, 0, 5),
    token_ids=(5, 6, 7, 8, 0),  # 0 is the end token
    logprobs=(-9.0, -1.0, -3.0, -2.0, -8.0),
    entropies=(0.9, 0.8, 0.1, 0.2, 0.3),
)


def chosen(
    branches: Sequence[Branch],
    forks: int,
    selection: ForkSelection = ForkSelection.SURPRISAL,
    markers: tuple[str, ...] = (),
    seed: int | None = None,
) -> list[tuple[int, int]]:
    search = SearchParameters(1, forks, 1, 1, selection, answer_markers=markers)
    return choose_forks(branches, branches, search, DigitCodec(), seed)


def test_surprisal_takes_the_least_likely_tokens_but_neither_the_first_nor_the_end_token() -> None:
    assert chosen([CHAIN], 2) == [(0, 2), (0, 3)]


def test_what_follows_the_answer_marker_is_passed_over() -> None:
    assert chosen([CHAIN], 2, markers=("78",)) == [(0, 2), (0, 1)]


def test_entropy_takes_the_flattest_distributions() -> None:
    assert chosen([CHAIN], 2, ForkSelection.ENTROPY) == [(0, 1), (0, 3)]


def test_a_token_is_not_forked_twice() -> None:
    forked = branch(1, 0, 2, 1)
    assert chosen([CHAIN, forked], 1) == [(0, 3)]


def test_all_segments_of_the_chains_tree_compete() -> None:
    forked = replace(branch(1, 0, 2, 3), logprobs=(-9.0, -7.0, -0.1))
    assert chosen([CHAIN, forked], 1) == [(1, 3)]


def test_other_chains_do_not_compete() -> None:
    other = replace(branch(1, None, 0, 3), logprobs=(-9.0, -9.0, -9.0))
    assert choose_forks([CHAIN, other], [CHAIN], SearchParameters(2, 1, 1, 1), DigitCodec(), None) == [(0, 2)]


def test_too_short_a_chain_gives_fewer_forks() -> None:
    assert chosen([branch(0, None, 0, 1)], 3) == []


def test_random_choice_follows_its_seed() -> None:
    first, again = ([tuple(chosen([CHAIN], 2, ForkSelection.RANDOM, seed=s)) for s in range(20)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 3
