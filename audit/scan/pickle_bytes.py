"""The bytes of a pickle, read from a part without trusting a single length in it, and without keeping what is large."""

from __future__ import annotations

from dataclasses import dataclass

from audit.scan.parts import Part

LARGEST_KEPT = 1 << 16
"""Texts and bytes beyond are passed over, and stand as a `Blob`."""
MOST_KEPT = 1 << 25
"""Bytes of all that is kept; after that, only what could be a name is."""
LARGEST_NAME = 512
MOST_NAMES = 1 << 27
"""Bytes of these, too."""
LONGEST_LINE = 1 << 30
"""Of the opcodes of protocol 0, whose arguments end with a line; longer lines cannot be followed."""
CHUNK_BYTES = 1 << 18


class Broken(Exception):  # noqa: N818 - an outcome, not an error
    """Nothing that Python's unpickler would read on from here; its text says why."""


class Ended(Broken):
    """The bytes end before the pickle does."""


class Overreach(Broken):
    """An unpickler would read on, and here it is not followed any further.

    Attributes:
        unnatural: whether no pickler writes that.
    """

    def __init__(self, text: str, *, unnatural: bool = False) -> None:
        super().__init__(text)
        self.unnatural = unnatural


@dataclass(frozen=True, slots=True, eq=False)
class Blob:
    """Text or bytes too large to keep: where they lie in the part, and how many."""

    at: int
    size: int


class ByteReader:
    """Reads on in a part: so many bytes, a line, or a payload that is passed over where it is large.

    Args:
        part: what is read.
        at: where to begin in it.
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
        raise Overreach(f"has a line of more than {LONGEST_LINE:,} bytes")

    def _keep(self, size: int) -> None:
        self._kept += size
        if self._kept > MOST_NAMES:
            raise Overreach(f"holds more than {MOST_NAMES:,} bytes of short texts")

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
