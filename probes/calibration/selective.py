"""Selective prediction: what is gained by answering only where the model is most confident.

Samples are ranked by confidence. Equal confidences are taken in random order and the expectation over that order is
reported, so that the order of the data set plays no part.

Source: Geifman, Uziel & El-Yaniv 2019, arXiv:1805.08206 (AURC); Traub et al. 2024, arXiv:2407.01032 (AUGRC).
Differs from source: means over the n coverages k/n, ties in expectation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit.api import Interval
from audit.toolkit.statistics import lower_limit, upper_limit
from probes.calibration.scores import Floats, Ints, TopLabel

FEW_ERRORS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Groups of equal confidence, most confident first.

    Attributes:
        starts: first sample of each group in descending order of confidence, (g,).
        error: 1.0 where the prediction is wrong, in that order, (n,).
        harmonic: harmonic numbers H_0..H_n, (n + 1,).
    """

    starts: Ints
    error: Floats
    harmonic: Floats

    @classmethod
    def of(cls, top: TopLabel) -> Ranking:
        """From sorted confidences."""
        confidence = top.confidence[::-1]
        starts = np.flatnonzero(np.r_[True, np.diff(confidence) != 0]).astype(np.int64)
        harmonic = np.r_[0.0, np.cumsum(1.0 / np.arange(1, len(top) + 1))]
        return cls(starts, 1.0 - top.correct[::-1], harmonic)

    def groups(self, weights: npt.NDArray[np.int64] | None = None) -> tuple[Ints, Floats]:
        """Samples and errors of each group, with samples counted `weights` times (in descending order), each (g,)."""
        size = np.ones(len(self.error), dtype=np.int64) if weights is None else weights
        if len(self.starts) == len(self.error):
            return size, size * self.error
        return np.add.reduceat(size, self.starts), np.add.reduceat(size * self.error, self.starts)


def areas(ranking: Ranking, weights: npt.NDArray[np.int64] | None = None) -> tuple[float, float]:
    """(AURC, AUGRC) of the ranked samples, or of a resample that takes each `weights` times (summing to n).

    AURC is the mean over k of errors among the top k over k, AUGRC of errors among the top k over n. Within a group of
    m samples with e errors behind N samples with E errors the expected errors after j more are E + j e/m, which sums in
    closed form: sum_j (E + j e/m)/(N + j) = e + (E - N e/m)(H_{N+m} - H_N).
    """
    size, errors = ranking.groups(weights)
    reached, failed = np.cumsum(size), np.cumsum(errors)
    before, failed_before = reached - size, failed - errors
    rate = errors / np.maximum(size, 1)
    spread = ranking.harmonic[reached] - ranking.harmonic[before]
    n = int(reached[-1])
    aurc = float((errors + (failed_before - before * rate) * spread).sum()) / n
    augrc = float((size * failed_before + errors * (size + 1) / 2).sum()) / n**2
    return aurc, augrc


def hits_kept(ranking: Ranking, kept: npt.NDArray[np.int64]) -> Floats:
    """Expected hits among the `kept` most confident samples, for each entry; fractional where a tie is cut."""
    size, errors = ranking.groups()
    reached, failed = np.r_[0, np.cumsum(size)], np.r_[0.0, np.cumsum(errors)]
    group = np.searchsorted(reached, kept, side="left")
    inside = kept - reached[group - 1]
    return np.asarray(kept - failed[group - 1] - inside * errors[group - 1] / size[group - 1], dtype=np.float64)


def kept_at(coverage: float, n: int) -> int:
    """Samples that are answered at this coverage: the smallest number that reaches it."""
    return max(1, int(np.ceil(coverage * n - 1e-9)))


def accuracy_interval(hits: float, kept: int, level: float) -> Interval:
    """Clopper-Pearson interval around a possibly fractional number of hits, with the ends of the nearest integers."""
    side = 1 - (1 - level) / 2
    return Interval(
        low=lower_limit(int(np.floor(hits + 1e-9)), kept, side),
        high=upper_limit(int(np.ceil(hits - 1e-9)), kept, side),
        level=level,
        method="clopper-pearson",
    )


def widened(interval: Interval, value: float, errors: int, n: int, generalised: bool) -> Interval:
    """A bootstrap interval of AURC or AUGRC, widened where few errors (or few hits) make resampling too sure.

    With 1 to 9 errors the high end is at least the value times the Clopper-Pearson limit of the error rate over the
    rate (the area is proportional to the number of errors, given where they fall). Without errors (hits) it is the
    worst (best) order at that limit: r(1 - ln r) and 1 minus it for AURC, r(1 - r/2) and (1 - r)^2/2 for AUGRC.
    """
    side = 1 - (1 - interval.level) / 2
    low, high = min(interval.low, value), max(interval.high, value)
    if errors == 0:
        rate = upper_limit(0, n, side)
        high = rate * (1 - rate / 2) if generalised else rate * (1 - np.log(rate))
    elif errors == n:
        rate = upper_limit(0, n, side)
        low = (1 - rate) ** 2 / 2 if generalised else 1 - rate * (1 - np.log(rate))
    elif errors < FEW_ERRORS:
        high = max(high, value * upper_limit(errors, n, side) * n / errors)
    method = interval.method if FEW_ERRORS <= errors < n else f"{interval.method}+clopper-pearson"
    return Interval(low=max(0.0, min(low, value)), high=min(1.0, max(high, value)), level=interval.level, method=method)
