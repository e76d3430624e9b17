"""Whether the images of a group teach one another's label: what tells a warp or any other trigger that cannot be added.

Two small networks are trained, one on all but a quarter of a group, one without any of it. A trigger that the others
taught gives the kept quarter its class; without it their content decides. Mistaken labels teach nothing of the kind. A
natural part of a class is known by its content either way, or taken for the one class that it is most like. Copies of
kept images are kept as well.

Alone it is a reason for suspicion and no proof: of 25 handwritten ones of a style of their own, 12 that were kept from
both networks got their label 11 times where the others had been shown, and once where not, by their nature. These were
like one another; where the content of all together is like that of several other classes, no style explains it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from audit.api import DataSplit, IntArray, RunContext
from audit.toolkit.statistics import lower_limit, upper_limit
from audit.training.config import TrainingConfig
from audit.training.quick import fitted, quick_net
from audit.training.recipes import standard
from audit.training.units import batch_size_for
from probes.backdoor_data.config import TAUGHT, TRANSFER, epochs_for
from probes.backdoor_data.content import Content, copies
from probes.backdoor_data.network import Network, own
from probes.backdoor_data.samples import Samples

FEWEST_KEPT = 20
"""Kept images below which nothing is told."""
KEPT = 0.25
"""Share of a group that is kept, where that is as many. Of the fixture `wanet`, seeds 300 and 301, half of the group
did not teach the warp in one; three quarters did in both."""
SPREAD = 0.5
"""Most of the kept images that lose the class may go to one other. A natural part of a class, when it was never shown,
is taken for the one or two classes that it resembles; images relabelled from all classes go back to all of them."""


@dataclass(frozen=True, slots=True)
class Taught:
    """How many of n kept images get the class.

    Attributes:
        shown: from the network that was shown the group's others.
        unshown: from the one that was not.
        n: kept images of the group.
        most: of the kept images that the second network gives other classes, those of the commonest.
    """

    shown: int
    unshown: int
    n: int
    most: int

    @property
    def differs(self) -> bool:
        """Whether it is the others that make the difference: a large one, and beyond both intervals."""
        if self.n < FEWEST_KEPT or (self.shown - self.unshown) / self.n < TAUGHT:
            return False
        return lower_limit(self.shown, self.n) > upper_limit(self.unshown, self.n)

    @property
    def strong(self) -> bool:
        """Whether they also teach it most of the time, and images that lose the class go to many others."""
        scattered = self.most <= SPREAD * (self.n - self.unshown)
        return self.differs and scattered and self.shown >= TRANSFER * self.n

    def refutes(self, foreign: bool) -> bool:
        """Whether the others make no difference: the images get the class without them, or do not get it with them.

        Where their content is foreign and they get the class without them, more of the same may have been left to
        teach it, and nothing is refuted.
        """
        none = self.n >= FEWEST_KEPT and (self.shown - self.unshown) / self.n < TAUGHT
        return none and not (foreign and self.unshown >= TRANSFER * self.n)


def training_config(images: int, pixels: int, epochs: int) -> TrainingConfig:
    """Of every network that the probe trains on so many images of so many pixels."""
    return TrainingConfig(epochs=epochs_for(images, pixels, epochs), batch_size=batch_size_for(images))


def trained(
    split: DataSplit, classes: int, epochs: int, ctx: RunContext, name: str, images: int | None = None
) -> Network:
    """A small network that was trained on a split, for as long as one of so many images, or of its own number.

    Raises:
        Inconclusive: `budget` when time ended before.
    """
    _, height, width = split.take([0]).pixels.shape[1:]
    config = training_config(images or len(split), height * width, epochs)
    net = quick_net(split, classes, ctx, f"backdoor-data/{name}")
    return own(fitted(standard(net, split, config, name), ctx), ctx.device)


def taught(
    split: DataSplit, samples: Samples, group: IntArray, label: int, epochs: int, ctx: RunContext, name: str
) -> Taught:
    """Trains both networks; rows of the group are positions of the split, of which the samples are the first images.

    Raises:
        Inconclusive: `budget` when time ended before both were trained.
    """
    rng = ctx.rng(f"taught/{name}")
    drawn = rng.permutation(group)
    kept = drawn[: max(min(FEWEST_KEPT, len(drawn) // 2), round(KEPT * len(drawn)))]
    near = copies(Content.of(samples.images, samples.labels, samples.classes).without(None), kept, group)
    answers = []
    for which, without in (("kept", np.concatenate([kept, near])), ("all", group)):
        rows = np.setdiff1d(np.arange(len(samples)), without)
        part = replace(split, order=split.order[rows])
        network = trained(part, samples.classes, epochs, ctx, f"{name}-without-{which}", len(samples))
        answers.append(network.classes_of(samples.pixels(kept)).numpy())
    shown, unshown = (int((found == label).sum()) for found in answers)
    elsewhere = answers[1][(answers[1] != label) & (answers[1] >= 0)]
    return Taught(shown, unshown, len(kept), int(np.bincount(elsewhere).max(initial=0)))
