"""ONNX files by other people: the right normalisation of each, and the accuracy of the same network in torch.

The images are 200 of each data set's test images, exact. What a network expects was found by accuracy under every
usual normalisation. Several give the same count for resnet_2b (CIFAR's statistics), cifar_base_kw (ImageNet's
deviations) and the ViT (ImageNet's); for the ViT those of its benchmark's own script were taken.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

from audit.loading.checks import check_subject
from audit.loading.models import LoadedSubject, ModelRequest, load_subject
from audit.loading.onnx_network import BlackBox
from audit.loading.weights import read_weights
from tests.architectures import cifar_base, resnet2b
from tests.audit.cli import command
from tests.audit.loading.test_shared_checkpoints import CHECKPOINTS, accuracy, split

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx2torch")
pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="the real checkpoints are not beside the project"),
]
FILES = {
    "resnet_2b": ("cifar", "mean=0.4914,0.4822,0.4465/std=0.2471,0.2435,0.2616", 148, 112_006),
    "cifar_base_kw": ("cifar", "mean=0.485,0.456,0.406/std=0.225", 116, 105_966),
    "vit_ibp_3_3_8": ("cifar", "mean=0.4914,0.4822,0.4465/std=0.2023,0.1994,0.2010", 130, 67_594),
    "mnist-net_256x2": ("mnist", "none", 198, 269_322),
    "Convnet_maxpool": ("mnist", "none", 195, 11_690),
}
"""Of each file: its data, its normalisation, how many of 200 images it gets right, and its number of parameters."""
MNIST = "mean=0.1307/std=0.3081"
OTHERWISE = [
    ("resnet_2b", "none", 49), ("resnet_2b", "mean=0.4914,0.4822,0.4465/std=0.2023,0.1994,0.2010", 143),
    ("cifar_base_kw", "none", 23), ("cifar_base_kw", "cifar", 112),
    ("vit_ibp_3_3_8", "none", 34), ("vit_ibp_3_3_8", "cifar", 125),
    ("mnist-net_256x2", MNIST, 69), ("Convnet_maxpool", MNIST, 41),
]  # fmt: skip
"""How many images each gets right with another normalisation."""


def load(name: str, query: str = "", preprocess: str | None = None) -> LoadedSubject:
    data, right, *_ = FILES[name]
    native = (1, 28, 28) if data == "mnist" else (3, 32, 32)
    request = ModelRequest(f"onnx:{CHECKPOINTS}/onnx/{name}.onnx{query}", preprocess=preprocess or right)
    return load_subject(request, native_shape=native, device=torch.device("cpu"))


def initialisers(name: str) -> dict[str, torch.Tensor]:
    model = onnx.load(CHECKPOINTS / "onnx" / f"{name}.onnx")
    return {held.name: torch.from_numpy(onnx.numpy_helper.to_array(held).copy()) for held in model.graph.initializer}


@pytest.mark.parametrize("name", FILES)
def test_accuracy_and_behaviour(name: str) -> None:
    data, _, right, parameters = FILES[name]
    loaded = load(name)
    assert loaded.subject.access == {"weights", "gradients", "logits", "labels"}
    assert loaded.info.parameters == parameters
    assert loaded.subject.num_classes == 10
    assert check_subject(loaded.subject, split(data)) == ()
    assert accuracy(loaded, split(data)) * 200 == pytest.approx(right)
    black_box = load(name, "?as=blackbox")
    assert isinstance(black_box.subject.model.network.graph, BlackBox)  # type: ignore[union-attr]
    assert accuracy(black_box, split(data)) * 200 == pytest.approx(right)


@pytest.mark.parametrize(("name", "preprocess", "right"), OTHERWISE)
def test_with_another_normalisation_they_are_worse(name: str, preprocess: str, right: int) -> None:
    data, _, best, _ = FILES[name]
    assert accuracy(load(name, preprocess=preprocess), split(data)) * 200 == pytest.approx(right)
    assert right < best


@pytest.mark.parametrize(
    ("name", "file", "factory"),
    [("resnet_2b", "resnet2b.pth", resnet2b), ("cifar_base_kw", "cifar_base.pth", cifar_base)],
)
def test_they_are_the_torch_checkpoints(name: str, file: str, factory: type[nn.Module]) -> None:
    """Every tensor is bit-identical to the `.pth` of the same network, and so are the predictions."""
    content = read_weights(CHECKPOINTS / "abcrown" / file).content
    tensors = content.get("state_dict", content)  # type: ignore[attr-defined]
    tensors = tensors[0] if isinstance(tensors, list) else tensors
    held = initialisers(name)
    assert held.keys() == tensors.keys()
    assert all(torch.equal(held[key], tensors[key]) for key in held)

    network = factory()
    network.load_state_dict(tensors)
    assert_same(name, network.eval())


def assert_same(name: str, network: nn.Module) -> None:
    """Within float32 of the network, on the images and on black ones."""
    loaded = load(name)
    pixels = split(FILES[name][0]).batch(0, 200).pixels
    pixels = torch.cat([pixels, torch.zeros_like(pixels[:1])])
    normalised = (pixels - loaded.subject.model.mean) / loaded.subject.model.std  # type: ignore[operator]
    with torch.no_grad():
        expected, found = network(normalised), loaded.subject.logits(pixels)
    assert float((expected - found).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert torch.equal(expected.argmax(1), found.argmax(1))


def test_mnist_net_by_hand() -> None:
    held = initialisers("mnist-net_256x2")
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    names = {1: "layers.0", 3: "layers.2", 5: "layers.4"}
    network.load_state_dict(
        {f"{place}.{kind}": held[f"{name}.{kind}"] for place, name in names.items() for kind in ("weight", "bias")}
    )
    assert_same("mnist-net_256x2", network)


def test_convnet_maxpool_by_hand() -> None:
    held = initialisers("Convnet_maxpool")
    network = nn.Sequential(
        nn.Conv2d(1, 32, 2), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(1152, 10)
    )  # fmt: skip
    names = {0: "conv1.0", 4: "out"}
    network.load_state_dict(
        {f"{place}.{kind}": held[f"{name}.{kind}"] for place, name in names.items() for kind in ("weight", "bias")}
    )
    assert_same("Convnet_maxpool", network)


class Transformer(nn.Module):
    """`vit_ibp_3_3_8` written by hand: three layers of three heads, batch normalisation instead of layer's."""

    def __init__(self, held: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.held = held
        matrices = iter(sorted((name for name in held if name.startswith("onnx::MatMul")), key=lambda n: int(n[13:])))
        roles = ("query", "key", "value", "out", "up", "down")
        self.matrices = [{role: held[next(matrices)] for role in roles} for _ in range(3)]

    def normal(self, values: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = self.held[f"{name}.running_mean"], self.held[f"{name}.running_var"]
        return (values - mean) / (variance + 1e-5).sqrt() * self.held[f"{name}.weight"] + self.held[f"{name}.bias"]

    def attention(self, tokens: torch.Tensor, layer: int) -> torch.Tensor:
        matrices, name = self.matrices[layer], f"1.{layer}.0.fn.1"
        values = self.normal(tokens, f"1.{layer}.0.fn.0.norm")
        query, key, value = (
            (values @ matrices[role] + self.held[f"{name}.{role}.bias"]).unflatten(2, (3, 16)).transpose(1, 2)
            for role in ("query", "key", "value")
        )
        weights = (query @ key.transpose(2, 3) / 4).softmax(3)
        return (weights @ value).transpose(1, 2).flatten(2) @ matrices["out"] + self.held[f"{name}.out.bias"]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = F.conv2d(images, self.held["0.projection.weight"], self.held["0.projection.bias"], stride=8)
        token = self.held["0.cls_token"].reshape(1, 1, 48).expand(len(images), 1, 48)
        tokens = torch.cat([token, patches.flatten(2).transpose(1, 2)], 1) + self.held["0.positions"]
        for layer, matrices in enumerate(self.matrices):
            tokens = tokens + self.attention(tokens, layer)
            name = f"1.{layer}.1.fn"
            hidden = (self.normal(tokens, f"{name}.0.norm") @ matrices["up"] + self.held[f"{name}.1.0.bias"]).relu()
            tokens = tokens + hidden @ matrices["down"] + self.held[f"{name}.1.3.bias"]
        return self.normal(tokens.mean(1), "2.1") @ self.held["2.2.weight"].T + self.held["2.2.bias"]


def test_vit_by_hand() -> None:
    assert_same("vit_ibp_3_3_8", Transformer(initialisers("vit_ibp_3_3_8")))


@pytest.mark.parametrize("name", ["vit_ibp_3_3_8", "mnist-net_256x2"])
def test_they_can_be_exported(name: str) -> None:
    """Which a bound engine needs; the transformer's shape arithmetic must be gone for it."""
    loaded = load(name)
    pixels = split(FILES[name][0]).batch(0, 4).pixels
    exported = torch.export.export(loaded.subject.model, (pixels,)).module()
    torch.testing.assert_close(exported(pixels), loaded.subject.logits(pixels))


@pytest.mark.parametrize("name", FILES)
def test_describe(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data, preprocess, right, _ = FILES[name]
    arrays = ",".join(f"{CHECKPOINTS}/abcrown/datasets_sdp_{data}_{part}_sdp.npy" for part in "Xy")
    words = ["--model", f"onnx:{CHECKPOINTS}/onnx/{name}.onnx", "--preprocess", preprocess, "--device", "cpu"]
    ended = command.audit(monkeypatch, capsys, "describe", *words, "--data", f"npz:{arrays}")
    assert ended.code == 0, ended.err
    assert f"{np.round(right / 2, 1)}% of 200 images" in ended.out
    assert "is converted to torch by onnx2torch" in ended.out
