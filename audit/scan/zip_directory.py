"""The list of members at the end of a zip archive, read with bounds, and without believing any of it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from audit.scan.parts import Part

END = b"PK\x05\x06"
END_64 = b"PK\x06\x06"
LOCATOR_64 = b"PK\x06\x07"
CENTRAL = b"PK\x01\x02"
LOCAL = b"PK\x03\x04"
_END_BYTES, _LOCATOR_BYTES, _END_64_BYTES, _CENTRAL_BYTES = 22, 20, 56, 46
_CENTRAL_FORM = struct.Struct("<4sBBHHHIIIIHHHHHII")
_FULL = 0xFFFFFFFF
LARGEST_DIRECTORY = 16 << 20
CHUNK_BYTES = 1 << 20


class BadZip(Exception):  # noqa: N818 - an outcome, not an error
    """No zip archive, or a damaged one; its text says how."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One member, as the directory has it.

    Attributes:
        raw_name: its name's bytes.
        flags: bit 0 says encrypted, bit 3 that sizes follow the data, bit 11 that the name is UTF-8.
        method: 0 stored, 8 deflated.
        packed: bytes in the archive.
        size: bytes when unpacked.
        at: of its local header.
        mode: Unix mode of the file, 0 where the archive has none.
        name: its name as text, cut at a NUL as readers in C cut it.
    """

    raw_name: bytes
    flags: int
    method: int
    packed: int
    size: int
    at: int
    mode: int
    name: str


@dataclass(frozen=True, slots=True)
class ZipEnd:
    """What the end of an archive says.

    Attributes:
        at: where the end record is.
        directory_at: where the list of members begins, by the place of its end.
        directory_bytes: how long it is.
        count: of members, as announced.
        prepended: bytes before the archive, by which all offsets are moved.
        trailing: bytes behind the end record and its comment.
        comment: bytes in it.
        two: whether it says two things about where the directory is, of which readers take one or the other.
    """

    at: int
    directory_at: int
    directory_bytes: int
    count: int
    prepended: int
    trailing: int
    comment: bytes
    two: bool = False


@dataclass(frozen=True, slots=True)
class _End64:
    """What a zip64 record says of the directory, where the record is, and whether all readers take this one."""

    count: int
    size: int
    offset: int
    at: int
    agrees: bool


def find_end(part: Part) -> ZipEnd:
    """The end record, where Python's zipfile finds it: the last signature in the last 64 KiB.

    Raises:
        BadZip: where there is none, or what it says cannot be.
    """
    tail_at = max(0, part.size - _END_BYTES - 0xFFFF)
    tail = part.read(tail_at, part.size - tail_at)
    found = tail.rfind(END)
    if found < 0 or len(tail) - found < _END_BYTES:
        raise BadZip("the directory at the end of the archive is missing")
    disk, _, _, count, size, offset, comment = struct.unpack("<HHHHIIH", tail[found + 4 : found + _END_BYTES])
    at = tail_at + found
    directory_end, two = at, False
    wide = _read_end_64(part, at)
    if wide:
        two = not wide.agrees or any(
            narrow not in (full, long)
            for narrow, long, full in (
                (count, wide.count, 0xFFFF),
                (size, wide.size, _FULL),
                (offset, wide.offset, _FULL),
            )
        )
        count, size, offset, directory_end = wide.count, wide.size, wide.offset, wide.at
    if disk not in (0, 0xFFFF):
        raise BadZip("it is one volume of several")
    directory_at = directory_end - size
    if directory_at < 0 or offset > directory_at:
        raise BadZip("its directory would lie outside of the file")
    text = tail[found + _END_BYTES : found + _END_BYTES + comment]
    trailing = part.size - at - _END_BYTES - comment
    return ZipEnd(at, directory_at, size, count, directory_at - offset, trailing, text, two)


def entries(part: Part, end: ZipEnd) -> Iterator[Entry]:
    """The members in the order of the directory.

    Raises:
        BadZip: where the directory is damaged.
    """
    if end.directory_bytes > LARGEST_DIRECTORY:
        raise BadZip(f"its directory of {end.directory_bytes:,} bytes is larger than the {LARGEST_DIRECTORY:,} read")
    content = part.read(end.directory_at, end.directory_bytes)
    at = count = 0
    while at + _CENTRAL_BYTES <= len(content) and content[at : at + 4] == CENTRAL:
        entry, at = _entry(content, at, end.prepended)
        count += 1
        yield entry
    if at != len(content) or count & 0xFFFF != end.count & 0xFFFF:
        raise BadZip(f"its directory announces {end.count:,} members and lists {count:,}")


def _entry(content: bytes, at: int, prepended: int) -> tuple[Entry, int]:
    (_, _, made_by, _, flags, method, _, _, packed, size, name_bytes, extra_bytes, comment_bytes, _, _, attributes,
     offset) = _CENTRAL_FORM.unpack_from(content, at)  # fmt: skip
    name_at = at + _CENTRAL_BYTES
    name = content[name_at : name_at + name_bytes]
    extra = content[name_at + name_bytes : name_at + name_bytes + extra_bytes]
    if _FULL in (size, packed, offset):
        size, packed, offset = _wide_sizes(extra, size, packed, offset)
    mode = attributes >> 16 if made_by in (3, 19) else 0
    following = name_at + name_bytes + extra_bytes + comment_bytes
    if following > len(content):
        raise BadZip("its directory is cut off")
    encoding = "ascii" if name.isascii() else "utf-8" if flags & 0x800 else "cp437"
    text = name.partition(b"\0")[0].decode(encoding, "replace")
    return Entry(name, flags, method, packed, size, offset + prepended, mode, text), following


def _wide_sizes(extra: bytes, *numbers: int) -> tuple[int, int, int]:
    """Sizes and offset, those that are full replaced by the 64-bit ones of the extra field."""
    wide = extra_field(extra, 1)
    found = []
    for number in numbers:
        if number == _FULL and len(wide) >= 8:
            found.append(int.from_bytes(wide[:8], "little"))
            wide = wide[8:]
        else:
            found.append(number)
    return found[0], found[1], found[2]


def extra_field(extra: bytes, wanted: int) -> bytes:
    """The content of one extra field; empty where it is absent."""
    at = 0
    while at + 4 <= len(extra):
        number, size = struct.unpack("<HH", extra[at : at + 4])
        if number == wanted:
            return extra[at + 4 : at + 4 + size]
        at += 4 + size
    return b""


def _read_end_64(part: Part, at: int) -> _End64 | None:
    """The records of zip64, where there are any.

    Python's reader takes the record that lies before its locator, torch's the one that the locator announces; where
    there is none before it, Python's goes by the old record instead.
    """
    locator = part.read(at - _LOCATOR_BYTES, _LOCATOR_BYTES)
    if not locator.startswith(LOCATOR_64):
        return None
    before, announced = at - _LOCATOR_BYTES - _END_64_BYTES, int.from_bytes(locator[8:16], "little")
    for place in (before, announced):
        record = part.read(place, _END_64_BYTES)
        if len(record) == _END_64_BYTES and record.startswith(END_64):
            _, count, size, offset = struct.unpack("<QQQQ", record[24:56])
            return _End64(count, size, offset, place, before == announced)
    raise BadZip("its directory announces a 64-bit record that is not there")
