"""The opcodes of a pickle, read from a part without trusting a single length in it."""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from audit.scan.parts import Part

LARGEST_KEPT = 1 << 16
"""Texts and bytes beyond are passed over, and stand as a `Blob`."""
MOST_KEPT = 1 << 25
"""Bytes of all that is kept; after that, only what could be a name is."""
LARGEST_NAME = 512
MOST_NAMES = 1 << 27
"""Bytes of these, too."""
LONGEST_NUMBER = 64
LONGEST_LINE = 1 << 25
"""Of the opcodes of protocol 0, whose arguments end with a line; longer lines cannot be followed."""
CHUNK_BYTES = 1 << 18


class Broken(Exception):  # noqa: N818 - an outcome, not an error
    """Nothing that Python's unpickler would read on from here; its text says why."""


class Ended(Broken):
    """The bytes end before the pickle does."""


@dataclass(frozen=True, slots=True, eq=False)
class Blob:
    """Text or bytes too large to keep: where they lie in the part, and how many."""

    at: int
    size: int


class OpcodeReader:
    """Reads one opcode after another, of one pickle or of several.

    Args:
        part: what holds the pickle.
        at: where it begins in the part.
    """

    def __init__(self, part: Part, at: int = 0) -> None:
        self.part = part
        self._chunk = b""
        self._chunk_at = at
        self._offset = 0
        self._kept = 0

    @property
    def at(self) -> int:
        """The place of the next byte."""
        return self._chunk_at + self._offset

    def opcodes(self) -> Iterator[tuple[str, Any]]:
        """Names and arguments, up to and with STOP.

        Raises:
            Broken: where a byte is no opcode, or its argument cannot be read.
        """
        name = ""
        while name != "STOP":
            if self._offset >= len(self._chunk):
                self._refill(1)
            known = _READERS[self._chunk[self._offset]]
            if known is None:
                raise Broken(f"byte {self._chunk[self._offset]:#04x} at {self.at:,} is no opcode")
            self._offset += 1
            name, argument = known
            yield name, (argument(self) if argument else None)

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            Ended: when there are fewer.
        """
        if self._offset + count > len(self._chunk):
            self._refill(count)
        found = self._chunk[self._offset : self._offset + count]
        self._offset += count
        return found

    def line(self) -> bytes | Blob:
        """Up to the next end of line, without it; passed over where it is long."""
        end = self._chunk.find(b"\n", self._offset)
        if end < 0:
            return self._long_line()
        found: bytes | Blob = self._chunk[self._offset : end]
        size = end - self._offset
        self._keep(size)
        if size > LARGEST_KEPT or (self._kept > MOST_KEPT and size > LARGEST_NAME):
            found = Blob(self.at, size)
        self._offset = end + 1
        return found

    def _long_line(self) -> bytes | Blob:
        """A line that goes on beyond what was read."""
        at, kept = self.at, b""
        while self.at - at <= LONGEST_LINE:
            self._refill(1)
            end = self._chunk.find(b"\n")
            if len(kept) <= LARGEST_KEPT:
                kept += self._chunk[:end] if end >= 0 else self._chunk
            self._offset = end + 1 if end >= 0 else len(self._chunk)
            if end >= 0:
                size = self.at - 1 - at
                return kept if size <= LARGEST_KEPT else Blob(at, size)
        raise Broken(f"has a line of more than {LONGEST_LINE:,} bytes")

    def _keep(self, size: int) -> None:
        self._kept += size
        if self._kept > MOST_NAMES:
            raise Broken(f"holds more than {MOST_NAMES:,} bytes of short texts")

    def _refill(self, count: int) -> None:
        """Reads on, so that at least so many bytes follow."""
        at = self.at
        self._chunk, self._chunk_at, self._offset = self.part.read(at, max(count, CHUNK_BYTES)), at, 0
        if len(self._chunk) < count:
            raise Ended(f"ends at {self.part.size:,} without a STOP")

    def payload(self, size: int) -> bytes | Blob:
        """The next bytes, which are passed over where they are many."""
        if size <= (LARGEST_KEPT if self._kept < MOST_KEPT else LARGEST_NAME):
            self._keep(size)
            return self.take(size)
        at = self.at
        if size > self.part.size - at:
            raise Ended(f"ends at {self.part.size:,}, before the {size:,} bytes that it announces")
        self._chunk, self._chunk_at, self._offset = b"", at + size, 0
        return Blob(at, size)


def _length(reader: OpcodeReader, form: str) -> int:
    size: int = struct.unpack(form, reader.take(struct.calcsize(form)))[0]
    if size < 0:
        raise Broken("announces a negative length")
    return size


def _text(payload: bytes | Blob, encoding: str) -> str | Blob:
    if isinstance(payload, Blob):
        return payload
    try:
        return payload.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        raise Broken(f"holds text that is not {encoding}") from error


def _short_line(reader: OpcodeReader) -> bytes:
    line = reader.line()
    if isinstance(line, Blob):
        raise Broken(f"has a name or a number of {line.size:,} letters")
    return line


def _number_line(reader: OpcodeReader) -> int | None:
    """A decimal number; those too long to matter are passed over as None."""
    text = _short_line(reader).rstrip(b"L").strip()
    if text in (b"00", b"01"):  # how protocol 0 writes False and True
        return int(text)
    if len(text) > 20:
        return None
    try:
        return int(text, 0)
    except ValueError as error:
        raise Broken("holds a number that is none") from error


def _quoted_line(reader: OpcodeReader) -> str | Blob:
    whole = reader.line()
    if isinstance(whole, Blob):
        return whole
    line = whole.strip()
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise Broken("holds a text without its quotes")
    try:
        return codecs.escape_decode(line[1:-1])[0].decode("latin-1")
    except ValueError as error:
        raise Broken("holds a text that cannot be read") from error


def _two_lines(reader: OpcodeReader) -> tuple[str, str]:
    return str(_text(_short_line(reader), "utf-8")), str(_text(_short_line(reader), "utf-8"))


def _fixed(form: str) -> Callable[[OpcodeReader], Any]:
    size = struct.calcsize(form)
    return lambda reader: struct.unpack(form, reader.take(size))[0]


def _bytes(form: str) -> Callable[[OpcodeReader], Any]:
    return lambda reader: reader.payload(_length(reader, form))


def _unicode(form: str, encoding: str = "utf-8") -> Callable[[OpcodeReader], Any]:
    return lambda reader: _text(reader.payload(_length(reader, form)), encoding)


def _long(form: str) -> Callable[[OpcodeReader], Any]:
    def read(reader: OpcodeReader) -> int | None:
        content = reader.payload(_length(reader, form))
        if isinstance(content, Blob) or len(content) > LONGEST_NUMBER:
            return None
        return int.from_bytes(content, "little", signed=True)

    return read


_ARGUMENTS: dict[str, Callable[[OpcodeReader], Any]] = {
    "uint1": _fixed("<B"),
    "uint2": _fixed("<H"),
    "int4": _fixed("<i"),
    "uint4": _fixed("<I"),
    "uint8": _fixed("<Q"),
    "float8": _fixed(">d"),
    "decimalnl_short": _number_line,
    "decimalnl_long": _number_line,
    "floatnl": lambda reader: reader.line(),
    "stringnl": _quoted_line,
    "stringnl_noescape": lambda reader: _text(reader.line(), "utf-8"),
    "stringnl_noescape_pair": _two_lines,
    "unicodestringnl": lambda reader: _text(reader.line(), "raw_unicode_escape"),
    "string1": _unicode("<B", "latin-1"),
    "string4": _unicode("<i", "latin-1"),
    "bytes1": _bytes("<B"),
    "bytes4": _bytes("<I"),
    "bytes8": _bytes("<Q"),
    "bytearray8": _bytes("<Q"),
    "unicodestring1": _unicode("<B"),
    "unicodestring4": _unicode("<I"),
    "unicodestring8": _unicode("<Q"),
    "long1": _long("<B"),
    "long4": _long("<i"),
}
_BY_BYTE = {
    ord(opcode.code): (opcode.name, _ARGUMENTS[opcode.arg.name] if opcode.arg else None)
    for opcode in pickletools.opcodes
}
_READERS: list[tuple[str, Callable[[OpcodeReader], Any] | None] | None] = [_BY_BYTE.get(byte) for byte in range(256)]
