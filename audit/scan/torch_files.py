"""Files of `torch.save`: the zip of today, the five pickles of before 1.6, and the tar of before 0.4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from audit.scan.examination import Examination
from audit.scan.kinds import Kind, kind_of_head
from audit.scan.parts import Part
from audit.scan.pickle_guess import calls_something
from audit.scan.pickle_judge import Dialect
from audit.scan.pickle_machine import Global
from audit.scan.pickles import check_alone, check_one
from audit.scan.report import printable, quoted
from audit.scan.zips import check_members

LEGACY_PICKLES = 5
"""Magic number, protocol, system, the object, and the keys of the storages that follow as raw bytes."""
ELEMENT_BYTES = {
    "BFloat16": 2, "Bool": 1, "Byte": 1, "Char": 1, "ComplexDouble": 16, "ComplexFloat": 8, "Double": 8, "Float": 4,
    "Half": 2, "Int": 4, "Long": 8, "QInt32": 4, "QInt8": 1, "QUInt2x4": 1, "QUInt4x2": 1, "QUInt8": 1, "Short": 2,
    "Untyped": 1,
}  # fmt: skip
"""Of each class of storage, by the beginning of its name."""
_OWN_MEMBERS = {"data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}


StoredKey = str | None


def storage_of(value: Any) -> StoredKey:
    """The name of the element type, out of a tuple that ends in a class of storage; none where it is something else."""
    if not isinstance(value, tuple) or not value or not isinstance(value[-1], Global):
        return None
    name = value[-1].name.removesuffix("Storage")
    return name if name in ELEMENT_BYTES else None


class Storages:
    """The storages that a pickle refers to: key to bytes, as far as its own words tell."""

    def __init__(self) -> None:
        self.bytes_of: dict[str, int] = {}

    def add(self, key: Any) -> None:
        """Takes a persistent id, `("storage", class, key, location, count, ...)`."""
        if not isinstance(key, tuple) or len(key) < 5 or not isinstance(key[1], Global):
            return
        element = ELEMENT_BYTES.get(key[1].name.removesuffix("Storage"))
        if element and isinstance(key[4], int) and isinstance(key[2], (str, int)):
            self.bytes_of[str(key[2])] = key[4] * element


def check_torch_zip(part: Part, exam: Examination) -> None:
    """A pickle, and a raw member a storage; a storage that is missing or cut off is a note."""
    storages = Storages()
    sizes: dict[str, int] = {}

    def check_data(inside: Part, exam: Examination) -> None:
        sizes[_below(inside.name).removeprefix("data/")] = inside.size
        check_tensor_bytes(inside, exam)

    def choose(name: str) -> Any:
        below = _below(name)
        if below.lower() == "data.pkl":
            return lambda inside, exam: check_alone(inside, exam, Dialect(stored=storages.add))
        return check_data if below.startswith("data/") else None

    names = check_members(part, exam, choose)
    _note_others(part, names, exam)
    for key, size in storages.bytes_of.items():
        if sizes.get(key, 0) < size:
            there = f"{sizes[key]:,} of {size:,} bytes" if key in sizes else "no such member"
            said = f"lacks the bytes of a tensor: {there} in data/{printable(key, 40)}"
            exam.unexamined(part.where, "tensor-cut-off", said)


def check_tensor_bytes(part: Part, exam: Examination) -> None:
    """Numbers, of which the beginning is looked at: a program or an archive in their place is no accident."""
    head = part.head()
    exam.saw("tensor head")
    if kind_of_head(head) in (Kind.NATIVE, Kind.ZIP, Kind.HDF5) and head[:2] != b"MZ":
        exam.danger(part.where, "tensor-holds-file", f"holds {kind_of_head(head).value} in place of a tensor's numbers")
    elif calls_something(part):
        exam.member(part, Kind.PICKLE)


def check_torch_legacy(part: Part, exam: Examination) -> None:
    """Five pickles; what follows are numbers, and is not read as opcodes."""
    storages = Storages()
    at = 0
    for _ in range(LEGACY_PICKLES):
        end = check_one(part, exam, Dialect(stored=storages.add), at)
        if end is None:
            return
        at = end
    expected = sum(8 + size for size in storages.bytes_of.values())
    if part.size - at < expected:
        said = f"is cut off: its tensors take {expected:,} bytes, and {part.size - at:,} follow"
        exam.unexamined(part.where, "truncated", said)
    elif part.size - at > expected and storages.bytes_of:
        said = f"holds {part.size - at - expected:,} bytes behind its tensors"
        exam.note(part.where, "trailing-data", said)


def _note_others(part: Part, names: Sequence[str], exam: Examination) -> None:
    others = [name for name in names if not _below(name).startswith("data/") and _below(name) not in _OWN_MEMBERS]
    if others:
        shown = ", ".join(quoted(name, 60) for name in others[:5])
        exam.note(part.where, "extra-members", f"has members that torch.save does not write: {shown}")


def _below(name: str) -> str:
    return name.partition("/")[2] or name
