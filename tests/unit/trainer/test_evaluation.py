"""What held-out problems are asked, and what their answers add up to."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.problem import Domain, Problem
from services.common.settings import load_settings
from services.common.tree import Tree
from services.common.verdict import Outcome
from services.trainer.evaluation import evaluate, evaluation_requests
from services.trainer.records import CategoryAccuracy
from services.trainer.rollouts import Rollout
from services.trainer.settings import TrainerSettings
from tests.builders import branch, tree

PROBLEMS = [Problem(f"p{i}", Domain.MATH, "?", "1", category="a" if i else "b") for i in range(3)]
RIGHT, WRONG, UNKNOWN = Outcome.CORRECT, Outcome.WRONG, Outcome.INFRA_ERROR


def settings(**changes: Any) -> TrainerSettings:
    needed = {"model": Path("m"), "output_dir": Path("o"), "train_data": Path("d"), "samplers": ["h:1"], "steps": 9}
    return load_settings(TrainerSettings, **needed | changes)


def answered(problem: int, temperature: float, *outcomes: Outcome) -> Tree:
    grown = tree(*(branch(i, None, 0, 2, outcome) for i, outcome in enumerate(outcomes)))
    return replace(grown, problem=PROBLEMS[problem], sampling=replace(grown.sampling, temperature=temperature))


def test_each_problem_is_asked_greedily_and_so_many_times_at_random() -> None:
    requests = evaluation_requests(PROBLEMS, settings(heldout_samples=4), version=7)

    assert [request.tree_id for request in requests] == [f"evaluation-00007/{i}" for i in range(6)]
    assert [request.problem for request in requests] == PROBLEMS * 2
    assert [request.search.chains for request in requests] == [1, 1, 1, 4, 4, 4]
    assert [request.sampling.temperature for request in requests] == [0, 0, 0, 1.2, 1.2, 1.2]
    assert len({request.sampling.seed for request in requests[3:]}) == 3
    assert {request.min_policy_version for request in requests} == {7}
    assert evaluation_requests(PROBLEMS, settings(), version=7) == requests[:3]


def test_figures_by_hand() -> None:
    trees = (
        *(answered(0, 0.0, RIGHT), answered(1, 0.0, WRONG), answered(2, 0.0, UNKNOWN)),
        *(answered(0, 1.2, RIGHT, WRONG, WRONG, WRONG), answered(1, 1.2, RIGHT, RIGHT, WRONG, WRONG)),
        answered(2, 1.2, WRONG, WRONG, UNKNOWN, UNKNOWN),
    )

    found = evaluate(7, Rollout(trees, (), 0.0, 0, 0))

    assert (found.problems, found.accuracy) == (2, 0.5)
    assert found.average == pytest.approx((1 / 4 + 1 / 2 + 0) / 3)
    # pass@2: 1 - C(3, 2) / C(4, 2) = 1/2, 1 - C(2, 2) / C(4, 2) = 5/6, 0; of the third problem two are known
    assert found.pass_at == pytest.approx({1: (1 / 4 + 1 / 2 + 0) / 3, 2: (1 / 2 + 5 / 6 + 0) / 3, 4: 1.0})
    assert found.categories == (CategoryAccuracy("a", 1, 0, 1 / 4), CategoryAccuracy("b", 1, 1, 1 / 4))


def test_without_drawn_responses_there_is_the_greedy_accuracy_alone() -> None:
    found = evaluate(0, Rollout((answered(0, 0.0, RIGHT),), (), 0.0, 0, 0))
    assert (found.accuracy, found.average, found.pass_at) == (1.0, 0.0, {})
