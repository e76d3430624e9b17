"""CROWN: intervals made tight by backward passes, wherever that tightens what follows.

An interval matters where a relaxation hangs on it: at the operands of what is not affine. Of a ReLU's operand, only
values whose sign is open are bounded again; of all others' each one is. A row about one place of an image is passed
with the small part of each layer below that it hangs on.

Source: Zhang et al. 2018, arXiv 1811.00866; Xu et al. 2020, arXiv 2002.12920.
Differs from source: the tighter of both bounds is kept, and rows are bounded for those samples alone that need them.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from audit.lirpa.backward import Rows
from audit.lirpa.bounds import Interval, Owners, Window
from audit.lirpa.extent import batching, has_places
from audit.lirpa.graph import Graph, Operation
from audit.lirpa.intervals import Ball, exact_operations, pixels, propagate, step
from audit.lirpa.optimised import raised_bounds
from audit.lirpa.region import Region
from audit.lirpa.rules import rule_of
from audit.lirpa.rules.relu import Bent
from audit.lirpa.rules.rule import Known


def crown(graph: Graph, region: Region, steps: int = 0, most: int | None = None) -> Known:
    """The intervals of all operations, as tight as backward passes make them.

    Args:
        graph: of the network.
        region: of images.
        steps: of gradient ascent on the slopes of what a plain pass leaves open; see `optimised`.
        most: a sample of which intervals leave more values open, in all operations together, is not bounded again.
            None for no limit. A sample's bounds never hang on the others.

    Raises:
        NoRule: for an operator that nothing is known of.
    """
    known = Known({graph.pixels: pixels(region)})
    open_signs = _relaxed_operands(graph)
    exact = exact_operations(graph)
    few = None if most is None else open_values(graph, region, propagate(graph, region)) <= most
    ball = Ball(region)
    for op in graph.operations[1:]:
        known.intervals[op] = ball.meet(op, step(op, known.intervals))
        if op in open_signs and op not in exact:
            for ascent in (0, steps) if steps else (0,):
                chosen = _opened(known.intervals[op], signs_alone=open_signs[op])
                if few is not None:
                    chosen &= few[:, None]
                known.intervals[op] = refined(graph, region, known, op, chosen, ascent)
    return known


def open_values(graph: Graph, region: Region, known: Known) -> Tensor:
    """How many values (n,) of each sample CROWN bounds again, as far as intervals alone tell: at most so many."""
    found = torch.zeros(len(region), dtype=torch.int64, device=region.box.lo.device)
    intervals, exact = known.intervals, exact_operations(graph)
    for op, signs_alone in _relaxed_operands(graph).items():
        if op not in exact:
            found += _opened(intervals[op], signs_alone=signs_alone).sum(1)
    return found


def refined(graph: Graph, region: Region, known: Known, op: Operation, chosen: Tensor, steps: int) -> Interval:
    """An operation's interval, with the bounds that backward passes give.

    Args:
        graph: of the network.
        region: of images.
        known: of this operation and those below it.
        op: whose it is.
        chosen: (n, width) bool, which of its values are bounded again.
        steps: of gradient ascent on the slopes.
    """
    before = known.intervals[op]
    lo, hi = before.lo.flatten(1).clone(), before.hi.flatten(1).clone()
    sample, place = chosen.nonzero(as_tuple=True)

    twice = sample.repeat_interleave(2), place.repeat_interleave(2)  # an upper bound is a lower one of the negative
    signs = lo.new_tensor([1.0, -1.0]).repeat(len(sample))

    def ends(part: slice) -> Tensor:
        rows = _units(twice[0][part], twice[1][part], signs[part], op, len(region))
        return raised_bounds(graph, region, known, op, rows, steps)

    if len(sample):
        found = torch.cat(batching(graph, lo.device, op, ascent=steps > 0).parts(len(signs), ends)).view(-1, 2)
        lo[sample, place] = torch.maximum(lo[sample, place], found[:, 0])
        hi[sample, place] = torch.minimum(hi[sample, place], -found[:, 1])
    return Interval(lo.view_as(before.lo), hi.view_as(before.hi))


def _units(sample: Tensor, place: Tensor, signs: Tensor, op: Operation, n: int) -> Rows:
    """Rows with 1 or -1 in the place of each value; those of images are about that place alone."""
    window, shape, owners = None, op.shape, Owners.of(sample, n)
    if has_places(op):
        height, width = shape[-2:]
        window = Window.at(place // width % height, place % width, owners)
        place, shape = place // (height * width), (*shape[:-2], 1, 1)
    units = signs.new_zeros(len(place), prod(shape))
    units[torch.arange(len(place), device=signs.device), place] = signs
    return Rows(units.view(-1, *shape), owners, window)


def _opened(interval: Interval, *, signs_alone: bool) -> Tensor:
    """Which values (n, width) are to be bounded again: bool."""
    lo, hi = interval.lo.flatten(1), interval.hi.flatten(1)
    return (lo < 0) & (hi > 0) if signs_alone else lo < hi


def _relaxed_operands(graph: Graph) -> dict[Operation, bool]:
    """Operands of what is not affine, each with whether all such users only ask for signs."""
    found: dict[Operation, bool] = {}
    for op in graph.operations[1:]:
        rule = rule_of(op)
        if not rule.exact:
            for operand in op.operands:
                found[operand] = found.get(operand, True) and isinstance(rule, Bent)
    return found
