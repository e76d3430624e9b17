"""Opening a parquet table of images: which columns to use, and the names of the classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audit.errors import DataError
from audit.loading.sources import listed

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
READ_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Table:
    """An open file of the set.

    Attributes:
        name: of the file, for messages.
        file: a `pyarrow.parquet.ParquetFile`.
        image_bytes: path of the column with encoded images, such as `image.bytes`.
        label: the column with class indices.
        class_names: of the `huggingface` metadata, or empty.
        size: of the file in bytes.
    """

    name: str
    file: Any
    image_bytes: str
    label: str
    class_names: tuple[str, ...]
    size: int


def open_table(path: Path) -> Table:
    """The table, its columns found and checked by type.

    Raises:
        DataError: when it is no whole parquet file, or has no such columns.
    """
    try:
        named = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "ignore") == str(path)
        source = path if named else path.open("rb")  # pyarrow takes no name that is not UTF-8
        file = pq.ParquetFile(source, buffer_size=READ_BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise DataError(unreadable(path.name, error)) from error
    schema = file.schema_arrow
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if image is None or label is None:
        raise DataError(
            f"Expected columns {' or '.join(IMAGE_COLUMNS)} and {' or '.join(LABEL_COLUMNS)} in {path.name}, "
            f"got {listed(schema.names)}. Rename the columns."
        )
    twice = [name for name in (image, label) if schema.names.count(name) > 1]
    if twice:
        raise DataError(
            f"Expected one column {' and one '.join(twice)} in {path.name}, got more of that name. Rename the others."
        )
    label_type = schema.field(label).type
    if not (pa.types.is_integer(label_type) or pa.types.is_floating(label_type)):
        raise DataError(
            f"Expected integer labels in column {label!r} of {path.name}, got {label_type}. Write class indices."
        )
    return Table(
        path.name,
        file,
        _bytes_column(schema.field(image), path.name),
        label,
        _class_names(schema, label),
        path.stat().st_size,
    )


def _bytes_column(image: Any, table: str) -> str:
    """The path of the column, inside a struct or not, that holds the encoded images."""
    if _is_binary(image.type):
        return str(image.name)
    parts = list(image.type) if pa.types.is_struct(image.type) else []
    if [_is_binary(part.type) for part in parts if part.name == "bytes"] == [True]:
        return f"{image.name}.bytes"
    raise DataError(
        f"Expected encoded images (binary, or a struct with bytes) in column {image.name!r} of {table}, "
        f"got {image.type}. Write them as PNG or JPEG bytes."
    )


def _is_binary(type_: Any) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """The names that Hugging Face `datasets` wrote; without them the classes go unnamed."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in metadata["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def unreadable(name: str, error: Exception) -> str:
    """What to say of a table that is damaged."""
    return f"Expected a whole parquet file, got {name}, which cannot be read ({error}). Download or write it again."
