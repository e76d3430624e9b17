"""Models whose nearest adversarial example is known in closed form."""

import pytest
import torch
from torch import nn

from audit.attacks import losses
from audit.attacks.rows import Jobs
from tests.probes.evasion.conftest import subject_of


class Linear(nn.Module):
    """Logits are linear in the pixels; everything about them is known."""

    def __init__(self, classes=4, shape=(2, 4, 4), seed=0, scale=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, torch.Size(shape).numel(), generator=generator))
        self.scale = scale

    def forward(self, pixels):
        return self.scale * (pixels.flatten(1) - 0.5) @ self.weight.T

    def nearest(self, pixels, labels, norm):
        """Distance (n,) to the nearest boundary, where the box does not matter; in L1 it does, and is heeded."""
        logits = self(pixels)
        own = logits.gather(1, labels[:, None])
        difference = self.scale * (self.weight[labels][:, None] - self.weight[None])
        if norm == "l1":
            return self._nearest_l1(pixels, labels, (own - logits).detach(), -difference.detach())
        length = difference.abs().sum(dim=2) if norm == "linf" else difference.norm(dim=2)
        ratio = (own - logits) / length.clamp(min=1e-9)
        return ratio.scatter(1, labels[:, None], torch.inf).amin(dim=1).detach()

    @staticmethod
    def _nearest_l1(pixels, labels, gaps, rises):
        """A fractional knapsack: the steepest pixels are moved to the edge of the box, one after the other."""
        flat, found = pixels.flatten(1).double(), []
        for place, label in enumerate(labels.tolist()):
            distances = []
            for gap, rise in zip(gaps[place].double(), rises[place].double(), strict=True):
                order = rise.abs().argsort(descending=True)
                room = torch.where(rise > 0, 1 - flat[place], flat[place])[order]
                gained = (room * rise.abs()[order]).cumsum(0)
                last = int((gained < gap).sum())
                before = gained[last - 1] if last else 0.0
                full = last == len(order)
                distances.append(
                    torch.inf if full else float(room[:last].sum() + (gap - before) / rise.abs()[order][last])
                )
            distances[label] = torch.inf
            found.append(min(distances))
        return torch.tensor(found, dtype=torch.float32)


@pytest.fixture
def linear():
    """Builds a linear subject with images in the middle of the box and their labels: always right."""

    def build(n=40, classes=4, scale=1.0, shape=(2, 4, 4)):
        model = Linear(classes, shape, scale=scale)
        pixels = 0.45 + 0.1 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            labels = model(pixels).argmax(dim=1)
        return model, subject_of(model, shape, classes), pixels, labels

    return build


@pytest.fixture
def jobs_for():
    """One job a sample."""

    def build(subject, pixels, labels, eps=torch.inf, targets=None):
        n = len(labels)
        with torch.no_grad():
            scale = losses.logit_scale(subject.logits(pixels))
        return Jobs(
            sample=torch.arange(n),
            pixels=pixels,
            labels=labels,
            targets=torch.full((n,), -1) if targets is None else targets,
            eps=eps.float() if isinstance(eps, torch.Tensor) else torch.full((n,), eps),
            seeds=torch.arange(n) + 17,
            scale=scale,
            start=pixels,
            warm=torch.zeros(n, dtype=torch.bool),
        )

    return build
