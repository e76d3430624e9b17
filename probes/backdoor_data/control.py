"""The controls: a patch that leads to a class must be found in a copy, and one that hangs on no class must not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from audit.api import DataSplit, PositiveControl, RunContext, Tally, Unit
from audit.poisons.by_name import recipe_of
from audit.poisons.triggers import Backdoor
from probes.backdoor_data.canaries import FEWEST_PLANTED, planted_copy
from probes.backdoor_data.examine import planted_tiles
from probes.backdoor_data.samples import Samples, gathered

CONTROL_IMAGES = 2000
"""That the positive control uses at most."""
BY_CHANCE = 1e-8


@dataclass(frozen=True, slots=True)
class NoisePatch(Backdoor):
    """Black and white pixels in a square, at a place of the key's, on images that get the target's label."""

    size: int = 3

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return "noise-patch"

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        _, channels, height, width = images.shape
        generator = torch.Generator().manual_seed(self.key)
        top, left = (int(torch.randint(side - self.size + 1, (), generator=generator)) for side in (height, width))
        patch = torch.rand(channels, self.size, self.size, generator=generator).round()
        patch[:, 0, 0], patch[:, 0, 1] = 0.0, 1.0
        made = images.clone()
        made[:, :, top : top + self.size, left : left + self.size] = patch
        return made


def control(split: DataSplit, samples: Samples, ctx: RunContext) -> PositiveControl | None:
    """Whether a patch of noise in a copy is found, with its class; None where the budget ended before."""
    samples = samples.first(CONTROL_IMAGES)

    def look(_: Unit, inner: RunContext) -> Tally:
        rng = inner.rng("plant")
        present, sizes = np.unique(samples.labels, return_counts=True)
        target, key = int(present[np.argmin(sizes)]), int(rng.integers(2**31))
        fraction = _enough(samples, target) / len(samples)
        recipe = NoisePatch(target, fraction, key, size=min(3, *samples.images.shape[2:]))
        planted = planted_copy(split, samples, recipe, rng)
        copy = gathered(planted.split, samples.classes, len(samples), inner)
        hits = [
            int(planted.poisoned[tile.group.carriers].sum())
            for tile in planted_tiles(copy, inner.rng("tiles"))
            if tile.group.label == target
        ]
        return Tally(values={"planted": int(planted.poisoned.sum()), "hits": max(hits, default=0)})

    tallies = ctx.map(look, [Unit("control", positions=range(len(samples)), role="train")], "planted truth")
    if not tallies:
        return None
    planted, hits = tallies[0].values["planted"], tallies[0].values["hits"]
    return PositiveControl(
        name="planted-patch",
        passed=2 * hits >= max(1, planted),
        expected=f"most of {planted} images of a copy, on which a patch of noise was planted and whose labels were "
        "changed to one class, in a group of that class (the rarest)",
        observed=f"{hits} of {planted} found",
    )


def sham(split: DataSplit, samples: Samples, ctx: RunContext) -> PositiveControl | None:
    """Whether a patch on images of any class, whose labels stay, is passed over; None where the budget ended before."""
    samples = samples.first(CONTROL_IMAGES)

    def look(_: Unit, inner: RunContext) -> Tally:
        rng = inner.rng("plant")
        fraction = max(0.02, FEWEST_PLANTED / len(samples))
        recipe = recipe_of("random-patch", fraction=fraction, key=int(rng.integers(2**31)))
        planted = planted_copy(split, samples, recipe, rng)
        copy = gathered(planted.split, samples.classes, len(samples), inner)
        tiles = planted_tiles(copy, inner.rng("tiles"))
        alarms = sum(bool(planted.poisoned[tile.group.carriers].mean() >= 0.5) for tile in tiles)
        return Tally(values={"planted": int(planted.poisoned.sum()), "alarms": alarms})

    tallies = ctx.map(look, [Unit("sham", positions=range(len(samples)), role="train")], "planted truth")
    if not tallies:
        return None
    return PositiveControl(
        name="sham-patch",
        passed=tallies[0].values["alarms"] == 0,
        expected=f"no alarm about a patch on {tallies[0].values['planted']} images of a copy, of any class and with "
        "their own labels",
        observed=f"{tallies[0].values['alarms']} alarms",
    )


def _enough(samples: Samples, target: int) -> int:
    """Images to plant a patch on, so many that chance cannot have labelled all of them alike."""
    share = min(0.75, float((samples.labels == target).mean()) + 0.15)
    others = int((samples.labels != target).sum())
    wanted = max(0.02 * len(samples), FEWEST_PLANTED, math.log(BY_CHANCE) / math.log(share))
    return max(1, min(math.ceil(wanted), others // 2))
