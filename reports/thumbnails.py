"""Images of a run folder as small data URIs, and only those whose bytes are the ones the record vouches for."""

import base64
import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_SIDE = 224
_PIXEL_ART_SIDE = 64
_PIXEL_ART_SHOWN = 112
_LOSSLESS_BYTES = 12_000
_MAX_FILE_BYTES = 32_000_000
_MAX_PIXELS = 40_000_000
_FORMATS = ("PNG", "JPEG", "WEBP")


class ImageRefused(Exception):  # noqa: N818 - a note in the report, not a failure of it
    """An image is left out; the text says why."""


@dataclass(frozen=True)
class Thumbnail:
    """An image that a page can hold.

    Attributes:
        uri: `data:image/...;base64,...`.
        width: as shown, in CSS pixels.
        height: as shown, in CSS pixels.
        pixelated: small images are enlarged without smoothing, so that single pixels can be seen.
    """

    uri: str
    width: int
    height: int
    pixelated: bool


def make_thumbnail(run_dir: Path, path: str, digests: Mapping[str, str]) -> Thumbnail:
    """Read an image of the run folder and shrink it.

    Args:
        run_dir: the run folder; nothing outside it is opened.
        path: relative to the run folder, with forward slashes.
        digests: sha256 by path, from the evidence of the record.

    Raises:
        ImageRefused: when the path leaves the folder, is not listed as evidence, is missing, has other bytes than the
            record says, or is no image of a known format and sensible size.
    """
    content = _vouched_bytes(run_dir, path, digests)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise ImageRefused("too many pixels")
                return _shrunk(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageRefused("not a readable PNG, JPEG or WebP image") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageRefused("the image is damaged") from error


def _vouched_bytes(run_dir: Path, path: str, digests: Mapping[str, str]) -> bytes:
    if not _stays_inside(run_dir, path):
        raise ImageRefused("its path leaves the run folder")
    expected = digests.get(path)
    if expected is None:
        raise ImageRefused("not listed as evidence")
    file = run_dir / path
    try:
        if not file.is_file():
            raise ImageRefused("missing from the run folder")
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise ImageRefused("the file is too large")
        content = file.read_bytes()
    except OSError as error:
        raise ImageRefused("cannot be read") from error
    if hashlib.sha256(content).hexdigest() != expected.lower():
        raise ImageRefused("its sha256 is not the one on record")
    return content


def _stays_inside(run_dir: Path, path: str) -> bool:
    if not path or "\\" in path or "\x00" in path or Path(path).is_absolute() or ".." in Path(path).parts:
        return False
    try:
        return (run_dir / path).resolve().is_relative_to(run_dir.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def _shrunk(image: Image.Image) -> Thumbnail:
    picture: Image.Image = image if image.mode in {"L", "RGB", "RGBA"} else image.convert("RGB")
    side = max(picture.size)
    if side <= _PIXEL_ART_SIDE:
        factor = max(1, _PIXEL_ART_SHOWN // side)
        uri = _data_uri(picture, "PNG")
        return Thumbnail(uri, picture.width * factor, picture.height * factor, pixelated=True)
    if side > MAX_SIDE:
        picture = picture.copy()
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    lossless = _data_uri(picture, "PNG")  # also the smaller one for drawings and enlarged pixels
    if picture.mode == "RGBA" or len(lossless) <= _LOSSLESS_BYTES:
        return Thumbnail(lossless, picture.width, picture.height, pixelated=side <= MAX_SIDE)
    return Thumbnail(_data_uri(picture, "JPEG"), picture.width, picture.height, pixelated=False)


def _data_uri(picture: Image.Image, file_format: str) -> str:
    clean = Image.new(picture.mode, picture.size)
    clean.paste(picture)  # leaves behind what came with the file: comments, EXIF, colour profiles
    buffer = io.BytesIO()
    if file_format == "PNG":
        clean.save(buffer, "PNG", optimize=True)
    else:
        clean.save(buffer, "JPEG", quality=82)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{file_format.lower()};base64,{encoded}"
