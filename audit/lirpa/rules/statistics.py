"""How far values may lie from their mean, and statistics by themselves.

Of x between lo and hi in a group of N values, let d and r be centre less its mean, and radius. What deviates from the
mean is u = d + h, where h is the change of x less its own mean. Then |h|^2 <= |r|^2, and |h_i| <= R_i, the radius of
x_i less the mean: (1 - 2/N) r_i + mean(r). The variance |u|^2 / N lies between

    least = max_y (y.d - |y|.r)+^2 / (|y|^2 N)    and    most = (|d|^2 + 2 |d|.r + |r|^2) / N

for any y of sum 0, as y.u = y.d + y.(change of x) is at most |y| |u|. The best y is u where the variance is least: each
value of x as near as it can be to some place, less the mean of these. Tried are d, and that for two places: the mean of
the centres, and one step of Newton's method from there towards the best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.rule import Pulled, Rule, Standing, product


@dataclass(frozen=True, slots=True, eq=False)
class Deviations:
    """What values deviate from their mean, in an interval: all (n, *shape), or 1 along the dimensions of the mean.

    Attributes:
        size: how many values have a mean in common.
        centre, radius: d and R.
        raw, common: r, which covers the rounding of sums, and its mean.
        square, reach: |r|^2 / N and |d|.r / N.
        middle, least, most: the variance at the centre, and its bounds.
    """

    size: int
    centre: Tensor
    radius: Tensor
    raw: Tensor
    common: Tensor
    square: Tensor
    reach: Tensor
    middle: Tensor
    least: Tensor
    most: Tensor

    @staticmethod
    def of(x: Interval, dims: tuple[int, ...]) -> Deviations:
        """From the mean over dimensions."""

        def mean(values: Tensor) -> Tensor:
            return values.mean(dims, keepdim=True)

        size, d = math.prod(x.lo.shape[dim] for dim in dims), x.centre - mean(x.centre)
        raw = x.reach(size + 2)
        near = _drawn(d, raw)
        far = (near != 0).to(d)
        nearer = _drawn(d - mean(near) / mean(far).clamp(min=1 / size), raw)
        least = torch.zeros_like(mean(d))
        for y in (d, near - mean(near), nearer - mean(nearer)):
            square, reached = mean(y**2), mean(y * d - y.abs() * raw).clamp(min=0)
            least = torch.maximum(
                least, torch.where(square > 0, reached**2 / torch.where(square > 0, square, 1.0), 0.0)
            )
        common, middle, reach, square = mean(raw), mean(d**2), mean(d.abs() * raw), mean(raw**2)
        radius, most = raw * (1 - 2 / size) + common, middle + 2 * reach + square
        return Deviations(size, d, radius, raw, common, square, reach, middle, least, most)


def _drawn(values: Tensor, by: Tensor) -> Tensor:
    """Values moved towards 0, at most onto it."""
    return values.sign() * (values.abs() - by).clamp(min=0)


class Variance(Rule):
    """The variance: convex, so that its tangent lies below; as |u|^2 = |d|^2 + 2 d.h + |h|^2, it lies |r|^2 above."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """Its bounds at the head of the file."""
        found, factor = self._deviations(op, *operands)
        return Interval(*((end * factor).reshape(-1, *op.shape) for end in (found.least, found.most)))

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """By the tangent at the centre."""
        x = at.intervals[op.operands[0]]
        found, factor = at.known.once(op, lambda: self._deviations(op, x))
        rows = rows.reshape(-1, *found.middle.shape[1:]) * factor
        pulled = rows * at.pick(found.centre * 2 / found.size)
        rest = product(rows, at.pick(found.middle)) + product(rows.clamp(max=0), at.pick(found.square))
        return Pulled((pulled,), rest - product(pulled, at.pick(x.centre)))

    def _deviations(self, op: Operation, x: Interval) -> tuple[Deviations, float]:
        """With what the mean square is multiplied by."""
        rank, given = len(op.operands[0].shape), op.argument(1, "dim")
        named = (given,) if isinstance(given, int) else given or range(rank)
        found = Deviations.of(x, tuple(dim % rank - rank for dim in named))
        correction = op.kwargs.get("correction")
        free = found.size - (1 if correction is None else correction)
        return found, found.size / free if free > 0 else math.nan


class Norm(Rule):
    """A norm over dimensions: an interval alone."""

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """It rises with every absolute value."""
        (x,) = operands
        least = torch.maximum(x.lo, -x.hi).clamp(min=0)
        return Interval(op.each(least), op.each(torch.maximum(-x.lo, x.hi)))


RULES: dict[str, Rule] = {"var": Variance(), "linalg_vector_norm": Norm()}
