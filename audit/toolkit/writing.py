"""Files that are written whole or not at all."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from audit.errors import StoreError, UsageError

TEMPORARY = ".tmp-"
"""How the names of unfinished files begin."""


def write_whole(target: Path, content: bytes) -> None:
    """Writes to a temporary name beside the target, syncs, and renames: a reader sees the old file or the new one.

    Raises:
        StoreError: when the disk is full or the folder cannot be written; nothing is left behind.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_and_rename(target, content)
    except OSError as error:
        raise explained(error, target) from error


@contextmanager
def writing_alone(target: Path) -> Iterator[None]:
    """Shows that the target's folder can be written, and keeps it from being written by two processes for hours.

    Raises:
        StoreError: when the folder cannot be written.
        UsageError: when another process is at it.
    """
    lock = filelock.FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        Path(lock.lock_file).touch()  # what cannot be written is told apart from what is locked
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(
            f"Expected to write {target} alone, but another process is at it. Wait for it, or name another file."
        ) from error
    except NotImplementedError:  # a file system without locks
        pass
    except OSError as error:
        raise explained(error, target) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def explained(error: OSError, path: Path) -> StoreError:
    """What an error of the operating system means for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"Expected room on the disk for {path}, got none left. Free some and run the same command again: "
            "what was measured is kept."
        )
    return StoreError(f"Expected to be able to write {path}, got: {error.strerror or error}. Choose another folder.")


def _write_and_rename(target: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
