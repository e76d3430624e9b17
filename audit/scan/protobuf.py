"""The wire format of protocol buffers, walked with bounds; no schema is compiled and no field is trusted.

Source: protobuf.dev, "Encoding": a key of field number and wire type, then a varint, 4 or 8 bytes, or a length and as
many bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from audit.scan.parts import Part

VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5
CHUNK_BYTES = 1 << 16
LONGEST_TEXT = 8192


class BadWire(Exception):  # noqa: N818 - an outcome, not an error
    """Bytes that are no protocol buffer; its text says why."""


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: of the field.
        wire: its wire type.
        value: of a varint; for bytes, how many.
        at: of its bytes in the part.
    """

    number: int
    wire: int
    value: int
    at: int


class WireReader:
    """Reads fields out of a part.

    Args:
        part: the whole message.

    Attributes:
        count: of the fields that were read.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self._chunk = b""
        self._chunk_at = 0
        self.count = 0

    def fields(self, at: int, end: int) -> Iterator[Field]:
        """The fields between two places.

        Raises:
            BadWire: where something is no field, or reaches beyond the end.
        """
        while at < end:
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            if number == 0:
                raise BadWire(f"has a field without a number at {at:,}")
            if wire == VARINT:
                value, following = self._varint(at, end)
            elif wire == LENGTH:
                value, at = self._varint(at, end)
                following = at + value
            elif wire in (EIGHT, FOUR):
                value = 8 if wire == EIGHT else 4
                following = at + value
            else:
                raise BadWire(f"has a field of an unknown sort at {at:,}")
            if following > end:
                raise BadWire(f"has a field at {at:,} that reaches {following - end:,} bytes too far")
            self.count += 1
            yield Field(number, wire, value, at)
            at = following

    def text(self, field: Field) -> str:
        """A field's bytes as text, cut where it is long."""
        return self.part.read(field.at, min(field.value, LONGEST_TEXT)).decode("utf-8", "replace")

    def varints(self, field: Field, most: int = 64) -> list[int]:
        """A field of several packed numbers, or of one."""
        if field.wire == VARINT:
            return [field.value]
        found: list[int] = []
        at = field.at
        while at < field.at + field.value and len(found) < most:
            value, at = self._varint(at, field.at + field.value)
            found.append(value)
        return found

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if at >= end:
                raise BadWire(f"ends within a number at {at:,}")
            byte = self._byte(at)
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift > 63:
                raise BadWire(f"has a number without an end at {at:,}")

    def _byte(self, at: int) -> int:
        offset = at - self._chunk_at
        if not 0 <= offset < len(self._chunk):
            self._chunk, self._chunk_at, offset = self.part.read(at, CHUNK_BYTES), at, 0
            if not self._chunk:
                raise BadWire(f"ends at {at:,}")
        return self._chunk[offset]
