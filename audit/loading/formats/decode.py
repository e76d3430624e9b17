"""Encoded bytes to 8-bit images.

The rules, the same for every format that holds encoded images:

- EXIF orientation is left out of account, as torchvision, timm and WebDataset do, which read with PIL alone; but in
  Parquet it is applied, as Hugging Face's datasets does. How many images are concerned is noted.
- Greyscale (1, L, LA) becomes `L`; everything else becomes `RGB`, palettes through their colours.
- Transparency is dropped, not blended, as torchvision's loaders do.
- 16-bit greyscale is divided by 257 with rounding, not clipped. (PIL itself reads 16-bit colour by its high byte.)
- Of animations and multi-page files the first frame is read.
- 32-bit integer and float pixels are refused: they have no agreed white point.
- A JPEG of many scans is refused: each scan costs a pass over all pixels, and an empty one takes eleven bytes.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from audit.loading.sources import Shape

PIL_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
"""Only these decoders are tried, whatever a file claims to be: PIL's EPS reader, for one, starts Ghostscript."""
GREY_MODES = frozenset({"1", "L", "LA", "La"})
COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"})
SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
SIXTEEN_BIT_AS_32 = frozenset({"PNG", "PPM"})
"""Formats whose mode `I` holds 16-bit values; a TIFF's may hold anything."""
UPRIGHT, SIDEWAYS = 1, frozenset({5, 6, 7, 8})
ORIENTATION_TAG = 0x0112
MOST_SCANS, MOST_SCANNED_PIXELS = 100, 1 << 31
"""Of a JPEG; encoders write about ten scans. Pixels count once a scan."""
ROWS_AT_ONCE = 256
SLOW_DECODERS, MOST_SLOW_PIXELS = frozenset({"ppm", "ppm_plain"}), 1 << 22
"""Those of PIL that are written in Python, and how large an image they may have."""
JPEG = b"\xff\xd8"
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
SCAN, END, WITHOUT_LENGTH = b"\xda", b"\xd9", frozenset({b"\xd8", b"\x01"})


class UndecodableError(ValueError):
    """Bytes that are not an image which can be audited; the text says why in a few words."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of an image says.

    Attributes:
        shape: (c, h, w) as `decode` would return it.
        turned: whether its EXIF orientation says that it lies on its side, stands on its head, or is mirrored.
    """

    shape: Shape
    turned: bool


def read_header(encoded: bytes, *, upright: bool = False) -> Header:
    """What there is to know of an image without decoding it.

    Args:
        encoded: the whole file.
        upright: as in `decode`.

    Raises:
        UndecodableError: when the header cannot be read, or the image is refused by its mode or size.
    """
    image = _open(encoded)
    _refuse_unknown_mode(image)
    width, height = image.size
    orientation = _orientation(image)
    if upright and orientation in SIDEWAYS:
        width, height = height, width
    return Header(((3 if image.mode in COLOUR_MODES else 1), height, width), orientation != UPRIGHT)


def decode(encoded: bytes, *, upright: bool = False) -> Image.Image:
    """The image in mode `L` or `RGB`.

    Args:
        encoded: the whole file.
        upright: whether it is turned as its EXIF orientation says.

    Raises:
        UndecodableError: when it is damaged, or refused by its mode or size.
    """
    image: Image.Image = _open(encoded)
    _refuse_unknown_mode(image)
    sixteen_bit = image.mode not in GREY_MODES | COLOUR_MODES
    try:
        with _without_warnings():
            image.load()
        if upright and "exif" in image.info:  # looking for the tag elsewhere costs as much as decoding a small image
            with _without_warnings():
                ImageOps.exif_transpose(image, in_place=True)
        return _sixteen_to_eight_bit(image) if sixteen_bit else _to_eight_bit(image)
    except Exception as error:  # PIL's decoders raise a dozen types on malformed bytes
        raise UndecodableError(str(error) or type(error).__name__) from error


def _open(encoded: bytes) -> Image.Image:
    try:
        with _without_warnings():
            image = Image.open(io.BytesIO(encoded), formats=PIL_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UndecodableError("more pixels than is safe to decode") from error
    except Exception as error:  # as above; without the memory address that PIL's own text holds
        raise UndecodableError("empty file" if not encoded else "not an image of a known format") from error
    if encoded.startswith(JPEG):
        _refuse_many_scans(encoded, image.width * image.height)
    decoder = str(image.tile[0][0]) if image.tile else ""
    if decoder in SLOW_DECODERS and image.width * image.height > MOST_SLOW_PIXELS:
        raise UndecodableError(f"{image.width * image.height:,} pixels in a form that takes long to decode")
    return image


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """PIL warns of what is odd in a file, once for every oddity: thousands of lines, for a file that is made for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _refuse_many_scans(jpeg: bytes, n_pixels: int) -> None:
    most = min(MOST_SCANS, MOST_SCANNED_PIXELS // max(1, n_pixels))
    if jpeg.count(b"\xff" + SCAN) > most and (scans := _count_scans(jpeg)) > most:  # previews hold scans of their own
        raise UndecodableError(f"{scans:,} scans of {n_pixels:,} pixels, which would take long to decode")


def _count_scans(jpeg: bytes) -> int:
    """Scans before the end of the image; what lies in other segments, such as a preview, is skipped as libjpeg does."""
    scans = place = 0
    while (found := MARKER.search(jpeg, place)) and found[1] != END:
        scans += found[1] == SCAN
        length = 0 if found[1] in WITHOUT_LENGTH else int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
        place = found.end() + length
    return scans


def _orientation(image: Image.Image) -> int:
    """From 1 (upright) to 8; what is none of these counts as upright, as it does to PIL."""
    if "exif" not in image.info:  # asking a PNG that has none would decode it
        return UPRIGHT
    try:
        with _without_warnings():
            found = image.getexif().get(ORIENTATION_TAG)
        return found if isinstance(found, int) and UPRIGHT <= found <= max(SIDEWAYS) else UPRIGHT
    except Exception as error:
        raise UndecodableError("damaged EXIF data") from error


def _refuse_unknown_mode(image: Image.Image) -> None:
    known = image.mode in GREY_MODES | COLOUR_MODES | SIXTEEN_BIT_MODES
    if not known and not (image.mode == "I" and image.format in SIXTEEN_BIT_AS_32):
        raise UndecodableError(f"pixel mode {image.mode}, which has no agreed white point")


def _to_eight_bit(image: Image.Image) -> Image.Image:
    if image.mode in GREY_MODES:
        return image if image.mode == "L" else image.convert("L")
    if image.mode == "RGB":
        return image
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA")  # a palette's transparency goes this way without a warning
    return image.convert("RGB")


def _sixteen_to_eight_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    eight_bit = np.empty(values.shape, dtype=np.uint8)
    for top in range(0, len(values), ROWS_AT_ONCE):
        some = values[top : top + ROWS_AT_ONCE].astype(np.int64)
        eight_bit[top : top + ROWS_AT_ONCE] = ((some + 128) // 257).clip(0, 255)  # 257 is odd: nothing lies between
    return Image.fromarray(eight_bit)
