"""Products of two values that both depend on the pixels, value by value or as matrices.

Write a = ca + s ra and b = cb + t rb, with centres c, radii r, and s, t between -1 and 1. Both (1 + s)(1 + t) and
(1 - s)(1 - t) are at least 0, so any mixture of the two is, and for every number g between -1 and 1

    a b  >=  ca cb + cb (a - ca) + ca (b - cb) - ra rb + g (rb (a - ca) + ra (b - cb)).

These are McCormick's lower planes; g = -1 touches at the lower ends, g = 1 at the upper ones, g = 0 is the expansion
around the centres. All leave the same mean gap ra rb. Over the box, the least value of the plane is that of the product
itself where g lies between -ca / ra and -cb / rb, cut to [-1, 1]. Let p = ca / ra and q = cb / rb, cut alike: the
middle g = -(p + q) / 2 always does, and is a sum of one number of a and one of b, so that it passes out of products of
matrices. With -a in place of a, upper planes have (p - q) / 2. Of a coefficient A of either sign

    A a b  >=  A ca cb - |A| ra rb + (A (cb - q rb / 2) - |A| p rb / 2) (a - ca)
                                   + (A (ca - p ra / 2) - |A| q ra / 2) (b - cb).

Source: McCormick 1976; Shi et al. 2020 (products in attention), arXiv 2002.06622.
Differs from source: g, which is -1 there.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from audit.lirpa.bounds import Interval
from audit.lirpa.graph import Operation
from audit.lirpa.rules.rule import Pulled, Rule, Standing, product, sides, summed_to
from audit.lirpa.rules.smooth import Power


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """An operand, aligned with the other one: all (n, *shape).

    Attributes:
        centre, radius: of its interval.
        position: the centre as seen from 0, in radii, cut to [-1, 1]; 0 where there is no radius.
        leaning: centre - position radius / 2.
    """

    centre: Tensor
    radius: Tensor
    position: Tensor
    leaning: Tensor

    @staticmethod
    def of(x: Interval) -> Side:
        """From its interval."""
        centre, radius = x.centre, x.radius.clamp(min=0)
        wide = radius > 0
        position = torch.where(wide, (centre / torch.where(wide, radius, 1.0)).clamp(-1, 1), 0.0)
        return Side(centre, radius, position, centre - position * radius / 2)


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Both operands, the product of their centres, and of their radii."""

    first: Side
    second: Side
    middle: Tensor
    spread: Tensor


class Bilinear(Rule):
    """A product that is linear in each of two operands, which may be the same one."""

    @abstractmethod
    def times(self, first: Tensor, second: Tensor) -> Tensor:
        """The product, sample by sample."""

    @abstractmethod
    def to_first(self, rows: Tensor, second: Tensor) -> Tensor:
        """Coefficients of the first operand where the second is given, from those of the product."""

    @abstractmethod
    def to_second(self, rows: Tensor, first: Tensor) -> Tensor:
        """Coefficients of the second operand where the first is given."""

    @abstractmethod
    def aligned(self, op: Operation, first: Interval, second: Interval) -> tuple[Interval, Interval]:
        """Both intervals in shapes of one rank, which broadcast sample by sample."""

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """The planes at the head of the file."""
        one, other = op.args[:2]
        found = at.known.once(op, lambda: self.planes(op, at.intervals[one], at.intervals[other]))
        first, second, rest = self.pulled(rows, found, at)
        if at.window is None:
            first, second = first.reshape(-1, *one.shape), second.reshape(-1, *other.shape)
        pulled = {one: first + second} if one is other else {one: first, other: second}
        return Pulled(tuple(pulled[operand] for operand in op.operands), rest, at.window)

    def planes(self, op: Operation, first: Interval, second: Interval) -> Planes:
        """What they are made of."""
        a, b = (Side.of(x) for x in self.aligned(op, first, second))
        return Planes(a, b, self.times(a.centre, b.centre), self.times(a.radius, b.radius))

    def pulled(self, rows: Tensor, found: Planes, at: Standing) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of both operands, in their aligned shapes, and the constants (r,)."""
        pick, a, b = at.pick, found.first, found.second
        rows = rows if at.window is not None else rows.reshape(-1, *found.middle.shape[1:])
        size = rows.abs()
        first = self.to_first(rows, pick(b.leaning)) - pick(a.position) / 2 * self.to_first(size, pick(b.radius))
        second = self.to_second(rows, pick(a.leaning)) - pick(b.position) / 2 * self.to_second(size, pick(a.radius))
        rest = product(rows, pick(found.middle)) - product(size, pick(found.spread))
        rest = rest - product(first, pick(a.centre)) - product(second, pick(b.centre))
        if at.window is not None:
            return first, second, rest
        return summed_to(first, a.centre.shape[1:]), summed_to(second, b.centre.shape[1:]), rest


class Multiplied(Bilinear):
    """The product value by value; of an operand with itself, the square."""

    def times(self, first: Tensor, second: Tensor) -> Tensor:
        """Value by value."""
        return first * second

    def to_first(self, rows: Tensor, second: Tensor) -> Tensor:
        """Value by value."""
        return rows * second

    def to_second(self, rows: Tensor, first: Tensor) -> Tensor:
        """Value by value."""
        return rows * first

    def local(self, op: Operation) -> bool:
        """Where nothing is spread."""
        return all(operand.shape == op.shape for operand in op.operands)

    def aligned(self, op: Operation, first: Interval, second: Interval) -> tuple[Interval, Interval]:
        """With ones before what there is."""
        return _spread(first, len(op.shape)), _spread(second, len(op.shape))

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """The least and the greatest product of ends: exact."""
        if len(op.operands) == 1:
            return SQUARE.interval(op, *operands)
        return self.ends(*self.aligned(op, *sides(op, operands)))

    def ends(self, a: Interval, b: Interval) -> Interval:
        """Of aligned intervals."""
        products = [one * other for one in (a.lo, a.hi) for other in (b.lo, b.hi)]
        return Interval(reduce(torch.minimum, products), reduce(torch.maximum, products))

    def backward(self, op: Operation, rows: Tensor, at: Standing) -> Pulled:
        """Planes, or the lines of the square."""
        return SQUARE.backward(op, rows, at) if len(op.operands) == 1 else super().backward(op, rows, at)


class Matrices(Bilinear):
    """The product of matrices, vectors, or batches of matrices."""

    def times(self, first: Tensor, second: Tensor) -> Tensor:
        """As matrices."""
        return first @ second

    def to_first(self, rows: Tensor, second: Tensor) -> Tensor:
        """A b^T."""
        return rows @ second.mT

    def to_second(self, rows: Tensor, first: Tensor) -> Tensor:
        """a^T A."""
        return first.mT @ rows

    def aligned(self, op: Operation, first: Interval, second: Interval) -> tuple[Interval, Interval]:
        """A vector as a row on the left and as a column on the right, then with ones before what there is."""
        shapes = [(x.lo.shape[1:], place) for x, place in ((first, 0), (second, 1))]
        left, right = (torch.Size((*s[:place], 1, *s[place:])) if len(s) == 1 else s for s, place in shapes)
        rank = max(len(left), len(right))
        return _spread(_shaped(first, left), rank), _spread(_shaped(second, right), rank)

    def interval(self, op: Operation, *operands: Interval) -> Interval:
        """Around ca cb + ma mb with radius |ca| rb + ra |cb| + ra rb - |ma| |mb|, where ma = p ra and mb = q rb.

        That is exact of every term, but for one of its ends where both factors may be 0. The radius of b covers the
        rounding of sums.

        Source: Rump 2012, Fast interval matrix multiplication, Numerical Algorithms 61.
        """
        first, second = self.aligned(op, *sides(op, operands))
        a, b = Side.of(first), Side.of(Interval.around(second.centre, second.reach(second.lo.shape[-2] + 2)))
        near_a, near_b = a.position * a.radius, b.position * b.radius
        centre = a.centre @ b.centre + near_a @ near_b
        radius = a.centre.abs() @ b.radius + a.radius @ (b.centre.abs() + b.radius) - near_a.abs() @ near_b.abs()
        return _shaped(Interval.around(centre, radius), torch.Size(op.shape))


def _shaped(x: Interval, shape: torch.Size) -> Interval:
    return Interval(x.lo.reshape(-1, *shape), x.hi.reshape(-1, *shape))


def _spread(x: Interval, rank: int) -> Interval:
    """With ones between the samples and the operand's own dimensions, up to a rank."""
    return _shaped(x, torch.Size((*(1,) * (rank + 1 - x.lo.dim()), *x.lo.shape[1:])))


PRODUCT, SQUARE = Multiplied(), Power(2.0)
RULES: dict[str, Rule] = {
    "mul": PRODUCT, **dict.fromkeys(("matmul", "bmm", "mm", "mv", "dot"), Matrices()),
}  # fmt: skip
"""For operators of which both operands depend on the pixels."""
