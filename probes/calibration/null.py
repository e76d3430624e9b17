"""What a perfectly calibrated model with the same confidences would show at this number of samples.

Source: Brocker & Smith 2007, Weather and Forecasting 22(3), "Increasing the reliability of reliability diagrams"
(consistency resampling). Differs from source: the confidences are kept and only the outcomes drawn, so that the test is
exact given the confidences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from probes.calibration.binned import Bins
from probes.calibration.scores import Floats, Ints

CHUNK_DRAWS = 2**21


@dataclass(frozen=True, slots=True, eq=False)
class NullDraws:
    """Hits that were drawn as if every confidence were true.

    Attributes:
        atoms: starts of the finest stretches of sorted confidences that were counted, (a,).
        hits: hits in each stretch in each draw, (draws, a).
        total: number of samples n.
    """

    atoms: Ints
    hits: npt.NDArray[np.int32]
    total: int

    def in_bins(self, starts: Ints) -> Floats:
        """Hits in each bin of a coarser partition, (draws, m)."""
        hits = np.add.reduceat(self.hits, np.searchsorted(self.atoms, starts), axis=1)
        return np.asarray(hits, dtype=np.float64)

    def signed(self, bins: Bins) -> Floats:
        """Each bin's share times (mean confidence - accuracy) in each draw, (draws, m)."""
        expected = bins.count * bins.confidence
        return np.asarray((expected - self.in_bins(bins.starts)) / self.total, dtype=np.float64)

    def ece(self, bins: Bins) -> Floats:
        """ECE of each draw over these bins, (draws,)."""
        return np.asarray(np.abs(self.signed(bins)).sum(axis=1))

    def rms(self, bins: Bins) -> Floats:
        """The l2 form of each draw, (draws,)."""
        return np.asarray(np.sqrt((self.signed(bins) ** 2 / bins.weight).sum(axis=1)))


def draw(confidence: Floats, partitions: Sequence[Ints], draws: int, rng: np.random.Generator) -> NullDraws:
    """Draws hits Bernoulli(confidence) and counts them by the common refinement of the partitions.

    Probabilities are compared in float32, true to 6e-8. Memory is bounded; time is linear in draws times n.

    Args:
        confidence: (n,) ascending.
        partitions: starts of bins, each beginning with 0.
        draws: number of replicates.
        rng: source of the outcomes.
    """
    n = len(confidence)
    atoms = np.unique(np.concatenate(partitions))
    hits = np.empty((draws, len(atoms)), dtype=np.int32)
    chance = confidence.astype(np.float32)
    step = max(1, CHUNK_DRAWS // n)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        outcome = rng.random((rows, n), dtype=np.float32) < chance
        hits[start : start + rows] = np.add.reduceat(outcome, atoms, axis=1, dtype=np.int32)
    return NullDraws(atoms, hits, n)


def exceedances(observed: float, null_values: Floats) -> int:
    """How many null values reach the observed one (up to rounding)."""
    return int(np.count_nonzero(null_values >= observed - 1e-12))


def p_value(observed: float, null_values: Floats) -> float:
    """Share of null values that reach the observed one, (k+1)/(B+1): never 0, and valid at any B.

    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 4.2.
    """
    return (exceedances(observed, null_values) + 1) / (len(null_values) + 1)
