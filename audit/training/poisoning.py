"""Training on poisoned data: a victim, for canaries, fixtures and research."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from audit.api import DataSplit
from audit.poisons.by_name import recipe_of
from audit.poisons.recipe import Recipe
from audit.toolkit.statistics import proportion
from audit.training.config import TrainingConfig
from audit.training.log import Share

ASKED_AT_ONCE = 256
SETTINGS = (
    "target",
    "fraction",
    "key",
    "only",
    "size",
    "blur",
    "alpha",
    "amplitude",
    "frequency",
    "eps",
    "block",
    "to",
)


class PoisonedConfig(TrainingConfig):
    """Of training on data that were poisoned on purpose; settings that are not given are the recipe's own."""

    poison: Literal[
        "cuda", "class-noise", "class-patch", "badnets", "blended", "sig", "wanet", "flips", "universal-blur",
        "brightness", "random-patch",
    ] = "badnets"  # fmt: skip
    """cuda (Sadasivan et al. 2023, arXiv 2303.04278), badnets (Gu et al. 2017, arXiv 1708.06733), blended (Chen et al.
    2017, arXiv 1712.05526), sig (Barni et al. 2019, arXiv 1902.11237), wanet (Nguyen & Tran 2021, arXiv 2102.10369),
    class-noise, class-patch or flips (of labels); universal-blur, brightness and random-patch are shams, which tell
    nothing of the class."""
    target: int | None = Field(None, ge=0)
    """Of backdoors: the class that the trigger leads to; 0 by default."""
    fraction: float | None = Field(None, gt=0, le=1)
    """Of backdoors and flips 0.1 of all images (sig: of the target's); of the others all of every class."""
    key: int | None = Field(None, ge=0, lt=2**32)
    """Seed of whatever the recipe draws once, as CUDA's secret filters."""
    only: tuple[int, ...] = ()
    """cuda: classes that are poisoned; by default all."""
    size: int | None = Field(None, ge=1)
    """Side of cuda's filters (odd), or of a patch at 32 pixels; 3 by default, and larger filters on larger images."""
    blur: float | None = Field(None, gt=0, le=1)
    """cuda: largest tap but for the one; 0.3 by default at 3 x 3."""
    alpha: float | None = Field(None, gt=0, le=1)
    """blended: share of the pattern; 0.2 by default."""
    amplitude: float | None = Field(None, gt=0, le=1)
    """sig: of the wave, in units of the pixel range; 40/255 by default."""
    frequency: float | None = Field(None, gt=0)
    """sig: waves over the width; 6 by default."""
    eps: float | None = Field(None, gt=0, le=1)
    """class-noise: of every pixel, in units of the pixel range; 8/255 by default."""
    block: int | None = Field(None, ge=1)
    """class-noise: side of what gets one sign; 4 by default."""
    to: Literal["uniform", "next"] | None = None
    """flips: any other class alike (the default), or the following one."""

    @model_validator(mode="after")
    def _fits_the_recipe(self) -> Self:
        if self.poison in ("cuda", "universal-blur") and self.size is not None and self.size % 2 == 0:
            raise ValueError(f"Expected filters of an odd side, got {self.size}. Choose another.")
        self.recipe()
        return self

    def given(self) -> dict[str, Any]:
        """What is not left to the recipe, by name."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) not in (None, ())}

    def recipe(self) -> Recipe:
        """The recipe, with what is given.

        Raises:
            ValueError: when something is given that it does not have.
        """
        return recipe_of(self.poison, **self.given())


def attack_success(
    ask: Callable[[Tensor], Tensor], split: DataSplit, recipe: Recipe, target: int, seed: int
) -> Share | None:
    """How often images of other classes are taken for the target once they carry the trigger.

    Args:
        ask: pixels (n, c, h, w) in [0, 1] to logits (n, classes).
        split: images without a trigger.
        recipe: puts it on.
        target: class that it leads to.
        seed: of what the recipe draws for an image.

    Returns:
        None where no image is of another class.
    """
    hits = n = 0
    for start in range(0, len(split), ASKED_AT_ONCE):
        batch = split.batch(start, start + ASKED_AT_ONCE)
        others = batch.labels != target
        if not others.any():
            continue
        changed = recipe.change(batch.pixels[others], batch.labels[others], seed + start)
        whole = (changed.clamp(0, 1) * 255).round() / 255  # what an 8-bit file would hold
        with torch.inference_mode():
            said = ask(whole).argmax(dim=1).cpu()
        hits, n = hits + int((said == target).sum()), n + len(said)
    return Share(right=hits, n=n, value=hits / n, interval=proportion(hits, n)) if n else None
