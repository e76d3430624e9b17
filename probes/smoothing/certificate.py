"""What answers to noisy copies prove: the radius within which the smoothed classifier cannot change its class.

Source: Cohen, Rosenfeld & Kolter 2019, theorem 1 and section 3.2 (CERTIFY), arXiv 1902.02918.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from audit.toolkit.statistics import lower_limit


def certified_radius(successes: int, n: int, sigma: float, alpha: float) -> float:
    """The L2 radius that holds with confidence 1 - alpha, sigma * Phi^-1(lower limit of the class's probability).

    Args:
        successes: how many of n noisy copies got the class. It was chosen without looking at them.
        n: independent draws.
        sigma: of the noise; the radius is in its unit.
        alpha: chance that the limit (exact, one-sided) is above the true probability.

    Returns:
        A radius above 0, or NaN where the limit is not above 1/2: the smoothed classifier abstains.
    """
    probability = lower_limit(successes, n, 1 - alpha)
    return sigma * float(ndtri(probability)) if probability > 0.5 else math.nan


def largest_radius(n: int, sigma: float, alpha: float) -> float:
    """The radius when all n copies get the class, sigma * Phi^-1(alpha^(1/n)); NaN where even that proves nothing."""
    return certified_radius(n, n, sigma, alpha)
