"""Reading problems, and which of them a step asks."""

import json
from pathlib import Path

import pytest

from services.common.errors import ConfigurationError
from services.common.problem import Domain, Problem
from services.trainer.dataset import Dataset, read_problems

ROW = {"id": "a", "domain": "math", "prompt": "1+1=", "answer": "2"}
PROBLEMS = tuple(Problem(str(i), Domain.MATH, "?", "1") for i in range(10))


def test_every_epoch_visits_every_problem_once_in_a_new_order() -> None:
    data = Dataset(PROBLEMS, seed=0)

    epochs = [
        [problem.id for step in (first, first + 1) for problem in data.problems_for_step(step, 5)] for first in (1, 3)
    ]

    assert all(sorted(epoch) == sorted(problem.id for problem in PROBLEMS) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_step_depends_on_seed_and_step_alone() -> None:
    assert Dataset(PROBLEMS, 0).problems_for_step(7, 4) == Dataset(PROBLEMS, 0).problems_for_step(7, 4)
    assert Dataset(PROBLEMS, 0).problems_for_step(1, 10) != Dataset(PROBLEMS, 1).problems_for_step(1, 10)


def test_a_step_may_span_epochs() -> None:
    assert len(Dataset(PROBLEMS[:3], 0).problems_for_step(2, 8)) == 8


def test_reads_problems_and_passes_over_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n" + json.dumps(ROW | {"id": "b"}) + "\n")

    assert [problem.id for problem in read_problems(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        ("{", r":2: not JSON"),
        ("[]", r":2: expected a JSON object, got list"),
        (json.dumps({"id": "b", "domain": "math", "prompt": "?"}), r":2: .*needs 'answer'"),
        (json.dumps(ROW), r":2: id 'a' was taken by line 1"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, second_line: str, message: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + second_line + "\n")

    with pytest.raises(ConfigurationError, match=message):
        read_problems(path)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read data file"):
        read_problems(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ConfigurationError, match="holds no problem"):
        read_problems(tmp_path / "empty.jsonl")
