"""Interval bound propagation: all operations' ranges, forwards.

Source: Gowal et al. 2018, section 3, arXiv 1810.12715.
"""

from __future__ import annotations

from collections.abc import Mapping

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Graph, Operation
from audit.lirpa.region import Region
from audit.lirpa.rules import rule_of
from audit.lirpa.rules.rule import Known


def propagate(graph: Graph, region: Region) -> Known:
    """The intervals of all operations for images of the region.

    Raises:
        NoRule: for an operator that nothing is known of.
    """
    known = Known({graph.pixels: pixels(region)})
    for op in graph.operations[1:]:
        known.intervals[op] = step(op, known.intervals)
    return known


def pixels(region: Region) -> Interval:
    """The pixels' own, as an operation's."""
    return Interval(region.box.lo[:, None], region.box.hi[:, None])


def step(op: Operation, known: Mapping[Operation, Interval]) -> Interval:
    """An operation's interval from those of its operands."""
    return rule_of(op).interval(op, *(known[operand] for operand in op.operands)).said()
