"""Interval bound propagation: all operations' ranges, forwards.

Within an L2 ball of radius r around c, a first layer w x + b lies within r |w|_2 of w c + b. Its box alone is wider by
up to the root of the number of pixels, so both are met.

Source: Gowal et al. 2018, section 3, arXiv 1810.12715.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Graph, Operation
from audit.lirpa.region import Region
from audit.lirpa.rules import NoRule, rule_of
from audit.lirpa.rules.rule import Known

APART = frozenset({
    "sub", "add", "mul", "div", "neg", "rsub", "view", "reshape", "flatten", "permute", "flip", "select", "slice",
    "clone", "contiguous", "alias", "_to_copy", "transpose", "unsqueeze", "squeeze",
})  # fmt: skip
"""Operators that keep values of one operand apart, unless they spread it."""
MIXED = frozenset({"conv1d", "conv2d", "linear"})
"""Operators that mix all values of their operand by weights."""


def propagate(graph: Graph, region: Region, *, rounded: bool = True) -> Known:
    """The intervals of all operations for images of the region.

    Args:
        graph: of the network.
        region: of images.
        rounded: whether they also hold what rounding may add, and are infinite where they are no numbers. False in
            training, where nothing is proven.

    Raises:
        NoRule: for an operator that nothing is known of.
    """
    known, ball = Known({graph.pixels: pixels(region)}), Ball(region)
    for op in graph.operations[1:]:
        found = _by_rule(op, known.intervals)
        known.intervals[op] = ball.meet(op, found.said() if rounded else found)
    return known


def pixels(region: Region) -> Interval:
    """The pixels' own, as an operation's."""
    return Interval(region.box.lo[:, None], region.box.hi[:, None])


def step(op: Operation, known: Mapping[Operation, Interval]) -> Interval:
    """An operation's interval from those of its operands.

    Raises:
        NoRule: where there is none.
    """
    return _by_rule(op, known).said()


def _by_rule(op: Operation, known: Mapping[Operation, Interval]) -> Interval:
    found = rule_of(op).interval(op, *(known[operand] for operand in op.operands))
    if found.lo.shape != (len(known[op.operands[0]].lo), *op.shape):
        raise NoRule(f"the bounds of {op.kind} (in {op.module or op.name}) have another shape than its values")
    return found


def exact_operations(graph: Graph) -> set[Operation]:
    """Operations whose intervals are as tight as a backward pass makes them: the pixels, and one mixture of them."""
    apart, mixed = {graph.pixels}, set[Operation]()
    for op in graph.operations[1:]:
        if rule_of(op).exact and len(op.operands) == 1 and op.operands[0] in apart:
            if _keeps_apart(op):
                apart.add(op)
            elif op.kind in MIXED:
                mixed.add(op)
    return apart | mixed


class Ball:
    """What balls say of the first layers, as a graph is walked through; of boxes nothing."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.apart: dict[Operation, tuple[Tensor, Tensor]] = {}
        """Of values that each hang on one pixel: what they are at the centre, and how fast they change."""

    def meet(self, op: Operation, interval: Interval) -> Interval:
        """An operation's interval, cut to what the ball leaves of it."""
        if self.region.centre is None or self.region.radius is None or len(op.operands) != 1 or not rule_of(op).exact:
            return interval
        (operand,) = op.operands
        if operand.kind == "input":
            centre = self.region.centre[:, None]
            self.apart[operand] = centre, torch.ones_like(centre)
        if operand not in self.apart:
            return interval
        centre, speed = self.apart[operand]
        if _keeps_apart(op):
            self.apart[op] = op.each(centre), op.each(speed) - op.each(torch.zeros_like(speed))
        if op.kind not in MIXED:
            return interval
        found = _within(op, centre, speed, self.region.radius)
        return Interval(torch.maximum(interval.lo, found.lo), torch.minimum(interval.hi, found.hi))


def _keeps_apart(op: Operation) -> bool:
    """Whether each value hangs on one value of the operand, and no two on the same."""
    return (op.kind in APART or _picks(op)) and prod(op.shape) <= prod(op.operands[0].shape)


def _picks(op: Operation) -> bool:
    """Whether a 1x1 convolution makes each channel of one of the operand's, as a normalisation written so does."""
    if op.kind != "conv2d" or tuple(op.args[1].shape[2:]) != (1, 1) or op.argument(6, "groups", 1) != 1:
        return False
    taken = op.args[1].flatten(1) != 0
    return bool((taken.sum(0) <= 1).all() & (taken.sum(1) <= 1).all())


def _within(op: Operation, centre: Tensor, speed: Tensor, radius: Tensor) -> Interval:
    """A mixture over a ball: its value at the centre, and the radius times the length of its weights."""
    _, weight, *rest = op.args
    bias = rest[0] if rest else None

    def mixed(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return dataclasses.replace(op, args=(op.args[0], weight, bias, *rest[1:])).each(values)

    value = mixed(centre, weight, bias)
    length = mixed(speed.square(), weight.square(), None).sqrt() * radius.view(-1, *(1,) * (value.dim() - 1))
    size = mixed(centre.abs(), weight.abs(), None if bias is None else bias.abs())
    rounding = (weight[0].numel() + 8) * torch.finfo(value.dtype).eps
    return Interval.around(value, length + rounding * (size + length))
