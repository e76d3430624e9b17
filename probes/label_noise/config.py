"""Settings of the label-noise probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from audit.api import Estimate, ProbeConfig, Role
from audit.training.config import TrainingConfig

FEWEST_IMAGES = 60
"""Fewer cannot be cut in folds that are trained on."""
FEWEST_OF_A_CLASS = 20
"""Images of a class from which on what is found of it is taken for something."""
SECONDS_AN_IMAGE = 1.5e-3
"""Of one epoch of the small network at 32 x 32 pixels on one core; measured on CIFAR-10 with others at work beside."""


class LabelNoiseConfig(ProbeConfig):
    """Who judges the labels, how many of them, and how much noise matters."""

    samples: int = Field(default=5_000, ge=FEWEST_IMAGES)
    """First images of the permuted order; fewer when the split is shorter."""
    source: Literal["fresh", "subject"] = "fresh"
    """Whose answers judge the labels: those of small networks that are trained here, each on the other folds, or the
    subject's. The subject's are out of sample only if it was not trained on these images: say `subject` only then."""
    folds: int = Field(default=3, ge=2, le=20)
    """Parts of the images, each judged by a network that was trained on the others."""
    epochs: int = Field(default=12, ge=1)
    """Of each training."""
    augmentation: Literal["none", "flip", "crop", "flip-crop"] = "none"
    """Of training images: none, flip (left and right; not where that changes the class), crop or flip-crop."""
    canaries: float = Field(default=0.03, gt=0, le=0.1)
    """Share of labels that is flipped in a seeded copy, to any other class, and as many again to the class that is
    confused with it most; at least 20 of each kind, up to a tenth of the images."""
    least_rate: float = Field(default=0.02, gt=0, lt=1)
    """Rate of wrong labels that matters: what is not shown to be above it is not called detected."""
    most_rate: float = Field(default=0.1, gt=0, lt=1)
    """Upper bound from which on the labels are too hard for the networks for saying that nothing was found."""
    aum: bool = True
    """Whether the area under the margin is measured too, by one training more."""
    shown: int = Field(default=12, ge=0)
    """Worst labels that are listed."""
    show_images: bool = False
    """Whether they are shown, too: images of training data may be private."""

    def training(self, n: int) -> TrainingConfig:
        """Of the small networks, on about n images: smaller batches where there are few."""
        return TrainingConfig(
            epochs=self.epochs, batch_size=max(16, min(128, n // 24)), augmentation=self.augmentation,
            precision="float32", compile="off",
        )  # fmt: skip

    def flipped(self, n: int) -> float:
        """Share of n labels that is flipped in the copy, of each kind."""
        return max(self.canaries, min(0.1, 20 / n))


def cost(config: LabelNoiseConfig, sizes: Mapping[Role, int]) -> Estimate:
    """Three sets of networks, of labels as they are and of two copies, and the margins."""
    n = min(sizes.get("train", 0), config.samples)
    trained = (config.folds - 1) * (3 if config.source == "fresh" else 0) + int(config.aum)
    asked = n + sizes.get("clean", 0) if config.source == "subject" else 0
    return Estimate(forwards=asked, seconds=trained * n * config.epochs * SECONDS_AN_IMAGE)
