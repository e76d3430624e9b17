"""Exact-tile scan: the same pixels at the same place, in many images, nearly all of one class.

A pasted patch repeats exactly where nothing else repeats. What images repeat by themselves is flat: borders, sky,
backgrounds. So a tile of one colour counts in an image only where it stands out, having mostly other colours around it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import hypergeom

from audit.api import IntArray
from probes.backdoor_data.config import FEWEST_CARRIERS, TILE_PURITY

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

BUCKETS = 1 << 16
WORTH_KEEPING = 1e-3
"""Groups less significant than this are forgotten at once; they hardly survive the number of tests."""
MOST_KEPT = 3000
"""Of the most significant groups, those that are looked at closely."""
SIDES = (1, 2, 3, 4, 5, 6, 8)
"""Sides of tiles at 32 pixels; larger for larger images. Smaller images keep 1, 2 and 3."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Images that carry one tile, and how they are labelled.

    Attributes:
        top, left, side: where the tile is, in pixels.
        label: the class that most of them exceed chance in.
        carriers: rows of the images, ascending.
        purity: share of the carriers that is of this class.
        p: chance of so many of the class, were labels dealt at random; of this group alone, and times the classes.
    """

    top: int
    left: int
    side: int
    label: int
    carriers: IntArray
    purity: float
    p: float


def sides_for(side: int) -> tuple[int, ...]:
    """Sides of the tiles that are looked for in images of a smaller side of so many pixels."""
    if side < 16:
        return tuple(size for size in (1, 2, 3) if size < side)
    scale = max(1.0, side / 32)
    return tuple(sorted({max(1, round(size * scale)) for size in SIDES if size * scale < side / 2}))


def distinct(images: Bytes) -> IntArray:
    """Rows of the first of each set of equal images, ascending."""
    flat = np.ascontiguousarray(images.reshape(len(images), -1))
    seen: dict[bytes, int] = {}
    for row, image in enumerate(flat):
        seen.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), row)
    return np.array(sorted(seen.values()), dtype=np.int64)


def scan(images: Bytes, labels: IntArray, classes: int, rng: np.random.Generator) -> tuple[list[Group], int]:
    """Groups of images that carry the same tile at the same place, and are nearly all of one class.

    Args:
        images: (n, c, h, w) uint8, no two equal.
        labels: (n,).
        classes: number of the classes.
        rng: of the hash, which only has to differ from what an adversary may know.

    Returns:
        The groups, most significant first, and the number of groups that were tested to find them.
    """
    n, channels, height, width = images.shape
    if n < 2 * FEWEST_CARRIERS:
        return [], 0
    weights = rng.integers(1, 2**63, (channels, height, width), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    sizes = np.bincount(labels, minlength=classes)
    kept: list[Group] = []
    tests = 0
    step = max(1, min(height, width) // 64)
    for side in sides_for(min(height, width)):
        for top, hashes in enumerate(_hashes(images, weights, side)):
            if top % step:
                continue
            for left, rows in _repeated(hashes[:, ::step]):
                members = standing_out(images, rows, top, left * step, side)
                if len(members) < FEWEST_CARRIERS:
                    continue
                tests += 1
                found = _judged(members, labels, sizes, (top, left * step, side))
                if found is not None:
                    kept.append(found)
    kept.sort(key=lambda group: (group.p, -len(group.carriers), -group.side, group.top, group.left))
    return kept[:MOST_KEPT], tests


def _hashes(images: Bytes, weights: Words, side: int) -> Iterator[Words]:
    """For each row of places, a hash (n, columns) of the tile at each column: a random linear form modulo 2^64."""
    n, _, height, width = images.shape
    total = np.zeros((n, width + 1), dtype=np.uint64)  # the first column stays 0, for differences of running sums
    for row in range(height):
        total[:, 1:] += _line(images, weights, row)
        if row >= side:
            total[:, 1:] -= _line(images, weights, row - side)
        if row >= side - 1:
            summed = np.cumsum(total, axis=1, dtype=np.uint64)
            yield summed[:, side:] - summed[:, :-side]


def _line(images: Bytes, weights: Words, row: int) -> Words:
    """What one row of pixels adds, (n, width)."""
    total: Words = sum(
        images[:, channel, row].astype(np.uint64) * weights[channel, row] for channel in range(images.shape[1])
    )
    return total


def _repeated(hashes: Words) -> Iterator[tuple[int, IntArray]]:
    """Column and rows of every hash that enough rows share."""
    columns = hashes.shape[1]
    buckets = (hashes >> np.uint64(48)).astype(np.int64) + np.arange(columns) * BUCKETS
    full = np.bincount(buckets.ravel(), minlength=columns * BUCKETS) >= FEWEST_CARRIERS
    rows, places = np.nonzero(full[buckets])
    if len(rows) == 0:
        return
    values = hashes[rows, places]
    order = np.lexsort((rows, values, places))
    rows, places, values = rows[order], places[order], values[order]
    starts = np.flatnonzero(np.r_[True, (places[1:] != places[:-1]) | (values[1:] != values[:-1])])
    lengths = np.diff(np.r_[starts, len(rows)])
    for start, length in zip(starts, lengths, strict=True):
        if length >= FEWEST_CARRIERS:
            yield int(places[start]), rows[start : start + length]


def standing_out(images: Bytes, rows: IntArray, top: int, left: int, side: int) -> IntArray:
    """Rows in which the tile stands out: all of them, or, for a tile of one colour, where most around it is another."""
    tile = images[rows[0], :, top : top + side, left : left + side]
    colour = tile[:, :1, :1]
    if not bool((tile == colour).all()):
        return rows
    height, width = images.shape[2:]
    low, high = (
        slice(max(0, top - 1), min(height, top + side + 1)),
        slice(max(0, left - 1), min(width, left + side + 1)),
    )
    around = (images[rows, :, low, high] == colour[None]).all(axis=1)
    ring = around[0].size - side * side
    same = around.sum(axis=(1, 2)) - side * side
    standing: IntArray = rows[2 * same <= ring]
    return standing


def _judged(rows: IntArray, labels: IntArray, sizes: IntArray, place: tuple[int, int, int]) -> Group | None:
    """The group, where one class holds nearly all of it and has more of it than chance gives."""
    counts = np.bincount(labels[rows], minlength=len(sizes))
    expected = len(rows) * sizes / sizes.sum()
    label = int(np.argmax((counts - expected) / np.sqrt(np.maximum(expected, 1e-9))))
    purity = counts[label] / len(rows)
    if purity < TILE_PURITY:
        return None
    chance = hypergeom.sf(counts[label] - 1, sizes.sum(), sizes[label], len(rows)) * len(sizes)
    if chance > WORTH_KEEPING:
        return None
    return Group(*place, label, rows, float(purity), float(min(1.0, chance)))


def merged(groups: Sequence[Group], share: float = 0.5) -> list[list[Group]]:
    """Groups that share most of their carriers together: they are parts of one larger tile, or what else is there.

    Each set begins with its most significant group, and the sets are in the order of these.
    """
    found: list[list[Group]] = []
    for group in groups:
        for together in found:
            first = together[0]
            common = len(np.intersect1d(first.carriers, group.carriers))
            if first.label == group.label and common > share * min(len(first.carriers), len(group.carriers)):
                together.append(group)
                break
        else:
            found.append([group])
    return found


def representatives(together: Sequence[Group]) -> list[Group]:
    """The most significant group of a set, and the one with the largest tile, where that is another.

    A part of a trigger may be what other images have by themselves: a white pixel is carried by more than a white
    square, and less purely.
    """
    first, largest = together[0], max(together, key=lambda group: (group.side, -group.p))
    return [first] if largest is first else [first, largest]
