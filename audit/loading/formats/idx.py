"""`mnist:DIR_OR_FILE[?split=train]`: the idx files of MNIST and its relatives, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from audit.errors import DataError, UsageError
from audit.loading.formats.arrays import ArrayImages, image_shape, inspect_rows, sniff_layout
from audit.loading.formats.labels import checked_labels
from audit.loading.formats.rows import ByteStream, Rows
from audit.loading.sources import Dataset, Problems, assemble, existing, listed, split_query

PREFIX = {"test": "t10k", "train": "train"}
MAGIC_UINT8 = b"\x00\x00\x08"
GZIP_MAGIC = b"\x1f\x8b"


def recognises(path: Path) -> bool:
    """Whether this is named like an idx file, or a folder with some."""
    return "-ubyte" in path.name or (path.is_dir() and any(path.glob("*-images?idx3-ubyte*")))


def open_mnist(location: str) -> Dataset:
    """A pair of idx files of 8-bit images (n, h, w) and labels: of a folder the `t10k` pair, unless `?split=train`.

    Raises:
        UsageError: for an option other than `split`, or one beside a file.
        DataError: when a file of the pair is missing, truncated or not in idx format.
    """
    place, options = split_query(location, {"split": tuple(PREFIX)})
    path = existing(place, "a folder with idx files")
    if path.is_file() and options:
        raise UsageError(f"Expected ?split= after a folder, got it after the file {path.name}. Leave it out.")
    images_file = path if path.is_file() else _images_file(path, PREFIX[options.get("split", "test")])
    rows, labels = _read(images_file, 3), _read(_labels_file(images_file), 1)
    problems = Problems()
    checked = checked_labels(labels.whole(), labels.name, problems)
    inspection = inspect_rows(rows, problems)
    problems.check()
    layout = sniff_layout(rows.shape, rows.name)
    return assemble(
        ArrayImages(rows, layout, scale=inspection.scale),
        checked,
        inspection.ids,
        native_shape=image_shape(rows.shape, layout),
        notes=inspection.notes,
    )


def _images_file(folder: Path, prefix: str) -> Path:
    found = sorted(folder.glob(f"{prefix}-images?idx3-ubyte*"))
    if not found:
        names = sorted(entry.name for entry in folder.iterdir())
        raise DataError(
            f"Expected {prefix}-images-idx3-ubyte or the same with .gz in {str(folder)!r}, "
            f"got {listed(names) or 'an empty folder'}. Check the folder, or choose ?split=train or ?split=test."
        )
    return found[0]


def _labels_file(images_file: Path) -> Path:
    stem = images_file.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    for name in (stem, f"{stem}.gz"):
        if (images_file.parent / name).is_file() and name != images_file.name:
            return images_file.parent / name
    raise DataError(
        f"Expected the labels of {images_file.name} in {stem} or {stem}.gz beside it, got neither. "
        "Name the images file, and put the labels beside it."
    )


def _read(path: Path, n_axes: int) -> Rows:
    file = path.open("rb")
    try:
        if file.peek(2)[:2] != GZIP_MAGIC:
            shape = _shape(file, n_axes, path.name)
            return Rows(file.fileno(), file.tell(), shape, np.dtype(np.uint8), path.name, file)
        with gzip.open(file) as stream:
            return Rows.spooled(stream, _shape(stream, n_axes, path.name), np.dtype(np.uint8), path.name)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"Expected a whole idx file, got {path.name}, which cannot be read ({error}). Download it again."
        ) from error


def _shape(stream: ByteStream, n_axes: int, name: str) -> tuple[int, ...]:
    """The shape that the header states, which is read off the stream."""
    header = stream.read(4 + 4 * n_axes)
    if header[:4] != MAGIC_UINT8 + bytes([n_axes]) or len(header) < 4 + 4 * n_axes:
        raise DataError(
            f"Expected an idx file of uint8 with {n_axes} axes, got {name} that begins with {header[:4].hex()!r}. "
            "Name the images file (idx3-ubyte), with the labels (idx1-ubyte) beside it."
        )
    return tuple(np.frombuffer(header, dtype=">u4", offset=4).tolist())
