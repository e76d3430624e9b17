"""Words, p-values and power of detectors: what a probe may say that looks for something planted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from audit.toolkit.statistics import lower_limit

ALPHA = 0.01
"""Chance that one probe's significance tests, all together, raise an alarm where nothing is planted."""

ENOUGH = 10
"""Controls that reach what was observed, after which drawing others would only say more precisely how little it is."""


class Found(StrEnum):
    """What a detector comes to; never that something is clean."""

    DETECTED = "DETECTED"
    """Significant, large enough, and confirmed by behaviour."""
    SUSPICIOUS = "SUSPICIOUS"
    """Significant, and not confirmed."""
    NOT_DETECTED = "NOT DETECTED"
    """With the power shown on planted copies."""
    CANNOT_TELL = "CANNOT TELL"
    """For a reason that is said."""


def exact_p(observed: float, controls: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Chance of a statistic at least as large, if it and the controls come in random order: (1 + #>=) / (1 + n).

    Valid for any distribution; the least that n controls can give is 1 / (n + 1).

    Raises:
        ValueError: for NaN, which has no place in an order.
    """
    values = np.asarray(controls, dtype=np.float64)
    if np.isnan(observed) or np.isnan(values).any():
        raise ValueError("Expected numbers to compare, got NaN. Leave out what has no value.")
    return float((1 + (values >= observed).sum()) / (1 + len(values)))


def sequential_p(observed: float, controls: Iterable[float], enough: int = ENOUGH) -> float:
    """As `exact_p`, of controls that are drawn one by one and no longer than it takes.

    Where so many reached what was observed, no more are drawn, and their share is the p-value: it is as exact, and only
    a p-value that is small costs all controls. Where few are drawn it is coarse.

    Source: Besag & Clifford 1991, Sequential Monte Carlo p-values, Biometrika 78(2).

    Raises:
        ValueError: for NaN.
    """
    reached = drawn = 0
    for value in controls:
        if np.isnan(observed) or np.isnan(value):
            raise ValueError("Expected numbers to compare, got NaN. Leave out what has no value.")
        drawn += 1
        reached += value >= observed
        if reached == enough:
            return reached / drawn
    return (1 + reached) / (1 + drawn)


def holm(p_values: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adjusted p-values of several tests: each may be compared with the level of all together.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def power_text(hits: int, trials: int, confidence: float = 0.95) -> str:
    """Such as `found in 10 of 10 (power at least 74%)`."""
    if trials == 0:
        return "not tried"
    return f"found in {hits} of {trials} (power at least {lower_limit(hits, trials, confidence):.0%})"
