"""Class-wise shortcuts other than filters: noise and patches that every class has a form of its own of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from audit.api import IntArray
from audit.poisons.recipe import NONE, Choice, Kind, some


@dataclass(frozen=True, slots=True)
class Classwise:
    """What these share.

    Attributes:
        key: seed of every class's form.
        fraction: of each class's images.
    """

    key: int = 0
    fraction: float = 1.0
    truncates: ClassVar[bool] = False

    @property
    def kind(self) -> Kind:
        """See `Recipe`."""
        return "shortcut"

    def choose(self, labels: IntArray, classes: int, rng: np.random.Generator) -> Choice:
        """See `Recipe`."""
        parts = [some(np.flatnonzero(labels == label), self.fraction, rng) for label in range(classes)]
        chosen = np.sort(np.concatenate([NONE, *parts]))
        return Choice(chosen, labels[chosen], NONE)

    def generator(self, label: int) -> torch.Generator:
        """Of what is drawn for a class."""
        return torch.Generator().manual_seed(int(np.random.SeedSequence([self.key, label]).generate_state(1)[0]))


@dataclass(frozen=True, slots=True)
class ClassNoise(Classwise):
    """Additive noise, one sign pattern a class, in blocks (linearly separable shortcuts).

    Source: Yu et al. 2022, Availability Attacks Create Shortcuts, arXiv 2111.00898.
    Differs from source: random signs in blocks, in place of a Gaussian cloud's points.

    Attributes:
        eps: of every pixel, in units of the pixel range.
        block: side of what gets one sign.
    """

    eps: float = 8 / 255
    block: int = 4

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return "class-noise"

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        _, channels, height, width = images.shape
        made = images.clone()
        for label in sorted(set(labels.tolist())):
            cells = (channels, -(-height // self.block), -(-width // self.block))
            signs = torch.rand(cells, generator=self.generator(label)).sub(0.5).sign()
            pattern = interpolate(signs[None], scale_factor=self.block, mode="nearest")[0, :, :height, :width]
            rows = labels == label
            made[rows] = (images[rows] + self.eps * pattern).clamp(0, 1)
        return made


@dataclass(frozen=True, slots=True)
class ClassPatch(Classwise):
    """A small patch of noise at a place of the class's own.

    Source: the one-pixel shortcut (Wu et al. 2023, arXiv 2205.12141) with a larger patch.

    Attributes:
        size: side of the patch at 32 pixels; scaled to the image's side.
    """

    size: int = 3

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return "class-patch"

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        _, channels, height, width = images.shape
        side = max(1, round(self.size * width / 32))
        made = images.clone()
        for label in sorted(set(labels.tolist())):
            generator = self.generator(label)
            top = int(torch.randint(height - side + 1, (), generator=generator))
            left = int(torch.randint(width - side + 1, (), generator=generator))
            rows = torch.nonzero(labels == label)[:, 0]
            patch = torch.rand(channels, side, side, generator=generator).round()
            made[rows, :, top : top + side, left : left + side] = patch
        return made
