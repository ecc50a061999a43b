"""Rows: trees laid out by hand, and the one rule that says who sees whom."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.tree import Tree, path_tokens
from services.common.verdict import Outcome
from services.trainer.advantages import AdvantageName, weigh_tree
from services.trainer.rows import Packing, Row, sequence_row, tree_rows
from tests.builders import branch, tree
from tests.strategies import trees

RIGHT, WRONG, UNKNOWN = Outcome.CORRECT, Outcome.WRONG, Outcome.INFRA_ERROR
PROMPT = (7, 8, 9)

packings = st.sampled_from(["tree", "flat"])
advantages = st.sampled_from(["treerl", "treerl-official", "ga", "la", "unweighted"])


def responses(row: Row) -> list[list[int]]:
    """Indices of the tokens of each response."""
    return [
        [i for i in range(len(row.token_ids_n)) if row.first_n[i] <= response < row.past_n[i]]
        for response in range(len(row.length_m))
    ]


def test_a_chain_is_laid_out_with_what_was_forked_from_it() -> None:
    # branch 1 leaves branch 0 before its third token, branch 2 leaves branch 1 before its second
    graded = tree(branch(0, None, 0, 4, RIGHT), branch(1, 0, 2, 3, WRONG), branch(2, 1, 3, 1, RIGHT))
    weighted = weigh_tree(graded, "treerl")
    weight = {(p.segment.branch_id, p.segment.start): p.weight for p in weighted.segments}

    [row] = tree_rows(weighted, "tree")

    assert row.prompt_token_ids == PROMPT
    assert row.token_ids_n.tolist() == [0, 1, 2, 3, 100, 101, 102, 200]
    assert row.position_n.tolist() == [0, 1, 2, 3, 2, 3, 4, 3]
    assert row.source_n.tolist() == [-1, 0, 1, 2, 1, 4, 5, 4]
    assert row.end_n.tolist() == [8, 8, 4, 4, 8, 7, 7, 8]
    assert row.first_n.tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert row.past_n.tolist() == [3, 3, 1, 1, 3, 2, 2, 3]
    assert row.length_m.tolist() == [4, 5, 4]
    places = [(0, 0), (0, 0), (0, 2), (0, 2), (1, 2), (1, 3), (1, 3), (2, 3)]
    assert row.weight_n.tolist() == pytest.approx([weight[place] for place in places])


def test_a_single_response_is_a_plain_sequence() -> None:
    graded = tree(branch(0, None, 0, 3, RIGHT), branch(1, 0, 2, 2, WRONG))
    weighted = weigh_tree(graded, "unweighted")
    shared, rest, forked = (piece.weight for piece in weighted.segments)

    rows = tree_rows(weighted, "flat")

    assert [row.token_ids_n.tolist() for row in rows] == [[0, 1, 2], [0, 1, 100, 101]]
    assert [row.weight_n.tolist() for row in rows] == [[shared, shared, rest], [shared, shared, forked, forked]]
    for row in rows:
        length = len(row.token_ids_n)
        assert row.position_n.tolist() == list(range(length))
        assert row.source_n.tolist() == list(range(-1, length - 1))
        assert set(row.end_n.tolist()) == {length}
        assert row.engine_logprob_n.tolist() == [-1.0] * length


@pytest.mark.parametrize(("packing", "rows"), [("tree", 2), ("flat", 3)])
def test_there_is_a_row_for_each_chain_or_for_each_response(packing: Packing, rows: int) -> None:
    graded = tree(branch(0, None, 0, 3, RIGHT), branch(1, 0, 2, 2, WRONG), branch(2, None, 0, 2, WRONG))

    assert len(tree_rows(weigh_tree(graded, "treerl"), packing)) == rows


def test_what_leads_to_ungraded_leaves_alone_is_left_out() -> None:
    graded = tree(
        branch(0, None, 0, 4, UNKNOWN),
        branch(1, 0, 2, 2, RIGHT),
        branch(2, 1, 3, 2, UNKNOWN),
        branch(3, None, 0, 2, UNKNOWN),
    )

    [row] = tree_rows(weigh_tree(graded, "treerl"), "tree")

    assert row.token_ids_n.tolist() == [0, 1, 100, 101]
    assert row.length_m.tolist() == [4]


@given(trees(), advantages, packings)
def test_rows_hold_every_trained_response_with_its_weights(
    graded: Tree, advantage: AdvantageName, packing: Packing
) -> None:
    weighted = weigh_tree(graded, advantage)

    found = []
    for row in tree_rows(weighted, packing):
        for indices, length in zip(responses(row), row.length_m, strict=True):
            assert len(indices) == length
            assert row.position_n[indices].tolist() == list(range(length))
            assert row.source_n[indices].tolist() == [-1, *indices[:-1]]
            found.append((tuple(row.token_ids_n[indices].tolist()), tuple(row.weight_n[indices].tolist())))

    expected = []
    for leaf in weighted.trained:
        on_path = [piece for piece in weighted.segments if leaf in piece.segment.leaf_ids]
        of_path = np.repeat(
            np.array([piece.weight for piece in on_path], dtype=np.float32),
            [piece.segment.end - piece.segment.start for piece in on_path],
        )
        expected.append((path_tokens(graded.branches, leaf), tuple(of_path.tolist())))
    assert sorted(found) == sorted(expected)


@given(trees(), packings)
def test_a_token_sees_its_path_and_nothing_else(graded: Tree, packing: Packing) -> None:
    for row in tree_rows(weigh_tree(graded, "treerl"), packing):
        for query, source in enumerate(row.source_n):
            path, place = {query}, source
            while place >= 0:
                path.add(place)
                place = row.source_n[place]
            assert {key for key in range(query + 1) if query < row.end_n[key]} == path


def test_a_sequence_has_neither_weights_nor_an_engine() -> None:
    row = sequence_row([1, 2], [3, 4])

    assert row.silent
    assert row.engine_logprob_n.tolist() == [0.0, 0.0]
    assert all(later == earlier + 1 for earlier, later in pairwise(row.source_n.tolist()))
