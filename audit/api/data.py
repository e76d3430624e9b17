"""Data splits, batches and predictions, as probes see them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Role = Literal["eval", "train", "members", "nonmembers", "forget", "clean", "surrogate"]
FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some samples of a split.

    Attributes:
        pixels: (n, c, h, w) float32 in [0, 1], already resized and cropped to the subject's input.
        labels: (n,) int64.
        positions: places in the split's permutation, (n,).
    """

    pixels: Tensor
    labels: Tensor
    positions: Sequence[int]


class ImageSource(Protocol):
    """Random access to decoded images; implemented by `audit.loading`, one class a format."""

    def __len__(self) -> int:
        """Number of samples."""

    def pixels(self, index: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
        """Sample `index` as (c, h, w), brought to the subject's size and channels: uint8, or float32 in [0, 1]."""


@runtime_checkable
class StoredSource(Protocol):
    """An `ImageSource` that also gives images as they are stored."""

    def stored(self, index: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
        """Sample `index` as (c, h, w) of its own size, before it was resized or cropped."""


@dataclass(frozen=True, slots=True, eq=False)
class ImagesInMemory:
    """An `ImageSource` of images that have been read.

    Attributes:
        images: (c, h, w) each, uint8 or float32 in [0, 1]; an array (n, c, h, w) will do.
    """

    images: Sequence[npt.NDArray[np.uint8] | npt.NDArray[np.float32]] | npt.NDArray[np.uint8]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def pixels(self, index: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
        """See `ImageSource`."""
        found: npt.NDArray[np.uint8] | npt.NDArray[np.float32] = self.images[index]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class DataSplit:
    """A labelled set in a fixed seeded order; any prefix of that order is a valid random sample.

    Attributes:
        source: where images are read when needed; nothing is kept.
        labels: (n_total,) int64, in file order.
        ids: content hashes, in file order.
        order: the seeded permutation of file positions, cut to what the run may use: (n,) int64.
        role: what the split may be used for.
        digest: sha256 over ids and labels of the whole set.
        class_names: names found in the data, or empty.
    """

    source: ImageSource
    labels: IntArray
    ids: Sequence[str]
    order: IntArray
    role: Role
    digest: str
    spec: str = ""
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of samples the run may use."""
        return len(self.order)

    def batch(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop` of the permuted order, decoded now."""
        return self.take(range(start, min(stop, len(self))))

    def take(self, positions: Sequence[int]) -> Batch:
        """The samples at these positions of the permuted order, decoded now."""
        rows = self.order[np.asarray(positions, dtype=np.int64)]
        images = np.stack([self.source.pixels(int(row)) for row in rows])
        pixels = torch.from_numpy(images)
        pixels = pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.float()
        return Batch(pixels, torch.from_numpy(self.labels[rows]), positions)

    def stored(self, positions: Sequence[int]) -> list[npt.NDArray[np.uint8] | npt.NDArray[np.float32]]:
        """The images at these positions, (c, h, w) each, of their own size and as yet neither resized nor cropped.

        Where a source does not know them, those that the subject sees.
        """
        read = self.source.stored if isinstance(self.source, StoredSource) else self.source.pixels
        return [read(int(row)) for row in self.order[np.asarray(positions, dtype=np.int64)]]

    def sample_ids(self, positions: Sequence[int]) -> list[str]:
        """Content hashes of the samples at these positions."""
        return [self.ids[row] for row in self.rows(positions)]

    def rows(self, positions: Sequence[int]) -> list[int]:
        """Where the samples at these positions lie in the data as given, from 0, in file order."""
        return [int(self.order[position]) for position in positions]

    def found_in(self, other: DataSplit) -> int:
        """How many of these samples are, by content, in another split as well."""
        theirs = set(other.sample_ids(range(len(other))))
        return sum(identity in theirs for identity in self.sample_ids(range(len(self))))

    def first(self, n: int) -> DataSplit:
        """The split cut to its first n samples of the order."""
        return dataclasses.replace(self, order=self.order[:n])


Data = Mapping[Role, DataSplit]
"""Splits by role; a probe that needs `data:eval` finds `data["eval"]`."""


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """The subject's answers on the first n samples of a split.

    Attributes:
        logits: (n, num_classes) float32, finite.
        labels: (n,) int64.
    """

    logits: npt.NDArray[np.float32]
    labels: IntArray

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)
