"""Percentile bootstrap over samples, for what is smooth in the data: means and areas, not calibration errors.

Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from audit.api import Interval
from probes.calibration.scores import Floats

METHOD = "bootstrap-percentile"


def replicates(
    columns: Floats,
    areas: Callable[[npt.NDArray[np.int64]], tuple[float, float]],
    draws: int,
    rng: np.random.Generator,
) -> Floats:
    """Means of the columns and both areas in each resample, (draws, number of columns + 2).

    Args:
        columns: (n, c), one row a sample.
        areas: two statistics of a resample, given how often it takes each sample (n,).
        draws: number of resamples.
        rng: source of the resampling.
    """
    n, width = columns.shape
    found = np.empty((draws, width + 2))
    for row in range(draws):
        weights = np.bincount(rng.integers(0, n, n), minlength=n)
        found[row, :width] = weights @ columns / n
        found[row, width:] = areas(weights)
    return found


def percentile_interval(values: Floats, estimate: float, level: float) -> Interval:
    """Percentiles of the replicates, stretched to hold the estimate."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=min(float(low), estimate), high=max(float(high), estimate), level=level, method=METHOD)
