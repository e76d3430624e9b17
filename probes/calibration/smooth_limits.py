"""The interval of SmoothECE: the l1 limits of `intervals`, taken at every bandwidth."""

from __future__ import annotations

import numpy as np

from audit.api import Interval
from probes.calibration import smooth
from probes.calibration.intervals import L1_METHOD, Noise, l1_low
from probes.calibration.scores import Floats, Ints, TopLabel


def smooth_interval(noise: Noise, value: float) -> Interval:
    """Interval of SmoothECE: the fixed points of the l1 limits at every bandwidth.

    If the limits hold at the true fixed point s, then s = smECE_s <= limit(s) and, as limit(s) - s falls, s lies below
    the limit's own fixed point; likewise above the smallest s that the lower limit does not exceed. So the level is
    kept although the bandwidth is found from the data.
    """
    fine = smooth.residual_spectrum(noise.top)
    margin = noise.margin
    high = smooth.fixed_point(lambda sigma: min(smooth.smooth_ece_at(fine, sigma) + margin, 1.0))
    high = min(max(high, noise.gap_high, value), 1.0)
    low = 0.0 if _smooth_null_reaches(noise, value) else _smooth_low(noise, value)
    return Interval(low=min(low, value), high=high, level=noise.level, method=L1_METHOD)


def _smooth_null_reaches(noise: Noise, value: float) -> bool:
    """Whether more than a tail of the calibrated draws have a SmoothECE of at least `value`."""
    cells, mass = _cells(noise.top)
    starts = smooth.grid_starts(noise.top.confidence)
    grid = np.zeros((len(noise.null.hits), smooth.COARSE_GRID))
    grid[:, cells] = (mass - noise.null.in_bins(starts)) / len(noise.top)
    at_value = np.abs(smooth.smoothed(smooth.spectrum(grid), max(value, 1e-6))).sum(axis=1)
    return bool(np.mean(at_value >= value) > noise.tail)


def _cells(top: TopLabel) -> tuple[Ints, Floats]:
    starts = smooth.grid_starts(top.confidence)
    cells = smooth.grid_cells(top.confidence)[starts]
    return cells, np.add.reduceat(top.confidence, starts)


def _smooth_low(noise: Noise, value: float) -> float:
    """Smallest bandwidth that the lower limit at that bandwidth does not exceed, found from below."""
    top, n = noise.top, len(noise.top)
    residual = (top.confidence - top.correct) / n
    cells = smooth.grid_cells(top.confidence)
    variance = np.bincount(cells, residual**2, smooth.COARSE_GRID)
    mean = smooth.spectrum(np.bincount(cells, residual, smooth.COARSE_GRID).astype(np.float64))
    draws = smooth.spectrum(noise.normal[:, : smooth.COARSE_GRID] * np.sqrt(variance))

    def excess(sigma: float) -> float:
        simulated = smooth.smoothed(draws, sigma)
        return l1_low(smooth.smoothed(mean, sigma), simulated.std(axis=0), simulated, noise.tail, n) - sigma

    reached, passed = 0.0, value
    for sigma in np.geomspace(value / 64, value, 13):
        if excess(float(sigma)) <= 0:
            passed = float(sigma)
            break
        reached = float(sigma)
    for _ in range(5 if reached > 0 else 0):
        middle = (reached + passed) / 2
        reached, passed = (middle, passed) if excess(middle) > 0 else (reached, middle)
    return reached
