"""Accuracies and pass@k, from responses counted by hand."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.eval_responses import REFUSED, Response
from services.cli.eval_scores import by_category, pass_at_k, score


def response(problem: str, sample: int, outcome: str, category: str = "", finish: str = "STOP") -> Response:
    return Response("data", problem, category, sample, outcome, "", "", "", 10, finish, 0)


def drawn(problem: str, outcomes: str) -> list[Response]:
    """Drawn responses by letter: right, wrong, infra error."""
    names = {"r": "CORRECT", "w": "WRONG", "i": "INFRA_ERROR"}
    return [response(problem, number, names[letter]) for number, letter in enumerate(outcomes, start=1)]


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 0, 2) == 0
    assert pass_at_k(4, 1, 1) == pytest.approx(1 / 4)
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)  # of six pairs one holds both wrong responses
    assert pass_at_k(4, 3, 2) == 1  # no two are wrong
    assert pass_at_k(200, 1, 100) == pytest.approx(1 / 2)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_response(case: tuple[int, int, int]) -> None:
    count, correct, k = case
    subsets = list(combinations([True] * correct + [False] * (count - correct), k))
    assert pass_at_k(count, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_figures_are_means_over_problems() -> None:
    scores = score([*drawn("a", "rwww"), *drawn("b", "rrrr"), *drawn("c", "wwww")])
    assert scores.average is not None
    assert scores.average.value == pytest.approx((0.25 + 1 + 0) / 3)
    assert {k: figure.value for k, figure in scores.pass_at.items()} == pytest.approx(
        {1: (0.25 + 1 + 0) / 3, 2: (0.5 + 1 + 0) / 3, 4: 2 / 3}
    )
    assert scores.greedy is None
    assert scores.average.interval.low < scores.average.value < scores.average.interval.high


def test_what_the_grader_failed_on_is_left_out_and_counted() -> None:
    scores = score(
        [*drawn("a", "riii"), *drawn("b", "wwri"), response("a", 0, "INFRA_ERROR"), response("b", 0, "WRONG")]
    )
    assert scores.average is not None
    assert scores.average.value == pytest.approx((1 + 1 / 3) / 2)
    assert scores.pass_at[3].problems == 1  # of a there is one graded response alone
    assert scores.greedy is not None
    assert (scores.greedy.value, scores.greedy.problems) == (0.0, 1)
    assert scores.ungraded == 5


def test_a_problem_of_which_nothing_was_graded_has_no_share_in_the_mean() -> None:
    scores = score([*drawn("a", "rr"), *drawn("b", "ii")])
    assert scores.average is not None
    assert (scores.average.value, scores.average.problems, scores.problems) == (1.0, 1, 2)


def test_a_refused_prompt_is_not_solved() -> None:
    scores = score([response("a", 0, "CORRECT"), response("b", 0, REFUSED)])
    assert scores.greedy is not None
    assert (scores.greedy.value, scores.refused) == (0.5, 1)


def test_categories_have_figures_of_their_own() -> None:
    responses = [
        response("a", 0, "CORRECT", "algebra"),
        response("b", 0, "WRONG", "algebra", "LENGTH"),
        response("c", 0, "CORRECT", "geometry"),
        response("d", 0, "CORRECT"),
    ]
    groups = by_category(responses)
    assert {name: scores.greedy and scores.greedy.value for name, scores in groups.items()} == {
        "algebra": 0.5,
        "geometry": 1.0,
    }
    assert (groups["algebra"].cut, groups["algebra"].tokens) == (1, 20)
