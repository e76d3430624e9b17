"""Tallies put together: per norm, what broke at which radius, and the numbers that follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from audit.api import Claim, Measurement, Tally
from audit.attacks.census import SAME
from audit.toolkit.norms import Norm, radius_with_slack
from audit.toolkit.statistics import proportion
from probes.evasion.config import DRAWS, VOTES, AttackName, EvasionConfig, finders

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Everything found in one norm; row i of every array is position i of the split.

    Attributes:
        norm: which.
        eps: radii in canonical form, ascending.
        attacks: the plan's, in order.
        pixels: values of an image.
        arrays: see `Samples.arrays`, joined; `shown_rows` are positions. Those of `census.Census`, with that prefix,
            have a row for each right sample.
        values: sums over units of what was counted.
    """

    norm: Norm
    eps: tuple[str, ...]
    attacks: tuple[AttackName, ...]
    pixels: int
    arrays: Mapping[str, npt.NDArray[Any]]
    values: Mapping[str, int]

    @classmethod
    def join(cls, config: EvasionConfig, norm: Norm, pixels: int, tallies: Sequence[Tally]) -> Outcome:
        """The tallies of consecutive chunks."""
        starts = np.cumsum([0] + [len(tally.arrays["labels"]) for tally in tallies])
        parts = [
            dict(tally.arrays) | {"shown_rows": tally.arrays["shown_rows"] + start}
            for tally, start in zip(tallies, starts, strict=False)
        ]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        values = {name: sum(int(tally.values[name]) for tally in tallies) for name in tallies[0].values}
        return cls(norm, config.radii(norm), config.attacks, pixels, arrays, values)

    @property
    def n(self) -> int:
        """Samples examined."""
        return len(self.arrays["labels"])

    @property
    def correct(self) -> Mask:
        """Samples that are right without an attack."""
        return self.arrays["clean_correct"].astype(bool)

    def robust(self, index: int) -> Mask:
        """Samples that are right and that nothing broke, nor drove to NaN, up to this radius."""
        whole = np.minimum(self.arrays["broken"], self.arrays["broke_down"]) > index
        return np.asarray(self.correct & whole)

    def robust_within(self, radius: float) -> Mask:
        """The same up to any radius, listed or not."""
        nearest = np.minimum(self.arrays["distance"], self.arrays["down_distance"])
        return np.asarray(self.correct & (nearest > radius_with_slack(radius, self.norm, self.pixels) * (radius > 0)))

    def fooled(self, index: int) -> Mask:
        """Right samples with a verified adversarial example up to this radius."""
        return np.asarray(self.correct & (self.arrays["broken"] <= index))

    def withstood_noise(self, index: int) -> Mask:
        """Right samples that one draw of noise a radius did not break, up to this radius."""
        return np.asarray(self.correct & (self.arrays["by_noise"] > index))

    def attack_name(self, row: int) -> str:
        """What broke a sample; empty where nothing did."""
        place = int(self.arrays["attack"][row])
        return "" if place < 0 else finders(self.attacks)[place]

    def place(self, finder: str) -> int:
        """Where the array `attack` means this one."""
        return finders(self.attacks).index(finder)


def measurements(outcome: Outcome, config: EvasionConfig, num_classes: int) -> Iterator[Measurement]:
    """Accuracy and success at every radius of a norm."""
    assumptions = (
        f"attacks: {config.attack_text(num_classes)}",
        "white-box, pixels in [0, 1] before rounding to 8 bits, every candidate verified in float32",
        "not robust: wrong without an attack, a tie at the top, or driven to NaN",
        *_by_votes(outcome),
    )
    n, n_correct = outcome.n, int(outcome.correct.sum())
    for index, eps in enumerate(outcome.eps):
        where = {"norm": outcome.norm, "eps": eps}
        robust, fooled = int(outcome.robust(index).sum()), int(outcome.fooled(index).sum())
        yield Measurement(
            metric="evasion.robust_accuracy",
            where=dict(where),
            value=robust / n,
            n=n,
            claim=Claim.UPPER_BOUND,
            interval=proportion(robust, n),
            assumptions=assumptions,
        )
        yield Measurement(
            metric="evasion.attack_success",
            where=dict(where),
            value=fooled / n_correct,
            n=n_correct,
            claim=Claim.LOWER_BOUND,
            interval=proportion(fooled, n_correct),
            assumptions=(*assumptions, "among samples that are right without an attack"),
        )
    yield from _survival(outcome)


def clean_accuracy(outcome: Outcome) -> Measurement:
    """Accuracy without an attack on the same samples."""
    right = int(outcome.correct.sum())
    return Measurement(
        metric="evasion.clean_accuracy",
        value=right / outcome.n,
        n=outcome.n,
        claim=Claim.ESTIMATE,
        interval=proportion(right, outcome.n),
        assumptions=("a tie at the top is not correct", *_by_votes(outcome)),
    )


def _by_votes(outcome: Outcome) -> tuple[str, ...]:
    """How a sample is right where answers change from call to call; see `units.attack_chunk`."""
    if not (outcome.arrays["census_changed"] > SAME).any():
        return ()
    return (f"the model answers at random: right is what most of {VOTES} calls say, gradients are means of {DRAWS}",)


def _survival(outcome: Outcome) -> Iterator[Measurement]:
    broken = outcome.fooled(len(outcome.eps) - 1)
    if broken.any():
        kept, n = int(outcome.arrays["survives_8bit"][broken].sum()), int(broken.sum())
        yield Measurement(
            metric="evasion.survives_8bit",
            where={"norm": outcome.norm},
            value=kept / n,
            n=n,
            claim=Claim.ESTIMATE,
            interval=proportion(kept, n),
            assumptions=("of each sample's nearest example, in the smallest of the listed balls that holds it",),
        )
