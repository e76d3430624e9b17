"""Reads what `--preprocess`, an architecture or a factory says about preprocessing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from audit.errors import UsageError
from audit.loading.preprocess import RESAMPLING, ChannelOrder, Margin, Normalisation

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
NAMED: Mapping[str, Normalisation] = {"none": Normalisation(), "imagenet": IMAGENET, "cifar": CIFAR}
FORMS = "auto, none, imagenet, cifar or mean=a,b,c/std=d,e,f, each with /size=S, /size=HxW, /crop=S, " + (
    "/interpolation=bicubic or /order=bgr after it"
)
LARGEST_SIDE = 8192
LARGEST_ON_UNIT_SCALE = 5.0
"""Means and deviations of pixels in [0, 1] stay far below this; those of pixels in [0, 255] far above."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Preprocessing as somebody stated it: None where nothing was said.

    Attributes:
        mean: 1 value, or one a channel of the network.
        std: likewise.
        resize: shorter side, or exact (height, width).
        crop: (height, width).
        interpolation: a key of `RESAMPLING`.
        channel_order: `rgb` or `bgr`.
        margin: how half of an odd margin around the crop is rounded, `even` or `floor`.
        border: colour (0 to 255) around an image whose longer side is brought to `resize`, one value or one a channel.
        origin: who said it.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str | None = None
    channel_order: ChannelOrder | None = None
    margin: Margin | None = None
    border: tuple[int, ...] | None = None
    origin: str = "nothing declared"


def parse_option(text: str) -> tuple[Literal["auto", "stated"], Steps]:
    """Reads the value of `--preprocess`.

    Returns:
        `"auto"` with what overrides the declared steps, or `"stated"` with all of them.

    Raises:
        UsageError: naming every problem of the text.
    """
    head, *rest = text.strip().split("/")
    form, pairs = (head, rest) if "=" not in head else ("", [head, *rest])
    if form and form != "auto" and form not in NAMED:
        raise UsageError(f"Expected --preprocess {FORMS}, got {text!r}. Correct it.")
    values = dict(pair.partition("=")[::2] for pair in pairs)
    repeated = [f"each option once, got {text!r}"] if len(values) < len(pairs) else []
    origin = f"--preprocess {text.strip()}"
    steps = read_steps(values, origin, repeated)
    if form in NAMED:
        if steps.mean is not None or steps.std is not None:
            raise UsageError(f"Expected either {form} or mean=/std=, got both in {origin}. Leave one out.")
        return "stated", dataclasses.replace(steps, mean=NAMED[form].mean, std=NAMED[form].std)
    if not form and steps.mean is None:
        raise UsageError(f"Expected --preprocess {FORMS}, got {text!r}. Add mean= and std=, or begin with auto.")
    return ("auto" if form else "stated"), steps


def read_steps(values: Mapping[str, Any], origin: str, problems: list[str] | None = None) -> Steps:
    """Steps from keys `mean std size crop interpolation order margin border`, given as text or as numbers.

    Args:
        values: for example `{"mean": "0.5,0.5,0.5", "std": [0.5], "size": "32x48"}`.
        origin: who says so, for the record and for messages.
        problems: what was found wrong before.

    Raises:
        UsageError: naming every problem.
    """
    found = list(problems or [])
    readers = {
        "mean": _numbers, "std": _numbers, "size": _size, "crop": _size, "interpolation": _name, "order": _order,
        "margin": _margin, "border": _border,
    }  # fmt: skip
    read: dict[str, Any] = {}
    for key, value in values.items():
        if key not in readers:
            found.append(f"one of {', '.join(readers)}, got {key!r}")
            continue
        try:
            read[key] = readers[key](value)
        except (ValueError, TypeError) as error:
            found.append(f"{key}={error}, got {value!r}")
    found += _statistics_problems(read)
    if found:
        raise UsageError(f"{origin}: " + "; ".join(f"Expected {problem}" for problem in found) + ". Correct it.")
    crop = read.get("crop")
    return Steps(
        mean=read.get("mean"),
        std=read.get("std"),
        resize=read.get("size"),
        crop=(crop, crop) if isinstance(crop, int) else crop,
        interpolation=read.get("interpolation"),
        channel_order=read.get("order"),
        margin=read.get("margin"),
        border=read.get("border"),
        origin=origin,
    )


def _statistics_problems(read: Mapping[str, Any]) -> list[str]:
    mean, std = read.get("mean"), read.get("std")
    if (mean is None) != (std is None):
        return ["mean and std together, got one of them"]
    if mean is None or std is None:
        return []
    problems = []
    if len(mean) != len(std) and 1 not in (len(mean), len(std)):
        problems.append(f"as many means as deviations, got {len(mean)} and {len(std)}")
    if not all(math.isfinite(value) for value in (*mean, *std)) or not all(value > 0 for value in std):
        problems.append(f"finite means and deviations above 0, got means {_listed(mean)} and deviations {_listed(std)}")
    elif max(map(abs, (*mean, *std))) > LARGEST_ON_UNIT_SCALE:
        problems.append("statistics of pixels in [0, 1], got those of pixels in [0, 255]: divide them by 255")
    return problems


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _items(value: Any, separator: str) -> list[Any]:
    if isinstance(value, str):
        return list(value.lower().split(separator))
    return list(value) if isinstance(value, list | tuple) else [value]


def _numbers(value: Any) -> tuple[float, ...]:
    items = _items(value, ",")
    try:
        return tuple(float(item) for item in items)
    except (ValueError, TypeError):
        raise ValueError("numbers separated by commas") from None


def _size(value: Any) -> int | tuple[int, int]:
    items = (
        value.lower().split("x") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    )
    try:
        sides = tuple(int(item) for item in items)
    except (ValueError, TypeError):
        sides = ()
    if len(sides) not in (1, 2) or min(sides) < 1 or max(sides) > LARGEST_SIDE:
        raise ValueError(f"S or HxW in pixels, at most {LARGEST_SIDE:,}")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _name(value: Any) -> str:
    if value not in RESAMPLING:
        raise ValueError(", ".join(RESAMPLING))
    return str(value)


def _order(value: Any) -> ChannelOrder:
    if value == "rgb":
        return "rgb"
    if value == "bgr":
        return "bgr"
    raise ValueError("rgb or bgr")


def _margin(value: Any) -> Margin:
    if value == "even":
        return "even"
    if value == "floor":
        return "floor"
    raise ValueError("even or floor")


def _border(value: Any) -> tuple[int, ...]:
    try:
        colour = tuple(int(item) for item in _items(value, ","))
    except (ValueError, TypeError):
        colour = ()
    if len(colour) not in (1, 3) or min(colour) < 0 or max(colour) > 255:
        raise ValueError("whole numbers from 0 to 255, one or three")
    return colour
