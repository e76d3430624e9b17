"""`csv:FILE[#path_column,label_column]`: a table of image files and their labels."""

from __future__ import annotations

import csv
import functools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from audit.api import IntArray
from audit.errors import DataError, UsageError
from audit.loading.formats.encoded import EncodedImages, Files, inspect
from audit.loading.formats.labels import checked_labels
from audit.loading.sources import Dataset, Problems, assemble, counted, existing, listed, shown

DEFAULT_COLUMNS = "path,label"
LONGEST_LINE = 1 << 20
SYSTEM_FOLDERS = ("/proc", "/sys", "/dev")
"""Their files may never end, or tell of this machine."""

Place = Literal["inside", "outside", "missing", "refused"]


def recognises(path: Path) -> bool:
    """Whether this is named like a table."""
    return path.suffix.lower() == ".csv"


def open_csv(location: str) -> Dataset:
    """The images that a table names, in its order; paths are relative to the table's folder, or absolute.

    Labels are integers, or names that become integers in sorted order (then noted). Paths and links may lead out of the
    table's folder (then noted), but to regular files alone, and to none of the system's.

    Raises:
        UsageError: when the columns are not named as `#path_column,label_column`.
        DataError: when columns or files are missing, or labels or images are broken.
    """
    file, _, wanted = location.rpartition("#") if "#" in location else (location, "", "")
    columns = (wanted or DEFAULT_COLUMNS).split(",")
    if len(columns) != 2:
        raise UsageError(f"Expected csv:FILE#path_column,label_column, got {wanted!r} after '#'. Name two columns.")
    table = existing(file, "a table")
    texts, names = _read(table, columns)
    problems = Problems()
    blobs, outside = _files(table, texts, problems)
    labels, class_names = _labels(names, f"column {columns[1]!r} of {table.name}", problems)
    inspection = inspect(blobs, problems)
    problems.check()
    numbering = listed([f"{shown(name)}={label}" for label, name in enumerate(class_names)])
    return assemble(
        EncodedImages(blobs),
        labels,
        inspection.ids,
        class_names=class_names,
        native_shape=inspection.native_shape,
        notes=(
            *([f"Label names were numbered in sorted order: {numbering}."] if numbering else ()),
            *outside,
            *inspection.notes,
        ),
    )


def _files(table: Path, texts: Sequence[str], problems: Problems) -> tuple[Files, list[str]]:
    """The files that the table names, and a note on those elsewhere; those that are not to be read are problems."""
    real = functools.cache(os.path.realpath)
    paths = [table.parent / text for text in texts]
    places = [_place(path, Path(real(table.parent)), real) for path in paths]
    missing, refused, outside = (
        [shown(text) for text, its in zip(texts, places, strict=True) if its == place]
        for place in ("missing", "refused", "outside")
    )
    if missing:
        problems.add(
            f"Expected the files that {table.name} names, got {counted(len(missing), 'missing file')}: "
            f"{listed(missing)}. Correct the paths; they are relative to the table."
        )
    if refused:
        problems.add(
            f"Expected regular files by {table.name}, got {counted(len(refused), 'other')} (folders, devices, pipes or "
            f"in {', '.join(SYSTEM_FOLDERS)}): {listed(refused)}. Name image files."
        )
    lead = "path leads" if len(outside) == 1 else "paths lead"
    notes = [f"{len(outside):,} {lead} out of the table's folder: {listed(outside)}."] if outside else []
    there = [path for path, its in zip(paths, places, strict=True) if its in ("inside", "outside")]
    return Files(table.parent, there), notes


def _place(path: Path, root: Path, real: Callable[[str | Path], str]) -> Place:
    """Where a path ends, as seen from a folder that is given without links; no file is opened."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # also of a path that is too long or holds a NUL
        return "missing"
    target = Path(real(path.parent), path.name)
    target = Path(real(path)) if target.is_symlink() else target
    system = [folder for folder in SYSTEM_FOLDERS if not root.is_relative_to(folder)]
    if not stat.S_ISREG(mode) or any(target.is_relative_to(folder) for folder in system):
        return "refused"
    return "inside" if target.is_relative_to(root) else "outside"


def _read(table: Path, columns: Sequence[str]) -> tuple[list[str], list[str]]:
    """The texts of both columns."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(_lines(file))
            found = list(reader.fieldnames or ())
            missing = [column for column in columns if column not in found]
            if missing:
                raise DataError(
                    f"Expected columns {' and '.join(columns)} in {table.name}, got "
                    f"{listed(found) or 'none'}. Name the two to use as csv:{table.name}#path_column,label_column."
                )
            rows = [(row[columns[0]] or "", (row[columns[1]] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Expected a UTF-8 table in {table.name}, got {error}. Save it as UTF-8 CSV.") from error
    return [path for path, _ in rows], [name for _, name in rows]


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a table; what has none is no table, however many gigabytes follow.

    Raises:
        csv.Error: for a line that is longer than any path and label.
    """
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line of more than {LONGEST_LINE:,} letters")
        yield line


def _labels(names: Sequence[str], origin: str, problems: Problems) -> tuple[IntArray, tuple[str, ...]]:
    """Labels, and class names where the labels were names."""
    numbers = [_number(name) for name in names]
    broken = [row for row, name in enumerate(names, start=2) if not name]
    n_numbers = sum(number is not None for number in numbers)
    if broken:
        problems.add(
            f"Expected a label in every row, got {counted(len(broken), 'empty label')} in {origin}, "
            f"lines {listed(broken)}. Fill them in or remove the rows."
        )
    elif n_numbers == len(names):
        return checked_labels(np.asarray(numbers, dtype=np.float64), origin, problems), ()
    elif n_numbers:
        odd = [name for name, number in zip(names, numbers, strict=True) if number is None]
        problems.add(
            f"Expected either integers or names as labels, got {counted(n_numbers, 'number')} and "
            f"{counted(len(odd), 'name')} ({listed(list(map(shown, sorted(set(odd)))))}) in {origin}. Use one kind."
        )
    else:
        class_names = sorted(set(names))
        places = {name: place for place, name in enumerate(class_names)}
        return np.asarray([places[name] for name in names], dtype=np.int64), tuple(class_names)
    return np.zeros(0, dtype=np.int64), ()


def _number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None
