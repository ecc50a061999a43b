"""When engine and trainer are too far apart, and which sampler is to blame."""

from dataclasses import replace
from math import inf, nan

import pytest
import torch

from services.common.errors import MismatchError
from services.common.tree import Tree, VersionSpan
from services.common.verdict import Outcome
from services.trainer.advantages import weigh_tree
from services.trainer.loss import TokenScores
from services.trainer.mismatch import Mismatch, Source, check_mismatch, measure_mismatch
from services.trainer.packing import pack
from services.trainer.records import StepMetrics
from services.trainer.rows import Packing, tree_rows
from tests.builders import branch, tree

FRESH, OLD = Source("a", on_policy=True), Source("a", on_policy=False)


def earlier(*steps: tuple[float, int]) -> list[StepMetrics]:
    """Steps with a mismatch and a staleness each."""
    blank = StepMetrics(**dict.fromkeys(StepMetrics.__slots__, 0))  # type: ignore[arg-type]
    return [
        replace(blank, mismatch_mean_abs_logprob_diff=mismatch, staleness=staleness) for mismatch, staleness in steps
    ]


@pytest.mark.parametrize(
    ("source", "mean_abs", "steps"),
    [
        (FRESH, 0.009, []),  # the tolerance
        (FRESH, 0.19, [(0.05, 0), (0.04, 0), (0.04, 0), (9.0, 0)]),  # 5 x the median of the first three
        (FRESH, 0.19, [(0.05, 0), (9.0, 1), (0.04, 0), (0.04, 0)]),  # of those on policy
        (OLD, 3.0, [(0.001, 0), (0.001, 0), (0.001, 0), (0.001, 0)]),  # how fast the policy learns is not yet known
        (OLD, 1.4, [(0.001, 0), (0.3, 1), (0.3, 1), (0.3, 2)]),
    ],
)
def test_allowed(source: Source, mean_abs: float, steps: list[tuple[float, int]]) -> None:
    check_mismatch(9, Mismatch(0.0, 0.0, {source: mean_abs}), earlier(*steps), multiple=5.0, tolerance=0.01)


@pytest.mark.parametrize(
    ("source", "mean_abs", "steps"),
    [
        (FRESH, 0.011, []),
        (FRESH, 0.21, [(0.05, 0), (0.04, 0), (0.04, 0)]),
        (FRESH, 0.011, [(0.3, 1), (0.3, 1), (0.3, 1)]),  # what older weights may differ by is no excuse
        (FRESH, nan, []),
        (OLD, 1.6, [(0.3, 1), (0.3, 1), (0.3, 2)]),
        (OLD, nan, []),
        (OLD, inf, [(0.3, 1), (0.3, 1), (0.3, 1)]),
    ],
)
def test_refused(source: Source, mean_abs: float, steps: list[tuple[float, int]]) -> None:
    mismatch = Mismatch(0.0, 0.0, {Source("b", on_policy=True): 0.001, source: mean_abs})

    with pytest.raises(MismatchError, match=r"step 9: .* sampler a samples from other weights than it says"):
        check_mismatch(9, mismatch, earlier(*steps), multiple=5.0, tolerance=0.01)


def test_a_tolerance_for_single_tokens_is_not_one_for_their_mean() -> None:
    with pytest.raises(MismatchError, match="allowed are 0.1"):
        check_mismatch(1, Mismatch(0.0, 0.0, {FRESH: 0.2}), [], multiple=5.0, tolerance=0.3)


@pytest.mark.parametrize("packing", ["tree", "flat"])
def test_the_difference_is_measured_by_sampler_and_by_age_of_the_weights(packing: Packing) -> None:
    def sampled(sampler: str, old_branch: int) -> Tree:
        """A chain of 4 tokens, from whose 2nd on another response of 3 was forked; one of the two by old weights."""
        branches = [branch(0, None, 0, 4, Outcome.CORRECT), branch(1, 0, 1, 2, Outcome.WRONG)]
        branches[1 - old_branch] = replace(
            branches[1 - old_branch], versions=(VersionSpan(7, len(branches[1 - old_branch].token_ids)),)
        )
        return replace(tree(*branches), tree_id=sampler, sampler=sampler)

    rows = [row for t in (sampled("a", 1), sampled("b", 0)) for row in tree_rows(weigh_tree(t, "treerl"), packing)]
    batches = pack(rows, packing, 1000, "token")

    # the engine says -1 everywhere: token 100 i + j of branch i differs by j, more by 1 if sampled by b
    def score(position: int) -> TokenScores:
        batch = batches[position]
        by_b = [batch.samplers[row] == "b" for row in batch.row_n]
        logprob_n = torch.tensor([float(t % 100 + b) for t, b in zip(batch.target_n, by_b, strict=True)]) - 1
        return TokenScores(logprob_n, logprob_n, logprob_n)

    mismatch = measure_mismatch(batches, [score(p) for p in range(len(batches))], policy_version=7)

    # the chain's first token is in both responses and counts twice
    assert mismatch.of_source == pytest.approx(
        {
            Source("a", on_policy=True): (0 + 0 + 1 + 2 + 3) / 5,
            Source("a", on_policy=False): (0 + 1) / 2,
            Source("b", on_policy=True): (1 + 2) / 2,
            Source("b", on_policy=False): (1 + 1 + 2 + 3 + 4) / 5,
        }
    )
    assert mismatch.mean_abs == pytest.approx((6 + 1 + 3 + 11) / 14)
