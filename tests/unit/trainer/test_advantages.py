"""Advantages against trees worked out by hand, and laws that hold for every tree."""

import random
from dataclasses import replace
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.tree import Branch, Tree
from services.common.verdict import Outcome, Verdict
from services.trainer.advantages import AdvantageName, WeightedSegment, weigh_segments
from tests.builders import branch, tree

RIGHT, WRONG, UNKNOWN = Outcome.CORRECT, Outcome.WRONG, Outcome.INFRA_ERROR

# Chain 0 of 6 tokens forked at 2 into 1 and 2 and at 4 into 3; chain 4 alone. V(root) = 3/5.
#   segment 0: branch 0 [0,2) L={0,1,2,3} V=3/4    segment 1: branch 0 [2,4) L={0,3} V=1/2
#   segment 2: branch 0 [4,6) L={0} V=1            segments 3, 4, 5: branches 1 (V=1), 2 (V=1), 3 (V=0)
#   segment 6: branch 4 L={4} V=0
GOLDEN_TREE = tree(
    branch(0, None, 0, 6, RIGHT),
    branch(1, 0, 2, 3, RIGHT),
    branch(2, 0, 2, 4, RIGHT),
    branch(3, 0, 4, 2, WRONG),
    branch(4, None, 0, 5, WRONG),
)
GLOBAL = [0.15, -0.1, 0.4, 0.4, 0.4, -0.6, -0.6]
LOCAL = [0.15, -0.25, 0.5, 0.25, 0.25, -0.5, -0.6]
LEAVES = [4, 2, 1, 1, 1, 1, 1]


def weights(graded: Tree, advantage: AdvantageName) -> list[float]:
    return [piece.weight for piece in weigh_segments(graded, advantage)]


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        ("treerl", [(ga + la) / sqrt(n) for ga, la, n in zip(GLOBAL, LOCAL, LEAVES, strict=True)]),
        ("ga", [ga / sqrt(n) for ga, n in zip(GLOBAL, LEAVES, strict=True)]),
        ("la", [la / sqrt(n) for la, n in zip(LOCAL, LEAVES, strict=True)]),
        ("unweighted", [ga + la for ga, la in zip(GLOBAL, LOCAL, strict=True)]),
    ],
)
def test_golden_tree(advantage: AdvantageName, expected: list[float]) -> None:
    pieces = weigh_segments(GOLDEN_TREE, advantage)

    assert [piece.leaves for piece in pieces] == LEAVES
    assert [piece.value for piece in pieces] == [0.75, 0.5, 1, 1, 1, 0, 0]
    assert [piece.weight for piece in pieces] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        ("rloo", [1 - 1 / 3, -2 / 3, 1 - 1 / 3, -2 / 3]),
        # mean 1/2, sample deviation sqrt(1/3)
        ("grpo", [sqrt(3) / 2, -sqrt(3) / 2, sqrt(3) / 2, -sqrt(3) / 2]),
    ],
)
def test_golden_chains(advantage: AdvantageName, expected: list[float]) -> None:
    chains = tree(*(branch(i, None, 0, 3, outcome) for i, outcome in enumerate([RIGHT, WRONG, RIGHT, WRONG])))

    assert weights(chains, advantage) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_a_lone_chain_has_nothing_to_compare_with(advantage: AdvantageName) -> None:
    assert weights(tree(branch(0, None, 0, 3, RIGHT)), advantage) == [0.0]


def test_an_unknown_leaf_is_in_no_mean() -> None:
    pieces = weigh_segments(
        tree(branch(0, None, 0, 4, RIGHT), branch(1, 0, 2, 3, UNKNOWN), branch(2, None, 0, 3, WRONG)), "treerl"
    )

    assert [piece.leaves for piece in pieces] == [1, 1, 0, 1]
    assert [piece.value for piece in pieces] == [1.0, 1.0, None, 0.0]
    assert [piece.weight for piece in pieces] == pytest.approx([1.0, 0.5, 0.0, -1.0])


@st.composite
def trees(draw: st.DrawFn, outcomes: st.SearchStrategy[Outcome], forked: bool = True) -> Tree:
    """Random trees of up to 10 branches."""
    branches: list[Branch] = []
    for branch_id in range(draw(st.integers(1, 10))):
        forkable = [b for b in branches if len(b.token_ids) > 1] if forked else []
        parent = draw(st.sampled_from([None, *forkable]))
        fork_index = 0 if parent is None else draw(st.integers(parent.fork_index + 1, parent.end - 1))
        parent_id = None if parent is None else parent.id
        branches.append(branch(branch_id, parent_id, fork_index, draw(st.integers(1, 6)), draw(outcomes)))
    return tree(*branches)


any_outcome = st.sampled_from([RIGHT, WRONG, UNKNOWN])
tree_advantages = st.sampled_from(["treerl", "ga", "la", "unweighted"])
chain_advantages = st.sampled_from(["rloo", "grpo"])


@given(trees(st.just(RIGHT)) | trees(st.just(WRONG)), tree_advantages)
def test_equal_rewards_teach_nothing(graded: Tree, advantage: AdvantageName) -> None:
    assert not any(weights(graded, advantage))


@given(trees(any_outcome))
def test_identities(graded: Tree) -> None:
    """GA + LA is the unweighted sum, GA - LA = V(parent) - V(root), and GA averages to 0 over the leaves."""
    ga, la = weigh_segments(graded, "ga"), weigh_segments(graded, "la")
    unscaled = [(g.weight * sqrt(g.leaves), local.weight * sqrt(g.leaves)) for g, local in zip(ga, la, strict=True)]
    assert [g + local for g, local in unscaled] == pytest.approx(weights(graded, "unweighted"), abs=1e-12)
    known = [b.verdict.reward for b in graded.branches if b.verdict and b.verdict.reward is not None]
    for piece, (g, local) in zip(ga, unscaled, strict=True):
        if piece.value is not None and piece.segment.parent_id is not None:
            parent_value = ga[piece.segment.parent_id].value
            assert parent_value is not None
            assert g - local == pytest.approx(parent_value - sum(known) / len(known), abs=1e-12)
    leaf_ends = [
        g
        for piece, (g, _) in zip(ga, unscaled, strict=True)
        if piece.value is not None and piece.segment.end == graded.branches[piece.segment.branch_id].end
    ]
    assert sum(leaf_ends) == pytest.approx(0, abs=1e-9)


@given(trees(any_outcome, forked=False), chain_advantages, st.randoms(use_true_random=False))
def test_order_of_chains_does_not_matter(graded: Tree, advantage: AdvantageName, rng: random.Random) -> None:
    order = list(range(len(graded.branches)))
    rng.shuffle(order)
    shuffled = tree(*(replace(graded.branches[old], id=new) for new, old in enumerate(order)))
    before, after = weights(graded, advantage), weights(shuffled, advantage)
    assert after == pytest.approx([before[old] for old in order], abs=1e-9)


@given(trees(any_outcome), tree_advantages)
def test_order_of_branches_does_not_matter(graded: Tree, advantage: AdvantageName) -> None:
    """Sorting branches by depth of descent keeps parents first and changes most positions."""
    order = sorted(range(len(graded.branches)), key=lambda i: (_generation(graded, i), -i))
    new_id = {old: new for new, old in enumerate(order)}
    moved = tree(
        *(
            replace(b, id=new_id[b.id], parent_id=None if b.parent_id is None else new_id[b.parent_id])
            for b in (graded.branches[old] for old in order)
        )
    )
    before = {_place(piece): piece.weight for piece in weigh_segments(graded, advantage)}
    after = {_place(piece): piece.weight for piece in weigh_segments(moved, advantage)}
    assert {(new_id[b], start): weight for (b, start), weight in before.items()} == pytest.approx(after, abs=1e-12)


@given(trees(any_outcome), tree_advantages)
def test_an_unknown_leaf_changes_no_value(graded: Tree, advantage: AdvantageName) -> None:
    """Adding a chain that the grader failed on leaves every other weight as it was."""
    failed = replace(branch(len(graded.branches), None, 0, 3), verdict=Verdict(UNKNOWN, "", 0.0))
    more = tree(*graded.branches, failed)
    assert weights(more, advantage) == [*weights(graded, advantage), 0.0]


def _generation(graded: Tree, branch_id: int) -> int:
    parent_id = graded.branches[branch_id].parent_id
    return 0 if parent_id is None else 1 + _generation(graded, parent_id)


def _place(piece: WeightedSegment) -> tuple[int, int]:
    return piece.segment.branch_id, piece.segment.start
