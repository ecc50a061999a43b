"""Intervals are those of the resampled mean, and the same every time."""

from itertools import product
from statistics import fmean

import pytest

from services.cli.bootstrap import mean_interval


def test_values_that_agree_have_no_spread() -> None:
    interval = mean_interval([0.25] * 8)
    assert (interval.low, interval.high) == pytest.approx((0.25, 0.25))


def test_the_ends_are_quantiles_of_the_mean_of_prompts_drawn_with_replacement() -> None:
    # one in ten: the number drawn is binomial(10, 0.1); P(0) = 0.349, P(<= 2) = 0.930, P(<= 3) = 0.987
    interval = mean_interval([1.0] + [0.0] * 9)
    assert (interval.low, interval.high) == pytest.approx((0.0, 0.3))


def test_every_resample_of_a_few_values_is_within_reach() -> None:
    # of the 27 equally likely resamples of three values one gives the least mean and one the greatest: 3.7 % each
    values = [-1.0, 0.0, 4.0]
    means = [fmean(drawn) for drawn in product(values, repeat=3)]
    interval = mean_interval(values)
    assert (interval.low, interval.high) == pytest.approx((min(means), max(means)))


def test_the_same_values_give_the_same_interval() -> None:
    values = [float(number % 7) for number in range(50)]
    assert mean_interval(values) == mean_interval(values)
