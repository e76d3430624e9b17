"""One backward pass: linear bounds of chosen values, from where they stand down to the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from audit.lirpa.bounds import Owners, Window
from audit.lirpa.extent import passes_as_part
from audit.lirpa.graph import Graph, Operation
from audit.lirpa.region import Region
from audit.lirpa.rules import rule_of
from audit.lirpa.rules.rule import Known, Slopes, Standing, product


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Linear combinations of an operation's values.

    Attributes:
        values: (r, *shape), or of the window's part.
        owners: which sample each row belongs to.
        window: the part of the value that they are about; None for all of it.
    """

    values: Tensor
    owners: Owners
    window: Window | None = None


def lower_bounds(
    graph: Graph,
    region: Region,
    known: Known,
    start: Operation,
    rows: Rows,
    slopes: Slopes | None = None,
    *,
    relaxed: bool = True,
) -> Tensor:
    """Lower bounds (r,) of each row's product with a value; -inf where nothing can be said.

    Args:
        graph: of the network.
        region: of images.
        known: of every operation below the start.
        start: whose value it is.
        rows: the combinations.
        slopes: lower slopes in place of rules' own.
        relaxed: whether to pass what is not affine; if not, intervals count from there on: the margins of interval
            bound propagation with the last layers merged.
    """
    waiting: dict[Operation, tuple[Tensor, Window | None]] = {start: (rows.values, rows.window)}
    rest = rows.values.new_zeros(len(rows.values))
    for op in reversed(graph.operations):
        if op not in waiting or op is graph.pixels:
            continue
        (mine, window), rule = waiting.pop(op), rule_of(op)
        if window is not None and not passes_as_part(op, window.height, window.width):
            mine, window = window.spread(mine, *op.shape[-2:]), None
        at = Standing(known, rows.owners, slopes, window)
        if not rule.exact and not relaxed:
            rest = rest + product(mine.clamp(min=0), at.lo(op)) + product(mine.clamp(max=0), at.hi(op))
            continue
        pulled = rule.backward(op, mine, at)
        rest = rest + pulled.rest
        for operand, theirs in zip(op.operands, pulled.rows, strict=True):
            if theirs is not None:
                part = (theirs, pulled.window)
                waiting[operand] = _added(operand, waiting[operand], part) if operand in waiting else part
    if graph.pixels in waiting:
        mine, window = waiting[graph.pixels]
        rest = rest + region.lowest(mine[:, 0], rows.owners, window)
    return torch.where(rest < torch.inf, rest, -torch.inf)  # also where it is not a number


def _added(
    op: Operation, first: tuple[Tensor, Window | None], second: tuple[Tensor, Window | None]
) -> tuple[Tensor, Window | None]:
    """The sum of two rows about parts of an operation's value."""
    one, other = first[1], second[1]
    if one is None and other is None:
        return first[0] + second[0], None
    moved = one.shift(other) if one is not None and other is not None else None
    if one is None or other is None or moved is None:
        return _whole(op, *first) + _whole(op, *second), None
    down, right = moved
    edges = (down + other.height - one.height, right + other.width - one.width)
    ours = (max(-down, 0), max(edges[0], 0), max(-right, 0), max(edges[1], 0))
    theirs = (max(down, 0), max(-edges[0], 0), max(right, 0), max(-edges[1], 0))
    return _padded(first[0], ours) + _padded(second[0], theirs), one.grown(*ours)


def _whole(op: Operation, rows: Tensor, window: Window | None) -> Tensor:
    return rows if window is None else window.spread(rows, *op.shape[-2:])


def _padded(rows: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    up, down, left, right = sides
    return torch.nn.functional.pad(rows, (left, right, up, down))
