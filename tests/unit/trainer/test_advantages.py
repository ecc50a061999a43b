"""Advantages against trees worked out by hand, and laws that hold for every tree."""

import random
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from statistics import pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidRequestError
from services.common.tree import Tree
from services.common.verdict import Outcome
from services.trainer.advantages import AdvantageName, WeightedSegment, WeightedTree, normalize, weigh_tree
from tests.builders import branch, tree
from tests.strategies import any_outcome, trees

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


def weigh(graded: Tree, advantage: AdvantageName) -> tuple[WeightedSegment, ...]:
    return weigh_tree(graded, advantage).segments


def weights(graded: Tree, advantage: AdvantageName) -> list[float]:
    return [piece.weight for piece in weigh(graded, advantage)]


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
    pieces = weigh(GOLDEN_TREE, advantage)

    assert [piece.leaves for piece in pieces] == LEAVES
    assert [piece.responses for piece in pieces] == LEAVES
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


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_chains_that_share_tokens_are_refused(advantage: AdvantageName) -> None:
    with pytest.raises(InvalidRequestError, match="4 of these responses share tokens"):
        weigh_tree(GOLDEN_TREE, advantage)


def test_an_unknown_leaf_is_in_no_mean_and_its_fork_is_no_cut() -> None:
    pieces = weigh(
        tree(branch(0, None, 0, 4, RIGHT), branch(1, 0, 2, 3, UNKNOWN), branch(2, None, 0, 3, WRONG)), "treerl"
    )

    assert [piece.leaves for piece in pieces] == [1, 1, 0, 1]
    assert [piece.value for piece in pieces] == [1.0, 1.0, None, 0.0]
    assert [piece.weight for piece in pieces] == pytest.approx([1.0, 1.0, 0.0, -1.0])


paper_advantages = st.sampled_from(["treerl", "ga", "la", "unweighted"])
tree_advantages = paper_advantages | st.just("treerl-official")
chain_advantages = st.sampled_from(["rloo", "grpo"])
equal_outcomes = st.sampled_from([RIGHT, WRONG]).flatmap(lambda outcome: st.just(st.sampled_from([outcome, UNKNOWN])))


@given(equal_outcomes.flatmap(trees), tree_advantages)
def test_equal_rewards_teach_nothing(graded: Tree, advantage: AdvantageName) -> None:
    assert not any(weights(graded, advantage))


@given(equal_outcomes.flatmap(lambda outcomes: trees(outcomes, forked=False)), chain_advantages)
def test_equal_chains_teach_nothing(graded: Tree, advantage: AdvantageName) -> None:
    assert not any(weights(graded, advantage))


@given(trees(any_outcome))
def test_identities(graded: Tree) -> None:
    """GA + LA is the unweighted sum, GA - LA = V(parent) - V(root), and GA averages to 0 over the leaves."""
    ga, la = weigh(graded, "ga"), weigh(graded, "la")
    unscaled = [(g.weight * sqrt(g.leaves), local.weight * sqrt(g.leaves)) for g, local in zip(ga, la, strict=True)]
    assert [g + local for g, local in unscaled] == pytest.approx(weights(graded, "unweighted"), abs=1e-12)
    root_value = _root_value(graded)
    for piece, (g, local) in zip(ga, unscaled, strict=True):
        if piece.value is not None:
            above = _above(ga, piece)
            parent_value = root_value if above is None else above.value
            assert g - local == pytest.approx(parent_value - root_value, abs=1e-12)
    leaf_ends = [
        g for piece, (g, _) in zip(ga, unscaled, strict=True) if piece.value is not None and _ends(piece, graded)
    ]
    assert sum(leaf_ends) == pytest.approx(0, abs=1e-9)


@given(trees(any_outcome))
def test_local_advantages_along_a_path_sum_to_its_global_one(graded: Tree) -> None:
    """LA telescopes: V(leaf) - V(root), whatever lies between."""
    la = weigh(graded, "la")
    for piece in la:
        if piece.value is not None and _ends(piece, graded):
            total, place = 0.0, piece
            while place is not None:
                total += place.weight * sqrt(place.leaves)
                place = _above(la, place)
            assert total == pytest.approx(piece.value - _root_value(graded), abs=1e-12)


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
    before = {_place(piece): piece.weight for piece in weigh(graded, advantage)}
    after = {_place(piece): piece.weight for piece in weigh(moved, advantage)}
    assert {(new_id[b], start): weight for (b, start), weight in before.items()} == pytest.approx(after, abs=1e-12)


@given(trees(any_outcome), tree_advantages, st.data())
def test_an_unknown_leaf_changes_nothing(graded: Tree, advantage: AdvantageName, data: st.DataObject) -> None:
    """A chain or a fork that the grader failed on leaves every token's weight as it was, wherever it parts."""
    forkable = [b for b in graded.branches if len(b.token_ids) > 1]
    parent = data.draw(st.sampled_from([None, *forkable]))
    fork_index = 0 if parent is None else data.draw(st.integers(parent.fork_index + 1, parent.end - 1))
    failed = branch(len(graded.branches), None if parent is None else parent.id, fork_index, 3, UNKNOWN)
    before = _token_weights(weigh(graded, advantage))
    after = _token_weights(weigh(tree(*graded.branches, failed), advantage))
    assert {place: after[place] for place in before} == pytest.approx(before, abs=1e-12)
    assert not any(weight for place, weight in after.items() if place not in before)


@given(st.lists(trees(any_outcome), min_size=1, max_size=4), tree_advantages)
def test_batch_std_makes_the_deviation_over_tokens_of_responses_one(step: list[Tree], advantage: AdvantageName) -> None:
    weighted = [weigh_tree(graded, advantage) for graded in step]
    before, after = _response_weights(weighted), _response_weights(normalize(weighted, "batch_std"))
    deviation = pstdev(before) if before else 0.0
    if deviation > 1e-6:
        assert pstdev(after) == pytest.approx(1)
        assert after == pytest.approx([weight / deviation for weight in before])
    else:
        assert after == before


def test_no_normalization_leaves_weights_alone() -> None:
    weighted = [weigh_tree(GOLDEN_TREE, "treerl")]
    assert normalize(weighted, "none") == weighted


def _generation(graded: Tree, branch_id: int) -> int:
    parent_id = graded.branches[branch_id].parent_id
    return 0 if parent_id is None else 1 + _generation(graded, parent_id)


def _place(piece: WeightedSegment) -> tuple[int, int]:
    return piece.segment.branch_id, piece.segment.start


def _above(pieces: Sequence[WeightedSegment], piece: WeightedSegment) -> WeightedSegment | None:
    """The nearest segment before this one that more graded leaves share."""
    parent_id = piece.segment.parent_id
    while parent_id is not None and pieces[parent_id].leaves == piece.leaves:
        parent_id = pieces[parent_id].segment.parent_id
    return None if parent_id is None else pieces[parent_id]


def _ends(piece: WeightedSegment, graded: Tree) -> bool:
    return piece.segment.end == graded.branches[piece.segment.branch_id].end


def _root_value(graded: Tree) -> float:
    known = [b.verdict.reward for b in graded.branches if b.verdict and b.verdict.reward is not None]
    return sum(known) / len(known) if known else 0.0


def _token_weights(pieces: Sequence[WeightedSegment]) -> dict[tuple[int, int], float]:
    """Weight of each token by branch and position."""
    return {
        (piece.segment.branch_id, position): piece.weight
        for piece in pieces
        for position in range(piece.segment.start, piece.segment.end)
    }


def _response_weights(weighted: Sequence[WeightedTree]) -> list[float]:
    """Weight of each token of each trained response, one response after the other."""
    found = []
    for graded in weighted:
        for leaf in graded.trained:
            for piece in graded.segments:
                if leaf in piece.segment.leaf_ids:
                    found += [piece.weight] * (piece.segment.end - piece.segment.start)
    return found
