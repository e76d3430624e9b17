"""The soundness harness: points of a region, chosen at random and against the bounds, must lie within every bound."""

from __future__ import annotations

import torch
from torch import Tensor

from audit.lirpa.backward import Rows, lower_bounds
from audit.lirpa.bounds import Owners
from audit.lirpa.graph import Graph
from audit.lirpa.lowering import lower
from audit.lirpa.region import Region
from audit.lirpa.rules.rule import Known

ROUNDING = 1e-9
"""Of values, relative to their size: float64 rounds a million times finer, in networks of some depth."""


def graph_of(module, shape, dtype=torch.float64) -> Graph:
    """A module's graph for images of a shape (c, h, w)."""
    return lower(module.eval(), shape).bound(dtype)


def boxes(n, shape, eps, seed=0, *, low=0.0, high=1.0) -> Region:
    """Linf balls around n random images."""
    generator = torch.Generator().manual_seed(seed)
    images = low + (high - low) * torch.rand(n, *shape, generator=generator, dtype=torch.float64)
    return Region.ball(images, "linf", eps, low, high)


def points(region: Region, count: int, seed: int = 0) -> Tensor:
    """Images (count, n, c, h, w) of boxes: half of them corners, the other half anywhere inside."""
    generator = torch.Generator().manual_seed(seed)
    lo, hi = region.box.lo, region.box.hi
    places = torch.rand(count, *lo.shape, generator=generator, dtype=lo.dtype)
    places[: count // 2] = (places[: count // 2] > 0.5).to(lo)
    return lo + places * (hi - lo)


def check_intervals(graph: Graph, known: Known, images: Tensor) -> None:
    """No operation's value leaves its interval on images (count, n, c, h, w).

    Raises:
        AssertionError: naming those that do, and by how much.
    """
    found: dict[str, float] = {}
    with torch.no_grad():
        for batch in images:
            for op, values in graph.values(batch):
                interval = known.intervals[op]
                excess = torch.maximum(interval.lo - values, values - interval.hi) - ROUNDING * (1 + values.abs())
                assert not excess.isnan().any(), f"{op} is not bounded by numbers"
                if (worst := float(excess.max())) > 0:
                    found[repr(op)] = max(worst, found.get(repr(op), 0.0))
    assert not found, f"values leave their intervals: {found}"


def check_backward(graph, region, known, *, rows: int = 16, steps: int = 12, seed: int = 0) -> Tensor:
    """Bounds of random combinations of the logits hold at random images and at those that a search finds against them.

    Half of the combinations have one entry alone. Returns the gaps (n, rows) between the least value found and the
    bound.

    Raises:
        AssertionError: naming by how much a bound is exceeded.
    """
    n, generator = len(region), torch.Generator().manual_seed(seed)
    chosen = torch.randn(n * rows, *graph.logits.shape, generator=generator, dtype=region.box.lo.dtype)
    single = torch.rand(chosen.flatten(1).shape, generator=generator).argmax(1)
    mask = torch.nn.functional.one_hot(single, chosen[0].numel()).view_as(chosen)
    chosen[::2] = (chosen * mask)[::2]
    owners = Owners.all_of(n, rows, chosen.device)
    with torch.no_grad():
        bounds = lower_bounds(graph, region, known, graph.logits, Rows(chosen, owners))
    lo, hi = owners.pick(region.box.lo).expand(len(chosen), -1, -1, -1), owners.pick(region.box.hi)
    least = torch.full_like(bounds, torch.inf)
    images = lo + (hi - lo) * torch.rand(lo.shape, generator=generator, dtype=lo.dtype)
    for step in range(steps):
        images = images.detach().requires_grad_(True)
        products = (graph.run(images) * chosen[:, 0]).flatten(1).sum(1)
        (gradient,) = torch.autograd.grad(products.sum(), images)
        least = torch.minimum(least, products.detach())
        length = (hi - lo) if step % 4 == 0 else (hi - lo) / (step + 1)
        images = torch.minimum(torch.maximum(images - length * gradient.sign(), lo), hi)
    slack = ROUNDING * (1 + least.abs() + chosen.abs().flatten(1).sum(1))
    excess = float((bounds - least - slack).max())
    assert excess <= 0, f"a bound is exceeded by {excess:.3g}"
    return (least - bounds).view(n, rows)
