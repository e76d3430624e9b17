"""What the image processor of a Hugging Face folder does to an image, as steps of our own.

Settings are read, never run: transformers only tells what its class adds where the file is silent. Resizing is PIL's,
as in the processors of transformers 4 (and their `Pil` variants of 5): equal, pixel for pixel. Those of 5 resize by
torchvision, which differs by one of 256 levels, in fewer than 1 in 500 values of an enlarged image by up to 6. Classes
that no steps can say are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from PIL import Image

from audit.adapters import transformers
from audit.errors import AuditError, SubjectError
from audit.loading.hf_config import FolderConfig, read_json, refuse_remote_code
from audit.loading.preprocess_option import Steps, read_steps
from audit.loading.sources import shown

PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
INTERPOLATION: Mapping[float, str] = {int(method): method.name.lower() for method in Image.Resampling}
"""Names by PIL's numbers, which `resample` holds."""
CONVNEXT_WARPS_FROM = 384
LEVIT_SCALE = 256 / 224
LARGEST_NUMBER = 1e6
"""Of those in the file, whatever they mean; where a number must be positive, it is no smaller than one over this."""
NOTHING_TO_IMAGES = frozenset({
    "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order", "do_convert_rgb",
    "do_reduce_labels",
})  # fmt: skip
"""Steps that are read here, or leave an RGB image as it is."""

Settings = Mapping[str, Any]
Size = int | tuple[int, int] | None
GeometryOf = Callable[[Settings], tuple[Size, tuple[int, int] | None]]


def read_preprocessing(config: FolderConfig) -> tuple[Steps | None, tuple[str, ...]]:
    """The steps that the folder declares, or None when it has no such file; and notes.

    Raises:
        SubjectError: for a processor that no steps can say.
        UnsafeArtefactError: for one that is code of its own.
        UsageError: for numbers that make no sense.
    """
    name, values = _values(config)
    if values is None:
        return None, ()
    refuse_remote_code(values, config.folder, name)
    try:
        kind, settings = transformers.processor(values, config.model_type)
    except AuditError:
        raise
    except Exception as error:  # of any kind, as the settings may be of any
        raise _unsaid(config, name, f"settings that transformers cannot read ({error})") from None
    if kind not in GEOMETRY:
        raise _unsaid(config, name, kind or f"{values.get('image_processor_type')!r}, which is not in transformers")
    unknown = sorted(key for key, value in settings.items() if key.startswith("do_") and value is True)
    unknown = [key for key in unknown if key not in NOTHING_TO_IMAGES]
    if unknown:
        raise _unsaid(config, name, f"{', '.join(unknown)} of {kind}")
    try:
        return _steps(kind, settings, f"{name} ({kind})")
    except _Unsaid as problem:
        raise _unsaid(config, name, f"{problem} of {kind}") from None


class _Unsaid(Exception):  # noqa: N818 - becomes an error of ours
    """A step that cannot be said."""


def _values(config: FolderConfig) -> tuple[str, dict[str, Any] | None]:
    """The file's name and content; transformers 5 may nest it in the processor's."""
    nested = (read_json(config.folder, PROCESSOR) or {}).get("image_processor")
    if isinstance(nested, dict):
        return PROCESSOR, nested
    return PREPROCESSOR, read_json(config.folder, PREPROCESSOR)


def _unsaid(config: FolderConfig, name: str, what: str) -> SubjectError:
    return SubjectError(
        f"Expected an image processor of resizing, cropping and normalising in {name} of {config.folder.name}, got "
        f"{shown(what)}. State it with --preprocess mean=.../std=.../size=HxW."
    )


def _steps(kind: str, settings: Settings, origin: str) -> tuple[Steps, tuple[str, ...]]:
    resize, crop = GEOMETRY[kind](settings)
    notes: tuple[str, ...] = ()
    if isinstance(resize, int) and crop is None:
        notes = (f"{origin} leaves the longer side of an image as it is; the centre {resize}x{resize} is taken",)
    mean, std = _statistics(kind, settings)
    stated: dict[str, Any] = {"mean": mean, "std": std, "size": resize, "crop": crop}
    stated["interpolation"] = _interpolation(settings.get("resample")) if resize else None
    stated["order"] = "bgr" if settings.get("do_flip_channel_order") else None
    stated["margin"] = "floor" if crop is not None or isinstance(resize, int) else None
    return read_steps({key: value for key, value in stated.items() if value is not None}, origin), notes


def _statistics(kind: str, settings: Settings) -> tuple[list[float], list[float]]:
    """Mean and deviation that do to pixels in [0, 1] what the processor does to those in [0, 255].

    With factor f, offset o, mean m and deviation s: (255 f x - o - m) / s = (x - (o + m) / 255 f) / (s / 255 f).
    """
    scale = 255 * _positive(settings, "rescale_factor") if settings.get("do_rescale") else 255.0
    scale = 1.0 if abs(scale - 1) < 1e-9 else scale
    offset = 1.0 if settings.get("do_rescale") and settings.get("rescale_offset") else 0.0
    mean, std = [0.0], [1.0]
    if settings.get("do_normalize") and kind != "MobileViTImageProcessor":
        mean, std = _numbers(settings, "image_mean"), _numbers(settings, "image_std")
    if kind == "EfficientNetImageProcessor" and settings.get("include_top"):
        again = _numbers(settings, "image_std")
        std = [first * second for first, second in zip(std * (len(again) // len(std)), again, strict=True)]
    return [(offset + value) / scale for value in mean], [value / scale for value in std]


def _interpolation(resample: Any) -> str:
    name = "bilinear" if resample is None else INTERPOLATION.get(resample) if _is_number(resample) else None
    if name is None:
        raise _Unsaid(f"resample {resample}")
    return name


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def _positive(settings: Settings, name: str) -> float:
    value = settings.get(name)
    if not _is_number(value) or value < 1 / LARGEST_NUMBER:
        raise _Unsaid(f"{name} {value}")
    return float(value)


def _numbers(settings: Settings, name: str) -> list[float]:
    """One value, or one a channel."""
    value = settings.get(name)
    entries: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    if not entries or not all(map(_is_number, entries)):
        raise _Unsaid(f"{name} {value}")
    return [float(entry) for entry in entries]


def _size(value: Any, name: str) -> int | tuple[int, int]:
    """Exact (height, width), or the shorter side."""
    stated = {key: side for key, side in value.items() if side} if isinstance(value, Mapping) else {}
    if not all(_is_number(side) for side in stated.values()):
        raise _Unsaid(f"{name} {value}")
    if set(stated) == {"height", "width"}:
        return int(stated["height"]), int(stated["width"])
    if set(stated) == {"shortest_edge"}:
        return int(stated["shortest_edge"])
    raise _Unsaid(f"{name} {value}")


def _crop(settings: Settings) -> tuple[int, int] | None:
    if not settings.get("do_center_crop"):
        return None
    crop = _size(settings.get("crop_size"), "crop_size")
    return (crop, crop) if isinstance(crop, int) else crop


def _plain(settings: Settings) -> tuple[Size, tuple[int, int] | None]:
    return (_size(settings.get("size"), "size") if settings.get("do_resize") else None), _crop(settings)


def _convnext(settings: Settings) -> tuple[Size, tuple[int, int] | None]:
    """Below 384: the shorter side to size / crop_pct, then a crop to size. From 384 on: warped."""
    size, crop = _plain(settings)
    if size is None:
        return size, crop
    if isinstance(size, tuple):
        raise _Unsaid(f"size {settings.get('size')}")
    if crop is not None:
        raise _Unsaid("a second crop (do_center_crop)")
    if size >= CONVNEXT_WARPS_FROM:
        return (size, size), None
    return int(size / _positive(settings, "crop_pct")), (size, size)


def _levit(settings: Settings) -> tuple[Size, tuple[int, int] | None]:
    size, crop = _plain(settings)
    return (int(LEVIT_SCALE * size) if isinstance(size, int) else size), crop


def _poolformer(settings: Settings) -> tuple[Size, tuple[int, int] | None]:
    size, crop = _plain(settings)
    if size is None or settings.get("crop_pct") is None:
        return size, crop
    share = _positive(settings, "crop_pct")
    if isinstance(size, tuple) and size[0] != size[1]:
        return (int(size[0] / share), int(size[1] / share)), crop
    return int((size if isinstance(size, int) else size[0]) / share), crop


GEOMETRY: Mapping[str, GeometryOf] = {
    **dict.fromkeys(
        (
            "BeitImageProcessor", "BitImageProcessor", "ChineseCLIPImageProcessor", "CLIPImageProcessor",
            "DeiTImageProcessor", "EfficientNetImageProcessor", "MobileNetV1ImageProcessor",
            "MobileNetV2ImageProcessor", "MobileViTImageProcessor", "PvtImageProcessor", "SegformerImageProcessor",
            "SiglipImageProcessor", "ViTImageProcessor",
        ),
        _plain,
    ),
    "ConvNextImageProcessor": _convnext,
    "LevitImageProcessor": _levit,
    "PoolFormerImageProcessor": _poolformer,
}  # fmt: skip
"""How the classes that can be said resize and crop."""
