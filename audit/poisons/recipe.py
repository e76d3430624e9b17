"""What a poison recipe is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from audit.api import IntArray

Kind = Literal["shortcut", "backdoor", "label-noise", "sham"]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Which samples a recipe touches.

    Attributes:
        poisoned: places among the samples, ascending: (m,) int64.
        labels: (m,) int64, what the poisoned ones are labelled afterwards.
        covers: places whose image is changed and whose label is kept, to hide the poison: (k,) int64; mostly empty.
    """

    poisoned: IntArray
    labels: IntArray
    covers: IntArray


class Recipe(Protocol):
    """Chooses samples, and changes images."""

    @property
    def name(self) -> str:
        """As the literature calls it, in lower case."""

    @property
    def kind(self) -> Kind:
        """What it does to whoever trains on it."""

    @property
    def truncates(self) -> bool:
        """Whether 8-bit images are made by cutting decimals off, as its source does, in place of rounding."""

    def choose(self, labels: IntArray, classes: int, rng: np.random.Generator) -> Choice:
        """The samples that it touches, of those with these labels (n,)."""

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """The images (n, c, h, w) in [0, 1] as it leaves them; of labels (n,) before the poison. Pure.

        `seed` decides what is drawn for an image; `cover` asks for the form that keeps its label.
        """


NONE = np.empty(0, dtype=np.int64)


def some(places: IntArray, fraction: float, rng: np.random.Generator) -> IntArray:
    """A share of the places, drawn without replacement, at least one of them where the share is not 0; ascending."""
    count = min(len(places), max(round(fraction * len(places)), int(fraction > 0)))
    return np.sort(rng.permutation(places)[:count])
