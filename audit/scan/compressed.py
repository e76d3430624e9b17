"""Compressed files: decompressed up to a limit, in memory, and examined as what they hold."""

from __future__ import annotations

from audit.scan.examination import Examination
from audit.scan.parts import Part
from audit.scan.report import printable
from audit.scan.unpacking import OF_FILES, Damaged, decompresses, unpack


def check_compressed(part: Part, exam: Examination) -> None:
    """gzip, bzip2 and xz; of others it is said that they are not examined."""
    head = part.head(8)
    opener = next((opener for start, opener in OF_FILES.items() if head.startswith(start)), None)
    if opener is None:
        exam.unexamined(part.where, "compression-unknown", "is compressed in a way that is not read here")
        return
    limits = exam.limits
    bomb = max(limits.ratio_from_bytes, limits.member_ratio * part.size)
    try:
        content, size, whole = unpack(part, opener, min(limits.unpacked_bytes(part.depth), bomb + 1))
    except Damaged as problem:
        exam.unexamined(part.where, "damaged", f"cannot be decompressed: {printable(str(problem), 120)}")
        return
    exam.spend("unpacked bytes", size, limits.expanded_bytes)
    exam.saw("compressed file")
    if size > bomb:
        exam.danger(part.where, "bomb", f"expands more than {limits.member_ratio} times, to {size:,} bytes or more")
        exam.complete = False
        return
    if not whole:
        said = f"becomes more than {size:,} bytes, or is cut off; only these are examined"
        exam.unexamined(part.where, "over-limit", said)
    exam.member(part.unpacked("content", content, size))


def is_compressed(part: Part) -> bool:
    """Whether bytes that begin as zlib or LZMA may do, but as text does, too, can be decompressed."""
    head = part.head(8)
    opener = next((opener for start, opener in OF_FILES.items() if head.startswith(start)), None)
    try:
        return opener is not None and decompresses(part, opener)
    except Damaged:
        return False
