"""Steps, projections and random starts, row by row with a radius a row.

In every norm a step is a direction of length 1 in that norm, the steepest ascent of the loss for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audit.attacks.rows import Jobs
from audit.toolkit.norms import Norm, vector_length

TINY = 1e-30
FIRST_SPARSITY, SPARSER = 0.2, 1.5
BISECTIONS = 30
DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}


def column(values: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1), to be combined with images."""
    return values.view(-1, *[1] * (like.dim() - 1))


def length(difference: Tensor, norm: Norm) -> Tensor:
    """Norm (n,) of each difference (n, c, h, w), float32."""
    return vector_length(difference.flatten(1), norm)


def steepest(gradient: Tensor, norm: Norm, images: Tensor, clean: Tensor) -> Tensor:
    """Direction of length 1 along which the loss rises fastest from the images; 0 where the gradient is 0.

    In L1 that would be a single value, which soon meets the edge of the box. The step is spread evenly over the
    steepest values that have room, as many as two thirds of those that were changed already, and a fifth at first.

    Source: for L1, Croce & Hein 2021, section 4.2, arXiv 2103.01208 (adaptive sparsity).
    Differs from source: adapted at every step.
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        # By the largest entry first: the square of a gradient of 1e-25 is 0 in float32.
        largest = column(gradient.flatten(1).abs().amax(dim=1).clamp(min=TINY), gradient)
        scaled = gradient / largest
        return scaled / column(length(scaled, "l2").clamp(min=TINY), gradient)
    room = torch.where(gradient > 0, images < 1, images > 0)
    steep = (gradient.abs() * room).flatten(1)
    changed = ((images - clean).flatten(1).abs() > 1e-6).sum(dim=1)
    most = torch.where(changed > 0, changed / SPARSER, FIRST_SPARSITY * steep.shape[1]).long().clamp(min=1)
    least = steep.sort(dim=1, descending=True).values.gather(1, most[:, None] - 1)
    chosen = ((steep >= least) & (steep > 0)).view_as(gradient)
    return gradient.sign() * chosen / column(chosen.flatten(1).sum(dim=1).clamp(min=1), gradient)


def dual_length(gradient: Tensor, norm: Norm) -> Tensor:
    """(n,): how much the loss rises, to first order, along a step of length 1 in the norm."""
    return length(gradient, DUAL[norm])


def projected(images: Tensor, clean: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """Images pulled into the ball of radius eps (n,) around the clean ones, and into the box [0, 1].

    In Linf and L1 the nearest such image; in L2 the nearest of the ball, cut to the box, which never leaves the ball as
    the clean images lie in the box.
    """
    radius = column(eps, images)
    change = images - clean
    if norm == "linf":
        change = change.clamp(-radius, radius)
    elif norm == "l2":
        change = change * (radius / column(length(change, norm), images).clamp(min=TINY)).clamp(max=1)
    else:
        change = _shrunk(change, clean, radius)
    return (clean + change).clamp(0, 1)


def _shrunk(change: Tensor, clean: Tensor, radius: Tensor) -> Tensor:
    """The nearest change of L1 norm at most the radius whose image lies in the box.

    It is the change cut to the box after every value was brought nearer to 0 by one same amount, found by bisection.
    """
    room = torch.where(change > 0, 1 - clean, clean)
    size = change.abs()
    low, high = torch.zeros_like(radius), column(size.flatten(1).amax(dim=1), change)
    inside = torch.minimum(size, room).flatten(1).sum(dim=1).view_as(radius) <= radius
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = torch.minimum((size - middle).clamp(min=0), room).flatten(1).sum(dim=1).view_as(radius) <= radius
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    amount = torch.where(inside, torch.zeros_like(high), high)
    return change.sign() * torch.minimum((size - amount).clamp(min=0), room)


def start(jobs: Jobs, norm: Norm) -> Tensor:
    """Where searches in a ball begin: at a random image on its surface, cut to the box, or at a warm job's own start.

    The latter is pulled into the ball. A job's own seed decides the former, on any device.

    Source: Croce & Hein 2020, released code (the draw is scaled to reach the surface), arXiv 2003.01690.
    """
    given = projected(jobs.start, jobs.pixels, jobs.eps, norm)
    cold = (~jobs.warm).nonzero().flatten()
    if len(cold):
        shape = jobs.pixels.shape[1:]
        draws = torch.stack([_drawn(shape, norm, seed) for seed in jobs.seeds[cold].tolist()]).to(given.device)
        change = draws / column(length(draws, norm).clamp(min=TINY), draws) * column(jobs.eps[cold], draws)
        given[cold] = (jobs.pixels[cold] + change).clamp(0, 1)
    return given


def _drawn(shape: torch.Size, norm: Norm, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if norm == "linf":
        return torch.rand(shape, generator=generator) * 2 - 1
    if norm == "l2":
        return torch.randn(shape, generator=generator)
    size = torch.empty(shape).exponential_(generator=generator)
    return size * (torch.rand(shape, generator=generator) - 0.5).sign()
