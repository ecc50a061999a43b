"""The learning rate of each step."""

from pathlib import Path
from typing import Any

import pytest

from services.common.settings import load_settings
from services.trainer.learning_rate import learning_rate
from services.trainer.settings import TrainerSettings


def rates(**changes: Any) -> list[float]:
    """Of every step of a run of 9 steps, in units of a thousandth."""
    folder = {key: Path("x") for key in ("model", "output_dir", "train_data")}
    settings = load_settings(TrainerSettings, **folder, samplers=["h:1"], steps=9, learning_rate=8e-3, **changes)
    return [learning_rate(step, settings) * 1e3 for step in range(1, 10)]


def test_a_constant_rate_is_the_same_from_the_first_step_to_the_last() -> None:
    assert rates() == pytest.approx([8] * 9)


def test_a_linear_rate_falls_by_the_same_amount_each_step() -> None:
    assert rates(learning_rate_schedule="linear") == pytest.approx([8, 7, 6, 5, 4, 3, 2, 1, 0])


def test_a_cosine_rate_falls_along_half_a_wave() -> None:
    # (1 + cos(pi p)) / 2 at p = 0, 1/4, 1/2, 3/4, 1 is 1, 0.8535534, 1/2, 0.1464466, 0
    found = rates(learning_rate_schedule="cosine", min_learning_rate=4e-3)
    assert found[::2] == pytest.approx([8, 4 + 4 * 0.8535534, 6, 4 + 4 * 0.1464466, 4])


@pytest.mark.parametrize(
    ("schedule", "after"), [("constant", [8] * 5), ("linear", [8, 7, 6, 5, 4]), ("cosine", [8, None, 6, None, 4])]
)
def test_a_warm_up_comes_first(schedule: str, after: list[float | None]) -> None:
    found = rates(learning_rate_schedule=schedule, warmup_steps=5, min_learning_rate=4e-3)

    assert found[:4] == pytest.approx([1.6, 3.2, 4.8, 6.4])
    for rate, expected in zip(found[4:], after, strict=True):
        assert expected is None or rate == pytest.approx(expected)


def test_a_warm_up_may_take_the_whole_run() -> None:
    found = rates(learning_rate_schedule="cosine", warmup_steps=9)
    assert found == pytest.approx([8 * step / 9 for step in range(1, 10)])
