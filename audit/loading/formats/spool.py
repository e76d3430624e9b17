"""Byte strings on disk instead of in memory."""

from __future__ import annotations

import os
import tempfile
from array import array

from audit.errors import DataError


class Spool:
    """Byte strings in a temporary file that vanishes with its owner.

    Memory holds eight bytes a string; reading is one `pread`, safe from several threads and forked processes.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the images are
        self._ends = array("q", [0])

    def __len__(self) -> int:
        """Number of strings."""
        return len(self._ends) - 1

    @property
    def n_bytes(self) -> int:
        """Bytes of all strings together."""
        return self._ends[-1]

    @property
    def descriptor(self) -> int:
        """For reading by `os.pread`; all strings lie in it one after another."""
        self._file.flush()
        return self._file.fileno()

    def append(self, content: bytes) -> None:
        """Adds a string.

        Raises:
            DataError: when the disk of temporary files is full.
        """
        try:
            self._file.write(content)
        except OSError as error:
            raise DataError(
                f"Expected room for a temporary copy of the images, got '{error.strerror}' after "
                f"{self._ends[-1]:,} bytes. Point TMPDIR to a disk with more space."
            ) from error
        self._ends.append(self._ends[-1] + len(content))

    def read(self, index: int) -> bytes:
        """The string at this place."""
        start, end = self._ends[index], self._ends[index + 1]
        return os.pread(self.descriptor, end - start, start)
