import pytest

from services.cli.shares import Share, difference_interval


def test_wilson_interval_matches_the_published_example() -> None:
    # 81 of 263: Newcombe (1998), Statistics in Medicine 17, table I, method 3
    interval = Share(81, 263).interval
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("share", [Share(0, 20), Share(20, 20), Share(0, 0)])
def test_intervals_stay_within_zero_and_one(share: Share) -> None:
    assert 0.0 <= share.interval.low <= share.value or share.total == 0
    assert share.interval.high <= 1.0


def test_difference_interval_matches_the_published_example() -> None:
    # 56/70 against 48/80: Newcombe (1998), Statistics in Medicine 17, table II (a), method 10
    interval = difference_interval(before=Share(48, 80), after=Share(56, 70))
    assert (interval.low, interval.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_shares_add_up() -> None:
    assert Share(1, 2) + Share(3, 4) == Share(4, 6)
