"""Quotients by what depends on the pixels: the product with a reciprocal, which has lines of its own.

Planes of the product are those of `bilinear`, for the reciprocal's interval; then its coefficients pass the lines of
`smooth`. Nothing is said where what divides may be 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.bilinear import PRODUCT, Planes
from audit.lirpa.rules.elementwise import Lines
from audit.lirpa.rules.rule import Pulled, Rule, Standing, product
from audit.lirpa.rules.signed import Scaled
from audit.lirpa.rules.smooth import Power


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The planes of the product, and the lines of the reciprocal."""

    planes: Planes
    lines: Lines


class Quotient(Rule):
    """A value, or a constant, over a value. Rounded quotients, also by a constant, have an interval alone."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """That of the product, exact; rounding rises."""
        if not isinstance(op.args[1], Operation):
            return SCALED.interval(op, *operands)
        known = dict(zip(op.operands, operands, strict=True))
        below = RECIPROCAL.interval(_reciprocal(op), known[op.args[1]])
        found = PRODUCT.ends(*PRODUCT.aligned(op, _above(op, known), below))
        mode = op.kwargs.get("rounding_mode")
        if mode is None:
            return found
        rounded = torch.floor if mode == "floor" else torch.trunc
        return Interval(rounded(found.lo), rounded(found.hi))

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """By the planes, then by the lines."""
        if op.kwargs.get("rounding_mode") is not None:
            return super().backward(op, rows, at)
        parts = at.known.once(op, lambda: self.parts(op, at.intervals))
        above, below, rest = PRODUCT.pulled(rows, parts.planes, at)
        below = below.reshape(-1, *op.args[1].shape)
        positive, negative = below.clamp(min=0), below.clamp(max=0)
        pulled = {op.args[1]: positive * at.pick(parts.lines.lower_slope) + negative * at.pick(parts.lines.upper_slope)}
        rest = rest + product(positive, at.pick(parts.lines.lower_offset))
        rest = rest + product(negative, at.pick(parts.lines.upper_offset))
        if isinstance(op.args[0], Operation):
            above = above.reshape(-1, *op.args[0].shape)
            pulled[op.args[0]] = pulled[op.args[0]] + above if op.args[0] in pulled else above
        else:
            rest = rest + product(above, at.pick(parts.planes.first.centre))
        return Pulled(tuple(pulled[operand] for operand in op.operands), rest)

    def parts(self, op: Operation, known: Mapping[Operation, Interval]) -> Parts:
        """From what is known of the operands."""
        reciprocal, x = _reciprocal(op), known[op.args[1]]
        below = RECIPROCAL.interval(reciprocal, x)
        return Parts(PRODUCT.planes(op, _above(op, known), below), RECIPROCAL.relaxation(reciprocal, x, below))


def _above(op: Operation, known: Mapping[Operation, Interval]) -> Interval:
    """The interval of what is divided; a constant's is its own for each sample."""
    if isinstance(op.args[0], Operation):
        return known[op.args[0]]
    like = known[op.args[1]].lo
    value = torch.as_tensor(op.args[0], dtype=like.dtype, device=like.device)
    value = value.expand(len(like), *value.shape)
    return Interval(value, value)


def _reciprocal(op: Operation) -> Operation:
    """One over what divides, as an operation."""
    below: Operation = op.args[1]
    return Operation("reciprocal", op.name, op.module, torch.reciprocal, (below,), {}, (below,), below.shape)


RECIPROCAL, SCALED = Power(-1.0), Scaled()
RULES: dict[str, Rule] = {"div": Quotient()}
"""For a quotient by what depends on the pixels, or one that is rounded."""
