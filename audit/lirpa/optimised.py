"""Lower slopes chosen by gradient ascent: alpha-CROWN.

Any slope between 0 and 1 bounds an open ReLU from below, so each row takes, at every ReLU beneath it, the slopes that
make its own bound greatest. Bounds of inner values are raised in the same way, from the pixels upwards, each row by
itself: what tightens an interval serves every row above it.

Source: Xu et al. 2021, section 3, arXiv 2011.13824.
Differs from source: inner bounds are not raised for the sake of the last ones but each for its own, in one pass
    upwards, so that rows do not hang on one another and memory does not grow with depth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from audit.lirpa.backward import Rows, lower_bounds
from audit.lirpa.graph import Graph, Operation
from audit.lirpa.region import Region
from audit.lirpa.rules import rule_of
from audit.lirpa.rules.relu import Bent
from audit.lirpa.rules.rule import Known, Slopes

RATE, DECAY = 0.25, 0.9
"""Of Adam, at first and from step to step."""


def raised_bounds(graph: Graph, region: Region, known: Known, start: Operation, rows: Rows, steps: int) -> Tensor:
    """Lower bounds (r,) as of `lower_bounds`, each the greatest that any step found; the first is that of CROWN.

    Args:
        graph: of the network.
        region: of images.
        known: of every operation below the start.
        start: whose value it is.
        rows: the combinations.
        steps: of gradient ascent; none for plain CROWN.
    """
    slopes = Slopes() if steps else None
    with torch.no_grad():
        best = lower_bounds(graph, region, known, start, rows, slopes)
    if slopes is None or not slopes.found:
        return best
    optimiser = torch.optim.Adam([slope.requires_grad_() for slope in slopes.found.values()], lr=RATE)
    with torch.enable_grad():
        for _ in range(steps):
            found = lower_bounds(graph, region, known, start, rows, slopes)
            best = torch.maximum(best, found.detach())
            optimiser.zero_grad()
            (-torch.where(found.isfinite(), found, 0.0)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            for group in optimiser.param_groups:
                group["lr"] *= DECAY
            with torch.no_grad():
                for op, slope in slopes.found.items():
                    slope.clamp_(_left(op), 1)
    with torch.no_grad():
        return torch.maximum(best, lower_bounds(graph, region, known, start, rows, slopes))


def _left(op: Operation) -> float:
    rule = rule_of(op)
    return rule.left(op) if isinstance(rule, Bent) else 0.0
