"""Statistics of trees against ones worked out by hand."""

from dataclasses import replace

import pytest

from services.common.tree import Tree
from services.common.verdict import Outcome, Verdict
from services.trainer.advantages import weigh_tree
from services.trainer.tree_statistics import tree_statistics
from tests.builders import branch, tree

RIGHT, WRONG, UNKNOWN = Outcome.CORRECT, Outcome.WRONG, Outcome.INFRA_ERROR

# V(root) = 1/3. Segments: chain 0 before its fork (V = 1/2), its end (V = 1), branch 1 (V = 0), chain 2 (V = 0).
TREE = tree(branch(0, None, 0, 6, RIGHT), branch(1, 0, 2, 3, WRONG), branch(2, None, 0, 5, WRONG))


def test_values_are_averaged_by_the_number_of_forks_above() -> None:
    statistics = tree_statistics([weigh_tree(TREE, "treerl")])
    assert statistics.value_by_depth == {0: pytest.approx(0.25), 1: pytest.approx(0.5)}


def test_variances_are_those_of_the_advantages_of_segments() -> None:
    statistics = tree_statistics([weigh_tree(TREE, "treerl")])
    # GA = 1/6, 2/3, -1/3, -1/3 with mean 1/24; LA = 1/6, 1/2, -1/2, -1/3 with mean -1/24
    assert statistics.ga_variance == pytest.approx((1 / 36 + 4 / 9 + 1 / 9 + 1 / 9) / 4 - 1 / 576)
    assert statistics.la_variance == pytest.approx((1 / 36 + 1 / 4 + 1 / 4 + 1 / 9) / 4 - 1 / 576)


def test_answers_are_counted_once_a_tree_and_none_where_none_was_read() -> None:
    assert tree_statistics([weigh_tree(answering("2", "2", ""), "treerl")]).distinct_answers == 1
    both = [weigh_tree(answering(*answers), "treerl") for answers in (("2", "3", "4"), ("2", "2", "3"))]
    assert tree_statistics(both).distinct_answers == 2.5


def test_trees_of_which_nothing_is_known_give_no_values() -> None:
    statistics = tree_statistics([weigh_tree(tree(branch(0, None, 0, 4, UNKNOWN)), "treerl")])
    assert (statistics.value_by_depth, statistics.ga_variance, statistics.la_variance) == ({}, 0.0, 0.0)


def answering(*answers: str) -> Tree:
    branches = [branch(i, None, 0, 3) for i in range(len(answers))]
    verdicts = [Verdict(RIGHT, "", 0.0, answer) for answer in answers]
    return tree(*(replace(b, verdict=v) for b, v in zip(branches, verdicts, strict=True)))
