"""Which files a pattern of shards means, and their bytes, decompressed where need be."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audit.errors import DataError, UnsafeArtefactError, UsageError
from audit.loading.formats.rows import CHUNK_BYTES, ByteStream
from audit.loading.sources import counted, existing, listed

SUFFIXES = (".tar", ".tar.gz", ".tgz")
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_SHARDS = 100_000
GZIP_MAGIC = b"\x1f\x8b"
MOST_EXPANSION = 100
"""A compressed shard that grows more than this is a bomb; the padding of small members shrinks up to about 20 times."""
ALWAYS_EXPANDED = 1 << 20
"""Bytes that even the smallest shard may grow to."""


def recognises(path: Path) -> bool:
    """Whether this is a tar archive by name, or a folder with some."""
    return path.name.lower().endswith(SUFFIXES) if path.is_file() else path.is_dir() and bool(_tars(path))


def shard_files(pattern: str) -> list[Path]:
    """The shards of one file, of a folder in sorted order, or of a range such as `shard-{000000..000009}.tar`.

    Raises:
        UsageError: for a range that runs backwards or has no end, or braces that are not a range.
        DataError: when shards are missing; names them.
    """
    if not ("{" in pattern and not Path(pattern).exists()):
        place = existing(pattern, "a tar archive, a folder of them, or a range such as shard-{000000..000009}.tar,")
        found = _tars(place) if place.is_dir() else [place]
        if not found:
            raise DataError(f"Expected tar archives in {pattern!r}, got none. Name the folder that holds the shards.")
        return found
    paths = [Path(name).expanduser() for name in _expanded(pattern)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"Expected {counted(len(paths), 'shard')} of {pattern!r}, got no {listed(missing)} "
            f"({counted(len(missing), 'missing shard')}). Correct the range, or copy the shards there."
        )
    return paths


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES) and path.is_file())


def _expanded(pattern: str) -> Iterator[str]:
    ranges = list(BRACES.finditer(pattern))
    if len(ranges) != 1 or pattern.count("{") != 1:
        raise UsageError(
            f"Expected one range such as {{000000..000009}}, got {pattern!r}. Write one range of numbers, or name a "
            "folder to read all of its shards."
        )
    found = ranges[0]
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < MOST_SHARDS:
        raise UsageError(
            f"Expected a range of 1 to {MOST_SHARDS:,} shards, got {found[0]}. Write the smaller number first."
        )
    padded = any(text.startswith("0") and len(text) > 1 for text in (found[1], found[2]))
    width = max(len(found[1]), len(found[2])) if padded else 0
    return (f"{pattern[: found.start()]}{n:0{width}d}{pattern[found.end() :]}" for n in range(first, last + 1))


@contextmanager
def opened_shard(path: Path) -> Iterator[ByteStream]:
    """The uncompressed bytes of a shard, which is gzipped or not by its content, whatever its name says.

    Raises:
        DataError: when it cannot be decompressed.
        UnsafeArtefactError: when it is a decompression bomb.
    """
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] != GZIP_MAGIC:
                yield file
                return
            with gzip.open(file) as unzipped:
                stream = _Bounded(unzipped, path)
                yield stream
                while stream.read(CHUNK_BYTES):  # the checksum stands at the end
                    pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"Expected a whole gzip file, got {path.name}, which cannot be decompressed ({error}). Copy it again."
        ) from error


class _Bounded:
    """A stream that ends as unsafe when it grows far beyond its file."""

    def __init__(self, stream: ByteStream, path: Path) -> None:
        self._stream, self._path = stream, path
        self._left = MOST_EXPANSION * path.stat().st_size + ALWAYS_EXPANDED

    def read(self, size: int = -1, /) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise UnsafeArtefactError(
                f"Expected an archive of about its own size, got {self._path.name}, which expands more than "
                f"{MOST_EXPANSION} times: a decompression bomb. It was not unpacked; ask whoever made it."
            )
        return content
