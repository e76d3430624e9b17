"""Real third-party checkpoints: certified accuracy within what was published or measured."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from audit.lirpa.certify import Certifier
from audit.lirpa.lowering import lower
from audit.lirpa.margins import margin_bounds
from audit.lirpa.region import Region
from audit.loading.models import ModelRequest, load_subject
from tests.architectures import FACTORIES

CIFAR = ([0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616])
CHECKPOINTS = Path(__file__).parents[4] / "shared" / "checkpoints"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="the real checkpoints are not beside the project"),
]


class Normalised(nn.Module):
    def __init__(self, model, mean, std):
        super().__init__()
        self.model = stored(model) if isinstance(model, str) else model
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, pixels):
        return self.model((pixels - self.mean) / self.std)


def stored(name):
    """A network with the weights of a file."""
    model, weights = FACTORIES[name](), torch.load(CHECKPOINTS / name, "cpu", weights_only=True)
    weights = weights.get("state_dict", weights)
    model.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    return model.eval()


def converted(name):
    """The network of an ONNX file, as it is loaded."""
    pytest.importorskip("onnx2torch")
    request = ModelRequest(f"onnx:{CHECKPOINTS / 'onnx' / name}")
    return load_subject(request, device=torch.device("cpu"), native_shape=(3, 32, 32)).subject.model


def exact_images(name, n):
    images = np.load(CHECKPOINTS / "abcrown" / f"datasets_sdp_{name}_X_sdp.npy").astype(np.float32)[:n]
    labels = np.load(CHECKPOINTS / "abcrown" / f"datasets_sdp_{name}_y_sdp.npy").astype(np.int64)[:n]
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), torch.from_numpy(labels)


def certified_share(module, name, n, eps, methods, steps=10):
    """Of all n images, the share that is right and certified."""
    pixels, labels = exact_images(name, n)
    graph = lower(module.eval(), tuple(pixels.shape[1:])).bound(torch.float64)
    right = (module(pixels).argmax(1) == labels).nonzero().flatten()
    certifier = Certifier(graph, "linf", methods, steps)
    images, eps = pixels[right].double(), torch.full((len(right),), eps).double()
    return int(certifier.certified(images, labels[right], eps, torch.zeros(len(right))).sum()) / n


def test_cnn_a_is_certified_as_far_as_by_the_sketch():
    # Measured by the sketch of the reference: 40 % of the first 40 images by plain CROWN.
    module = Normalised("abcrown/cifar_cnn_a_adv.model", [0.485, 0.456, 0.406], [0.225] * 3)

    assert certified_share(module, "cifar", 40, 2 / 255, ("crown",)) == pytest.approx(0.4)


@pytest.mark.slow
def test_optimised_slopes_certify_more():
    module = Normalised("abcrown/cifar_cnn_a_adv.model", [0.485, 0.456, 0.406], [0.225] * 3)
    assert certified_share(module, "cifar", 40, 2 / 255, ("crown", "alpha-crown")) > 0.4

    # By the sketch none of the first images of the MNIST network at 0.3.
    module = Normalised("abcrown/mnist_cnn_a_adv.model", [0.0], [1.0])
    assert certified_share(module, "mnist", 8, 0.3, ("crown", "alpha-crown")) > 0.1


@pytest.mark.slow
def test_resnet2b_is_certified_as_published():
    # Published over all 10,000 images: 57.16 % at 1/255 and 26.88 % at 2/255, where 69.25 % are right. The 200 images
    # are a choice of others, 74 % of the first 100 right, so the interval is that of 200 draws, three errors wide.
    module = Normalised("abcrown/resnet2b.pth", *CIFAR)

    for eps, published in ((1 / 255, 0.5716), (2 / 255, 0.2688)):
        error = (published * (1 - published) / 200) ** 0.5
        assert abs(certified_share(module, "cifar", 200, eps, ("crown",)) - published) < 3 * error


def test_the_onnx_file_has_the_bounds_of_the_torch_file():
    pixels, labels = exact_images("cifar", 3)
    images = ((pixels - torch.tensor(CIFAR[0]).view(3, 1, 1)) / torch.tensor(CIFAR[1]).view(3, 1, 1)).double()
    region = Region.ball(images, "linf", 0.5 / 255 / 0.25, -10, 10)
    graphs = [
        lower(model, (3, 32, 32)).bound(torch.float64)
        for model in (stored("abcrown/resnet2b.pth"), converted("resnet_2b.onnx"))
    ]

    for method in ("ibp", "crown-ibp", "crown"):
        with torch.no_grad():
            ours, theirs = (margin_bounds(graph, region, labels, method) for graph in graphs)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_transformer_trained_on_bounds_has_certificates():
    # Trained with interval bounds by the authors of VNN-COMP's transformer benchmark.
    module = Normalised(converted("vit_ibp_3_3_8.onnx"), [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])

    assert certified_share(module, "cifar", 60, 1 / 255, ("ibp", "crown-ibp")) > 0.3
