import math
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from tests.splits import array_split


class Context:
    """Runs where the tests run; random streams by seed and purpose.

    Attributes:
        stop: step at which a user interrupts, or None.
        clock: seconds left, one an epoch, then the last one.
    """

    device = torch.device("cpu")

    def __init__(self, seed=0, stop=None, clock=(math.inf,)):
        self.seed, self.stop, self.clock, self.said = seed, stop, list(clock), {}

    def torch_generator(self, purpose):
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{purpose}".encode()))

    def seconds_left(self):
        return self.clock.pop(0) if len(self.clock) > 1 else self.clock[0]

    def progress(self, items, what, total=None):
        for place, item in enumerate(items):
            if place == self.stop:
                raise KeyboardInterrupt
            yield item

    def diagnose(self, code, text, severity="warning"):
        self.said[code] = text


@pytest.fixture
def context():
    return Context


@pytest.fixture
def split():
    """400 grey 6x6 images of four classes, each a noisy pattern: easy to learn, and not learnt in one step."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(0.2, 0.8, (4, 1, 6, 6))
    labels = rng.integers(0, 4, 400)
    images = np.clip(patterns[labels] + rng.normal(0, 0.15, (400, 1, 6, 6)), 0, 1)
    return array_split(np.rint(images * 255).astype(np.uint8), labels.astype(np.int64))


@pytest.fixture
def model():
    """A small network with everything whose state could go astray: batch statistics, dropout, a frozen part."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(288, 4)
    )
    network[0].bias.requires_grad_(False)
    return network
