"""Recipes by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from audit.poisons.classwise import ClassNoise, ClassPatch
from audit.poisons.filters import Cuda
from audit.poisons.flips import Flips
from audit.poisons.recipe import Recipe
from audit.poisons.shams import Brightness, RandomPatch
from audit.poisons.triggers import BadNets, Blended, Sig, WaNet

RECIPES: dict[str, Callable[..., Recipe]] = {
    "cuda": Cuda,
    "class-noise": ClassNoise,
    "class-patch": ClassPatch,
    "badnets": BadNets,
    "blended": Blended,
    "sig": Sig,
    "wanet": WaNet,
    "flips": Flips,
    "universal-blur": lambda **given: Cuda(shared=True, **given),
    "brightness": Brightness,
    "random-patch": RandomPatch,
}


def recipe_of(name: str, **given: Any) -> Recipe:
    """The recipe of this name, with its documented strength where nothing is given.

    Raises:
        ValueError: for a name or a setting that is not known.
    """
    if name not in RECIPES:
        raise ValueError(f"Expected a poison among {', '.join(RECIPES)}, got {name!r}. Choose one.")
    try:
        return RECIPES[name](**given)
    except TypeError as error:
        raise ValueError(f"Expected settings that {name} has, got {', '.join(given)}. Leave others out.") from error
