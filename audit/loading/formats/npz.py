"""`npz:FILE.npz[?split=test][?layout=NCHW|NHWC]` and `npz:IMAGES.npy,LABELS.npy`: arrays of numpy, never unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy

from audit.errors import DataError, UnsafeArtefactError
from audit.loading.formats.arrays import ArrayImages, Layout, image_shape, inspect_rows, sniff_layout
from audit.loading.formats.labels import checked_labels
from audit.loading.formats.rows import Rows
from audit.loading.sources import Dataset, Problems, assemble, check_same_number, existing, listed, split_query

KEY_PAIRS = (("x", "y"), ("images", "labels"), ("X", "y"), ("X", "Y"), ("data", "target"), ("arr_0", "arr_1"))
SPLITS = ("test", "train", "val")
"""Of an archive that holds several, as Keras (`x_test`) and MedMNIST (`test_images`) write them."""
HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


def recognises(path: Path) -> bool:
    """Whether this is named like a numpy file."""
    return path.suffix.lower() in {".npz", ".npy"}


def open_npz(location: str) -> Dataset:
    """Images and labels of one archive, or of a pair of array files.

    Images are (n, h, w), (n, h, w, c) or (n, c, h, w) with 1 or 3 channels: integers in 0..255, or floats in [0, 1].
    Floats that are all within 1e-6 of k/255 become 8-bit images; others stay float32. Array files are read in place,
    members of an archive from a temporary copy.

    Raises:
        UsageError: for an option other than `layout` and `split`.
        DataError: when arrays are missing, truncated, of another shape or range, or labels are no class indices.
        UnsafeArtefactError: for arrays of Python objects, which only unpickling could read.
    """
    place, options = split_query(location, {"layout": ("NCHW", "NHWC"), "split": SPLITS})
    if _is_pair(place):
        rows, labels = _open_pair(place)
    else:
        rows, labels = _open_archive(existing(place, "an .npz file"), options.get("split"))
    layout = sniff_layout(rows.shape, rows.name, cast("Layout | None", options.get("layout")))
    check_same_number(len(rows), len(labels))
    problems = Problems()
    checked = checked_labels(labels.whole(), labels.name, problems)
    inspection = inspect_rows(rows, problems)
    problems.check()
    return assemble(
        ArrayImages(rows, layout, scale=inspection.scale),
        checked,
        inspection.ids,
        native_shape=image_shape(rows.shape, layout),
        notes=inspection.notes,
    )


def _is_pair(place: str) -> bool:
    return "," in place and not Path(place).exists()


def _open_pair(place: str) -> tuple[Rows, Rows]:
    files = place.split(",")
    if len(files) != 2:
        raise DataError(f"Expected npz:IMAGES.npy,LABELS.npy, got {len(files)} files. Name two.")
    images, labels = (_array_file(existing(file, "an .npy file")) for file in files)
    return images, labels


def _open_archive(path: Path, split: str | None) -> tuple[Rows, Rows]:
    if path.suffix.lower() == ".npy":
        raise DataError(
            f"Expected images and labels, got one array file {path.name}. Write npz:{path.name},LABELS.npy."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
            wanted = _pairs(split, keys)
            pairs = [pair for pair in wanted if set(pair) <= set(keys)]
            if len(pairs) != 1:
                raise DataError(
                    f"Expected one pair of arrays named {' or '.join(map('/'.join, wanted))} in {path.name}, "
                    f"got {listed(keys)}. Save it by numpy.savez(FILE, x=images, y=labels)."
                )
            images, labels = (_member(archive, key, path.name) for key in pairs[0])
            return images, labels
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise DataError(
            f"Expected a whole .npz archive, got {path.name}, which cannot be read ({error}). "
            "Download or write it again."
        ) from error


def _pairs(split: str | None, keys: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The names of a pair; without a split those of none, or where these are absent of the test split."""
    if split is None and any({*pair} <= {*keys} for pair in KEY_PAIRS):
        return KEY_PAIRS
    name = split or SPLITS[0]
    of_split = ((f"x_{name}", f"y_{name}"), (f"{name}_images", f"{name}_labels"))
    return of_split if split else (*KEY_PAIRS, *of_split)


def _member(archive: zipfile.ZipFile, key: str, origin: str) -> Rows:
    name = f"{origin}[{key!r}]"
    with archive.open(f"{key}.npy") as member:
        shape, fortran_order, dtype = _header(member, name)
        stored = archive.getinfo(f"{key}.npy").compress_size
        return _c_ordered(Rows.spooled(member, shape, dtype, name, stored=stored), fortran_order)


def _array_file(path: Path) -> Rows:
    if path.is_dir():
        raise DataError(f"Expected an .npy file, got the folder {str(path)!r}. Name the file.")
    file = path.open("rb")
    shape, fortran_order, dtype = _header(file, path.name)
    return _c_ordered(Rows(file.fileno(), file.tell(), shape, dtype, path.name, file), fortran_order)


def _header(stream: IO[bytes], name: str) -> Header:
    """Shape, whether in Fortran order, and dtype of the array whose bytes follow in the stream."""
    try:
        shape, fortran_order, dtype = HEADER_READERS[npy.read_magic(stream)](stream)
    except Exception as error:  # numpy parses the header as a Python literal: half a dozen types on malformed bytes
        raise DataError(f"Expected an array in numpy's format, got {name}: {error}. Save it by numpy.save.") from error
    if dtype.hasobject:
        raise UnsafeArtefactError(
            f"Expected an array of numbers, got Python objects in {name}, which would need unpickling and could run "
            "code. Save images as uint8 and labels as int64."
        )
    if not shape or min(shape) < 0:
        raise DataError(f"Expected one row a sample, got shape {shape} in {name}. Save the whole set as one array.")
    return shape, fortran_order, dtype


def _c_ordered(rows: Rows, fortran_order: bool) -> Rows:
    """Rows that lie one after another; an array in Fortran order passes through memory once."""
    if not fortran_order or len(rows.shape) == 1:
        return rows
    return Rows.of(rows.whole().reshape(rows.shape[::-1]).T, rows.name)
