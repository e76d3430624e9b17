"""Calibration errors over bins of the confidence.

Bins are half-open to the left, (a, b]: a confidence of exactly 1 falls into the last one. Bins are contiguous stretches
of the sorted confidences and depend on their values alone: equal confidences always share a bin, so that no estimate
depends on the order of the samples. Bins without samples are left out.

Source: Naeini et al. 2015 (ECE, MCE), Guo et al. 2017 arXiv:1706.04599 section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probes.calibration.scores import Floats, Ints, TopLabel

MOST_SWEEP_BINS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """What fell into each of m non-empty bins, in ascending order of confidence.

    Attributes:
        starts: position of each bin's first sample among the sorted confidences, (m,).
        count: samples, (m,), all positive.
        confidence: mean confidence, (m,).
        accuracy: share of hits, (m,).
        variance: of `signed`, (m,): the larger of what was seen and what calibration would make of the confidences.
    """

    starts: Ints
    count: Ints
    confidence: Floats
    accuracy: Floats
    variance: Floats

    @property
    def weight(self) -> Floats:
        """Share of the samples, (m,)."""
        return np.asarray(self.count / self.count.sum(), dtype=np.float64)

    @property
    def difference(self) -> Floats:
        """Mean confidence minus accuracy in each bin, (m,)."""
        return self.confidence - self.accuracy

    @property
    def signed(self) -> Floats:
        """Share times difference: its absolute values add up to the ECE, its values to the confidence gap, (m,)."""
        return self.weight * self.difference


def equal_width(confidence: Floats, bins: int) -> Ints:
    """Starts of the non-empty bins ((b-1)/bins, b/bins] among ascending confidences."""
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1)
    return np.flatnonzero(np.r_[True, np.diff(place) > 0]).astype(np.int64)


def equal_mass(confidence: Floats, bins: int) -> Ints:
    """Starts of bins with (nearly) the same number of ascending confidences each.

    Source: Nixon et al. 2019, arXiv:1904.01685 (adaptive binning).
    Differs from source: equal confidences are not torn apart; a bin keeps all that equal its largest one, so that with
    many ties there are fewer bins.
    """
    n = len(confidence)
    bins = max(1, min(bins, n))
    small, extra = divmod(n, bins)
    starts = np.cumsum(np.r_[0, np.full(bins - 1, small) + (np.arange(bins - 1) < extra)]).astype(np.int64)
    moved = starts[1:]
    torn = confidence[moved - 1] == confidence[moved]
    moved = np.where(torn, np.searchsorted(confidence, confidence[moved], side="right"), moved)
    return np.unique(np.r_[0, moved[moved < n]]).astype(np.int64)


def summarise(top: TopLabel, starts: Ints) -> Bins:
    """Counts, means and noise of each bin."""
    n = len(top)
    count = np.diff(np.r_[starts, n])
    confidence = np.add.reduceat(top.confidence, starts) / count
    accuracy = np.add.reduceat(top.correct, starts) / count
    weight = count / n
    seen = np.add.reduceat((top.confidence - top.correct) ** 2, starts) / n - (weight * (confidence - accuracy)) ** 2
    calibrated = np.add.reduceat(top.confidence * (1 - top.confidence), starts) / n
    return Bins(starts, count, np.clip(confidence, 0, 1), accuracy, np.maximum(seen, calibrated) / n)


def ece(bins: Bins) -> float:
    """Expected calibration error, l1: sum over bins of share times |accuracy - confidence|, in [0, 1]."""
    return float(np.abs(bins.signed).sum())


def rms(bins: Bins) -> float:
    """The l2 form: root of the sum of share times squared difference, in [0, 1]; at least the ECE."""
    return float(np.sqrt((bins.weight * bins.difference**2).sum()))


def debiased_rms(bins: Bins) -> float:
    """The l2 form without the noise's share, clipped at 0.

    Source: Kumar et al. 2019, arXiv:1909.10155, definition 5.1 and section 5.
    Differs from source: a bin with a single sample contributes its squared difference undiminished.
    """
    noise = bins.accuracy * (1 - bins.accuracy) / np.maximum(bins.count - 1, 1) * (bins.count > 1)
    return float(np.sqrt(max((bins.weight * (bins.difference**2 - noise)).sum(), 0.0)))


def sweep(top: TopLabel) -> Bins:
    """Equal-mass bins, as many as keep the accuracy non-decreasing: M grows until the first violation.

    Source: Roelofs et al. 2022, arXiv:2012.08668, algorithm 1.
    Differs from source: never more than `MOST_SWEEP_BINS`; ties as in `equal_mass`.
    """
    n = len(top)
    hits = np.r_[0.0, np.cumsum(top.correct)]
    best = np.zeros(1, dtype=np.int64)
    for number in range(2, min(n, MOST_SWEEP_BINS) + 1):
        starts = equal_mass(top.confidence, number)
        edges = np.r_[starts, n]
        accuracy = np.diff(hits[edges]) / np.diff(edges)
        if np.any(np.diff(accuracy) < 0):
            break
        best = starts
    return summarise(top, best)
