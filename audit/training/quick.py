"""Small networks that a probe trains on the data it examines, in place of the subject: seconds to minutes on a CPU.

They are judges of the data and no models to deploy: what matters is that they never saw what they judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from audit.api import DataSplit, FloatArray, Inconclusive, IntArray, RunContext
from audit.training.config import TrainingConfig
from audit.training.loop import Task
from audit.training.recipes import filled, standard
from audit.training.units import trained_weights

ASKED_AT_ONCE = 256


class QuickNet(nn.Module):
    """Four convolutions, the mean over the image, and a linear layer.

    Attributes:
        trunk: pixels (n, c, h, w) in [0, 1] to features (n, 8 width).
        head: features to logits.
    """

    def __init__(self, channels: int, side: int, classes: int, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm2d(channels, affine=False)]
        given, cells = channels, side
        for wide in (width, 2 * width, 4 * width, 8 * width):
            stride = 2 if cells >= 64 or (given > channels and cells >= 8) else 1
            layers += [nn.Conv2d(given, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            given, cells = wide, cells // stride
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(given, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits: Tensor = self.head(self.trunk(pixels))
        return logits


def quick_net(split: DataSplit, classes: int, ctx: RunContext, purpose: str, width: int = 16) -> QuickNet:
    """An untrained network for the split's images, with initial values by the run's seed and a purpose."""
    channels, height, size = split.take([0]).pixels.shape[1:]
    seed = int(torch.randint(2**31, (), generator=ctx.shared().torch_generator(f"quick/{purpose}")))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return QuickNet(channels, min(height, size), classes, width)


def fitted(task: Task, ctx: RunContext) -> nn.Module:
    """What a task makes of its model, as a unit of the run; see `trained_weights`.

    Raises:
        Inconclusive: `budget` when time ended before it was trained.
        AuditError: when it cannot be trained.
    """
    weights = trained_weights(task, ctx)
    if weights is None:
        raise Inconclusive("budget", f"The budget ended before {task.name} was trained. Raise --budget.")
    return filled(task.model, weights, ctx.device)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a network says of some images.

    Attributes:
        logits: (n, classes) float32.
        features: (n, d) float32, before the last layer.
    """

    logits: FloatArray
    features: FloatArray


def answers(net: QuickNet, split: DataSplit, ctx: RunContext) -> Answers:
    """Asked of every image of the split, in its order."""
    logits, features = [], []
    net = net.to(ctx.device).eval()
    with torch.inference_mode():
        for start in range(0, len(split), ASKED_AT_ONCE):
            found = net.trunk(split.batch(start, start + ASKED_AT_ONCE).pixels.to(ctx.device))
            features.append(found.float().cpu())
            logits.append(net.head(found).float().cpu())
    return Answers(torch.cat(logits).numpy(), torch.cat(features).numpy())


def folds_of(labels: IntArray, folds: int, rng: np.random.Generator) -> IntArray:
    """A fold (n,) for each sample, with equal shares of every class in each."""
    found = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        found[places] = (np.arange(len(places)) + rng.integers(folds)) % folds
    return found


def cross_fitted(
    split: DataSplit, classes: int, folds: int, config: TrainingConfig, ctx: RunContext, name: str
) -> tuple[Answers, Sequence[QuickNet], IntArray]:
    """Every image is judged by a network that was trained on the other folds alone.

    Features of different folds are of different networks, and comparable within a fold only.

    Returns:
        The answers, row i of position i of the split; the network of each fold; and the fold (n,) of each position.

    Raises:
        Inconclusive: `budget` when time ended before all were trained.
        AuditError: when they cannot be trained.
    """
    labels = split.labels[split.order]
    fold = folds_of(labels, folds, ctx.shared().rng(f"folds/{split.digest}/{folds}"))
    nets: list[QuickNet] = []
    logits, features = None, None
    for place in range(folds):
        rest = replace(split, order=split.order[fold != place])
        mine = np.flatnonzero(fold == place)
        net = fitted(standard(quick_net(split, classes, ctx, f"{name}/{place}"), rest, config, f"{name}-{place}"), ctx)
        assert isinstance(net, QuickNet)
        said = answers(net, replace(split, order=split.order[mine]), ctx)
        if logits is None or features is None:
            logits = np.empty((len(split), classes), dtype=np.float32)
            features = np.empty((len(split), said.features.shape[1]), dtype=np.float32)
        logits[mine], features[mine] = said.logits, said.features
        nets.append(net)
    assert logits is not None
    assert features is not None
    return Answers(logits, features), nets, fold
