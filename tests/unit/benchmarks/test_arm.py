"""Trees are compared with chains prompt by prompt, each at its own tokens."""

import pytest

from benchmarks.arm import Arm
from benchmarks.equal_tokens import Leaves

POOLS = (
    Leaves(answers=("5", "7", "7", "7"), correct=1, decoded_tokens=40),
    Leaves(answers=("5", "5", "5", "7"), correct=3, decoded_tokens=40),
)
"""Ten tokens a chain at either prompt; fives are right."""


def tree(*answers: str, tokens: int) -> Leaves:
    return Leaves(answers, answers.count("5"), tokens)


SURE = Arm.of([[tree("5", "7", tokens=10)], [tree("5", "5", tokens=10)]], POOLS)
"""Passes everywhere, at the tokens of one chain, which passes with 1/4 and 3/4."""

RANDOM = Arm.of([[tree("7", "7", tokens=20)], [tree("5", "5", tokens=20)]], POOLS)
"""Passes at the second prompt, at the tokens of two chains, which pass with 1/2 and 1."""


def test_differences_are_taken_at_each_prompt_at_the_tokens_of_its_tree() -> None:
    assert SURE.differences("pass_rate") == pytest.approx([3 / 4, 1 / 4])
    assert RANDOM.differences("pass_rate") == pytest.approx([-1 / 2, 0])


def test_figures_are_means_over_prompts() -> None:
    figures = SURE.figures(RANDOM)
    assert (figures["pass_rate_eptree"], figures["pass_rate_iid"]) == pytest.approx((1.0, 0.5))
    assert (figures["leaves_eptree"], figures["leaves_iid"]) == pytest.approx((2.0, 1.0))
    assert (figures["decoded_tokens_eptree"], figures["decoded_tokens_iid"]) == (10, 10)
    assert (figures["leaf_accuracy_eptree"], figures["leaf_accuracy_iid"]) == pytest.approx((0.75, 0.5))
    # of two prompts every resample is one of three: both ends are seen in more than 2.5 % of them
    ends = (figures["pass_rate_difference_low"], figures["pass_rate_difference_high"])
    assert (figures["pass_rate_difference"], *ends) == pytest.approx((0.5, 0.25, 0.75))


def test_forks_are_compared_with_random_ones_by_what_each_gains_over_chains() -> None:
    # gains 3/4 and 1/4, less -1/2 and 0
    figures = SURE.figures(RANDOM)
    assert figures["pass_rate_difference_to_random"] == pytest.approx((5 / 4 + 1 / 4) / 2)
    assert figures["pass_rate_difference_to_random_high"] == pytest.approx(5 / 4)
    assert "pass_rate_difference_to_random" not in RANDOM.figures(RANDOM)


def test_a_prompt_counts_once_however_many_trees_it_has() -> None:
    arm = Arm.of([[tree("5", tokens=10), tree("7", tokens=30)], [tree("7", tokens=10)]], POOLS)
    assert arm.figures(arm)["pass_rate_eptree"] == pytest.approx((1 / 2 + 0) / 2)
    # one chain passes with 1/4, three with 3/4; at the second prompt one with 3/4
    assert arm.figures(arm)["pass_rate_iid"] == pytest.approx((1 / 2 + 3 / 4) / 2)
