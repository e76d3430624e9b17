"""What an image shows of how it was processed: its borders, its texture, its coarse content and its highest level.

A few hundred numbers an image, computed at the size in which it is stored; nothing of it needs a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Images = Sequence[npt.NDArray[np.uint8] | npt.NDArray[np.float32]]

DEPTH = 8
"""Lines from a border inwards that are looked at."""
INSIDE = (2, 3, 4, 5)
"""Where a second difference of lines touches no border line, nor its neighbour."""
FLAT = 6 / 255
"""A line whose lightest and darkest pixel are nearer belongs to a frame or to an empty background."""
ROWS, COLUMNS = 10, 5
"""Bins of the spectrum: frequencies of both signs downwards, of one sign across."""
CELLS = 4
"""Blocks a side that stand for an image's content; no filter of a few pixels moves them much."""
LAG = 3
DARK = 0.02
"""Added to levels before their logarithm is taken."""
SMALLEST = 28
"""Side below which limits of effect do not hold: drawings of fewer pixels are as sharp as a poison is."""


@dataclass(frozen=True, slots=True, eq=False)
class Traces:
    """Of n images, a row each.

    Attributes:
        edge: (n, 4) second difference of the logarithm of the mean level of lines 0, 1 and 2, from the top, bottom,
            left and right border. A filter over black borders shifts it by the same amount in every image.
        inside: (n, 4, 4) the same between lines inside.
        framed: (n, 4) whether a line of that side is flat, so that its border tells nothing.
        spectrum: (n, 50) logarithm of the power in bins of frequency; a filter adds the same numbers to every image.
        texture: (n, 25) autocovariances of what a small blur takes away, relative to their first, and its logarithm.
        content: (n, 16 c) block means, with the image's own mean and contrast taken out.
        level: (n, 2) highest level of a pixel, and share of values that have it.
    """

    edge: Floats
    inside: Floats
    framed: npt.NDArray[np.bool_]
    spectrum: Floats
    texture: Floats
    content: Floats
    level: Floats

    @staticmethod
    def join(parts: Sequence[Traces]) -> Traces:
        """Consecutive parts as one."""
        return Traces(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Traces)))

    def arrays(self) -> dict[str, npt.NDArray[np.float32] | npt.NDArray[np.bool_]]:
        """By name, to be stored."""
        return {field.name: getattr(self, field.name) for field in fields(Traces)}

    def of(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Traces:
        """Those of some images."""
        return Traces(*(getattr(self, field.name)[rows] for field in fields(Traces)))

    def with_rows(self, rows: npt.NDArray[np.int64], other: Traces) -> Traces:
        """These, with those of some images in place of theirs."""
        found = {field.name: getattr(self, field.name).copy() for field in fields(Traces)}
        for name, values in found.items():
            values[rows] = getattr(other, name)
        return Traces(**found)


def traces_of(images: Images) -> Traces:
    """The traces of images (c, h, w), uint8 or float32 in [0, 1], each of any size."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(image.shape[1:], []).append(place)
    parts = [_of_one_size(np.stack([_colour(images[place]) for place in places])) for places in groups.values()]
    order = np.argsort(np.concatenate([np.array(places) for places in groups.values()]))
    return Traces.join(parts).of(order.astype(np.int64))


def _colour(image: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> Floats:
    """(3, h, w) float32 in [0, 1]; grey images three times, so that sets of both kinds can be compared."""
    whole: Floats = (image / np.float32(255 if image.dtype == np.uint8 else 1)).astype(np.float32)
    coloured: Floats = np.broadcast_to(whole, (3, *whole.shape[1:])) if len(whole) == 1 else whole[:3]
    return coloured


def _of_one_size(colour: Floats) -> Traces:
    grey = colour.mean(axis=1)
    edge, inside, framed = _borders(grey)
    return Traces(edge, inside, framed, _spectrum(grey), _texture(grey), _content(colour), _level(colour))


def _borders(grey: Floats) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    n, height, width = grey.shape
    if min(height, width) < SMALLEST:
        return np.zeros((n, 4), np.float32), np.zeros((n, 4, len(INSIDE)), np.float32), np.ones((n, 4), np.bool_)
    turned = grey.transpose(0, 2, 1)
    edge, inside, framed = [], [], []
    for view in (grey, grey[:, ::-1], turned, turned[:, ::-1]):
        lines = view[:, :DEPTH]
        level = np.log(lines.mean(axis=2) + DARK)
        bend = level[:, :-2] - 2 * level[:, 1:-1] + level[:, 2:]
        edge.append(bend[:, 0])
        inside.append(bend[:, INSIDE])
        framed.append((lines.max(axis=2) - lines.min(axis=2) < FLAT).any(axis=1))
    return np.stack(edge, axis=1), np.stack(inside, axis=1), np.stack(framed, axis=1)


def _inner(grey: Floats, border: int) -> Floats:
    return grey[:, border:-border, border:-border] if min(grey.shape[1:]) >= SMALLEST else grey


def frequency_bins(height: int, width: int) -> npt.NDArray[np.int64]:
    """The bin (h, w // 2 + 1) of each frequency of `numpy.fft.rfft2`; -1 for the mean."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    row = np.minimum(((down + 0.5) * ROWS).astype(np.int64), ROWS - 1)
    column = np.minimum((across * 2 * COLUMNS).astype(np.int64), COLUMNS - 1)
    bins = row * COLUMNS + column
    bins[0, 0] = -1
    return bins


def _spectrum(grey: Floats) -> Floats:
    """Of the inner part, under a Hann window. Bins that a small image has no frequency in hold 0."""
    part = _inner(grey, 2)
    _, height, width = part.shape
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    power = np.abs(np.fft.rfft2((part - part.mean(axis=(1, 2), keepdims=True)) * window)) ** 2
    bins = frequency_bins(height, width).ravel()
    member = np.zeros((len(bins), ROWS * COLUMNS), np.float32)
    member[np.flatnonzero(bins >= 0), bins[bins >= 0]] = 1
    sizes = member.sum(axis=0)
    mean = power.reshape(len(grey), -1).astype(np.float32) @ member / np.maximum(sizes, 1)
    found: Floats = np.where(sizes > 0, np.log(mean + 1e-6), 0).astype(np.float32)
    return found


def _texture(grey: Floats) -> Floats:
    around = np.roll(grey, 1, 1) + np.roll(grey, -1, 1) + np.roll(grey, 1, 2) + np.roll(grey, -1, 2)
    fine = _inner((grey - around / 4).astype(np.float32), 3)
    _, height, width = fine.shape
    power = (fine**2).mean(axis=(1, 2)) + 1e-7
    found = [np.log(power)]
    for down in range(LAG + 1):
        for right in range(-LAG, LAG + 1):
            if (down, right) <= (0, 0) or down >= height or abs(right) >= width:
                continue
            here = fine[:, : height - down, max(0, -right) : width - max(0, right)]
            there = fine[:, down:, max(0, right) : width - max(0, -right)]
            found.append((here * there).mean(axis=(1, 2)) / power)
    return np.stack(found, axis=1).astype(np.float32)


def _content(colour: Floats) -> Floats:
    n, _, height, width = colour.shape
    rows, columns = (np.linspace(0, side, CELLS + 1).astype(int) for side in (height, width))
    blocks = np.stack([
        colour[:, :, rows[i] : max(rows[i + 1], rows[i] + 1), columns[j] : max(columns[j + 1], columns[j] + 1)].mean(
            axis=(2, 3)
        )
        for i in range(CELLS)
        for j in range(CELLS)
    ], axis=1).reshape(n, -1)  # fmt: skip
    spread = blocks.std(axis=1, keepdims=True)
    found: Floats = ((blocks - blocks.mean(axis=1, keepdims=True)) / (spread + 1e-3)).astype(np.float32)
    return found


def _level(colour: Floats) -> Floats:
    top = colour.max(axis=(1, 2, 3))
    return np.stack([top, (colour == top[:, None, None, None]).mean(axis=(1, 2, 3))], axis=1).astype(np.float32)
