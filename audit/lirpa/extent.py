"""How much of an image a row of a backward pass is about at each operation, and how many rows are passed together."""

from __future__ import annotations

from math import prod

import torch

from audit.lirpa.graph import Graph, Operation
from audit.lirpa.rules import rule_of
from audit.toolkit.batching import Batching

VALUES = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Coefficients that a pass holds at its widest operation, about, by the kind of device: more no longer fit into a
processor's cache. That of GPUs is a judgement, which nothing has measured."""
Part = tuple[int, int] | None
"""Height and width of the part of a value that rows are about; None for all of it."""


def batching(graph: Graph, device: torch.device, start: Operation | None = None, *, relaxed: bool = True) -> Batching:
    """How many rows a pass takes at once.

    Args:
        graph: of the network.
        device: that it is on.
        start: whose values the rows are about, each about a single one; by default the logits, about all of them.
        relaxed: as in `lower_bounds`.
    """
    most = VALUES.get(device.type, VALUES["cpu"])
    return Batching(max(most // max(coefficients(graph, start, relaxed=relaxed), 1), 1))


def coefficients(graph: Graph, start: Operation | None = None, *, relaxed: bool = True) -> int:
    """The most coefficients that a row has at any operation on its way to the pixels; arguments as in `batching`."""
    first = graph.logits if start is None else start
    parts: dict[Operation, Part] = {first: (1, 1) if start is not None and has_places(start) else None}
    most = 0
    for op in reversed(graph.operations):
        if op not in parts:
            continue
        part = parts[op]
        if part is not None and op is not graph.pixels and not passes_as_part(op, *part):
            part = None
        most = max(most, prod(op.shape) if part is None else prod(op.shape[:-2]) * prod(part))
        if op is graph.pixels or not (relaxed or rule_of(op).exact):
            continue
        for operand in op.operands:
            below = None if part is None else rule_of(op).below(op, *part)
            parts[operand] = _both(parts[operand], below) if operand in parts else below
    return most


def has_places(op: Operation) -> bool:
    """Whether a single value of an operation has a place in an image."""
    return len(op.shape) == 4 and prod(op.shape[-2:]) > 1


def passes_as_part(op: Operation, height: int, width: int) -> bool:
    """Whether rows about a part of the value are passed as such: where rules can, and where it saves much."""
    return rule_of(op).local(op) and height * width * 2 <= prod(op.shape[-2:])


def _both(one: Part, other: Part) -> Part:
    return None if one is None or other is None else (max(one[0], other[0]), max(one[1], other[1]))
