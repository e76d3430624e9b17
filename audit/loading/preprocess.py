"""How an image becomes the network's input: geometry outside the subject, normalisation inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

ChannelOrder = Literal["rgb", "bgr"]
Margin = Literal["even", "floor"]
Pixel = TypeVar("Pixel", bound=np.generic)

RESAMPLING: Mapping[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Brings a decoded image to the subject's input.

    Attributes:
        channels: 1 or 3.
        resize: shorter side in pixels before cropping, or exact (height, width), or None to keep the native size.
        crop: (height, width) of the centre crop after resizing, or None for no crop.
        interpolation: `bilinear`, `bicubic`, `nearest`, `lanczos`, `box` or `hamming`.
        margin: how half of an odd margin around the crop is rounded: to even, as torchvision and timm do, or down, as
            transformers does.
        border: None, or the colour (0 to 255, one value a channel or one for all) around an image whose longer side in
            place of the shorter was brought to `resize`: nothing of it is lost (timm's crop mode `border`).
    """

    channels: int
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    margin: Margin = "even"
    border: tuple[int, ...] | None = None

    def apply(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """The image as (c, h, w) uint8: converted to the channels, resized with antialiasing, then cropped.

        Equal, pixel for pixel, to torchvision's `Resize` and `CenterCrop` on a PIL image, where the margin is rounded
        to even. Transparency is dropped; 16-bit grey keeps its upper 8 bits.
        """
        mode = "L" if self.channels == 1 else "RGB"
        picture = image if image.mode == mode else _eight_bit(image).convert(mode)
        height, width = self._resized((picture.height, picture.width))
        if (height, width) != (picture.height, picture.width):
            picture = picture.resize((width, height), RESAMPLING[self.interpolation])
        array = np.asarray(picture, dtype=np.uint8)
        planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        return np.ascontiguousarray(self._cropped(planes, np.asarray(self.border or 0, dtype=np.uint8)))

    def apply_float(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The same for an image that 8 bits would damage.

        Args:
            image: (1 or 3, h, w) float32 in [0, 1].

        Returns:
            (c, h, w) float32 in [0, 1]; what interpolation overshoots is clipped. Grey is ITU-R 601 luma, as in PIL.
        """
        planes = image
        if len(planes) == 3 and self.channels == 1:
            planes = np.tensordot(np.array([0.299, 0.587, 0.114], dtype=np.float32), planes, axes=1)[None]
        elif len(planes) == 1 and self.channels == 3:
            planes = np.repeat(planes, 3, axis=0)
        height, width = self._resized((planes.shape[1], planes.shape[2]))
        if (height, width) != planes.shape[1:]:
            method = RESAMPLING[self.interpolation]
            resized = [np.asarray(Image.fromarray(plane).resize((width, height), method)) for plane in planes]
            planes = np.clip(np.stack(resized), 0, 1)
        border = np.asarray(self.border or 0, dtype=np.float32) / np.float32(255)
        return np.ascontiguousarray(self._cropped(planes, border), dtype=np.float32)

    def output_size(self, native: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """(height, width) of what `apply` returns; None when it depends on a native size that is not given."""
        if self.crop is not None:
            return self.crop
        if isinstance(self.resize, tuple) and self.border is None:
            return self.resize
        return None if native is None else self._resized(native)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) after resizing and before cropping."""
        if self.resize is None:
            return size
        if self.border is not None:
            wanted = self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
            ratio = max(size[0] / wanted[0], size[1] / wanted[1])
            return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))
        if isinstance(self.resize, tuple):
            return self.resize
        height, width = size
        longer = int(self.resize * max(size) / min(size))
        return (longer, self.resize) if width <= height else (self.resize, longer)

    def _cropped(self, planes: npt.NDArray[Pixel], border: npt.NDArray[Pixel]) -> npt.NDArray[Pixel]:
        """The centre of (c, h, w); smaller images are padded first, with the border's colour, else black."""
        if self.crop is None:
            return planes
        sizes = [max(want, have) for want, have in zip(self.crop, planes.shape[1:], strict=True)]
        padded = np.empty_like(planes, shape=(len(planes), *sizes))
        padded[:] = border.reshape(-1, 1, 1)
        starts = [(size - have) // 2 for size, have in zip(sizes, planes.shape[1:], strict=True)]
        inside = [slice(start, start + have) for start, have in zip(starts, planes.shape[1:], strict=True)]
        padded[:, inside[0], inside[1]] = planes
        margins = [have - want for want, have in zip(self.crop, padded.shape[1:], strict=True)]
        top, left = (margin // 2 if self.margin == "floor" else round(margin / 2) for margin in margins)
        return padded[:, top : top + self.crop[0], left : left + self.crop[1]]


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey brought to 8 bits; PIL's own conversion would clip it to white."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Per-channel (x - mean) / std on pixels in [0, 1].

    Attributes:
        mean: one a channel, or one for all; in the order in which the network takes the channels.
        std: likewise; none is zero.
        channel_order: `bgr` when the network takes blue first; pixels of a subject are always red first.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channel_order: ChannelOrder = "rgb"

    @property
    def is_identity(self) -> bool:
        """Whether it leaves pixels as they are."""
        return self.channel_order == "rgb" and not any(self.mean) and all(value == 1 for value in self.std)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Geometry, normalisation, and where they were taken from (`timm`, `torchvision`, `--preprocess`, ...)."""

    geometry: Geometry
    normalisation: Normalisation
    origin: str

    def option(self) -> str:
        """The value of `--preprocess` that says exactly this, such as `mean=0.5/std=0.5/size=256/crop=224`."""
        geometry, normalisation = self.geometry, self.normalisation
        parts = [f"mean={_numbers(normalisation.mean)}", f"std={_numbers(normalisation.std)}"]
        if geometry.resize is not None:
            parts.append(f"size={_size(geometry.resize)}")
        if geometry.crop is not None:
            square = geometry.crop[0] == geometry.crop[1]
            parts.append(f"crop={_size(geometry.crop[0] if square else geometry.crop)}")
        if geometry.crop is not None and geometry.margin != "even":
            parts.append(f"margin={geometry.margin}")
        if geometry.border is not None:
            parts.append(f"border={','.join(map(str, geometry.border))}")
        if geometry.resize is not None and geometry.interpolation != "bilinear":
            parts.append(f"interpolation={geometry.interpolation}")
        if normalisation.channel_order != "rgb":
            parts.append(f"order={normalisation.channel_order}")
        return "/".join(parts)

    def record(self) -> dict[str, object]:
        """JSON values for the run record."""
        resize, crop = self.geometry.resize, self.geometry.crop
        return {
            "mean": list(self.normalisation.mean),
            "std": list(self.normalisation.std),
            "channel_order": self.normalisation.channel_order,
            "channels": self.geometry.channels,
            "resize": list(resize) if isinstance(resize, tuple) else resize,
            "crop": None if crop is None else list(crop),
            "interpolation": self.geometry.interpolation,
            "origin": self.origin,
            "option": self.option(),
        }


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(repr(value) for value in values)


def _size(value: int | tuple[int, int]) -> str:
    return str(value) if isinstance(value, int) else f"{value[0]}x{value[1]}"
