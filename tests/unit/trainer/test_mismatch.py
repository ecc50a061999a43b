"""When engine and trainer are too far apart."""

import pytest

from services.common.errors import MismatchError
from services.trainer.mismatch import Mismatch, check_mismatch


@pytest.mark.parametrize(
    ("mean_abs", "earlier"),
    [
        (0.09, []),  # always allowed
        (0.09, [0.001, 0.001, 0.001]),
        (0.19, [0.05, 0.04, 0.04, 9.0]),  # 5 x the median of the first three
    ],
)
def test_allowed(mean_abs: float, earlier: list[float]) -> None:
    check_mismatch(Mismatch(0.0, mean_abs), earlier, 5.0, ["a:1"])


@pytest.mark.parametrize(
    ("mean_abs", "earlier"),
    [(0.11, []), (0.11, [0.01, 0.01, 0.01]), (0.21, [0.05, 0.04, 0.04]), (float("nan"), [0.01, 0.01, 0.01])],
)
def test_refused(mean_abs: float, earlier: list[float]) -> None:
    with pytest.raises(MismatchError, match=rf"step {len(earlier) + 1}: .* a:1, b:2 one samples"):
        check_mismatch(Mismatch(0.0, mean_abs), earlier, 5.0, ["a:1", "b:2"])
