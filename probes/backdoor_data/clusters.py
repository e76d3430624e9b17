"""Clusters of a network's features that stand apart within a class, and whether their content agrees with the class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit.api import FloatArray, IntArray
from probes.backdoor_data.config import FEWEST_IN_CLASS, GAIN, BackdoorDataConfig
from probes.backdoor_data.content import Agreement, Content, agreement
from probes.backdoor_data.mixture import Matrix, leading, null_gains, split, whitened
from probes.backdoor_data.samples import Samples

MOSTLY = 0.35
"""A smaller cluster of more than this share of a class may be the class itself; content then decides which is odd."""


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """Images of one class whose features stand apart.

    Attributes:
        label: the class.
        rows: of the samples, those in the cluster, the farthest from the rest first; of a tile's carriers, ascending.
        gain: log-likelihood an image that the second Gaussian adds; NaN where features did not show the group.
        null: the largest gain of simulated classes without clusters; NaN there too.
        agreement: of the images' content with the class.
    """

    label: int
    rows: IntArray
    gain: float
    null: float
    agreement: Agreement


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """What splitting found.

    Attributes:
        gains: (classes,) of every class; NaN where it has too few images.
        clusters: those that stand apart, or whose content is not of the class, the most separate first; each by more
            than any simulated class without clusters.
        values: whitened features (n, d), less the means of classes.
        content: coarse content of the images.
    """

    gains: FloatArray
    clusters: list[Cluster]
    values: Matrix
    content: Content


def separate(
    samples: Samples, features: FloatArray, content: Content, config: BackdoorDataConfig, rng: np.random.Generator
) -> Splits:
    """Splits every class that has enough images, and looks closely at the most separate."""
    labels = samples.labels
    values = whitened(features, labels, samples.classes, rng)
    gains = np.full(samples.classes, np.nan)
    halves: dict[int, npt.NDArray[np.bool_]] = {}
    for label in range(samples.classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) >= FEWEST_IN_CLASS:
            found = split(leading(values[rows]))
            gains[label], halves[label] = found.gain, found.second
    odd: list[tuple[int, IntArray, Agreement]] = []
    for label, half in halves.items():
        if half.any():
            odd.append((label, *_odd_one(np.flatnonzero(labels == label), half, content, label, rng)))
    worth = [each for each in odd if gains[each[0]] >= GAIN or each[2].contradicts]
    worth.sort(key=lambda each: -float(gains[each[0]]))
    clusters = []
    for label, second, agreed in worth[: config.groups]:
        rows = np.flatnonzero(labels == label)
        nulls = null_gains(leading(values[rows]), config.bootstrap, rng)
        if gains[label] > nulls.max():
            ordered = _ordered(values, second, rows)
            clusters.append(Cluster(label, ordered, float(gains[label]), float(nulls.max()), agreed))
    return Splits(gains, clusters, values, content)


def _odd_one(
    rows: IntArray, half: npt.NDArray[np.bool_], content: Content, label: int, rng: np.random.Generator
) -> tuple[IntArray, Agreement]:
    """The smaller cluster; where both are large, the one whose content is less like the class."""
    second = rows[half]
    agreed = agreement(content, second, label, rng)
    if half.mean() > MOSTLY:
        other = agreement(content, rows[~half], label, rng)
        if other.group < agreed.group:
            return rows[~half], other
    return second, agreed


def _ordered(values: Matrix, second: IntArray, rows: IntArray) -> IntArray:
    rest = np.setdiff1d(rows, second)
    away = values[second].mean(axis=0) - values[rest].mean(axis=0)
    found: IntArray = second[np.argsort(-(values[second] @ away), kind="stable")]
    return found
