"""Intervals and sample sizes for proportions. Exact where an exact method exists; no torch."""

import math
from typing import Final

import numpy as np
from scipy.special import betaincinv, ndtri

from audit.schema import Interval

_SEARCH_BLOCK: Final = 256


def lower_limit(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson lower limit of a proportion: below the truth with at least this confidence.

    Source: Clopper & Pearson 1934, Biometrika 26(4).
    """
    _check(successes, n, confidence)
    return _lower(successes, n, confidence)


def upper_limit(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper limit of a proportion: above the truth with at least this confidence."""
    _check(successes, n, confidence)
    return _upper(successes, n, confidence)


def proportion(successes: int, n: int, level: float = 0.95) -> Interval:
    """Two-sided Clopper-Pearson interval of a proportion; covers with at least `level`."""
    side = 1 - (1 - level) / 2
    return Interval(
        low=lower_limit(successes, n, side),
        high=upper_limit(successes, n, side),
        level=level,
        method="clopper-pearson",
    )


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Two-sided Wilson score interval of a proportion; covers with `level` on average, not at every proportion.

    Source: Wilson 1927, Journal of the American Statistical Association 22(158).
    """
    _check(successes, n, level)
    z = float(ndtri(1 - (1 - level) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == n else min(centre + half, 1.0)
    return Interval(low=low, high=high, level=level, method="wilson")


def difference(first: int, n: int, second: int, m: int, level: float = 0.95) -> Interval:
    """Two-sided interval of the difference of two independent proportions, `first / n - second / m`.

    Source: Agresti & Caffo 2000, The American Statistician 54(4).
    """
    _check(first, n, level)
    _check(second, m, level)
    p, q = (first + 1) / (n + 2), (second + 1) / (m + 2)
    half = float(ndtri(1 - (1 - level) / 2)) * math.sqrt(p * (1 - p) / (n + 2) + q * (1 - q) / (m + 2))
    low, high = max(-1.0, p - q - half), min(1.0, p - q + half)
    return Interval(low=low, high=high, level=level, method="agresti-caffo")


def band_half_width(n: int, level: float = 0.95) -> float:
    """Half the width of a band that holds a whole distribution function at once, with at least `level`.

    Source: Massart 1990, Annals of Probability 18(3), with the constant 2 (Dvoretzky, Kiefer & Wolfowitz 1956).
    """
    _check(0, n, level)
    return math.sqrt(math.log(2 / (1 - level)) / (2 * n))


def samples_to_settle(
    value: float, threshold: float, n: int, confidence: float = 0.95, most: int = 10**7
) -> int | None:
    """About how many further samples bring the one-sided limit of a proportion to the threshold, were `value` true.

    With exactly that many, and `value` still the rate among all of them (rounded to whole successes), the limit has
    reached the threshold; a threshold farther from `value` never needs more. A subject whose true rate is `value`
    passes at this size about half of the time: plan for twice as many.

    Args:
        value: the observed proportion, in [0, 1].
        threshold: what the lower limit must reach (`value` above it) or the upper limit must get below.
        n: samples so far.
        confidence: one-sided.
        most: search no farther than this many further samples.

    Returns:
        0 when it is settled already; None when the proportion equals the threshold or more than `most` are needed.
    """
    if value == threshold or n + most < 1:
        return None
    low, high = max(n, 1), n + most
    # Successes as a real number first: there the limit moves monotonically with the size, so halving is valid.
    if not _settled(value * high, high, value, threshold, confidence):
        return None
    while low < high:
        middle = (low + high) // 2
        if _settled(value * middle, middle, value, threshold, confidence):
            high = middle
        else:
            low = middle + 1
    return _settled_in_whole_successes(low, n, value, threshold, confidence, most)


def _settled_in_whole_successes(
    start: int, n: int, value: float, threshold: float, confidence: float, most: int
) -> int | None:
    """From where real-valued successes settle it, the first size where rounded ones do too."""
    block = _SEARCH_BLOCK
    while start <= n + most:
        sizes = np.arange(start, min(start + block, n + most + 1))
        successes = np.rint(value * sizes)
        # Only blocks are computed at once; a rate of 1 in 50 000 may need a walk of half that many sizes.
        hits = np.flatnonzero(_settled_many(successes, sizes, value > threshold, threshold, confidence))
        if hits.size:
            return int(sizes[hits[0]]) - n
        start += block
        block *= 2
    return None


def _settled(successes: float, size: int, value: float, threshold: float, confidence: float) -> bool:
    if value > threshold:
        return _lower(successes, size, confidence) >= threshold
    return _upper(successes, size, confidence) < threshold


def _settled_many(
    successes: np.ndarray, sizes: np.ndarray, above: bool, threshold: float, confidence: float
) -> np.ndarray:
    if above:
        some = np.maximum(successes, 1)
        limits = np.where(successes <= 0, 0.0, betaincinv(some, sizes - some + 1, 1 - confidence))
        return np.asarray(limits >= threshold)
    missed = np.maximum(sizes - successes, 1)
    limits = np.where(successes >= sizes, 1.0, betaincinv(sizes - missed + 1, missed, confidence))
    return np.asarray(limits < threshold)


def _lower(successes: float, n: int, confidence: float) -> float:
    return 0.0 if successes <= 0 else float(betaincinv(successes, n - successes + 1, 1 - confidence))


def _upper(successes: float, n: int, confidence: float) -> float:
    return 1.0 if successes >= n else float(betaincinv(successes + 1, n - successes, confidence))


def _check(successes: int, n: int, confidence: float) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"Expected 0 <= successes <= n with n >= 1, got {successes} of {n}.")
    if not (math.isfinite(confidence) and 0 < confidence < 1):
        raise ValueError(f"Expected a confidence between 0 and 1, got {confidence}.")
