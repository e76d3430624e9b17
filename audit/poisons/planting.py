"""A recipe, a split and a seed to a poisoned split and its truth. The split that is given stays as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from audit.api import DataSplit, ImageSource, IntArray
from audit.api.data import StoredSource
from audit.poisons.recipe import Recipe

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Planted:
    """A poisoned copy of a split, and what was done.

    Attributes:
        split: images and labels as whoever trains on them gets them; the same order of the same files.
        recipe: what was planted.
        poisoned: (n,) bool, of positions of the split: whether the image or its label was changed for the attack.
        covers: (n,) bool, whether it was changed to hide that.
        before: (n,) int64, the labels before, by position.
    """

    split: DataSplit
    recipe: Recipe
    poisoned: npt.NDArray[np.bool_]
    covers: npt.NDArray[np.bool_]
    before: IntArray


def plant(split: DataSplit, recipe: Recipe, classes: int, rng: np.random.Generator) -> Planted:
    """Poisons the samples that the split may use.

    Images are changed when they are read. Those of 8 bits stay of 8 bits.

    Args:
        split: what to copy.
        recipe: what to plant.
        classes: number of the classes that labels may be of.
        rng: chooses samples, and what is drawn for each.

    Raises:
        ValueError: when the recipe's target is no class.
    """
    target = getattr(recipe, "target", 0)
    if not 0 <= target < classes:
        raise ValueError(f"Expected a target in 0..{classes - 1}, got {target}. Choose a class that there is.")
    before = split.labels[split.order]
    choice = recipe.choose(before, classes, rng)
    seed = int(rng.integers(2**31))
    rows = {int(split.order[place]): False for place in choice.poisoned}
    rows |= {int(split.order[place]): True for place in choice.covers}
    labels = split.labels.copy()
    labels[split.order[choice.poisoned]] = choice.labels
    source = PoisonedImages(split.source, recipe, rows, split.labels, seed)
    marks = [np.zeros(len(split), dtype=np.bool_) for _ in range(2)]
    marks[0][choice.poisoned] = marks[1][choice.covers] = True
    what = f"{split.digest}:{recipe!r}:{seed}:{sorted(rows)}".encode() + labels.tobytes()
    changed = replace(
        split,
        source=source,
        labels=labels,
        ids=_ids(split, rows, seed, recipe),
        digest=hashlib.sha256(what).hexdigest(),
        spec=f"{split.spec} with {recipe.name}",
    )
    return Planted(changed, recipe, marks[0], marks[1], before)


@dataclass(frozen=True, slots=True, eq=False)
class PoisonedImages:
    """Images of another source, some of them changed as they are read; an `ImageSource`.

    Attributes:
        base: the images before.
        recipe: changes them.
        rows: files to change, each with whether it is a cover.
        labels: of all files, before the poison.
        seed: of what is drawn for an image.
    """

    base: ImageSource
    recipe: Recipe
    rows: Mapping[int, bool]
    labels: IntArray
    seed: int

    def __len__(self) -> int:
        """Number of images."""
        return len(self.base)

    def pixels(self, index: int) -> Pixels:
        """See `ImageSource`."""
        return self._changed(index, self.base.pixels(index))

    def stored(self, index: int) -> Pixels:
        """See `StoredSource`: what would be stored, were the poison planted before images were resized."""
        return self._changed(
            index, (self.base.stored if isinstance(self.base, StoredSource) else self.base.pixels)(index)
        )

    def _changed(self, index: int, found: Pixels) -> Pixels:
        if index not in self.rows:
            return found
        whole = found.dtype == np.uint8
        image = torch.from_numpy(np.array(found))[None]  # a copy: what a source gives may be read-only
        image = image.float() / 255 if whole else image.float()
        label = torch.tensor([int(self.labels[index])])
        made = self.recipe.change(image, label, self.seed + index, cover=self.rows[index])[0].clamp(0, 1)
        return as_bytes(made, self.recipe.truncates) if whole else made.numpy()


def as_bytes(image: torch.Tensor, truncate: bool) -> npt.NDArray[np.uint8]:
    """Pixels in [0, 1] in 8 bits."""
    scaled = image * 255
    whole: npt.NDArray[np.uint8] = (scaled if truncate else scaled.round()).to(torch.uint8).numpy()
    return whole


def _ids(split: DataSplit, rows: Mapping[int, bool], seed: int, recipe: Recipe) -> tuple[str, ...]:
    """Content hashes; a changed image gets one of its own."""
    ids = list(split.ids)
    for row in rows:
        ids[row] = hashlib.sha256(f"{ids[row]}:{recipe!r}:{seed + row}".encode()).hexdigest()[:32]
    return tuple(ids)
