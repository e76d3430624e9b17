"""Real third-party checkpoints whose truth is known."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import pad

SHARED = Path(__file__).parents[3].parent / "shared"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the real checkpoints and data sets are not beside the project"),
]


class Block(nn.Module):
    """A basic block with the option-A shortcut of He et al. 2015."""

    def __init__(self, before, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.planes = planes

    def forward(self, values):
        found = self.bn2(self.conv2(self.bn1(self.conv1(values)).relu()))
        if values.shape != found.shape:
            values = pad(values[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))
        return (found + values).relu()


class ResNet20(nn.Module):
    """With the normalisation that the checkpoint was trained with inside."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for stage in (1, 2, 3):
            blocks = [Block(widths[stage - 1] if first else widths[stage], widths[stage], 1 + (first and stage > 1))
                      for first in (True, False, False)]  # fmt: skip
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, pixels):
        values = self.bn1(self.conv1((pixels - self.mean) / self.std)).relu()
        return self.linear(self.layer3(self.layer2(self.layer1(values))).mean(dim=(2, 3)))


def cnn_a():
    """Adversarially trained at 2/255; normalisation inside."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


class Normalised(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))

    def forward(self, pixels):
        return self.model((pixels - self.mean) / 0.225)


def cifar(n):
    table = pq.read_table(SHARED / "data/cifar10/test.parquet").slice(0, n).to_pylist()
    images = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in table]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2)).float() / 255, torch.tensor(
        [row["label"] for row in table]
    )


def test_undefended_resnet20_has_no_robust_accuracy_at_8_255(audited):
    model = ResNet20()
    stored = torch.load(SHARED / "checkpoints/cifar10_resnet/resnet20-12fca82f.th", weights_only=True)
    model.load_state_dict({name.removeprefix("module."): value for name, value in stored["state_dict"].items()})
    pixels, labels = cifar(64)
    found = audited(model, pixels, labels, classes=10, norms="linf", eps_linf="8/255", samples=64)
    assert found.measured("clean_accuracy").value > 0.65  # 81 % on these re-encoded images; 3 standard errors below
    assert found.measured("robust_accuracy", "linf")["8/255"].value <= 0.02
    assert found.controls["grey-radius-linf"].passed
    assert not found.codes


def test_adversarially_trained_net_keeps_what_was_published(audited):
    # Published PGD upper bound at 2/255 on these 200 images: 50.0 % (recalled, hence the width), clean 71.5 %.
    folder = SHARED / "checkpoints/abcrown"
    model = cnn_a()
    stored = torch.load(folder / "cifar_cnn_a_adv.model", weights_only=True)
    stored = stored.get("state_dict", stored)
    model.load_state_dict(stored[0] if isinstance(stored, list) else stored)
    pixels = torch.from_numpy(np.load(folder / "datasets_sdp_cifar_X_sdp.npy").transpose(0, 3, 1, 2).copy()).float()
    labels = torch.from_numpy(np.load(folder / "datasets_sdp_cifar_y_sdp.npy")).long()
    found = audited(Normalised(model), pixels.clamp(0, 1), labels, classes=10, norms="linf", eps_linf="2/255", steps=20)
    assert found.measured("clean_accuracy").value == pytest.approx(0.715, abs=0.006)
    assert 0.455 <= found.measured("robust_accuracy", "linf")["2/255"].value <= 0.56  # never below the certified share
    assert found.controls["grey-radius-linf"].passed
