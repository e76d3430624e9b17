"""Pictures, which run nothing: whether one is what it says up to its end, where a format tells."""

from __future__ import annotations

from audit.scan.examination import Examination
from audit.scan.parts import Part

PNG = b"\x89PNG\r\n\x1a\n"
MOST_CHUNKS = 100_000


def check_image(part: Part, exam: Examination) -> None:
    """A PNG is walked chunk by chunk; of other formats the beginning alone is looked at."""
    exam.saw("picture")
    if not part.head(8).startswith(PNG):
        return
    at = len(PNG)
    for _ in range(MOST_CHUNKS):
        head = part.read(at, 8)
        if len(head) < 8:
            exam.unexamined(part.where, "truncated", "is a picture that is cut off")
            return
        at += 12 + int.from_bytes(head[:4], "big")
        if head[4:] == b"IEND":
            break
    if at < part.size:
        exam.unexamined(part.where, "trailing-data", f"is a picture with {part.size - at:,} bytes behind its end")
