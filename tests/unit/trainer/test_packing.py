"""Rows, minibatches and microbatches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.verdict import Outcome
from services.trainer.advantages import weigh_tree
from services.trainer.packing import LossMean, Row, pack, split_by_prompt, tree_rows
from tests.builders import branch, tree


def test_a_row_is_a_path_with_the_weights_of_its_segments() -> None:
    graded = tree(branch(0, None, 0, 3, Outcome.CORRECT), branch(1, 0, 2, 2, Outcome.WRONG))
    weighted = weigh_tree(graded, "unweighted")
    shared, rest, forked = (piece.weight for piece in weighted.segments)

    rows = tree_rows(weighted)

    assert [row.token_ids for row in rows] == [(7, 8, 9, 0, 1, 2), (7, 8, 9, 0, 1, 100, 101)]
    assert [row.weights for row in rows] == [(shared, shared, rest), (shared, shared, forked, forked)]
    assert [row.engine_logprobs for row in rows] == [(-1.0,) * 3, (-1.0,) * 4]


def test_an_ungraded_leaf_gives_no_row() -> None:
    graded = tree(branch(0, None, 0, 3, Outcome.CORRECT), branch(1, None, 0, 2, Outcome.INFRA_ERROR))

    assert len(tree_rows(weigh_tree(graded, "treerl"))) == 1


def test_a_target_is_predicted_from_the_token_before_it() -> None:
    rows = [Row((1, 2, 3, 4), (0.5, 0.25), (-1.0, -2.0)), Row((5, 6, 7), (1.0, 2.0), (-3.0, -4.0))]

    (batch,) = pack(rows, token_budget=100, mean="token")

    assert batch.token_ids_rs.tolist() == [[1, 2, 3, 4], [5, 6, 7, 0]]
    assert batch.target_n.tolist() == [3, 4, 6, 7]
    assert batch.token_ids_rs.ravel()[batch.source_n].tolist() == [2, 3, 5, 6]
    assert batch.weight_n.tolist() == [0.5, 0.25, 1.0, 2.0]
    assert batch.engine_logprob_n.tolist() == [-1.0, -2.0, -3.0, -4.0]


def test_silent_rows_are_kept_apart() -> None:
    rows = [Row((1, 2), (0.0,), (-1.0,)), Row((1, 2, 3), (1.0,), (-1.0,)), Row((1, 2, 3), (0.0,), (-1.0,))]

    assert [(batch.silent, len(batch.token_ids_rs)) for batch in pack(rows, 100, "token")] == [(False, 1), (True, 2)]


@pytest.mark.parametrize(("mean", "shares"), [("token", [1 / 4] * 4), ("sequence", [1 / 6] * 3 + [1 / 2])])
def test_the_mean_is_over_tokens_or_over_responses(mean: LossMean, shares: list[float]) -> None:
    rows = [Row((1, 2, 3, 4), (1.0,) * 3, (-1.0,) * 3), Row((5, 6), (1.0,), (-1.0,))]

    (batch,) = pack(rows, 100, mean)

    assert batch.share_n.tolist() == pytest.approx(shares)


lengths_of_rows = st.lists(st.integers(2, 30), min_size=1, max_size=40)


@given(lengths_of_rows, st.integers(1, 100), st.sampled_from(["token", "sequence"]))
def test_packing_keeps_every_target_within_the_budget(lengths: list[int], budget: int, mean: LossMean) -> None:
    rows = [Row(tuple(range(n)), (1.0,) * (n - 1), (float(n),) * (n - 1)) for n in lengths]

    batches = pack(rows, budget, mean)

    assert all(batch.token_ids_rs.size <= budget or len(batch.token_ids_rs) == 1 for batch in batches)
    engine = np.concatenate([batch.engine_logprob_n for batch in batches])
    assert sum(batch.share_n.sum() for batch in batches) == pytest.approx(1, abs=1e-5)
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
