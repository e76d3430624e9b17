"""Fine patterns that the images of one class share, pixel by pixel: additive noise and patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from audit.api import DataSplit, IntArray
from audit.toolkit.statistics import lower_limit
from probes.shortcuts.traces import SMALLEST

CLIPPED = 0.1
"""Fine detail is cut off here, so that few images with much of it do not make a pattern."""
BORDER = 2
"""Lines left out, which a filter changes by itself."""
USUAL, AT_ONCE = 0.95, 512
MOST = 3 * 10**7
"""Values of all classes' sums that are kept in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What the mean image of a class has that those of other classes lack.

    Attributes:
        label: the class.
        fine: root mean square of its fine part over the image, from two halves, so without what chance leaves.
        ratio: that over the same of its coarse part; drawings that lie alike have fine and coarse parts that belong
            together.
        agreement: correlation of the fine parts of the two halves.
        pattern: (c, h, w) the mean image less the median of all classes' mean images.
        halves: (2, c, h, w) the same of the fine part, of either half.
    """

    label: int
    fine: float
    ratio: float
    agreement: float
    pattern: npt.NDArray[np.float32]
    halves: npt.NDArray[np.float32]


def split_fine(images: Tensor) -> tuple[Tensor, Tensor]:
    """Fine and coarse part of images (n, c, h, w): what a mean of 3 x 3 pixels takes away, and what it leaves."""
    coarse = avg_pool2d(pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images - coarse, coarse


class Sums:
    """Sums of images by class and half, from which templates are made; they add up."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        self.count = np.zeros((2, classes), dtype=np.int64)
        self.fine, self.whole = (np.zeros((2, classes, *shape), dtype=np.float32) for _ in range(2))

    def add(self, images: Tensor, labels: IntArray, second: npt.NDArray[np.bool_]) -> None:
        """Images (n, c, h, w) in [0, 1] of labels and halves (n,)."""
        fine = split_fine(images)[0].clamp(-CLIPPED, CLIPPED).numpy()
        np.add.at(self.count, (second.astype(np.int64), labels), 1)
        for place, (half, label) in enumerate(zip(second.astype(np.int64), labels, strict=True)):
            self.fine[half, label] += fine[place]
            self.whole[half, label] += images[place].numpy()

    def templates(self) -> list[Template]:
        """Of every class that has images in both halves."""
        present = np.flatnonzero((self.count > 0).all(axis=0))
        if len(present) < 2:
            return []
        count = self.count[:, present][:, :, None, None, None]
        fine, whole = (
            (of - np.median(of, axis=1, keepdims=True)).astype(np.float32)
            for of in (self.fine[:, present] / count, self.whole[:, present] / count)
        )
        inner = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER)) if fine.shape[-1] > 3 * BORDER else (...,)
        coarse = split_fine(torch.from_numpy(whole.reshape(-1, *whole.shape[2:])))[1].numpy().reshape(whole.shape)
        return [
            _template(
                int(label), fine[:, place], fine[:, place][inner], coarse[:, place][inner], whole[:, place].mean(axis=0)
            )
            for place, label in enumerate(present)
        ]


def _template(
    label: int,
    halves: npt.NDArray[np.float32],
    fine: npt.NDArray[np.float32],
    coarse: npt.NDArray[np.float32],
    pattern: npt.NDArray[np.float32],
) -> Template:
    shared, size = float((fine[0] * fine[1]).mean()), float(np.sqrt((fine[0] ** 2).mean() * (fine[1] ** 2).mean()))
    large = float(np.sqrt(max(0.0, float((coarse[0] * coarse[1]).mean()))))
    strength = float(np.sqrt(max(0.0, shared)))
    return Template(label, strength, strength / max(large, 1e-6), shared / max(size, 1e-12), pattern, halves)


@dataclass(frozen=True, slots=True)
class Carriers:
    """How many images of a class carry its fine pattern.

    Attributes:
        label: the class.
        hits, n: images more like it than 19 in 20 images of other classes are, of so many.
    """

    label: int
    hits: int
    n: int

    @property
    def share(self) -> float:
        """Estimated, of the class's images."""
        return max(0.0, (self.hits / self.n - 1 + USUAL) / USUAL)

    @property
    def lower(self) -> float:
        """Lower limit of it, 99 %."""
        return max(0.0, (lower_limit(self.hits, self.n, 0.99) - 1 + USUAL) / USUAL)


def carriers(
    split: DataSplit, labels: IntArray, second: npt.NDArray[np.bool_], found: Sequence[Template]
) -> list[Carriers]:
    """Of the split's first images, each compared with the pattern of the half that it is not of."""
    patterns = torch.from_numpy(np.stack([template.halves for template in found])).flatten(2)
    scores = []
    for start in range(0, len(labels), AT_ONCE):
        batch = split.batch(start, min(start + AT_ONCE, len(labels)))
        fine = split_fine(batch.pixels)[0].clamp(-CLIPPED, CLIPPED).flatten(1)
        both = torch.einsum("np,khp->nkh", fine, patterns)
        half = torch.from_numpy(second[start : start + AT_ONCE].astype(np.int64))
        scores.append(both[torch.arange(len(half)), :, 1 - half].numpy())
    score = np.concatenate(scores)
    counted = []
    for place, template in enumerate(found):
        mine = labels == template.label
        limit = np.quantile(score[~mine, place], USUAL)
        counted.append(Carriers(template.label, int((score[mine, place] > limit).sum()), int(mine.sum())))
    return counted


def can_be_averaged(split: DataSplit, classes: int) -> bool:
    """Whether sums of all classes' images can be kept, and images are large enough to have a fine and a coarse part."""
    image = split.batch(0, 1).pixels[0]
    return min(image.shape[1:]) >= SMALLEST and 4 * classes * image.numel() <= MOST
