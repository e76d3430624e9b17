"""Decompression that stops at a limit, whatever the compressed bytes would become."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Protocol

from audit.scan.parts import Part

CHUNK_BYTES = 1 << 16
FIRST_READ_BYTES = 8192
"""joblib and Python's own readers take so many at a time."""
LARGEST_LZMA_MEMORY = 100 << 20
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14


class Damaged(Exception):  # noqa: N818 - an outcome, not an error
    """Compressed bytes that cannot be decompressed."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Zlib:
    """zlib with the interface of the other two: what it has not taken yet, it keeps."""

    def __init__(self, window_bits: int) -> None:
        self._inner = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _lzma_of_zip(part: Part) -> tuple[_Decompressor, int]:
    """Members of method 14 begin with a version, the length of the properties, and these."""
    head = part.read(0, 9)
    if len(head) < 9 or head[2:4] != b"\x05\x00" or head[4] >= 225:
        raise Damaged("its LZMA properties cannot be read")
    lc, rest = head[4] % 9, head[4] // 9
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": min(int.from_bytes(head[5:9], "little"), LARGEST_LZMA_MEMORY),
                "lc": lc, "lp": rest % 5, "pb": rest // 5}]  # fmt: skip
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters), 9


Opener = Callable[[Part], tuple[_Decompressor, int]]
"""A decompressor for a part, and how many bytes of it come before what is compressed."""
OF_ZIP: dict[int, Opener] = {
    DEFLATED: lambda _: (_Zlib(-15), 0),
    BZIP2: lambda _: (bz2.BZ2Decompressor(), 0),
    LZMA: _lzma_of_zip,
}
OF_FILES: dict[bytes, Opener] = {
    b"\x1f\x8b": lambda _: (_Zlib(31), 0),
    b"BZh": lambda _: (bz2.BZ2Decompressor(), 0),
    b"\xfd7zXZ\x00": lambda _: (lzma.LZMADecompressor(memlimit=LARGEST_LZMA_MEMORY), 0),
    b"\x5d\x00\x00": lambda _: (lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=LARGEST_LZMA_MEMORY), 0),
    **{b"x" + level: lambda _: (_Zlib(15), 0) for level in (b"\x01", b"\x5e", b"\x9c", b"\xda")},
}
"""By the first bytes. zstd, lz4 and 7z are not in Python's library before 3.14, and are not examined."""


def unpack(part: Part, opener: Opener, most: int) -> tuple[BytesIO, int, bool]:
    """What compressed bytes become, at most `most` of them, how many these are, and whether that is all.

    Several streams one behind the other, as gzip, bzip2 and xz allow, become one.

    Raises:
        Damaged: where they cannot be decompressed.
    """
    found, size, at, first = BytesIO(), 0, 0, part.head(2)
    try:
        while at == 0 or part.read(at, 2) == first:
            decompressor, skipped = opener(part)
            at, made = _stream(part, decompressor, at + skipped, most - size, found)
            size += made
            if not decompressor.eof or size >= most:
                return found, size, decompressor.eof and at >= part.size
    except (zlib.error, OSError, lzma.LZMAError, ValueError, EOFError, MemoryError) as error:
        raise Damaged(str(error) or type(error).__name__) from error
    return found, size, not part.read(at, CHUNK_BYTES).strip(b"\0")


def decompresses(part: Part, opener: Opener) -> bool:
    """Whether what readers take first, which they act on before they see the rest, becomes something.

    Raises:
        Damaged: where it cannot be decompressed.
    """
    try:
        decompressor, at = opener(part)
        return bool(decompressor.decompress(part.read(at, FIRST_READ_BYTES), CHUNK_BYTES))
    except (zlib.error, OSError, lzma.LZMAError, ValueError, EOFError, MemoryError) as error:
        raise Damaged(str(error) or type(error).__name__) from error


def _stream(part: Part, decompressor: _Decompressor, at: int, most: int, found: BytesIO) -> tuple[int, int]:
    """Decompresses one stream; where its bytes end, and how many it became."""
    size = 0
    while not decompressor.eof and size < most:
        waiting = not getattr(decompressor, "needs_input", True)
        data = b"" if waiting else part.read(at, CHUNK_BYTES)
        at += len(data)
        made = decompressor.decompress(data, most - size)
        size += found.write(made)
        if not data and not made:
            break
    return at - len(decompressor.unused_data), size
