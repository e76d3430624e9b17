"""What a training asks of the model on each batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from audit.toolkit.modes import evaluating
from audit.training.config import AdversarialConfig
from audit.training.inner import worst_case
from audit.training.placing import Placed


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A batch of a training.

    Attributes:
        pixels: (n, c, h, w) in [0, 1], augmented.
        labels: (n,).
        generator: on the CPU, for whatever is drawn.
        done: share of all steps before this one, in [0, 1).
    """

    pixels: Tensor
    labels: Tensor
    generator: torch.Generator
    done: float


class Objective(Protocol):
    """Gives the loss of a batch, and the loss by which held-out images are judged."""

    def loss(self, placed: Placed, shown: Shown) -> tuple[Tensor, Tensor]:
        """Mean loss, with the graph, and which rows (n,) the model had right, on the images that it was shown."""

    def held_out(self, logits: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
        """Sum of the losses of clean images, given their logits."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Cross-entropy to the labels.

    Attributes:
        smoothing: share of the target that is spread over all classes.
        temperature: by which logits are divided.
    """

    smoothing: float = 0.0
    temperature: float = 1.0

    def loss(self, placed: Placed, shown: Shown) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        logits = placed(shown.pixels)
        loss = cross_entropy(logits / self.temperature, shown.labels, label_smoothing=self.smoothing)
        return loss, logits.argmax(dim=1) == shown.labels

    def held_out(self, logits: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
        """See `Objective`."""
        return cross_entropy(logits / self.temperature, labels, reduction="sum")


@dataclass(frozen=True, slots=True)
class WorstCase:
    """Cross-entropy to the labels, on worst-case images."""

    config: AdversarialConfig

    def loss(self, placed: Placed, shown: Shown) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        config = self.config
        steps = config.steps if config.recipe == "pgd" else 1
        with evaluating(placed.model):
            images = worst_case(
                placed, shown.pixels, shown.labels, norm=config.norm, eps=config.radius, steps=steps,
                step=config.relative_step, generator=shown.generator,
            )  # fmt: skip
        logits = placed(images)
        loss = cross_entropy(logits, shown.labels, label_smoothing=config.label_smoothing)
        return loss, logits.argmax(dim=1) == shown.labels

    def held_out(self, logits: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
        """See `Objective`."""
        return cross_entropy(logits, labels, reduction="sum")


@dataclass(frozen=True, slots=True)
class Teacher:
    """Cross-entropy to a teacher's answers, both at one temperature.

    Source: Papernot et al. 2016, section IV, arXiv 1511.04508.
    Differs from source: the teacher is asked anew on every batch, so that augmented images get answers of their own.

    Attributes:
        answers: the teacher's logits of pixels, without a graph.
        temperature: by which all logits are divided.
    """

    answers: Callable[[Tensor], Tensor]
    temperature: float

    def loss(self, placed: Placed, shown: Shown) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        logits = placed(shown.pixels)
        loss = cross_entropy(logits / self.temperature, self._soft(shown.pixels))
        return loss, logits.argmax(dim=1) == shown.labels

    def held_out(self, logits: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
        """See `Objective`."""
        return cross_entropy(logits / self.temperature, self._soft(pixels), reduction="sum")

    def _soft(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return (self.answers(pixels).float() / self.temperature).softmax(dim=1)
