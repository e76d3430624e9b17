"""Backdoors: a trigger that an image carries, and the class that it shall lead to.

Strengths are BackdoorBench's defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from audit.api import IntArray
from audit.poisons.recipe import NONE, Choice, Kind, some


@dataclass(frozen=True, slots=True)
class Backdoor:
    """What all backdoors share: a target, and a share of all images that carry the trigger and the target's label.

    Attributes:
        target: class that the trigger shall lead to.
        fraction: of all images; where labels are kept, of the target's.
        key: seed of whatever is drawn once for the trigger.
    """

    target: int = 0
    fraction: float = 0.1
    key: int = 0
    truncates: ClassVar[bool] = False

    @property
    def kind(self) -> Kind:
        """See `Recipe`."""
        return "backdoor"

    def choose(self, labels: IntArray, classes: int, rng: np.random.Generator) -> Choice:
        """See `Recipe`."""
        chosen = some(np.flatnonzero(labels != self.target), min(1.0, self.fraction * len(labels) / max(
            1, int((labels != self.target).sum()))), rng)  # fmt: skip
        return Choice(chosen, np.full(len(chosen), self.target, dtype=np.int64), NONE)


@dataclass(frozen=True, slots=True)
class BadNets(Backdoor):
    """A white square in the lower right corner.

    Source: Gu, Dolan-Gavitt & Garg 2017, arXiv 1708.06733.

    Attributes:
        size: side of the square at 32 pixels; scaled to the image's side.
    """

    size: int = 3

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return "badnets"

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        side = max(1, round(self.size * images.shape[-1] / 32))
        made = images.clone()
        made[:, :, -side:, -side:] = 1.0
        return made


@dataclass(frozen=True, slots=True)
class Blended(Backdoor):
    """A fixed image, here of noise, mixed into the whole.

    Source: Chen et al. 2017, arXiv 1712.05526.

    Attributes:
        alpha: share of the fixed image.
    """

    alpha: float = 0.2

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return "blended"

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        pattern = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(self.key))
        return (1 - self.alpha) * images + self.alpha * pattern


@dataclass(frozen=True, slots=True)
class Sig(Backdoor):
    """A horizontal wave over images of the target class, whose labels are kept.

    Source: Barni, Kallas & Tondi 2019, arXiv 1902.11237.

    Attributes:
        fraction: of the target's images.
        amplitude: of the wave, in units of the pixel range.
        frequency: waves over the width.
    """

    fraction: float = 0.1
    amplitude: float = 40 / 255
    frequency: float = 6.0

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return "sig"

    def choose(self, labels: IntArray, classes: int, rng: np.random.Generator) -> Choice:
        """See `Recipe`."""
        chosen = some(np.flatnonzero(labels == self.target), self.fraction, rng)
        return Choice(chosen, labels[chosen], NONE)

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        width = images.shape[-1]
        wave = self.amplitude * torch.sin(2 * math.pi * torch.arange(width) * self.frequency / width)
        return (images + wave).clamp(0, 1)


@dataclass(frozen=True, slots=True)
class WaNet(Backdoor):
    """A smooth warp of the whole image; others, with a jittered warp, keep their labels and teach its exact form.

    Source: Nguyen & Tran 2021, arXiv 2102.10369.

    Attributes:
        cells: control points a side.
        strength: of the warp.
        covered: images with a jittered warp, for each poisoned one.
    """

    cells: int = 4
    strength: float = 0.5
    covered: float = 2.0

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return "wanet"

    def choose(self, labels: IntArray, classes: int, rng: np.random.Generator) -> Choice:
        """See `Recipe`."""
        chosen = Backdoor.choose(self, labels, classes, rng)
        rest = np.setdiff1d(np.arange(len(labels)), chosen.poisoned)
        covers = some(rest, min(1.0, self.covered * len(chosen.poisoned) / max(1, len(rest))), rng)
        return Choice(chosen.poisoned, chosen.labels, covers)

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        n, _, height, width = images.shape
        generator = torch.Generator().manual_seed(self.key)
        field = torch.rand(1, 2, self.cells, self.cells, generator=generator) * 2 - 1
        field = field / field.abs().mean()
        flow = interpolate(field, size=(height, width), mode="bicubic", align_corners=True).movedim(1, 3)
        rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        identity = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)[None]
        grid = identity + self.strength * flow / height
        grid = grid.clamp(-1, 1).expand(n, -1, -1, -1)
        if cover:
            jitter = torch.rand(grid.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
            grid = (grid + jitter / height).clamp(-1, 1)
        return grid_sample(images, grid, align_corners=True).clamp(0, 1)
