"""Rows, minibatches and microbatches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.verdict import Outcome
from services.trainer.advantages import weigh_segments
from services.trainer.packing import Row, pack, split_by_prompt, tree_rows
from tests.builders import branch, tree


def test_a_row_is_a_path_with_the_weights_of_its_segments() -> None:
    graded = tree(branch(0, None, 0, 3, Outcome.CORRECT), branch(1, 0, 2, 2, Outcome.WRONG))
    weighted = weigh_segments(graded, "unweighted")
    shared, rest, forked = (piece.weight for piece in weighted)

    rows = tree_rows(graded, weighted)

    assert [row.token_ids for row in rows] == [(7, 8, 9, 0, 1, 2), (7, 8, 9, 0, 1, 100, 101)]
    assert [row.weights for row in rows] == [(shared, shared, rest), (shared, shared, forked, forked)]
    assert [row.engine_logprobs for row in rows] == [(-1.0,) * 3, (-1.0,) * 4]


def test_an_ungraded_leaf_gives_no_row() -> None:
    graded = tree(branch(0, None, 0, 3, Outcome.CORRECT), branch(1, None, 0, 2, Outcome.INFRA_ERROR))

    assert len(tree_rows(graded, weigh_segments(graded, "treerl"))) == 1


def test_a_target_is_predicted_from_the_token_before_it() -> None:
    rows = [Row((1, 2, 3, 4), (0.5, 0.25), (-1.0, -2.0)), Row((5, 6, 7), (1.0, 2.0), (-3.0, -4.0))]

    (batch,) = pack(rows, token_budget=100)

    assert batch.token_ids_rs.tolist() == [[1, 2, 3, 4], [5, 6, 7, 0]]
    assert batch.target_n.tolist() == [3, 4, 6, 7]
    assert batch.token_ids_rs.ravel()[batch.source_n].tolist() == [2, 3, 5, 6]
    assert batch.weight_n.tolist() == [0.5, 0.25, 1.0, 2.0]
    assert batch.engine_logprob_n.tolist() == [-1.0, -2.0, -3.0, -4.0]


def test_silent_rows_are_kept_apart() -> None:
    rows = [Row((1, 2), (0.0,), (-1.0,)), Row((1, 2, 3), (1.0,), (-1.0,)), Row((1, 2, 3), (0.0,), (-1.0,))]

    assert [(batch.silent, len(batch.token_ids_rs)) for batch in pack(rows, 100)] == [(False, 1), (True, 2)]


@given(st.lists(st.integers(2, 30), min_size=1, max_size=40), st.integers(1, 100))
def test_packing_keeps_every_target_within_the_budget(lengths: list[int], budget: int) -> None:
    rows = [Row(tuple(range(n)), (1.0,) * (n - 1), (float(n),) * (n - 1)) for n in lengths]

    batches = pack(rows, budget)

    assert all(batch.token_ids_rs.size <= budget or len(batch.token_ids_rs) == 1 for batch in batches)
    engine = np.concatenate([batch.engine_logprob_n for batch in batches])
    assert sorted(engine.tolist()) == sorted(float(n) for n in lengths for _ in range(n - 1))


@pytest.mark.parametrize(("trees", "parts", "sizes"), [(5, 2, [2, 3]), (4, 2, [2, 2]), (1, 3, [1])])
def test_prompts_are_dealt_evenly_and_whole(trees: int, parts: int, sizes: list[int]) -> None:
    rows_of_trees = [[Row((i,), (1.0,), (0.0,))] * 3 for i in range(trees)]

    dealt = split_by_prompt(rows_of_trees, parts, "seed")

    prompts = [{row.token_ids for row in rows} for rows in dealt]
    assert sorted(len(of_part) for of_part in prompts) == sizes
    assert len(set.union(*prompts)) == trees
    assert all(len(rows) == 3 * len(of_part) for rows, of_part in zip(dealt, prompts, strict=True))


def test_the_deal_follows_the_seed() -> None:
    rows_of_trees = [[Row((i,), (1.0,), (0.0,))] for i in range(20)]

    assert split_by_prompt(rows_of_trees, 2, "a") == split_by_prompt(rows_of_trees, 2, "a")
    assert split_by_prompt(rows_of_trees, 2, "a") != split_by_prompt(rows_of_trees, 2, "b")
