"""NumPy arrays: the header is text that readers evaluate, and arrays of objects are pickles."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

from audit.scan.examination import Examination
from audit.scan.parts import Part
from audit.scan.pickles import check_pickle
from audit.scan.report import printable

LONGEST_HEADER = 10_000
"""What numpy reads by default."""
DEEPEST_HEADER = 30
_NUMBER = re.compile(r"[<>|=]?([biufcSUVmM?])(\d{0,12})(\[\w+\])?")
_NAMED_NUMBER = re.compile(r"bool|(?:u?int|float|complex)(\d{1,3})")
_KEYS = {"descr", "fortran_order", "shape"}
_BOMB_BYTES = 1 << 33


def check_array(part: Part, exam: Examination) -> None:
    """An array of numbers is as long as its shape says; one of objects needs unpickling."""
    exam.saw("array header")
    major = part.read(6, 1)
    wide = major in (b"\x02", b"\x03")
    if not wide and major != b"\x01":
        exam.unexamined(part.where, "array-version", "is a NumPy array of an unknown version")
        return
    length = int.from_bytes(part.read(8, 4 if wide else 2), "little")
    begin = 12 if wide else 10
    if length > LONGEST_HEADER:
        exam.danger(part.where, "array-header", f"has a header of {length:,} bytes, more than numpy reads")
        return
    if begin + length > part.size:
        exam.unexamined(part.where, "truncated", "is cut off within its header")
        return
    header = _parse(part.read(begin, length))
    if header is None:
        exam.danger(part.where, "array-header", "has a header that is not what numpy writes")
        return
    item = _item_bytes(header["descr"])
    if item is None:
        exam.danger(part.where, "array-objects", "is an array of objects, which needs unpickling")
        inside = part.within("objects", begin + length, part.size - begin - length)
        check_pickle(inside, exam)
        return
    _check_size(part, item * math.prod(header["shape"]), part.size - begin - length, exam)


def _parse(data: bytes) -> dict[str, Any] | None:
    """The dict of a header, as numpy writes it; numbers of Python 2 may end with an L."""
    text = re.sub(r"(?<=\d)L\b", "", data.decode("latin-1"))
    depth = deepest = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    if deepest > DEEPEST_HEADER or re.search(r"[-+~]{20}", text):
        return None
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != _KEYS or not isinstance(found["fortran_order"], bool):
        return None
    shape = found["shape"]
    good = isinstance(shape, tuple) and len(shape) <= 64 and all(type(size) is int and size >= 0 for size in shape)
    return found if good else None


def _item_bytes(descr: Any, depth: int = DEEPEST_HEADER) -> int | None:
    """Bytes of an element of a type of numbers, as its parts take them; none where it may hold objects.

    Fields are (name, type) or (name, type, shape). There are many spellings of objects: what is not known to be of
    numbers counts as them.
    """
    if isinstance(descr, str):
        return _number_bytes(descr)
    if not isinstance(descr, list) or not depth:
        return None
    total = 0
    for field in descr:
        if not isinstance(field, tuple) or len(field) not in (2, 3):
            return None
        item, shape = _item_bytes(field[1], depth - 1), field[2] if len(field) == 3 else ()
        shape = shape if isinstance(shape, tuple) else (shape,)
        if item is None or not all(type(size) is int and size >= 0 for size in shape):
            return None
        total += item * math.prod(shape)
    return total


def _number_bytes(text: str) -> int | None:
    named = _NAMED_NUMBER.fullmatch(text)
    if named:
        return int(named[1] or 8) // 8
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    return int(found[2] or 1) * (4 if found[1] == "U" else 1)


def _check_size(part: Part, needed: int, there: int, exam: Examination) -> None:
    if needed > there + _BOMB_BYTES:
        said = (
            f"announces {printable(str(needed), 30)} bytes of numbers, and holds {there:,}: reading it fills the memory"
        )
        exam.danger(part.where, "array-bomb", said)
    elif needed > there:
        exam.unexamined(part.where, "truncated", f"is cut off: its shape takes {needed:,} bytes, and {there:,} follow")
