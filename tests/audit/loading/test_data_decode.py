"""Decoding of unusual images: 16 bits, transparency, palettes, orientation."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.loading.formats.decode import UndecodableError, decode, read_header


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
def test_exif_orientation_is_applied_where_it_is_asked_for(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:, :16] = 255
    encoded = _encoded(Image.fromarray(pixels), format, exif=exif)
    turned = decode(encoded, upright=True)
    assert turned.size == (16, 32)
    assert np.asarray(turned)[:12].min() > 200
    assert read_header(encoded, upright=True).shape == (3, 32, 16)
    stored, header = decode(encoded), read_header(encoded)
    assert stored.size == header.shape[:0:-1] == Image.open(io.BytesIO(encoded)).convert("RGB").size
    assert np.array_equal(np.asarray(stored), np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")))
    assert header.turned is (format != "TIFF")  # PIL turns these by itself


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
        read_header(encoded)
    with pytest.raises(UndecodableError, match=text):
        decode(encoded)


def _with_scans(n: int, side: int, ahead: bytes = b"", size: int = 16) -> bytes:
    """A progressive JPEG with so many empty scans at its end, whose header states another size."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)
    jpeg = _encoded(Image.fromarray(noise), "JPEG", progressive=True)
    frame, scan = jpeg.index(b"\xff\xc2"), jpeg.rindex(b"\xff\xda")
    empty = jpeg[scan : scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big")]
    stated = jpeg[: frame + 5] + 2 * side.to_bytes(2, "big") + jpeg[frame + 9 : -2]
    return stated + (ahead + empty) * n + jpeg[-2:]


@pytest.mark.parametrize("ahead", [b"", b"\xff\xff", b"\xff\xd0", b"junk\xff\x00", b"\xff\xfe\x00\x04ab"])
@pytest.mark.parametrize(("n", "side"), [(1500, 9000), (40, 9000), (200, 16)])
def test_a_jpeg_of_many_scans(n: int, side: int, ahead: bytes) -> None:
    """Seventeen kilobytes would take minutes."""
    for read in (read_header, decode):
        with pytest.raises(UndecodableError, match=rf"^{n + 6:,} scans of {side**2:,} pixels, which would take long"):
            read(_with_scans(n, side, ahead))


def test_scans_of_previews_and_behind_the_end_do_not_count() -> None:
    plain = _with_scans(0, 16)
    preview = 200 * b"\xff\xda"
    segment = b"\xff\xe2" + (len(preview) + 2).to_bytes(2, "big") + preview
    for encoded in (plain + preview, plain[:2] + segment + plain[2:], _with_scans(80, 16)):
        assert decode(encoded).size == (16, 16)


def test_whatever_a_file_ends_with_the_error_is_clear() -> None:
    jpeg = _with_scans(0, 64, size=64)
    for encoded in (b"", b"\xff\xd8", jpeg[:50], jpeg[: len(jpeg) // 2], b"\xff\xd8" + bytes(range(256)) * 20):
        with pytest.raises(UndecodableError, match=r"^(empty file|not an image of a known format|.*truncated.*)$"):
            decode(encoded)
