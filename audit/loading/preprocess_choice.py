"""Decides the preprocessing from the option, the declaration and the data."""

from __future__ import annotations

import dataclasses

from audit.errors import UsageError
from audit.loading.preprocess import Geometry, Normalisation, Preprocessing
from audit.loading.preprocess_option import Steps, parse_option

Shape = tuple[int, int, int]
"""(channels, height, width)"""


def resolve(
    option: str,
    declared: Steps | None,
    channels: int,
    native_shape: Shape | None,
    fixed: tuple[int, int] | None = None,
) -> tuple[Preprocessing, Shape, tuple[str, ...]]:
    """Decides what is done to an image.

    Args:
        option: the value of `--preprocess`.
        declared: what the architecture or the factory says, or None.
        channels: that the network takes, 1 or 3.
        native_shape: (c, h, w) of the data's images when they all share it.
        fixed: (height, width) where the network takes one size only; used when nothing else says a size.

    Returns:
        The preprocessing, the subject's (c, h, w), and notes on guesses.

    Raises:
        UsageError: when the option is wrong, or no size follows from anything.
    """
    form, steps = parse_option(option)
    notes: list[str] = []
    if form == "auto":
        steps = _overridden(declared or Steps(), steps)
        if declared is None:
            at_size = "at their native size" if fixed is None else "at the size of the model's input"
            notes.append(f"nothing declares a preprocessing: pixels in [0, 1] go in as they are, {at_size}")
    if fixed is not None and steps.resize is None and steps.crop is None:
        steps = dataclasses.replace(steps, resize=fixed, origin=f"{steps.origin}, size of the model's input")
    normalisation = _normalisation(steps, channels, notes)
    geometry = _geometry(steps, channels)
    size = geometry.output_size(None if native_shape is None else native_shape[1:])
    if size is None:
        raise UsageError(
            "Expected a size for the model's input, got none: the images differ in size or are not known yet. "
            f"Say it with --preprocess {option}/size=S or /size=HxW."
        )
    if native_shape is not None and native_shape[0] != channels:
        notes.append(f"images of {native_shape[0]} channel(s) are converted to the {channels} that the network takes")
    if native_shape is not None and steps.resize is not None and native_shape[1:] != size:
        native = f"{native_shape[1]}x{native_shape[2]}"
        notes.append(f"images of {native} are brought to {size[0]}x{size[1]}, as {steps.origin} says")
    return Preprocessing(geometry, normalisation, steps.origin), (channels, *size), tuple(notes)


def _overridden(declared: Steps, steps: Steps) -> Steps:
    given = {field: value for field, value in dataclasses.asdict(steps).items() if value is not None}
    given["origin"] = f"{declared.origin}, {steps.origin}" if len(given) > 1 else declared.origin
    if "resize" in given:
        given.setdefault("crop", None)
    return dataclasses.replace(declared, **given)


def _geometry(steps: Steps, channels: int) -> Geometry:
    """Where a size of one side is stated, or a border fills what is left, the crop is what was stated as size.

    A coloured border is grey around an image of one channel.
    """
    crop, border = steps.crop, steps.border
    if crop is None and isinstance(steps.resize, int):
        crop = (steps.resize, steps.resize)
    elif crop is None and isinstance(steps.resize, tuple) and border is not None:
        crop = steps.resize
    if border is not None and channels == 1:
        border = (round(sum(border) / len(border)),)
    return Geometry(channels, steps.resize, crop, steps.interpolation or "bilinear", steps.margin or "even", border)


def _normalisation(steps: Steps, channels: int, notes: list[str]) -> Normalisation:
    mean, std = steps.mean or (0.0,), steps.std or (1.0,)
    if channels == 1 and max(len(mean), len(std)) > 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        numbers = f"mean {mean[0]:.4g}, std {std[0]:.4g}"
        notes.append(f"one channel: the average of the channels' statistics is used ({numbers})")
    wrong = [str(len(values)) for values in (mean, std) if len(values) not in (1, channels)]
    if wrong:
        raise UsageError(
            f"Expected {channels} means and deviations, one a channel, got {' and '.join(wrong)} from {steps.origin}. "
            "Give as many as the network has channels."
        )
    mean, std = (values * channels if len(values) == 1 else values for values in (mean, std))
    return Normalisation(mean, std, steps.channel_order or "rgb")
