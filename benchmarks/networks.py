"""Networks that certified training is measured on."""

from torch import nn


def small(channels: int, side: int, classes: int) -> nn.Module:
    """Two convolutions and two layers."""
    cells = 32 * (side // 4) ** 2
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.BatchNorm2d(32),
        nn.ReLU(), nn.Flatten(), nn.Linear(cells, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, classes),
    )  # fmt: skip


def cnn7(channels: int, side: int, classes: int) -> nn.Module:
    """Five convolutions and two layers, with batch normalisation (Shi et al. 2021, arXiv 2103.17268)."""
    layers: list[nn.Module] = []
    given = channels
    for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (128, 1)):
        layers += [nn.Conv2d(given, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
        given = width
    cells = 128 * (side // 2) ** 2
    layers += [nn.Flatten(), nn.Linear(cells, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, classes)]
    return nn.Sequential(*layers)
