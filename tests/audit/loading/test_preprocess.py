"""Geometry against torchvision, and the grammar of `--preprocess`."""

import dataclasses

import numpy as np
import pytest
import torchvision.transforms as T  # noqa: N812
from PIL import Image
from timm.data import create_transform

from audit.errors import UsageError
from audit.loading.preprocess import Geometry, Normalisation
from audit.loading.preprocess_choice import resolve
from audit.loading.preprocess_option import CIFAR, IMAGENET, Steps, parse_option
from audit.loading.timm_steps import timm_steps

RNG = np.random.default_rng(0)
DECLARED = Steps(IMAGENET.mean, IMAGENET.std, 256, (224, 224), "bicubic", origin="somewhere")


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(32, 32), (37, 53), (80, 41), (20, 64)])
@pytest.mark.parametrize("crop", [None, (28, 28), (25, 40)])
@pytest.mark.parametrize("resize", [None, 30, (30, 44)])
def test_geometry_equals_torchvision(size: tuple[int, int], crop: tuple[int, int] | None, resize: object) -> None:
    steps: list[object] = [] if resize is None else [T.Resize(resize, T.InterpolationMode.BICUBIC)]
    steps += [] if crop is None else [T.CenterCrop(crop)]
    image = picture(*size)
    expected = np.asarray(T.Compose(steps)(image)).transpose(2, 0, 1)
    geometry = Geometry(3, resize, crop, "bicubic")  # type: ignore[arg-type]
    assert np.array_equal(geometry.apply(image), expected)
    assert geometry.output_size(size) == expected.shape[1:]


@pytest.mark.parametrize("size", [(32, 32), (37, 53), (80, 41), (20, 64)])
@pytest.mark.parametrize("percent", [1.0, 0.875])
@pytest.mark.parametrize("side", [(30, 30), (28, 40)])
def test_a_border_equals_timms(size: tuple[int, int], percent: float, side: tuple[int, int]) -> None:
    config = {"input_size": (3, *side), "mean": (0.5, 0.4, 0.25), "std": (1.0, 1.0, 1.0), "interpolation": "bicubic",
              "crop_pct": percent, "crop_mode": "border"}  # fmt: skip
    image = picture(*size)
    expected = create_transform(**config, is_training=False, normalize=False)(image).numpy()
    preprocessing, shape, _ = resolve("auto", timm_steps(config, "name", "timm"), 3, (3, *size))
    assert shape == (3, *side)
    assert np.array_equal(preprocessing.geometry.apply(image), expected)
    smooth = dataclasses.replace(preprocessing.geometry, interpolation="bilinear")  # which overshoots nowhere
    exact = smooth.apply_float(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)
    assert np.abs(exact * 255 - smooth.apply(image)).max() <= 2
    again, _, _ = resolve(preprocessing.option(), None, 3, (3, *size))
    assert again.geometry == preprocessing.geometry


def test_a_border_around_grey_is_grey() -> None:
    preprocessing, _, _ = resolve("mean=0.5/std=1/size=4/border=10,20,60", None, 1, (1, 2, 4))
    assert preprocessing.geometry.apply(Image.new("L", (4, 2), 7))[0].tolist() == [[30] * 4, [7] * 4, [7] * 4, [30] * 4]
    preprocessing, shape, _ = resolve("none/size=6x4/border=9", None, 3, (3, 2, 2))
    assert shape == (3, 6, 4)
    assert preprocessing.geometry.apply(Image.new("RGB", (2, 2)))[2, :, 0].tolist() == [9, 0, 0, 0, 0, 9]


def test_channels_are_converted() -> None:
    image = picture(5, 6)
    assert Geometry(1).apply(image).shape == (1, 5, 6)
    assert np.array_equal(Geometry(1).apply(image)[0], np.asarray(image.convert("L")))
    grey = image.convert("L")
    assert np.array_equal(Geometry(3).apply(grey), np.stack([np.asarray(grey)] * 3))


def test_sixteen_bit_grey_is_not_clipped_to_white() -> None:
    image = Image.fromarray(np.array([[0, 256, 65535]], dtype=np.uint16))
    assert Geometry(1).apply(image).tolist() == [[[0, 1, 255]]]


def test_float_images_follow_the_same_geometry() -> None:
    image = picture(37, 53)
    for geometry in (Geometry(3, 30, (25, 25), "bilinear"), Geometry(1, (20, 30)), Geometry(3)):
        exact = geometry.apply_float(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)
        assert exact.dtype == np.float32
        assert np.abs(exact * 255 - geometry.apply(image)).max() <= 2  # rounding to 8 bits, twice


def test_float_images_are_converted_between_channel_counts() -> None:
    grey = RNG.random((1, 4, 4), dtype=np.float32)
    assert np.array_equal(Geometry(3).apply_float(grey), np.repeat(grey, 3, axis=0))


@pytest.mark.parametrize(
    ("option", "mean", "resize", "crop", "interpolation"),
    [
        ("none", (0.0,) * 3, None, None, "bilinear"),
        ("imagenet", IMAGENET.mean, None, None, "bilinear"),
        ("cifar", CIFAR.mean, None, None, "bilinear"),
        ("imagenet/size=64", IMAGENET.mean, 64, (64, 64), "bilinear"),
        ("imagenet/size=64/crop=56/interpolation=bicubic", IMAGENET.mean, 64, (56, 56), "bicubic"),
        ("mean=0.1,0.2,0.3/std=1,1,1/size=40x50", (0.1, 0.2, 0.3), (40, 50), None, "bilinear"),
        ("mean=0.5/std=0.5", (0.5,) * 3, None, None, "bilinear"),
        ("auto", IMAGENET.mean, 256, (224, 224), "bicubic"),
        ("auto/size=32", IMAGENET.mean, 32, (32, 32), "bicubic"),
        ("auto/size=32x32", IMAGENET.mean, (32, 32), None, "bicubic"),
        ("auto/crop=100", IMAGENET.mean, 256, (100, 100), "bicubic"),
    ],
)
def test_option(option: str, mean: object, resize: object, crop: object, interpolation: str) -> None:
    preprocessing, shape, _ = resolve(option, DECLARED, 3, (3, 48, 48))
    geometry = preprocessing.geometry
    assert preprocessing.normalisation.mean == mean
    assert (geometry.resize, geometry.crop, geometry.interpolation) == (resize, crop, interpolation)
    assert shape[1:] == geometry.output_size((48, 48))
    again, same_shape, _ = resolve(preprocessing.option(), None, 3, (3, 48, 48))
    assert (again.normalisation, same_shape) == (preprocessing.normalisation, shape)
    assert (again.geometry.resize, again.geometry.crop) in {(geometry.resize, geometry.crop), (None, None)}


def test_blue_first() -> None:
    preprocessing, _, _ = resolve("imagenet/order=bgr", None, 3, (3, 8, 8))
    assert preprocessing.normalisation == Normalisation(IMAGENET.mean, IMAGENET.std, "bgr")
    assert preprocessing.option().endswith("/order=bgr")


def test_one_channel_takes_the_average_and_says_so() -> None:
    preprocessing, shape, notes = resolve("imagenet", None, 1, (3, 8, 8))
    assert shape == (1, 8, 8)
    assert preprocessing.normalisation.mean == pytest.approx((0.449,))
    assert any("average of the channels" in note for note in notes)
    assert any("3 channel(s) are converted to the 1" in note for note in notes)


def test_nothing_declared_is_noted() -> None:
    preprocessing, _, notes = resolve("auto", None, 3, (3, 8, 8))
    assert preprocessing.normalisation.is_identity
    assert "nothing declares a preprocessing" in notes[0]


def test_resizing_is_noted() -> None:
    _, shape, notes = resolve("auto", DECLARED, 3, (3, 32, 32))
    assert shape == (3, 224, 224)
    assert notes == ("images of 32x32 are brought to 224x224, as somewhere says",)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("imagnet", "Expected --preprocess auto, none, imagenet, cifar"),
        ("mean=0.5", "mean and std together, got one of them"),
        ("size=32", "Add mean= and std="),
        ("mean=1,2,3/std=1,2", "as many means as deviations, got 3 and 2"),
        ("mean=123.7,116.3,103.5/std=58,57,57", "divide them by 255"),
        ("mean=0,0,0/std=1,0,1", "finite means and deviations above 0"),
        (
            "mean=a/std=1/size=big",
            "mean=numbers separated by commas, got 'a'; Expected size=S or HxW in pixels, at most 8,192, got 'big'",
        ),
        ("none/interpolation=cubic", "interpolation=nearest, bilinear"),
        ("none/order=grb", "order=rgb or bgr, got 'grb'"),
        ("none/sise=3", "one of mean, std, size, crop, interpolation, order, margin, border, got 'sise'"),
        ("imagenet/mean=0/std=1", "either imagenet or mean=/std=, got both"),
        ("none/size=3/size=4", "each option once"),
        ("none/size=3/border=1,2", "border=whole numbers from 0 to 255, one or three, got '1,2'"),
        ("none/size=200000", "size=S or HxW in pixels, at most 8,192, got '200000'"),
        ("none/size=3/border=256", "border=whole numbers from 0 to 255, one or three, got '256'"),
    ],
)
def test_wrong_options_are_explained(option: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_option(option)
    assert said in str(caught.value)


def test_unknown_size_names_the_option() -> None:
    with pytest.raises(UsageError, match=r"--preprocess imagenet/size=S or /size=HxW"):
        resolve("imagenet", None, 3, None)


def test_wrong_number_of_channels() -> None:
    with pytest.raises(UsageError, match="Expected 3 means and deviations, one a channel, got 2 and 2 from"):
        resolve("mean=0,0/std=1,1", None, 3, (3, 8, 8))
