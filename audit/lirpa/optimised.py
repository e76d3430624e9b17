"""Lower slopes chosen by gradient ascent: alpha-CROWN.

Any slope between 0 and 1 bounds an open ReLU from below, so each row takes, at every ReLU beneath it, the slopes that
make its own bound greatest. Bounds of inner values are raised in the same way, from the pixels upwards, each row by
itself: what tightens an interval serves every row above it.

Source: Xu et al. 2021, section 3, arXiv 2011.13824.
Differs from source: inner bounds are not raised for the sake of the last ones but each for its own, in one pass
    upwards, so that rows do not hang on one another and memory does not grow with depth.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from audit.lirpa.backward import lower_bounds
from audit.lirpa.bounds import Interval, Owners
from audit.lirpa.graph import Graph, Operation
from audit.lirpa.region import Region
from audit.lirpa.rules import rule_of
from audit.lirpa.rules.relu import Bent

RATE, DECAY = 0.25, 0.9
"""Of Adam, at first and from step to step."""


def raised_bounds(
    graph: Graph,
    region: Region,
    intervals: Mapping[Operation, Interval],
    start: Operation,
    rows: Tensor,
    owners: Owners,
    steps: int,
) -> Tensor:
    """Lower bounds (r,) as of `lower_bounds`, each the greatest that any step found; the first is that of CROWN.

    Args:
        graph: of the network.
        region: of images.
        intervals: of every operation below the start.
        start: whose value it is.
        rows: (r, *shape).
        owners: which sample each row belongs to.
        steps: of gradient ascent.
    """
    slopes = _first_slopes(graph, intervals, start, owners) if steps else {}
    if not slopes:
        return lower_bounds(graph, region, intervals, start, rows, owners)
    with torch.enable_grad():
        best = lower_bounds(graph, region, intervals, start, rows, owners, slopes)
        optimiser = torch.optim.Adam(slopes.values(), lr=RATE)
        found = best
        for _ in range(steps):
            optimiser.zero_grad()
            (-torch.where(found.isfinite(), found, 0.0)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            for group in optimiser.param_groups:
                group["lr"] *= DECAY
            with torch.no_grad():
                for op, slope in slopes.items():
                    slope.clamp_(_left(op), 1)
            found = lower_bounds(graph, region, intervals, start, rows, owners, slopes)
            best = torch.maximum(best, found)
    return best.detach()


def _first_slopes(
    graph: Graph, intervals: Mapping[Operation, Interval], start: Operation, owners: Owners
) -> dict[Operation, Tensor]:
    """CROWN's own slopes of every row, at each ReLU below the start that is open somewhere."""
    found: dict[Operation, Tensor] = {}
    for op in graph.operations[1 : graph.operations.index(start) + 1]:
        rule = rule_of(op)
        if isinstance(rule, Bent):
            x = intervals[op.operands[0]]
            if bool(((x.lo < 0) & (x.hi > 0)).any()):
                slope = owners.pick(rule.slopes(op, x)).expand(len(owners.sample), *op.shape)
                found[op] = slope.clone().requires_grad_(True)
    return found


def _left(op: Operation) -> float:
    rule = rule_of(op)
    return rule.left(op) if isinstance(rule, Bent) else 0.0
