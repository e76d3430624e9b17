"""The members of WebDataset shards, gathered into samples with one image and one label each."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from audit.errors import UnsafeArtefactError
from audit.loading.formats.encoded import LARGEST_IMAGE
from audit.loading.formats.spool import Spool
from audit.loading.formats.tar_members import Member
from audit.loading.sources import Problems, counted, listed, shown

IMAGES = frozenset({"png", "jpg", "jpeg", "webp", "ppm", "pgm", "bmp", "tif", "tiff"})
LABELS = ("cls", "json")
"""The first that a sample has counts."""
JSON_KEYS = ("label", "cls", "class")
PICKLED = frozenset({"pyd", "pkl", "pickle", "pth", "pt"})
"""What webdataset's own decoders unpickle."""
SILENT = frozenset({"index"})
LARGEST_LABEL = 1 << 20
KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
"""Key and extension: the path up to the first dot of its last part, and what follows."""
INTEGER = re.compile(rb"\s*(-?[0-9]{1,9})\s*")


@dataclass(slots=True)
class _Sample:
    """What is known of the sample whose members pass by."""

    key: str
    images: list[bytes] = field(default_factory=list)
    labels: dict[str, bytes] = field(default_factory=dict)
    extensions: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{shown(self.key)} ({shown(', '.join(f'.{extension}' for extension in self.extensions))})"


class Samples:
    """Encoded images, spooled to disk, and their labels; of what was not understood, the names."""

    def __init__(self) -> None:
        self.labels = array("q")
        self._images, self._names = Spool(), Spool()
        self._ignored: Counter[str] = Counter()
        self._links: list[str] = []
        self._nameless: list[str] = []
        self._unsafe: list[str] = []
        self._faults: dict[str, list[str]] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._images)

    def read(self, index: int) -> bytes:
        """The encoded image of a sample."""
        return self._images.read(index)

    def name(self, index: int) -> str:
        """Shard and key."""
        return self._names.read(index).decode()

    def gather(self, shard: str, members: Iterable[Member]) -> None:
        """Adds the samples of a shard: neighbouring members with one key, as webdataset groups them."""
        sample: _Sample | None = None
        for member in members:
            parts = KEY.fullmatch(member.name)
            if not member.is_file:
                self._links += [] if member.is_folder else [shown(member.name)]
            elif parts is None:
                self._nameless += [] if _is_meta(member.name) else [shown(member.name)]
            else:
                if sample is None or sample.key != parts[1]:
                    self._finish(shard, sample)
                    sample = _Sample(parts[1])
                self._take(sample, parts[2].lower(), member)
        self._finish(shard, sample)

    def report(self, problems: Problems) -> None:
        """Notes what is wrong with the samples.

        Raises:
            UnsafeArtefactError: when images or labels are there as pickles alone.
        """
        if self._unsafe:
            raise UnsafeArtefactError(
                f"Expected images and labels that are plain data, got {counted(len(self._unsafe), 'sample')} with a "
                f"pickle or tensor instead: {listed(self._unsafe)}. Unpickling runs code, so none was read. Two safe "
                "ways on: write the labels as text in .cls and the images as .png; or, where you trust their origin, "
                "convert the shards apart from this tool."
            )
        for wanted, names in self._faults.items():
            problems.add(
                f"Expected {wanted}, got {counted(len(names), 'sample')} without: {listed(names)}. "
                "Correct or remove them."
            )

    def notes(self) -> list[str]:
        """What was passed over."""
        notes = []
        if self._ignored:
            kinds = listed([f".{shown(kind)} ({n:,})" for kind, n in self._ignored.most_common()])
            pickled = " Pickles and tensors are never decoded." if PICKLED & set(self._ignored) else ""
            notes.append(f"Members beside image and label were not read: {kinds}.{pickled}")
        passed_over = (
            (self._links, "member", "not followed because links, devices or pipes"),
            (self._nameless, "file", "skipped because not named KEY.EXTENSION"),
        )
        notes += [f"{counted(len(found), noun)} {why}: {listed(found)}." for found, noun, why in passed_over if found]
        return notes

    def _take(self, sample: _Sample, extension: str, member: Member) -> None:
        if extension in sample.extensions:
            self._fault("every extension once a sample", f"{shown(sample.key)} (.{shown(extension)} twice)")
            return
        sample.extensions.append(extension)
        if extension in SILENT:
            return
        largest = LARGEST_IMAGE if extension in IMAGES else LARGEST_LABEL
        if extension not in IMAGES and extension not in LABELS:
            self._ignored[extension] += 1
        elif member.size > largest:
            self._fault(f"at most {largest:,} bytes in .{extension}", f"{shown(sample.key)} ({member.size:,})")
        elif extension in IMAGES:
            sample.images.append(member.read())
        else:
            sample.labels[extension] = member.read()

    def _finish(self, shard: str, sample: _Sample | None) -> None:
        if sample is None:
            return
        label, fault = _label(sample.labels)
        if len(sample.images) == 1 and label is not None:
            self._images.append(sample.images[0])
            self._names.append(f"{shown(shard)} {shown(sample.key)}".encode())
            self.labels.append(label)
        elif (not sample.images or not sample.labels) and PICKLED & set(sample.extensions):
            self._unsafe.append(f"{shard} {sample}")
        else:
            wanted = "one image a sample (.png, .jpg, ...)" if len(sample.images) != 1 else fault
            self._fault(wanted, f"{shard} {sample}")

    def _fault(self, wanted: str, name: str) -> None:
        self._faults.setdefault(wanted, []).append(name)


def _label(members: dict[str, bytes]) -> tuple[int | None, str]:
    """The label that a sample's members state; without one, what was expected."""
    if "cls" in members:
        found = INTEGER.fullmatch(members["cls"])
        return (int(found[1]), "") if found else (None, "an integer as text in .cls")
    if "json" not in members:
        return None, "a label a sample, in .cls or .json"
    wanted = f"an integer as {' or '.join(JSON_KEYS)} in .json, one object without NaN or repeated keys"
    try:
        content = json.loads(members["json"], parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None, wanted
    labels = (
        {content[key] for key in JSON_KEYS if type(content.get(key)) is int} if isinstance(content, dict) else set()
    )
    return (labels.pop(), "") if len(labels) == 1 and abs(min(labels)) < 10**9 else (None, wanted)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("repeated keys")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _is_meta(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.startswith("__") and last.endswith("__")
