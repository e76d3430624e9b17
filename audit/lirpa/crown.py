"""CROWN: intervals made tight by backward passes, wherever that tightens what follows.

An interval matters where a relaxation hangs on it: at the operands of what is not affine. Of a ReLU's operand, only
values whose sign is open are bounded again; of all others' each one is.

Source: Zhang et al. 2018, arXiv 1811.00866; Xu et al. 2020, arXiv 2002.12920.
Differs from source: the tighter of both bounds is kept, and rows are bounded for those samples alone that need them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval, Owners
from audit.lirpa.graph import Graph, Operation
from audit.lirpa.intervals import pixels, step
from audit.lirpa.optimised import raised_bounds
from audit.lirpa.region import Region
from audit.lirpa.rules import rule_of
from audit.lirpa.rules.relu import Bent
from audit.toolkit.batching import Batching

VALUES = 1 << 20
"""Coefficients that a pass holds at its widest operation, about: more no longer fit into a processor's cache."""


def crown_intervals(graph: Graph, region: Region, steps: int = 0, most: int | None = None) -> dict[Operation, Interval]:
    """The intervals of all operations, as tight as backward passes make them.

    Args:
        graph: of the network.
        region: of images.
        steps: of gradient ascent on the slopes of what a plain pass leaves open; see `optimised`.
        most: values of an operation that are bounded again for a sample; where more are open, its interval stays. None
            for no limit. A sample's bounds never hang on the others.

    Raises:
        NoRule: for an operator that nothing is known of.
    """
    found: dict[Operation, Interval] = {graph.pixels: pixels(region)}
    open_signs = _relaxed_operands(graph)
    exact = _exact_operations(graph) if region.radius is None else {graph.pixels}
    for op in graph.operations[1:]:
        found[op] = step(op, found)
        if op in open_signs and op not in exact:
            for ascent in (0, steps) if steps else (0,):
                chosen = _chosen(found[op], most, signs_alone=open_signs[op])
                found[op] = refined(graph, region, found, op, chosen, ascent)
    return found


def _chosen(interval: Interval, most: int | None, *, signs_alone: bool) -> Tensor:
    """Which values (n, width) are bounded again: bool."""
    lo, hi = interval.lo.flatten(1), interval.hi.flatten(1)
    chosen = (lo < 0) & (hi > 0) if signs_alone else lo < hi
    return chosen if most is None else chosen & (chosen.sum(1, keepdim=True) <= most)


def refined(
    graph: Graph, region: Region, known: Mapping[Operation, Interval], op: Operation, chosen: Tensor, steps: int
) -> Interval:
    """An operation's interval, with the bounds that backward passes give.

    Args:
        graph: of the network.
        region: of images.
        known: of this operation and those below it.
        op: whose it is.
        chosen: (n, width) bool, which of its values are bounded again.
        steps: of gradient ascent on the slopes.
    """
    before = known[op]
    sample, place = chosen.nonzero(as_tuple=True)
    if not len(sample):
        return before
    lo, hi = before.lo.flatten(1).clone(), before.hi.flatten(1).clone()
    owners = Owners(sample, len(region))

    def ends(rows: slice) -> tuple[Tensor, Tensor]:
        chosen = place[rows]
        units = before.lo.new_zeros(len(chosen), lo.shape[1])
        units[torch.arange(len(chosen)), chosen] = 1
        units = units.view(-1, *op.shape)
        part = owners.part(rows)
        return (
            raised_bounds(graph, region, known, op, units, part, steps),
            -raised_bounds(graph, region, known, op, -units, part, steps),
        )

    found = batching(graph).parts(len(sample), ends)
    lo[sample, place] = torch.maximum(lo[sample, place], torch.cat([low for low, _ in found]))
    hi[sample, place] = torch.minimum(hi[sample, place], torch.cat([high for _, high in found]))
    return Interval(lo.view_as(before.lo), hi.view_as(before.hi))


def batching(graph: Graph) -> Batching:
    """How many rows a pass takes at once."""
    widest = max(torch.Size(op.shape).numel() for op in graph.operations)
    return Batching(max(VALUES // widest, 1))


def _relaxed_operands(graph: Graph) -> dict[Operation, bool]:
    """Operands of what is not affine, each with whether all such users only ask for signs."""
    found: dict[Operation, bool] = {}
    for op in graph.operations[1:]:
        rule = rule_of(op)
        if not rule.exact:
            for operand in op.operands:
                found[operand] = found.get(operand, True) and isinstance(rule, Bent)
    return found


def _exact_operations(graph: Graph) -> set[Operation]:
    """Operations whose intervals over a box are exact: the pixels, each by itself, and one affine mixture of them."""
    apart, mixed = {graph.pixels}, set[Operation]()
    for op in graph.operations[1:]:
        if not rule_of(op).exact or not all(operand in apart for operand in op.operands) or len(op.operands) > 1:
            continue
        (apart if op.kind in _APART else mixed).add(op)
    return apart | mixed


_APART = frozenset({
    "sub", "add", "mul", "div", "neg", "rsub", "batch_norm", "view", "reshape", "flatten", "permute", "flip", "select",
    "slice", "clone", "contiguous", "alias", "_to_copy", "transpose", "unsqueeze", "squeeze",
})  # fmt: skip
"""Operators that keep values of one operand apart."""
