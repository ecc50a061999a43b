"""The demo's problem sets: disjoint, repeatable, in the schema, and with gold answers that grade as right."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from services.demo.exercise import Exercise, habit_combinations, right_habits
from services.demo.grading import is_correct
from services.demo.problems import (
    LARGEST_RESULT,
    Split,
    draw_exercises,
    generate_problems,
    problem_of,
    split_of,
    write_problems,
)


@pytest.fixture(scope="module", params=list(Split))
def exercises(request: pytest.FixtureRequest) -> list[Exercise]:
    return list(islice(draw_exercises(request.param, Random(7)), 60))


def test_splits_share_no_problem_whatever_the_seeds() -> None:
    prompts = {
        split: {problem["prompt"] for seed in range(2) for problem in generate_problems(split, 80, seed)}
        for split in Split
    }
    assert not prompts[Split.TRAIN] & prompts[Split.HELDOUT]
    assert not prompts[Split.TRAIN] & prompts[Split.DEV]
    assert not prompts[Split.DEV] & prompts[Split.HELDOUT]


@pytest.mark.parametrize("split", list(Split))
def test_every_problem_hashes_to_its_own_split(split: Split) -> None:
    assert {split_of(problem["prompt"]) for problem in generate_problems(split, 60, seed=1)} == {split}


def test_problems_depend_on_the_seed_alone() -> None:
    assert generate_problems(Split.TRAIN, 40, seed=3) == generate_problems(Split.TRAIN, 40, seed=3)
    assert generate_problems(Split.TRAIN, 40, seed=3) != generate_problems(Split.TRAIN, 40, seed=4)


def test_a_set_repeats_no_problem_and_keeps_the_mix() -> None:
    problems = generate_problems(Split.HELDOUT, 480, seed=0)
    assert len({problem["prompt"] for problem in problems}) == len({problem["id"] for problem in problems}) == 480
    assert Counter(problem["domain"] for problem in problems)["code"] == pytest.approx(120, abs=6)


def test_right_habits_solve_their_problem(exercises: list[Exercise]) -> None:
    for exercise in exercises:
        assert is_correct(problem_of(exercise), exercise.response(right_habits(exercise)))


def test_no_wrong_habit_goes_unseen(exercises: list[Exercise]) -> None:
    for exercise in exercises:
        _, *wrong = habit_combinations(exercise)
        assert wrong
        for habits in wrong:
            assert not is_correct(problem_of(exercise), exercise.response(habits))


def test_numbers_survive_json(exercises: list[Exercise]) -> None:
    for exercise, habits in ((exercise, right_habits(exercise)) for exercise in exercises):
        assert max(map(abs, exercise.outcome(habits))) <= LARGEST_RESULT


def test_categories_name_the_domain_and_the_tempting_operations(exercises: list[Exercise]) -> None:
    for exercise in exercises:
        tempting = {step.operation.name for step in exercise.steps if step.operation.is_tempting}
        assert problem_of(exercise)["category"].split("+") == [exercise.domain, *sorted(tempting)]


def test_written_files_hold_the_schema(tmp_path: Path) -> None:
    train_path, heldout_path = write_problems(tmp_path / "problems", seed=5, train_count=24, heldout_count=12)
    train, heldout = (list(map(json.loads, path.read_text().splitlines())) for path in (train_path, heldout_path))
    assert (train_path.name, heldout_path.name) == ("train.jsonl", "heldout.jsonl")
    assert train == generate_problems(Split.TRAIN, 24, seed=5)
    assert heldout == generate_problems(Split.HELDOUT, 12, seed=5)
    for problem in train + heldout:
        graded_by = {"math": "answer", "code": "tests"}[problem["domain"]]
        assert problem.keys() == {"id", "domain", "prompt", "category", graded_by}


def test_answers_are_never_right_for_another_problem_by_format_alone() -> None:
    problem = problem_of(next(draw_exercises(Split.TRAIN, Random(0))))
    for response in ("", "\\boxed{}", f"\\boxed{{{problem['answer']}", f"{problem['answer']}"):
        assert not is_correct(problem, response)


def test_splits_are_drawn_alike() -> None:
    """Held-out problems must be neither easier nor harder: the number of tempting operations is spread the same."""
    shares = []
    for split in (Split.TRAIN, Split.HELDOUT):
        counts = Counter(problem["category"].count("+") for problem in generate_problems(split, 240, seed=2))
        shares.append([counts[operations] / 240 for operations in range(1, 4)])
    assert shares[0] == pytest.approx(shares[1], abs=0.12)
