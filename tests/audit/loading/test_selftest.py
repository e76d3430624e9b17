"""The preprocessing self-test: a planted mistake is found, a right declaration is not doubted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from audit.api import DataSplit
from audit.loading.models import LoadedSubject, ModelRequest, load_subject
from audit.loading.preprocess import Geometry
from audit.loading.selftest import alternatives, mcnemar, preprocessing_selftest
from tests.splits import array_split

RNG = np.random.default_rng(2)
IMAGES = RNG.integers(0, 256, (200, 3, 8, 8), dtype=np.uint8)
CODE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(192, 4, generator=torch.Generator().manual_seed(0)))
    def forward(self, x):
        return (torch.nn.functional.interpolate(x, (8, 8)).flatten(1) ** 2 @ self.weight)
def make():
    return Net()
"""


RESCALING = CODE.replace("(torch.nn", "((torch.nn").replace("** 2 @", "/ 255 - 0.5) ** 2 @")
"""The same, with the rescaling within that networks of Keras have; below 1 all images are the same to it."""


def load(folder: Path, preprocess: str, code: str = CODE) -> LoadedSubject:
    (folder / "net.py").write_text(code)
    request = ModelRequest(f"py:{folder / 'net.py'}:make", preprocess=preprocess, allow_code=True)
    return load_subject(request, native_shape=(3, 8, 8), device=torch.device("cpu"))


def split_maker(truth: LoadedSubject) -> "SplitMaker":
    """Labels are what the rightly preprocessed network says."""
    geometry = truth.preprocessing.geometry
    pixels = array_split(IMAGES, np.zeros(len(IMAGES), dtype=np.int64), geometry).batch(0, len(IMAGES)).pixels
    return SplitMaker(truth.subject.logits(pixels).argmax(1).numpy())


class SplitMaker:
    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __call__(self, geometry: Geometry) -> DataSplit:
        return array_split(IMAGES, self.labels, geometry)


@pytest.mark.parametrize(
    ("right", "declared", "name"),
    [
        ("imagenet", "none", "ImageNet statistics"),
        ("none", "imagenet", "no normalisation"),
        ("cifar", "none", "CIFAR statistics"),
        ("mean=0.5/std=0.5", "none", "mean and deviation 0.5"),
        ("imagenet/order=bgr", "imagenet", "blue first"),
        ("none", "none/order=bgr", "red first"),
        ("imagenet", "imagenet/size=4x4", "native size"),
    ],
)
def test_a_wrong_declaration_is_found(tmp_path: Path, right: str, declared: str, name: str) -> None:
    maker = split_maker(load(tmp_path, right))
    loaded = load(tmp_path, declared)
    (diagnostic,) = preprocessing_selftest(loaded, maker, native_shape=(3, 8, 8))
    assert (diagnostic.code, diagnostic.severity) == ("preprocessing", "warning")
    assert f"PROBABLY WRONG: {name} is better" in diagnostic.text
    assert f"{name} 100.0%" in diagnostic.text
    option = diagnostic.text.split("Try --preprocess ")[1].split(";")[0]
    repaired = load(tmp_path, option)
    (again,) = preprocessing_selftest(repaired, maker, native_shape=(3, 8, 8))
    assert again.severity == "info"
    assert "declared 100.0%" in again.text


@pytest.mark.parametrize("declared", ["none", "imagenet"])
def test_a_network_that_rescales_by_itself_is_found(tmp_path: Path, declared: str) -> None:
    maker = split_maker(load(tmp_path, "mean=0/std=0.00392156862745098", RESCALING))
    (diagnostic,) = preprocessing_selftest(load(tmp_path, declared, RESCALING), maker)
    assert "PROBABLY WRONG: pixels from 0 to 255 is better" in diagnostic.text
    option = diagnostic.text.split("Try --preprocess ")[1].split(";")[0]
    (again,) = preprocessing_selftest(load(tmp_path, option, RESCALING), maker)
    assert "declared 100.0%" in again.text


@pytest.mark.parametrize("declared", ["none", "imagenet", "cifar"])
def test_a_right_declaration_is_not_doubted(tmp_path: Path, declared: str) -> None:
    loaded = load(tmp_path, declared)
    (diagnostic,) = preprocessing_selftest(loaded, split_maker(loaded), n=150)
    assert diagnostic.severity == "info"
    assert diagnostic.text.startswith("accuracy on 150 samples: declared 100.0%; ")


def test_an_alternative_that_is_far_behind_is_followed_no_further(tmp_path: Path) -> None:
    loaded = load(tmp_path, "none")
    (diagnostic,) = preprocessing_selftest(loaded, split_maker(loaded))
    assert "blue first" in diagnostic.text
    said = dict(
        part.rsplit(" ", 1) if part[-1] == "%" else (part, "") for part in diagnostic.text.split("; ")[1].split(", ")
    )
    assert any("(of the first 32)" in part for part in said)
    tied = SplitMaker(np.full(len(IMAGES), 4))  # a class that is never answered: all are wrong throughout
    (diagnostic,) = preprocessing_selftest(loaded, tied)
    assert "of the first" not in diagnostic.text


def test_random_labels_raise_no_alarm(tmp_path: Path) -> None:
    """Under the null each of 40 runs warns with at most 1 %: 5 or more warnings would have a probability below 1e-4."""
    loaded = load(tmp_path, "none")
    alarms = 0
    for seed in range(40):
        maker = SplitMaker(np.random.default_rng(seed).integers(0, 4, len(IMAGES)))
        (diagnostic,) = preprocessing_selftest(loaded, maker)
        alarms += diagnostic.severity == "warning"
    assert alarms < 5


def test_a_few_samples_prove_nothing(tmp_path: Path) -> None:
    maker = split_maker(load(tmp_path, "imagenet"))
    (diagnostic,) = preprocessing_selftest(load(tmp_path, "none"), maker, n=5)
    assert diagnostic.severity == "info"
    assert preprocessing_selftest(load(tmp_path, "none"), maker, n=0) == ()


def test_pixels_that_a_network_does_not_take_are_no_alternative_and_no_defect(tmp_path: Path) -> None:
    looked_up = "nn.functional.embedding((x * 255).round().long(), torch.arange(256.0)[:, None]).flatten(1)"
    looking_up = CODE.replace("torch.nn.functional.interpolate(x, (8, 8)).flatten(1)", looked_up)
    loaded = load(tmp_path, "none", looking_up)
    (diagnostic,) = preprocessing_selftest(loaded, split_maker(loaded), native_shape=(3, 8, 8))
    assert diagnostic.severity == "info"
    assert "declared 100.0%; blue first" in diagnostic.text
    assert "0.5" not in diagnostic.text


def test_what_is_declared_is_not_compared_with_itself(tmp_path: Path) -> None:
    names = {alternative.name for alternative in alternatives(load(tmp_path, "imagenet").preprocessing, (3, 8, 8))}
    assert names == {
        "no normalisation", "mean and deviation 0.5", "CIFAR statistics", "pixels from 0 to 255", "blue first",
    }  # fmt: skip


@pytest.mark.parametrize("counts", [(0, 0), (0, 8), (3, 9), (10, 10), (40, 20)])
def test_mcnemar_against_scipy(counts: tuple[int, int]) -> None:
    lost, gained = counts
    first = np.array([True] * lost + [False] * gained + [True] * 5)
    second = np.array([False] * lost + [True] * gained + [True] * 5)
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(first, second) == pytest.approx(expected)
