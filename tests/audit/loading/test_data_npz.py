"""Numpy files: planted arrays, layouts, ranges and every refusal."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from audit.errors import DataError, UsageError
from audit.loading.datasets import fit, open_dataset
from audit.loading.formats.npz import KEY_PAIRS
from audit.loading.preprocess import Geometry

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
LABELS = np.array([0, 1, 2, 0, 1, 2])


def _save(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "set.npz", **arrays)
    return f"npz:{folder / 'set.npz'}"


def _pixels(spec: str, channels: int = 3) -> npt.NDArray[np.generic]:
    source = fit(open_dataset(spec), "eval", Geometry(channels=channels), seed=0, samples=None).source
    return np.stack([source.pixels(index) for index in range(len(source))])


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("keys", [*KEY_PAIRS, ("x_test", "y_test"), ("test_images", "test_labels")])
def test_npz_keys(keys: tuple[str, str], tmp_path: Path) -> None:
    dataset = open_dataset(_save(tmp_path, **{keys[0]: COLOUR, keys[1]: LABELS}))
    assert dataset.native_shape == (3, 5, 7)
    assert dataset.labels.tolist() == LABELS.tolist()


def test_npz_of_several_splits(tmp_path: Path) -> None:
    train = {"train_images": 255 - COLOUR, "train_labels": LABELS[::-1]}
    spec = _save(tmp_path, test_images=COLOUR, test_labels=LABELS, **train)
    for query, labels in (("", LABELS), ("?split=test", LABELS), ("?split=train", LABELS[::-1])):
        assert open_dataset(spec + query).labels.tolist() == labels.tolist()
    with pytest.raises(DataError, match=r"x_val/y_val or val_images/val_labels in set\.npz, got test_images"):
        open_dataset(f"{spec}?split=val")


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_layouts(compressed: bool, tmp_path: Path) -> None:
    save = np.savez_compressed if compressed else np.savez
    channels_first = COLOUR.transpose(0, 3, 1, 2)
    for images in (COLOUR, channels_first, np.ascontiguousarray(channels_first), np.asfortranarray(COLOUR)):
        save(tmp_path / "set.npz", x=images, y=LABELS)
        np.testing.assert_array_equal(_pixels(f"npz:{tmp_path / 'set.npz'}"), channels_first)
    for images in (GREY, GREY[:, None], GREY[..., None]):
        save(tmp_path / "set.npz", x=images, y=LABELS)
        np.testing.assert_array_equal(_pixels(f"npz:{tmp_path / 'set.npz'}", channels=1), GREY[:, None])


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_pair(order: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.asarray(COLOUR, order=order))
    np.save(tmp_path / "y.npy", LABELS[:, None])
    spec = f"npz:{tmp_path / 'X.npy'},{tmp_path / 'y.npy'}"
    np.testing.assert_array_equal(_pixels(spec), COLOUR.transpose(0, 3, 1, 2))


def test_ambiguous_layout_is_refused_until_it_is_said(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (6, 3, 8, 3), dtype=np.uint8)
    spec = _save(tmp_path, x=images, y=LABELS)
    with pytest.raises(
        DataError, match=r"got shape \(6, 3, 8, 3\) in set\.npz\['x'\], where both axis 1 and axis 3 can"
    ):
        open_dataset(spec)
    np.testing.assert_array_equal(_pixels(f"{spec}?layout=NCHW"), images)
    np.testing.assert_array_equal(_pixels(f"{spec}?layout=NHWC"), images.transpose(0, 3, 1, 2))
    with pytest.raises(UsageError, match=r"Expected layout=NCHW\|NHWC, got layout=HWC"):
        open_dataset(f"{spec}?layout=HWC")


def test_floats_that_are_8_bit_become_uint8(tmp_path: Path) -> None:
    for dtype in (np.float32, np.float64, ">f4"):
        pixels = _pixels(_save(tmp_path, x=(COLOUR / 255).astype(dtype), y=LABELS))
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, COLOUR.transpose(0, 3, 1, 2))


def test_other_floats_lose_nothing(tmp_path: Path) -> None:
    images = RNG.random((6, 5, 7, 3), dtype=np.float32)
    pixels = _pixels(_save(tmp_path, x=images, y=LABELS))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, images.transpose(0, 3, 1, 2))
    grey = _pixels(_save(tmp_path, x=images[..., 0], y=LABELS), channels=3)
    np.testing.assert_array_equal(grey, np.repeat(images[:, None, :, :, 0], 3, axis=1))


def test_wide_integers_within_8_bits(tmp_path: Path) -> None:
    np.testing.assert_array_equal(_pixels(_save(tmp_path, x=GREY.astype(np.int64), y=LABELS), 1), GREY[:, None])
    dataset = open_dataset(_save(tmp_path, x=(GREY > 100).astype(np.uint8), y=LABELS))
    assert "is 1 of 255: are these images in [0, 1] cast to integers?" in dataset.notes[0]


def test_ids_are_of_content_with_dtype_and_shape(tmp_path: Path) -> None:
    plain = open_dataset(_save(tmp_path, x=GREY, y=LABELS)).ids
    assert open_dataset(_save(tmp_path, images=GREY[::-1], labels=LABELS)).ids == plain[::-1]
    reshaped = GREY.reshape(6, 7, 5)
    assert not set(open_dataset(_save(tmp_path, x=reshaped, y=LABELS)).ids) & set(plain)
    signed = (GREY // 2).astype(np.int8)
    halved = open_dataset(_save(tmp_path, x=signed.view(np.uint8), y=LABELS)).ids
    assert not set(open_dataset(_save(tmp_path, x=signed, y=LABELS)).ids) & set(halved)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (
            GREY / 127.5 - 1,
            r"Expected float pixels in \[0, 1\], got a range of \[-.*, .*\] in set\.npz\['x'\].*inside the",
        ),
        (GREY.astype(np.float32), r"Expected float pixels in \[0, 1\], got a range of \[.*25\d\]"),
        (
            np.where(GREY > 5, np.nan, GREY),
            r"Expected finite pixels, got NaN or Inf in set\.npz\['x'\], rows 0, 1, 2",
        ),
        (GREY.astype(np.uint16) * 2, r"Expected integer pixels in 0\.\.255, got a range of \d+\.\.\d{3} in set"),
        (GREY > 3, r"Expected uint8 or float pixels, got dtype bool"),
        (GREY.reshape(6, -1), r"Expected images as \(n, h, w\).*got shape \(6, 35\)"),
        (RNG.random((6, 4, 5, 7)), r"Expected 1 or 3 channels in axis 1 or 3, got shape \(6, 4, 5, 7\)"),
        (GREY[:0], r"as many labels as images, got 0 images and 6 labels"),
        (GREY[:4], r"as many labels as images, got 4 images and 6 labels"),
    ],
)
def test_npz_refuses_images(images: npt.NDArray[np.generic], text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        open_dataset(_save(tmp_path, x=images, y=LABELS))


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (LABELS - 1, r"Expected labels of 0 or more, got 2 negative labels \(-1\) in set\.npz\['y'\]"),
        (LABELS + 0.5, r"Expected integer labels, got 6 fractional labels \(0\.5, "),
        (np.where(LABELS, LABELS, np.nan), r"Expected integer labels, got 2 fractional labels \(nan, nan\)"),
        (LABELS > 1, r"Expected integer labels, got dtype bool"),
        (np.eye(3)[LABELS], r"Expected one integer label a sample, got shape \(6, 3\).*argmax"),
        (np.array(["a"] * 6), r"Expected integer labels, got dtype <U1"),
        (np.int64(3), r"Expected one row a sample, got shape \(\) in set\.npz\['y'\]"),
    ],
)
def test_npz_refuses_labels(labels: npt.ArrayLike, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=text):
        open_dataset(_save(tmp_path, x=GREY, y=labels))


def test_npz_says_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        open_dataset(_save(tmp_path, x=GREY * 2.0, y=LABELS - 1))
    labels, pixels = str(error.value).splitlines()
    assert labels.startswith("Expected labels of 0 or more")
    assert pixels.startswith("Expected float pixels in [0, 1]")


def test_integral_float_labels_are_accepted(tmp_path: Path) -> None:
    assert open_dataset(_save(tmp_path, x=GREY, y=LABELS.astype(np.float32))).labels.dtype == np.int64


def test_npz_without_a_known_pair(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected one pair of arrays named x/y or .* got pixels, y\. Save"):
        open_dataset(_save(tmp_path, pixels=GREY, y=LABELS))
    with pytest.raises(DataError, match=r"Expected one pair of arrays .* got x, y, X"):
        open_dataset(_save(tmp_path, x=GREY, y=LABELS, X=GREY))
