"""The opcodes of a pickle, with their arguments."""

from __future__ import annotations

import codecs
import pickletools
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

from audit.scan.pickle_bytes import Blob, Broken, ByteReader, Overreach

NUMBER = object()
"""A number of which nothing is known: it may be any."""
_C_NUMBER = re.compile(rb"[ \t-\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9][0-9]*))")
_DECIMAL = re.compile(rb"\s*[+-]?[0-9_]+\s*")
_NUMBER_SO_FAR = re.compile(rb"\s*[+-]?[0-9a-fA-FxXoO_]*\s*")
_MODULE_SO_FAR = re.compile(rb"[\w.\-\x80-\xff]+")
_LOOKED_AT = 1 << 13
"""Bytes of a long line, more than digits that `int` takes; beyond them it is taken to go on as it begins."""


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


def _number_line(reader: ByteReader) -> bytes | None:
    """A line with a number, as C reads it up to a NUL; None where it is too long to keep and begins as one.

    Data of any kind whose first byte is such an opcode have such a line: up to where a byte of them happens to be 10.
    """
    line = reader.line()
    if not isinstance(line, Blob):
        return line
    text, ended, _ = _begin(reader, line).partition(b"\0")
    if ended:
        return text
    if not _NUMBER_SO_FAR.fullmatch(text):
        raise Broken("holds a number that is none")
    return None


def _begin(reader: ByteReader, line: Blob) -> bytes:
    return reader.part.read(line.at, _LOOKED_AT)


def _int_line(reader: ByteReader) -> Any:
    """The argument of INT: C takes it by `strtol(s, 0)` up to a NUL, which knows octal numbers, else as Python does."""
    line = _number_line(reader)
    if line is None:
        return NUMBER
    if line in (b"00", b"01"):  # how protocol 0 writes False and True
        return int(line)
    text = line.partition(b"\0")[0]
    found = _C_NUMBER.fullmatch(text)
    if found is None:
        return _python_number(text, 0)
    sign, hexadecimal, octal, decimal = found.groups()
    digits, base = (hexadecimal, 16) if hexadecimal else (octal or b"0", 8) if decimal is None else (decimal, 10)
    value = _python_number(digits, base)
    return -value if sign == b"-" and isinstance(value, int) else value


def _long_line(reader: ByteReader) -> Any:
    """The argument of LONG, as Python reads numbers in a program."""
    line = _number_line(reader)
    return NUMBER if line is None else _python_number(line.removesuffix(b"L").partition(b"\0")[0], 0)


def _place_line(reader: ByteReader) -> int:
    """The argument of PUT and GET, always a decimal number."""
    line = _number_line(reader)
    place = NUMBER if line is None else _python_number(line.partition(b"\0")[0], 10)
    if not isinstance(place, int):
        raise Overreach("has a place of its memo with too many digits")
    return place


def _python_number(text: bytes, base: int) -> Any:
    """What `int` makes of a text; nothing is known of decimal numbers with more digits than it takes."""
    try:
        return int(text, base)
    except ValueError as error:
        if len(text) > 4300 and _DECIMAL.fullmatch(text):
            return NUMBER
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
    """A module and a name in it. What could be no module is not imported, so that its name may be anything."""
    lines = module, name = reader.line(), reader.line()
    plausible = _MODULE_SO_FAR.fullmatch(_begin(reader, module) if isinstance(module, Blob) else module)
    for line in lines:
        if isinstance(line, Blob):
            if not plausible:
                raise Broken("names nothing that could exist")
            raise Overreach(f"has a name of {line.size:,} letters", unnatural=True)
    return str(_text(module, "utf-8")), str(_text(name, "utf-8"))


def _fixed(form: str) -> Callable[[ByteReader], Any]:
    size = struct.calcsize(form)
    return lambda reader: struct.unpack(form, reader.take(size))[0]


def _bytes(form: str) -> Callable[[ByteReader], Any]:
    return lambda reader: reader.payload(_length(reader, form))


def _unicode(form: str, encoding: str = "utf-8") -> Callable[[ByteReader], Any]:
    return lambda reader: _text(reader.payload(_length(reader, form)), encoding)


def _long(form: str) -> Callable[[ByteReader], Any]:
    def read(reader: ByteReader) -> Any:
        content = reader.payload(_length(reader, form))
        return NUMBER if isinstance(content, Blob) else int.from_bytes(content, "little", signed=True)

    return read


_ARGUMENTS: dict[str, Callable[[ByteReader], Any]] = {
    "uint1": _fixed("<B"),
    "uint2": _fixed("<H"),
    "int4": _fixed("<i"),
    "uint4": _fixed("<I"),
    "uint8": _fixed("<Q"),
    "float8": _fixed(">d"),
    "decimalnl_short": _int_line,
    "decimalnl_long": _long_line,
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
_OF_OPCODES = {"PUT": _place_line, "GET": _place_line}
"""Where two opcodes with the same sort of argument read it differently."""
_BY_BYTE = {
    ord(opcode.code): (
        opcode.name,
        _OF_OPCODES.get(opcode.name) or (_ARGUMENTS[opcode.arg.name] if opcode.arg else None),
    )
    for opcode in pickletools.opcodes
}
_READERS: list[tuple[str, Callable[[ByteReader], Any] | None] | None] = [_BY_BYTE.get(byte) for byte in range(256)]
