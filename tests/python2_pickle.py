"""Pickles as Python 2's cPickle wrote them at protocol 2, byte for byte: the form of the original CIFAR files."""

import struct

import numpy as np
import numpy.typing as npt


class Python2Pickle:
    """Writes opcode after opcode; `str` is bytes there, and every object goes into the memo."""

    def __init__(self, *, long_strings: bool = False) -> None:
        self._memo: dict[str, int] = {}
        self._count = 0
        self._long_strings = long_strings

    def dump(self, content: object) -> bytes:
        return b"\x80\x02" + self._write(content) + b"."

    def _put(self) -> bytes:
        self._count += 1
        return b"q" + bytes([self._count]) if self._count < 256 else b"r" + struct.pack("<I", self._count)

    def _write(self, content: object) -> bytes:
        if content is None or isinstance(content, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[content]
        if isinstance(content, int):
            return self._integer(content)
        if isinstance(content, bytes):
            short = len(content) < 256 and not self._long_strings
            length = b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content))
            return length + content + self._put()
        if isinstance(content, list):
            return b"]" + self._put() + b"(" + b"".join(map(self._write, content)) + b"e"
        if isinstance(content, dict):
            items = b"".join(self._write(key) + self._write(value) for key, value in content.items())
            return b"}" + self._put() + b"(" + items + b"u"
        assert isinstance(content, np.ndarray)
        return self._array(content)

    def _integer(self, value: int) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        return b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)

    def _global(self, name: str) -> bytes:
        if name in self._memo:
            return b"h" + bytes([self._memo[name]])
        written = f"c{name}\n".encode() + self._put()
        self._memo[name] = self._count
        return written

    def _array(self, array: npt.NDArray[np.generic]) -> bytes:
        shape = b"(" + b"".join(map(self._integer, array.shape)) + b"t" + self._put()
        empty = self._global("numpy.core.multiarray\n_reconstruct") + self._global("numpy\nndarray")
        empty += b"K\x00\x85" + self._put() + b"U\x01b" + self._put() + b"\x87" + self._put() + b"R" + self._put()
        code = array.dtype.str[1:].encode()
        dtype = self._global("numpy\ndtype") + self._write(code) + b"K\x00K\x01\x87" + self._put() + b"R" + self._put()
        dtype += b"(K\x03" + self._write(array.dtype.str[:1].encode()) + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00t"
        dtype += self._put() + b"b"
        return empty + b"(K\x01" + shape + dtype + b"\x89" + self._write(array.tobytes()) + b"t" + self._put() + b"b"
