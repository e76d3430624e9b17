"""Confident learning: which given labels out-of-sample probabilities contradict, and how many.

Source: Northcutt, Jiang & Chuang 2021, sections 3.1 and 3.2, arXiv 1911.00068.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit.api import FloatArray, IntArray

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Confident:
    """What confident learning says of given labels.

    Attributes:
        thresholds: (k,) the mean probability of a class over the images labelled with it; NaN where there are none.
        counts: (k, k) int64, the confident joint: images labelled i (row) that confidently are of class j (column).
        joint: (k, k), the same calibrated to the numbers of labels, as shares of all images; sums to 1.
        suspects: (n,) bool, as many of each pair of classes as the joint says, those with the largest margins.
        margin: (n,) probability of the label less that of the likeliest other class; low is suspicious.
    """

    thresholds: Floats
    counts: IntArray
    joint: Floats
    suspects: Mask
    margin: Floats

    @property
    def rate(self) -> float:
        """Share of labels off the diagonal of the joint; of hard images too, where the network is mediocre."""
        return float(1 - np.trace(self.joint))


def probabilities(logits: FloatArray) -> Floats:
    """Softmax of finite logits (n, k), in float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    raised = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    found: Floats = raised / raised.sum(axis=1, keepdims=True)
    return found


def confident_learning(given: Floats, labels: IntArray) -> Confident:
    """By probabilities (n, k) of networks that did not see the image, and the labels (n,) in question."""
    n, classes = given.shape
    sizes = np.bincount(labels, minlength=classes)
    sums = np.zeros(classes)
    np.add.at(sums, labels, given[np.arange(n), labels])
    thresholds = np.divide(sums, sizes, out=np.full(classes, np.nan), where=sizes > 0)
    counts = _counts(given, labels, thresholds)
    joint = _calibrated(counts, sizes)
    return Confident(thresholds, counts, joint, _suspects(given, labels, joint), margins(given, labels))


def margins(given: Floats, labels: IntArray) -> Floats:
    """Probability of the label less that of the likeliest other class, in [-1, 1]: the normalised margin."""
    rows = np.arange(len(labels))
    others = given.copy()
    others[rows, labels] = -np.inf
    found: Floats = given[rows, labels] - others.max(axis=1)
    return found


def _counts(given: Floats, labels: IntArray, thresholds: Floats) -> IntArray:
    """Equation 1: an image counts for the likeliest of the classes whose threshold it reaches; for none, if none."""
    above = given >= np.where(np.isnan(thresholds), np.inf, thresholds)
    likeliest = np.where(above, given, -np.inf).argmax(axis=1)
    counted = above.any(axis=1)
    counts = np.zeros((given.shape[1],) * 2, dtype=np.int64)
    np.add.at(counts, (labels[counted], likeliest[counted]), 1)
    return counts


def _calibrated(counts: IntArray, sizes: IntArray) -> Floats:
    """Equation 3: rows as large as the labels' numbers; a row without any count is taken to be all right."""
    kept = counts.astype(np.float64)
    empty = kept.sum(axis=1) == 0
    kept[empty, empty] = 1.0
    found: Floats = kept / kept.sum(axis=1, keepdims=True) * sizes[:, None] / sizes.sum()
    return found


def _suspects(given: Floats, labels: IntArray, joint: Floats) -> Mask:
    """Prune by noise rate (section 3.2): of every pair i, j the images labelled i with the largest p_j - p_i."""
    n, classes = given.shape
    found = np.zeros(n, dtype=np.bool_)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        for other in range(classes):
            count = int(np.rint(n * joint[label, other])) if other != label else 0
            if count:
                apart = given[places, other] - given[places, label]
                found[places[np.argsort(-apart, kind="stable")[:count]]] = True
    return found
