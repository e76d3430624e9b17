"""Images that are stored as rows of one array: `.npy`, `.npz` members, idx files, generated data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from audit.errors import DataError
from audit.loading.formats.rows import Rows
from audit.loading.sources import Problems, RawImage, Shape, content_id, listed

Layout = Literal["NHW", "NHWC", "NCHW"]
IMAGE_CHANNELS = frozenset({1, 3})
VALUES_AT_ONCE = 1 << 20
EIGHT_BIT_TOLERANCE = 1e-6
"""A float pixel this near to k/255 is taken for it."""


class ArrayImages:
    """Rows as images: integers and exactly 8-bit floats as PIL images, other floats as (c, h, w) float32."""

    def __init__(self, rows: Rows, layout: Layout, *, scale: float | None) -> None:
        self._rows, self._layout, self._scale = rows, layout, scale

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    def name(self, index: int) -> str:
        """The row of the array."""
        return f"{self._rows.name}[{index}]"

    def image(self, index: int) -> RawImage:
        """The image, in mode `L` or `RGB`, or as float32 in [0, 1]."""
        pixels = _channels_last(self._rows.row(index), self._layout)
        if self._scale is None:
            return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
        if pixels.dtype == np.uint8:
            eight_bit = np.ascontiguousarray(pixels)
        else:
            eight_bit = np.rint(pixels.astype(np.float64) * self._scale).clip(0, 255).astype(np.uint8)
        return Image.fromarray(eight_bit[:, :, 0] if eight_bit.shape[2] == 1 else eight_bit)


@dataclass(frozen=True, slots=True)
class ArrayInspection:
    """What one pass over rows found.

    Attributes:
        ids: a content id each.
        scale: what brings the pixels to 0..255 without loss, or None where they must stay float.
        notes: remarks for the user.
    """

    ids: tuple[str, ...]
    scale: float | None
    notes: tuple[str, ...]


def inspect_rows(rows: Rows, problems: Problems) -> ArrayInspection:
    """Hashes every row, and checks dtype and range of its pixels; problems are noted."""
    if rows.dtype.kind not in "iuf":
        problems.add(f"Expected uint8 or float pixels, got dtype {rows.dtype} in {rows.name}. Convert them.")
        return ArrayInspection((), None, ())
    kind = f"{rows.dtype.str}{rows.shape[1:]}"
    ids, not_finite, low, high, exact = [], [], np.inf, -np.inf, True
    for index in range(len(rows)):
        content = rows.content(index)
        ids.append(content_id(content, kind))
        values = np.frombuffer(content, dtype=rows.dtype)
        if not np.isfinite(values).all():
            not_finite.append(index)
            continue
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        exact = exact and (rows.dtype.kind != "f" or _is_eight_bit(values))
    if not_finite:
        problems.add(f"Expected finite pixels, got NaN or Inf in {rows.name}, rows {listed(not_finite)}. Remove them.")
    if rows.dtype.kind in "iu":
        return ArrayInspection(tuple(ids), 1.0, _integer_range(low, high, rows.name, problems))
    _check_float_range(low, high, EIGHT_BIT_TOLERANCE if exact else 0.0, rows.name, problems)
    return ArrayInspection(tuple(ids), 255.0 if exact else None, ())


def _is_eight_bit(values: npt.NDArray[Any]) -> bool:
    """Looked at in stretches, as float64 takes eight times the room of the smallest types."""
    for start in range(0, len(values), VALUES_AT_ONCE):
        some = values[start : start + VALUES_AT_ONCE].astype(np.float64)
        if not (np.abs(some - np.rint(some * 255) / 255) <= EIGHT_BIT_TOLERANCE).all():
            return False
    return True


def _check_float_range(low: float, high: float, slack: float, name: str, problems: Problems) -> None:
    if low < -slack or high > 1 + slack:
        problems.add(
            f"Expected float pixels in [0, 1], got a range of [{low:.6g}, {high:.6g}] in {name}. "
            "Store pixels in [0, 1] or as uint8; normalisation belongs inside the model."
        )


def _integer_range(low: float, high: float, name: str, problems: Problems) -> tuple[str, ...]:
    if low < 0 or high > 255:
        problems.add(
            f"Expected integer pixels in 0..255, got a range of {low:.0f}..{high:.0f} in {name}. "
            "Scale them to 8 bits, or to floats in [0, 1]."
        )
    if 0 <= high <= 1:
        return (
            f"The largest integer pixel in {name} is {high:.0f} of 255: are these images in [0, 1] cast to integers?",
        )
    return ()


def sniff_layout(shape: tuple[int, ...], name: str, wanted: Layout | None = None) -> Layout:
    """Which axis holds the channels, when exactly one reading gives 1 or 3 of them, or as wanted.

    Raises:
        DataError: when none or both do.
    """
    if len(shape) not in {3, 4} or 0 in shape[1:]:
        raise DataError(
            f"Expected images as (n, h, w), (n, h, w, c) or (n, c, h, w), got shape {shape} in {name}. "
            "Reshape them to one image a row."
        )
    candidates: tuple[Layout, ...] = ("NHW",) if len(shape) == 3 else ("NCHW", "NHWC")
    fitting = [layout for layout in candidates if image_shape(shape, layout)[0] in IMAGE_CHANNELS]
    if wanted in fitting:
        return wanted
    if not fitting:
        raise DataError(
            f"Expected 1 or 3 channels in axis 1 or 3, got shape {shape} in {name}. Convert the images to grey or RGB."
        )
    if len(fitting) > 1:
        raise DataError(
            f"Expected one axis that can be channels, got shape {shape} in {name}, where both axis 1 and axis 3 can. "
            "Say which by ?layout=NCHW or ?layout=NHWC after the file."
        )
    return fitting[0]


def image_shape(shape: tuple[int, ...], layout: Layout) -> Shape:
    """(c, h, w) of the images of an array of this shape."""
    sizes = dict(zip(layout, shape, strict=True))
    return sizes.get("C", 1), sizes["H"], sizes["W"]


def _channels_last(row: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    if layout == "NHW":
        return row[:, :, None]
    return row if layout == "NHWC" else row.transpose(1, 2, 0)
