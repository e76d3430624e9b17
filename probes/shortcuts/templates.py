"""Fine patterns that the images of one class share, pixel by pixel: additive noise and patches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from audit.api import DataSplit, IntArray
from audit.toolkit.statistics import lower_limit
from probes.shortcuts.reference import FEWEST_OF_CLASS
from probes.shortcuts.stamps import Stamp, stamp_of
from probes.shortcuts.traces import SMALLEST

CLIPPED = 0.1
"""Fine detail is cut off here, so that few images with much of it do not make a pattern."""
BORDER = 2
"""Lines left out, which a filter changes by itself."""
LEVEL, AROUND = 0.15, 5
"""A pixel is flat where those around it, so many across, differ by less than this; noise of 8/255 does not hinder."""
MOSTLY, FEWEST_FLAT = 0.2, 30
"""Share of a class's images in which a pixel is flat, for it to count; and how many such pixels make a pattern."""
USUAL, AT_ONCE = 0.95, 512
COMPARED = 10_000
"""First images that are compared one by one with patterns."""
MARGIN, MARGINS = 0.9, 0.05
"""Share of all images that are flat at a place for it to be a margin, and the most margin that photographs have."""
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
        flat: as `fine`, over pixels of images that are flat there: drawings have none of it, additive noise has all.
        flat_agreement: as `agreement`, of those.
        stamp: a patch that the class may have at one place.
        pattern: (c, h, w) what to put on other images: of a patch, the mean image less the median of all classes' mean
            images, there alone; else the fine part of that, as the coarse part is what the images show.
        halves: (2, c, h, w) the fine part, of either half; of a patch, there alone.
    """

    label: int
    fine: float
    ratio: float
    agreement: float
    flat: float
    flat_agreement: float
    stamp: Stamp
    pattern: npt.NDArray[np.float32]
    halves: npt.NDArray[np.float32]


def split_fine(images: Tensor) -> tuple[Tensor, Tensor]:
    """Fine and coarse part of images (n, c, h, w): what a mean of 3 x 3 pixels takes away, and what it leaves."""
    coarse = avg_pool2d(pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images - coarse, coarse


def flat_places(images: Tensor) -> Tensor:
    """Where images (n, c, h, w) are flat: (n, 1, h, w) of 0 and 1."""
    padded = pad(images, (AROUND // 2,) * 4, mode="replicate")
    highest, minus_lowest = (max_pool2d(of, AROUND, stride=1) for of in (padded, -padded))
    return ((highest + minus_lowest).amax(dim=1, keepdim=True) < LEVEL).float()


SUMMED = ("count", "fine", "whole", "level", "flat")


class Sums:
    """Sums of images by class and half, from which templates are made; they add up."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        self.count = np.zeros((2, classes), dtype=np.int64)
        self.fine, self.whole, self.level = (np.zeros((2, classes, *shape), dtype=np.float32) for _ in range(3))
        self.flat = np.zeros((2, classes, 1, *shape[1:]), dtype=np.float32)

    def add(self, images: Tensor, labels: IntArray, second: npt.NDArray[np.bool_]) -> None:
        """Images (n, c, h, w) in [0, 1] of labels and halves (n,); values that are not finite count as black."""
        images = images.nan_to_num(0.0, 0.0, 0.0)
        fine = split_fine(images)[0].clamp(-CLIPPED, CLIPPED).numpy()
        flat = flat_places(images).numpy()
        np.add.at(self.count, (second.astype(np.int64), labels), 1)
        for place, (half, label) in enumerate(zip(second.astype(np.int64), labels, strict=True)):
            self.fine[half, label] += fine[place]
            self.whole[half, label] += images[place].numpy()
            self.flat[half, label] += flat[place]
            self.level[half, label] += flat[place] * fine[place]

    def arrays(self) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]:
        """All of them, to be stored."""
        return {name: getattr(self, name) for name in SUMMED}

    @staticmethod
    def of(arrays: Mapping[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]) -> Sums:
        """Those that were stored."""
        _, classes, *shape = arrays["fine"].shape
        found = Sums(classes, tuple(shape))
        for name in SUMMED:
            setattr(found, name, arrays[name])
        return found

    def templates(self) -> list[Template]:
        """Of every class that has enough images, some in either half."""
        present = np.flatnonzero((self.count > 0).all(axis=0) & (self.count.sum(axis=0) >= FEWEST_OF_CLASS))
        if len(present) < 2:
            return []
        count = self.count[:, present][:, :, None, None, None]
        means = [(of[:, present] / count).astype(np.float32) for of in (self.fine, self.whole)]
        usual = [np.median(of, axis=1, keepdims=True).astype(np.float32) for of in means]
        fine, whole = (of - middle for of, middle in zip(means, usual, strict=True))
        photographs = self.photographs
        stamps = [
            stamp_of(means[0][:, place], usual[0][:, 0], CLIPPED, photographs=photographs)
            for place in range(len(present))
        ]
        inner = (..., slice(BORDER, -BORDER), slice(BORDER, -BORDER)) if fine.shape[-1] > 3 * BORDER else (...,)
        coarse = split_fine(torch.from_numpy(whole.reshape(-1, *whole.shape[2:])))[1].numpy().reshape(whole.shape)
        level = _of_flat(self.level[:, present], self.flat[:, present], count)[inner]
        return [
            _template(
                int(label), fine[:, place], fine[:, place][inner], coarse[:, place][inner], level[:, place],
                whole[:, place].mean(axis=0), stamps[place],
            )
            for place, label in enumerate(present)
        ]  # fmt: skip

    @property
    def photographs(self) -> bool:
        """Whether hardly any place is flat in nearly all images, as the margins of drawings are."""
        flat = self.flat.sum(axis=(0, 1)) / max(1, int(self.count.sum()))
        return bool((flat > MARGIN).mean() <= MARGINS)


def _of_flat(
    level: npt.NDArray[np.float32], flat: npt.NDArray[np.float32], count: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Means (2, classes, c, h, w) of the fine part where images are flat, less their median; NaN where few are."""
    often = np.broadcast_to((flat >= MOSTLY * count).all(axis=0), level.shape)
    mean = np.where(often, level / np.maximum(flat, 1), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a pixel that is flat in no class has no median
        found: npt.NDArray[np.float32] = mean - np.nan_to_num(np.nanmedian(mean, axis=1, keepdims=True))
    return found


def _in_common(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Root mean square of what two patterns have in common, and their correlation."""
    shared, size = float((first * second).mean()), float(np.sqrt((first**2).mean() * (second**2).mean()))
    return float(np.sqrt(max(0.0, shared))), shared / max(size, 1e-12)


def _template(
    label: int,
    halves: npt.NDArray[np.float32],
    fine: npt.NDArray[np.float32],
    coarse: npt.NDArray[np.float32],
    level: npt.NDArray[np.float32],
    whole: npt.NDArray[np.float32],
    stamp: Stamp,
) -> Template:
    strength, agreement = _in_common(fine[0], fine[1])
    large, _ = _in_common(coarse[0], coarse[1])
    known = np.isfinite(level).all(axis=0)
    flat, flat_agreement = _in_common(level[0][known], level[1][known]) if known.sum() >= FEWEST_FLAT else (0.0, 0.0)
    pattern, kept = (whole * stamp.mask, halves * stamp.mask) if stamp.isolated else (halves.mean(axis=0), halves)
    return Template(label, strength, strength / max(large, 1e-6), agreement, flat, flat_agreement, stamp, pattern, kept)


@dataclass(frozen=True, slots=True, eq=False)
class Carriers:
    """Which images of a class carry its fine pattern.

    Attributes:
        label: the class.
        places: positions of images more like it than 19 in 20 images of other classes are.
        n: images of the class.
    """

    label: int
    places: IntArray
    n: int

    @property
    def hits(self) -> int:
        """How many."""
        return len(self.places)

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
        like = np.flatnonzero(mine & (score[:, place] > limit))
        if mine.any():
            counted.append(Carriers(template.label, like, int(mine.sum())))
    return counted


def can_be_averaged(split: DataSplit, classes: int) -> bool:
    """Whether sums of all classes' images can be kept, and images are large enough to have a fine and a coarse part."""
    image = split.batch(0, 1).pixels[0]
    return min(image.shape[1:]) >= SMALLEST and 7 * classes * image.numel() <= MOST
