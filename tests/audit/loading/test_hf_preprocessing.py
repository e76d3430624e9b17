"""What image processors of transformers do to an image, against the processors themselves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

from audit.errors import AuditError, SubjectError, UnsafeArtefactError
from audit.loading.hf_config import FolderConfig
from audit.loading.hf_preprocessing import GEOMETRY, PREPROCESSOR, PROCESSOR, read_preprocessing
from audit.loading.preprocess import Preprocessing
from audit.loading.preprocess_choice import resolve
from tests.tiny_transformers import network, save
from tests.user_models import load

SIZES = ((333, 257), (301, 300), (225, 410), (600, 451), (97, 131))
"""Of images, so that margins are even and odd, and that some are enlarged."""
REFUSED = ("Donut", "ImageGPT", "PPLCNet", "Perceiver", "Siglip2", "TextNet")
UNREADABLE = ({}, [], ["x"], [None], None, "text", True, 1e400, 10**400)
MOST_ENLARGED_LEVELS = 6
MOST_OFF_BY_MORE = 0.002
"""Share of values that differ by more than one level of 256 from torchvision's resizing, where bicubic enlarges."""


def photo(width: int, height: int) -> Image.Image:
    """Smooth with noise, as photographs are."""
    rng = np.random.default_rng(width)
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8))


def config_of(folder: Path, values: dict[str, Any] | None, name: str = PREPROCESSOR, kind: str = "vit") -> FolderConfig:
    if values is not None:
        (folder / name).write_text(json.dumps(values))
    return FolderConfig(folder, "transformers", {}, kind, "ViTForImageClassification", ())


def read(folder: Path, values: dict[str, Any], size: tuple[int, int] = (300, 300), **more: Any) -> Preprocessing:
    steps, _ = read_preprocessing(config_of(folder, values, **more))
    preprocessing, _, _ = resolve("auto", steps, 3, (3, size[1], size[0]))
    return preprocessing


def applied(preprocessing: Preprocessing, image: Image.Image) -> torch.Tensor:
    """What the network is given."""
    normalisation = preprocessing.normalisation
    pixels = torch.from_numpy(preprocessing.geometry.apply(image)).float() / 255
    if normalisation.channel_order == "bgr":
        pixels = pixels.flip(0)
    mean, std = (torch.tensor(values)[:, None, None] for values in (normalisation.mean, normalisation.std))
    return (pixels - mean) / std


def processor(name: str, **settings: Any) -> Any:
    from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

    return get_image_processor_class_from_name(name)(**settings)


def compared(
    folder: Path, name: str, image_size: tuple[int, int], **settings: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences from the PIL and the torchvision variant of a processor, in levels of 256."""
    image = photo(*image_size)
    made = processor(name, **settings)
    preprocessing = read(folder, json.loads(made.to_json_string()), image_size)
    ours = applied(preprocessing, image)
    levels = 255 * torch.tensor(preprocessing.normalisation.std)[:, None, None]
    found = []
    for variant in (processor(f"{name}Pil", **settings), made):
        theirs = torch.as_tensor(np.asarray(variant(image, return_tensors="pt")["pixel_values"][0]))
        assert theirs.shape == ours.shape
        found.append((theirs - ours).abs() * levels)
    return found[0], found[1]


@pytest.mark.parametrize("name", sorted(GEOMETRY))
def test_images_equal_those_of_the_processor(tmp_path: Path, name: str) -> None:
    """Equal to PIL's variant; torchvision's rounds otherwise, and may by a little more where it enlarges."""
    for size in SIZES:
        by_pil, by_torchvision = compared(tmp_path, name, size)
        assert by_pil.max() < 1e-3
        assert by_torchvision.max() < MOST_ENLARGED_LEVELS
        assert (by_torchvision > 1.01).float().mean() < MOST_OFF_BY_MORE


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViTImageProcessor", {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 48, "resample": 0}),
        ("ViTImageProcessor", {"do_normalize": False, "resample": 1}),
        ("ViTImageProcessor", {"do_rescale": False, "image_mean": [120, 110, 100], "image_std": [60, 61, 62]}),
        ("ViTImageProcessor", {"do_rescale": False, "do_normalize": False}),
        ("ViTImageProcessor", {"rescale_factor": 1 / 127.5}),
        ("ViTImageProcessor", {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 64, "width": 48}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.95}),
        ("LevitImageProcessor", {"size": {"height": 40, "width": 56}, "do_center_crop": False}),
        ("PoolFormerImageProcessor", {"size": {"height": 64, "width": 64}, "crop_size": 50, "crop_pct": 0.95}),
        ("PoolFormerImageProcessor", {"size": {"height": 64, "width": 80}, "crop_size": 50}),
        ("EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
        ("EfficientNetImageProcessor", {"include_top": False, "do_normalize": False}),
        ("EfficientNetImageProcessor", {"image_std": [0.47853944, 0.4732864, 0.47434163]}),
        ("MobileViTImageProcessor", {"do_flip_channel_order": False}),
    ],
)
def test_settings_mean_what_the_processor_does(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    by_pil, _ = compared(tmp_path, name, (131, 97), **settings)
    assert by_pil.max() < 1e-2


@pytest.mark.parametrize("name", REFUSED)
def test_processors_that_no_steps_can_say(tmp_path: Path, name: str) -> None:
    values = {"image_processor_type": f"{name}ImageProcessor"}
    with pytest.raises(SubjectError, match=f"got {name}ImageProcessor. State it with --preprocess"):
        read_preprocessing(config_of(tmp_path, values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image_processor_type": "MyImageProcessor"}, "got 'MyImageProcessor', which is not in transformers"),
        ({"do_pad": True}, "got do_pad of ViTImageProcessor"),
        ({"size": {"shortest_edge": 64, "longest_edge": 80}}, "of ViTImageProcessor"),
        ({"size": {"max_height": 64, "max_width": 80}}, "of ViTImageProcessor"),
        ({"size": "large"}, "which is|settings that transformers cannot read|of ViTImageProcessor"),
        ({"resample": 9}, "got resample 9 of ViTImageProcessor"),
        ({"image_std": [0, 1, 1]}, r"preprocessor_config.json \(ViTImageProcessor\): Expected finite means"),
        ({"image_mean": [124.0, 116.0, 104.0]}, "got those of pixels in"),
        *(({name: value}, f"got {name} ") for name in ("image_mean", "image_std") for value in UNREADABLE),
        *(({"rescale_factor": value}, "got rescale_factor ") for value in (*UNREADABLE, 0, [1])),
        *(({"resample": value}, "got resample ") for value in ("x", [], {}, True, 10**400)),
        *(({"size": {"shortest_edge": side}}, "got size .* of ViTImageProcessor") for side in ("x", [1], 1e400, 10**9)),
        *(({"image_processor_type": f"{kind}ImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": share},
           f"got crop_pct .* of {kind}ImageProcessor")
          for kind in ("ConvNext", "PoolFormer") for share in ("x", [], 0, -1, 1e-300, 1e400)),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 9, "width": 9}}, "got size"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 32, "do_center_crop": True, "crop_size": 30},
         "got a second crop"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(AuditError, match=said):
        read(tmp_path, {"image_processor_type": "ViTImageProcessor", **values})


def test_a_processor_that_is_code(tmp_path: Path) -> None:
    values = {"auto_map": {"AutoImageProcessor": "processing.Mine"}, "image_processor_type": "Mine"}
    with pytest.raises(UnsafeArtefactError, match=r"auto_map in preprocessor_config.json names `processing.Mine`"):
        read(tmp_path, values)


def test_older_names_and_sizes(tmp_path: Path) -> None:
    read_now = read(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}})
    for older in (
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 64},
        {"image_processor_type": "ViTImageProcessorFast", "size": 64},
        {"size": 64},  # the type of the network decides
    ):
        assert read(tmp_path, older) == read_now


def test_the_nested_file_of_transformers_5_counts_first(tmp_path: Path) -> None:
    config_of(tmp_path, {"size": 64})
    nested = {"image_processor": {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}}}
    steps, _ = read_preprocessing(config_of(tmp_path, nested, PROCESSOR))
    assert steps is not None
    assert steps.resize == (48, 48)
    assert steps.origin == "processor_config.json (ViTImageProcessor)"


def test_no_processor(tmp_path: Path) -> None:
    assert read_preprocessing(config_of(tmp_path, None)) == (None, ())


def test_the_longer_side_is_cropped_and_said(tmp_path: Path) -> None:
    steps, notes = read_preprocessing(config_of(tmp_path, {"size": {"shortest_edge": 32}}))
    assert steps is not None
    assert notes == (
        "preprocessor_config.json (ViTImageProcessor) leaves the longer side of an image as it is; the centre 32x32 "
        "is taken",
    )


def test_a_whole_folder_with_its_processor(tmp_path: Path) -> None:
    """Pixels through our geometry, then the subject; transformers' processor, then transformers' network."""
    made = network("ViT")
    spec = save(made, tmp_path)
    settings = {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    theirs = processor("BitImageProcessorPil", **settings)
    save(theirs, tmp_path)
    image = photo(91, 64)
    loaded = load(spec, native_shape=(3, 64, 91), allow_code=False)
    pixels = torch.from_numpy(loaded.preprocessing.geometry.apply(image))[None].float() / 255
    expected = made(theirs(image, return_tensors="pt")["pixel_values"]).logits
    torch.testing.assert_close(loaded.subject.logits(pixels), expected, atol=1e-5, rtol=1e-4)
    assert loaded.preprocessing.option().endswith("size=40/crop=32/margin=floor/interpolation=bicubic")
    again = load(spec, native_shape=(3, 64, 91), preprocess=loaded.preprocessing.option())
    assert again.preprocessing.geometry == loaded.preprocessing.geometry


def test_a_stated_preprocessing_needs_no_file_that_can_be_read(tmp_path: Path) -> None:
    spec = save(network("ViT"), tmp_path)
    (tmp_path / PREPROCESSOR).write_text(json.dumps({"image_processor_type": "MyImageProcessor"}))
    loaded = load(spec, native_shape=(3, 40, 40), preprocess="imagenet/size=32", allow_code=False)
    assert loaded.preprocessing.geometry.resize == 32
