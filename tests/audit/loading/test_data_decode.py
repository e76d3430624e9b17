"""Decoding of unusual images: 16 bits, transparency, palettes, orientation."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.loading.formats.decode import UndecodableError, decode, header_shape


def _plant(path: Path, value: int = 0, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def _encoded(image: Image.Image, format: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    for format_name in ("PNG", "TIFF"):
        image = decode(_encoded(Image.fromarray(values), format_name))
        assert image.mode == "L"
        assert np.asarray(image).tolist() == [[0, 1, 128, 255]]
    header = b"P5 4 1 65535\n"
    assert np.asarray(decode(header + values.astype(">u2").tobytes())).tolist() == [[0, 1, 128, 255]]


def test_transparency_is_dropped_and_palettes_keep_their_colours() -> None:
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert decode(_encoded(clear, "PNG")).getpixel((0, 0)) == (10, 20, 30)
    palette = Image.new("RGB", (2, 2), (200, 100, 0)).convert("P", palette=Image.Palette.ADAPTIVE)
    for settings in ({}, {"transparency": b"\x00\x80"}):
        assert decode(_encoded(palette, "PNG", **settings)).getpixel((0, 0)) == (200, 100, 0)
    assert decode(_encoded(Image.new("LA", (2, 2), (7, 0)), "PNG")).getpixel((0, 0)) == 7
    assert decode(_encoded(Image.new("1", (2, 2), 1), "PNG")).getpixel((0, 0)) == 255
    assert decode(_encoded(Image.new("CMYK", (2, 2)), "TIFF")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:, :16] = 255
    encoded = _encoded(Image.fromarray(pixels), format, exif=exif)
    upright = decode(encoded)
    assert upright.size == (16, 32)
    assert np.asarray(upright)[:12].min() > 200
    assert header_shape(encoded) == (3, 32, 16)


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (_encoded(Image.new("F", (2, 2)), "TIFF"), "pixel mode F, which has no agreed white point"),
        (_encoded(Image.new("I", (2, 2)), "TIFF"), "pixel mode I, which"),
        (_encoded(Image.new("RGB", (2, 2)), "EPS"), "not an image of a known format"),
    ],
)
def test_refused_images(encoded: bytes, text: str) -> None:
    with pytest.raises(UndecodableError, match=text):
        header_shape(encoded)
    with pytest.raises(UndecodableError, match=text):
        decode(encoded)
