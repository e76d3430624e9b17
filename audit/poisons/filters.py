"""Class-wise convolution (CUDA): every class's images are blurred by a filter of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from audit.api import IntArray
from audit.poisons.recipe import NONE, Choice, Kind, some

Filters = npt.NDArray[np.float64]

LARGE_SIDE = 64
"""Up to this side filters are 3 x 3; from it on about a 25th of the side."""


def filter_size(side: int) -> int:
    """The published sizes: 3 at 32 pixels, 9 at 224; odd, and about a 25th of the side above 64."""
    return 3 if side <= LARGE_SIDE else max(3, 2 * round((side / 25 - 1) / 2) + 1)


def blur_for(size: int) -> float:
    """The published strengths: 0.3 at 3 x 3, 0.06 at 9 x 9; between and beyond, of about the same sum of taps."""
    return {3: 0.3, 9: 0.06}.get(size, 4.0 / size**2)


def key_filters(key: int, classes: int, size: int, blur: float) -> Filters:
    """The filters of a key: (classes, size, size) float64, taps uniform in [0, blur) but one random tap of 1.

    Drawn in the order of the authors' code, with numpy's legacy generator: of each class three channels' taps, of which
    the first channel's serve for all, then row and column of the tap.

    Source: Sadasivan, Soltanolkotabi & Feizi 2023, CUDA, section 4 and code, arXiv 2303.04278.
    """
    drawn = np.random.RandomState(key)
    filters = np.empty((classes, size, size))
    for label in range(classes):
        taps = drawn.uniform(0, blur, (3, 1, size, size))[0, 0]
        taps[drawn.randint(size), drawn.randint(size)] = 1.0
        filters[label] = taps
    return filters


def filtered(images: Tensor, filters: Tensor) -> Tensor:
    """Each image (n, c, h, w) with a filter of its own (n, k, k), over black borders, and scaled to a maximum of 1.

    Correlation, as frameworks call it convolution. An image of zeros stays as it is.
    """
    n, channels, height, width = images.shape
    size = filters.shape[-1]
    weight = filters.to(images).repeat_interleave(channels, dim=0)[:, None]
    made = conv2d(images.reshape(1, n * channels, height, width), weight, padding=size // 2, groups=n * channels)
    made = made.reshape(images.shape)
    return made / made.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(made.dtype).tiny)


@dataclass(frozen=True, slots=True)
class Cuda:
    """Class-wise convolution.

    Source: Sadasivan, Soltanolkotabi & Feizi 2023, CUDA, arXiv 2303.04278.
    Differs from source: a fraction below 1 is a drawn number of images of each class, in place of a coin for each; and
    borders are padded by half of the filter whatever its size.

    Attributes:
        key: the secret.
        fraction: of each class's images.
        size: side of the filters; 0 for the published one of this image size.
        blur: largest tap but for the one; 0 for the published one of this filter size.
        only: classes that are poisoned; empty for all.
        shared: the sham: every class gets the first filter.
    """

    key: int = 0
    fraction: float = 1.0
    size: int = 0
    blur: float = 0.0
    only: tuple[int, ...] = ()
    shared: bool = False
    truncates: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return "universal-blur" if self.shared else "cuda"

    @property
    def kind(self) -> Kind:
        """See `Recipe`."""
        return "sham" if self.shared else "shortcut"

    def filters(self, classes: int, side: int) -> Filters:
        """The filter of every class, (classes, k, k)."""
        size = self.size or filter_size(side)
        found = key_filters(self.key, 1 if self.shared else classes, size, self.blur or blur_for(size))
        return found.repeat(classes, axis=0) if self.shared else found

    def choose(self, labels: IntArray, classes: int, rng: np.random.Generator) -> Choice:
        """See `Recipe`."""
        wanted = self.only or range(classes)
        parts = [some(np.flatnonzero(labels == label), self.fraction, rng) for label in wanted]
        chosen = np.sort(np.concatenate([NONE, *parts]))
        return Choice(chosen, labels[chosen], NONE)

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        filters = self.filters(int(labels.max()) + 1, images.shape[-1])  # a key's first filters hang on no later class
        return filtered(images, torch.from_numpy(filters).to(images.dtype)[labels])
