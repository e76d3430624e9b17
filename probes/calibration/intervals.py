"""Intervals for calibration errors, valid at 0 as well as away from it.

A calibration error is a norm of a vector d = delta + noise: delta is what the bins hold in truth, the noise is that of
n samples. Noise never cancels in a norm, so the plug-in value is biased upward, most so for a calibrated model, and the
bootstrap, whose resamples carry the noise twice, fails exactly there: at delta = 0 the norm has a kink, where the
ordinary bootstrap is inconsistent. So no resampling is used; the two sides follow from convexity.

High: |delta + noise|_1 >= |delta|_1 + sum sign(delta) noise, so the truth exceeds the plug-in value by at most a sum of
fixed signs times noise, a mean-zero normal variable with variance below E(c-a)^2 / n: plug-in + z * standard error.
Low: |delta + noise|_1 <= |delta|_1 + |noise|_1, so the truth is at least plug-in minus a quantile of |noise|_1. Where a
bin's sign is beyond doubt (|d| > sqrt(ln n) standard errors) the noise enters with that sign instead of as |noise|,
which restores sharpness for plainly miscalibrated models. Where the plug-in value is no larger than what the exact null
(labels drawn from the confidences) shows, low is 0.

Both tails have at most (1 - level)/2 whatever the truth, as far as sums over bins are normal: the interval is too wide
rather than too narrow, most so for calibrated models, and it always holds the plug-in value. Exact limits
(`gap_high`, the null) take over where few errors make normal theory void.

Source: the failure of the bootstrap at 0: Andrews 2000, Econometrica 68(2); bins with a sure sign: the generalised
moment selection of Andrews & Soares 2010, Econometrica 78(1); two regimes, calibrated or not, for the l2 error: Sun,
Chaudhari, Barnett & Dobriban 2024, arXiv:2408.08998.
Differs from source: the l1 bounds are derived here from convexity; for l2 the family is inverted by simulation in place
of a normal approximation. Coverage is measured in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from audit.api import Interval
from audit.toolkit.statistics import lower_limit, upper_limit
from probes.calibration import binned
from probes.calibration.binned import Bins
from probes.calibration.null import NullDraws
from probes.calibration.scores import Floats, TopLabel

L1_METHOD = "convexity-bounds"
L2_METHOD = "parametric-inversion"


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """What the intervals of one set of confidences share.

    Attributes:
        top: the sorted confidences and hits.
        null: draws under calibration; its atoms refine every partition that is asked for.
        normal: standard normal draws (draws, at least as many columns as bins or cells).
        level: two-sided confidence.
    """

    top: TopLabel
    null: NullDraws
    normal: Floats
    level: float

    @property
    def tail(self) -> float:
        """Probability that may lie beyond either end."""
        return (1 - self.level) / 2

    @property
    def standard_error(self) -> float:
        """Of a sum of bins with fixed signs; from the larger of the seen and the calibrated second moment of c - a."""
        seen = float(np.mean((self.top.confidence - self.top.correct) ** 2))
        calibrated = float(np.mean(self.top.confidence * (1 - self.top.confidence)))
        return float(np.sqrt(max(seen, calibrated) / len(self.top)))

    @property
    def margin(self) -> float:
        """How far the truth may exceed a plug-in l1 value."""
        return float(ndtri(1 - self.tail)) * self.standard_error

    @property
    def gap_high(self) -> float:
        """Upper limit of |mean confidence - accuracy|, exact given the confidences; every calibration error exceeds it.

        Keeps the high end honest where few errors (or none) were seen and normal theory is void.
        """
        n, hits = len(self.top), round(float(self.top.correct.sum()))
        side, mean = 1 - self.tail, float(self.top.confidence.mean())
        return max(mean - lower_limit(hits, n, side), upper_limit(hits, n, side) - mean, 0.0)


def l1_low(signed: Floats, deviation: Floats, draws: Floats, tail: float, n: int) -> float:
    """Lower limit of the l1 norm of the mean of `signed`, without the check against the exact null.

    Args:
        signed: observed vector, (m,).
        deviation: standard deviation of each entry, (m,).
        draws: simulated noise of the vector, (draws, m).
        tail: probability of exceeding the truth.
        n: samples behind it.
    """
    sure = np.abs(signed) > np.sqrt(np.log(max(n, 2))) * deviation
    noise = draws[:, sure] @ np.sign(signed[sure]) + np.abs(draws[:, ~sure]).sum(axis=1)
    return max(0.0, float(np.abs(signed).sum() - np.quantile(noise, 1 - tail)))


def ece_interval(bins: Bins, noise: Noise, exact_null: bool = True) -> Interval:
    """Interval of a binned ECE (for these bins), within [0, 1].

    Args:
        bins: the bins of `noise.top`.
        noise: shared draws.
        exact_null: whether the null's draws can be counted in these bins; False for bins chosen by the outcomes.
    """
    value, deviation = binned.ece(bins), np.sqrt(bins.variance)
    low = l1_low(bins.signed, deviation, noise.normal[:, : len(deviation)] * deviation, noise.tail, len(noise.top))
    if exact_null and value <= np.quantile(noise.null.ece(bins), 1 - noise.tail):
        low = 0.0
    high = max(value + noise.margin, noise.gap_high)
    return Interval(low=min(low, value), high=min(high, 1.0), level=noise.level, method=L1_METHOD)


def debiased_interval(bins: Bins, noise: Noise) -> Interval:
    """Interval of the l2 calibration error over these bins: all amounts that the plug-in l2 norm does not contradict.

    The family is delta = amount * observed direction with normal noise of the bins' variances; for the high end the
    noise along that direction is taken as large as in the noisiest bin, as the direction is uncertain. The low end is 0
    where the exact null is not rejected.
    """
    scale = 1 / np.sqrt(bins.weight)
    deviation = np.sqrt(bins.variance) * scale
    observed = bins.signed * scale
    value = float(np.linalg.norm(observed))
    direction = observed / value if value > 0 else np.zeros_like(observed)
    draws = noise.normal[:, : len(scale)] * deviation
    along, square = draws @ direction, (draws**2).sum(axis=1)

    spread = float(np.linalg.norm(deviation * direction))
    widest = along * (float(deviation.max()) / spread if spread > 0 else 1.0)

    def quantile(amount: float, linear: Floats, q: float) -> float:
        return float(np.quantile(amount**2 + 2 * amount * linear + square, q)) - value**2

    low = _root(lambda amount: quantile(amount, along, 1 - noise.tail))
    high = _root(lambda amount: quantile(amount, widest, noise.tail))
    if value <= np.quantile(noise.null.rms(bins), 1 - noise.tail):
        low = 0.0
    high = min(max(high, noise.gap_high, binned.debiased_rms(bins)), 1.0)
    return Interval(low=min(low, high), high=high, level=noise.level, method=L2_METHOD)


def _root(function: Callable[[float], float]) -> float:
    """Where an increasing function of an amount in [0, 1] crosses 0; the nearer end where it does not."""
    if function(0.0) >= 0:
        return 0.0
    return 1.0 if function(1.0) <= 0 else float(brentq(function, 0.0, 1.0, xtol=1e-6))


def mce_interval(bins: Bins, level: float) -> Interval:
    """Interval of the largest |mean confidence - accuracy| over these bins, from each bin's Clopper-Pearson interval.

    High: the largest of the bins' limits at `level`; the truly worst bin is one of them, so no correction is needed.
    Low: the largest of the limits at a level corrected for the number of bins and both signs (Bonferroni).
    """
    tail = (1 - level) / 2
    low = high = 0.0
    for n, confidence, accuracy in zip(bins.count, bins.confidence, bins.accuracy, strict=True):
        hits, strict = round(float(accuracy * n)), 1 - tail / (2 * len(bins.count))
        most, least = upper_limit(hits, int(n), 1 - tail), lower_limit(hits, int(n), 1 - tail)
        high = max(high, most - confidence, confidence - least)
        low = max(low, confidence - upper_limit(hits, int(n), strict), lower_limit(hits, int(n), strict) - confidence)
    return Interval(low=low, high=min(high, 1.0), level=level, method="clopper-pearson+bonferroni")
