"""Images as they are stored: what resizing and cropping would take away is the best trace of a filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from audit.api import DataSplit, ImageSource, IntArray, Role, RunContext, Tally, Unit
from audit.api.data import StoredSource
from audit.poisons.planting import as_bytes
from audit.poisons.recipe import Recipe
from probes.shortcuts.config import CHUNK
from probes.shortcuts.templates import Sums, Template
from probes.shortcuts.traces import Traces, traces_of

LARGEST = 96
"""Side up to which a small network is shown images as they are stored."""
BLOCKS_IN = 200
"""Images that are examined for blocks of equal pixels."""
EQUAL_LINES, FEWEST_LINES, MOST_IMAGES = 0.35, 3, 0.8
"""Share of rows, and of columns, that equal the one before in an image of blocks (of two pixels: nearly half), of so
many that differ; and of such images."""
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredImages:
    """An `ImageSource` of images as they are stored."""

    base: ImageSource

    def __len__(self) -> int:
        """Number of images."""
        return len(self.base)

    def pixels(self, index: int) -> Pixels:
        """See `ImageSource`."""
        return self.base.stored(index) if isinstance(self.base, StoredSource) else self.base.pixels(index)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was read.

    Attributes:
        traces: of the first images of the split.
        size: (c, h, w) of all of them; None where they differ.
    """

    traces: Traces
    size: tuple[int, ...] | None

    @property
    def one_size(self) -> bool:
        """Whether all are of one size, and small enough for a network to be shown them as they are."""
        return self.size is not None and max(self.size[1:]) <= LARGEST

    def split(self, split: DataSplit) -> DataSplit:
        """The split with images as they are stored, where a network can take them; else as the subject sees them."""
        return replace(split, source=StoredImages(split.source)) if self.one_size else split


def look(split: DataSplit, n: int, ctx: RunContext, role: Role = "train") -> Seen | None:
    """The traces of the first n images, or of as many as time allowed; None for none."""
    starts = range(0, n, CHUNK)
    name = "traces" if role == "train" else f"traces-{role}"
    units = [Unit(f"{name}/{start}", positions=range(start, min(start + CHUNK, n)), role=role) for start in starts]

    def traced(unit: Unit, _: RunContext) -> Tally:
        images = split.stored(unit.positions)
        sizes = np.array([(*image.shape,) for image in images], dtype=np.int64)
        return Tally(arrays={"sizes": sizes, **traces_of(images).arrays()})

    tallies = ctx.map(traced, units, name)
    if not tallies:
        return None
    parts = [{name: np.asarray(array) for name, array in tally.arrays.items()} for tally in tallies]
    sizes = np.concatenate([part.pop("sizes") for part in parts])
    size = tuple(sizes[0].tolist()) if (sizes == sizes[0]).all() else None
    return Seen(Traces.join([Traces(**part) for part in parts]), size)


def averaged(split: DataSplit, n: int, classes: int, second: npt.NDArray[np.bool_], ctx: RunContext) -> list[Template]:
    """The templates of the classes of the first n images; empty where time ended."""

    def summed(_: Unit, inner: RunContext) -> Tally:
        sums = Sums(classes, tuple(split.batch(0, 1).pixels.shape[1:]))
        parts = range(0, n, CHUNK)
        for start in inner.progress(parts, "class means", len(parts)):
            batch = split.batch(start, min(start + CHUNK, n))
            sums.add(batch.pixels, batch.labels.numpy(), second[start : start + CHUNK])
        return Tally(arrays=sums.arrays())

    tallies = ctx.map(summed, [Unit("means", {"n": n, "of": "fine, flat"}, range(n), "train")], "class means")
    if not tallies:
        return []
    return Sums.of({name: np.asarray(array) for name, array in tallies[0].arrays.items()}).templates()


def repeats_pixels(split: DataSplit) -> bool:
    """Whether most images consist of blocks of equal pixels, as those do that nearest-neighbour enlargement made."""
    pixels = split.batch(0, min(len(split), BLOCKS_IN)).pixels
    shares = [[_equal_lines(image), _equal_lines(image.transpose(1, 2))] for image in pixels]
    return bool((np.array(shares).min(axis=1) >= EQUAL_LINES).mean() >= MOST_IMAGES)


def _equal_lines(image: Tensor) -> float:
    """Share of rows (c, h, w) that equal the row above, of those between the first and the last that do not."""
    differs = (image[:, 1:] != image[:, :-1]).any(dim=2).any(dim=0)
    places = differs.nonzero().flatten()
    if len(places) < FEWEST_LINES:
        return 0.0
    inner = differs[int(places[0]) : int(places[-1]) + 1]
    return 1 - float(inner.float().mean())


def replanted(
    split: DataSplit, traces: Traces, labels: IntArray, classes: int, recipe: Recipe, rng: np.random.Generator
) -> Traces:
    """The traces (n) of the split's first images, were the recipe planted in them."""
    chosen = recipe.choose(labels, classes, rng).poisoned
    parts = [
        traces_of(changed(split.stored(places.tolist()), labels[places], recipe))
        for places in np.array_split(chosen, max(1, -(-len(chosen) // CHUNK)))
        if len(places)
    ]
    return traces.with_rows(chosen, Traces.join(parts)) if parts else traces


def changed(images: Sequence[Pixels], labels: IntArray, recipe: Recipe) -> list[Pixels]:
    """Of each size those images together."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(place)
    found: dict[int, Pixels] = {}
    for places in sizes.values():
        stacked = np.stack([images[place] for place in places])
        whole = stacked.dtype == np.uint8
        pixels: Tensor = torch.from_numpy(stacked).float() / (255 if whole else 1)
        made = recipe.change(pixels, torch.from_numpy(labels[places]), 0).clamp(0, 1)
        ready: Pixels = as_bytes(made, recipe.truncates) if whole else made.numpy()
        found |= dict(zip(places, ready, strict=True))
    return [found[place] for place in range(len(images))]
