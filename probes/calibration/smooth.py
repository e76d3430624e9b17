"""SmoothECE: the calibration error of kernel-smoothed residuals, at the bandwidth that equals it.

r_s(t) = 1/n sum_i K_s(t, c_i) (c_i - a_i) with the Gaussian kernel reflected at 0 and 1, smECE_s = integral of |r_s|;
the value is the s with smECE_s = s.

The reflected kernel on cell midpoints is diagonal in the cosine basis (DCT-II), with eigenvalues exp(-(pi k s)^2 / 2),
so that one smoothing costs O(M log M) after samples were put on a grid of M cells, whatever n is.

Source: Blasiok & Nakkiran 2024 (ICLR), arXiv:2309.12236, sections 3 and 4.
Differs from source: grid and cosine transform; no logit scaling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.fft import dct, idct
from scipy.optimize import brentq

from probes.calibration.scores import Floats, Ints, TopLabel

GRID = 8192
"""Cells for the value: a bandwidth of 0.001 spans eight."""
COARSE_GRID = 1024
"""Cells for simulated noise."""


def on_grid(confidence: Floats, mass: Floats, cells: int = GRID) -> Floats:
    """Mass at the confidences shared linearly between the two nearest cell midpoints, (cells,)."""
    place = np.clip(confidence * cells - 0.5, 0, cells - 1)
    left = np.minimum(place.astype(np.int64), cells - 2)
    share = place - left
    spread = np.bincount(left, mass * (1 - share), cells) + np.bincount(left + 1, mass * share, cells)
    return spread.astype(np.float64)


def grid_starts(confidence: Floats, cells: int = COARSE_GRID) -> Ints:
    """Starts of the non-empty cells among ascending confidences."""
    return np.flatnonzero(np.r_[True, np.diff(grid_cells(confidence, cells)) > 0]).astype(np.int64)


def grid_cells(confidence: Floats, cells: int = COARSE_GRID) -> Ints:
    """Number of the cell that each confidence lies in, (n,)."""
    return np.minimum((confidence * cells).astype(np.int64), cells - 1)


def spectrum(mass: Floats) -> Floats:
    """Cosine coefficients of masses on a grid, along the last axis."""
    return np.asarray(dct(mass, type=2, norm="ortho", axis=-1), dtype=np.float64)


def smoothed(coefficients: Floats, sigma: float) -> Floats:
    """Masses after smoothing with the reflected Gaussian of width sigma (0 < sigma, in units of confidence)."""
    frequency = np.pi * np.arange(coefficients.shape[-1])
    return np.asarray(idct(coefficients * np.exp(-0.5 * (frequency * sigma) ** 2), type=2, norm="ortho", axis=-1))


def residual_spectrum(top: TopLabel, cells: int = GRID) -> Floats:
    """Cosine coefficients of (c_i - a_i) / n on the grid, (cells,)."""
    return spectrum(on_grid(top.confidence, (top.confidence - top.correct) / len(top), cells))


def smooth_ece_at(coefficients: Floats, sigma: float) -> float:
    """Integral of |r_sigma|, in [0, 1]; falls as sigma grows."""
    return float(np.abs(smoothed(coefficients, sigma)).sum())


def fixed_point(error: Callable[[float], float], least: float = 2.0 / GRID) -> float:
    """The s with error(s) = s, for a non-increasing error on (0, 1]; error(least) where it is already below least."""
    if error(least) <= least:
        return error(least)
    if error(1.0) >= 1.0:
        return 1.0
    return float(brentq(lambda sigma: error(sigma) - sigma, least, 1.0, xtol=1e-9))


def smooth_ece(top: TopLabel) -> float:
    """SmoothECE at its fixed point, in [0, 1]."""
    coefficients = residual_spectrum(top)
    return fixed_point(lambda sigma: smooth_ece_at(coefficients, sigma))
