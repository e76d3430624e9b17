"""Whether one class stands out from the others, with a critical value for their number.

The few classes of one model tell little of how much benign classes differ. What they tell is pooled with what classes
of clean reference models do, as far as these agree with one another (a moderated variance: Smyth 2004).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

DRAWS = 50_000
MOST_VALUES = 10**7
FEWEST_CLASSES = 8
"""With fewer classes one can hardly stand out by its own model, whatever it is (five: 9.0 of its spread at 1 %)."""


@dataclass(frozen=True, slots=True)
class Usual:
    """How much benign classes of a model differ, by reference models.

    Attributes:
        spread: standard deviation over the classes of a model.
        weight: how many values of a model's own it counts for.
    """

    spread: float
    weight: float


SIZES = Usual(spread=0.26, weight=20.0)
"""Of logarithms of trigger sizes. Nine clean networks (of 8 x 8 digits and CIFAR-10) had spreads of 0.18 to 0.34, and
were no more unlike one another than by chance; the weight allows for others that are. Fourteen others, of seven kinds
on CIFAR-10, had 0.14 to 0.32 (`benchmarks/backdoored.py`)."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The class that stands out most.

    Attributes:
        label: the class, by place.
        distance: of the largest value from the mean of the others, in standard deviations.
        p: chance of a distance as large, if all values were drawn from one normal law.
    """

    label: int
    distance: float
    p: float


def standing(values: Vector, usual: Usual | None = None, among: int | None = None) -> Standing:
    """Of the largest of values (classes,), at least 3.

    Source: Grubbs 1950, Annals of Mathematical Statistics 21(1), with the extreme one left out of mean and spread;
    Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3(1), for the spread.

    Args:
        values: one a class, of which large ones are looked for.
        usual: what is known of their spread.
        among: number of classes that those with values were chosen from; the chance is that of any of them.
    """
    label = int(values.argmax())
    distance = float(_distance(values[None], usual)[0])
    null = _null(len(values), usual)
    p = float((1 + (null >= distance).sum()) / (1 + len(null)))
    return Standing(label, distance, min(1.0, p * (among or len(values)) / len(values)))


def critical(classes: int, level: float, usual: Usual | None = None) -> float:
    """The distance that is reached with this chance."""
    return float(np.quantile(_null(classes, usual), 1 - level))


def unusual_below(sizes: Vector, level: float) -> float | None:
    """The trigger size that a class must be below to stand out; None with fewer than three."""
    if len(sizes) < 3:
        return None
    rest = np.sort(-np.log(sizes))[:-1]
    return float(np.exp(-rest.mean() - critical(len(sizes), level, SIZES) * float(_spread(rest[None], SIZES)[0])))


def _spread(rest: Vector, usual: Usual | None) -> Vector:
    own = rest.var(axis=1, ddof=1)
    if usual is not None:
        free = rest.shape[1] - 1
        own = (free * own + usual.weight * usual.spread**2) / (free + usual.weight)
    found: Vector = np.maximum(np.sqrt(own), 1e-9)
    return found


def _distance(values: Vector, usual: Usual | None) -> Vector:
    ordered = np.sort(values, axis=1)
    rest = ordered[:, :-1]
    found: Vector = (ordered[:, -1] - rest.mean(axis=1)) / _spread(rest, usual)
    return found


@lru_cache(maxsize=16)
def _null(classes: int, usual: Usual | None) -> Vector:
    """Simulated, with a seed of its own: a law of the number of classes and no matter of chance in a run."""
    draws = min(DRAWS, MOST_VALUES // classes)
    rng = np.random.default_rng(20_000 + classes)
    values = rng.standard_normal((draws, classes))
    if usual is not None:
        values *= usual.spread * np.sqrt(usual.weight / rng.chisquare(usual.weight, (draws, 1)))
    return _distance(values, usual)
