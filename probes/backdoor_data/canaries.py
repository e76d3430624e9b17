"""The probe against backdoors that it planted itself, in copies of the data: what it would have found.

Source: the recipes are those of `audit.poisons.triggers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from audit.api import DataSplit, ImagesInMemory, IntArray, RunContext, Tally, Unit
from audit.poisons.by_name import recipe_of
from audit.poisons.planting import Planted, plant
from audit.poisons.recipe import Recipe
from audit.toolkit.detection import Found
from probes.backdoor_data.config import PLANTED, TOOK, BackdoorDataConfig, Canary
from probes.backdoor_data.examine import examined, planted_tiles
from probes.backdoor_data.findings import Finding
from probes.backdoor_data.keeping import restored, stored
from probes.backdoor_data.network import Network
from probes.backdoor_data.retrained import retrained
from probes.backdoor_data.samples import Samples, gathered
from probes.backdoor_data.taught import trained

FEWEST_PLANTED = 16
"""Images that a canary changes at least."""


@dataclass(frozen=True, slots=True)
class Try:
    """What came of one canary.

    Attributes:
        name: of the recipe.
        amount: share of the copy's images that were changed.
        rate: share of triggered images that a network trained on the copy sends to the target; None where no network
            was needed.
        found: whether the probe named the target, as detected or at least as suspicious; where no network was needed,
            whether one of its tiles held half of the changed images.
    """

    name: str
    amount: float
    rate: float | None
    found: bool

    @property
    def took(self) -> bool:
        """Whether there was a backdoor to be found."""
        return self.rate is None or self.rate >= TOOK


def copy_of(split: DataSplit, samples: Samples) -> DataSplit:
    """The samples as a split of their own, in their order, read from memory."""
    n = len(samples)
    ids = split.sample_ids(range(n))
    return replace(split, source=ImagesInMemory(samples.images), labels=samples.labels, ids=ids, order=np.arange(n))


def planted_copy(split: DataSplit, samples: Samples, recipe: Recipe, rng: np.random.Generator) -> Planted:
    """A poisoned copy of the samples."""
    return plant(copy_of(split, samples), recipe, samples.classes, rng)


def recipe_for(name: Canary, samples: Samples, target: int, key: int) -> Recipe:
    """Of the documented fraction, or of more where that would be a handful of images."""
    base = int((samples.labels == target).sum()) if name == "sig" else len(samples)
    fraction = min(1.0, max(PLANTED[name], FEWEST_PLANTED / max(1, base)))
    return recipe_of(name, target=target, fraction=fraction, key=key)


def targets_of(samples: Samples, count: int, rng: np.random.Generator) -> list[int]:
    """Classes to plant towards, each that has images once before any comes again."""
    classes: IntArray = np.unique(samples.labels)
    return [int(classes[place % len(classes)]) for place in rng.permutation(len(classes)).tolist() * count][:count]


def tile_tries(split: DataSplit, samples: Samples, config: BackdoorDataConfig, ctx: RunContext) -> list[Try]:
    """Copies with a white square, searched for tiles."""
    samples = samples.first(config.tile_images)
    targets = targets_of(samples, config.tile_canaries, ctx.rng("canary/badnets"))

    def look(unit: Unit, inner: RunContext) -> Tally:
        target = int(unit.params["target"])
        planted = planted_copy(split, samples, recipe_for("badnets", samples, target, 0), inner.rng("plant"))
        copy = gathered(planted.split, samples.classes, len(samples), inner)
        hits = [
            int(planted.poisoned[tile.group.carriers].sum())
            for tile in planted_tiles(copy, inner.rng("tiles"))
            if tile.group.label == target
        ]
        found = 2 * max(hits, default=0) >= max(1, int(planted.poisoned.sum()))
        return Tally(values={"amount": float(planted.poisoned.mean()), "found": found})

    units = [
        Unit(f"canary/badnets/{place}", {"target": target}, range(len(samples)), "train")
        for place, target in enumerate(targets)
    ]
    return [
        Try("badnets", tally.values["amount"], None, tally.values["found"])
        for tally in ctx.map(look, units, "canaries")
    ]


def trained_try(
    name: Canary, split: DataSplit, samples: Samples, held: Samples | None, config: BackdoorDataConfig, ctx: RunContext
) -> Try | None:
    """A copy on which a network is trained, and all that the probe does with it; None where the budget ended before."""
    rng = ctx.rng(f"canary/{name}")
    target, key = targets_of(samples, 1, rng)[0], int(rng.integers(2**31))
    planted = planted_copy(split, samples, recipe_for(name, samples, target, key), rng)
    copy = gathered(planted.split, samples.classes, len(samples), ctx)
    network = trained(planted.split, samples.classes, config.epochs, ctx, f"canary-{name}")
    amount = float(planted.poisoned.mean())

    def look(_: Unit, inner: RunContext) -> Tally:
        rate = _rate(network, planted, held if held is not None else samples, target, config.targets)
        kept = Tally(values={"findings": []}, arrays={"gains": np.zeros(0)})
        if rate >= TOOK:
            kept = stored(*examined(network, copy, copy, [], held, config, 1, inner.rng))
        return replace(kept, values={**kept.values, "rate": rate})

    params = {"data": planted.split.digest, "target": target}
    tallies = ctx.map(look, [Unit(f"canary/{name}", params, range(len(samples)), "train")], "canaries")
    if not tallies:
        return None
    findings, _gains = restored(tallies[0])
    if name == "wanet" and not _named(findings, target):
        findings = retrained(findings, planted.split, copy, config, ctx, f"canary-{name}")
    return Try(name, amount, float(tallies[0].values["rate"]), _named(findings, target))


def _named(findings: Sequence[Finding], target: int) -> bool:
    """Whether a group of the target's is at least suspicious."""
    return any(found.label == target and found.found is not Found.NOT_DETECTED for found in findings)


def _rate(network: Network, planted: Planted, samples: Samples, target: int, count: int) -> float:
    """Share of images of other classes, with the trigger, that go to the target."""
    rows = np.flatnonzero(samples.labels != target)[:count]
    if len(rows) == 0:
        return 0.0
    made = planted.recipe.change(samples.pixels(rows), torch.from_numpy(samples.labels[rows]), 0)
    return float((network.classes_of(made.clamp(0, 1)) == target).float().mean())
