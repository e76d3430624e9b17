"""`parquet:FILE_OR_DIR[?split=NAME]`: tables in the layout of Hugging Face `datasets`."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from audit.errors import DataError, UnsafeArtefactError
from audit.loading.formats.decode import UndecodableError
from audit.loading.formats.encoded import LARGEST_IMAGE, EncodedImages, inspect
from audit.loading.formats.labels import checked_labels
from audit.loading.formats.parquet_schema import Table, open_table, unreadable
from audit.loading.formats.rows import MOST_GROWTH
from audit.loading.formats.spool import Spool
from audit.loading.sources import Dataset, Problems, assemble, counted, existing, listed, split_query

ROWS_AT_ONCE = 32
FEWEST_ROWS, FEWEST_BYTES = 1_000_000, 32 << 20
"""That any file may become."""


class SpooledRows:
    """The encoded images of one or more tables, copied to a temporary file."""

    def __init__(self) -> None:
        self._spool = Spool()
        self._starts: list[int] = []
        self._tables: list[str] = []

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._spool)

    def begin(self, table: str) -> None:
        """What is appended from now on belongs to this table."""
        self._starts.append(len(self._spool))
        self._tables.append(table)

    def append(self, encoded: bytes) -> None:
        """Adds a row; of what is too large to be read, no more than shows that."""
        self._spool.append(encoded if len(encoded) <= LARGEST_IMAGE else bytes(LARGEST_IMAGE + 1))

    def read(self, index: int) -> bytes:
        """The encoded image of a row, unless it is too large."""
        encoded = self._spool.read(index)
        if len(encoded) > LARGEST_IMAGE:
            raise UndecodableError(f"more than {LARGEST_IMAGE:,} bytes")
        return encoded

    def name(self, index: int) -> str:
        """Table and row."""
        table = bisect_right(self._starts, index) - 1
        return f"{self._tables[table]} row {index - self._starts[table]}"


def recognises(path: Path) -> bool:
    """Whether this is a parquet file by name, or a folder with some."""
    return path.suffix.lower() == ".parquet" or (path.is_dir() and any(path.glob("*.parquet")))


def open_parquet(location: str) -> Dataset:
    """The rows of one table, or of all tables of one split in a folder, in sorted order.

    Columns `image` or `img` (a struct with `bytes`, or binary) and `label` or `fine_label` (integers); class names
    from the `huggingface` metadata. Row groups are streamed once, and the encoded images copied to a temporary file.

    Raises:
        UsageError: for an option other than `split`.
        DataError: when a table cannot be read, lacks a column or a value, or holds damaged images.
    """
    place, options = split_query(location, {"split": ()})
    tables = [open_table(path) for path in _table_files(existing(place, "a parquet file or folder"), options)]
    class_names = {table.class_names for table in tables}
    if len(class_names) > 1:
        raise DataError(f"Expected the same class names in all tables of {place!r}, got different ones. Name one file.")
    rows, problems = SpooledRows(), Problems()
    labels = [_spool_table(table, rows, problems) for table in tables]
    checked = checked_labels(np.concatenate(labels), f"column {tables[0].label!r} of {place!r}", problems)
    inspection = inspect(rows, problems, upright=True)
    problems.check()
    return assemble(
        EncodedImages(rows, upright=True),
        checked,
        inspection.ids,
        class_names=class_names.pop(),
        native_shape=inspection.native_shape,
        notes=inspection.notes,
    )


def _table_files(place: Path, options: dict[str, str]) -> list[Path]:
    """The files to read; a folder's must be of one split, told by the letters that their names begin with."""
    if place.is_file():
        return [place]
    files = sorted(path for folder in (place, place / "data") for path in folder.glob("*.parquet") if path.is_file())
    if not files:
        raise DataError(f"Expected parquet files in {str(place)!r}, got none. Name the folder that holds them.")
    splits = Counter(_split_name(file) for file in files)
    wanted = options.get("split", next(iter(splits)) if len(splits) == 1 else None)
    if wanted not in splits:
        found = f"none of {wanted!r}" if wanted else "several"
        raise DataError(
            f"Expected tables of one split in {str(place)!r}, got {found}. "
            f"Append ?split= with one of {', '.join(sorted(splits))}."
        )
    return [file for file in files if _split_name(file) == wanted]


def _split_name(file: Path) -> str:
    return re.sub(r"[-_.]?\d.*$", "", file.stem) or file.stem


def _spool_table(table: Table, rows: SpooledRows, problems: Problems) -> npt.NDArray[Any]:
    """Copies the images of a table; its labels, without those that are missing."""
    rows.begin(table.name)
    budget = Budget(table)
    labels, missing, row = [np.zeros(0, dtype=np.int64)], [], 0
    for images, batch_labels in _batches(table):
        budget.spend(len(images), images.nbytes)
        for encoded in images:
            content = encoded.as_buffer()
            missing += [row] if content is None else []
            rows.append(content or b"")
            row += 1
        if batch_labels.null_count:
            problems.add(
                f"Expected a label in every row, got {counted(batch_labels.null_count, 'empty one')} in column "
                f"{table.label!r} of {table.name}. Remove those rows."
            )
        labels.append(batch_labels.drop_null().to_numpy(zero_copy_only=False))
    if missing:
        problems.add(
            f"Expected image bytes in every row, got none in {counted(len(missing), 'row')} of {table.name} "
            f"({listed(missing)}). Embed the images; paths to outside files are not followed."
        )
    return np.concatenate(labels)


class Budget:
    """Bytes and rows that a table may become, by the size of its file: a dictionary repeats one image without end."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.bytes_left = max(MOST_GROWTH * table.size, FEWEST_BYTES)
        self.rows_left = max(table.size, FEWEST_ROWS)

    def spend(self, n_rows: int, n_bytes: int) -> None:
        """Takes some rows.

        Raises:
            UnsafeArtefactError: when there is no room for them.
        """
        self.bytes_left -= n_bytes
        self.rows_left -= n_rows
        if min(self.bytes_left, self.rows_left) < 0:
            raise UnsafeArtefactError(
                f"Expected a table of about its own size, got {self.table.name} ({self.table.size:,} bytes), whose "
                "rows grow out of all proportion. The rest of it was not read; ask whoever made it."
            )


def _batches(table: Table) -> Iterator[tuple[Any, Any]]:
    """Encoded images and labels, some rows at a time."""
    column = table.image_bytes.removesuffix(".bytes")
    try:
        for batch in table.file.iter_batches(ROWS_AT_ONCE, columns=[table.image_bytes, table.label]):
            images = batch.column(column)
            yield pc.struct_field(images, "bytes") if column != table.image_bytes else images, batch.column(table.label)
    except (pa.ArrowException, OSError) as error:
        raise DataError(unreadable(table.name, error)) from error
