"""`mnist:DIR_OR_FILE[?split=train]`, `fashion-mnist:...`: the idx files of MNIST and its relatives, gzipped or not.

Source: LeCun, Cortes and Burges, the MNIST database; Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747, table 2, for the
class names of Fashion-MNIST.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from audit.errors import DataError, UsageError
from audit.loading.formats.arrays import ArrayImages, image_shape, inspect_rows, sniff_layout
from audit.loading.formats.labels import checked_labels
from audit.loading.formats.rows import ByteStream, Rows
from audit.loading.sources import Dataset, Problems, assemble, existing, listed, split_query

PREFIX = {"test": "t10k", "train": "train"}
BELOW, BELOW_FASHION = ("raw", "MNIST/raw", "KMNIST/raw"), ("raw", "FashionMNIST/raw")
"""Where torchvision puts the files below its root."""
MAGIC_UINT8 = b"\x00\x00\x08"
GZIP_MAGIC = b"\x1f\x8b"
FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
FASHION_SHAPE = (28, 28)
MNIST_LABELS = ((7, 2, 1, 0, 4, 1, 4, 9, 5, 9), (5, 0, 4, 1, 9, 2, 1, 3, 1, 4))
"""The first labels of MNIST's test and training files."""


def recognises(path: Path) -> bool:
    """Whether this is named like an idx file, or a folder with some."""
    return "-ubyte" in path.name or (path.is_dir() and any(path.glob("*-images?idx3-ubyte*")))


def recognises_fashion(path: Path) -> bool:
    """Whether such a file or folder says fashion in its name; the files of both sets are named alike."""
    return "fashion" in f"{path.parent.name}/{path.name}".lower() and recognises(path)


def open_mnist(location: str) -> Dataset:
    """A pair of idx files of 8-bit images (n, h, w) and labels: of a folder the `t10k` pair, unless `?split=train`.

    Raises:
        UsageError: for an option other than `split`, or one beside a file.
        DataError: when a file of the pair is missing, truncated or not in idx format.
    """
    return _open(*_read_pair(location, BELOW), Problems())


def open_fashion_mnist(location: str) -> Dataset:
    """Such a pair with the ten class names of Fashion-MNIST, its images 28 x 28.

    MNIST's files have the same names and shapes, so only the pixels tell which set lies in a folder. What begins with
    MNIST's labels is noted; anything else is taken for what the spec says.

    Raises:
        UsageError: for an option other than `split`, or one beside a file.
        DataError: as of `open_mnist`, and for images of another size or labels of 10 or more.
    """
    rows, labels = _read_pair(location, BELOW_FASHION)
    problems = Problems()
    if rows.shape[1:] != FASHION_SHAPE:
        size = "x".join(map(str, rows.shape[1:]))
        problems.add(
            f"Expected images of 28x28 pixels for fashion-mnist, got {size} in {rows.name}. "
            "Use mnist: for other idx files; it takes any size."
        )
    dataset = _open(rows, labels, problems, FASHION)
    if tuple(dataset.labels[:10].tolist()) not in MNIST_LABELS:
        return dataset
    note = f"The labels in {labels.name} begin as those of MNIST's digits do. Is mnist: meant?"
    return replace(dataset, notes=(*dataset.notes, note))


def _read_pair(location: str, below: Sequence[str]) -> tuple[Rows, Rows]:
    """Images and labels, of a folder or of one below it."""
    place, options = split_query(location, {"split": tuple(PREFIX)})
    path = existing(place, "a folder with idx files")
    if not recognises(path):
        path = next((path / name for name in below if recognises(path / name)), path)
    if path.is_file() and options:
        raise UsageError(f"Expected ?split= after a folder, got it after the file {path.name}. Leave it out.")
    images_file = path if path.is_file() else _images_file(path, PREFIX[options.get("split", "test")])
    return _read(images_file, 3), _read(_labels_file(images_file), 1)


def _open(rows: Rows, labels: Rows, problems: Problems, class_names: Sequence[str] = ()) -> Dataset:
    checked = checked_labels(labels.whole(), labels.name, problems)
    inspection = inspect_rows(rows, problems)
    problems.check()
    layout = sniff_layout(rows.shape, rows.name)
    return assemble(
        ArrayImages(rows, layout, scale=inspection.scale),
        checked,
        inspection.ids,
        class_names=class_names,
        native_shape=image_shape(rows.shape, layout),
        notes=inspection.notes,
    )


def _images_file(folder: Path, prefix: str) -> Path:
    found = sorted(path for path in folder.glob(f"{prefix}-images?idx3-ubyte*") if path.is_file())
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
            shape = _shape(stream, n_axes, path.name)
            return Rows.spooled(stream, shape, np.dtype(np.uint8), path.name, stored=path.stat().st_size)
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
