"""What the authors' code computes: a tree worked out by hand, their own numbers, and how leaves are selected."""

import json
from math import sqrt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.advantages import advantages_of
from services.cli.tree_records import parse_tree
from services.common.tree import segments
from services.common.verdict import Outcome
from services.trainer.advantages import weigh_tree
from services.trainer.official_advantages import SELECTED_LEAVES, Reweight, official_weights, select_leaves
from tests.builders import branch, tree

# Chain 0 forked at 1 into 1, and chain 2; rewards 1, 1, 0, centred 1/2, 1/2, -1.
#   segment 0: branch 0 [0,1) L={0,1}, sum 1    segment 1: branch 0 [1,3) L={0}    segment 2: branch 1 L={1}
#   segment 3: branch 2 L={2}, sum -1
PIECES = segments([branch(0, None, 0, 3), branch(1, 0, 1, 2), branch(2, None, 0, 2)])
REWARDS = {0: 1.0, 1: 1.0, 2: 0.0}


@pytest.mark.parametrize(
    ("reweight", "shared"),
    # v(0) = 1/f(2)/2, v(1) = v(2) = 1/2, v(3) = -1, v(root) = 0
    [("sqrt", 1 / sqrt(2) / 2), ("original", 1 / 2), ("uniform", 1 / 4)],
)
def test_golden_tree(reweight: Reweight, shared: float) -> None:
    weights = official_weights(PIECES, REWARDS, [0, 1, 2], reweight)

    # with f = 1 the LA of segments 1 and 2 is 0, and they take that of segment 0
    local = shared if shared == 1 / 2 else 1 / 2 - shared
    assert weights == pytest.approx([2 * shared, local + 1 / 2, local + 1 / 2, -2], abs=1e-12)


def test_only_selected_leaves_are_counted_and_weighed() -> None:
    weights = official_weights(PIECES, REWARDS, [1, 2], "sqrt")

    # k(0) = 1, so v(0) = 1/2 = v(2), whose LA is then that of segment 0
    assert weights == pytest.approx([1.0, 0.0, 1.0, -2.0], abs=1e-12)


def test_a_lone_leaf_has_nothing_to_compare_with() -> None:
    assert official_weights(PIECES, {0: 1.0}, [0], "sqrt") == [0.0] * 4


def test_the_authors_numbers(shared_data: Path) -> None:
    lines = (shared_data / "official_advantages.jsonl").read_bytes().splitlines()
    for line in lines:
        found, expected = advantages_of(parse_tree(line), "treerl-official"), json.loads(line)["expected"]
        assert [path["leaf"] for path in found["paths"]] == [path["leaf"] for path in expected]
        for ours, theirs in zip(found["paths"], expected, strict=True):
            assert ours["segments"] == theirs["segments"]
            assert ours["values"] == pytest.approx(theirs["values"], abs=1e-9)
    assert len(lines) == 60


@given(st.lists(st.sampled_from([0.0, 1.0]), max_size=40), st.text(max_size=3))
def test_one_right_leaf_is_selected_if_there_is_any(rewards: list[float], seed: str) -> None:
    of_leaf = dict(enumerate(rewards))

    selected = select_leaves(of_leaf, seed)

    assert len(selected) == len(set(selected)) == min(SELECTED_LEAVES, len(rewards))
    assert any(of_leaf[leaf] == 1 for leaf in selected) == (1.0 in rewards)
    assert select_leaves(dict(reversed(of_leaf.items())), seed) == selected


def test_selection_follows_the_seed_and_reaches_every_leaf() -> None:
    rewards = dict.fromkeys(range(30), 0.0) | {7: 1.0, 8: 1.0}

    selections = [frozenset(select_leaves(rewards, str(seed))) for seed in range(100)]

    assert frozenset.union(*selections) == rewards.keys()
    assert all(selection & {7, 8} for selection in selections)
    assert any(len(selection & {7, 8}) == 1 for selection in selections)


def test_a_tree_trains_on_its_selected_leaves_alone() -> None:
    chains = tree(*(branch(i, None, 0, 2, Outcome.CORRECT if i == 3 else Outcome.WRONG) for i in range(20)))

    weighted = weigh_tree(chains, "treerl-official")

    assert len(weighted.trained) == SELECTED_LEAVES
    assert 3 in weighted.trained
    assert [piece.responses for piece in weighted.segments] == [int(i in weighted.trained) for i in range(20)]
    assert all((piece.weight != 0) == (piece.responses == 1) for piece in weighted.segments)
