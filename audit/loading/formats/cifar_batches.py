"""The batches of CIFAR: a pickled dict of arrays (python version), or records of label and pixel bytes (binary)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from audit.api import IntArray
from audit.errors import DataError
from audit.loading.formats.array_pickle import read_array_pickle
from audit.loading.formats.labels import checked_labels
from audit.loading.formats.rows import Rows
from audit.loading.formats.spool import Spool
from audit.loading.sources import Problems, Shape, listed, shown

SHAPE: Shape = (3, 32, 32)
PIXELS = math.prod(SHAPE)
RECORDS_AT_ONCE = 1000
MOST_RECORDS = 1_000_000
"""Of a batch; the published ones have at most 50,000."""
LARGEST_LABEL = 1 << 31
AGAIN = "Download it again."
LONGEST_NAMES_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Labelling:
    """One of the labels that the samples have.

    Attributes:
        field: of a pickled batch, the labels.
        names: of the pickled meta file, the class names.
        names_file: of the binary version, the class names.
        byte: of a binary record, the label.
        num_classes: how many classes there are.
    """

    field: str
    names: str
    names_file: str
    byte: int
    num_classes: int


class Version(Protocol):
    """How the batches of a folder are stored."""

    def file(self, batch: str) -> str:
        """The name of the file of a batch."""

    def names_file(self, labelling: Labelling) -> str:
        """The name of the file with the class names."""

    def read(self, path: Path, labelling: Labelling, pixels: Spool, problems: Problems) -> IntArray:
        """Appends the pixels of a batch, plane by plane, to the spool; its labels. What is wrong is noted."""

    def class_names(self, path: Path, labelling: Labelling, problems: Problems) -> tuple[str, ...]:
        """The class names of a file."""


@dataclass(frozen=True, slots=True)
class PythonVersion:
    """Pickles of Python 2: dicts with `data`, uint8 (n, 3072), and lists of labels; a batch passes through memory."""

    meta: str
    remedy: str

    def file(self, batch: str) -> str:
        """Batches have no suffix."""
        return batch

    def names_file(self, labelling: Labelling) -> str:
        """One file has the names of all labellings."""
        return self.meta

    def read(self, path: Path, labelling: Labelling, pixels: Spool, problems: Problems) -> IntArray:
        """See `Version`.

        Raises:
            DataError: when the pickle cannot be read.
            UnsafeArtefactError: when it could run code.
        """
        batch = read_array_pickle(path, self.remedy)
        data, values = batch.get("data"), batch.get(labelling.field)
        if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != PIXELS:
            found = f"shape {data.shape}" if isinstance(data, np.ndarray) else "no array"
            problems.add(f"Expected 'data' of shape (n, {PIXELS}) in {path.name}, got {found}. {AGAIN}")
            data = np.zeros((0, PIXELS), np.uint8)
        elif isinstance(values, list) and len(values) != len(data):
            problems.add(f"Expected a label an image in {path.name}, got {len(values)} for {len(data)}. {AGAIN}")
        pixels.append(data.tobytes())
        return _labels(values, path, labelling, problems)

    def class_names(self, path: Path, labelling: Labelling, problems: Problems) -> tuple[str, ...]:
        """See `Version`."""
        names = read_array_pickle(path, self.remedy).get(labelling.names)
        if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
            problems.add(
                f"Expected a list of names as {labelling.names!r} in {path.name}, got none. Download it again."
            )
            return ()
        return tuple(shown(name if isinstance(name, str) else name.decode("utf-8", "replace")) for name in names)


class BinaryVersion:
    """Files of records: one or two label bytes, then 3,072 of pixels."""

    def __init__(self, label_bytes: int) -> None:
        self._label_bytes = label_bytes

    def file(self, batch: str) -> str:
        """Batches end on `.bin`."""
        return f"{batch}.bin"

    def names_file(self, labelling: Labelling) -> str:
        """Every labelling has a file of names."""
        return labelling.names_file

    def read(self, path: Path, labelling: Labelling, pixels: Spool, problems: Problems) -> IntArray:
        """See `Version`."""
        length = self._label_bytes + PIXELS
        n, rest = divmod(path.stat().st_size, length)
        if rest:
            size = path.stat().st_size
            problems.add(
                f"Expected records of {length:,} bytes in {path.name}, got {size:,} bytes, which are {n:,} records and "
                f"{rest:,} bytes. The file is truncated, or of another data set. {AGAIN}"
            )
        if n > MOST_RECORDS:
            raise DataError(f"Expected at most {MOST_RECORDS:,} records in {path.name}, got {n:,}. {AGAIN}")
        labels = []
        with path.open("rb") as file:
            while content := file.read(RECORDS_AT_ONCE * length):
                records = np.frombuffer(content, np.uint8, count=len(content) // length * length).reshape(-1, length)
                labels.append(records[:, labelling.byte].copy())  # a view would keep the pixels
                pixels.append(records[:, self._label_bytes :].tobytes())
        return checked_labels(np.concatenate([np.zeros(0, np.uint8), *labels]), path.name, problems)

    def class_names(self, path: Path, labelling: Labelling, problems: Problems) -> tuple[str, ...]:
        """See `Version`; a line each, empty ones left out."""
        with path.open("rb") as file:
            text = file.read(LONGEST_NAMES_FILE).decode("utf-8", "replace")
        return tuple(shown(line.strip()) for line in text.splitlines() if line.strip())


def read_batches(
    version: Version, paths: Sequence[Path], labelling: Labelling, problems: Problems
) -> tuple[Rows, IntArray]:
    """The images (n, 3, 32, 32) and labels of several files, one after another; memory holds one file at most."""
    pixels = Spool()
    labels = np.concatenate([version.read(path, labelling, pixels, problems) for path in paths])
    beyond = np.unique(labels[labels >= labelling.num_classes]).tolist()
    names = ", ".join(path.name for path in paths)
    if beyond:
        problems.add(
            f"Expected labels below {labelling.num_classes}, got {listed(beyond)} in {names}. "
            "Check that the files are of this data set."
        )
    n = pixels.n_bytes // PIXELS
    return Rows(pixels.descriptor, 0, (n, *SHAPE), np.dtype(np.uint8), names, pixels), labels


def _labels(values: object, path: Path, labelling: Labelling, problems: Problems) -> IntArray:
    """A list of integers as labels."""
    if isinstance(values, list) and all(type(value) is int and abs(value) < LARGEST_LABEL for value in values):
        return checked_labels(np.asarray(values, dtype=np.int64), path.name, problems)
    problems.add(f"Expected a list of integers as {labelling.field!r} in {path.name}, got none. {AGAIN}")
    return np.zeros(0, dtype=np.int64)
