"""Whether one class stands out from the others, with a critical value for their number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

DRAWS = 20_000
MOST_VALUES = 10**7
FEWEST_CLASSES = 8
"""With fewer classes one can hardly stand out, whatever it is (five: 9.0 of its spread at 1 %)."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The class that stands out most.

    Attributes:
        label: the class, by place.
        distance: of the largest value from the mean of the others, in their standard deviations.
        p: chance of a distance as large, if all values were drawn from one normal law.
    """

    label: int
    distance: float
    p: float


def standing(values: Vector) -> Standing:
    """Of the largest of values (classes,), at least 3.

    Source: Grubbs 1950, Annals of Mathematical Statistics 21(1), with the extreme one left out of mean and spread.
    """
    label = int(values.argmax())
    distance = float(_distance(values[None])[0])
    null = _null(len(values))
    return Standing(label, distance, float((1 + (null >= distance).sum()) / (1 + len(null))))


def critical(classes: int, level: float) -> float:
    """The distance that is reached with this chance."""
    return float(np.quantile(_null(classes), 1 - level))


def _distance(values: Vector) -> Vector:
    ordered = np.sort(values, axis=1)
    rest = ordered[:, :-1]
    found: Vector = (ordered[:, -1] - rest.mean(axis=1)) / np.maximum(rest.std(axis=1, ddof=1), 1e-9)
    return found


@lru_cache(maxsize=16)
def _null(classes: int) -> Vector:
    """Simulated, with a seed of its own: a law of the number of classes and no matter of chance in a run."""
    draws = min(DRAWS, MOST_VALUES // classes)
    return _distance(np.random.default_rng(20_000 + classes).standard_normal((draws, classes)))
