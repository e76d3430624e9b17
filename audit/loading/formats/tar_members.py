"""The members of a tar stream, one after another: named and read, never unpacked, links never followed.

`tarfile` parses each header; the walk is ours, because `tarfile`'s own reads extension headers of any length into
memory and has looped for ever on negative sizes.

Source: POSIX.1-2008, pax interchange format; GNU tar manual, "Basic Tar Format" for long names.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from audit.errors import DataError
from audit.loading.formats.rows import ByteStream

BLOCK = 512
LARGEST_EXTENSION = 1 << 20
"""Bytes of an extended header or long name."""
LONGEST_NAME = 4096
SKIP_AT_ONCE = 1 << 20
PAX = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
SILENT = frozenset({tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK})
"""Extensions that say nothing about the name or size of one member."""
WITHOUT_CONTENT = frozenset(
    {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE}
)


class Member:
    """A member; its content can be read until the next one is asked for.

    Attributes:
        name: as stored; never to be used as a path.
        is_file: whether it is a plain file.
        is_folder: whether it is a folder. What is neither is a link, device or pipe.
        size: of its content in bytes.
    """

    def __init__(self, name: str, kind: bytes, size: int, content: _Content) -> None:
        self.name, self.size, self._content = name, size, content
        self.is_file, self.is_folder = kind in tarfile.REGULAR_TYPES, kind == tarfile.DIRTYPE

    def read(self) -> bytes:
        """The content, once; check the size before."""
        return self._content.take(self.size)


class _Content:
    """A stream, and how much of the current member is left in it."""

    def __init__(self, stream: ByteStream, name: str) -> None:
        self._stream, self._name, self._left = stream, name, 0

    def begin(self, size: int) -> None:
        self._left = -(-size // BLOCK) * BLOCK

    def take(self, size: int) -> bytes:
        content = self._exactly(size)
        self._left -= size
        return content

    def skip(self) -> None:
        while self._left:
            self.take(min(self._left, SKIP_AT_ONCE))

    def header(self) -> bytes:
        return self._exactly(BLOCK)

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size and (part := self._stream.read(size)):
            parts.append(part)
            size -= len(part)
        if size:
            raise DataError(
                f"Expected a whole tar archive with its end mark, got {self._name}, which ends early: it is truncated. "
                "Copy or write it again."
            )
        return b"".join(parts)


def members(stream: ByteStream, name: str) -> Iterator[Member]:
    """The members up to the archive's end mark, in order.

    Args:
        stream: an uncompressed archive, from its start.
        name: of the archive, for messages.

    Raises:
        DataError: when the archive is truncated, damaged, sparse, or has headers beyond all measure.
    """
    content = _Content(stream, name)
    extended: dict[str, str] = {}
    while (header := content.header()) != bytes(BLOCK):
        info = _parsed(header, name)
        extends = info.type in PAX or info.type == tarfile.GNUTYPE_LONGNAME
        size = _size(str(info.size) if extends else extended.get("size", str(info.size)), name)
        content.begin(0 if info.type in WITHOUT_CONTENT else size)
        if extends:
            extended |= _extension(content.take(_small(size, name)), info.type, name)
        elif info.type not in SILENT:
            yield Member(_checked_name(extended.get("path", info.name), name), info.type, size, content)
            extended = {}
        content.skip()


def _parsed(header: bytes, name: str) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
    except (tarfile.TarError, ValueError, IndexError) as error:
        raise _damaged(name, str(error)) from None
    if info.type == tarfile.GNUTYPE_SPARSE:
        raise _damaged(name, "a sparse member")
    return info


def _extension(content: bytes, kind: bytes, name: str) -> dict[str, str]:
    """What an extension says about the next member's name and size."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.rstrip(b"\0").decode("utf-8", "backslashreplace")}
    found, start = {}, 0
    while start < len(content):
        length, space, _ = content[start : start + 20].partition(b" ")
        end = start + int(length) if space and length.isdigit() else 0
        if not start + len(length) + 1 < end <= len(content):
            raise _damaged(name, "a damaged extended header")
        key, _, value = content[start + len(length) + 1 : end].rstrip(b"\n").partition(b"=")
        found[key.decode("utf-8", "backslashreplace")] = value.decode("utf-8", "backslashreplace")
        start = end
    if any(key.startswith("GNU.sparse") for key in found):
        raise _damaged(name, "a sparse member")
    return {key: found[key] for key in ("path", "size") if key in found}


def _size(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise _damaged(name, "an impossible size")
    return int(text)


def _small(size: int, name: str) -> int:
    if size > LARGEST_EXTENSION:
        raise _damaged(name, f"an extended header of {size:,} bytes")
    return size


def _checked_name(text: str, name: str) -> str:
    if len(text) > LONGEST_NAME:
        raise _damaged(name, f"a name of {len(text):,} letters")
    return text


def _damaged(name: str, found: str) -> DataError:
    return DataError(f"Expected a plain tar archive, got {name} with {found}. Write it again, as by tar -cf.")
