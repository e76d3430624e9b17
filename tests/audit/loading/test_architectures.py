"""Specs, and the architectures of libraries."""

import socket
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from audit.errors import AuditError, UsageError
from audit.loading.preprocess import Normalisation
from tests.user_models import codes, load


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("resnet18", "Expected a model spec such as timm:NAME?num_classes=10, torchvision:NAME"),
        ("tim:resnet18", "Did you mean timm:?"),
        ("onx:model.onnx", "Did you mean onnx:?"),
        ("script:", "got 'script:' without a name"),
        ("script:nowhere.pt", "Expected a TorchScript archive at nowhere.pt, got nothing there"),
        ("export:nowhere.pt2", "Expected a torch.export (.pt2) archive at nowhere.pt2, got nothing there"),
        ("hf:nowhere", "Expected a folder with config.json at nowhere, got nothing there"),
        ("timm:", "without a name. Name the architecture"),
        ("timm:resnet18?num_classes", "Expected ?name=value&name=value"),
        ("timm:resnet18?num_classes=2&num_classes=3", "each argument once"),
        ("timm:resnet18?pretrained=true", "Nothing is ever downloaded: give the weights as a file with --weights"),
        ("torchvision:resnet18?weights=DEFAULT", "Nothing is ever downloaded"),
        ("py:model.py", "Name the function that returns the model"),
        ("py:model.py:", "Name the function that returns the model"),
        ("timm:resnet18?in_chans=4", "Expected in_chans=1 or in_chans=3 for images, got 4"),
        ("timm:resnt18", "Expected the name of a timm classifier, got 'resnt18'. Close names: resnet18"),
        ("timm:hf-hub:timm/resnet18", "Expected the name of a timm classifier"),
        ("timm:resnet18?colour=3", "unexpected keyword argument 'colour'"),
        ("timm:resnet18.nosuchtag", "nosuchtag"),
        ("torchvision:resnt18", "Expected the name of a torchvision classifier, got 'resnt18'. Close names: resnet18"),
        ("torchvision:fcn_resnet50", "Expected the name of a torchvision classifier"),
        ("torchvision:resnet18?colour=3", "unexpected keyword argument 'colour'"),
    ],
)
def test_wrong_specs_are_explained(spec: str, said: str) -> None:
    with pytest.raises(AuditError) as caught:
        load(spec)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_options_without_a_file() -> None:
    with pytest.raises(UsageError, match="Expected --weights FILE with --weights-key"):
        load("timm:test_resnet", weights_key="model")


def test_timm_with_its_declared_preprocessing() -> None:
    loaded = load("timm:test_resnet?num_classes=5", native_shape=(3, 32, 32))
    subject = loaded.subject
    assert subject.input_shape == (3, 160, 160)
    assert subject.num_classes == 5
    assert loaded.preprocessing.geometry.resize == 168  # floor(160 / 0.95)
    assert loaded.preprocessing.normalisation == Normalisation((0.5,) * 3, (0.5,) * 3)
    assert "images of 32x32 are brought to 160x160, as timm's configuration of test_resnet says" in loaded.notes
    assert loaded.info.checks[0].code == "random_weights"
    assert loaded.info.checks[0].severity == "warning"
    assert loaded.trust_exceptions == ()


def test_timm_in_one_channel_and_another_size() -> None:
    loaded = load("timm:test_vit?num_classes=2&in_chans=1&img_size=32", native_shape=(1, 32, 32))
    assert loaded.subject.input_shape == (1, 32, 32)
    assert loaded.subject.num_classes == 2
    assert loaded.preprocessing.normalisation == Normalisation((0.5,), (0.5,))
    assert any("the average of the channels' statistics" in note for note in loaded.notes)


def test_torchvision_with_its_declared_preprocessing() -> None:
    loaded = load("torchvision:squeezenet1_1", native_shape=None)
    assert loaded.subject.input_shape == (3, 224, 224)
    assert loaded.subject.num_classes == len(loaded.subject.class_names) == 1000
    record = loaded.info.preprocessing
    assert (record["resize"], record["crop"], record["interpolation"]) == (256, [224, 224], "bilinear")
    assert "SqueezeNet1_1_Weights.IMAGENET1K_V1" in str(record["origin"])


def test_torchvision_with_weights_and_a_stated_preprocessing(tmp_path: Path) -> None:
    network = torchvision.models.squeezenet1_1(num_classes=4)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    loaded = load("torchvision:squeezenet1_1?num_classes=4", weights=path, preprocess="cifar", native_shape=(3, 40, 48))
    assert loaded.subject.input_shape == (3, 40, 48)
    assert "random_weights" not in codes(loaded)
    pixels = torch.rand(2, 3, 40, 48)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    expected = network.eval()((pixels - mean[:, None, None]) / std[:, None, None])
    assert torch.allclose(loaded.subject.logits(pixels), expected, atol=1e-5)
    assert [file.name for file in loaded.info.files] == ["weights.safetensors"]


def test_random_weights_are_the_same_each_time() -> None:
    state = torch.random.get_rng_state()
    first, second = (load("timm:test_resnet?num_classes=5") for _ in range(2))
    assert first.subject.digest == second.subject.digest
    assert torch.equal(state, torch.random.get_rng_state())


def test_loading_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load("timm:test_resnet.r160_in1k")
    load("torchvision:squeezenet1_1")
