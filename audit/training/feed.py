"""Images of a split, batch after batch: on the device where they fit, else in memory, else decoded in time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from audit.api import DataSplit
from audit.training.config import Augmentation
from audit.training.context import TrainingContext

SHARE_OF_DEVICE, SHARE_OF_MEMORY = 0.3, 0.25
"""Of what is free on a GPU, and of what the machine has, that images may take."""
MARGIN = 8
"""A crop moves an image by up to one of so many parts of its side."""
READ_AT_ONCE, MANY = 256, 5000
"""Images between two signs of progress, and from how many on these are given."""


class Feed:
    """Some samples of a split, to be taken by their place among them.

    Attributes:
        labels: (n,) int64, on the device.
        kept: where the images are: `device`, `memory` or, decoded each time anew, `source`.
    """

    def __init__(self, split: DataSplit, positions: Sequence[int], ctx: TrainingContext) -> None:
        self._split, self._positions, self._device = split, np.asarray(positions, dtype=np.int64), ctx.device
        rows = split.order[self._positions]
        self.labels = torch.from_numpy(split.labels[rows]).to(ctx.device)
        self.kept = _where(split, rows, ctx.device)
        self._images = self._read_all(ctx) if self.kept != "source" else None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._positions)

    def batches(self, order: Tensor, size: int, *, drop_single: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels (m, c, h, w) float32 in [0, 1] and labels (m,), on the device, for consecutive parts of an order.

        Args:
            order: (k,) int64, places among the samples.
            size: of a part.
            drop_single: whether a last part of one image is left out: batch normalisation cannot be trained on it.
        """
        parts = [part for part in torch.split(order, size) if len(part) > drop_single]
        if self._images is not None:
            for part in parts:
                images = self._images[part.to(self._images.device)].to(self._device, non_blocking=True)
                yield _as_pixels(images), self.labels[part.to(self._device)]
            return
        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
            ahead: Future[Tensor] | None = None
            for place, part in enumerate(parts):
                images = ahead.result() if ahead else self._decoded(part)
                ahead = pool.submit(self._decoded, parts[place + 1]) if place + 1 < len(parts) else None
                yield _as_pixels(images.to(self._device, non_blocking=True)), self.labels[part.to(self._device)]

    def _decoded(self, part: Tensor) -> Tensor:
        rows = self._split.order[self._positions[part.numpy()]]
        return torch.from_numpy(np.stack([self._split.source.pixels(int(row)) for row in rows]))

    def _read_all(self, ctx: TrainingContext) -> Tensor:
        parts = list(torch.split(torch.arange(len(self)), READ_AT_ONCE))
        shown = parts if len(self) < MANY else ctx.progress(parts, "reading images", len(parts))
        images = [self._decoded(part) for part in shown]
        kept = torch.cat(images)
        return kept.to(self._device) if self.kept == "device" else kept


def _where(split: DataSplit, rows: np.ndarray[tuple[int], np.dtype[np.int64]], device: torch.device) -> str:
    """Where so many images of the size of the first one fit."""
    needed = split.source.pixels(int(rows[0])).nbytes * len(rows)
    if device.type == "cuda" and needed <= SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    if needed <= SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        return "memory" if device.type == "cuda" else "device"
    return "source"


def _as_pixels(images: Tensor) -> Tensor:
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def augmented(pixels: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w) flipped and moved at random, each on its own; black comes in from outside.

    Args:
        pixels: in [0, 1], on any device.
        kind: which of the two.
        generator: on the CPU, so that every device sees the same.
    """
    n, _, height, width = pixels.shape
    if kind in ("flip", "flip-crop"):
        flip = torch.rand(n, generator=generator) < 0.5
        pixels = torch.where(flip.to(pixels.device)[:, None, None, None], pixels.flip(3), pixels)
    if kind in ("crop", "flip-crop"):
        down, right = max(1, height // MARGIN), max(1, width // MARGIN)
        tops = torch.randint(0, 2 * down + 1, (n, 1), generator=generator) + torch.arange(height)
        lefts = torch.randint(0, 2 * right + 1, (n, 1), generator=generator) + torch.arange(width)
        padded = torch.nn.functional.pad(pixels, (right, right, down, down)).movedim(1, 3)
        rows = torch.arange(n)[:, None, None]
        places = [index.to(pixels.device) for index in (rows, tops[:, :, None], lefts[:, None, :])]
        pixels = padded[places[0], places[1], places[2]].movedim(3, 1)
    return pixels
