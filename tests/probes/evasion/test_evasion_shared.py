"""Real third-party checkpoints whose truth is known."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from tests.architectures import FACTORIES

SHARED = Path(__file__).parents[3].parent / "shared"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the real checkpoints and data sets are not beside the project"),
]


class Normalised(nn.Module):
    """A checkpoint of the shared folder with its normalisation inside."""

    def __init__(self, name, std):
        super().__init__()
        self.model = FACTORIES[name]()
        stored = torch.load(SHARED / "checkpoints" / name, "cpu", weights_only=True)
        stored = stored.get("state_dict", stored)
        self.model.load_state_dict({key.removeprefix("module."): value for key, value in stored.items()})
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, pixels):
        return self.model((pixels - self.mean) / self.std)


def cifar(n):
    table = pq.read_table(SHARED / "data/cifar10/test.parquet").slice(0, n).to_pylist()
    images = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in table]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2)).float() / 255, torch.tensor(
        [row["label"] for row in table]
    )


def test_undefended_resnet20_has_no_robust_accuracy_at_8_255(audited):
    model = Normalised("cifar10_resnet/resnet20-12fca82f.th", [0.229, 0.224, 0.225])
    pixels, labels = cifar(64)
    found = audited(model, pixels, labels, classes=10, norms="linf", eps_linf="8/255", samples=64)
    assert found.measured("clean_accuracy").value > 0.65  # 81 % on these re-encoded images; 3 standard errors below
    assert found.measured("robust_accuracy", "linf")["8/255"].value <= 0.02
    assert found.controls["grey-radius-linf"].passed
    assert not found.codes


def test_adversarially_trained_net_keeps_some(audited):
    # The opposite of the net above: clean accuracy is known to be 71.5 % on these 200 images, and training at 2/255
    # must leave a good part of it at 2/255; how much is measured here, not known.
    folder = SHARED / "checkpoints/abcrown"
    model = Normalised("abcrown/cifar_cnn_a_adv.model", [0.225] * 3)
    pixels = torch.from_numpy(np.load(folder / "datasets_sdp_cifar_X_sdp.npy").transpose(0, 3, 1, 2).copy()).float()
    labels = torch.from_numpy(np.load(folder / "datasets_sdp_cifar_y_sdp.npy")).long()
    settings = {"norms": "linf", "eps_linf": "2/255", "steps": 20, "queries": 500}
    found = audited(model, pixels.clamp(0, 1), labels, classes=10, **settings)
    assert found.measured("clean_accuracy").value == pytest.approx(0.715, abs=0.006)
    assert 0.3 < found.measured("robust_accuracy", "linf")["2/255"].value < 0.65
    assert not found.codes
    assert found.controls["grey-radius-linf"].passed
