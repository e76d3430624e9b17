"""Intervals and sample sizes for proportions. Exact where an exact method exists; no torch."""

from scipy.stats import beta

from audit.schema import Interval


def lower_limit(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson lower limit of a proportion: below the truth with at least this confidence.

    Source: Clopper & Pearson 1934, Biometrika 26(4).
    """
    _check(successes, n)
    return 0.0 if successes == 0 else float(beta.ppf(1 - confidence, successes, n - successes + 1))


def upper_limit(successes: int, n: int, confidence: float = 0.95) -> float:
    """One-sided Clopper-Pearson upper limit of a proportion."""
    _check(successes, n)
    return 1.0 if successes == n else float(beta.ppf(confidence, successes + 1, n - successes))


def proportion(successes: int, n: int, level: float = 0.95) -> Interval:
    """Two-sided Clopper-Pearson interval of a proportion; covers with at least `level`."""
    side = 1 - (1 - level) / 2
    return Interval(
        low=lower_limit(successes, n, side),
        high=upper_limit(successes, n, side),
        level=level,
        method="clopper-pearson",
    )


def samples_to_settle(
    value: float, threshold: float, n: int, confidence: float = 0.95, most: int = 10**7
) -> int | None:
    """About how many further samples bring the one-sided limit of a proportion to the threshold, were `value` true.

    Returns:
        None when the proportion equals the threshold or more than `most` would be needed.
    """
    if value == threshold:
        return None

    def settled(size: int) -> bool:
        successes = round(value * size)
        if value > threshold:
            return lower_limit(successes, size, confidence) >= threshold
        return upper_limit(successes, size, confidence) < threshold

    high = max(n, 1)
    while not settled(high):
        high *= 2
        if high > most:
            return None
    low = max(n, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle + 1, high)
    return max(high - n, 0)


def _check(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"Expected 0 <= successes <= n with n >= 1, got {successes} of {n}.")
