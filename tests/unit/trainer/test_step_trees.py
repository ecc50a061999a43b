"""Which trees a step trains on, and what it asks instead of the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.problem import Domain, Problem
from services.common.settings import load_settings
from services.common.tree import Tree, VersionSpan
from services.common.verdict import Outcome
from services.trainer.dataset import Dataset, Source
from services.trainer.rollouts import Rollout, step_requests
from services.trainer.settings import TrainerSettings
from services.trainer.step_trees import refill_problems, sort_out
from tests.builders import branch, tree

PROBLEMS = tuple(Problem(f"p{i}", Domain.MATH, "?", "1") for i in range(20))
DATASET = Dataset((Source("", tuple(PROBLEMS)),), seed=0)


def settings(**changes: Any) -> TrainerSettings:
    needed = {"model": Path("m"), "output_dir": Path("o"), "train_data": Path("d"), "samplers": ["h:1"], "steps": 9}
    return load_settings(TrainerSettings, **needed | {"prompts_per_step": 4, "mismatch_correction": "token"} | changes)


def sampled(
    name: str, *spans: tuple[int, int], outcomes: tuple[Outcome, ...] = (Outcome.CORRECT, Outcome.WRONG)
) -> Tree:
    """A tree of one chain for each outcome; the first was sampled by the given (policy version, tokens)."""
    first = branch(0, None, 0, sum(tokens for _, tokens in spans), outcomes[0])
    first = replace(first, versions=tuple(VersionSpan(version, tokens) for version, tokens in spans))
    others = [
        replace(branch(i, None, 0, 2, outcome), versions=(VersionSpan(9, 2),))
        for i, outcome in enumerate(outcomes[1:], start=1)
    ]
    return replace(tree(first, *others), tree_id=name)


def rollout(*trees: Tree) -> Rollout:
    return Rollout(trees, (), 0.0, 0, 0)


@pytest.mark.parametrize(
    ("lag", "trained", "stale"), [(0, ["now"], ["mixed", "one", "two"]), (1, ["now", "mixed", "one"], ["two"])]
)
def test_a_tree_with_a_token_of_too_old_weights_is_dropped(lag: int, trained: list[str], stale: list[str]) -> None:
    came = rollout(
        sampled("now", (9, 4)), sampled("mixed", (9, 1), (8, 2), (9, 1)), sampled("one", (8, 4)), sampled("two", (7, 4))
    )

    trees = sort_out([came], settings(max_policy_lag=lag), step=10)  # it trains version 9

    assert [t.tree_id for t in trees.trained] == trained
    assert [t.tree_id for t in trees.stale] == stale


def test_trees_without_a_difference_in_reward_are_left_out_if_they_are_to_be_replaced() -> None:
    right, wrong, unknown = Outcome.CORRECT, Outcome.WRONG, Outcome.INFRA_ERROR
    came = rollout(
        sampled("mixed", (9, 2)),
        sampled("right", (9, 2), outcomes=(right, right)),
        sampled("wrong", (9, 2), outcomes=(wrong, wrong, unknown)),
        sampled("unknown", (9, 2), outcomes=(unknown,)),
    )

    assert len(sort_out([came], settings(), 10).trained) == 4
    replaced = sort_out([came], settings(uniform_trees="replace"), 10)
    assert [t.tree_id for t in replaced.trained] == ["mixed"]
    assert [t.tree_id for t in replaced.uniform] == ["right", "wrong", "unknown"]


@pytest.mark.parametrize(("lag", "oldest"), [(0, 4), (1, 3), (3, 1), (9, 0)])
def test_requests_carry_the_bound_on_the_age_of_weights(lag: int, oldest: int) -> None:
    requests = step_requests(PROBLEMS[:2], settings(max_policy_lag=lag), step=5)
    assert {request.min_policy_version for request in requests} == {oldest}


def test_a_refill_has_names_and_seeds_of_its_own() -> None:
    first, refill = (step_requests(PROBLEMS[:1], settings(), step=5, refill=number)[0] for number in (0, 1))
    assert (first.tree_id, refill.tree_id) == ("step-00005/0", "step-00005.1/0")
    assert first.sampling.seed != refill.sampling.seed


def test_problems_of_two_sources_that_have_one_id_are_two() -> None:
    sources = tuple(
        Source(name, tuple(Problem(str(row), Domain.MATH, f"{name} {row}", "1") for row in range(2))) for name in "ab"
    )
    dataset = Dataset(sources, seed=0)
    asked = dataset.problems_for_step(1, 1)

    problems = refill_problems(dataset, settings(max_refills=4), 1, asked)

    assert {p.prompt for p in [*asked, *problems]} == {"a 0", "a 1", "b 0", "b 1"}


def test_refills_ask_what_the_step_has_not_asked_and_depend_on_seed_and_step_alone() -> None:
    asked = DATASET.problems_for_step(3, 4)

    problems = refill_problems(DATASET, settings(), 3, asked)

    ids = [problem.id for problem in problems]
    assert len(set(ids)) == len(ids) > 4
    assert not set(ids) & {problem.id for problem in asked}
    assert refill_problems(DATASET, settings(), 3, asked) == problems
    assert refill_problems(DATASET, settings(), 4, asked) != problems
    assert refill_problems(DATASET, settings(seed=1), 3, asked) != problems
    # after the first refill the others keep their order
    assert refill_problems(DATASET, settings(), 3, [*asked, *problems[:2]]) == problems[2:]
