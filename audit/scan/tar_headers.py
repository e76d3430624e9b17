"""The headers of a tar archive, walked as Python's `tarfile` walks them; where readers differ, it is said or refused.

Read in Python 3.11.7, `tarfile.py`: links, folders, devices and pipes have no content, whatever size they give; a type
that is not known is a file; an old file whose name ends with a slash is a folder; `x` and Solaris' `X` replace the name
and the size of the member that follows, and `g` those of all that follow, though not where the next one begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from audit.scan.kinds import is_tar, tar_number
from audit.scan.parts import Part
from audit.scan.zip_structure import is_outside

BLOCK = 512
LONGEST_EXTENSION = 1 << 20
"""Of a long name, or of a PAX header."""
_NAME, _SIZE, _TYPE, _LINK, _MAGIC, _PREFIX = (
    slice(0, 100), slice(124, 136), slice(156, 157), slice(157, 257), slice(257, 263), slice(345, 500),
)  # fmt: skip
"""Where a header has them: POSIX.1-2017, pax, "ustar Interchange Format"."""
_MORE_PARTS, _MORE_PARTS_BEHIND = 482, 504
"""Whether a list of the parts of a sparse file goes on, in its header and in each block that follows."""
_NO_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
_SPARSE = b"S"
_RECORD = re.compile(rb"(\d{1,20}) ([^=]+)=")
_SPARSE_KEYS = "GNU.sparse"
_OF_ONE = ("path", "linkpath", "size", _SPARSE_KEYS)
"""Beginnings of what a PAX header may say of one member alone."""


class BadTar(Exception):  # noqa: N818 - an outcome, not an error
    """A header that cannot be read, or that readers would read differently."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member.

    Attributes:
        name: as unpacking would use it.
        type: of the header, `0` for a file.
        link: where a link leads.
        at: of its content.
        size: of its content, as its header has it.
        sparse: whether its content is put together out of parts.
        of_all: whether a name or a size was set for all members.
    """

    name: str
    type: bytes
    link: str
    at: int
    size: int
    sparse: bool = False
    of_all: bool = False

    @property
    def has_content(self) -> bool:
        """Whether bytes follow its header, as Python sees it."""
        return self.type not in _NO_CONTENT

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.at + (_in_blocks(self.size) if self.has_content else 0)


@dataclass(slots=True)
class _ExtendedHeaders:
    """What headers before a member say of it."""

    name: str = ""
    link: str = ""
    records: dict[str, str] = field(default_factory=dict)

    def add(self, kind: bytes, content: bytes) -> None:
        """Takes a long name or a PAX header; one of a sort a member, as all writers have it."""
        records = _pax(content) if kind in b"xX" else {}
        name = _text(content) if kind == b"L" else records.get("GNU.sparse.name", records.get("path", ""))
        link = _text(content) if kind == b"K" else records.get("linkpath", "")
        if (name and self.name) or (link and self.link) or (records and self.records):
            raise BadTar("it names one member twice")
        self.name, self.link, self.records = name or self.name, link or self.link, records or self.records


def members(part: Part) -> Iterator[TarMember]:
    """Every member, up to the first block of zeros; long names and PAX headers are applied to what follows them.

    Raises:
        BadTar: where a header cannot be read.
    """
    at, before, of_all = 0, _ExtendedHeaders(), False
    while at < part.size:
        block = part.read(at, BLOCK)
        if not block.strip(b"\0"):
            return
        if not is_tar(block):
            raise BadTar(f"what lies at {at:,} is no header of a member")
        kind, size = block[_TYPE], _number(block[_SIZE])
        at += BLOCK
        if kind in b"LKxXg":
            content = _extended_content(part, at, size)
            if kind == b"g":
                of_all = of_all or any(key.startswith(_OF_ONE) for key in _pax(content))
            else:
                before.add(kind, content)
            at += _in_blocks(size)
            continue
        member = _member(part, block, at, before, of_all=of_all)
        yield member
        at, before = member.end, _ExtendedHeaders()


def _member(part: Part, block: bytes, at: int, before: _ExtendedHeaders, *, of_all: bool) -> TarMember:
    """The member of a header, with what the headers before it say."""
    kind, records = block[_TYPE], before.records
    if kind == b"\0" and _text(block[_NAME]).endswith("/"):
        kind = b"5"
    size = records.get("size", "")
    if size and not re.fullmatch(r"[0-9]{1,19}", size):
        raise BadTar("a size in a PAX header is no number")
    sparse = kind == _SPARSE or any(key.startswith(_SPARSE_KEYS) for key in records)
    more = kind == _SPARSE and block[_MORE_PARTS] != 0
    while more and at < part.size:  # blocks that list the parts of a sparse file
        more, at = part.read(at + _MORE_PARTS_BEHIND, 1) not in (b"\0", b""), at + BLOCK
    return TarMember(
        name=before.name or _full_name(block),
        type=kind,
        link=before.link or _text(block[_LINK]),
        at=at,
        size=int(size) if size else _number(block[_SIZE]),
        sparse=sparse,
        of_all=of_all,
    )


def _extended_content(part: Part, at: int, size: int) -> bytes:
    if size > LONGEST_EXTENSION:
        raise BadTar(f"a name or a PAX header takes {size:,} bytes")
    return part.read(at, _in_blocks(size))  # as Python does: what is hidden behind its end counts, too


def _in_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _full_name(block: bytes) -> str:
    """Python puts the prefix before the name in every format; in those without one, other things may lie there."""
    prefix = _text(block[_PREFIX])
    if prefix and (block[_MAGIC] == b"ustar\0" or is_outside(prefix)):
        return f"{prefix}/{_text(block[_NAME])}"
    return _text(block[_NAME])


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _number(stored: bytes) -> int:
    number = tar_number(stored)
    if number is None or number < 0:
        raise BadTar("a size is no number")
    return number


def _pax(data: bytes) -> dict[str, str]:
    """Records of `length key=value`, read as Python reads them."""
    found: dict[str, str] = {}
    at = 0
    while (record := _RECORD.match(data, at)) and int(record[1]):
        value = data[record.end() : at + int(record[1]) - 1]
        found[record[2].decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        at += int(record[1])
    return found
