"""What every data format is read into: images on demand, labels, content ids, and remarks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from audit.api import IntArray
from audit.errors import DataError, UsageError

Shape = tuple[int, int, int]
"""(channels, height, width)"""
RawImage = Image.Image | npt.NDArray[np.float32]
"""An 8-bit PIL image in mode `L` or `RGB`; or (c, h, w) float32 in [0, 1] where 8 bits would lose something."""

MAX_NAMED = 5
MAX_SHOWN = 120


class RawImages(Protocol):
    """Random access to images as they are stored, before they are fitted to a model."""

    def __len__(self) -> int:
        """Number of images."""

    def image(self, index: int) -> RawImage:
        """The image, decoded now.

        Raises:
            DataError: when it is damaged.
        """

    def name(self, index: int) -> str:
        """Where the image came from, for messages: a file, or a row of one."""


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A whole data set, before it is fitted to a model.

    Attributes:
        spec: as it was asked for.
        images: decoded when asked for; nothing is kept.
        labels: (n,) int64, 0 or more.
        ids: content hash of each sample: the first 32 hex digits of the sha256 of the encoded file, or of the array
            row with its dtype and shape. Independent of names and of order.
        class_names: one a class, or empty.
        digest: sha256 over ids and labels in order.
        native_shape: (c, h, w) when all images share it, else None. Of encoded files it is read from the headers that
            were checked: all of them, or a seeded 20,000 of a larger set.
        notes: what the user should know: skipped files, empty classes, labels that were mapped.
    """

    spec: str
    images: RawImages
    labels: IntArray
    ids: Sequence[str]
    class_names: tuple[str, ...]
    digest: str
    native_shape: Shape | None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)


class Problems:
    """Collects what is wrong with an input, so that all of it is said at once."""

    def __init__(self) -> None:
        self._sentences: list[str] = []

    def add(self, sentence: str) -> None:
        """Notes a problem, as a sentence of the pattern *Expected X, got Y. Do Z*."""
        self._sentences.append(sentence)

    def check(self) -> None:
        """Goes on when nothing was noted.

        Raises:
            DataError: with every problem, a line each.
        """
        if self._sentences:
            raise DataError("\n".join(self._sentences))


def listed(items: Sequence[Any]) -> str:
    """`a, b, c, d, e and 3 more`."""
    named = ", ".join(str(item) for item in items[:MAX_NAMED])
    return named if len(items) <= MAX_NAMED else f"{named} and {len(items) - MAX_NAMED:,} more"


def shown(text: str) -> str:
    """A name out of an untrusted file, fit for a message: printable, and not long."""
    cut = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def counted(n: int, noun: str) -> str:
    """`1 image`, `10,000 images`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def content_id(content: bytes, kind: str = "") -> str:
    """128 bits of sha256 in hex over a sample's bytes; `kind` tells apart what has equal bytes but another meaning."""
    return hashlib.sha256(kind.encode() + content).hexdigest()[:32]


def assemble(
    images: RawImages,
    labels: IntArray,
    ids: Sequence[str],
    *,
    class_names: Sequence[str] = (),
    native_shape: Shape | None = None,
    notes: Iterable[str] = (),
) -> Dataset:
    """A data set from parts that were checked one by one; `open_dataset` enters the spec.

    Raises:
        DataError: when it is empty, when images and labels differ in number, or a label has no class name.
    """
    check_same_number(len(images), len(labels))
    if len(images) == 0:
        raise DataError("Expected at least one image, got a data set with zero samples. Choose another file or split.")
    if class_names and int(labels.max()) >= len(class_names):
        raise DataError(
            f"Expected labels below {len(class_names)}, the number of class names, got label {int(labels.max())}. "
            "Correct the labels or the list of names."
        )
    return Dataset("", images, labels, tuple(ids), tuple(class_names), _digest(ids, labels), native_shape, tuple(notes))


def check_same_number(n_images: int, n_labels: int) -> None:
    """Goes on when images and labels could belong together.

    Raises:
        DataError: when they differ in number.
    """
    if n_images != n_labels:
        raise DataError(
            f"Expected as many labels as images, got {counted(n_images, 'image')} and "
            f"{counted(n_labels, 'label')}. Check that both files belong together."
        )


def relabelled(dataset: Dataset, labels: IntArray, class_names: tuple[str, ...]) -> Dataset:
    """The same images under other labels (n,), and names for these."""
    return replace(dataset, labels=labels, class_names=class_names, digest=_digest(dataset.ids, labels))


def _digest(ids: Sequence[str], labels: IntArray) -> str:
    return hashlib.sha256("".join(ids).encode() + labels.astype("<i8").tobytes()).hexdigest()


def split_query(location: str, choices: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, str]]:
    """`DIR?split=train` to `DIR` and `{"split": "train"}`.

    Args:
        location: what follows the scheme of a spec.
        choices: keys that are understood, each with its values; no values means any text.

    Raises:
        UsageError: for a key or value that is not among the choices.
    """
    path, mark, query = location.rpartition("?")
    if not mark or Path(location).exists():
        return location, {}
    options = dict(pair.partition("=")[::2] for pair in query.split("&"))
    for key, value in options.items():
        if key not in choices:
            raise UsageError(
                f"Expected {' or '.join(choices)} after '?', got {key!r} in {location!r}. Correct the spec."
            )
        if choices[key] and value not in choices[key]:
            raise UsageError(f"Expected {key}={'|'.join(choices[key])}, got {key}={value}. Correct the spec.")
    return path, options


def existing(location: str, what: str) -> Path:
    """The path of a file or folder that is there.

    Raises:
        DataError: when it is not, or is a device, pipe or socket, which may never end.
    """
    path = Path(location).expanduser()
    if not path.exists():
        raise DataError(f"Expected {what} at {location!r}, got nothing there. Check the path.")
    if not (path.is_file() or path.is_dir()):
        raise DataError(f"Expected {what} at {location!r}, got a device, pipe or socket. Name a file or a folder.")
    return path
