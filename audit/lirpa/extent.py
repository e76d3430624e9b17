"""How much of an image a row of a backward pass is about at each operation, and how many rows are passed together."""

from __future__ import annotations

from math import prod

import torch

from audit.lirpa.graph import Graph, Operation
from audit.lirpa.rules import rule_of
from audit.lirpa.rules.relu import Bent
from audit.toolkit.batching import Batching

VALUES = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Coefficients that a pass holds at its widest operation, about, by the kind of device: more no longer fit into a
processor's cache. That of the CPU was the best of five on the networks of `benchmarks/certify.py`, on one machine; that
of GPUs is a judgement, which nothing has measured."""
ASCENT, COPIES = 8, 4
"""Times as many where slopes are optimised; and what each slope takes: itself, its gradient, two of the optimiser."""
Part = tuple[int, int] | None
"""Height and width of the part of a value that rows are about; None for all of it."""


def batching(
    graph: Graph,
    device: torch.device,
    start: Operation | None = None,
    *,
    relaxed: bool = True,
    ascent: bool = False,
) -> Batching:
    """How many rows a pass takes at once.

    Args:
        graph: of the network.
        device: that it is on.
        start: whose values the rows are about, each about a single one; by default the logits, about all of them.
        relaxed: as in `lower_bounds`.
        ascent: whether each row has slopes of its own, which are optimised: memory counts then, not the cache.
    """
    extents = parts(graph, start, relaxed=relaxed)
    sizes = {op: _size(op, part) for op, part in extents.items()}
    held, room = max(sizes.values()), VALUES.get(device.type, VALUES["cpu"])
    if ascent:
        slopes = sum(size for op, size in sizes.items() if op is not graph.pixels and isinstance(rule_of(op), Bent))
        held, room = held + COPIES * slopes, room * ASCENT
    return Batching(max(room // max(held, 1), 1))


def parts(graph: Graph, start: Operation | None = None, *, relaxed: bool = True) -> dict[Operation, Part]:
    """The part that rows are about, at each operation that a pass meets, about; arguments as in `batching`.

    Where branches move apart, as by different strides, rows are about all of it, which is not foreseen here.
    """
    first = graph.logits if start is None else start
    found: dict[Operation, Part] = {first: (1, 1) if start is not None and has_places(start) else None}
    for op in reversed(graph.operations):
        if op not in found or op is graph.pixels:
            continue
        part = found[op]
        if part is not None and not passes_as_part(op, *part):
            part = found[op] = None
        if relaxed or rule_of(op).exact:
            for operand in op.operands:
                below = None if part is None else rule_of(op).below(op, *part)
                found[operand] = _both(found[operand], below) if operand in found else below
    return found


def has_places(op: Operation) -> bool:
    """Whether a single value of an operation has a place in an image."""
    return len(op.shape) == 4 and prod(op.shape[-2:]) > 1


def passes_as_part(op: Operation, height: int, width: int) -> bool:
    """Whether rows about a part of the value are passed as such: where rules can, and where it saves much."""
    return rule_of(op).local(op) and height * width * 2 <= prod(op.shape[-2:])


def _both(one: Part, other: Part) -> Part:
    return None if one is None or other is None else (max(one[0], other[0]), max(one[1], other[1]))


def _size(op: Operation, part: Part) -> int:
    return prod(op.shape) if part is None else prod(op.shape[:-2]) * prod(part)
