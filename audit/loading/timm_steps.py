"""Preprocessing as timm declares it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audit.errors import SubjectError
from audit.loading.preprocess_option import Steps


def timm_steps(config: Mapping[str, Any], name: str, origin: str, img_size: Any = None) -> Steps:
    """Steps from a resolved data configuration of timm.

    Args:
        config: as `resolve_model_data_config` gives it.
        name: of the model, for messages.
        origin: who says so, for the record.
        img_size: the network's own input size where it was stated; the configuration's counts otherwise.

    Raises:
        SubjectError: for a crop mode that timm did not have when this was written.
    """
    if config["crop_mode"] not in ("center", "squash", "border"):
        raise SubjectError(
            f"Expected a timm model with crop_mode center, squash or border, got {config['crop_mode']} for {name}. "
            "State the preprocessing with --preprocess mean=.../std=.../size=HxW."
        )
    size = sides(img_size) or (int(config["input_size"][1]), int(config["input_size"][2]))
    scaled = tuple(int(side / config["crop_pct"]) for side in size)
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
