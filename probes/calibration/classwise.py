"""Classwise calibration error, and calibration within each predicted class.

Source: Kull et al. 2019, arXiv:1910.12656, section 2 (classwise ECE); Gupta & Ramdas 2022, arXiv:2107.08353 (top-label
calibration: conditional on the predicted class).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from audit.api import Interval
from probes.calibration.scores import Floats, Ints, Logits, Scores, chunks


@dataclass(frozen=True, slots=True, eq=False)
class ClasswiseCells:
    """Every class's probabilities in equal-width bins, over n samples.

    Attributes:
        signed: sum of (p_k - [y = k]) / n in each cell, (K, bins).
        seen: second moment of the same, (K, bins).
        calibrated: sum of p_k (1 - p_k) / n in each cell, (K, bins).
    """

    signed: Floats
    seen: Floats
    calibrated: Floats

    @property
    def value(self) -> float:
        """Classwise ECE: the mean over classes of each one's ECE, in [0, 1]."""
        return float(np.abs(self.signed).sum() / len(self.signed))


def cells(logits: Logits, labels: Ints, bins: int) -> ClasswiseCells:
    """Sums over equal-width, right-closed bins of each class's probability; memory does not grow with n."""
    n, classes = logits.shape
    first, square, hits, hit_p = (np.zeros(classes * bins) for _ in range(4))
    offset = np.arange(classes) * bins
    for rows in chunks(n, classes):
        p = logits[rows].astype(np.float64)
        p -= p.max(axis=1, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        cell = np.clip(np.ceil(p * bins).astype(np.int64) - 1, 0, bins - 1) + offset
        first += np.bincount(cell.ravel(), p.ravel(), classes * bins)
        square += np.bincount(cell.ravel(), (p * p).ravel(), classes * bins)
        own = (np.arange(len(p)), labels[rows])
        hits += np.bincount(cell[own], minlength=classes * bins)
        hit_p += np.bincount(cell[own], p[own], classes * bins)
    parts = (first - hits, square - 2 * hit_p + hits, first - square)
    signed, seen, calibrated = (part.reshape(classes, bins) / n for part in parts)
    return ClasswiseCells(signed, np.maximum(seen, 0), np.maximum(calibrated, 0))


def interval(found: ClasswiseCells, scores: Scores, level: float) -> Interval:
    """Interval of the classwise ECE, valid whatever the dependence between classes.

    As in `intervals`, by convexity: any signed sum of cells moves by at most 2 (1 - p_y) / K a sample, so its standard
    error s is known without the K^2 covariances. High: value + z s. Low: value less the mean of the noise's l1 norm and
    less s sqrt(2 ln(1/tail)), the Gaussian concentration of a norm. The mean noise of a cell is the smaller of the
    normal's sqrt(2/pi) sigma and twice its variance (rare events).

    Source: Boucheron, Lugosi & Massart 2013, Concentration Inequalities, theorem 5.8 (suprema of Gaussian processes).
    """
    n, classes, tail = len(scores), len(found.signed), (1 - level) / 2
    error = float(np.sqrt(np.mean((2 * (1 - np.exp(-scores.nll))) ** 2) / n)) / classes
    variance = np.maximum(found.seen, found.calibrated)
    noise = np.minimum(np.sqrt(2 / np.pi * variance / n) * 1.1, 2 * variance).sum() / classes
    low = found.value - float(noise) - error * float(np.sqrt(2 * np.log(1 / tail)))
    high = found.value + float(ndtri(1 - tail)) * error
    return Interval(low=max(low, 0.0), high=min(high, 1.0), level=level, method="convexity-bounds")


@dataclass(frozen=True, slots=True)
class PredictedClass:
    """Samples that were given one label.

    Attributes:
        label: the class.
        n: samples.
        confidence: their mean confidence.
        hits: how many were right.
    """

    label: int
    n: int
    confidence: float
    hits: int

    @property
    def gap(self) -> float:
        """Mean confidence minus accuracy."""
        return self.confidence - self.hits / self.n


def by_predicted_class(scores: Scores, classes: int, least: int = 30) -> list[PredictedClass]:
    """Classes that were predicted at least `least` times, the largest gap first."""
    count = np.bincount(scores.predicted, minlength=classes)
    confidence = np.bincount(scores.predicted, scores.confidence, classes)
    hits = np.bincount(scores.predicted, scores.correct.astype(np.float64), classes)
    rows = [
        PredictedClass(int(label), int(count[label]), float(confidence[label] / count[label]), round(hits[label]))
        for label in np.flatnonzero(count >= least)
    ]
    return sorted(rows, key=lambda row: -abs(row.gap))
