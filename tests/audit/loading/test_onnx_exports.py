"""Networks as torch's own exporter writes them come back as the networks that they were."""

import warnings

import pytest
import torch

from audit.loading.model_spec import FULL_ACCESS
from tests.user_models import load

pytest.importorskip("onnx2torch")
timm = pytest.importorskip("timm")


def exported(folder, name, dynamic):
    """A small timm network with seeded weights, and the file that `torch.onnx.export` makes of it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        network = timm.create_model(name, pretrained=False, num_classes=5).eval()
        for parameter in network.get_classifier().parameters():
            torch.nn.init.normal_(parameter, generator=torch.default_generator)
    shape = network.default_cfg["input_size"]
    path = folder / f"{name}.onnx"
    axes = {"dynamic_axes": {"images": {0: "n"}, "scores": {0: "n"}}} if dynamic else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(1, *shape),), str(path), dynamo=False, opset_version=17, input_names=["images"],
            output_names=["scores"], **axes,
        )  # fmt: skip
    return network, shape, path


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_they_come_back(tmp_path, name, dynamic):
    """Gradients too: of the file's network and of the one that was exported, within float32 of one another."""
    network, shape, path = exported(tmp_path, name, dynamic)
    loaded = load(f"onnx:{path}", native_shape=tuple(shape), preprocess="mean=0.5/std=0.25")

    assert loaded.subject.access == FULL_ACCESS
    assert not any("at a time" in text for text in loaded.notes)
    assert any("batch of 1 is freed" in text for text in loaded.notes) is not dynamic
    pixels = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, expected = loaded.subject.logits(pixels), network((pixels - 0.5) / 0.25)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
    gradients = [torch.autograd.grad(scores[:, 0].sum(), pixels)[0] for scores in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4 * float(gradients[1].abs().max()))
    torch.export.export(loaded.subject.model, (pixels.detach(),))
