"""Searches through a model: how far a class can be preferred, images bent towards a class, and small triggers.

Source: margins, Wang et al. 2024, MM-BD, arXiv 2205.06900; triggers, Wang et al. 2019, Neural Cleanse, IEEE S&P.
Differs from source: triggers are made on one half of the images and tried on the other; the weight of a trigger's size
moves by halves as soon as four steps agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from audit.api import Inconclusive

MARGIN_RATE, BENDING_RATE, TRIGGER_RATE = 0.02, 0.02, 0.1
BENDING_STEPS, CONFIDENT = 60, 0.5
GOAL = 0.95
"""Share of the images that a trigger is made on which it must lead to its class."""
MOVED, PATIENCE = 1.5, 4
FIRST_WEIGHT = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Trigger:
    """The smallest trigger that was found for a class.

    Attributes:
        size: pixels that it covers, the sum of its mask; all of them where none was found.
        hits, n: images that it was not made on and leads to the class, of so many.
        mask: (h, w) in [0, 1].
        pattern: (c, h, w) in [0, 1].
    """

    size: float
    hits: int
    n: int
    mask: Tensor
    pattern: Tensor


def margins(model: nn.Module, starts: Tensor, label: int, steps: int) -> Tensor:
    """The largest margins (n,) of a class over the others that are reached from images (n, c, h, w) in [0, 1]."""
    images = starts.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=MARGIN_RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        margin = _margin(model(images).float(), label).sum()
        if not margin.requires_grad:
            raise Inconclusive(
                "no_gradient", "The model's answers do not depend on pixels in a way that has a gradient."
            )
        (-margin).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    with torch.no_grad():
        return _margin(model(images).float(), label)


def _margin(logits: Tensor, label: int) -> Tensor:
    own = one_hot(torch.tensor(label, device=logits.device), logits.shape[1]).bool()
    return logits[:, label] - logits.masked_fill(own, -torch.inf).amax(dim=1)


def led_to(model: nn.Module, begun: Tensor, labels: Tensor) -> Tensor:
    """Images (n, c, h, w) in [0, 1] bent until the model takes them for the labels (n,), and no further."""
    images = begun.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=BENDING_RATE)
    for _ in range(BENDING_STEPS):
        optimizer.zero_grad()
        losses = cross_entropy(model(images).float(), labels, reduction="none")
        unsure = losses.detach() > -torch.log(torch.tensor(CONFIDENT))
        (losses * unsure).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    return images.detach()


def smallest_trigger(model: nn.Module, images: Tensor, label: int, steps: int) -> Trigger:
    """For images (n, c, h, w) of other classes: made on every second one, and tried on the others."""
    made_on, tried_on = images[::2], images[1::2]
    height, width = images.shape[-2:]
    if not len(tried_on):
        return Trigger(float(height * width), 0, 0, torch.ones(height, width), torch.full(images.shape[1:], 0.5))
    mask_raw = torch.full((1, 1, height, width), -2.0, device=images.device, requires_grad=True)
    pattern_raw = torch.zeros((1, *images.shape[1:]), device=images.device, requires_grad=True)
    optimizer = torch.optim.Adam([mask_raw, pattern_raw], lr=TRIGGER_RATE, betas=(0.5, 0.9))
    targets = torch.full((len(made_on),), label, device=images.device)
    weight, run, best = FIRST_WEIGHT, 0, None
    for _ in range(steps):
        mask, pattern = mask_raw.sigmoid(), (3 * pattern_raw).sigmoid()
        logits = model((1 - mask) * made_on + mask * pattern).float()
        reached = float((logits.argmax(dim=1) == label).float().mean()) >= GOAL
        size = mask.sum()
        covered = float(size.detach())
        if reached and (best is None or covered < best[0]):
            best = (covered, mask.detach().clone(), pattern.detach().clone())
        run = max(run, 0) + 1 if reached else min(run, 0) - 1
        if abs(run) >= PATIENCE:
            weight, run = weight * MOVED if run > 0 else weight / MOVED, 0
        optimizer.zero_grad()
        (cross_entropy(logits, targets) + weight * size).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if best is None:
        best = (float(height * width), torch.ones(1, 1, height, width), pattern_raw.detach().cpu().mul(3).sigmoid())
    size_found, mask, pattern = best
    mask, pattern = mask.to(images.device), pattern.to(images.device)
    with torch.no_grad():
        said = model((1 - mask) * tried_on + mask * pattern).argmax(dim=1)
    return Trigger(size_found, int((said == label).sum()), len(tried_on), mask[0, 0].cpu(), pattern[0].cpu())
