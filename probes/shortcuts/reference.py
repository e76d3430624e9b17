"""Classes held against trusted images of theirs: whether a filter explains how spectra differ, and on how many images.

With trusted images the question is one of two samples, class by class, and its null needs no model: were suspected and
trusted images of every class drawn alike, they could be exchanged. What differs may be a camera as well as a poison;
so a class counts only where a filter explains the difference, and where classes do not all differ alike.

Source: Sadasivan, Soltanolkotabi & Feizi 2023 (CUDA, arXiv 2303.04278) of the poison; the largest of many standardised
differences under permutation is of Westfall & Young 1993, Resampling-Based Multiple Testing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from audit.api import IntArray
from audit.toolkit.detection import ALPHA, exact_p
from probes.shortcuts.filters import SIZE, Gain, Mask, Vector, fitted_filter

FEWEST_OF_CLASS = 50
"""Images of a class, below which nothing is said of it."""
FEWEST_TRUSTED = 40
"""Trusted images of a class that is compared; of half of them, what is usual is known."""
CLASSES = 3
"""Compared classes from which on what is a class's own can be told from what they have in common."""
AT_ONCE = 100
PERMUTED = 999
STRENGTH = 0.25
"""Least difference of spectra of a class, root mean square over bins in logarithms of power, its mean taken out. Digits
and CIFAR-10 against others of their own had 0.12 at most."""
EXPLAINED = 0.45
"""Share of it that a filter explains. CUDA's had 0.47 to 1; a bolder pen, noise and patches 0.23 at most."""
OWN = 0.3
"""Part of it, on average over filtered classes, that other classes do not have. One blur on all classes of digits left
0.11 to 0.22, as it acts on drawings by what they show (six keys), and 0.02 on CIFAR-10; CUDA 0.4 to 0.65."""
USUAL = 0.95
"""Share of trusted images that are to lie below a limit that poisoned ones exceed."""
Spectra = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A class against its trusted images.

    Attributes:
        gain: what filter would explain the difference, and which images are taken for filtered.
        p: exact, adjusted for all classes and bins.
        strength: of the difference.
        own: of the part that other classes do not have.
        n, m: suspected and trusted images of the class.
        usual: of the trusted ones, how many lie beyond the limit that marks the suspected ones.
    """

    gain: Gain
    p: float
    strength: float
    own: float
    n: int
    m: int
    usual: int

    @property
    def hits(self) -> int:
        """Images that are taken for filtered."""
        return int(self.gain.rows.sum())

    @property
    def filtered(self) -> bool:
        """Whether it is significant, large, and what a filter does."""
        return self.p <= ALPHA and self.strength >= STRENGTH and self.gain.explained >= EXPLAINED

    @property
    def share(self) -> float:
        """Estimated share of the class's images that are filtered; too small where a filter leaves a faint trace."""
        background = self.usual / self.m
        return max(0.0, (self.hits / self.n - background) / max(1e-9, 1 - background))


def compared(
    spectrum: Spectra, labels: IntArray, trusted: Spectra, trusted_labels: IntArray, rng: np.random.Generator
) -> list[Compared]:
    """Of all classes that have enough images of both kinds; images with a pixel that is no number are left out.

    Args:
        spectrum: (n, 50) logarithms of power, of the suspected images.
        labels: (n,) of these.
        trusted: (m, 50) of the trusted ones.
        trusted_labels: (m,) of these.
        rng: permutes, and draws halves.
    """
    usable, sure = np.isfinite(spectrum).all(axis=1), np.isfinite(trusted).all(axis=1)
    pairs = {
        label: (
            spectrum[usable & (labels == label)].astype(np.float64),
            trusted[sure & (trusted_labels == label)].astype(np.float64),
        )
        for label in np.unique(trusted_labels).tolist()
    }
    pairs = {
        label: (mine, theirs)
        for label, (mine, theirs) in pairs.items()
        if len(mine) >= FEWEST_OF_CLASS and len(theirs) >= FEWEST_TRUSTED
    }
    if not pairs:
        return []
    p = p_values(list(pairs.values()), rng)
    apart = np.stack([mine.mean(axis=0) - theirs.mean(axis=0) for mine, theirs in pairs.values()])
    own = apart - np.median(apart, axis=0)
    found = []
    for place, (label, (mine, theirs)) in enumerate(pairs.items()):
        noise = mine.var(axis=0) / len(mine) + theirs.var(axis=0) / len(theirs)
        strength, beyond = (_strength(values, noise) for values in (apart[place], own[place]))
        large = p[place] <= ALPHA and strength >= STRENGTH
        taps, explained = fitted_filter(apart[place]) if large else (np.zeros((SIZE, SIZE)), 0.0)
        rows, usual = _marked(mine, theirs, rng)
        where = np.zeros(len(labels), dtype=np.bool_)
        where[np.flatnonzero(usable & (labels == label))[rows]] = True
        gain = Gain(label, where, apart[place], "trusted", taps, explained)
        found.append(Compared(gain, p[place], strength, beyond, len(mine), len(theirs), usual))
    return found


def alarming(found: Sequence[Compared]) -> list[Compared]:
    """The filtered classes; none where all of them differ alike, as another camera or one blur makes them."""
    filtered = [one for one in found if one.filtered] if len(found) >= CLASSES else []
    return filtered if sum(one.own for one in filtered) > OWN * sum(one.strength for one in filtered) else []


def lower_share(found: Sequence[Compared], confidence: float = 0.99) -> float:
    """Lower limit of the share of all these classes' images that lie where trusted ones do not.

    Differences of proportions, summed over classes as these are among the suspected images; among trusted ones they may
    be in other proportions.

    Source: Agresti & Caffo 2000, The American Statistician 54(4), of each difference and its variance.
    """
    total = sum(one.n for one in found)
    value = variance = 0.0
    for one in found:
        weight, p, q = one.n / total, (one.hits + 1) / (one.n + 2), (one.usual + 1) / (one.m + 2)
        value += weight * (p - q)
        variance += weight**2 * (p * (1 - p) / (one.n + 2) + q * (1 - q) / (one.m + 2))
    return max(0.0, value - float(norm.ppf(confidence)) * math.sqrt(variance))


def _strength(values: Vector, noise: Vector) -> float:
    """Root mean square around the mean, less what chance adds."""
    about = values - values.mean()
    return float(np.sqrt(max(0.0, (about**2).mean() - noise.mean())))


def p_values(pairs: Sequence[tuple[Vector, Vector]], rng: np.random.Generator) -> list[float]:
    """Of each pair of samples (n, d) and (m, d), of its largest standardised difference, adjusted for all pairs.

    Exact where the samples of every pair may be exchanged: all pairs are permuted, and the largest of all is noted.
    """
    seen, null = [], np.zeros(PERMUTED)
    for mine, theirs in pairs:
        whole = np.concatenate([mine, theirs])
        n, total = len(mine), len(whole)
        scale = whole.std(axis=0)
        scale = np.where(scale > 0, scale, np.inf) * np.sqrt(1 / n + 1 / len(theirs))

        def largest(taken: npt.NDArray[np.float64], whole: Vector = whole, scale: Vector = scale, n: int = n) -> Vector:
            first = taken @ whole
            apart = first / n - (whole.sum(axis=0) - first) / (len(whole) - n)
            return np.asarray(np.abs(apart / scale).max(axis=1))

        seen.append(float(largest((np.arange(total) < n)[None].astype(np.float64))[0]))
        for start in range(0, PERMUTED, AT_ONCE):
            taken = np.zeros((min(AT_ONCE, PERMUTED - start), total))
            for row in taken:
                row[rng.permutation(total)[:n]] = 1
            null[start : start + len(taken)] = np.maximum(null[start : start + len(taken)], largest(taken))
    return [exact_p(value, null) for value in seen]


def _marked(mine: Vector, theirs: Vector, rng: np.random.Generator) -> tuple[Mask, int]:
    """Which images lie beyond nearly all trusted ones, and how many of the trusted ones do.

    The direction and its limit are of one half of either sample, and the other half is counted, in turns.
    """
    halves = [(rng.permutation(len(values)) % 2).astype(np.bool_) for values in (mine, theirs)]
    marked = np.zeros(len(mine), dtype=np.bool_)
    usual = 0
    for turn in (False, True):
        here, there = (half == turn for half in halves)
        middle = theirs[~there].mean(axis=0)
        around = theirs[~there] - middle
        covariance = around.T @ around / len(around)
        covariance += np.eye(len(covariance)) * max(1e-9, float(np.trace(covariance)) / len(covariance))
        direction = np.linalg.solve(covariance, mine[~here].mean(axis=0) - middle)
        limit = np.quantile(around @ direction, USUAL)
        marked[here] = (mine[here] - middle) @ direction > limit
        usual += int(((theirs[there] - middle) @ direction > limit).sum())
    return marked, usual
