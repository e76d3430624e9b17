"""One backward pass: linear bounds of chosen values, from where they stand down to the pixels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval, Owners
from audit.lirpa.graph import Graph, Operation
from audit.lirpa.region import Region
from audit.lirpa.rules import rule_of
from audit.lirpa.rules.rule import Standing


def lower_bounds(
    graph: Graph,
    region: Region,
    intervals: Mapping[Operation, Interval],
    start: Operation,
    rows: Tensor,
    owners: Owners,
    slopes: Mapping[Operation, Tensor] | None = None,
    *,
    relaxed: bool = True,
) -> Tensor:
    """Lower bounds (r,) of each row's product with a value; -inf where nothing can be said.

    Args:
        graph: of the network.
        region: of images.
        intervals: of every operation below the start.
        start: whose value it is.
        rows: (r, *shape).
        owners: which sample each row belongs to.
        slopes: lower slopes (r, *shape) in place of a rule's own; see `Standing`.
        relaxed: whether to pass what is not affine; if not, intervals count from there on: the margins of interval
            bound propagation with the last layers merged.
    """
    at = Standing(intervals, owners, slopes or {})
    waiting: dict[Operation, Tensor] = {start: rows}
    rest = rows.new_zeros(len(rows))
    for op in reversed(graph.operations):
        if op not in waiting or op is graph.pixels:
            continue
        mine, rule = waiting.pop(op), rule_of(op)
        if not rule.exact and not relaxed:
            rest = rest + (mine.clamp(min=0) * at.lo(op) + mine.clamp(max=0) * at.hi(op)).flatten(1).sum(1)
            continue
        pulled = rule.backward(op, mine, at)
        rest = rest + pulled.rest
        for operand, theirs in zip(op.operands, pulled.rows, strict=True):
            if theirs is not None:
                waiting[operand] = waiting[operand] + theirs if operand in waiting else theirs
    if graph.pixels in waiting:
        rest = rest + region.lowest(waiting[graph.pixels][:, 0], owners)
    return torch.where(rest.isnan(), -torch.inf, rest)
