"""How an image becomes the network's input: geometry outside the subject, normalisation inside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass(frozen=True, slots=True)
class Geometry:
    """Brings a decoded image to the subject's input.

    Attributes:
        channels: 1 or 3.
        resize: shorter side in pixels before cropping, or exact (height, width), or None to keep the native size.
        crop: (height, width) of the centre crop after resizing, or None for no crop.
        interpolation: `bilinear`, `bicubic`, `nearest`, `lanczos`, `box` or `hamming`.
    """

    channels: int
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"

    def apply(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The image as (c, h, w) uint8."""
        picture = image.convert("L" if self.channels == 1 else "RGB")
        array = np.asarray(picture, dtype=np.uint8)
        return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Per-channel (x - mean) / std on pixels in [0, 1]."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Geometry, normalisation, and where they were taken from (`timm`, `torchvision`, `--preprocess`, ...)."""

    geometry: Geometry
    normalisation: Normalisation
    origin: str
