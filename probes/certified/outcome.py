"""Tallies put together: per norm, how far each sample is certified and how near an attack came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit.api import Claim, Measurement, PositiveControl, Tally
from audit.lirpa.certify import Norm
from audit.toolkit.norms import parse_eps, radius_with_slack
from audit.toolkit.statistics import proportion
from probes.certified.config import CertifiedConfig

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Everything found in one norm; row i of every array is position i of the split.

    Attributes:
        norm: which.
        pixels: values of an image.
        correct: right without a change.
        radius: certified, float64; 0 where nothing is.
        distance: of the nearest verified adversarial image, float64; infinite where none was found.
        blurred: where bounds first say little at the smallest radius; empty where they say much everywhere.
    """

    norm: Norm
    pixels: int
    correct: Mask
    radius: npt.NDArray[np.float64]
    distance: npt.NDArray[np.float64]
    blurred: str

    @classmethod
    def join(cls, norm: Norm, pixels: int, tallies: Sequence[Tally]) -> Outcome:
        """The tallies of consecutive chunks."""
        arrays = {name: np.concatenate([tally.arrays[name] for tally in tallies]) for name in tallies[0].arrays}
        blurred = next((str(tally.values["blurred"]) for tally in tallies if tally.values["blurred"]), "")
        return cls(norm, pixels, arrays["correct"].astype(bool), arrays["radius"], arrays["distance"], blurred)

    @property
    def n(self) -> int:
        """Samples examined."""
        return len(self.correct)

    def certified(self, eps: float) -> Mask:
        """Samples that are right for every image within a radius."""
        return np.asarray(self.correct & (self.radius >= eps))

    def standing(self, eps: float) -> Mask:
        """Samples that are right and that no attack broke within a radius."""
        return np.asarray(self.correct & (self.distance > radius_with_slack(eps, self.norm, self.pixels) * (eps > 0)))

    def unsound(self) -> int:
        """Certified samples with a verified adversarial image within the certified radius: there must be none."""
        return int((self.correct & (self.radius > 0) & (self.distance < self.radius)).sum())


def measurements(outcome: Outcome, config: CertifiedConfig) -> Iterator[Measurement]:
    """Certified and attacked accuracy at every radius of a norm."""
    bounds = (
        f"bounds by {', then '.join(config.methods)}, in float64; crown where at most {config.most} values are open"
    )
    shared = ("pixels in [0, 1], any image within the radius, whether or not it can be stored in 8 bits",)
    exact = "of the network in exact arithmetic; margins exceed four times what float32 changes on the clean image"
    attacks = f"attacks: FMN and PGD on the margin, {config.attack_steps} steps; verified in float32"
    for text in config.listed(outcome.norm):
        eps, n = parse_eps(text, outcome.norm), outcome.n
        for metric, mask, claim, assumptions in (
            ("certified_accuracy", outcome.certified(eps), Claim.LOWER_BOUND, (bounds, exact, *shared)),
            ("attacked_accuracy", outcome.standing(eps), Claim.UPPER_BOUND, (attacks, *shared)),
        ):
            yield Measurement(
                metric=f"certified.{metric}",
                where={"norm": outcome.norm, "eps": text},
                value=float(mask.mean()),
                n=n,
                claim=claim,
                interval=proportion(int(mask.sum()), n),
                assumptions=assumptions,
            )


def consistent(outcome: Outcome) -> PositiveControl:
    """That no attack reaches what is certified; one that did would show the bounds to be wrong."""
    certified, unsound = int((outcome.radius > 0).sum()), outcome.unsound()
    return PositiveControl(
        name=f"no-certificate-broken-{outcome.norm}",
        passed=unsound == 0,
        expected="no verified adversarial image within the radius that a sample is certified for",
        observed=f"{unsound} of {certified} certified samples broken",
    )
