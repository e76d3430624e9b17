"""The greatest, or the least, of several values: in windows, over dimensions, or of two operands.

Every candidate bounds the greatest from below: the one with the largest centre is taken, whose plane is the highest
there, as with the ReLU. From above, let i be the candidate with the largest upper end u, l its lower end, and m the
largest upper end of all others. Then  max <= max(x_i, m),  which is convex, so that its chord over [l, u] holds: x_i
itself where l >= m, else the line from (l, m) to (u, u).

The least is the greatest of what is negated, negated.

Source: Singh et al. 2019 (max-pooling in DeepPoly), POPL.
Differs from source: the chord above, in place of the constant u; below, the largest centre and not the largest l.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.rule import Pulled, Rule, Standing, product


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Of each value (n, values): which place is the lower plane, and the line above in another place."""

    below: Tensor
    above: Tensor
    slope: Tensor
    offset: Tensor


class Extreme(Rule):
    """The extreme of each value's candidates, which are found among all values of the operands, side by side."""

    def __init__(self, sign: int) -> None:
        """With 1 for the greatest, -1 for the least."""
        self.sign = sign

    @abstractmethod
    def candidates(self, op: Operation, device: torch.device) -> Tensor:
        """The places (values, candidates) of each value's candidates; -1 for none."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The extremes of the ends: exact."""
        x = self._joined(operands)
        places = self.candidates(op, x.lo.device)
        ends = self._signed(Interval(_taken(x.lo, places).amax(2), _taken(x.hi, places).amax(2)))
        return Interval(ends.lo.view(-1, *op.shape), ends.hi.view(-1, *op.shape))

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """One candidate below and one above; see the head of the file."""
        found = at.known.once(op, lambda: self._lines(op, [at.intervals[operand] for operand in op.operands]))
        sizes = [math.prod(operand.shape) for operand in op.operands]
        mine = rows.reshape(len(rows), -1) * self.sign
        positive, negative = mine.clamp(min=0), mine.clamp(max=0)
        pulled = mine.new_zeros(len(mine), sum(sizes))
        for coefficients, place in ((positive, found.below), (negative * at.pick(found.slope), found.above)):
            pulled = pulled.scatter_add(1, at.pick(place).expand(coefficients.shape), coefficients)
        parts = torch.split(pulled * self.sign, sizes, 1)
        shaped = (part.reshape(-1, *operand.shape) for part, operand in zip(parts, op.operands, strict=True))
        return Pulled(tuple(shaped), product(negative, at.pick(found.offset)))

    def _lines(self, op: Operation, operands: Sequence[Interval]) -> Lines:
        x = self._joined(operands)
        places = self.candidates(op, x.lo.device)
        middle = torch.where(x.lo.isfinite() & x.hi.isfinite(), x.centre, x.lo)
        below, above = _taken(middle, places).argmax(2, keepdim=True), _taken(x.hi, places).argmax(2, keepdim=True)
        slope, offset = _chord(_taken(x.lo, places), _taken(x.hi, places), above)
        each = places.clamp(min=0).expand(len(x.lo), -1, -1)
        return Lines(each.gather(2, below)[..., 0], each.gather(2, above)[..., 0], slope, offset)

    def _joined(self, operands: Sequence[Interval]) -> Interval:
        """All values (n, places) of the operands, negated for the least."""
        lo, hi = torch.cat([x.lo.flatten(1) for x in operands], 1), torch.cat([x.hi.flatten(1) for x in operands], 1)
        return self._signed(Interval(lo, hi))

    def _signed(self, x: Interval) -> Interval:
        return x if self.sign > 0 else Interval(-x.hi, -x.lo)


class Windows(Extreme):
    """Max-pooling in two dimensions, in windows of any stride, padding and dilation."""

    def candidates(self, op: Operation, device: torch.device) -> Tensor:
        """Of each image and place, the pixels of its window that are no padding."""
        (operand,) = op.operands
        height, width = operand.shape[-2:]
        down, across = (self._taps(op, place, device) for place in (0, 1))
        within = ((down >= 0) & (down < height))[:, None, :, None] & ((across >= 0) & (across < width))[:, None]
        index = torch.where(within, down[:, None, :, None] * width + across[:, None], 0).flatten(0, 1).flatten(1)
        images = _places(operand, device).view(-1, height * width)[:, index]
        return torch.where(within.flatten(0, 1).flatten(1), images, -1).flatten(0, 1)

    def _taps(self, op: Operation, place: int, device: torch.device) -> Tensor:
        """Where each window (windows, kernel) looks, along one of the two dimensions."""
        kernel = _of_two(op.argument(1, "kernel_size"), place)
        stride = _of_two(op.argument(2, "stride") or kernel, place)
        padding, dilation = (
            _of_two(op.argument(*argument), place) for argument in ((3, "padding", 0), (4, "dilation", 1))
        )
        starts = torch.arange(op.shape[-2 + place], device=device) * stride - padding
        return starts[:, None] + dilation * torch.arange(kernel, device=device)


class Reduced(Extreme):
    """The extreme over dimensions, or over everything."""

    def candidates(self, op: Operation, device: torch.device) -> Tensor:
        """All along the dimensions."""
        (operand,) = op.operands
        rank, given = len(operand.shape), op.argument(1, "dim", ())
        named = (given,) if isinstance(given, int) else given or range(rank)
        dims = {dim % rank for dim in named}
        order = [dim for dim in range(rank) if dim not in dims] + sorted(dims)
        return _places(operand, device).permute(order).reshape(-1, math.prod(operand.shape[dim] for dim in dims))


class OfTwo(Extreme):
    """The greater or the lesser of two operands, value by value."""

    def candidates(self, op: Operation, device: torch.device) -> Tensor:
        """The values of both that stand at one place."""
        starts, start = {}, 0
        for operand in op.operands:
            starts[operand] = start
            start += math.prod(operand.shape)
        both = [(_places(operand, device) + starts[operand]).expand(op.shape) for operand in op.args[:2]]
        return torch.stack([each.flatten() for each in both], 1)


def _chord(low: Tensor, high: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset (n, values) of the lines above in chosen candidates, from ends (n, values, candidates)."""
    others = high.scatter(2, above, -torch.inf).amax(2)
    low, high = low.gather(2, above)[..., 0], high.gather(2, above)[..., 0]
    start, width = torch.maximum(low, others), high - low
    wide = (width > 0) & width.isfinite()
    slope = torch.where(wide, (high - start) / torch.where(wide, width, 1.0), (low >= others).to(low))
    offset = torch.maximum(start - slope * low, high - slope * high)
    return slope, torch.where(slope == 0, torch.maximum(start, high), offset)


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """The values (n, values, candidates) at places; minus infinity where there is none."""
    return torch.where(places < 0, -torch.inf, values[:, places])


def _places(operand: Operation, device: torch.device) -> Tensor:
    return torch.arange(math.prod(operand.shape), device=device).view(operand.shape)


def _of_two(given: int | Sequence[int], place: int) -> int:
    return given if isinstance(given, int) else given[place % len(given)]


RULES: dict[str, Rule] = {
    "max_pool2d": Windows(1), "amax": Reduced(1), "amin": Reduced(-1), "max": Reduced(1), "min": Reduced(-1),
}  # fmt: skip
"""`max` and `min` over everything; over a dimension they have two values, of which nothing is known."""
OF_TWO: dict[str, Rule] = {"maximum": OfTwo(1), "minimum": OfTwo(-1)}
"""For two operands that depend on the pixels."""
