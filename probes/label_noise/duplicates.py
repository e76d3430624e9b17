"""Identical images under different labels: of one class each at most, so that some of the labels are wrong."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from audit.api import DataSplit, IntArray


@dataclass(frozen=True, slots=True)
class Contradictions:
    """Groups of identical images whose labels differ.

    Attributes:
        n: images compared.
        groups: positions of each group, in ascending order.
        wrong: labels that are wrong at least, if an image has one right label: of every group all but the commonest.
    """

    n: int
    groups: tuple[tuple[int, ...], ...]
    wrong: int


def contradictions(keys: Sequence[Hashable], labels: IntArray) -> Contradictions:
    """Of images with these contents and labels."""
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    groups = [found for found in places.values() if len({int(labels[place]) for place in found}) > 1]
    wrong = sum(len(found) - max(Counter(int(labels[place]) for place in found).values()) for found in groups)
    return Contradictions(len(keys), tuple(tuple(found) for found in groups), wrong)


def distinct(split: DataSplit, keys: Sequence[Hashable]) -> DataSplit:
    """The first of each content: a network that saw one copy has seen all, and copies are no more evidence than one."""
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    return replace(split, order=split.order[sorted(first.values())])


def contents(split: DataSplit) -> list[str]:
    """A digest of every image's pixels, as networks get them, in the split's order."""
    found = []
    for start in range(0, len(split), 256):
        pixels = split.batch(start, start + 256).pixels.numpy()
        found += [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
    return found
