"""Label noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from audit.api import IntArray
from audit.poisons.recipe import NONE, Choice, Kind, some


@dataclass(frozen=True, slots=True)
class Flips:
    """Labels that are wrong; images stay.

    Attributes:
        fraction: of all images.
        to: `uniform`, any other class alike; `next`, the following class; `given`, by `pairs`.
        pairs: of `given`, the class that each class is taken for; one a class.
    """

    fraction: float = 0.1
    to: str = "uniform"
    pairs: tuple[int, ...] = ()
    truncates: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """See `Recipe`."""
        return f"flips-{self.to}"

    @property
    def kind(self) -> Kind:
        """See `Recipe`."""
        return "label-noise"

    def choose(self, labels: IntArray, classes: int, rng: np.random.Generator) -> Choice:
        """See `Recipe`."""
        chosen = some(np.arange(len(labels)), self.fraction, rng)
        old = labels[chosen]
        if self.to == "uniform":
            new = (old + rng.integers(1, max(2, classes), len(old))) % classes
        elif self.to == "next":
            new = (old + 1) % classes
        else:
            new = np.asarray(self.pairs, dtype=np.int64)[old]
        return Choice(chosen, new.astype(np.int64), NONE)

    def change(self, images: Tensor, labels: Tensor, seed: int, *, cover: bool = False) -> Tensor:
        """See `Recipe`."""
        return images
