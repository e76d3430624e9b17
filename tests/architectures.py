"""Architectures of the real checkpoints, and small ones for tests; each factory takes no argument."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn


class Shortcut(nn.Module):
    """Option A of He et al. 2015: every second pixel, and zeros for the new channels."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.pad = planes // 4

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if stride == 1 and width_in == width else Shortcut(width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """He et al. 2015, section 4.2: 6n+2 layers in three stages of 16, 32 and 64 channels."""

    def __init__(self, blocks: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(out.mean((2, 3)))


class PlainBlock(nn.Module):
    """A basic block without batch normalisation, with biases."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        changes = stride != 1 or width_in != width
        self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride)) if changes else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResNet2b(nn.Module):
    """`resnet_2b` of VNN-COMP 2021."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(PlainBlock(8, 16, 2), PlainBlock(16, 16, 1))
        self.linear1 = nn.Linear(1024, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.flatten(self.layer1(F.relu(self.conv1(x))), 1)
        return self.linear2(F.relu(self.linear1(out)))


def two_convolutions(channels: int, widths: tuple[int, int], flat: int) -> nn.Sequential:
    """conv4x4s2p1, relu, conv4x4s2p1, relu, flatten, fc100, relu, fc10."""
    return nn.Sequential(
        nn.Conv2d(channels, widths[0], 4, 2, 1), nn.ReLU(),
        nn.Conv2d(widths[0], widths[1], 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(flat, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def resnet20() -> nn.Module:
    return CifarResNet()


def resnet2b() -> nn.Module:
    return ResNet2b()


def cifar_cnn_a() -> nn.Module:
    return two_convolutions(3, (16, 32), 2048)


def mnist_cnn_a() -> nn.Module:
    return two_convolutions(1, (16, 32), 1568)


def cifar_base() -> nn.Module:
    return two_convolutions(3, (8, 16), 1024)


def mnist_6_100() -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(784, 100), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Linear(100, 100), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(100, 10))


def tiny(num_classes: int = 3, channels: int = 3, width: int = 4) -> nn.Module:
    """A small network for any image size."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes),
    )  # fmt: skip


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "cifar10_resnet/resnet20-12fca82f.th": resnet20,
    "abcrown/cifar_cnn_a_adv.model": cifar_cnn_a,
    "abcrown/mnist_cnn_a_adv.model": mnist_cnn_a,
    "abcrown/resnet2b.pth": resnet2b,
    "abcrown/mnist_6_100_nat.pth": mnist_6_100,
    "abcrown/cifar_base.pth": cifar_base,
    "mnist_robust/pgd_madry.pth": mnist_cnn_a,
}
"""Factory of each checkpoint, by its path under `checkpoints/`."""
