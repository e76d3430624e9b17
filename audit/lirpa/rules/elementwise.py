"""Functions of one operand, value by value: each value has a line below its function and one above.

Of lines that do not cross a function on [lo, hi], the one below that leaves the least area to it is the highest at the
middle, as the area under a line is its height there times the width. So it supports the function's convex hull at
(lo + hi) / 2, and likewise the one above. Rules give these lines, where they can be found.

An infinite interval has no middle, and a function may overflow or end within a finite one. There the line is flat, at
the end of the operation's own interval, which may be infinite itself; a coefficient of 0 takes no part in that.

Source: Zhang et al. 2018, section 3.2, arXiv 1811.00866.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval, products
from audit.lirpa.graph import Operation
from audit.lirpa.rules.rule import Pulled, Rule, Standing, product, summed_to

ANYWHERE = 1.0
"""A place where every function is defined; lines are computed there in place of an interval that has none."""


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """lower_slope x + lower_offset <= f(x) <= upper_slope x + upper_offset within intervals, all (n, *shape).

    Where `free` is true, the lower line may have any slope that its rule allows, with the same offset. Where all are
    `finite`, no offset is infinite.
    """

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor
    free: Tensor | None = None
    finite: bool = False


class Elementwise(Rule):
    """A function of each value by itself; of what depends on the pixels it takes one operand."""

    @abstractmethod
    def lines(self, op: Operation, x: Interval) -> Lines:
        """The lines on finite intervals with lo <= hi within the domain; what is not finite is not used."""

    def turns(self, op: Operation) -> Sequence[float | Tensor]:
        """Where the function may rise on one side and fall on the other."""
        return ()

    def defined(self, op: Operation, x: Interval) -> Tensor:
        """Where all of an interval lies in the domain, and the function rises or falls between turns: bool."""
        return torch.ones_like(x.lo, dtype=torch.bool)

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The least and the greatest value at both ends and at what turns lie between."""
        x = _spread(op, operands[0])
        values = [op(place) for place in (x.lo, *(nearest(x, turn) for turn in self.turns(op)), x.hi)]
        defined = self.defined(op, x)
        lo = torch.where(defined, reduce(torch.minimum, values), -torch.inf)
        return Interval(lo, torch.where(defined, reduce(torch.maximum, values), torch.inf)).said()

    def relaxation(self, op: Operation, x: Interval, own: Interval) -> Lines:
        """Lines on all intervals: flat ones, at the ends of the operation's own, where `lines` gives none."""
        x = _spread(op, x)
        sane = self.defined(op, x) & x.lo.isfinite() & x.hi.isfinite()
        lo, hi = torch.minimum(x.lo, x.hi), torch.maximum(x.lo, x.hi)
        found = self.lines(op, Interval(torch.where(sane, lo, ANYWHERE), torch.where(sane, hi, ANYWHERE)))
        lower = _or_flat(sane, found.lower_slope, found.lower_offset, own.lo)
        upper = _or_flat(sane, found.upper_slope, found.upper_offset, own.hi)
        finite = bool(lower[1].isfinite().all() & upper[1].isfinite().all())
        return Lines(*lower, *upper, None if found.free is None else found.free & sane, finite)

    def local(self, op: Operation) -> bool:
        """Where nothing is spread."""
        return all(operand.shape == op.shape for operand in op.operands)

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """Where a coefficient is positive the lower line counts, else the upper one."""
        if len(op.operands) > 1:
            return super().backward(op, rows, at)
        x, own = at.intervals[op.operands[0]], at.intervals[op]
        found = at.known.once(op, lambda: self.relaxation(op, x, own))
        lower = at.pick(found.lower_slope)
        if at.slopes is not None and found.free is not None:
            lower = torch.where(at.pick(found.free), at.slopes.of(op, lower, rows), lower)
        above, below = rows.clamp(min=0), rows.clamp(max=0)
        pulled = torch.addcmul(above * lower, below, at.pick(found.upper_slope))  # one of both is 0, all slopes finite
        times = products if found.finite else product
        rest = times(below, at.pick(found.upper_offset))
        if found.free is None:  # else the offset is 0
            rest = rest + times(above, at.pick(found.lower_offset))
        if at.window is not None:
            return Pulled((pulled,), rest, at.window)
        return Pulled((summed_to(pulled, op.operands[0].shape),), rest)


def nearest(x: Interval, place: float | Tensor) -> Tensor:
    """The point of each interval nearest to a place."""
    return torch.minimum(torch.maximum(x.lo, torch.as_tensor(place, dtype=x.lo.dtype, device=x.lo.device)), x.hi)


def _spread(op: Operation, x: Interval) -> Interval:
    """An operand's interval in the shape of the value, where a constant of more values spreads it."""
    given, n = op.operands[0].shape, len(x.lo)
    if given == op.shape or x.lo.shape[1:] == op.shape:
        return x
    apart = (n, *(1,) * (len(op.shape) - len(given)), *given)
    return Interval(x.lo.reshape(apart).expand(n, *op.shape), x.hi.reshape(apart).expand(n, *op.shape))


def _or_flat(sane: Tensor, slope: Tensor, offset: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    usable = sane & slope.isfinite() & offset.isfinite()
    return torch.where(usable, slope, 0.0), torch.where(usable, offset, end)
