"""The rows of an array in a file, read one at a time."""

from __future__ import annotations

import io
import math
import os
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from audit.errors import DataError, UnsafeArtefactError
from audit.loading.formats.spool import Spool

CHUNK_BYTES = 1 << 20
MOST_GROWTH, GROWTH_FROM_BYTES = 200, 256 << 20
"""How many times its stored size an array may have, above a size that harms nobody."""
LARGEST_ROW, MOST_ROWS = 1 << 28, 10_000_000
"""Bytes of a sample, 67 million float32 numbers; and samples of one array."""


class ByteStream(Protocol):
    """What bytes are read from; files, archive members and gzip streams alike."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes; none at the end."""


class Rows:
    """The rows of a C-ordered array in a file, read one at a time; memory does not grow with their number.

    Args:
        descriptor: of the open file.
        offset: bytes before the first row.
        shape: of the whole array.
        dtype: of its elements.
        name: of the array, for messages.
        owner: whatever must stay alive for the descriptor to stay open.
    """

    def __init__(
        self, descriptor: int, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], name: str, owner: object
    ) -> None:
        self.shape, self.dtype, self.name = shape, dtype, name
        self._descriptor, self._offset, self._owner = descriptor, offset, owner
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        if len(self) and not self._row_bytes:
            given = f"the shape {shape} of {dtype}"
            raise DataError(f"Expected at least one byte in each row of {name}, got {given}. Write it again.")
        if self._row_bytes > LARGEST_ROW or len(self) > MOST_ROWS:
            raise _beyond_measure(name, len(self), self._row_bytes)
        held, needed = os.fstat(descriptor).st_size - offset, self._row_bytes * len(self)
        if held < needed:
            raise DataError(
                f"Expected {needed:,} bytes for the shape {shape} of {name}, got {held:,}: the file is truncated. "
                "Download or write it again."
            )

    @classmethod
    def spooled(
        cls, stream: ByteStream, shape: tuple[int, ...], dtype: np.dtype[Any], name: str, *, stored: int
    ) -> Rows:
        """An array that begins here in a stream, copied to a temporary file; what follows it is left unread.

        Args:
            stream: of the array's bytes.
            shape: as its header states it.
            dtype: of its elements.
            name: of the array, for messages.
            stored: bytes of the stream before decompression.

        Raises:
            DataError: when the stream ends too early.
            UnsafeArtefactError: when the array is many times as large as what is stored.
        """
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        if row_bytes > LARGEST_ROW or (row_bytes and shape[0] > MOST_ROWS):
            raise _beyond_measure(name, shape[0], row_bytes)
        left = math.prod(shape) * dtype.itemsize
        if left > max(MOST_GROWTH * stored, GROWTH_FROM_BYTES):
            raise UnsafeArtefactError(
                f"Expected an array of about its stored size, got {name}, which grows from {stored:,} to {left:,} "
                "bytes. Nothing of it was unpacked; ask whoever made it."
            )
        spool = Spool()
        while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
            spool.append(chunk)
            left -= len(chunk)
        return cls(spool.descriptor, 0, shape, dtype, name, spool)

    @classmethod
    def of(cls, array: npt.NDArray[Any], name: str) -> Rows:
        """An array in memory, moved to a temporary file."""
        return cls.spooled(io.BytesIO(array.tobytes()), array.shape, array.dtype, name, stored=array.nbytes)

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def content(self, index: int) -> bytes:
        """The bytes of a row."""
        return os.pread(self._descriptor, self._row_bytes, self._offset + index * self._row_bytes)

    def row(self, index: int) -> npt.NDArray[Any]:
        """A row in its own dtype, read-only."""
        return np.frombuffer(self.content(index), dtype=self.dtype).reshape(self.shape[1:])

    def whole(self) -> npt.NDArray[Any]:
        """The array in memory; for labels, and for what must be transposed."""
        parts, at, end = [], self._offset, self._offset + self._row_bytes * len(self)
        while at < end and (part := os.pread(self._descriptor, min(CHUNK_BYTES, end - at), at)):
            parts.append(part)
            at += len(part)
        content = b"".join(parts)
        return np.frombuffer(content, dtype=self.dtype).reshape(self.shape)


def _beyond_measure(name: str, n: int, row_bytes: int) -> DataError:
    return DataError(
        f"Expected at most {MOST_ROWS:,} samples of at most {LARGEST_ROW:,} bytes in {name}, got {n:,} of "
        f"{row_bytes:,}. Split the array, or check its shape."
    )
