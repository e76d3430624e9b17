"""Worst-case images inside a training step: quick searches whose only use is to train on what they find.

Source: Madry et al. 2018, section 2.1, arXiv 1706.06083 (PGD); Wong, Rice & Kolter 2020, section 4, arXiv 2001.03994
(a single step from a random start).
Differs from source: the model is in evaluation mode while searched, so that batch statistics are those of training
    images alone; the start is uniform in the ball of any norm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from audit.attacks import balls
from audit.errors import TrainingError
from audit.toolkit.norms import Norm

Forward = Callable[[Tensor], Tensor]
"""From pixels to logits."""


def worst_case(
    forward: Forward,
    pixels: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    eps: float,
    steps: int,
    step: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Images of high cross-entropy in the ball and the box.

    Args:
        forward: the model in evaluation mode.
        pixels: (n, c, h, w) in [0, 1].
        labels: (n,).
        norm: of the ball.
        eps: its radius.
        steps: taken along the gradient.
        step: length of one, times eps.
        generator: on the CPU, for a start anywhere in the ball; None starts at the images.

    Raises:
        TrainingError: when no gradient reaches the pixels.
    """
    radius = torch.full((len(pixels),), eps, device=pixels.device)
    images = pixels
    if generator is not None:
        images = balls.projected(_started(pixels, norm, eps, generator), pixels, radius, norm)
    for _ in range(steps):
        images = images.detach().requires_grad_(True)
        loss = cross_entropy(forward(images).float(), labels, reduction="sum")
        gradient = torch.autograd.grad(loss, images, allow_unused=True)[0] if loss.requires_grad else None
        if gradient is None:
            raise TrainingError(
                "Expected logits that depend on the pixels in a way that can be differentiated, got none, so that no "
                "worst-case images can be looked for. Train one that does not cut the gradient off (no_grad, detach)."
            )
        moved = images.detach() + step * eps * balls.steepest(gradient, norm, images.detach(), pixels)
        images = balls.projected(moved, pixels, radius, norm)
    return images.detach()


def _started(pixels: Tensor, norm: Norm, eps: float, generator: torch.Generator) -> Tensor:
    """The images moved to somewhere in the ball, uniformly, not yet cut to the box."""
    if norm == "linf":
        change = torch.rand(pixels.shape, generator=generator).mul_(2).sub_(1)
    else:
        change = torch.randn(pixels.shape, generator=generator)
        if norm == "l1":
            change = change.sign() * torch.empty(pixels.shape).exponential_(generator=generator)
        share = torch.rand(len(pixels), generator=generator) ** (1 / pixels[0].numel())
        change = change * balls.column(share / balls.length(change, norm), change)
    return pixels + eps * change.to(pixels.device)
