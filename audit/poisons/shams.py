"""Changes that tell nothing of the class: a detector of poison must stay silent about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from audit.api import IntArray
from audit.poisons.recipe import NONE, Choice, Kind, some


@dataclass(frozen=True, slots=True)
class Sham:
    """What shams share: a share of all images, whatever their class.

    Attributes:
        fraction: of all images.
        key: seed of whatever is drawn once.
    """

    fraction: float = 1.0
    key: int = 0
    truncates: ClassVar[bool] = False

    @property
    def kind(self) -> Kind:
        """See `Recipe`."""
        return "sham"

    def choose(self, labels: IntArray, classes: int, rng: np.random.Generator) -> Choice:
        """See `Recipe`."""
        chosen = some(np.arange(len(labels)), self.fraction, rng)
        return Choice(chosen, labels[chosen], NONE)


@dataclass(frozen=True, slots=True)
class Brightness(Sham):
    """Every image a little brighter, and of less contrast."""

    shift: float = 0.1

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return "brightness"

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        return self.shift + (1 - self.shift) * images


@dataclass(frozen=True, slots=True)
class RandomPatch(Sham):
    """The same patch at the same place, on images of any class.

    Attributes:
        size: side of the patch at 32 pixels; scaled to the image's side.
    """

    fraction: float = 0.02
    size: int = 3

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return "random-patch"

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        _, channels, height, width = images.shape
        side = max(1, round(self.size * width / 32))
        generator = torch.Generator().manual_seed(self.key)
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        made = images.clone()
        made[:, :, top : top + side, left : left + side] = torch.rand(channels, side, side, generator=generator).round()
        return made
