"""Real checkpoints by other people: found, stripped and loaded strictly, with the accuracies that are known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from audit.api import DataSplit
from audit.errors import SubjectError
from audit.loading.checks import check_subject
from audit.loading.models import LoadedSubject, ModelRequest, load_subject
from audit.loading.selftest import preprocessing_selftest
from tests import architectures
from tests.splits import array_split

CHECKPOINTS = Path(__file__).parents[4] / "shared" / "checkpoints"
CODE = Path(architectures.__file__)
CIFAR_CNN = "mean=0.485,0.456,0.406/std=0.225"
RESNET20 = "cifar10_resnet/resnet20-12fca82f.th"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="the real checkpoints are not beside the project"),
]


def load(file: str, preprocess: str = "auto", factory: str | None = None) -> LoadedSubject:
    native = (1, 28, 28) if "mnist" in file else (3, 32, 32)
    spec = f"py:{CODE}:{factory or architectures.FACTORIES[file].__name__}"
    request = ModelRequest(spec, weights=CHECKPOINTS / file, preprocess=preprocess, allow_code=True)
    return load_subject(request, native_shape=native, device=torch.device("cpu"))


def split(name: str) -> DataSplit:
    """200 exact test images, stored as (n, h, w, c) in [0, 1]."""
    images = np.load(CHECKPOINTS / "abcrown" / f"datasets_sdp_{name}_X_sdp.npy").astype(np.float32)
    labels = np.load(CHECKPOINTS / "abcrown" / f"datasets_sdp_{name}_y_sdp.npy").astype(np.int64)
    return array_split(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels)


def accuracy(loaded: LoadedSubject, data: DataSplit) -> float:
    batch = data.batch(0, len(data))
    with torch.no_grad():
        return float((loaded.subject.logits(batch.pixels).argmax(1) == batch.labels).double().mean())


@pytest.mark.parametrize("file", architectures.FACTORIES)
def test_every_checkpoint_loads_strictly_and_behaves(file: str) -> None:
    loaded = load(file)
    assert loaded.subject.num_classes == 10
    assert loaded.subject.output == "logits"
    codes = {
        diagnostic.code for diagnostic in check_subject(loaded.subject, split("mnist" if "mnist" in file else "cifar"))
    }
    assert codes <= {"zero_gradient", "saturated"}


def test_the_prefix_of_resnet20_is_found() -> None:
    notes = load(RESNET20).notes
    assert "weights are taken from `state_dict` of the file" in notes
    assert "prefix `module.` is stripped from the keys" in notes


@pytest.mark.parametrize(
    ("file", "preprocess", "data", "right"),
    [
        ("abcrown/cifar_cnn_a_adv.model", CIFAR_CNN, "cifar", 143),
        ("abcrown/mnist_cnn_a_adv.model", "none", "mnist", 195),
    ],
)
def test_known_accuracies(file: str, preprocess: str, data: str, right: int) -> None:
    """71.5 % and 97.5 % of the 200 images."""
    assert accuracy(load(file, preprocess), split(data)) * 200 == pytest.approx(right)


def test_the_selftest_finds_the_normalisation_of_resnet20() -> None:
    data = split("cifar")
    (diagnostic,) = preprocessing_selftest(load(RESNET20, "none"), lambda _: data)
    assert diagnostic.severity == "warning"
    assert "PROBABLY WRONG: " in diagnostic.text
    (diagnostic,) = preprocessing_selftest(load(RESNET20, "imagenet"), lambda _: data)
    assert diagnostic.severity == "info"
    assert accuracy(load(RESNET20, "imagenet"), data) * 200 == pytest.approx(185)  # 92.5 %; 91.78 % of all 10,000


def test_the_wrong_architecture_is_named() -> None:
    with pytest.raises(SubjectError, match="Likely cause: the same layers in another size"):
        load("abcrown/cifar_base.pth", factory="cifar_cnn_a")
    with pytest.raises(SubjectError, match="another architecture: only 0 of"):
        load(RESNET20, factory="cifar_cnn_a")


@pytest.mark.parametrize("file", ["resnet_2b.onnx", "vit_ibp_3_3_8.onnx", "Convnet_maxpool.onnx"])
def test_onnx_files_are_named(file: str) -> None:
    request = ModelRequest(f"py:{CODE}:resnet20", weights=CHECKPOINTS / "onnx" / file, allow_code=True)
    with pytest.raises(SubjectError, match="looks like an ONNX model"):
        load_subject(request, native_shape=(3, 32, 32), device=torch.device("cpu"))
