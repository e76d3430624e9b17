"""The positive control: networks of the subject's form whose largest certifiable radius is known in closed form.

A linear classifier W x + b keeps its answer y as far as the least of (z_y - z_j) / |w_y - w_j|_q over j, with q = 1 in
Linf and 2 in L2. Its bounds are exact, so it must be certified just below that radius and never above it. The same
function written as relu(z) - relu(-z) has relaxations to get wrong: it must be certified at a small share of the
radius, and never above it either.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audit.api import PositiveControl, RunContext, Subject
from audit.lirpa.certify import Certifier, Norm
from audit.lirpa.lowering import lower
from probes.certified.config import CertifiedConfig

IMAGES, CLASSES = 8, 10
"""Of the control; of fewer classes where the subject has fewer, and no more, as time grows with them."""
BELOW, ABOVE = 0.999, 1.001
SHARE = 0.1
"""Of the radius, at which the folded network must be certified by CROWN."""


class Linear(nn.Module):
    """A linear classifier of images."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return nn.functional.linear((pixels - 0.5).flatten(1), self.weight)


class Folded(Linear):
    """The same function, by two ReLUs."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, classes)."""
        logits = super().forward(pixels)
        return logits.relu() - (-logits).relu()


def known_truth(subject: Subject, norm: Norm, config: CertifiedConfig, ctx: RunContext) -> PositiveControl:
    """Whether certificates on both networks end where they must."""
    generator = ctx.torch_generator(f"control/{norm}")
    shape, classes = subject.input_shape, min(subject.num_classes, CLASSES)
    weight = torch.randn(classes, torch.Size(shape).numel(), generator=generator)
    images = (0.5 + 0.02 * torch.rand(IMAGES, *shape, generator=generator)).double()
    logits = nn.functional.linear((images - 0.5).flatten(1), weight.double())
    labels = logits.argmax(1)
    radius = _exact(logits, labels, weight.double(), norm)
    found = {}
    for name, network in (("linear", Linear(weight)), ("folded", Folded(weight))):
        graph = lower(network, shape).bound(torch.float64)
        certifier = Certifier(graph, norm, config.methods, config.steps, None)
        below = {"linear": BELOW, "folded": SHARE}[name]
        for side, share in (("below", below), ("above", ABOVE)):
            slack = torch.zeros(IMAGES, dtype=torch.float64)
            found[name, side] = int(certifier.certified(images, labels, radius * share, slack).sum())
    reached = found["folded", "below"] == IMAGES or "crown" not in config.methods
    passed = found["linear", "below"] == IMAGES and reached
    passed &= found["linear", "above"] == found["folded", "above"] == 0
    return PositiveControl(
        name=f"known-radius-{norm}",
        passed=passed,
        expected=f"{IMAGES} of {IMAGES} images certified at {BELOW:g} of the exact radius of a linear classifier, none "
        f"at {ABOVE:g} of it, also where the same function is written with ReLUs ({IMAGES} at {SHARE:g} by CROWN)",
        observed=f"{found['linear', 'below']} below and {found['linear', 'above']} above; with ReLUs "
        f"{found['folded', 'below']} and {found['folded', 'above']}",
    )


def _exact(logits: Tensor, labels: Tensor, weight: Tensor, norm: Norm) -> Tensor:
    """The radius (n,) at which a linear classifier's answer can first change."""
    margins = logits.gather(1, labels[:, None]) - logits
    lengths = (weight[labels][:, None] - weight).norm(p=1 if norm == "linf" else 2, dim=2)
    lengths[torch.arange(len(labels)), labels] = 1
    ratios = margins / lengths
    ratios[torch.arange(len(labels)), labels] = torch.inf
    least: Tensor = ratios.amin(1)
    return least
