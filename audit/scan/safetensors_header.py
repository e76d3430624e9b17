"""Safetensors: the header says what lies where, and the bytes that follow are exactly that.

Source: the format's description (github.com/huggingface/safetensors, README, "Format"): a length of eight bytes, JSON,
and tensors that follow one another without holes or overlaps.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from audit.scan.examination import Examination
from audit.scan.json_documents import NotJson, parse
from audit.scan.kinds import LARGEST_SAFETENSORS_HEADER
from audit.scan.parts import Part
from audit.scan.report import quoted

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Of an element, by type."""
_PREFIX = 8


def check_safetensors(part: Part, exam: Examination) -> None:
    """The header as a whole, then every tensor in it; of the tensors themselves nothing is read."""
    length = int.from_bytes(part.read(0, _PREFIX), "little")
    if length > LARGEST_SAFETENSORS_HEADER:
        said = f"announces a header of {length:,} bytes, more than the library accepts"
        exam.danger(part.where, "safetensors-header", said)
        return
    if length > part.size - _PREFIX:
        exam.unexamined(part.where, "truncated", f"is cut off within its header of {length:,} bytes")
        return
    if length > exam.limits.header_bytes:
        said = f"has a header of {length:,} bytes; at most {exam.limits.header_bytes:,} are examined"
        exam.unexamined(part.where, "over-limit", said)
        return
    exam.saw("safetensors header")
    try:
        document = parse(part.read(_PREFIX, length), exam.limits)
    except NotJson as problem:
        exam.danger(part.where, "safetensors-header", f"has a header that {problem}")
        return
    if document.repeated:
        named = ", ".join(quoted(key, 60) for key in document.repeated[:3])
        exam.danger(part.where, "safetensors-repeated", f"has a header that names something twice: {named}")
    if not isinstance(document.content, dict):
        exam.danger(part.where, "safetensors-header", "has a header that is no object")
        return
    _check_metadata(part, document.content.get("__metadata__"), exam)
    _check_tensors(part, document.content, part.size - _PREFIX - length, exam)


def _check_metadata(part: Part, metadata: Any, exam: Examination) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        exam.danger(part.where, "safetensors-metadata", "has metadata that are not texts")


def _check_tensors(part: Part, header: dict[str, Any], data_bytes: int, exam: Examination) -> None:
    """Places, sizes, and that they cover the data once."""
    places = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        place = _place_of(part, name, entry, exam)
        if place is None:
            return
        places.append((*place, name))
    exam.saw("tensor description", len(places))
    last = 0
    for begin, end, name in sorted(places):
        if begin < last:
            said = f"has tensors that share their bytes: {quoted(name, 80)} and another"
            exam.danger(part.where, "safetensors-overlap", said)
            return
        if begin > last:
            exam.danger(part.where, "safetensors-gap", f"has {begin - last:,} bytes that belong to no tensor")
            return
        last = end
    if last > data_bytes:
        exam.unexamined(
            part.where, "truncated", f"is cut off: its tensors take {last:,} bytes, and {data_bytes:,} follow"
        )
    elif last < data_bytes:
        exam.danger(part.where, "safetensors-trailing", f"has {data_bytes - last:,} bytes behind its tensors")


def _place_of(part: Part, name: str, entry: Any, exam: Examination) -> tuple[int, int] | None:
    """Where a tensor begins and ends; none, with a finding, where its entry says nothing that could be."""
    shown = quoted(name, 80)
    told: dict[str, Any] = entry if isinstance(entry, dict) else {}
    shape, offsets, dtype = told.get("shape"), told.get("data_offsets"), told.get("dtype")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or not isinstance(dtype, str):
        exam.danger(part.where, "safetensors-entry", f"has an entry for {shown} that lacks a type, a shape or a place")
        return None
    if dtype not in BITS:
        exam.unexamined(part.where, "safetensors-type", f"has a tensor of an unknown type: {quoted(dtype, 40)}")
        return offsets[0], offsets[1]
    bits = BITS[dtype]
    for size in shape:
        bits *= size
        if bits > 1 << 70:
            break
    if offsets[1] - offsets[0] != -(-bits // 8):
        exam.danger(part.where, "safetensors-size", f"gives {shown} another number of bytes than its shape takes")
        return None
    return offsets[0], offsets[1]


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(size) is int and 0 <= size < 1 << 63 for size in value)
    )
