"""Chains are matched to a tree's tokens without favour, and what they find on average is counted exactly."""

from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.equal_tokens import Leaves, chains_finding, chance_of_any, tree_finding

FOUR_CHAINS = Leaves(answers=("5", "5", "7", None), correct=2, decoded_tokens=40)
"""Ten tokens a chain; the fives are right."""


def test_a_tree_passes_with_one_right_leaf_and_counts_each_answer_once() -> None:
    found = tree_finding(Leaves(answers=("5", "5", "7", None), correct=1, decoded_tokens=23))
    assert (found.pass_rate, found.leaf_accuracy, found.distinct_answers) == (1.0, 0.25, 2)
    assert (found.leaves, found.decoded_tokens) == (4, 23)


def test_a_tree_without_a_right_leaf_does_not_pass() -> None:
    assert tree_finding(Leaves(answers=(None, "7"), correct=0, decoded_tokens=9)).pass_rate == 0.0


def test_the_tokens_of_two_chains_pay_for_every_pair_alike() -> None:
    # of the six pairs only {7, None} has no five; pairs hold 1, 2, 1, 2, 1, 1 answers
    found = chains_finding(FOUR_CHAINS, decoded_tokens=20)
    assert found.leaves == 2
    assert found.pass_rate == pytest.approx(5 / 6)
    assert found.distinct_answers == pytest.approx(8 / 6)
    assert found.leaf_accuracy == 0.5


def test_tokens_between_one_chain_and_two_mix_both() -> None:
    # one chain: a five half of the time; two: 5/6; 14 tokens are 1.4 chains
    found = chains_finding(FOUR_CHAINS, decoded_tokens=14)
    assert found.leaves == pytest.approx(1.4)
    assert found.pass_rate == pytest.approx(0.6 * 1 / 2 + 0.4 * 5 / 6)


def test_fewer_tokens_than_a_chain_takes_are_a_chance_of_one_chain() -> None:
    assert chains_finding(FOUR_CHAINS, decoded_tokens=5).pass_rate == pytest.approx(0.5 * 1 / 2)


def test_more_tokens_than_the_pool_holds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4\.1 drawn: expected between 0 and the 4"):
        chains_finding(FOUR_CHAINS, decoded_tokens=41)


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=7), st.data())
def test_all_subsets_of_a_size_average_to_the_tokens_and_the_pass_rate(
    chains: list[tuple[int, bool]], data: st.DataObject
) -> None:
    """Exhaustively: whatever lengths have to do with being right, equal size gives equal tokens."""
    size = data.draw(st.integers(1, len(chains)))
    subsets = list(combinations(chains, size))
    tokens = fmean(sum(length for length, _ in subset) for subset in subsets)
    passed = fmean(any(right for _, right in subset) for subset in subsets)
    right = sum(right for _, right in chains)
    assert tokens == pytest.approx(size * fmean(length for length, _ in chains))
    assert chance_of_any(right, len(chains), size) == pytest.approx(passed)
