"""Labels that are flipped in a copy: how many of them the probe flags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from audit.api import Data, DataSplit, RunContext, Subject
from audit.poisons.flips import Flips
from audit.poisons.planting import plant
from probes.label_noise.config import LabelNoiseConfig
from probes.label_noise.judging import Judged, confused, judged


@dataclass(frozen=True, slots=True)
class Flipped:
    """What became of labels that were flipped in a copy.

    Attributes:
        to: `uniform` or `confused`.
        flagged, n: of so many.
        rate: limit on the rate of wrong labels that the copy got.
        planted: share that was flipped on top.
    """

    to: str
    flagged: int
    n: int
    rate: float
    planted: float


def flipped(
    subject: Subject, data: Data, split: DataSplit, first: Judged, config: LabelNoiseConfig, ctx: RunContext
) -> list[Flipped]:
    """A copy with labels flipped to any other class, and one to the class most confused; judged anew.

    Raises:
        Inconclusive: when time ended before networks were trained.
    """
    share = config.flipped(len(split))
    pairs = tuple(confused(first.given, first.labels).tolist())
    recipes = {"uniform": Flips(share), "confused": Flips(share, "given", pairs)}
    found = []
    for to, recipe in recipes.items():
        copy = plant(split, recipe, subject.num_classes, ctx.rng(f"flips/{to}"))
        again = judged(subject, data, copy.split, config, ctx, f"copy-{to}")
        flagged = int(again.confident.suspects[copy.poisoned].sum())
        found.append(Flipped(to, flagged, int(copy.poisoned.sum()), again.bound.limit, float(np.mean(copy.poisoned))))
    return found
