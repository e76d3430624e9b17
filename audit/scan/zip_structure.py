"""Whether a zip archive says the same to every reader: one list of members, one member a name, nothing hidden.

Readers disagree about archives that are made for it: some go by the directory at the end, others by the headers before
each member, and torch's ignores the case of names. Members that share their bytes make bombs without any nesting.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import PurePath

from audit.scan.examination import Examination
from audit.scan.parts import Part
from audit.scan.report import quoted
from audit.scan.zip_directory import END, LOCAL, Entry, ZipEnd, extra_field

_LOCAL_BYTES = 30
_LARGEST_DESCRIPTOR = 24
_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8
_SYMLINK, _FORMAT_MASK = 0o120000, 0o170000
_OUTSIDE = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:|\\")


def check_structure(part: Part, end: ZipEnd, members: Sequence[Entry], exam: Examination) -> list[tuple[Entry, int]]:
    """Checks an archive as a whole.

    Returns:
        The members that can be read, each with the place of its data.
    """
    if end.prepended and PurePath(part.name).suffix == ".distcp":
        exam.unexamined(
            part.where,
            "several-archives",
            "is several archives one behind the other, as torch.distributed writes them, and is not examined",
        )
        return []
    if end.prepended:
        exam.danger(part.where, "zip-prepended", f"has {end.prepended:,} bytes in front that its directory leaves out")
    if end.trailing:
        exam.danger(part.where, "zip-trailing", f"has {end.trailing:,} bytes behind its end")
    if end.two:
        exam.danger(part.where, "zip-two-ends", "says two things about where its directory is; readers differ")
    if END in end.comment:
        exam.danger(part.where, "zip-two-ends", "has a second directory hidden in its comment")
    _check_names(part, members, exam)
    placed = [(entry, place) for entry in members if (place := _check_local_header(part, entry, exam)) is not None]
    _check_layout(part, end, placed, exam)
    return placed


def is_outside(name: str) -> bool:
    """Whether a member's name leads out of the folder into which it is unpacked, on any system."""
    return _OUTSIDE.search(name) is not None


def _check_names(part: Part, members: Sequence[Entry], exam: Examination) -> None:
    seen: set[str] = set()
    for entry in members:
        name = entry.name
        folded = name.lower()
        if is_outside(name):
            said = f"has a member that would be unpacked elsewhere: {quoted(name, 120)}"
            exam.danger(part.where, "member-outside", said)
        if b"\0" in entry.raw_name:
            said = f"has a member whose name goes on behind a NUL: {quoted(name, 120)}"
            exam.danger(part.where, "zip-name", said)
        if entry.mode & _FORMAT_MASK == _SYMLINK:
            exam.danger(part.where, "member-symlink", f"has a symbolic link as a member: {quoted(name, 120)}")
        if folded in seen:
            said = f"has two members of one name: {quoted(name, 120)}; readers differ in which they take"
            exam.danger(part.where, "zip-duplicate", said)
        seen.add(folded)


def _check_local_header(part: Part, entry: Entry, exam: Examination) -> int | None:
    """Where the member's data begin; none where its header is not what the directory says."""
    header = part.read(entry.at, _LOCAL_BYTES)
    if len(header) < _LOCAL_BYTES or not header.startswith(LOCAL):
        exam.danger(
            part.where, "zip-header", f"has no header where the directory says that {quoted(entry.name, 120)} begins"
        )
        exam.complete = False
        return None
    flags, method, _, _, packed, size, name_bytes, extra_bytes = struct.unpack("<HHIIIIHH", header[6:30])
    name_and_extra = part.read(entry.at + _LOCAL_BYTES, name_bytes + extra_bytes)
    name, extra = name_and_extra[:name_bytes], name_and_extra[name_bytes:]
    differing = [] if name == entry.raw_name else [f"the name {quoted(name.decode('utf-8', 'replace'), 120)}"]
    differing += ["the method of compression"] if method != entry.method else []
    differing += ["encryption"] if (flags ^ entry.flags) & _ENCRYPTED else []
    if not flags & _DESCRIPTOR and not _sizes_agree(entry, packed, size, extra):
        differing.append("the sizes")
    if differing:
        said = " and ".join(differing)
        named = quoted(entry.name, 120)
        exam.danger(part.where, "zip-disagrees", f"says two things about {named}: its header differs in {said}")
    return entry.at + _LOCAL_BYTES + int(name_bytes) + int(extra_bytes)


def _sizes_agree(entry: Entry, packed: int, size: int, extra: bytes) -> bool:
    wide = extra_field(extra, 1)
    if len(wide) >= 16:
        full = 0xFFFFFFFF
        size = int.from_bytes(wide[:8], "little") if size == full else size
        packed = int.from_bytes(wide[8:16], "little") if packed == full else packed
    return (packed, size) == (entry.packed, entry.size)


def _check_layout(part: Part, end: ZipEnd, placed: Sequence[tuple[Entry, int]], exam: Examination) -> None:
    """Members lie one behind the other, and the directory behind them; between them is nothing."""
    last = 0
    for entry, place in sorted(placed, key=lambda pair: pair[0].at):
        if entry.at < last:
            named = quoted(entry.name, 120)
            exam.danger(part.where, "zip-overlap", f"has members that share their bytes: {named} and the one before")
        elif entry.at > last:
            _check_gap(part, last, entry.at, exam)
        last = max(last, place + entry.packed)
    if last > end.directory_at:
        exam.danger(part.where, "zip-overlap", "has a member that reaches into the directory")
    elif last < end.directory_at:
        _check_gap(part, last, end.directory_at, exam)


def _check_gap(part: Part, begin: int, end: int, exam: Examination) -> None:
    """Sizes behind the data take up to 24 bytes; a whole header in a gap is a member that the directory leaves out."""
    if end - begin <= _LARGEST_DESCRIPTOR:
        return
    if LOCAL in part.read(begin, min(end - begin, 1 << 20)):
        exam.danger(part.where, "zip-hidden", f"has a member at {begin:,} that its directory leaves out")
    else:
        exam.note(part.where, "zip-gap", f"has {end - begin:,} bytes at {begin:,} that belong to no member")
