"""The opcodes of a pickle, with their arguments."""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable, Iterator
from typing import Any

from audit.scan.pickle_bytes import Blob, Broken, ByteReader

LONGEST_NUMBER = 64
"""Bytes of a number that may matter."""


class OpcodeReader(ByteReader):
    """Reads one opcode after another, of one pickle or of several."""

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


def _length(reader: ByteReader, form: str) -> int:
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


def _short_line(reader: ByteReader) -> bytes:
    line = reader.line()
    if isinstance(line, Blob):
        raise Broken(f"has a name or a number of {line.size:,} letters")
    return line


def _number_line(reader: ByteReader) -> int | None:
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


def _quoted_line(reader: ByteReader) -> str | Blob:
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


def _two_lines(reader: ByteReader) -> tuple[str, str]:
    return str(_text(_short_line(reader), "utf-8")), str(_text(_short_line(reader), "utf-8"))


def _fixed(form: str) -> Callable[[ByteReader], Any]:
    size = struct.calcsize(form)
    return lambda reader: struct.unpack(form, reader.take(size))[0]


def _bytes(form: str) -> Callable[[ByteReader], Any]:
    return lambda reader: reader.payload(_length(reader, form))


def _unicode(form: str, encoding: str = "utf-8") -> Callable[[ByteReader], Any]:
    return lambda reader: _text(reader.payload(_length(reader, form)), encoding)


def _long(form: str) -> Callable[[ByteReader], Any]:
    def read(reader: ByteReader) -> int | None:
        content = reader.payload(_length(reader, form))
        if isinstance(content, Blob) or len(content) > LONGEST_NUMBER:
            return None
        return int.from_bytes(content, "little", signed=True)

    return read


_ARGUMENTS: dict[str, Callable[[ByteReader], Any]] = {
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
_READERS: list[tuple[str, Callable[[ByteReader], Any] | None] | None] = [_BY_BYTE.get(byte) for byte in range(256)]
