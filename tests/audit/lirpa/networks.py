"""Small networks whose bounds are looked at."""

import torch
from torch import nn


def perceptron(seed=0, width=30, classes=3):
    """Two hidden layers of ReLUs on 2x4x4 images."""
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(32, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    ).eval()
    with torch.no_grad():
        for layer in (module[1], module[3]):  # as trained networks, and not as initialised ones
            layer.weight.mul_(3)
            layer.bias.mul_(3)
    return module


class Residual(nn.Module):
    """Convolutions with statistics, a shortcut and an average, on 2x8x8 images."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(2, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1))
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            self.norm.weight.normal_()
        self.eval()

    def forward(self, pixels):
        first = self.norm(self.stem(pixels)).relu()
        return self.head((self.block(first) + first).relu().mean((2, 3)))


class Attention(nn.Module):
    """One block of attention over the columns of 2x4x4 images."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.qkv, self.head, self.norm = nn.Linear(8, 24), nn.Linear(8, 3), nn.LayerNorm(8)
        self.eval()

    def forward(self, pixels):
        tokens = pixels.flatten(1, 2).transpose(1, 2)
        query, key, value = self.qkv(self.norm(tokens)).chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.head((mixed + tokens).mean(1))
