"""Whether a class's features are two clusters rather than one: a second Gaussian with a covariance in common.

Features are whitened by the covariance within classes, so that a direction counts by how unusual it is for any class.
Natural classes have clusters too: a separate one is a candidate and nothing more.

Source: Tang et al. 2021, Demon in the Variant (SCAn), arXiv 1908.00686.
Differs from source: the covariance within classes is estimated on the suspected data, as no clean ones are asked for;
clusters are sought in the leading directions alone; and the null is a parametric bootstrap with heavy tails in place of
an index over classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit.api import FloatArray, IntArray
from probes.backdoor_data.config import FEWEST_CARRIERS

Matrix = npt.NDArray[np.float64]

DIRECTIONS = 4
"""Leading directions of a class's whitened features in which clusters are sought."""
STEPS = 25
SHRINK = 0.05
"""Share of the mean variance that is added to every direction before features are whitened."""
TAILS = (0.15, 0.5)
"""Shares of a direction's extreme images that searches begin with."""
WIDEST = 512
"""Features beyond so many are projected at random."""


def whitened(features: FloatArray, labels: IntArray, classes: int, rng: np.random.Generator) -> Matrix:
    """Features (n, d) less the means of their classes, with a covariance of about one within classes."""
    values = features.astype(np.float64)
    if values.shape[1] > WIDEST:
        values = values @ rng.standard_normal((values.shape[1], WIDEST)) / np.sqrt(WIDEST)
    for label in range(classes):
        rows = labels == label
        if rows.any():
            values[rows] -= values[rows].mean(axis=0)
    covariance = values.T @ values / len(values)
    level = np.trace(covariance) / len(covariance)
    if level <= 0:
        return values
    sizes, axes = np.linalg.eigh(covariance + SHRINK * level * np.eye(len(covariance)))
    found: Matrix = values @ axes / np.sqrt(sizes)
    return found


def leading(values: Matrix) -> Matrix:
    """The coordinates of centred rows along their directions of most variance."""
    count = min(DIRECTIONS, max(1, len(values) // 10), values.shape[1])
    _, axes = np.linalg.eigh(values.T @ values)
    found: Matrix = values @ axes[:, ::-1][:, :count]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Two clusters.

    Attributes:
        gain: log-likelihood per row that the second Gaussian adds to one.
        second: (n,) bool, rows of the smaller cluster.
    """

    gain: float
    second: npt.NDArray[np.bool_]


def split(rows: Matrix) -> Split:
    """The best of several searches, each begun with the extreme rows of a direction, that has no tiny cluster."""
    n = len(rows)
    none = Split(0.0, np.zeros(n, dtype=np.bool_))
    if n < 2 * FEWEST_CARRIERS or not rows.any():
        return none
    rows = rows - rows.mean(axis=0)
    floor = 1e-3 * float((rows**2).mean()) * np.eye(rows.shape[1])
    whole = rows.T @ rows / n
    spread = float(np.trace(np.linalg.solve(whole + floor, whole)))
    single = -0.5 * n * (float(np.linalg.slogdet(whole + floor)[1]) + spread)
    signed = np.concatenate([rows.T, -rows.T])
    begun = np.stack([ends > np.quantile(ends, 1 - tail) for ends in signed for tail in TAILS])
    best = none
    for likelihood, weights in zip(*_search(rows, begun.astype(np.float64), floor), strict=True):
        second = weights > 0.5 if weights.mean() <= 0.5 else weights <= 0.5
        gain = (likelihood - single) / n
        if FEWEST_CARRIERS <= second.sum() <= n - FEWEST_CARRIERS and gain > best.gain:
            best = Split(float(gain), second)
    return best


def _search(rows: Matrix, weights: Matrix, floor: Matrix) -> tuple[FloatArray, Matrix]:
    """Expectation maximisation of two Gaussians with one covariance, from several beginnings at once.

    Args:
        rows: (n, d), centred.
        weights: (searches, n) in [0, 1], of the second Gaussian.
        floor: (d, d), added to the covariance.

    Returns:
        Log-likelihoods (searches,) and weights (searches, n).
    """
    n, _ = rows.shape
    least = FEWEST_CARRIERS / n / 2
    likelihood = np.full(len(weights), -np.inf)
    for _ in range(STEPS):
        share = np.clip(weights.mean(axis=1), least, 1 - least)[:, None]
        offsets, logs, covariance = [], [], floor[None] * n
        for part in (1 - weights, weights):
            middle = part @ rows / np.maximum(part.sum(axis=1), 1e-9)[:, None]
            offset = rows[None] - middle[:, None]
            offsets.append(offset)
            covariance = covariance + np.swapaxes(offset * part[:, :, None], 1, 2) @ offset
        covariance = covariance / n
        inverse = np.linalg.inv(covariance)
        for part, offset in zip((1 - share, share), offsets, strict=True):
            logs.append(np.log(part) - 0.5 * ((offset @ inverse) * offset).sum(axis=2))
        total = np.logaddexp(*logs)
        weights = np.exp(logs[1] - total)
        likelihood = total.sum(axis=1) - 0.5 * n * np.linalg.slogdet(covariance)[1]
    return likelihood, weights


def null_gains(rows: Matrix, count: int, rng: np.random.Generator) -> FloatArray:
    """Gains of simulated classes of the same size and covariance without clusters, with tails as heavy: (count,)."""
    n, d = rows.shape
    rows = rows - rows.mean(axis=0)
    scale = np.sqrt(np.maximum((rows**2).mean(axis=0), 1e-12))
    excess = float(np.mean((rows / scale) ** 4)) - 3
    freedom = 4 + 6 / max(excess, 0.05)  # the kurtosis of Student's t
    drawn = []
    for _ in range(count):
        normal = rng.standard_normal((n, d)) * scale
        tails = np.sqrt((freedom - 2) / rng.chisquare(freedom, (n, 1)))
        drawn.append(split(normal * tails).gain)
    return np.array(drawn)
