"""Tar archives, walked block by block: names, links and sizes; then every member by its own content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from audit.scan.examination import Examination
from audit.scan.parts import Part
from audit.scan.pickle_judge import Dialect
from audit.scan.pickles import check_alone, check_one
from audit.scan.report import quoted
from audit.scan.torch_files import ELEMENT_BYTES, StoredKey, storage_of
from audit.scan.zip_structure import is_outside

BLOCK = 512
LONGEST_EXTENSION = 1 << 16
"""Of a long name, or of a PAX header."""
_LINKS = {b"1": "a hard link", b"2": "a symbolic link"}
_DEVICES = {b"3": "a device", b"4": "a device", b"6": "a pipe"}


class BadTar(Exception):  # noqa: N818 - an outcome, not an error
    """A header that cannot be read."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member.

    Attributes:
        name: as unpacking would use it.
        type: of the header, `0` for a file.
        link: where a link leads.
        at: of its content.
        size: of its content.
    """

    name: str
    type: bytes
    link: str
    at: int
    size: int


def check_tar(part: Part, exam: Examination) -> None:
    """An archive of anything."""
    for member in _safe_members(part, exam):
        inside = part.within(member.name, member.at, member.size)
        if member.size > inside.size:
            exam.unexamined(inside.where, "truncated", "is cut off")
        if member.type in (b"0", b"\0", b"7"):
            exam.member(inside)


def check_torch_tar(part: Part, exam: Examination) -> None:
    """Pickles with raw numbers between them, as torch wrote them before 0.4."""
    said = "is a tar file of torch before 0.4, which torch can only read by unpickling it without limits"
    exam.code(part.where, "torch-tar", said)
    for member in _safe_members(part, exam):
        inside = part.within(member.name, member.at, member.size)
        name = member.name.removeprefix("./")
        if name in ("pickle", "sys_info"):
            check_alone(inside, exam, Dialect(stored=lambda key: None))
        elif name == "storages":
            _check_storages(inside, exam)
        elif name == "tensors":
            check_one(inside, exam, Dialect(stored=lambda key: None))
        elif member.type in (b"0", b"\0", b"7"):
            exam.member(inside)


def _check_storages(part: Part, exam: Examination) -> None:
    """A count, then for each storage a pickle of key, place and class, a count of eight bytes, and the numbers."""
    stored: list[StoredKey] = []
    at = check_one(part, exam, Dialect(), 0)
    while at is not None and at < part.size:
        stored.clear()
        at = check_one(part, exam, Dialect(result=lambda value: stored.append(storage_of(value))), at)
        if at is None or not stored or stored[0] is None:
            break
        count = int.from_bytes(part.read(at, 8), "little")
        at += 8 + count * ELEMENT_BYTES[stored[0]]


def _safe_members(part: Part, exam: Examination) -> Iterator[TarMember]:
    """The members, each with the findings about its name and its type."""
    try:
        for member in members(part):
            exam.spend("members", 1, exam.limits.members)
            exam.saw("tar member")
            _check_member(part, member, exam)
            yield member
    except BadTar as problem:
        exam.unexamined(part.where, "tar-damaged", f"is a tar archive that is damaged: {problem}")


def _check_member(part: Part, member: TarMember, exam: Examination) -> None:
    shown = quoted(member.name, 120)
    if is_outside(member.name):
        exam.danger(part.where, "member-outside", f"has a member that would be unpacked elsewhere: {shown}")
    if member.type in _LINKS:
        outside = is_outside(member.link)
        said = f"has {_LINKS[member.type]} as a member: {shown}, to {quoted(member.link, 120)}"
        (exam.danger if outside or member.type == b"2" else exam.note)(part.where, "member-symlink", said)
    elif member.type in _DEVICES:
        exam.danger(part.where, "member-device", f"has {_DEVICES[member.type]} as a member: {shown}")


def members(part: Part) -> Iterator[TarMember]:
    """Every member; long names and PAX headers are applied to the member that follows them.

    Raises:
        BadTar: where a header cannot be read.
    """
    at, name, link, pax_size = 0, "", "", None
    while at + BLOCK <= part.size:
        block = part.read(at, BLOCK)
        if not block.strip(b"\0"):
            return
        kind, size = block[156:157], _number(block[124:136])
        at += BLOCK
        if kind in (b"L", b"K", b"x"):
            text = part.read(at, min(size, LONGEST_EXTENSION))
            if kind == b"x":
                records = _pax(text)
                name, link = records.get("path", name), records.get("linkpath", link)
                pax_size = int(records["size"]) if records.get("size", "").isdigit() else None
            elif kind == b"L":
                name = _text(text)
            else:
                link = _text(text)
        elif kind != b"g":
            size = size if pax_size is None else pax_size
            yield TarMember(name or _own_name(block), kind, link or _text(block[157:257]), at, size)
            name, link, pax_size = "", "", None
        at += -(-size // BLOCK) * BLOCK


def _own_name(block: bytes) -> str:
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{_text(block[:100])}" if prefix else _text(block[:100])


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _number(field: bytes) -> int:
    """Octal digits, or a number of base 256 where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", digits):
        raise BadTar("a size is no number")
    return int(digits or b"0", 8)


def _pax(data: bytes) -> dict[str, str]:
    """Records of `length key=value`."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        length = re.match(rb"(\d{1,6}) ", data[at : at + 8])
        if not length or int(length[1]) <= length.end():
            break
        key, _, value = data[at + length.end() : at + int(length[1]) - 1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        at += int(length[1])
    return found
