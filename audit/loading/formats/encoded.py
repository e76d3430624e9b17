"""Images that are stored encoded (PNG, JPEG, ...): in files, or spooled out of a container."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from audit.errors import DataError
from audit.loading.formats.decode import UndecodableError, decode, read_header
from audit.loading.sources import Problems, Shape, content_id, counted, listed

LARGEST_IMAGE = 64 << 20
"""Bytes of an encoded image."""
MAX_HEADERS = 20_000
"""Up to so many images every header is checked; of larger sets a seeded sample of so many."""


class Blobs(Protocol):
    """Random access to encoded images."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, index: int) -> bytes:
        """The encoded bytes.

        Raises:
            UndecodableError: when they can be no image, whatever they hold.
            OSError: when they are gone.
        """

    def name(self, index: int) -> str:
        """Where they came from, for messages."""


@dataclass(frozen=True, slots=True)
class Files:
    """Encoded images, a file each; `root` is left out of their names."""

    root: Path
    paths: Sequence[Path]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def read(self, index: int) -> bytes:
        """The file's bytes; a file that is empty or too large is not opened."""
        size = self.paths[index].stat().st_size
        if not 0 < size <= LARGEST_IMAGE:
            raise UndecodableError(f"{size:,} bytes, more than {LARGEST_IMAGE:,}" if size else "empty file")
        return self.paths[index].read_bytes()

    def name(self, index: int) -> str:
        """The path below the root."""
        path = self.paths[index]
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


class EncodedImages:
    """Encoded images, decoded one at a time as `audit.loading.formats.decode` says.

    Args:
        blobs: the images.
        upright: whether they are turned as their EXIF orientation says.
    """

    def __init__(self, blobs: Blobs, *, upright: bool = False) -> None:
        self._blobs = blobs
        self._upright = upright

    def __len__(self) -> int:
        """Number of images."""
        return len(self._blobs)

    def name(self, index: int) -> str:
        """A file, or a row of one."""
        return self._blobs.name(index)

    def image(self, index: int) -> Image.Image:
        """The image in mode `L` or `RGB`.

        Raises:
            DataError: when it is damaged or gone.
        """
        try:
            return decode(self._blobs.read(index), upright=self._upright)
        except (UndecodableError, OSError) as error:
            raise DataError(
                f"Expected an image that can be decoded, got {self.name(index)} ({error}). "
                "Replace or remove it and run again."
            ) from error


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one pass over encoded images found: a content id each, the shape they share or None, and remarks."""

    ids: tuple[str, ...]
    native_shape: Shape | None
    notes: tuple[str, ...]


def inspect(blobs: Blobs, problems: Problems, *, upright: bool = False) -> Inspection:
    """Hashes every image and checks the headers, of all or of a seeded sample of `MAX_HEADERS`; decodes none.

    Images that cannot be read are noted in `problems`, and the ids are then not to be used. `upright` is that of
    `EncodedImages`.
    """
    ids: list[str] = []
    damaged: list[str] = []
    shapes: Counter[Shape] = Counter()
    turned = 0
    with_header = _headers_to_check(len(blobs))
    for index in range(len(blobs)):
        try:
            encoded = blobs.read(index)
            ids.append(content_id(encoded))
            if index in with_header:
                header = read_header(encoded, upright=upright)
                shapes[header.shape] += 1
                turned += header.turned
        except OSError as error:
            damaged.append(f"{blobs.name(index)} ({error.strerror})")
        except UndecodableError as error:
            damaged.append(f"{blobs.name(index)} ({error})")
    if damaged:
        problems.add(
            f"Expected images that can be decoded, got {counted(len(damaged), 'damaged one')} of {len(blobs):,}: "
            f"{listed(damaged)}. Replace or remove them."
        )
    notes = (*_shape_notes(shapes), *_turned_notes(turned, shapes.total(), upright=upright))
    return Inspection(tuple(ids), next(iter(shapes)) if len(shapes) == 1 else None, notes)


def _headers_to_check(n: int) -> Collection[int]:
    if n <= MAX_HEADERS:
        return range(n)
    return frozenset(np.random.default_rng(0).choice(n, MAX_HEADERS, replace=False).tolist())


def _turned_notes(turned: int, n: int, *, upright: bool) -> tuple[str, ...]:
    if not turned:
        return ()
    how = (
        "are turned accordingly, as Hugging Face's datasets does"
        if upright
        else ("are read as they are stored, as torchvision does")
    )
    return (f"{turned:,} of {counted(n, 'checked image')} say in EXIF that they are to be turned: they {how}.",)


def _shape_notes(shapes: Counter[Shape]) -> tuple[str, ...]:
    notes = []
    areas = sorted({(height, width) for _, height, width in shapes}, key=lambda size: size[0] * size[1])
    if len(areas) > 1:
        (low, left), (high, right) = areas[0], areas[-1]
        notes.append(f"Images differ in size, from {low}x{left} to {high}x{right} (height x width).")
    n_grey = sum(count for shape, count in shapes.items() if shape[0] == 1)
    if 0 < n_grey < shapes.total():
        notes.append(f"{n_grey:,} of {counted(shapes.total(), 'checked image')} are grey, the others in colour.")
    return tuple(notes)
