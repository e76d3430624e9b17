"""Tar archives, walked block by block: names, links and sizes; then every member by its own content."""

from __future__ import annotations

from collections.abc import Iterator

from audit.scan.examination import Examination
from audit.scan.parts import Part
from audit.scan.pickle_judge import Dialect
from audit.scan.pickles import check_alone, check_one
from audit.scan.report import quoted
from audit.scan.tar_headers import BadTar, TarMember, members
from audit.scan.torch_files import ELEMENT_BYTES, StoredKey, storage_of
from audit.scan.zip_structure import is_outside

_LINKS = {b"1": "a hard link", b"2": "a symbolic link"}
_DEVICES = {b"3": "a device", b"4": "a device", b"6": "a pipe"}
_CHUNK_BYTES = 1 << 20


def check_tar(part: Part, exam: Examination) -> None:
    """An archive of anything."""
    for member in _safe_members(part, exam):
        _check_content(part, member, exam)


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
        else:
            _check_content(part, member, exam)


def _check_content(part: Part, member: TarMember, exam: Examination) -> None:
    inside = part.within(member.name, member.at, member.size)
    if member.size > inside.size and member.has_content:
        exam.unexamined(inside.where, "truncated", "is cut off")
    if member.has_content:
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
    """The members, each with the findings about its name and its type; then what lies behind the last of them."""
    end = 0
    try:
        for member in members(part):
            exam.spend("members", 1, exam.limits.members)
            exam.saw("tar member")
            _check_member(part, member, exam)
            yield member
            end = member.end
    except BadTar as problem:
        exam.unexamined(part.where, "tar-damaged", f"is a tar archive that is damaged: {problem}")
        return
    _check_end(part, end, exam)


def _check_member(part: Part, member: TarMember, exam: Examination) -> None:
    shown = quoted(member.name, 120)
    if is_outside(member.name):
        exam.danger(part.where, "member-outside", f"has a member that would be unpacked elsewhere: {shown}")
    if member.of_all:
        said = (
            "sets the name or the size of all members at once, by a PAX header: readers differ in what they make of it"
        )
        exam.danger(part.where, "tar-global", said)
    if member.sparse:
        said = f"has a sparse member, {shown}, which unpacking puts together; only its parts as they lie are examined"
        exam.unexamined(part.where, "tar-sparse", said)
    if member.size and not member.has_content:
        said = f"gives a size to {shown}, which has no content: readers differ in where the next member begins"
        exam.unexamined(part.where, "tar-disagrees", said)
    if member.type in _LINKS:
        outside = is_outside(member.link)
        said = f"has {_LINKS[member.type]} as a member: {shown}, to {quoted(member.link, 120)}"
        (exam.danger if outside or member.type == b"2" else exam.note)(part.where, "member-symlink", said)
    elif member.type in _DEVICES:
        exam.danger(part.where, "member-device", f"has {_DEVICES[member.type]} as a member: {shown}")


def _check_end(part: Part, at: int, exam: Examination) -> None:
    """Behind the last member are zeros alone: Python's reader stops at the first block of them, others read on."""
    for begin in range(at, part.size, _CHUNK_BYTES):
        exam.check_time()
        if part.read(begin, _CHUNK_BYTES).strip(b"\0"):
            said = "holds more behind its last member, as a second archive would be; that is not examined"
            exam.unexamined(part.where, "tar-trailing", said)
            return
