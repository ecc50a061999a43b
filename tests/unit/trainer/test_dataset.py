"""Which problems a step asks, and from which source."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.problem import Domain, Problem
from services.trainer.dataset import Dataset, Source, draws

PROBLEMS = tuple(Problem(str(i), Domain.MATH, "?", "1") for i in range(10))

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=5)


def single(problems: tuple[Problem, ...], seed: int) -> Dataset:
    return Dataset((Source("", problems),), seed)


def mixture(seed: int = 0, **weights: float) -> Dataset:
    """A source of ten problems for each name; their ids begin with it."""
    sources = (
        Source(name, tuple(Problem(f"{name}{i}", Domain.MATH, "?", "1") for i in range(10)), weight)
        for name, weight in weights.items()
    )
    return Dataset(tuple(sources), seed)


def origins(data: Dataset, step: int, count: int) -> str:
    return "".join(problem.id[0] for problem in data.problems_for_step(step, count))


def test_every_epoch_visits_every_problem_once_in_a_new_order() -> None:
    data = single(PROBLEMS, seed=0)

    epochs = [
        [problem.id for step in (first, first + 1) for problem in data.problems_for_step(step, 5)] for first in (1, 3)
    ]

    assert all(sorted(epoch) == sorted(problem.id for problem in PROBLEMS) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_step_depends_on_seed_and_step_alone() -> None:
    data = single(PROBLEMS, 0)
    later_first = [data.problems_for_step(step, 4) for step in (7, 1)]
    assert later_first == [single(PROBLEMS, 0).problems_for_step(step, 4) for step in (7, 1)]
    assert single(PROBLEMS, 0).problems_for_step(1, 10) != single(PROBLEMS, 1).problems_for_step(1, 10)


def test_a_step_may_span_epochs() -> None:
    assert len(single(PROBLEMS[:3], 0).problems_for_step(2, 8)) == 8


def test_sources_take_turns_by_weight() -> None:
    # turns of a (weight 3): 1/6, 3/6, 5/6, 7/6, …; of b (weight 1): 1/2, 3/2, …; equal turns go to a, which comes first
    assert origins(mixture(a=3, b=1), 1, 8) == "aabaaaba"
    assert [origins(mixture(a=3, b=1), step, 3) for step in (1, 2, 3)] == ["aab", "aaa", "baa"]


def test_each_source_goes_through_all_its_problems_before_it_repeats_one() -> None:
    data = mixture(a=2, b=1)
    asked = Counter(problem.id for step in range(1, 7) for problem in data.problems_for_step(step, 5))
    assert {count for name, count in asked.items() if name.startswith("a")} == {2}
    assert {count for name, count in asked.items() if name.startswith("b")} == {1}


def test_sources_of_one_size_are_not_visited_in_one_order() -> None:
    asked = mixture(a=1, b=1).problems_for_step(1, 20)
    orders = [[problem.id[1:] for problem in asked if problem.id.startswith(name)] for name in "ab"]
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("weights", "total", "expected"),
    [
        ([1], 7, [7]),
        ([1, 1], 3, [2, 1]),
        ([3, 1], 4, [3, 1]),
        ([53, 24, 23], 7, [3, 2, 2]),  # Webster and largest remainders differ here: the latter give [4, 2, 1] of 7
        ([0.5, 0.25, 0.25], 8, [4, 2, 2]),
    ],
)
def test_draws_by_hand(weights: list[float], total: int, expected: list[int]) -> None:
    assert draws([Fraction(weight) for weight in weights], total) == expected


@given(WEIGHTS, st.integers(0, 300))
def test_draws_add_up_and_none_is_ever_taken_back(weights: list[float], total: int) -> None:
    exact = [Fraction(weight) for weight in weights]
    before, after = draws(exact, total), draws(exact, total + 1)
    assert sum(before) == total
    assert sorted(later - earlier for earlier, later in zip(before, after, strict=True)) == [0] * (len(exact) - 1) + [1]


@given(WEIGHTS, st.integers(1, 300))
def test_the_longest_wait_of_a_source_is_that_of_its_weight(weights: list[float], total: int) -> None:
    exact = [Fraction(weight) for weight in weights]
    for weight, count in zip(exact, draws(exact, total), strict=True):
        assert abs(count - total * weight / sum(exact)) <= Fraction(len(exact), 2)
