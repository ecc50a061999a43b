"""Trees and their segments."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidRequestError
from services.common.tree import Branch, check_tree, in_canonical_order, owner_of, path_tokens, segments
from tests.builders import branch, tree


def test_a_chain_without_forks_is_one_segment() -> None:
    (only,) = segments([branch(0, None, 0, 5)])
    assert (only.parent_id, only.start, only.end, only.leaf_ids) == (None, 0, 5, (0,))


def test_forks_cut_a_chain_into_prefix_middle_and_suffix() -> None:
    # chain 0 of 10 tokens, forked at 3 (branch 1) and at 7 (branches 2, 3)
    found = segments([branch(0, None, 0, 10), branch(1, 0, 3, 4), branch(2, 0, 7, 2), branch(3, 0, 7, 6)])
    described = {(s.branch_id, s.start, s.end): (s.parent_id, s.leaf_ids) for s in found}
    assert described == {
        (0, 0, 3): (None, (0, 1, 2, 3)),
        (0, 3, 7): (0, (0, 2, 3)),
        (0, 7, 10): (1, (0,)),
        (1, 3, 7): (0, (1,)),
        (2, 7, 9): (1, (2,)),
        (3, 7, 13): (1, (3,)),
    }


def test_a_fork_of_a_fork_hangs_below_it() -> None:
    found = segments([branch(0, None, 0, 6), branch(1, 0, 2, 6), branch(2, 1, 5, 1)])
    described = {(s.branch_id, s.start, s.end): s.leaf_ids for s in found}
    assert described == {
        (0, 0, 2): (0, 1, 2),
        (0, 2, 6): (0,),
        (1, 2, 5): (1, 2),
        (1, 5, 8): (1,),
        (2, 5, 6): (2,),
    }


def test_path_tokens_keeps_each_prefix_up_to_its_fork() -> None:
    branches = [branch(0, None, 0, 6), branch(1, 0, 2, 6), branch(2, 1, 5, 2)]
    assert path_tokens(branches, 2) == (0, 1, 100, 101, 102, 200, 201)


def test_owner_of_a_position_is_the_branch_that_sampled_it() -> None:
    branches = [branch(0, None, 0, 6), branch(1, 0, 2, 6), branch(2, 1, 5, 2)]
    assert [owner_of(branches, 2, position) for position in range(7)] == [0, 0, 1, 1, 1, 2, 2]
    with pytest.raises(InvalidRequestError, match="token index 7"):
        owner_of(branches, 2, 7)


@pytest.mark.parametrize(
    ("branches", "complaint"),
    [
        ([branch(1, None, 0, 2)], "ids must equal positions"),
        ([branch(0, None, 0, 0)], "at least one token"),
        ([branch(0, None, 1, 2)], "is a chain but has fork index 1"),
        ([branch(0, None, 0, 4), branch(1, 1, 2, 2)], "parents must come before"),
        ([branch(0, None, 0, 4), branch(1, 0, 0, 2)], r"must lie in \(0, 4\)"),
        ([branch(0, None, 0, 4), branch(1, 0, 4, 2)], r"must lie in \(0, 4\)"),
    ],
)
def test_what_is_no_tree_is_refused_with_the_reason(branches: list[Branch], complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        check_tree(branches)


@st.composite
def branch_lists(draw: st.DrawFn) -> list[Branch]:
    """Random valid trees."""
    branches = [branch(0, None, 0, draw(st.integers(1, 9)))]
    for branch_id in range(1, draw(st.integers(1, 12))):
        parents = [b for b in branches if len(b.token_ids) > 1]
        if not parents or draw(st.booleans()):
            branches.append(branch(branch_id, None, 0, draw(st.integers(1, 9))))
        else:
            parent = draw(st.sampled_from(parents))
            fork_index = draw(st.integers(parent.fork_index + 1, parent.end - 1))
            branches.append(branch(branch_id, parent.id, fork_index, draw(st.integers(1, 9))))
    return branches


@given(branch_lists())
def test_segments_hold_every_sampled_token_once(branches: list[Branch]) -> None:
    held = [(s.branch_id, position) for s in segments(branches) for position in range(s.start, s.end)]
    assert sorted(held) == [(b.id, position) for b in branches for position in range(b.fork_index, b.end)]


@given(branch_lists())
def test_the_segments_above_a_leaf_spell_its_path(branches: list[Branch]) -> None:
    found = segments(branches)
    for leaf in branches:
        above = [s for s in found if leaf.id in s.leaf_ids]
        assert [s.parent_id for s in above] == [None, *(s.id for s in above[:-1])]
        spelt = [
            branches[s.branch_id].token_ids[position - branches[s.branch_id].fork_index]
            for s in above
            for position in range(s.start, s.end)
        ]
        assert tuple(spelt) == path_tokens(branches, leaf.id)


@given(branch_lists(), st.randoms())
def test_canonical_order_does_not_depend_on_which_branch_ended_first(
    branches: list[Branch], shuffle: random.Random
) -> None:
    arrival: list[Branch] = []
    waiting = list(branches)
    new_ids: dict[int, int] = {}
    while waiting:
        ready = [b for b in waiting if b.parent_id is None or b.parent_id in new_ids]
        ended = shuffle.choice(ready)
        waiting.remove(ended)
        new_ids[ended.id] = len(arrival)
        parent_id = None if ended.parent_id is None else new_ids[ended.parent_id]
        arrival.append(
            Branch(
                len(arrival),
                parent_id,
                ended.fork_index,
                ended.token_ids,
                ended.logprobs,
                (),
                ended.versions,
                ended.finish_reason,
                ended.response_text,
            )
        )
    assert in_canonical_order(tree(*arrival)) == in_canonical_order(tree(*branches))
    check_tree(in_canonical_order(tree(*arrival)).branches)
