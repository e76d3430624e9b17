"""Preprocessing as timm declares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from audit.errors import SubjectError
from audit.loading.preprocess import RESAMPLING
from audit.loading.preprocess_option import Steps
from audit.loading.sources import shown

CROP_MODES = ("center", "squash", "border")
LARGEST_SIDE = 100_000


def timm_steps(config: Mapping[str, Any], name: str, origin: str, img_size: Any = None) -> Steps:
    """Steps from a resolved data configuration of timm.

    Args:
        config: as `resolve_model_data_config` gives it.
        name: of the model, for messages.
        origin: who says so, for the record.
        img_size: the network's own input size where it was stated; the configuration's counts otherwise.

    Raises:
        SubjectError: for values that are none of timm's, such as a crop mode that it did not have when this was
            written.
    """
    for key, (wanted, is_sound) in WANTED.items():
        if not is_sound(config[key]):
            raise SubjectError(
                f"Expected a timm model with {key} {wanted}, got {shown(str(config[key]))} for {shown(name)}. State "
                "the preprocessing with --preprocess mean=.../std=.../size=HxW."
            )
    size = sides(img_size) or (int(config["input_size"][1]), int(config["input_size"][2]))
    scaled = tuple(max(1, int(side / config["crop_pct"])) for side in size)
    exact = config["crop_mode"] == "squash" or scaled[0] != scaled[1]
    return Steps(
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resize=(scaled[0], scaled[1]) if exact else scaled[0],
        crop=size,
        interpolation=config["interpolation"],
        border=tuple(round(255 * value) for value in config["mean"]) if config["crop_mode"] == "border" else None,
        origin=origin,
    )


def sides(value: Any) -> tuple[int, int] | None:
    """(height, width) of a size that is one number or two, else None."""
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[1])) if isinstance(value, tuple | list) and len(value) == 2 else None


def _are_numbers(values: Any, low: float, high: float) -> bool:
    return (
        isinstance(values, tuple | list)
        and bool(values)
        and all(isinstance(value, int | float) and low <= value <= high for value in values)
    )


WANTED: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "crop_mode": (f"{', '.join(CROP_MODES[:-1])} or {CROP_MODES[-1]}", lambda value: value in CROP_MODES),
    "input_size": (
        "of three whole numbers", lambda value: _are_numbers(value, 1, LARGEST_SIDE) and len(value) == 3,
    ),
    "crop_pct": ("from 0.01 to 10", lambda value: _are_numbers([value], 0.01, 10)),
    "mean": ("of numbers from 0 to 1", lambda value: _are_numbers(value, 0, 1)),
    "std": ("of numbers from 0.000001 to 1000", lambda value: _are_numbers(value, 1e-6, 1000)),
    "interpolation": (f"of {', '.join(RESAMPLING)}", lambda value: isinstance(value, str) and value in RESAMPLING),
}  # fmt: skip
"""What is read of a configuration: what it must be in words, and whether a value is so."""
