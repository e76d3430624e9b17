"""How large the rate of wrong labels can be, by scores of which those of wrong labels are known.

Let s be a score of an image and its label that is low where they do not fit. Of all images P(s) = (1 - e) g0(s) + e
g1(s), where e is the rate of wrong labels, g1 the law of scores of wrong labels, and g0 of right ones. An image that
was never trained on gets the score of any label that one cares to give it, so g1 is seen by giving wrong ones.
Whatever g0 is, P(S) >= e g1(S) for every region S, hence e <= P(S) / g1(S). With trusted images g0 is seen too, and
P(S) <= (1 - e) g0(S) + e gives e >= (P(S) - g0(S)) / (1 - g0(S)), whatever g1 is. A region is chosen on one part of
the images and counted on another.

Source: Blanchard, Lee & Scott 2010, Journal of Machine Learning Research 11, on mixture proportions from two samples.
Differs from source: one region, chosen apart, with exact limits in place of uniform ones over many regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import hypergeom

from audit.toolkit.statistics import lower_limit, upper_limit

Floats = npt.NDArray[np.float64]

GRID = 60
"""Thresholds that are tried where a region is chosen."""
FEWEST_BELOW = 5
"""Images in the choosing part that a region must hold of wrong labels: fewer say nothing."""


@dataclass(frozen=True, slots=True)
class Upper:
    """An upper bound on the rate of wrong labels.

    Attributes:
        limit: at most this, in [0, 1].
        threshold: scores at most this are the region.
        share: of all images in it.
        caught: share of wrong labels in it, of the kind that is least caught.
        caught_low: its lower limit.
    """

    limit: float
    threshold: float
    share: float
    caught: float
    caught_low: float


@dataclass(frozen=True, slots=True)
class Trusted:
    """What trusted images add.

    Attributes:
        p: one-sided p-value of no more low scores than among trusted images, exact given the counts.
        low, high: limits of the rate.
        value: plug-in estimate.
        n: trusted images behind it.
    """

    p: float
    low: float
    high: float
    value: float
    n: int


def chosen_threshold(scores: Floats, wrong: Sequence[Floats], confidence: float) -> float:
    """The threshold that gives the least upper bound on one part of the images; -inf where there is none."""
    if not len(scores) or any(len(each) < FEWEST_BELOW for each in wrong):
        return -np.inf
    tried = np.unique(np.quantile(np.concatenate(list(wrong)), np.linspace(0.02, 0.98, GRID)))
    limits = [upper(scores, wrong, float(t), confidence).limit for t in tried]
    return float(tried[int(np.argmin(limits))])


def upper(scores: Floats, wrong: Sequence[Floats], threshold: float, confidence: float) -> Upper:
    """The bound of a region that was chosen elsewhere.

    Args:
        scores: of the images with their labels.
        wrong: scores of wrong labels, of each kind that noise may be of; the kind least caught counts.
        threshold: of the region.
        confidence: one-sided, of the bound, shared by its two parts.
    """
    side, n = 1 - (1 - confidence) / (1 + len(wrong)), len(scores)
    inside = int((scores <= threshold).sum())
    caught = [int((each <= threshold).sum()) for each in wrong]
    least = min(lower_limit(hits, len(each), side) for hits, each in zip(caught, wrong, strict=True))
    share = min(hits / len(each) for hits, each in zip(caught, wrong, strict=True))
    limit = min(1.0, upper_limit(inside, n, side) / least) if least > 0 else 1.0
    return Upper(limit, threshold, inside / n, share, least)


def trusted(scores: Floats, right: Floats, bound: Upper, confidence: float) -> Trusted:
    """Compares the scores of all images with those of trusted ones (`right`), within the region of the bound.

    The lower limit and the p-value rest on the trusted images alone; the upper limit on wrong labels' scores too.

    Args:
        scores: of the images with their labels, the same as behind the bound.
        right: of trusted images with theirs, by the same networks.
        bound: the upper bound; it caps what trusted images say.
        confidence: one-sided, of each limit, shared by its parts.
    """
    n, m = len(scores), len(right)
    inside, base = int((scores <= bound.threshold).sum()), int((right <= bound.threshold).sum())
    p = float(hypergeom.sf(inside - 1, n + m, inside + base, n))
    side = 1 - (1 - confidence) / 2
    floor = upper_limit(base, m, side)
    low = max(0.0, (lower_limit(inside, n, side) - floor) / (1 - floor)) if floor < 1 else 0.0
    least, most = lower_limit(base, m, side), upper_limit(inside, n, side)
    apart = bound.caught_low - least
    high = min(bound.limit, max(0.0, (most - least) / apart)) if apart > 0 else bound.limit
    high = max(high, low)
    distance = bound.caught - base / m
    value = (inside / n - base / m) / distance if distance > 0 else low
    return Trusted(p, low, high, float(np.clip(value, low, high)), m)
