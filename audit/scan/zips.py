"""Zip archives: their structure, then every member by its own content."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from audit.scan.examination import Examination, OverLimit
from audit.scan.kinds import HEAD_BYTES, Kind, kind_of_head
from audit.scan.limits import Limits
from audit.scan.parts import Part
from audit.scan.report import printable, quoted
from audit.scan.unpacking import OF_ZIP, STORED, Damaged, unpack
from audit.scan.zip_directory import BadZip, Entry, ZipEnd, entries, find_end
from audit.scan.zip_structure import check_structure

_ENCRYPTED = 0x1
HEAD_BYTES_OF_ARRAYS = 1 << 16

MemberCheck = Callable[[Part, Examination], None]
Choice = Callable[[str], "MemberCheck | None"]
"""By a member's name: the check for it; none lets its content decide."""


def check_zip(part: Part, exam: Examination) -> None:
    """An archive of anything."""
    check_members(part, exam, lambda name: None)


def check_members(part: Part, exam: Examination, choose: Choice) -> list[str]:
    """Checks an archive's structure and its members.

    Args:
        part: the archive.
        exam: what the findings go to.
        choose: which members have a check of their own in this kind of archive.

    Returns:
        The names of its members, empty where the archive is damaged.
    """
    opened = open_zip(part, exam)
    if opened is None:
        return []
    end, members = opened
    placed = check_structure(part, end, members, exam)
    exam.saw("zip member", len(members))
    if _is_bomb(part, members, exam):
        return [entry.name for entry in members]
    for entry, place in placed:
        inside = member_part(part, entry, place, exam)
        if inside is not None:
            check = choose(entry.name)
            if check is None:
                exam.member(inside)
            else:
                guarded(check, inside, exam)
    return [entry.name for entry in members]


def open_zip(part: Part, exam: Examination) -> tuple[ZipEnd, list[Entry]] | None:
    """The end and the members of an archive; none, with a finding, where it is damaged."""
    try:
        end = find_end(part)
        members = []
        for entry in entries(part, end):
            exam.spend("members", 1, exam.limits.members)
            members.append(entry)
    except BadZip as problem:
        exam.unexamined(part.where, "zip-damaged", f"is a zip archive that is truncated or damaged: {problem}")
        return None
    return end, members


def member_part(part: Part, entry: Entry, place: int, exam: Examination) -> Part | None:
    """A member's bytes, read in place where they are stored; none, with a finding, where they cannot be read."""
    inside = part.within(entry.name, place, entry.packed)
    if entry.name.endswith("/") and not entry.size:
        return None
    if entry.flags & _ENCRYPTED:
        exam.unexamined(inside.where, "encrypted", "is encrypted, and cannot be examined")
        return None
    if inside.size < entry.packed:
        exam.unexamined(inside.where, "truncated", f"is cut off: {inside.size:,} of {entry.packed:,} bytes are there")
    if entry.method == STORED:
        if entry.size != entry.packed:
            exam.danger(inside.where, "zip-size", "is stored, yet is said to have another size when unpacked")
        return inside
    return _unpacked(part, inside, entry, exam)


def guarded(check: MemberCheck, part: Part, exam: Examination) -> None:
    """Runs a check; what is over a limit is said of the part alone, so that the rest is examined."""
    try:
        check(part, exam)
    except OverLimit as problem:
        exam.unexamined(part.where, "over-limit", str(problem))


def _unpacked(part: Part, inside: Part, entry: Entry, exam: Examination) -> Part | None:
    opener = OF_ZIP.get(entry.method)
    if opener is None:
        exam.unexamined(inside.where, "compression-unknown", f"is compressed by method {entry.method}, not known here")
        return None
    limit = exam.limits.unpacked_bytes(part.depth)
    try:
        content, size, _ = unpack(inside, opener, HEAD_BYTES_OF_ARRAYS)
        if kind_of_head(content.getvalue()[:HEAD_BYTES]) is Kind.NPY:  # its header is all that is looked at
            return part.unpacked(entry.name, content, entry.size)
        content, size, _ = unpack(inside, opener, min(entry.size, limit) + 1)
        exam.spend("unpacked bytes", size, exam.limits.expanded_bytes)
    except Damaged as problem:
        exam.unexamined(inside.where, "damaged", f"cannot be decompressed: {printable(str(problem), 120)}")
        return None
    except OverLimit as problem:
        exam.unexamined(inside.where, "over-limit", str(problem))
        return None
    if size > entry.size:
        exam.danger(inside.where, "zip-size", f"becomes more than the {entry.size:,} bytes that it is said to have")
    elif entry.size > limit:
        said = f"would become {entry.size:,} bytes; only the first {limit:,} are examined"
        exam.unexamined(inside.where, "over-limit", said)
    elif size < entry.size:
        exam.unexamined(inside.where, "damaged", f"becomes {size:,} bytes instead of {entry.size:,}")
    return part.unpacked(entry.name, content, size)


def _is_bomb(part: Part, members: Sequence[Entry], exam: Examination) -> bool:
    """Whether members would expand beyond what any checkpoint does; nothing of such an archive is unpacked."""
    limits = exam.limits
    blank = sum(entry.size for entry in members if _is_blank(entry, limits))
    if exam.total("bytes of blank arrays", blank) <= limits.blank_bytes:
        members = [entry for entry in members if not _is_blank(entry, limits)]
    large = [entry for entry in members if entry.size > limits.ratio_from_bytes]
    worst = max(large, key=lambda entry: entry.size / max(entry.packed, 1), default=None)
    if worst is not None and worst.size > limits.member_ratio * max(worst.packed, 1):
        ratio = worst.size // max(worst.packed, 1)
        said = f"has a member that would expand {ratio:,} times, to {worst.size:,} bytes: {quoted(worst.name, 120)}"
        exam.danger(part.where, "zip-bomb", said)
        exam.complete = False
        return True
    total = sum(entry.size for entry in members)
    if total > limits.member_ratio * max(part.size, 1) and total > limits.ratio_from_bytes:
        exam.danger(part.where, "zip-bomb", f"would expand to {total:,} bytes, from {part.size:,}")
        return True
    return False


def _is_blank(entry: Entry, limits: Limits) -> bool:
    """Whether a member is an array, by its name, that would be a bomb if it were anything else."""
    return entry.name.lower().endswith(".npy") and entry.size > limits.member_ratio * max(entry.packed, 1)
