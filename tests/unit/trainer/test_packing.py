"""Minibatches and microbatches."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.tree import Tree
from services.common.verdict import Outcome
from services.trainer.advantages import weigh_tree
from services.trainer.packing import LossMean, Microbatch, pack, split_by_prompt
from services.trainer.rows import Packing, Row, sequence_row, tree_rows
from tests.builders import branch, tree
from tests.strategies import trees

packings = st.sampled_from(["tree", "flat"])
means = st.sampled_from(["token", "sequence"])


def weighted_row(prompt: Sequence[int], response: Sequence[int], weights: Sequence[float]) -> Row:
    return replace(sequence_row(prompt, response), weight_n=np.array(weights, dtype=np.float32))


def test_a_target_is_predicted_from_the_token_before_it() -> None:
    rows = [weighted_row([1, 2], [3, 4], [0.5, 0.25]), weighted_row([5], [6, 7], [1.0, 2.0])]

    (batch,) = pack(rows, "flat", 100, "token")

    assert batch.token_ids_rs.tolist() == [[1, 2, 3, 4], [5, 6, 7, 0]]
    assert batch.target_n.tolist() == [3, 4, 6, 7]
    assert batch.token_ids_rs.ravel()[batch.source_n].tolist() == [2, 3, 5, 6]
    assert batch.weight_n.tolist() == [0.5, 0.25, 1.0, 2.0]
    assert batch.layout is None


def test_chains_of_a_tree_share_its_prompt() -> None:
    # chain 0 forked at 1, and chain 2; prompts are 7, 8, 9
    graded = tree(
        branch(0, None, 0, 2, Outcome.CORRECT), branch(1, 0, 1, 1, Outcome.WRONG), branch(2, None, 0, 2, Outcome.WRONG)
    )
    rows = tree_rows(weigh_tree(graded, "treerl"), "tree")

    (batch,) = pack([*rows, weighted_row([6], [5], [1.0])], "tree", 100, "token")

    assert batch.token_ids_rs.tolist() == [[7, 8, 9, 0, 1, 100, 200, 201, 6, 5]]
    assert batch.source_n.tolist() == [2, 3, 3, 2, 6, 8]
    assert batch.target_n.tolist() == [0, 1, 100, 200, 201, 5]
    assert batch.responses_n.tolist() == [2, 1, 1, 1, 1, 1]
    assert batch.layout is not None
    assert batch.layout.position_s.tolist() == [0, 1, 2, 3, 4, 4, 3, 4, 0, 1]
    assert batch.layout.end_s.tolist() == [8, 8, 8, 6, 5, 6, 8, 8, 10, 10]
    assert batch.layout.chains == ((0, 3, 3, 6), (0, 3, 6, 8), (8, 9, 9, 10))


def test_a_prompt_is_repeated_where_its_tree_does_not_fit() -> None:
    rows = [weighted_row([1, 2], [3, 4], [1.0, 1.0]), weighted_row([1, 2], [5, 6], [1.0, 1.0])]

    assert [batch.token_ids_rs.tolist() for batch in pack(rows, "tree", 6, "token")] == [[[1, 2, 3, 4, 5, 6]]]
    assert [batch.token_ids_rs.tolist() for batch in pack(rows, "tree", 5, "token")] == [[[1, 2, 3, 4]], [[1, 2, 5, 6]]]


@pytest.mark.parametrize("packing", ["tree", "flat"])
def test_silent_rows_are_kept_apart(packing: Packing) -> None:
    rows = [weighted_row([1], [2], [0.0]), weighted_row([1], [2, 3], [1.0, 1.0]), weighted_row([1], [2, 3], [0.0, 0.0])]

    batches = pack(rows, packing, 100, "token")

    assert [(batch.silent, len(batch.share_m)) for batch in batches] == [(False, 1), (True, 2)]


@pytest.mark.parametrize(("mean", "shares"), [("token", [1 / 4] * 4), ("sequence", [1 / 6] * 3 + [1 / 2])])
@pytest.mark.parametrize("packing", ["tree", "flat"])
def test_the_mean_is_over_tokens_or_over_responses(packing: Packing, mean: LossMean, shares: list[float]) -> None:
    rows = [weighted_row([1], [2, 3, 4], [1.0] * 3), weighted_row([5], [6], [1.0])]

    (batch,) = pack(rows, packing, 100, mean)

    assert batch.share_n.tolist() == pytest.approx(shares)


def test_a_shared_token_counts_as_in_every_response_that_it_is_part_of() -> None:
    # responses of 2 and 4 tokens that share their first
    graded = tree(branch(0, None, 0, 2, Outcome.CORRECT), branch(1, 0, 1, 3, Outcome.WRONG))
    rows = tree_rows(weigh_tree(graded, "treerl"), "tree")

    (by_token,), (by_response,) = pack(rows, "tree", 100, "token"), pack(rows, "tree", 100, "sequence")

    assert by_token.share_n.tolist() == pytest.approx([2 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 6])
    assert by_response.share_n.tolist() == pytest.approx([1 / 4 + 1 / 8, 1 / 4, 1 / 8, 1 / 8, 1 / 8])


@given(st.lists(trees(), min_size=1, max_size=3), st.integers(1, 60), means)
def test_both_packings_hold_the_same_tokens_of_responses(step: list[Tree], budget: int, mean: LossMean) -> None:
    weighted = [weigh_tree(replace(t, prompt_token_ids=(1000 + i, 1)), "treerl") for i, t in enumerate(step)]

    packed, flat = (
        [
            token
            for batch in pack([row for t in weighted for row in tree_rows(t, packing)], packing, budget, mean)
            for token in tokens_of_responses(batch)
        ]
        for packing in ("tree", "flat")
    )

    assert [(response, weight) for response, weight, _ in sorted(packed)] == [
        (response, weight) for response, weight, _ in sorted(flat)
    ]
    assert [share for *_, share in sorted(packed)] == pytest.approx([share for *_, share in sorted(flat)])
    assert sum(share for *_, share in packed) == pytest.approx(1 if packed else 0)


def tokens_of_responses(batch: Microbatch) -> list[tuple[tuple[int, ...], float, float]]:
    """Each token of each response: the path that leads to it, its weight, and its part in the mean."""
    tokens = batch.token_ids_rs.ravel()
    found = []
    for response, share in enumerate(batch.share_m):
        path: tuple[int, ...] = ()
        for n in np.flatnonzero((batch.first_n <= response) & (response < batch.past_n)):
            path = path or (int(tokens[batch.source_n[n] - 1]), int(tokens[batch.source_n[n]]))
            assert tokens[batch.source_n[n]] == path[-1]
            path = (*path, int(batch.target_n[n]))
            found.append((path, float(batch.weight_n[n]), float(share)))
    return found


@given(st.lists(st.integers(1, 29), min_size=1, max_size=40), st.integers(1, 100), packings)
def test_packing_keeps_every_target_within_the_budget(lengths: list[int], budget: int, packing: Packing) -> None:
    rows = [weighted_row([i], range(n), [float(n)] * n) for i, n in enumerate(lengths)]

    batches = pack(rows, packing, budget, "token")

    assert all(batch.token_ids_rs.size <= budget or len(batch.share_m) == 1 for batch in batches)
    weights = np.concatenate([batch.weight_n for batch in batches])
    assert sorted(weights.tolist()) == sorted(float(n) for n in lengths for _ in range(n))


@pytest.mark.parametrize(("trees_in_all", "parts", "sizes"), [(5, 2, [2, 3]), (4, 2, [2, 2]), (1, 3, [1])])
def test_prompts_are_dealt_evenly_and_whole(trees_in_all: int, parts: int, sizes: list[int]) -> None:
    rows_of_trees = [[sequence_row([i], [1])] * 3 for i in range(trees_in_all)]

    dealt = split_by_prompt(rows_of_trees, parts, "seed")

    prompts = [{row.prompt_token_ids for row in rows} for rows in dealt]
    assert sorted(len(of_part) for of_part in prompts) == sizes
    assert len(set.union(*prompts)) == trees_in_all
    for rows in dealt:  # rows of a tree stay next to each other
        together = [len(list(group)) for _, group in groupby(rows, lambda row: row.prompt_token_ids)]
        assert together == [3] * (len(rows) // 3)


def test_the_deal_follows_the_seed() -> None:
    rows_of_trees = [[sequence_row([i], [1])] for i in range(20)]

    assert split_by_prompt(rows_of_trees, 2, "a") == split_by_prompt(rows_of_trees, 2, "a")
    assert split_by_prompt(rows_of_trees, 2, "a") != split_by_prompt(rows_of_trees, 2, "b")
