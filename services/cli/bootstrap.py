"""Intervals by the bootstrap over prompts: what another set of prompts would have given, the policy being the same."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from services.cli.shares import Interval

RESAMPLES: Final = 10_000
SEED: Final = 0


def mean_interval(values: Sequence[float]) -> Interval:
    """95 % interval of the mean of one value a prompt (percentile bootstrap; Efron and Tibshirani 1993, section 13.3).

    For a paired comparison the values are differences. Each call draws the same prompts.
    """
    means = _resamples(len(values)) @ np.asarray(values) / len(values)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(low), float(high))


@lru_cache(maxsize=1)
def _resamples(prompts: int) -> npt.NDArray[np.float64]:
    """How often each prompt is in each resample: (RESAMPLES, prompts)."""
    counts = np.random.default_rng(SEED).multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES)
    return counts.astype(np.float64)
