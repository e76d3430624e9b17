"""The run folder: append-only, crash-safe, owned by one process at a time.

Everything is written to a temporary name, synced and renamed, so that a file is there whole or not at all. A unit's
JSON is written after its arrays and names their digest: it is the commit mark. Killing the process at any moment loses
only the units in flight. (Guarded by tests/audit/engine/test_kill.py.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from audit.api import Tally
from audit.errors import StoreError
from audit.schema import Diagnostic, dump_json
from audit.toolkit.writing import TEMPORARY, explained, write_whole

OWN_FILES = (
    "plan.json",
    "environment.json",
    "inputs.json",
    "events.jsonl",
)
CONCLUSIONS = ("results.json", "costs.json", "audit.json", "report.html")
LOCK = ".lock"
MARK = "trust-audit run folder"
"""First words of the lock file; only a folder that has them is written into or cleared."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredUnit:
    """A finished unit: what it found and what it noticed."""

    tally: Tally
    diagnostics: Sequence[Diagnostic]


class RunStore:
    """Reads and writes one run folder.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    # -------------------------------------------------------------------------------------------- files

    def write_bytes(self, name: str, content: bytes) -> Path:
        """Writes a file whole or not at all; `name` is relative to the run folder.

        Raises:
            StoreError: when the disk is full or the folder cannot be written.
        """
        target = self.root / name
        write_whole(target, content)
        return target

    def write_json(self, name: str, value: Any) -> Path:
        """Writes JSON with sorted keys; see `write_bytes`."""
        return self.write_bytes(name, dump_json(value).encode())

    def read_json(self, name: str) -> Any:
        """The content of a JSON file, or None when it is absent or damaged."""
        try:
            return json.loads((self.root / name).read_bytes())
        except (OSError, ValueError):
            return None

    def event(self, kind: str, **fields: Any) -> None:
        """Appends a line to `events.jsonl`: the only place in the folder that holds times of day."""
        line = json.dumps({"time": utc_now(), "event": kind, **fields}, sort_keys=True, default=str) + "\n"
        try:
            with (self.root / "events.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise explained(error, self.root / "events.jsonl") from error

    # -------------------------------------------------------------------------------------------- units

    def load_unit(self, probe: str, key: str) -> StoredUnit | None:
        """A finished unit, or None when it is absent or any byte of it is damaged."""
        stored = self.read_json(f"probes/{probe}/units/{key}.json")
        try:
            unit = stored["unit"]
            if stored["sha256"] != _digest(dump_json(unit).encode()) or unit["key"] != key:
                return None
            arrays: dict[str, np.ndarray[Any, Any]] = {}
            if unit["arrays_sha256"] is not None:
                content = (self.root / f"probes/{probe}/units/{key}.safetensors").read_bytes()
                if _digest(content) != unit["arrays_sha256"]:
                    return None
                arrays = load(content)
            diagnostics = [Diagnostic.model_validate(found) for found in unit["diagnostics"]]
            return StoredUnit(Tally(values=unit["values"], arrays=arrays), diagnostics)
        except (OSError, SafetensorError, KeyError, TypeError, ValidationError):
            return None

    def save_unit(self, probe: str, key: str, name: str, tally: Tally, diagnostics: Sequence[Diagnostic] = ()) -> None:
        """Stores a finished unit; arrays first, then the JSON that makes it count."""
        digest = None
        if tally.arrays:
            content = save({name: np.ascontiguousarray(array) for name, array in tally.arrays.items()})
            digest = _digest(content)
            self.write_bytes(f"probes/{probe}/units/{key}.safetensors", content)
        unit = {
            "key": key,
            "name": name,
            "values": dict(tally.values),
            "arrays_sha256": digest,
            "diagnostics": [diagnostic.model_dump(mode="json") for diagnostic in diagnostics],
        }
        sealed = {"unit": unit, "sha256": _digest(dump_json(unit).encode())}
        self.write_json(f"probes/{probe}/units/{key}.json", sealed)

    def forget_results(self) -> None:
        """Removes what was concluded, so that old facts are never judged as those of a run in progress."""
        for name in CONCLUSIONS:
            (self.root / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes what earlier runs left; touches nothing that the tool did not write."""
        shutil.rmtree(self.root / "probes", ignore_errors=True)
        for name in (*OWN_FILES, *CONCLUSIONS):
            (self.root / name).unlink(missing_ok=True)


@contextlib.contextmanager
def open_store(root: Path, *, fresh: bool = False) -> Iterator[RunStore]:
    """The run folder, made where absent and locked for this process until the block ends.

    Args:
        root: the folder; empty, absent, or one that an earlier run made.
        fresh: forget what earlier runs left in it.

    Raises:
        StoreError: when it is in use by another process, holds other things, or cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(root)
        descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise explained(error, root) from error
    with os.fdopen(descriptor, "r+", encoding="utf-8") as lock:
        _take(lock, root)
        store = RunStore(root)
        if fresh:
            store.clear()
        for leftover in root.rglob(f"{TEMPORARY}*"):  # of a killed process: the lock is ours, so nobody writes them
            leftover.unlink(missing_ok=True)
        yield store


def check_folder(root: Path) -> None:
    """Whether a run can be written to this path, found out before anything is measured; makes nothing.

    Raises:
        StoreError: when it is no folder, holds other things, or cannot be written.
    """
    try:
        if root.exists():
            _refuse_foreign(root)
        there = next(place for place in (root, *root.absolute().parents) if place.exists())
        problem = None if there.is_dir() else errno.ENOTDIR
        if problem is None and not os.access(there, os.W_OK | os.X_OK):
            problem = errno.EACCES
        if problem is not None:
            raise OSError(problem, os.strerror(problem))
    except OSError as error:
        raise explained(error, root) from error


def _refuse_foreign(root: Path) -> None:
    """Raises StoreError for a folder that is not ours alone: other files, or links that lead out of it."""
    if any(root.iterdir()) and not _is_ours(root):
        raise StoreError(
            f"Expected {root} to be empty or a run folder, got a folder with other files. Choose another --out."
        )
    links = [path for path in root.rglob("*") if path.is_symlink()]
    if links:
        raise StoreError(
            f"Expected a run folder without symbolic links, got {links[0]}: writing could leave the folder. "
            "Remove it, or choose another --out."
        )


def _is_ours(root: Path) -> bool:
    """Whether the lock bears our mark; a process killed before it wrote the mark left nothing but an empty lock."""
    lock = root / LOCK
    if lock.is_symlink() or not lock.is_file():
        return False
    content = lock.read_bytes()
    return content.startswith(MARK.encode()) or (not content and len(list(root.iterdir())) == 1)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def utc_now() -> str:
    """The time in UTC, RFC 3339 with seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _take(lock: IO[str], root: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        owner = lock.read().removeprefix(MARK).strip(" ,\n") or "another process"
        raise StoreError(
            f"Expected a free run folder, got {root} in use by {owner}. Wait for it, or choose another --out."
        ) from error
    lock.seek(0)
    lock.write(f"{MARK}, process {os.getpid()} since {utc_now()}\n")  # over the old line: the mark is never absent
    lock.truncate()
    lock.flush()
