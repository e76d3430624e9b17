"""Settings of the backdoor-data probe, and what counts as large enough.

The constants were chosen on scikit-learn's digits and on 4,000 images of CIFAR-10 (drawn with seed 1), poisoned towards
class 3 with key 1, and looked at again with other seeds, keys and targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from audit.api import Estimate, ProbeConfig, Role

FEWEST_IN_CLASS = 50
"""Images of a class below which its features are not split."""
FEWEST_CARRIERS = 8
"""Images that a tile or a cluster must have to count as one."""
TILE_PURITY = 0.8
"""Share of a tile's carriers that must be of one class. A trigger's are; natural tiles of CIFAR-10 mostly below 0.6."""
CONTRADICTION = 0.6
"""How far the content of a group must be that of other classes. Planted dirty labels gave 0.9 to 1.3; tiles
that digits and CIFAR-10 have by themselves at most 0.4, but small clusters of digits up to 0.95."""
FOREIGN = 0.9
"""Contradiction of a group that says that their content is foreign altogether. Natural clusters of digits of 40 images
or more had 0.6 to 0.89, one of CIFAR-10 0.81; planted warps that a network had learned 0.9 to 1.1."""
TELLING = 0.1
"""By how much larger the share of a class must be near its own images than near those of others, for content to say
that a group is foreign."""
GAIN = 0.4
"""Log-likelihood that a second Gaussian must add per image of a class. CIFAR-10's own classes gave at most 0.26;
digits' up to 0.5, in clusters of 20 images; triggers that a network had learned on CIFAR-10 0.58 and more."""
FAR_APART = 0.8
"""Gain from which on a cluster that contradicts its label is suspicious where no retraining refutes it. A cluster of 18
digits had 0.5 by nature."""
TRANSFER = 0.5
"""Share of images of other classes that must follow a group's residual to its class."""
COMPARED = 0.3
"""Share from which on a residual is compared with its controls, and may be suspicious. Natural clusters of CIFAR-10 had
at most 0.24 (20 classes of two clean sets), triggers that were learned 0.34 and more."""
TAUGHT = 0.4
"""By how much more of a group's images a network must give its class for having been shown others of the group."""
TOOK = 0.8
"""Share of triggered images that must go to the target for a planted trigger to count as learned."""

SIDE = 32
"""Pixels across, of images whose cost is known."""
WORK = 10 * 4000 * SIDE * SIDE
"""Pixels that a training looks at in any case: 10 epochs of 4,000 images of 32 pixels a side."""
LONGER = 3
"""Times as many epochs as asked for that small images may be trained. Ten epochs of 900 digits left a network that took
a style of ones for no ones at all, and knew a blended trigger in none of six tries; thirty knew it in five."""

Canary = Literal["badnets", "blended", "sig", "wanet"]
PLANTED: dict[Canary, float] = {"badnets": 0.01, "blended": 0.01, "sig": 0.2, "wanet": 0.1}
"""Fractions of canaries: of all images, with sig of the target's."""


class BackdoorDataConfig(ProbeConfig):
    """How many images are looked at, and how hard the probe tries itself."""

    samples: int = Field(default=10_000, ge=100)
    """First images of the permuted order that are scanned for tiles; fewer where they would not fit into 512 MB."""
    trained: int = Field(default=4000, ge=100)
    """First of them whose features are examined, and on which networks are trained."""
    epochs: int = Field(default=10, ge=2)
    """Of every network that is trained; up to three times as many where images are few and small."""
    groups: int = Field(default=3, ge=1, le=10)
    """Clusters of a network's features that are put to the test, the most separate first; as many groups of images that
    carry a tile, and as many of relabelled ones."""
    candidates: int = Field(default=50, ge=8)
    """Images of a cluster whose mean makes its residual."""
    targets: int = Field(default=200, ge=50)
    """Images of other classes that a residual is added to."""
    retrained: int = Field(default=1, ge=0)
    """Groups against their labels, far apart or foreign altogether, for which two networks each are trained where no
    residual transfers."""
    controls: int = Field(default=99, ge=99)
    """Control residuals for each group that is tested."""
    bootstrap: int = Field(default=199, ge=99)
    """Simulated classes without clusters that a separate one is compared with."""
    canaries: tuple[Canary, ...] = ("badnets", "blended", "sig", "wanet")
    """Backdoors that are planted in copies, of which the probe must find what it claims to. Each but badnets takes a
    training, and wanet as many more as `retrained` says where it is learned."""
    tile_canaries: int = Field(default=10, ge=1)
    """Copies with a planted patch, each with another target."""
    tile_images: int = Field(default=4000, ge=100)
    """Images of such a copy."""
    show_images: bool = False
    """Whether suspected training images are shown; else only their ids are listed. Estimated triggers always are."""


def epochs_for(images: int, pixels: int, epochs: int) -> int:
    """As many epochs as asked for, and more where images are so few and small that these are little work."""
    return max(epochs, min(LONGER * epochs, WORK // max(1, images * pixels)))


def cost(config: BackdoorDataConfig, sizes: Mapping[Role, int]) -> Estimate:
    """Passes through the subject for features and transfer, and seconds for scans and small networks.

    About a thousand images a second are trained on, and scanned, on one core at 32 pixels. Retrainings are counted,
    though only a group takes them whose content contradicts its labels.
    """
    found = sizes.get("train", 0)
    scanned, trained = min(found, config.samples), min(found, config.trained)
    trainings = 1 + sum(name != "badnets" for name in config.canaries)
    trainings += 2 * config.retrained * (1 + ("wanet" in config.canaries))
    copies = config.tile_canaries if "badnets" in config.canaries else 0
    epochs = epochs_for(trained, SIDE * SIDE, config.epochs)
    seconds = (scanned + copies * min(found, config.tile_images) + trainings * trained * epochs) / 1000
    return Estimate(forwards=trained + config.groups * config.targets, seconds=seconds)
