"""Counts put together: per sigma, which class each sample is certified for, and how far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit.api import Claim, IntArray, Measurement, Tally
from audit.toolkit.norms import parse_eps
from audit.toolkit.statistics import proportion
from probes.smoothing.certificate import certified_radius, largest_radius
from probes.smoothing.config import SmoothingConfig

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Everything found at one sigma; row i of every array is position i of the split.

    Attributes:
        sigma: of the noise.
        alpha: chance that one certificate is wrong.
        draws: noisy copies behind each certificate.
        arrays: as in `units.count_chunk`.
        radius: certified for the class `chosen`, float64; NaN where the smoothed classifier abstains.
        cap: the largest radius that so many draws can give.
    """

    sigma: float
    alpha: float
    draws: int
    arrays: dict[str, IntArray]
    radius: npt.NDArray[np.float64]
    cap: float

    @classmethod
    def join(cls, sigma: float, alpha: float, draws: int, tallies: Sequence[Tally]) -> Outcome:
        """The tallies of consecutive chunks."""
        arrays = {name: np.concatenate([tally.arrays[name] for tally in tallies]) for name in tallies[0].arrays}
        radius = [certified_radius(int(found), draws, sigma, alpha) for found in arrays["successes"]]
        return cls(sigma, alpha, draws, arrays, np.array(radius), largest_radius(draws, sigma, alpha))

    @property
    def n(self) -> int:
        """Samples examined."""
        return len(self.radius)

    @property
    def correct(self) -> Mask:
        """Samples that the model itself gets right, without noise."""
        return np.asarray(self.arrays["clean"] == self.arrays["labels"])

    @property
    def abstained(self) -> Mask:
        """Samples of which no class is known to be the smoothed classifier's."""
        return np.isnan(self.radius)

    def certified(self, eps: float) -> Mask:
        """Samples for which the smoothed classifier is known to give the label, for every image within a radius."""
        return np.asarray((self.arrays["chosen"] == self.arrays["labels"]) & (self.radius >= eps))

    def at_cap(self) -> int:
        """Samples of which all copies got the class: more draws would raise their radius."""
        return int((self.arrays["successes"] == self.draws).sum())


def measurements(outcome: Outcome, config: SmoothingConfig) -> Iterator[Measurement]:
    """What is known of the smoothed classifier of one sigma."""
    n, sigma, assumptions = outcome.n, outcome.sigma, assumed(outcome, config)

    def share(metric: str, mask: Mask, claim: Claim, **where: str | float) -> Measurement:
        return Measurement(
            metric=f"smoothing.{metric}",
            where={"sigma": sigma, **where},
            value=float(mask.mean()),
            n=n,
            claim=claim,
            interval=proportion(int(mask.sum()), n),
            assumptions=assumptions,
        )

    for text in config.eps_l2:
        mask = outcome.certified(parse_eps(text, "l2"))
        yield share("certified_accuracy", mask, Claim.LOWER_BOUND, norm="l2", eps=text)
    yield share("accuracy", outcome.certified(0.0), Claim.LOWER_BOUND)
    yield share("abstained", outcome.abstained, Claim.ESTIMATE)


def assumed(outcome: Outcome, config: SmoothingConfig) -> tuple[str, ...]:
    """What every number of the probe rests on."""
    sure = f"{1 - config.alpha:.6g}"
    if config.together:
        held = f"all certificates of the run hold together with probability {sure} (each with 1 - {outcome.alpha:.2g})"
    else:
        held = (
            f"each certificate holds with probability {sure} by itself: of 1,000, {1000 * config.alpha:g} may be wrong"
        )
    return (
        "of the smoothed classifier, the class that most noisy copies of an image get, not of the model as deployed",
        f"{held}, besides the interval, which covers the choice of samples",
        f"{config.n0} noisy copies of each image choose its class, {config.n} others bound that class's probability",
        "noise in exact arithmetic, not cut to [0, 1]",
    )
