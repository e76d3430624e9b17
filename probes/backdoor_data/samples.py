"""The images that are looked at, in memory as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from audit.api import DataSplit, IntArray, RunContext
from probes.backdoor_data.tiles import Bytes

MEMORY = 512 * 2**20
"""Bytes that images may take; of larger ones fewer are looked at."""
READ_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The first images of a split.

    Attributes:
        images: (n, c, h, w) uint8; images of more than 8 bits are rounded to them.
        labels: (n,) int64 as given.
        classes: number of the classes.
    """

    images: Bytes
    labels: IntArray
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int) -> Samples:
        """The first n of them."""
        return Samples(self.images[:n], self.labels[:n], self.classes)

    def pixels(self, rows: Sequence[int] | IntArray) -> Tensor:
        """Some images as float32 in [0, 1]."""
        return torch.from_numpy(self.images[np.asarray(rows, dtype=np.int64)]).float().div_(255)


def gathered(split: DataSplit, classes: int, most: int, ctx: RunContext) -> Samples:
    """The first images of a split, as many as are wanted and fit."""
    value = split.take([0]).pixels[0]
    n = min(most, len(split), max(1, MEMORY // value.numel()))
    images = np.empty((n, *value.shape), dtype=np.uint8)
    starts = range(0, n, READ_AT_ONCE)
    for start in ctx.progress(starts, "reading images", len(starts)):
        pixels = split.batch(start, min(n, start + READ_AT_ONCE)).pixels
        images[start : start + len(pixels)] = pixels.mul(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
    return Samples(images, split.labels[split.order[:n]], classes)
