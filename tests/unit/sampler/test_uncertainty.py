"""The choice of fork points."""

from dataclasses import replace

from services.common.tree import ForkSelection
from services.sampler.uncertainty import choose_forks
from tests.builders import branch

CHAIN = replace(branch(0, None, 0, 5), logprobs=(-9.0, -1.0, -3.0, -2.0, -8.0), entropies=(0.9, 0.8, 0.1, 0.2, 0.3))
END = 4  # the chain's last token


def test_surprisal_takes_the_least_likely_tokens_but_not_the_first() -> None:
    assert choose_forks([CHAIN], 2, ForkSelection.SURPRISAL, (), None) == [(0, 4), (0, 2)]


def test_masked_tokens_are_passed_over() -> None:
    assert choose_forks([CHAIN], 2, ForkSelection.SURPRISAL, {END}, None) == [(0, 2), (0, 3)]


def test_entropy_takes_the_flattest_distributions() -> None:
    assert choose_forks([CHAIN], 2, ForkSelection.ENTROPY, {END}, None) == [(0, 1), (0, 3)]


def test_a_token_is_not_forked_twice() -> None:
    forked = branch(1, 0, 2, 1)
    assert choose_forks([CHAIN, forked], 1, ForkSelection.SURPRISAL, {END}, None) == [(0, 3)]


def test_all_segments_of_the_chains_tree_compete() -> None:
    forked = replace(branch(1, 0, 2, 3), logprobs=(-9.0, -7.0, -0.1))
    assert choose_forks([CHAIN, forked], 1, ForkSelection.SURPRISAL, {END}, None) == [(1, 3)]


def test_too_short_a_chain_gives_fewer_forks() -> None:
    assert choose_forks([branch(0, None, 0, 1)], 3, ForkSelection.SURPRISAL, (), None) == []


def test_random_choice_follows_its_seed() -> None:
    chosen = [tuple(choose_forks([CHAIN], 2, ForkSelection.RANDOM, (), seed)) for seed in range(20)]
    assert chosen == [tuple(choose_forks([CHAIN], 2, ForkSelection.RANDOM, (), seed)) for seed in range(20)]
    assert len(set(chosen)) > 5
