"""`hf:DIR`: folders that timm saved, and those that transformers saved around one of timm's networks."""

import json
from pathlib import Path

import pytest
import torch
from timm.models import create_model
from timm.models._hub import save_for_hf
from torch import nn

from audit.errors import SubjectError
from audit.loading.preprocess import Geometry
from tests.tiny_transformers import NAMES, edit, save
from tests.user_models import load

PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def loaded_of(spec: str, **options):
    return load(spec, **{"native_shape": (3, 32, 32), "allow_code": False, **options})


def save_timm(folder: Path, name: str = "test_vit", **arguments) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = create_model(name, num_classes=3, **arguments).eval()
    save_for_hf(made, folder, model_config={"label_names": list(NAMES)}, safe_serialization=True)
    return made


def test_a_folder_of_timm(tmp_path: Path) -> None:
    made = save_timm(tmp_path, img_size=32, in_chans=3)
    loaded = loaded_of(f"hf:{tmp_path}", native_shape=(3, 50, 40))
    pixels = (PIXELS - 0.5) / 0.5
    torch.testing.assert_close(loaded.subject.logits(PIXELS), made(pixels), atol=1e-5, rtol=1e-4)
    assert loaded.preprocessing.geometry == Geometry(3, 33, (32, 32), "bicubic")
    assert loaded.subject.class_names == NAMES
    assert f"images of 50x40 are brought to 32x32, as config.json of {tmp_path.name} (timm) says" in loaded.notes


def test_a_folder_of_transformers_around_timm(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    save_timm(tmp_path / "timm", "test_resnet")
    settings = json.loads((tmp_path / "timm/config.json").read_text())
    del settings["model_args"]  # which transformers 5.23 does not take from timm 1.0.31
    made = TimmWrapperForImageClassification(TimmWrapperConfig.from_dict(settings)).eval()
    spec = save(made, tmp_path / "wrapped")
    assert json.loads((tmp_path / "wrapped/config.json").read_text())["model_type"] == "timm_wrapper"
    loaded = loaded_of(spec, preprocess="none/size=64")
    pixels = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(loaded.subject.logits(pixels), made(pixels).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "hf-hub:timm/resnet18"}, "Expected the name of a timm classifier as architecture"),
        ({"architecture": "vit_of_tomorrow"}, "It may need a newer timm"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "got checkpoint_path. Nothing is read from elsewhere"),
        ({"model_args": {"pretrained": True}}, "got pretrained. Nothing is read from elsewhere"),
        ({"model_args": {"colour": 3}}, "to describe a test_vit, got TypeError"),
        ({"num_classes": 5}, "Likely cause: the head of the file has 3 classes"),
        (
            {"num_classes": 10**9},
            "Expected counts of at most 1,000,000 in config.json of .*, got more as num_classes",
        ),
        (
            {"pretrained_cfg": "abc"},
            "Expected settings by name as pretrained_cfg in config.json of .*, got 'abc'. Corr",
        ),
        ({"pretrained_cfg": 5}, "as pretrained_cfg in config.json of .*, got 5"),
        ({"pretrained_cfg": [1]}, r"as pretrained_cfg in config.json of .*, got \[1\]"),
        ({"model_args": [1]}, "to describe a test_vit, got TypeError"),
    ],
)
def test_folders_of_timm_that_are_refused(tmp_path: Path, change: dict, said: str) -> None:
    save_timm(tmp_path)
    edit(tmp_path, lambda values: values.update(change))
    with pytest.raises(SubjectError, match=said):
        loaded_of(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *(({"crop_pct": value}, "crop_pct from 0.01 to 10, got") for value in ("x", [1], -1, 1e-300, 1e400)),
        *(({"mean": value}, "mean of numbers from 0 to 1, got") for value in ("x", {"a": 1}, [None], ["x"], 5)),
        *(
            ({"std": value}, "std of numbers from 0.000001 to 1000, got")
            for value in ("x", {"a": 1}, [None], [0, 1, 1])
        ),
        *(({"input_size": value}, "input_size of three whole numbers, got") for value in ([3, 1e9, 1e9], [3, "x", 1])),
        *(({"interpolation": value}, "interpolation of nearest, .*, got") for value in ("x", ["bicubic"], 5, {"a": 1})),
        *(
            ({"crop_mode": value}, "crop_mode center, squash or border, got")
            for value in ("x", ["center"], 5, {"a": 1})
        ),
    ],
)
def test_a_preprocessing_that_timm_could_not_do(tmp_path: Path, change: dict, said: str) -> None:
    save_timm(tmp_path, "test_resnet")
    edit(tmp_path, lambda values: values["pretrained_cfg"].update(change))
    with pytest.raises(SubjectError, match=f"Expected a timm model with {said}"):
        loaded_of(f"hf:{tmp_path}")


def test_a_stated_preprocessing_is_taken_alone(tmp_path: Path) -> None:
    save_timm(tmp_path, "test_resnet")
    edit(tmp_path, lambda values: values["pretrained_cfg"].update(crop_mode="fish-eye"))
    with pytest.raises(SubjectError, match="crop_mode center, squash or border, got fish-eye"):
        loaded_of(f"hf:{tmp_path}")
    assert loaded_of(f"hf:{tmp_path}", preprocess="imagenet/size=64").subject.input_shape == (3, 64, 64)


def test_weights_of_a_file(tmp_path: Path) -> None:
    made = save_timm(tmp_path / "folder", "test_resnet")
    (tmp_path / "folder/model.safetensors").unlink()
    torch.save({"state_dict_ema": made.state_dict()}, tmp_path / "weights.pt")
    loaded = loaded_of(f"hf:{tmp_path / 'folder'}", weights=tmp_path / "weights.pt", preprocess="none/size=32")
    torch.testing.assert_close(loaded.subject.logits(PIXELS), made(PIXELS), atol=1e-5, rtol=1e-4)
