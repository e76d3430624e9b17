"""A stretch of bytes to examine: a whole file, a member of an archive, or a payload within a pickle."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from audit.scan.kinds import HEAD_BYTES
from audit.scan.report import printable


@dataclass(slots=True, eq=False)
class Account:
    """What finding out about a file may still cost, for all that is in it together.

    Attributes:
        guessed: opcodes that may be followed to tell whether something is a pickle.
    """

    guessed: int = 8_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Bytes with a name; no read goes beyond its end, whatever a length in the file claims.

    Attributes:
        where: its name in findings.
        stream: seekable; its position means nothing.
        size: in bytes.
        start: where it begins in the stream.
        depth: how many archives or pickles it is in.
        name: the last name alone, as the file has it.
        folder: in which the file lies; none for what is inside of another.
        referred: whether a model beside it says that its numbers lie here.
        account: shared with everything in the same file.
    """

    where: str
    stream: IO[bytes]
    size: int
    start: int = 0
    depth: int = 0
    name: str = ""
    folder: Path | None = None
    referred: bool = False
    account: Account = field(default_factory=Account)

    def read(self, at: int, count: int) -> bytes:
        """At most `count` bytes from a place within the part; fewer at its end, none outside."""
        if at < 0 or at >= self.size or count <= 0:
            return b""
        self.stream.seek(self.start + at)
        return self.stream.read(min(count, self.size - at))

    def head(self, count: int = HEAD_BYTES) -> bytes:
        """The first bytes."""
        return self.read(0, count)

    def within(self, name: str, at: int, size: int) -> Part:
        """A stretch of this part, named as a member of it, and read in place."""
        inside = max(0, min(size, self.size - at))
        return self._inside(name, self.stream, inside, self.start + at)

    def unpacked(self, name: str, content: IO[bytes], size: int) -> Part:
        """Bytes that were unpacked out of this part."""
        return self._inside(name, content, size, 0)

    def _inside(self, name: str, stream: IO[bytes], size: int, start: int) -> Part:
        where = f"{self.where}!{printable(name, 200)}"
        return Part(where, stream, size, start, self.depth + 1, name, account=self.account)


def part_of(path: Path, stream: IO[bytes], where: str | None = None, *, referred: bool = False) -> Part:
    """A whole file."""
    size = os.fstat(stream.fileno()).st_size
    return Part(where or printable(path.name, 200), stream, size, name=path.name, folder=path.parent, referred=referred)
