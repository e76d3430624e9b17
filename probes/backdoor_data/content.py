"""Whether what images show agrees with their labels, as judged by coarse content that a small trigger barely touches.

Each image is reduced to the means of a few blocks. Its nearest neighbours by these say how likely a label is for such
content; images that carry a trigger have been relabelled against it. The judge is weak, and independent of any network
that learned from the same data, which would have learned the trigger as well.

Source: labels against answers that did not see them are of Northcutt, Jiang & Chuang 2021 (confident learning, arXiv
1911.00068).
Differs from source: the answers are shares among neighbours, and groups are judged in place of single images, by an
exact law of their number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit.api import FloatArray, IntArray
from probes.backdoor_data.config import CONTRADICTION, FOREIGN, TELLING
from probes.backdoor_data.tiles import Bytes

CELLS = 8
"""Blocks on each side of an image."""
NEIGHBOURS = 15
MOST_JUDGED = 300
"""Images of a group whose neighbours are looked up."""
NEAR = 0.3
"""Two images are copies of one where they lie nearer than this share of the median distance to the nearest one."""
ROWS = 512


def blocks(images: Bytes) -> FloatArray:
    """Block means (n, c, cells, cells) float32 in [0, 1]; at most `CELLS` a side, of nearly equal blocks."""
    n, channels, height, width = images.shape
    rows, columns = _edges(height), _edges(width)
    found = np.empty((n, channels, len(rows) - 1, len(columns) - 1), dtype=np.float32)
    for start in range(0, n, ROWS):
        part = images[start : start + ROWS].astype(np.float32) / 255
        part = np.add.reduceat(part, rows[:-1], axis=2) / np.diff(rows)[:, None]
        found[start : start + ROWS] = np.add.reduceat(part, columns[:-1], axis=3) / np.diff(columns)
    return found


def _edges(side: int) -> IntArray:
    return np.linspace(0, side, min(side, CELLS) + 1).round().astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """Coarse content of images.

    Attributes:
        cells: block means, (n, c, cells, cells).
        labels: (n,) as given.
        classes: number of the classes.
        side: of the images, in pixels.
    """

    cells: FloatArray
    labels: IntArray
    classes: int
    side: tuple[int, int]

    @classmethod
    def of(cls, images: Bytes, labels: IntArray, classes: int) -> Content:
        """Of images (n, c, h, w)."""
        return cls(blocks(images), labels, classes, (images.shape[2], images.shape[3]))

    def without(self, place: tuple[int, int, int] | None) -> npt.NDArray[np.float32]:
        """One row an image; blocks that touch the tile at (top, left, side) are left out, unless nothing would stay."""
        keep = np.ones(self.cells.shape[2:], dtype=np.bool_)
        if place is not None:
            top, left, size = place
            rows, columns = (
                (edges[:-1] < low + size) & (edges[1:] > low)
                for edges, low in zip(map(_edges, self.side), (top, left), strict=True)
            )
            keep = ~(rows[:, None] & columns[None])
        if not keep.any():
            keep[:] = True
        return np.ascontiguousarray(self.cells[:, :, keep].reshape(len(self.cells), -1), dtype=np.float32)


def shares(
    features: npt.NDArray[np.float32], labels: IntArray, asked: IntArray, pool: IntArray, label: int
) -> FloatArray:
    """For each asked row, the share of a label among its nearest neighbours in the pool, drawn a little to the pool's.

    A row is never its own neighbour.
    """
    base = float((labels[pool] == label).mean())
    if len(pool) < 2:
        return np.full(len(asked), base)
    near = neighbours(features, asked, pool, NEIGHBOURS)
    found: FloatArray = ((labels[near] == label).sum(axis=1) + 2 * base) / (near.shape[1] + 2)
    return found


def neighbours(features: npt.NDArray[np.float32], rows: IntArray, pool: IntArray, count: int) -> IntArray:
    """For each of some rows, the nearest others in the pool, (rows, count)."""
    count = max(1, min(count, len(pool) - 1))
    reference = features[pool]
    squares = (reference**2).sum(axis=1)
    found = []
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        distance = squares[None] - 2 * features[part] @ reference.T
        distance[part[:, None] == pool[None]] = np.inf
        found.append(pool[np.argpartition(distance, count - 1, axis=1)[:, :count]])
    return np.concatenate(found) if found else np.empty((0, count), dtype=np.int64)


def copies(features: npt.NDArray[np.float32], rows: IntArray, among: IntArray) -> IntArray:
    """Those among some rows that are nearly a copy of one of others; the rows themselves are not."""
    asked = np.setdiff1d(among, rows)
    if len(rows) == 0 or len(asked) == 0:
        return asked[:0]
    typical = np.median(_nearest(features, rows, np.arange(len(features))))
    away = np.stack([np.linalg.norm(features[asked] - features[row], axis=1) for row in rows]).min(axis=0)
    found: IntArray = asked[away <= NEAR * typical]
    return found


def apart(features: npt.NDArray[np.float32], rows: IntArray, pool: IntArray) -> IntArray:
    """The rows without those that are nearly a copy of an earlier one of them."""
    if len(rows) < 2 or len(pool) < 3:
        return rows
    typical = np.median(_nearest(features, rows, pool))
    kept: list[int] = []
    for row in rows:
        away = np.linalg.norm(features[kept] - features[row], axis=1) if kept else np.array([np.inf])
        if away.min() > NEAR * typical:
            kept.append(int(row))
    return np.array(kept, dtype=np.int64)


def _nearest(features: npt.NDArray[np.float32], rows: IntArray, pool: IntArray) -> FloatArray:
    """Distance of each row to its nearest neighbour in the pool that is not itself."""
    reference = features[pool]
    found = np.empty(len(rows))
    for place, row in enumerate(rows):
        distance = np.linalg.norm(reference - features[row], axis=1)
        distance[pool == row] = np.inf
        found[place] = distance.min()
    return found


def at_least(chances: FloatArray, hits: int) -> float:
    """Chance of at least so many successes in independent trials of these chances (Poisson's binomial law), exactly."""
    law = np.zeros(len(chances) + 1)
    law[0] = 1.0
    for chance in chances:
        law[1:] = law[1:] * (1 - chance) + law[:-1] * chance
        law[0] *= 1 - chance
    return float(min(1.0, law[hits:].sum()))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the content of a group of images of one class agrees with that class.

    Attributes:
        p: chance of so many of the class, were labels dealt by content; roughly, and never to be printed.
        group: mean share of the class among the neighbours of the group.
        inside: the same of the class's other images; 0 where there are none, so that nothing contradicts them.
        outside: of images of other classes.
        scatter: as `contradiction`, with the group's own images among the neighbours: 0 where they are like one
            another, as those of a natural part of a class are, 1 where only other classes' are like them.
    """

    p: float
    group: float
    inside: float
    outside: float
    scatter: float

    @property
    def contradiction(self) -> float:
        """0 where the group's content is like the class's other images, 1 where it is like that of other classes."""
        return between(self.group, self.inside, self.outside)

    @property
    def contradicts(self) -> bool:
        """Whether the images' content, taken together, is that of other classes."""
        return self.contradiction >= CONTRADICTION

    @property
    def foreign(self) -> bool:
        """Whether it is so altogether, they are no part of the class with a style, and content tells classes apart."""
        tells = self.inside - self.outside >= TELLING
        return tells and self.contradiction >= FOREIGN and self.scatter >= CONTRADICTION


def between(share: float, inside: float, outside: float) -> float:
    """0 where a share is that of the class's other images, 1 where it is that of other classes."""
    return float((inside - share) / (inside - outside)) if inside - outside > 1e-3 else 0.0


def agreement(
    content: Content,
    group: IntArray,
    label: int,
    rng: np.random.Generator,
    place: tuple[int, int, int] | None = None,
) -> Agreement:
    """Judged by neighbours outside of the group, near-copies in the group counted once.

    Args:
        content: of all images.
        group: rows, of which most have the label.
        label: a class.
        rng: draws which images are asked about, where there are many.
        place: of a tile that is to be left out of sight.
    """
    features, labels = content.without(place), content.labels
    pool = np.setdiff1d(np.arange(len(labels)), group)
    rows = apart(features, np.sort(rng.permutation(group)[:MOST_JUDGED]), pool)
    chances = shares(features, labels, rows, pool, label)
    p = at_least(chances, int((labels[rows] == label).sum()))
    own = labels[rows] == label
    rest = [rng.permutation(pool[(labels[pool] == label) == same])[:MOST_JUDGED] for same in (True, False)]
    inside, outside = (_mean(shares(features, labels, asked, pool, label)) for asked in rest)
    everything = np.arange(len(labels))
    together = [_mean(shares(features, labels, asked, everything, label)) for asked in (rows[own], *rest)]
    return Agreement(p, _mean(chances[own]), inside, outside, between(*together))


def _mean(found: FloatArray) -> float:
    return float(found.mean()) if len(found) else 0.0
